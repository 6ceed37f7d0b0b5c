"""benchmarks/training.py: a small run trains the same in all ways, and its arithmetic."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from helpers.benchmarks import BENCHMARKS, load
from mambavl.fuse.ragged import equal_rows

WAYS = ("cache", "loop", "frames")


@pytest.fixture(scope="module")
def training():
    return load("training")


def test_a_small_run_trains_the_same_in_all_ways(tmp_path):
    out = tmp_path / "training.json"
    command = [sys.executable, BENCHMARKS / "training.py", "--quick", "--threads", "1", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found, last = json.loads(out.read_bytes()), json.loads(done.stdout.splitlines()[-1])
    losses = found["first_losses"]
    assert [len(losses[way]) for way in WAYS] == [3, 3, 3]  # 6 rows in batches of 2
    assert len(set(losses["cache"])) == 3
    for way in WAYS:
        assert losses[way] == pytest.approx(losses["cache"], rel=1e-3)
    ways, once = found["ways"], found["extraction"]["seconds_a_row"]
    assert once > 0
    for way, one in ways.items():
        assert one["fastest"] <= one["milliseconds"] <= one["slowest"]
        assert one["seconds_a_row"] == pytest.approx(one["milliseconds"] / 6000, abs=1e-5)
        assert sum(one["stages_a_row"].values()) <= one["seconds_a_row"] + 3e-5  # each is rounded
        assert sum(one["percent"].values()) == pytest.approx(100, abs=0.2)
        assert (one["stages_a_row"]["encoding"] > 0) is (way != "cache")
    for way in ("loop", "frames"):
        saved = ways[way]["seconds_a_row"] - ways["cache"]["seconds_a_row"]
        least = next((epochs for epochs in range(1, 10_000) if once < epochs * saved), None)
        assert last[f"epochs_until_paid_{way}"] == found["paid_after"][way] == least
        assert last[f"{way}_over_cache"] == ways[way]["over_cache"]


def test_the_arithmetic_is_that_of_a_calculation_by_hand(training):
    """Extraction takes 2 s a row. A row of an epoch: 1/8 s from the cache, 1 s more in the loop, 1/2 s more
    with frames in memory: 2 + 2/8 is not yet less than 2 x 9/8, 2 + 3/8 is less than 3 x 9/8.
    """
    stages = lambda *seconds: dict(zip(("reading", "encoding", "head"), seconds, strict=True))
    found = {
        "extraction": {"seconds_a_row": 2.0},
        "ways": {
            "cache": {"seconds_a_row": 0.125, "stages_a_row": stages(0.025, 0.0, 0.1)},
            "loop": {"seconds_a_row": 1.125, "stages_a_row": stages(0.4, 0.6, 0.125)},
            "frames": {"seconds_a_row": 0.625, "stages_a_row": stages(0.0, 0.5, 0.125)},
        },
        "large_batch": {"stages_a_row": stages(0.01, 0.0, 0.02)},
    }
    told = training.arithmetic(found)
    assert told["paid_after"] == {"loop": 3, "frames": 5}
    thirty = 30 * 67217 / 3600
    assert told["ek100_hours"] == {
        "rows": 67217,
        "epochs": 30,
        "extraction": round(67217 * 2 / 3600, 2),
        "cache": pytest.approx(thirty * 0.03, abs=0.01),
        "loop": pytest.approx(thirty * 1.02, abs=0.01),
        "frames": pytest.approx(thirty * 0.52, abs=0.01),
    }
    found["ways"]["frames"]["seconds_a_row"] = 0.125
    assert training.arithmetic(found)["paid_after"]["frames"] is None  # nothing is saved


def test_the_rows_of_the_large_step_all_differ(training):
    """Of equal ones the head computes one, and the step would be a smaller one."""
    assert equal_rows(*training.drawn_batch(training.HEAD_BATCH, 16)["video"]) is None


def test_other_losses_are_refused(training):
    losses = {}
    training.refuse_other_losses(losses, "cache", [10.0, 9.0])
    training.refuse_other_losses(losses, "loop", [10.005, 9.0])
    with pytest.raises(SystemExit, match="frames: losses"):
        training.refuse_other_losses(losses, "frames", [10.0, 9.02])
    with pytest.raises(SystemExit, match="frames: losses"):
        training.refuse_other_losses(losses, "frames", [10.0, float("nan")])
    with pytest.raises(ValueError, match="longer"):
        training.refuse_other_losses(losses, "frames", [10.0])


def test_stages_leave_the_warm_up_out(training):
    """Of each stage: what came before the first epoch, the epoch that warms up, those that count."""
    seconds = {"reading": [9.0, 9.0, 1.0, 3.0], "encoding": [0.0] * 4, "head": [9.0, 9.0, 6.0, 6.0]}
    found = training.figures(SimpleNamespace(seconds=seconds), [8.0, 9.0], 2)
    assert found["stages_a_row"] == {"reading": 1.0, "encoding": 0.0, "head": 3.0}
    assert found["percent"] == {"reading": 25.0, "encoding": 0.0, "head": 75.0}
    assert found["seconds_a_row"] == 4.25
