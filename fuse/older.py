"""What older versions wrote, in today's form.

Until a result named its targets they were those of EK100. Until result.json had a block for who trained a run
and one for who scored it, what ran stood at its top, and `mambavl evaluate` wrote it again.
"""

from collections.abc import Mapping
from typing import Any

WHO_RAN = ("environment", "scan_backend")  # wherever the scores were computed last
HOW_TRAINED = ("train_rows", "train_seconds", "processes", "missing")


def result(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A result.json in today's form; one that has that form is given back. What ran may have trained the head
    or scored it again, nobody can say: it is taken to have scored, and who trained is not recorded.
    """
    found = {"targets": ["verb", "noun", "action"], **raw}
    if "trained" in raw or "scored" in raw:
        return found
    scored = {key: found.pop(key) for key in WHO_RAN if key in raw}
    trained = {key: found.pop(key) for key in HOW_TRAINED if key in raw}
    if "precision" in raw:
        scored["precision"] = trained["precision"] = found.pop("precision")
    return {**found, "trained": trained, "scored": scored}
