"""The page: self-contained, escaped, whole."""

import json
import re
import shutil
from pathlib import Path

import pytest

from helpers.tiny import tiny_recipe
from mambavl.configs.errors import DataError, Interrupted
from mambavl.fuse import report
from mambavl.fuse.train import train


def test_the_report_escapes_what_it_is_given_and_needs_nothing_from_outside(page):
    _, text = page
    scripts = re.findall(r"<script( [^>]*)?>", text)
    assert len(scripts) == text.count("<script") == text.count("</script>")
    packed = r' type="application/octet-stream" id="rows-[-a-z0-9]+"'
    assert all(one == "" or re.fullmatch(packed, one) for one in scripts)
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert not re.search(r'(src|href)="https?://', text)


def test_published_figures_stand_beside_what_was_measured_with_their_source(page, tmp_path):
    """Of a run that an older version made, too: its recipe holds the figures and no name."""
    folder, text = page
    assert "published verb" not in text
    runs = []
    for name, figures in (("listed", {"verb": 70.9, "noun": 61.1, "action": 49.1}), ("own", {"noun": 12.5})):
        run = shutil.copytree(folder / "text", tmp_path / name)
        result = json.loads((run / "result.json").read_text())
        result["recipe"]["published"] = figures
        (run / "result.json").write_text(json.dumps(result))
        runs.append(run)
    report.write_report(runs, tmp_path / "report.html")
    shown = (tmp_path / "report.html").read_text()
    assert "<th>published verb</th><th>published noun</th>" in shown
    assert "<td>70.9</td><td>61.1</td><td>49.1</td>" in shown
    assert "<td>–</td><td>12.5</td><td>–</td>" in shown
    assert (
        "<li>70.9 / 61.1 / 49.1: MambaVL (ViT-B), video and oracle text; MambaVL, arXiv 2409.11513v1" in shown
    )
    assert "<li>noun 12.5: the recipe&#39;s own figures, of no source that is listed</li>" in shown


def test_a_title_may_hold_anything_and_stores_may_be_gone(stores, tmp_path):
    shutil.copytree(stores, tmp_path / "stores")
    train(tiny_recipe(tmp_path / "stores", title=r"_$\frac$ & co"), tmp_path / "run")
    shutil.rmtree(tmp_path / "stores")
    report.write_report([tmp_path / "run"], tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert r"_$\frac$ &amp; co" in text


def test_runs_that_failed_or_wait_are_listed_and_the_others_shown(stores, tmp_path):
    train(tiny_recipe(stores, title="whole"), tmp_path / "whole")
    calls = iter(range(1000))
    with pytest.raises(Interrupted):
        train(tiny_recipe(stores), tmp_path / "half", should_stop=lambda: next(calls) >= 4)
    with pytest.raises(DataError, match="diverged"):
        train(tiny_recipe(stores, lr=1e30, clip_norm=0, warmup_epochs=0), tmp_path / "failed")
    lines = [{"run": run, "values": {}, "error": ""} for run in ("<b>waiting</b>", "whole")]
    (tmp_path / "summary.json").write_text(json.dumps(lines))
    runs = [tmp_path / name for name in ("whole", "half", "failed", "summary.json")]
    missing = report.write_report(runs, tmp_path / "r.html")
    assert [Path(name).name for name in missing] == ["half", "failed", "b>"]
    half, failed, new = missing.values()
    assert half == "has not finished: 1 of 4 epochs; the command that began it resumes"
    assert failed.startswith("failed: ")
    assert "diverged" in failed
    assert new == "has not begun"
    text = (tmp_path / "r.html").read_text()
    assert "Not on this page" in text
    assert "1 of 4 epochs" in text
    assert "&lt;b&gt;waiting" in text
    assert "“whole”" in text or ">whole<" in text
    with pytest.raises(DataError, match=r"no run has finished and been measured.*\n.*half: has not finished"):
        report.write_report([tmp_path / "half"], tmp_path / "r.html")
    with pytest.raises(DataError, match="is not a run"):
        report.write_report([tmp_path / "whole", stores], tmp_path / "r.html")
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(DataError, match=r"summary\.json: is damaged"):
        report.write_report(runs, tmp_path / "r.html")


def test_a_page_of_finished_runs_has_no_list_of_others(page):
    _, text = page
    assert "Not on this page" not in text
