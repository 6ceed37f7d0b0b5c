"""The benchmark of the report runs, and measures a page that is whole."""

import json
import subprocess
import sys

import pytest

from helpers.paths import ROOT

REPORT = ROOT / "benchmarks" / "report.py"


@pytest.mark.browser
def test_a_small_page_is_written_opened_and_measured(tmp_path):
    out, page = tmp_path / "figures.json", tmp_path / "report.html"
    sizes = ("--rows", "120", "--runs", "2", "--clips", "6", "--repeats", "2")
    done = subprocess.run(
        [sys.executable, REPORT, *sizes, "--page", page, "--out", out],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    last, figures = json.loads(done.stdout.splitlines()[-1]), json.loads(out.read_text())
    assert "6 of 120 rows have pictures" in page.read_text()
    assert figures["conditions"]["runs"] == 2
    assert last["megabytes"] == figures["megabytes"] == round(page.stat().st_size / 1e6, 2)
    assert (last["requests"], last["errors"]) == (0, 0)
    assert len(figures["ready_ms"]) == len(figures["usable_ms"]) == 2
    assert all(
        0 < ready < usable for ready, usable in zip(figures["ready_ms"], figures["usable_ms"], strict=True)
    )
