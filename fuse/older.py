"""What older versions wrote, in today's form; and where the keys of yesterday's recipes stand today.

Until [head] was a section, `head = "mlp"` named the head, and [fusion], [mlp] and [transformer] each held all
settings of theirs, those that heads have in common too. Until a result named its targets they were those of
EK100, and until it named a protocol of history it had none. Until result.json had a block for who trained a
run and one for who scored it, what ran stood at its top, and `mambavl evaluate` wrote it again.
"""

from collections.abc import Mapping
from typing import Any

WHO_RAN = ("environment", "scan_backend")  # wherever the scores were computed last
HOW_TRAINED = ("train_rows", "train_seconds", "processes", "missing")
# what stood in each head's section, and stands in [head] now
COMMON = frozenset(
    {"d_model", "video_mlp_layers", "text_mlp_layers", "input_norm", "question_routing", "dropout"}
)
SECTIONS = {"mambavl": "fusion", "mlp": "mlp", "transformer": "transformer"}  # head -> its section then


def recipe(raw: dict[str, Any]) -> dict[str, Any]:
    """A recorded recipe in today's form, with today's keys alone; one that has that form is given back."""
    name = raw.get("head", "mambavl")
    settings = raw.get(SECTIONS.get(name, ""), {}) if isinstance(name, str) else None
    if not moved(raw) or not isinstance(settings, dict):
        return raw  # today's, or damaged
    found = {key: value for key, value in raw.items() if key not in SECTIONS.values()}
    found["head"] = {"name": name, **{key: value for key, value in settings.items() if key in COMMON}}
    own = {key: value for key, value in settings.items() if key not in COMMON}
    return {**found, SECTIONS[name]: own} if own else found


def moved(raw: dict[str, Any]) -> dict[str, str]:
    """Key of a recipe -> where it stands today, for each that stands elsewhere."""
    found = {}
    head = raw.get("head")
    if isinstance(head, str):
        found["head"] = f'[head] is a section now; write `[head]` and in it `name = "{head}"` (head.name)'
    for section in SECTIONS.values():
        settings = raw.get(section)
        for key in settings if isinstance(settings, dict) else ():
            if key in COMMON:
                found[f"{section}.{key}"] = f"stands in [head] now, once for all heads; set head.{key}"
    if "mlp" in raw and not any(key.startswith("mlp.") for key in found):
        found["mlp"] = "the MLP has no keys of its own; leave the section out"
    return found


def result(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A result.json in today's form; one that has that form is given back. What ran may have trained the head
    or scored it again, nobody can say: it is taken to have scored, and who trained is not recorded.
    """
    found = {"targets": ["verb", "noun", "action"], "history_protocol": "absent", **raw}
    if isinstance(raw.get("recipe"), dict):
        found["recipe"] = recipe(raw["recipe"])
    if "trained" in raw or "scored" in raw:
        return found
    scored = {key: found.pop(key) for key in WHO_RAN if key in raw}
    trained = {key: found.pop(key) for key in HOW_TRAINED if key in raw}
    if "precision" in raw:
        scored["precision"] = trained["precision"] = found.pop("precision")
    return {**found, "trained": trained, "scored": scored}


def summary(raw: Any) -> dict[str, Any]:
    """A summary.json in today's form; until sweeps chose, it was the list of their points."""
    return {"points": raw, "chosen": [], "selection": None} if isinstance(raw, list) else raw
