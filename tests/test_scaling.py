"""benchmarks/scaling.py: where lines cross, and that a small run gives figures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.benchmarks import BENCHMARKS, load


@pytest.fixture(scope="module")
def scaling():
    return load("scaling")


def test_lines_cross_where_they_do_on_scales_of_doubling(scaling):
    """One grows as x, the other as x squared / 100: they cut each other at 100."""
    xs = [16, 64, 256, 1024]
    ours, theirs = [(x, x) for x in xs], [(x, x * x / 100) for x in xs]
    assert scaling.crossing(ours, theirs) == pytest.approx(100, abs=0.1)
    assert scaling.crossing(theirs, ours) is None
    assert scaling.crossing(ours, [(x, 2 * x) for x in xs]) == 16
    wavy = [(16, 32), (64, 32), (256, 512), (1024, 512)]  # below, above, below again: the last counts
    assert scaling.crossing(wavy, [(x, 256) for x in xs]) is None
    assert scaling.crossing([(16, 2), (64, 1), (256, 4)], [(16, 1), (64, 2), (256, 8)]) == pytest.approx(32)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads memory as Linux keeps it")
def test_a_small_run_has_every_point(scaling, tmp_path):
    """As a program: its points are forks, which only a process without threads at work survives."""
    words = ["--quick", "--lengths", "4", "8", "--rows", "1", "--heads", "2", "--threads", "1"]
    out = tmp_path / "scaling.json"
    command = [sys.executable, BENCHMARKS / "scaling.py", *words, "--out", out]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, capture_output=True, text=True
    )
    found = json.loads(out.read_bytes())
    assert [(one["x"], one["kind"]) for one in found["length"]] == [
        (length, kind) for length in (4, 8) for kind in scaling.KINDS
    ]
    assert {one["kind"] for one in found["heads"]} == {"one pass", "one by one"}
    for axis in ("length", "rows", "heads"):
        for one in found[axis]:
            assert one["fastest"] <= one["milliseconds"] <= one["slowest"]
            assert one["megabytes"] >= 0
    assert found["conditions"]["quick"] is True
    assert found["conditions"]["threads"] == 1  # those of the points, whatever torch has in this process
    assert json.loads(done.stdout.splitlines()[-1]) == found["crossing"]
