"""What older versions wrote, read in today's form: the golden runs of before."""

import json

import pytest

from helpers.paths import DATA
from mambavl.fuse import older, report
from mambavl.fuse.result import Result, Trained
from mambavl.fuse.run import read_result

RUNS = DATA / "before-targets" / "runs"
FINISHED = ["mambavl", "mlp", "paper", "transformer"]


@pytest.mark.parametrize("name", FINISHED)
def test_who_ran_is_taken_to_have_scored_and_who_trained_is_not_recorded(name):
    raw = json.loads((RUNS / name / "result.json").read_bytes())
    result = read_result(RUNS / name)
    assert result.scored.environment.commit == raw["environment"]["commit"]
    assert result.scored.scan_backend == raw["scan_backend"]
    assert result.scored.precision == "fp32"
    assert result.trained == Trained(
        environment=None,
        scan_backend=None,
        precision=raw["precision"],
        train_rows=raw["train_rows"],
        train_seconds=raw["train_seconds"],
        processes=raw["processes"],
    )
    assert result.metrics == raw["metrics"]
    assert result.targets == ("verb", "noun", "action")
    assert report.what_ran(result)[0] == "what trained it: not recorded"


def test_a_result_of_today_is_left_as_it_is():
    raw = {
        "targets": ["verb"],
        "trained": {"precision": "fp32"},
        "scored": {},
        "precision": "of something else",
    }
    assert older.result(raw) == raw


@pytest.mark.parametrize("key", ["precision", "environment"])
def test_a_damaged_result_of_before_is_refused_by_the_key_that_it_lacks(key):
    raw = json.loads((RUNS / "mlp" / "result.json").read_bytes())
    del raw[key]
    with pytest.raises(ValueError, match=f"it has no {key}"):
        Result.from_dict(older.result(raw))
