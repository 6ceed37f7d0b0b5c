"""Our exports, back into a store: the same rows and values, or a refusal that says why."""

import json
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch

from helpers.exports import FAILED, assert_same, make_levels_store, round_trip
from helpers.tiny import make_dense_store, make_text_store
from mambavl.cache import open_store
from mambavl.cache.interchange.export import export_store
from mambavl.cache.interchange.exported import import_export
from mambavl.cache.rows import OK
from mambavl.cache.spec import ParentStore
from mambavl.configs.errors import DataError, Interrupted


def test_every_level_view_time_and_failure_comes_back_from_hdf5(tmp_path, monkeypatch):
    monkeypatch.setenv("MAMBAVL_SCRATCH", str(tmp_path / "scratch"))
    make_levels_store(tmp_path / "s.zarr")
    assert_same(*round_trip(tmp_path, "hdf5"))


def test_a_store_that_went_through_hdf5_has_the_same_shard_bytes(tmp_path):
    make_dense_store(tmp_path / "s.zarr", views=2, short={3: 1, 9: 2})
    round_trip(tmp_path, "hdf5")
    shards = [path.relative_to(tmp_path / "s.zarr") for path in (tmp_path / "s.zarr").rglob("c.*")]
    assert len(shards) == 3 * 5  # frame, status, flags, length, frame_pts
    for shard in shards:
        assert (tmp_path / "back.zarr" / shard).read_bytes() == (tmp_path / "s.zarr" / shard).read_bytes()


@pytest.mark.parametrize(("compressor", "group_rows"), [("none", 8), ("none", 1), ("zstd", 8)])
def test_ragged_text_comes_back_from_hdf5(tmp_path, monkeypatch, compressor, group_rows):
    """With one row a group, some groups hold no token at all."""
    monkeypatch.setenv("MAMBAVL_SCRATCH", str(tmp_path / "scratch"))
    make_text_store(tmp_path / "s.zarr", compressor=compressor, group_rows=group_rows)
    ours, back = round_trip(tmp_path, "hdf5")
    assert_same(ours, back)
    assert back.spec.recipe.questions == ours.spec.recipe.questions


@pytest.mark.parametrize("level", ["clip", "frame", "grid"])
def test_a_level_with_its_views_times_and_failures_comes_back_from_npy(tmp_path, monkeypatch, level):
    monkeypatch.setenv("MAMBAVL_SCRATCH", str(tmp_path / "scratch"))
    make_levels_store(tmp_path / "s.zarr")
    ours, back = round_trip(tmp_path, "npy", level=level)
    assert set(back.levels) == {level}
    for name in ("status", "flags", "frame_pts", "length"):
        np.testing.assert_array_equal(back.row_array(name), ours.row_array(name))
    assert back.failures == ours.failures
    rows = np.flatnonzero(ours.status == OK)
    for view in (0, 1):
        assert torch.equal(back.batch(rows, level, view=view)[0], ours.batch(rows, level, view=view)[0])


def test_what_came_back_says_so_and_names_its_parent(tmp_path):
    make_dense_store(tmp_path / "s.zarr", failed=FAILED)
    ours, back = round_trip(tmp_path, "hdf5")
    assert back.spec.recipe == replace(ours.spec.recipe, source="import")
    assert back.spec.inputs.parent == ParentStore(store_id=ours.store_id, spec=ours.spec.to_dict())
    export_store(back, tmp_path / "again", "npy")
    import_export(tmp_path / "again", "npy", tmp_path / "again.zarr")
    assert_same(ours, open_store(tmp_path / "again.zarr"))


def test_a_restart_of_an_import_writes_what_is_missing(tmp_path):
    make_dense_store(tmp_path / "s.zarr")
    export_store(open_store(tmp_path / "s.zarr"), tmp_path / "export", "hdf5")
    calls = iter([False, True])
    with pytest.raises(Interrupted, match="after 8 rows; the same command resumes"):
        import_export(tmp_path / "export", "hdf5", tmp_path / "back.zarr", should_stop=lambda: next(calls))
    assert import_export(tmp_path / "export", "hdf5", tmp_path / "back.zarr").rows == 12
    assert_same(open_store(tmp_path / "s.zarr"), open_store(tmp_path / "back.zarr"))


def spoil_rows(file):
    file["frame"][3, 0, 1] = np.nan


def spoil_segments(file):
    text = file["segments.csv"].asstr()[()].replace("cut onion 7", "cut onion 8")
    del file["segments.csv"]
    file["segments.csv"] = text


def cut_rows(file):
    half = file["frame"][:10]
    del file["frame"]
    file["frame"] = half


def lose_statuses(file):
    del file["status"]


def link_out(file):
    del file["frame"]
    file["frame"] = h5py.ExternalLink("secret.h5", "frame")


def climb(file):
    spec = json.loads(file["spec.json"][()])
    spec["levels"][0]["name"] = "../../frame"
    file["spec.json"][()] = json.dumps(spec)
    file.move("frame", "x")
    file["../../frame"] = file["x"]


def invent_a_status(file):
    file["status"][2] = 0


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_rows, "level frame was changed in rows 0 to 7"),
        (spoil_segments, "segments.csv is not the one of its store"),
        (cut_rows, "level frame was changed in rows 8 to 15"),
        (lose_statuses, "has no 'status'"),
        (link_out, "frame is a link, and links are not followed"),
        (climb, "there is no level"),
        (invent_a_status, "what it says of its rows was changed"),
    ],
)
def test_a_changed_export_is_refused(tmp_path, spoil, message):
    make_dense_store(tmp_path / "s.zarr")
    export_store(open_store(tmp_path / "s.zarr"), tmp_path / "s.h5", "hdf5")
    with h5py.File(tmp_path / "s.h5", "r+") as file:
        spoil(file)
    with pytest.raises(DataError, match=message):
        import_export(tmp_path / "s.h5", "hdf5", tmp_path / "back.zarr")
    assert not (tmp_path / "back.zarr/manifest.json").exists()


def test_a_cut_export_is_refused(tmp_path):
    make_dense_store(tmp_path / "s.zarr")
    for format in ("hdf5", "npy"):
        export_store(open_store(tmp_path / "s.zarr"), tmp_path / format, format)
        file = tmp_path / format if format == "hdf5" else tmp_path / "npy/P01_102.npy"
        file.write_bytes(file.read_bytes()[:-500])
        with pytest.raises(DataError, match=f"{format}: "):
            import_export(tmp_path / format, format, tmp_path / "back.zarr")


@pytest.mark.parametrize("damage", ["swap", "negative", "flip"])
def test_an_npy_export_that_was_sorted_or_damaged_is_refused(tmp_path, damage):
    make_dense_store(tmp_path / "s.zarr")
    export_store(open_store(tmp_path / "s.zarr"), tmp_path / "npy", "npy")
    index = tmp_path / "npy" / "index.csv"
    lines = index.read_text().splitlines(keepends=True)
    if damage == "swap":
        lines[1:3] = lines[2:0:-1]
    elif damage == "negative":
        lines[1] = lines[1].replace('"0"', '"-1"', 1)
    else:
        file = next((tmp_path / "npy").glob("*.npy"))
        data = bytearray(file.read_bytes())
        data[-5] ^= 1
        file.write_bytes(data)
    index.write_text("".join(lines))
    with pytest.raises(DataError, match="is a damaged export"):
        import_export(tmp_path / "npy", "npy", tmp_path / "back.zarr")
