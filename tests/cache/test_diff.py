"""What diff says of two stores: fields, rows, statuses and values, and nothing where they are the same."""

import torch

from helpers.tiny import make_dense_store, make_text_store
from mambavl.cache import open_store
from mambavl.cache.diff import diff


def test_stores_that_say_the_same_do_not_differ(tmp_path):
    make_dense_store(tmp_path / "a.zarr", failed={3: 3})
    make_dense_store(tmp_path / "b.zarr", failed={3: 3})
    assert list(diff(open_store(tmp_path / "a.zarr"), open_store(tmp_path / "b.zarr"))) == []
    make_text_store(tmp_path / "t.zarr")
    assert list(diff(open_store(tmp_path / "t.zarr"), open_store(tmp_path / "t.zarr"))) == []


def test_diff_names_fields_rows_and_values(tmp_path):
    make_dense_store(tmp_path / "a.zarr")
    make_dense_store(tmp_path / "b.zarr", 24, group_rows=4, failed={2: 3}, short={5: 2})
    ours, theirs = open_store(tmp_path / "a.zarr"), open_store(tmp_path / "b.zarr")
    lines = list(diff(ours, theirs))
    ids = [segment.narration_id for segment in theirs.segments]
    assert "spec rows: 20 -> 24" in lines
    assert "spec rows_per_group: 8 -> 4" in lines
    assert f"rows only in {theirs.path}: 4 rows ({', '.join(ids[20:])})" in lines
    assert f"status: 1 row ({ids[2]}) (first: ok -> missing_video)" in lines
    assert f"level frame: other lengths in 1 row ({ids[5]})" in lines
    assert not any("other values" in line for line in lines)


def test_diff_measures_the_largest_difference(tmp_path, monkeypatch):
    make_dense_store(tmp_path / "a.zarr")
    ours, theirs = open_store(tmp_path / "a.zarr"), open_store(tmp_path / "a.zarr")
    batch = theirs.batch
    monkeypatch.setattr(
        theirs,
        "batch",
        lambda rows, level, view=0: (batch(rows, level, view=view)[0] + torch.tensor(0.5), None),
    )
    (line,) = diff(ours, theirs)
    assert line.startswith("level frame: other values in 20 rows (P01_101_0, ")
    assert line.endswith("the largest difference is 0.5")


def test_diff_sees_differences_beside_and_beneath_nan(tmp_path, monkeypatch):
    make_dense_store(tmp_path / "a.zarr")
    ours, theirs = open_store(tmp_path / "a.zarr"), open_store(tmp_path / "a.zarr")
    batch, arrays = theirs.batch, theirs.row_array

    def spoilt(rows, level, view=0):
        tokens, lengths = batch(rows, level, view=view)
        tokens[0, 0, 0], tokens[0, 1, 1] = torch.nan, tokens[0, 1, 1] + 1
        return tokens, lengths

    monkeypatch.setattr(theirs, "batch", spoilt)
    monkeypatch.setattr(theirs, "row_array", lambda name: arrays(name) + (name == "flags"))
    lines = list(diff(ours, theirs))
    assert lines[0].startswith("flags: 20 rows")
    assert lines[1].startswith("level frame: other values in 1 row (P01_101_0)")
    assert len(lines) == 2
