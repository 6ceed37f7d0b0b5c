"""What a plan counts, by hand and against the extraction itself; and that it changes nothing."""

from pathlib import Path

import pytest

from helpers.dataset import broken_copy
from helpers.jobs import OPTIONS, run
from mambavl.cache import fsops
from mambavl.cache.writer import StoreWriter
from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.annotations import read_annotations
from mambavl.extract.options import VideoExtraction
from mambavl.extract.plan import OTHER_ARRAYS, plan

pytestmark = pytest.mark.usefixtures("barcode")


def settings(**changes):
    """Patches of 4 steps x 10 x 3 numbers in 16 bits: a row is 240 bytes; row groups of 8, 8 and 4."""
    return VideoExtraction.model_validate(OPTIONS | changes)


def planned(folder, *jobs, **more):
    return plan(read_annotations(folder / "annotations"), folder / "videos", jobs, **more)


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def on_disk(store: Path, *names: str) -> int:
    """Bytes of the features of a store, without what describes them."""
    found = (path for name in names for path in (store / name).rglob("c.*"))
    return sum(path.stat().st_size for path in found)


def test_a_store_that_is_not_begun(dataset, tmp_path):
    before = files(dataset)
    found = planned(dataset, (tmp_path / "v.zarr", settings(levels=["frame", "patch"])))
    (store,) = found.stores
    assert (store.done, store.rows, store.groups, found.missing) == (0, 20, [0, 1, 2], [])
    assert found.to_read == list(range(20))
    assert found.videos_to_read == ["P01_101", "P01_102", "P01_103", "P01_104"]
    assert list(tmp_path.iterdir()) == []
    assert files(dataset) == before
    # a chunk and its checksum for each row, an index of 16 bytes a place, the checksum of that
    assert store.sizes["patch"] == 20 * (4 * 10 * 3 * 2 + 4) + 3 * (8 * 16 + 4)
    assert store.sizes["frame"] == 20 * (4 * 3 * 2 + 4) + 3 * (8 * 16 + 4)
    assert store.to_write == sum(store.sizes.values())


def test_the_bytes_are_those_that_the_extraction_writes(dataset, tmp_path):
    run(dataset, tmp_path / "v.zarr", levels=["frame", "patch"])
    (store,) = planned(dataset, (tmp_path / "v.zarr", settings(levels=["frame", "patch"]))).stores
    assert (store.done, store.rows, store.groups, store.to_write) == (20, 0, [], 0)
    assert store.sizes["patch"] == on_disk(tmp_path / "v.zarr", "patch")
    assert store.sizes[OTHER_ARRAYS] == on_disk(tmp_path / "v.zarr", "status", "flags", "length", "frame_pts")


def test_what_is_done_of_a_store_is_left_out_and_the_store_is_not_touched(dataset, tmp_path, monkeypatch):
    run(dataset, tmp_path / "v.zarr", shard=(1, 3))
    before = files(tmp_path)

    def refuse(*args, **more):
        raise AssertionError("a plan writes nothing")

    monkeypatch.setattr(StoreWriter, "__init__", refuse)
    monkeypatch.setattr(fsops, "lock", refuse)
    found = planned(dataset, (tmp_path / "v.zarr", settings()))
    (store,) = found.stores
    assert (store.done, store.groups, store.rows) == (8, [0, 2], 12)
    assert found.to_read == [*range(8), *range(16, 20)]
    assert files(tmp_path) == before


def test_rows_that_failed_may_be_tried_again(dataset, tmp_path):
    copy = broken_copy(dataset, tmp_path)  # P01_101, rows 0 to 4, is text; P01_102 is missing
    run(copy, tmp_path / "v.zarr", allow_missing=True)
    job = (tmp_path / "v.zarr", settings())
    assert planned(copy, job).stores[0].groups == []
    (store,) = planned(copy, job, retry_failed=True).stores
    assert (store.groups, store.done) == ([0, 1], 4)  # P01_103 is short; what is missing alone stays


def test_several_stores_share_what_is_read(dataset, tmp_path):
    run(dataset, tmp_path / "a.zarr", shard=(0, 2))
    found = planned(
        dataset,
        (tmp_path / "a.zarr", settings()),
        (tmp_path / "b.zarr", settings(rows_per_group=16, levels=["clip"])),
    )
    assert [store.groups for store in found.stores] == [[1], [0, 1]]
    assert found.to_read == list(range(20))
    with pytest.raises(UsageError, match="share fit"):
        planned(dataset, (tmp_path / "a", settings()), (tmp_path / "b", settings(fit="crop")))


def test_a_share_is_the_one_that_the_extraction_takes(dataset, tmp_path):
    found = planned(dataset, (tmp_path / "v.zarr", settings()), shard=(1, 2))
    run(dataset, tmp_path / "v.zarr", shard=(1, 2))
    (after,) = planned(dataset, (tmp_path / "v.zarr", settings())).stores
    assert found.stores[0].groups == [1]
    assert after.groups == [0, 2]


def test_missing_videos_are_named_and_not_read(dataset, tmp_path):
    copy = broken_copy(dataset, tmp_path)
    found = planned(copy, (tmp_path / "v.zarr", settings()))
    assert (found.missing, found.rows_missing) == (["P01_102"], 5)
    assert found.to_read == [*range(5), *range(10, 20)]
    for video in (copy / "videos").rglob("*.MP4"):
        video.unlink()
    with pytest.raises(DataError, match="4 of 4 videos are not there"):
        planned(copy, (tmp_path / "v.zarr", settings()))


def test_a_store_of_another_recipe_or_of_other_rows_is_refused(dataset, tmp_path):
    run(dataset, tmp_path / "v.zarr")
    with pytest.raises(UsageError, match=r"recipe\.sampling\.frames: 4 -> 5"):
        planned(dataset, (tmp_path / "v.zarr", settings(sampling={"frames": 5})))
    rows = read_annotations(dataset / "annotations", ("train",))
    with pytest.raises(UsageError, match=r"rows: 20 -> 15"):
        plan(rows, dataset / "videos", [(tmp_path / "v.zarr", settings())])


def test_a_disk_without_room_is_seen_for_all_stores_together(dataset, tmp_path, monkeypatch):
    jobs = [(tmp_path / "a.zarr", settings()), (tmp_path / "b.zarr", settings())]
    found = planned(dataset, *jobs)
    each = found.stores[0].to_write
    monkeypatch.setattr(fsops, "free_bytes", lambda path: 2 * each - 1)
    assert found.lacking() == {tmp_path / "b.zarr": (2 * each, 2 * each - 1)}
    monkeypatch.setattr(fsops, "free_bytes", lambda path: 2 * each)
    assert found.lacking() == {}


def test_compressed_stores_are_counted_before_compression(dataset, tmp_path):
    (store,) = planned(dataset, (tmp_path / "v.zarr", settings(compressor="zstd"))).stores
    assert store.sizes["patch"] == 20 * 4 * 10 * 3 * 2
