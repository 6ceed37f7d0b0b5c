"""Shards and their metadata: the bytes that zarr-python writes, and levels that cannot be."""

import json
from dataclasses import replace

import numpy as np
import pytest
import zarr

from helpers.tiny import make_dense_store, make_text_store
from mambavl.cache import shards
from mambavl.cache.shards import Level


def test_zarr_python_reads_the_same_values(tmp_path):
    features = make_dense_store(tmp_path / "s.zarr")
    group = zarr.open_group(tmp_path / "s.zarr", mode="r")
    np.testing.assert_array_equal(group["frame"][:], features)
    assert group["status"][:].tolist() == [1] * 20
    texts = make_text_store(tmp_path / "t.zarr")
    group = zarr.open_group(tmp_path / "t.zarr", mode="r")
    start, length = group["noun_question/start"][:], group["noun_question/length"][:]
    values = group["noun_question/last_hidden"][:]
    for row in range(20):
        np.testing.assert_array_equal(
            values[start[row] : start[row] + length[row]], texts["noun_question"][row]
        )


def test_shard_bytes_are_those_of_zarr_python(tmp_path):
    """A second writer of the format: the same array written by zarr gives the same file."""
    features = make_dense_store(tmp_path / "s.zarr", rows=8, group_rows=8)
    array = zarr.create_array(
        tmp_path / "z.zarr", shape=(8, 1, 4, 6), shards=(8, 1, 4, 6), chunks=(1, 1, 4, 6), dtype="float32",
        fill_value=np.nan, compressors=zarr.codecs.Crc32cCodec(), config={"write_empty_chunks": True},
    )  # fmt: skip
    array[:] = features
    assert (tmp_path / "s.zarr/frame/c.0.0.0.0").read_bytes() == (tmp_path / "z.zarr/c/0/0/0/0").read_bytes()


@pytest.mark.parametrize(
    ("name", "shape", "axes"),
    [
        ("clip", (1, 6), ["row", "clip_view", "clip_channel"]),
        ("frame", (2, 4, 6), ["row", "frame_view", "frame_step", "frame_channel"]),
        ("grid", (1, 4, 3, 2, 6), ["row", "grid_view", "grid_step", "grid_y", "grid_x", "grid_channel"]),
    ],
)
def test_every_axis_has_a_name(name, shape, axes):
    level = Level(name, "dense", shape, "float32")
    assert json.loads(shards.level_metadata(level, 5, 2))["dimension_names"] == axes
    assert "dimension_names" not in json.loads(shards.level_metadata(level, 5, 2, named=False))


def test_row_groups_are_a_power_of_two_near_sixteen_mebibytes():
    assert shards.rows_per_group(16 * 768 * 2) == 512  # 24 KiB a row: capped
    assert shards.rows_per_group(1569 * 768 * 2) == 8  # 2.4 MB a row
    assert shards.rows_per_group(16 * 16 * 1280 * 2) == 32  # 655 KB a row


@pytest.mark.parametrize(
    "changed",
    [
        {"kind": "x"},
        {"dtype": "float64"},
        {"compressor": "gzip"},
        {"steps": 3},
        {"shape": (1, 0, 6)},
        {"capacity": 64},
    ],
    ids=str,
)
def test_what_is_no_level_is_refused(changed):
    with pytest.raises(ValueError, match="there is no such level"):
        replace(Level("frame", "dense", (1, 4, 6), "float32", steps=4), **changed)
