"""The rows that moments are: like the head's own, found by name, never looking ahead."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers.tiny import ROWS, make_dense_store, tiny_recipe
from mambavl.cache import open_store
from mambavl.configs import validate
from mambavl.configs.errors import DataError
from mambavl.fuse.data import FeatureData
from mambavl.fuse.head import ABSENT
from mambavl.fuse.recipe import Recipe
from mambavl.fuse.sources import StreamSource
from mambavl.predict.features import Features, StreamRows, look_up, refuse_later_frames, rows_of
from mambavl.predict.trained import Stream


def stream_of(path, name="video", **source):
    store = open_store(path)
    return Stream(name, StreamSource(store=path, **source), store, store.level("frame"))


def test_what_a_head_reads_is_what_training_reads(tmp_path):
    """Class tokens, views, rows without one stream: to the bit what FeatureData gives."""
    make_dense_store(tmp_path / "video.zarr", ROWS, failed={5: 3, 20: 2}, class_token=True, views=2)
    make_dense_store(tmp_path / "audio.zarr", ROWS, failed={7: 8, 20: 8})
    raw = tiny_recipe(tmp_path, text=False).model_dump(mode="json", exclude_none=True)
    raw["streams"] = {
        "video": {"store": str(tmp_path / "video.zarr"), "class_token": True},
        "audio": {"store": str(tmp_path / "audio.zarr")},
    }
    raw["data"] = {"missing": "mask", "allow_missing": ROWS}
    recipe = validate(raw, Recipe, "r.toml")
    data = FeatureData(recipe.sources, recipe.data)
    streams = {
        "video": stream_of(tmp_path / "video.zarr", class_token=True),
        "audio": stream_of(tmp_path / "audio.zarr", "audio"),
    }
    rows = {name: StreamRows(stream, stream.store, np.arange(ROWS)) for name, stream in streams.items()}
    trained = SimpleNamespace(streams=streams, device=torch.device("cpu"), recipe=recipe)
    features = Features(trained, rows)
    assert features.usable.tolist() == data.usable.tolist()
    moments = np.array([4, 5, 6, 7, 8])
    for view in range(2):
        expected, found = data.batch(moments, view=view), features.batch(moments, view)
        assert list(found) == list(expected)
        for name, (tokens, lengths) in expected.items():
            assert torch.equal(found[name][0], tokens)
            assert torch.equal(found[name][1], lengths)
    assert features.batch(np.array([7]), 0)["audio"][1].tolist() == [ABSENT]
    assert features.fault(20) == ("empty_window", "stream video: made so")
    assert features.fault(7)[0] == "no_soundtrack"


def test_features_of_another_recipe_or_shape_are_refused(tmp_path):
    make_dense_store(tmp_path / "v.zarr", ROWS)
    make_dense_store(tmp_path / "long.zarr", ROWS, steps=5)
    other = {"encoder": {"name": "other", "state": "random", "sha256": "2" * 64, "width": 6}}
    make_dense_store(tmp_path / "other.zarr", ROWS, recipe=other)
    stream = stream_of(tmp_path / "v.zarr")
    for name, fault in (("other", "encoder.name: 'fake' -> 'other'"), ("long", "level frame.steps: 4 -> 5")):
        with pytest.raises(DataError, match="holds other features than the head was trained on") as error:
            look_up(stream, open_store(tmp_path / f"{name}.zarr"), stream.store.segments)
        assert fault in str(error.value)


def test_rows_are_found_by_name(tmp_path):
    make_dense_store(tmp_path / "v.zarr", ROWS)
    stream = stream_of(tmp_path / "v.zarr")
    rows = rows_of(stream, stream.store, "P01_102")
    segments = [stream.store.segments[row] for row in rows]
    assert [segment.start for segment in segments] == sorted(segment.start for segment in segments)
    assert {segment.video_id for segment in segments} == {"P01_102"}
    assert look_up(stream, stream.store, segments[::-1]).rows.tolist() == rows[::-1]
    with pytest.raises(DataError, match=r"has no row x for stream video \(1 of 2 rows"):
        look_up(stream, stream.store, [segments[0], replace(segments[1], narration_id="x")])
    with pytest.raises(DataError, match=r"has no row of video P07_1 .* P01_101, P01_102"):
        rows_of(stream, stream.store, "P07_1")


def test_a_frame_after_a_window_is_seen(tmp_path, monkeypatch):
    make_dense_store(tmp_path / "v.zarr", ROWS, failed={1: 3})
    stream = stream_of(tmp_path / "v.zarr")
    pts = np.tile(np.array([0.5, 1.0, 1.5, 2.0]), (ROWS, 1, 1))
    pts[1] = np.nan  # a row without features
    monkeypatch.setattr(stream.store, "row_array", lambda name: pts)
    rows = StreamRows(stream, stream.store, np.arange(3))
    refuse_later_frames(rows, np.array([2.0, 0.0, 2.0 - 5e-6]))
    with pytest.raises(DataError, match=r"looked at a frame at 2\.000 s for what is to be said at 1\.900 s"):
        refuse_later_frames(rows, np.array([2.0, 0.0, 1.9]))
