"""What a report is of: runs that differ in their seed alone share an entry."""

import json
import re
import shutil
from dataclasses import replace

import pytest

from helpers.tiny import ROWS, make_text_store, tiny_recipe
from mambavl.configs.errors import UsageError
from mambavl.fuse import report
from mambavl.fuse.train import train


def test_points_of_a_sweep_are_told_by_the_settings_in_which_they_differ(contest):
    assert [one.entry.title for one in contest] == ["mlp (train.lr 0.01)", "mlp (train.lr 0.001)"]


def test_where_many_settings_differ_the_folder_tells_them_apart(swept, tmp_path):
    runs = [shutil.copytree(swept / f"lr={lr},seed=0", tmp_path / f"at {lr}") for lr in (0.01, 0.001)]
    result = json.loads((runs[1] / "result.json").read_text())
    result["recipe"]["train"] |= {"batch_size": 3, "weight_decay": 0.5}
    (runs[1] / "result.json").write_text(json.dumps(result))
    told = report.collect(runs)[1].title.removeprefix("mlp (").removesuffix(")").split(", ")
    assert set(told) == {"train.batch_size 3", "train.lr 0.001", "train.weight_decay 0.5"}
    result["recipe"]["head"]["d_model"] = 9
    (runs[1] / "result.json").write_text(json.dumps(result))
    assert [entry.title for entry in report.collect(runs)] == ["mlp (at 0.01)", "mlp (at 0.001)"]


def test_a_long_title_is_cut_where_there_is_little_room(contest):
    entry = replace(contest[0].entry, title="t" * 300)
    assert entry.short == "t" * 47 + "…"
    assert contest[0].entry.short == contest[0].entry.title


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


def test_the_report_joins_seeds_names_protocols_and_says_what_the_text_leaks(page):
    folder, text = page
    entries = report.collect([folder / "fused0", folder / "fused1", folder / "text"])
    assert [entry.seeds for entry in entries] == [[0, 1], [0]]
    assert re.fullmatch(r"[\d.]+ ± [\d.]+", entries[0].cell("all_verb_top1"))
    said = report.leak_sentences(entries)
    assert "never sees a frame" in said[0]
    assert f"{entries[1].first.metrics['all_verb_top1']:.1f} %" in said[0]
    assert "“text only” never sees a frame" in text
    assert '<td class="text oracle">oracle</td>' in text
    assert "random weights" in text
