"""The report: self-contained, escaped, honest about text."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.holed import holed_recipe, make_holed_stores
from helpers.tiny import ROWS, make_text_store, tiny_recipe
from mambavl.configs.errors import DataError, Interrupted, UsageError
from mambavl.fuse import report
from mambavl.fuse.train import train


@pytest.fixture(scope="module")
def page(stores, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    runs = []
    for seed in (0, 1):
        train(
            tiny_recipe(stores, seed=seed, title="<script>alert(1)</script> fused"), folder / f"fused{seed}"
        )
        runs.append(folder / f"fused{seed}")
    text_only = tiny_recipe(stores, title="text only")
    text_only = text_only.model_copy(
        update={"streams": {k: v for k, v in text_only.streams.items() if k != "video"}}
    )
    train(text_only, folder / "text")
    report.write_report([*runs, folder / "text"], folder / "report.html")
    return folder, (folder / "report.html").read_text()


def test_the_report_escapes_what_it_is_given_and_needs_nothing_from_outside(page):
    _, text = page
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert not re.search(r'(src|href)="https?://', text)


def test_the_report_joins_seeds_names_protocols_and_says_what_the_text_leaks(page):
    folder, text = page
    entries = report.collect([folder / "fused0", folder / "fused1", folder / "text"])
    assert [entry.seeds for entry in entries] == [[0, 1], [0]]
    assert re.fullmatch(r"[\d.]+ ± [\d.]+", entries[0].cell("all_verb_top1"))
    said = report.leak_sentences(entries)
    assert "never sees a frame" in said[0]
    assert f"{entries[1].first.metrics['all_verb_top1']:.1f} %" in said[0]
    assert "“text only” never sees a frame" in text
    assert text.count("<svg") == 1 + 2
    assert ">oracle</span>" in text
    assert "random weights" in text


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


def test_a_leak_is_what_text_gives_beside_what_the_most_frequent_class_gives(page):
    folder, _ = page
    [entry] = report.collect([folder / "text"])
    measured = {"all_verb_top1": 61.5, "all_noun_top1": 40.2}
    prior = {"all_verb_top1": 20.0, "all_noun_top1": 4.0}
    entry.results = [replace(entry.first, metrics=measured, prior_metrics=prior)]
    [said, _] = report.leak_sentences([entry])
    assert "still names 61.5 % of the verbs and 40.2 % of the nouns; the most frequent class alone" in said
    assert "gives 20.0 % and 4.0 %." in said


def test_a_cell_has_the_mean_and_the_deviation_of_a_sample(page):
    """Of 1 and 4 the deviation is 3 / sqrt(2); one value has none."""
    folder, _ = page
    [entry] = report.collect([folder / "fused0", folder / "fused1"])
    entry.results = [
        replace(result, metrics={"both": value, "one": None if value > 1 else value})
        for result, value in zip(entry.results, (1.0, 4.0), strict=True)
    ]
    assert [entry.cell(key) for key in ("both", "one", "none")] == ["2.5 ± 2.1", "1.0", "–"]


def test_runs_fed_from_other_stores_are_never_averaged_and_none_counts_twice(stores, tmp_path):
    for protocol, seed in (("oracle", 0), ("generic", 1)):
        shutil.rmtree(tmp_path / "text.zarr", ignore_errors=True)
        make_text_store(tmp_path / "text.zarr", ROWS, protocol=protocol)
        recipe = tiny_recipe(stores, seed=seed)
        moved = {
            n: s if n == "video" else s.model_copy(update={"store": tmp_path / "text.zarr"})
            for n, s in recipe.streams.items()
        }
        train(recipe.model_copy(update={"streams": moved}), tmp_path / protocol)
    entries = report.collect([tmp_path / "oracle", tmp_path / "generic"])
    assert [(entry.seeds, entry.first.text_protocol) for entry in entries] == [
        ([0], "oracle"),
        ([1], "generic"),
    ]
    (tmp_path / "link").symlink_to(tmp_path / "oracle")
    for twice in ("oracle", "link"):
        with pytest.raises(UsageError, match="are the same run; name it once"):
            report.collect([tmp_path / "oracle", tmp_path / twice])


def test_a_run_made_again_stands_beside_the_first(stores, tmp_path):
    for name, seed in (("one", 0), ("again", 0), ("seed1", 1), ("again1", 1), ("third", 0)):
        train(tiny_recipe(stores, title="small", seed=seed), tmp_path / name)
    runs = [tmp_path / name for name in ("one", "again", "seed1", "again1", "third")]
    entries = report.collect(runs)
    assert [entry.title for entry in entries] == [
        "small",
        "small, repeat 1 (again)",
        "small, repeat 2 (third)",
    ]
    assert [entry.runs for entry in entries] == [runs[:1] + runs[2:3], runs[1:2] + runs[3:4], runs[4:]]
    report.write_report(runs, tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert "small, repeat 1 (again)" in text


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


def test_rows_without_a_stream_are_counted_on_the_page(tmp_path):
    train(holed_recipe(make_holed_stores(tmp_path), epochs=1, title="holed"), tmp_path / "run")
    report.write_report([tmp_path / "run"], tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert "“holed”: rows without a stream, of 24: audio 2, video 1." in text
    assert "“holed”: 1 of 24 rows lack a stream that they need and got the training prior." in text
