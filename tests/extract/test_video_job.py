"""The video job: levels, precision, and settings that do not fit."""

import pytest
import torch

from helpers.jobs import run
from mambavl.cache import open_store
from mambavl.configs.errors import UsageError

pytestmark = pytest.mark.usefixtures("barcode")


def test_levels_are_views_of_the_same_tokens(dataset, tmp_path):
    run(dataset, tmp_path / "v.zarr", levels=["clip", "frame", "grid", "patch"], grid=2, dtype="float32")
    store = open_store(tmp_path / "v.zarr")
    rows = [0, 7, 19]
    patch, steps = store.batch(rows, "patch")
    frames = patch.reshape(3, 4, 10, 3)
    torch.testing.assert_close(store.batch(rows, "frame")[0], frames.mean(2))
    torch.testing.assert_close(store.batch(rows, "clip")[0][:, 0], frames.mean((1, 2)))
    assert store.batch(rows, "grid")[0].shape == (3, 4 * 2 * 2, 3)
    lengths = {level: store.batch(rows, level)[1].tolist() for level in store.levels}
    assert lengths == {"clip": [1] * 3, "frame": [4] * 3, "grid": [16] * 3, "patch": [40] * 3}
    assert steps.tolist() == [40] * 3


def test_a_level_named_twice_and_settings_that_nothing_reads_are_refused(dataset, tmp_path):
    for changes, message in (
        ({"levels": ["patch", "patch"]}, "names patch twice"),
        ({"sampling": {"stride": 3}}, "stride is of rule mf_dense"),
        ({"box_transform": "released"}, "box_transform = released is about boxes"),
    ):
        with pytest.raises(ValueError, match=message):
            run(dataset, tmp_path / "v.zarr", **changes)


def test_other_settings_are_refused_with_the_fields_that_differ(dataset, tmp_path):
    run(dataset, tmp_path / "v.zarr")
    with pytest.raises(UsageError, match=r"recipe\.sampling\.frames: 4 -> 5"):
        run(dataset, tmp_path / "v.zarr", sampling={"frames": 5})


def test_a_text_encoder_is_no_video_encoder(dataset, tmp_path):
    with pytest.raises(UsageError, match="use `mambavl extract text`"):
        run(dataset, tmp_path / "v.zarr", encoder="minilm")


def test_a_compressed_store_holds_the_same_features(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("MAMBAVL_SCRATCH", str(tmp_path / "scratch"))
    run(dataset, tmp_path / "plain.zarr")
    run(dataset, tmp_path / "small.zarr", compressor="zstd")
    plain, small = (open_store(tmp_path / name) for name in ("plain.zarr", "small.zarr"))
    assert torch.equal(plain.batch(range(20), "patch")[0], small.batch(range(20), "patch")[0])
