"""What scores say of rows, read once for the whole report."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from helpers.mixing import CLASSES, make_kitchens
from mambavl.configs.errors import DataError
from mambavl.fuse import report
from mambavl.fuse.report.measured import class_name, measure, numbered


def arrays_of(member):
    with np.load(member.scores) as arrays:
        return dict(arrays)


def test_the_first_run_says_what_it_names_and_how_sure_it_is(contest):
    """Against a loop over rows."""
    one = contest[0]
    arrays = arrays_of(one.entry.members[0])
    for name in ("verb", "action"):
        top, pairs = one.tops[name], arrays["pairs"]
        for row, logs in enumerate(arrays[name].astype(np.float64)):
            shares = np.exp(logs) / np.exp(logs).sum()
            best = int(shares.argmax())
            expected = best if name == "verb" else pairs[best][0] * 9 + pairs[best][1]
            assert top.predicted[row] == expected
            assert top.confidence[row] == pytest.approx(shares[best], rel=1e-5)
    assert one.tops["verb"].right.tolist() == (arrays["verb"].argmax(1) == arrays["verb_label"]).tolist()


def test_the_best_of_each_part_together_are_the_best_action(page):
    folder, _ = page
    [entry] = report.collect([folder / "fused0"])
    one, arrays = measure(entry), arrays_of(entry.members[0])
    assert "action" not in arrays
    verb, noun = (
        np.exp(arrays[name] - np.logaddexp.reduce(arrays[name], axis=1)[:, None]) for name in ("verb", "noun")
    )
    products = (verb[:, :, None] * noun[:, None, :]).reshape(len(verb), -1)
    np.testing.assert_array_equal(one.tops["action"].predicted, products.argmax(1))
    np.testing.assert_allclose(one.tops["action"].confidence, products.max(1), rtol=1e-5)


def test_rows_are_those_of_the_stores_in_the_order_of_the_scores(contest):
    rows = {segment.narration_id: segment for segment in make_kitchens()}
    for one in contest:
        assert [segment.narration_id for segment in one.segments] == list(one.ids)
        verbs = [rows[name].labels["verb"] for name in one.ids]
        assert one.label("verb").tolist() == verbs
        assert [segment.video_id for segment in one.segments] == [rows[name].video_id for name in one.ids]


def test_stores_that_are_gone_are_named_and_nothing_else_is_lost(contest, tmp_path):
    run = shutil.copytree(contest[0].entry.runs[0], tmp_path / "run")
    raw = json.loads((run / "result.json").read_text())
    raw["streams"]["past"]["stores"] = [str(tmp_path / "gone.zarr")]
    (run / "result.json").write_text(json.dumps(raw))
    one = measure(*report.collect([run]))
    assert one.segments is None
    assert "gone.zarr is gone" in one.why
    assert one.tops.keys() == contest[0].tops.keys()


def test_seeds_on_other_rows_are_refused(contest, tmp_path):
    runs = [shutil.copytree(run, tmp_path / Path(run).name) for run in contest[0].entry.runs]
    file = runs[1] / "scores" / "validation.npz"
    with np.load(file) as arrays:
        kept = {name: array if name == "pairs" else array[1:] for name, array in arrays.items()}
    np.savez(file, **kept)
    [entry] = report.collect(runs)
    with pytest.raises(DataError, match="seeds of one recipe that are scored on other rows"):
        measure(entry)


def test_a_combination_is_told_by_the_names_of_its_parts():
    [number] = numbered(CLASSES, "action", np.array([[3, 7]])).tolist()
    assert number == 3 * 9 + 7
    assert class_name(CLASSES, "action", number) == "v3 n7"
    assert class_name(CLASSES, "verb", 77) == "verb 77"
