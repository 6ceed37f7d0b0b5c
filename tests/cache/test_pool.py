"""Pooled stores: the means that numpy gives, the parent named, failures kept; and what diff says of two
stores.
"""

import numpy as np
import pytest

from helpers.tiny import CLASSES, make_segments
from mambavl.cache import open_store
from mambavl.cache.pool import pool
from mambavl.cache.rows import OK, STATUS_CODE
from mambavl.cache.shards import Level
from mambavl.cache.spec import EncoderIdentity, FeatureRecipe, Inputs, Spec
from mambavl.cache.verify import verify
from mambavl.cache.writer import RowGroup, StoreWriter
from mambavl.configs.errors import Interrupted, UsageError

ROWS, VIEWS, STEPS, SIDE, WIDTH = 20, 2, 3, 6, 5
FAILED, SHORT = 4, 9  # a row without features; a row of one step


def make_patch_store(path, dtype="float32"):
    """A finished store of level `patch`; returns (rows, V, T, h, w, D)."""
    values = np.random.default_rng(0).normal(size=(ROWS, VIEWS, STEPS, SIDE, SIDE, WIDTH)).astype(dtype)
    level = Level("patch", "dense", (VIEWS, STEPS * SIDE * SIDE, WIDTH), dtype, steps=STEPS)
    encoder = EncoderIdentity(name="fake", state="random", sha256="0" * 64, width=WIDTH)
    spec = Spec(
        kind="video",
        recipe=FeatureRecipe(encoder=encoder),
        inputs=Inputs(videos={}),
        levels=(level,),
        frame_pts=(1, STEPS),
        rows_per_group=8,
    )
    writer = StoreWriter(path, spec, make_segments(ROWS), CLASSES, {})
    values[FAILED], values[SHORT, :, 1:] = np.nan, np.nan
    for group in writer.pending():
        rows = np.array(writer.layout.rows_of(group))
        status = np.where(rows == FAILED, STATUS_CODE["damaged_frame"], OK).astype(np.uint8)
        rows_values = {"patch": values[rows].reshape(len(rows), *level.shape)}
        lengths = {"length": np.where(rows == FAILED, 0, np.where(rows == SHORT, 1, STEPS))}
        reasons = {int(i): "frame 7" for i in np.flatnonzero(rows == FAILED)}
        pts = np.repeat(rows[:, None, None], STEPS, 2).astype(float)
        writer.commit(group, RowGroup(rows_values, lengths, status, rows.astype(np.uint8) % 8, pts, reasons))
    writer.finalize()
    return values


def expected(values, to):
    if to == "clip":
        return values.mean(axis=(2, 3, 4))
    if to == "frame":
        return values.mean(axis=(3, 4))
    cells = int(to.removeprefix("grid"))
    return values.reshape(ROWS, VIEWS, STEPS, cells, SIDE // cells, cells, SIDE // cells, WIDTH).mean(
        axis=(4, 6)
    )


@pytest.mark.parametrize("to", ["grid3", "grid1", "frame", "clip"])
def test_a_pooled_level_is_the_mean_of_what_it_covers(tmp_path, to):
    values = make_patch_store(tmp_path / "patch.zarr")
    parent = open_store(tmp_path / "patch.zarr")
    store_id = pool(parent, tmp_path / "small.zarr", to)
    small = open_store(tmp_path / "small.zarr", verify="read")
    assert small.store_id == store_id
    assert verify(tmp_path / "small.zarr", deep=True) == []
    rows = [row for row in range(ROWS) if row not in (FAILED, SHORT)]
    level = to.rstrip("0123456789")
    truth = expected(np.nan_to_num(values), to)
    for view in range(VIEWS):
        tokens, _ = small.batch(rows, level, view=view)
        np.testing.assert_allclose(
            tokens.numpy(), truth[rows, view].reshape(tokens.shape), rtol=1e-5, atol=1e-6
        )
    short, length = small.batch([SHORT], level, view=1)
    first = expected(np.repeat(values[:, :, :1], STEPS, 2), to)[SHORT, 1].reshape(short.shape[1:])
    covered = len(first) if to == "clip" else len(first) // STEPS
    assert length.tolist() == [covered]
    np.testing.assert_allclose(short[0, :covered], first[:covered], rtol=1e-5, atol=1e-6)
    assert not short[0, covered:].any()


def test_a_pooled_store_names_its_parent_and_keeps_what_is_known_of_its_rows(tmp_path):
    make_patch_store(tmp_path / "patch.zarr")
    parent = open_store(tmp_path / "patch.zarr")
    pool(parent, tmp_path / "small.zarr", "frame")
    small = open_store(tmp_path / "small.zarr")
    assert small.spec.inputs.parent.store_id == parent.store_id
    assert small.spec.recipe.to_dict()["pooled"] == {"from": "patch", "to": "frame", "rule": "mean"}
    assert small.spec.recipe.encoder == parent.spec.recipe.encoder
    assert small.failures == parent.failures == [[parent.segments[FAILED].narration_id, 6, "frame 7"]]
    for name in ("status", "flags", "frame_pts", "length"):
        np.testing.assert_array_equal(small.row_array(name), parent.row_array(name))


def test_pooling_a_pooled_store_goes_on_down_and_not_up(tmp_path):
    values = make_patch_store(tmp_path / "patch.zarr")
    pool(open_store(tmp_path / "patch.zarr"), tmp_path / "grid.zarr", "grid2")
    pool(open_store(tmp_path / "grid.zarr"), tmp_path / "frame.zarr", "frame")
    tokens, _ = open_store(tmp_path / "frame.zarr").batch([0], "frame")
    np.testing.assert_allclose(tokens[0], values[0, 0].mean(axis=(1, 2)), rtol=1e-5, atol=1e-6)
    frames = open_store(tmp_path / "frame.zarr")
    for store, to, message in (
        (frames, "frame", "needs a finer level"),
        (frames, "grid2", "needs level patch"),
        (open_store(tmp_path / "patch.zarr"), "grid9", "at least 9 patches a side"),
        (frames, "pyramid", "--to pyramid: use clip, frame, or grid"),
    ):
        with pytest.raises(UsageError, match=message):
            pool(store, tmp_path / "never.zarr", to)
    assert not (tmp_path / "never.zarr").exists()


def test_pooling_stops_and_resumes_between_row_groups(tmp_path):
    make_patch_store(tmp_path / "patch.zarr")
    parent = open_store(tmp_path / "patch.zarr")
    with pytest.raises(Interrupted, match="the same command resumes"):
        pool(parent, tmp_path / "small.zarr", "clip", should_stop=lambda: True)
    whole = pool(parent, tmp_path / "other.zarr", "clip")
    assert pool(parent, tmp_path / "small.zarr", "clip") == whole
