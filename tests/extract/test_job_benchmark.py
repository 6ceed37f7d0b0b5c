"""The benchmark of the job runs: it puts stages of its own in place of ours, and a part that it no longer
finds would measure nothing.
"""

import json
import subprocess
import sys

from helpers.paths import ROOT

JOB = ROOT / "benchmarks" / "job.py"


def test_every_part_runs(tmp_path):
    out = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, JOB, "--quick", "--out", out], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    last, figures = json.loads(done.stdout.splitlines()[-1]), json.loads(out.read_text())
    assert last == {
        "overhead_over_slowest_stage": max(case["overhead"] for case in figures["overlap"].values()),
        "rate_vs_before": None,  # there is no other checkout
        "one_decode_vs_three": figures["encoders"]["saved"],
        "peak_long_vs_short": figures["memory"]["long_vs_short"],
    }
    assert figures["conditions"]["against"] is None
    for size in figures["rate"].values():
        assert size["here_slowest"] <= size["here_rows_per_s"] <= size["here_fastest"]
    for case in figures["overlap"].values():
        assert case["wall"] > case["slowest"] >= 0.002 * 17  # seconds that are slept, and no job is shorter
    assert all(figures["encoders"].values())
    for reader in figures["frames"].values():
        assert reader is None or all(size["frames"] and not size["wrong"] for size in reader.values())
