"""Stores taken out and brought back, and what must be the same of them."""

import numpy as np
import torch

from helpers.tiny import CLASSES, make_segments
from mambavl.cache import open_store
from mambavl.cache.interchange.export import export_store
from mambavl.cache.interchange.exported import import_export
from mambavl.cache.rows import OK
from mambavl.cache.shards import Level
from mambavl.cache.spec import EncoderIdentity, FeatureRecipe, Spec
from mambavl.cache.verify import verify
from mambavl.cache.writer import RowGroup, StoreWriter

FAILED = {3: 4, 9: 2, 12: 3}


def assert_same(ours, theirs):
    """Everything that a reader sees, bit by bit."""
    assert theirs.segments == ours.segments
    assert theirs.classes == ours.classes
    assert theirs.failures == ours.failures
    assert theirs.levels == ours.levels
    for array in ours.layout.row_arrays:
        np.testing.assert_array_equal(theirs.row_array(array.name), ours.row_array(array.name), strict=True)
    rows = np.flatnonzero(ours.status == OK)
    for name, level in ours.levels.items():
        for view in range(level.views):
            pairs = zip(ours.batch(rows, name, view=view), theirs.batch(rows, name, view=view), strict=True)
            assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in pairs)


def round_trip(folder, format, **options):
    ours = open_store(folder / "s.zarr")
    export_store(ours, folder / "export", format, **options)
    done = import_export(folder / "export", format, folder / "back.zarr")
    assert done.finalized
    assert verify(folder / "back.zarr", deep=True) == []
    return ours, open_store(folder / "back.zarr", verify="read")


def make_levels_store(path, rows=11):
    """Three levels of one video store, two views, half precision, failed rows, flags, times."""
    segments, rng = make_segments(rows), np.random.default_rng(3)
    levels = [
        Level("clip", "dense", (2, 5), "float16"),
        Level("frame", "dense", (2, 3, 5), "float32", steps=3),
        Level("grid", "dense", (2, 3, 2, 2, 5), "float16", steps=3, compressor="zstd"),
    ]
    encoder = EncoderIdentity(name="fake", state="random", sha256="0" * 64, width=5)
    spec = Spec(
        kind="video",
        recipe=FeatureRecipe(encoder=encoder),
        levels=tuple(levels),
        frame_pts=(2, 3),
        rows_per_group=4,
    )
    writer = StoreWriter(path, spec, segments, CLASSES, {})
    for group in writer.pending():
        index = np.array(writer.layout.rows_of(group))
        status = np.where(index % 4 == 2, 5, OK).astype(np.uint8)
        lengths = np.where(status == OK, 1 + index % 3, 0)
        values = {
            level.name: rng.normal(size=(len(index), *level.shape)).astype(level.dtype) for level in levels
        }
        for name, array in values.items():
            array[status != OK] = np.nan
            if name != "clip":
                array[np.broadcast_to((np.arange(3) >= lengths[:, None])[:, None], array.shape[:3])] = np.nan
        reasons = {i: f'ends at "{i}",\r\nthen nothing' for i in np.flatnonzero(status != OK).tolist()}
        pts = rng.random((len(index), 2, 3))
        writer.commit(
            group, RowGroup(values, {"length": lengths}, status, (index % 8).astype(np.uint8), pts, reasons)
        )
    writer.finalize()
