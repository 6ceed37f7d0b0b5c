"""The video job: levels, precision, and settings that do not fit."""

import pytest
import torch

from helpers.dataset import barcode_record, broken_copy
from helpers.jobs import OPTIONS, count_decoded, run, tree
from mambavl.cache import open_store
from mambavl.configs.errors import UsageError
from mambavl.extract import clips
from mambavl.extract.annotations import read_annotations
from mambavl.extract.encoders import registry
from mambavl.extract.options import VideoExtraction
from mambavl.extract.video_job import extract_videos

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


# --- several encoders on one decode

SECOND = {
    "encoder": "coarse",
    "levels": ["frame", "patch"],
    "batch_rows": 5,
    "rows_per_group": 6,
    "image_size": 24,
}


@pytest.fixture
def coarse(monkeypatch):
    """The encoder that reads barcodes, under another name."""
    monkeypatch.setitem(registry.ENCODERS, "coarse", barcode_record())


def both(dataset, folder, *changes, **hooks):
    read = read_annotations(dataset / "annotations")
    jobs = []
    for name, settings, more in zip("ab", ({}, SECOND), changes or ({}, {}), strict=True):
        options = VideoExtraction.model_validate({**OPTIONS, **settings, **more})
        jobs.append((folder / f"{name}.zarr", options))
    return extract_videos(read, dataset / "videos", jobs, **hooks)


@pytest.mark.usefixtures("coarse")
@pytest.mark.parametrize("damaged", [False, True])
def test_stores_of_one_decode_are_those_of_each_encoder_alone(dataset, tmp_path, damaged):
    data = broken_copy(dataset, tmp_path) if damaged else dataset
    changes = {"allow_missing": True} if damaged else {}
    run(data, tmp_path / "one.zarr", **changes)
    run(data, tmp_path / "two.zarr", **SECOND, **changes)
    results = both(data, tmp_path, changes, changes)
    assert [result.finalized for result in results] == [True, True]
    assert tree(tmp_path / "a.zarr") == tree(tmp_path / "one.zarr")
    assert tree(tmp_path / "b.zarr") == tree(tmp_path / "two.zarr")


@pytest.mark.usefixtures("coarse")
def test_every_frame_is_decoded_once_for_all_and_resized_once_for_each_size(dataset, tmp_path, monkeypatch):
    decoded, resized, size = count_decoded(monkeypatch), [], clips.resize
    monkeypatch.setattr(clips, "resize", lambda pixels, look: resized.append(look.side) or size(pixels, look))
    run(dataset, tmp_path / "one.zarr")
    alone = len(decoded)
    assert len(resized) == alone
    both(dataset, tmp_path)
    assert len(decoded) == 2 * alone
    assert resized.count(24) == alone
    assert resized.count(40) == 2 * alone
    both(dataset, tmp_path / "same", {}, {"image_size": 40})
    assert len(resized) == 4 * alone  # one size, so once for both


@pytest.mark.usefixtures("coarse")
def test_a_store_that_is_finished_is_not_made_again(dataset, tmp_path):
    run(dataset, tmp_path / "a.zarr")
    before = tree(tmp_path / "a.zarr")
    first, second = both(dataset, tmp_path)
    assert (first.rows, first.finalized, second.rows) == (0, True, 20)
    assert tree(tmp_path / "a.zarr") == before


@pytest.mark.usefixtures("coarse")
def test_encoders_that_want_other_pictures_are_refused(dataset, tmp_path):
    with pytest.raises(UsageError, match=r"share sampling: barcode has .*frames=4.*coarse has .*frames=5"):
        both(dataset, tmp_path, {}, {"sampling": {"frames": 5}})
    with pytest.raises(UsageError, match="share fit"):
        both(dataset, tmp_path, {}, {"fit": "crop"})
    assert not list(tmp_path.iterdir())
