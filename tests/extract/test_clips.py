"""Clips: what an encoder is shown of a row, and what becomes of a row that cannot be shown."""

import shutil

import numpy as np
import pytest
import torch

from helpers.clips import write_video
from helpers.dataset import FPS, broken_copy, numbers
from helpers.jobs import run
from mambavl.cache import open_store
from mambavl.cache.rows import EMPTY_WINDOW, FLAG_BEFORE_START, OK, STATUS
from mambavl.cache.spec import Windows
from mambavl.configs.errors import DataError, UsageError
from mambavl.extract import job
from mambavl.extract.clips import unit_rows
from mambavl.extract.sampling import RULES, Sampling, window
from mambavl.extract.video import open_video

pytestmark = pytest.mark.usefixtures("barcode")


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_every_row_holds_the_frames_on_display_at_its_times(dataset, tmp_path, decoder):
    if decoder == "decord":
        pytest.importorskip("decord", reason="decord has no wheel for this machine")
    summary = run(dataset, tmp_path / "v.zarr", decoder=decoder)
    assert summary.finalized
    assert not summary.failures
    store = open_store(tmp_path / "v.zarr")
    pts = store.row_array("frame_pts")
    for row, segment in enumerate(store.segments):
        times = window(segment.start, segment.stop, Sampling(frames=4)).times
        expected = np.floor(times * FPS + 1e-6).astype(int)
        tokens, _ = store.batch([row], "patch")
        assert numbers(tokens[0]) == expected.tolist()
        np.testing.assert_allclose(pts[row, 0], expected / FPS)


@pytest.mark.parametrize(
    ("frames", "stride", "rows"),
    [
        (16, None, 8),  # listed actions
        (64, None, 8),
        (65, None, 4),  # of 65 frames no more than 512
        (16, 2.0, 8),  # windows of 2 s that do not overlap,
        (16, 3.0, 8),  # or leave gaps,
        (16, 1.0, 8),  # or of which one reaches over the end: an eighth is decoded again
        (16, 0.5, 16),  # three do: 3 / 16
        (16, 0.125, 64),  # fifteen do, and of more rows it would be more than 1024 frames
        (128, 0.5, 8),
        (256, 0.5, 4),
        (1024, 0.5, 1),
    ],
)
def test_more_rows_are_read_at_once_where_windows_overlap(frames, stride, rows):
    windows = Windows(length=2.0, stride=stride) if stride else None
    assert unit_rows(Sampling(frames=frames), windows) == rows


@pytest.mark.parametrize(
    ("task", "rule"), [(task, rule) for task, rules in RULES.items() for rule in rules[1:]]
)
def test_a_store_holds_the_frames_of_the_rule_that_it_names(dataset, tmp_path, task, rule):
    """Some rules count the frames of the file, which are 10 a second here and not the nominal 60."""
    sampling = {"task": task, "rule": rule, "frames": 4, "tau_a": 0.45}
    run(dataset, tmp_path / "v.zarr", sampling=sampling)
    store = open_store(tmp_path / "v.zarr")
    said = store.spec.recipe.sampling
    assert said["rule"] == rule
    seen = 0
    for row, segment in enumerate(store.segments):
        times = window(segment.start, segment.stop, Sampling.model_validate(said), rate=FPS).times
        if len(times):
            expected = np.floor(times * FPS + 1e-6).astype(int)
            assert numbers(store.batch([row], "patch")[0][0]) == expected.tolist()
        seen += len(times) > 0
    assert seen == (store.status == OK).sum() == (20 if task == "recognition" or rule == "inavit" else 16)


def test_a_video_that_a_rule_has_no_step_for_is_named(dataset, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    write_video(copy / "videos/P01/videos/P01_102.MP4", frames=30, fps=5)
    sampling = {"task": "anticipation", "rule": "vjepa_released"}
    with pytest.raises(DataError, match=r"^P01_102: it has 5 frames a second"):
        run(copy, tmp_path / "v.zarr", sampling=sampling)


def test_anticipation_sees_nothing_after_start_minus_tau(dataset, tmp_path):
    summary = run(dataset, tmp_path / "v.zarr", sampling={"task": "anticipation", "frames": 4})
    store = open_store(tmp_path / "v.zarr")
    pts, flags = store.row_array("frame_pts"), store.row_array("flags")
    starts = np.array([segment.start for segment in store.segments])
    empty = starts <= 1.0
    assert (store.status[empty] == EMPTY_WINDOW).all()
    assert (store.status[~empty] == OK).all()
    assert len(summary.failures) == empty.sum()
    assert not summary.failed  # an empty window is the protocol's, not the data's fault
    assert (pts[~empty].max((1, 2)) <= starts[~empty] - 1.0 + 1e-6).all()
    assert (flags[~empty] & FLAG_BEFORE_START > 0).tolist() == (starts[~empty] - 1.0 - 64 / 30 < 0).tolist()


def test_every_view_is_encoded_and_kept_with_its_own_times(dataset, tmp_path):
    sampling = {"frames": 4, "views": 3}
    run(dataset, tmp_path / "v.zarr", levels=["clip", "patch"], sampling=sampling)
    store = open_store(tmp_path / "v.zarr")
    pts = store.row_array("frame_pts")
    assert pts.shape == (20, 3, 4)
    for row, segment in enumerate(store.segments):
        for view in range(3):
            times = window(segment.start, segment.stop, Sampling.model_validate(sampling), view).times
            expected = np.floor(times * FPS + 1e-6).astype(int)
            assert numbers(store.batch([row], "patch", view=view)[0][0]) == expected.tolist()
            np.testing.assert_allclose(pts[row, view], expected / FPS)


def test_three_crops_run_from_one_end_of_the_long_side_to_the_other(dataset, tmp_path):
    """Frames of 160 x 48: the squares begin at 0, 56 and 112."""
    sampling = {"frames": 2, "views": 2}
    run(
        dataset,
        tmp_path / "v.zarr",
        levels=["patch"],
        fit="crop",
        image_size=48,
        crops=3,
        sampling=sampling,
        dtype="float32",
    )
    store = open_store(tmp_path / "v.zarr")
    pts = store.row_array("frame_pts")
    assert pts.shape == (20, 6, 2)  # in time first, then from left to right
    reader = open_video(dataset / "videos" / "P01" / "videos" / f"{store.segments[3].video_id}.MP4")
    for view in range(6):
        tokens = store.batch([3], "patch", view=view)[0].reshape(2, 10, 3)
        shown = [pixels for _, pixels in reader.frames(np.round(pts[3, view] * FPS).astype(int))]
        assert len(shown) == 2
        left = (0, 56, 112)[view % 3]
        for token, pixels in zip(tokens, shown, strict=True):
            square = torch.from_numpy(pixels[:, left : left + 48].copy()).permute(2, 0, 1)[None] / 255
            torch.testing.assert_close(
                token, torch.nn.functional.adaptive_avg_pool2d(square, (1, 10))[0, :, 0].T
            )
    reader.close()
    with pytest.raises(ValueError, match="a squeezed frame"):
        run(dataset, tmp_path / "w.zarr", crops=3)


def test_pictures_are_let_go_as_soon_as_they_are_encoded(dataset, tmp_path, monkeypatch):
    """A row group may hold 512 rows of 30 views: tens of gigabytes."""
    held = []
    group = job.dense_group
    monkeypatch.setattr(
        job,
        "dense_group",
        lambda name, clips, *more: (
            held.extend(len(clip.images) for clip in clips) or group(name, clips, *more)
        ),
    )
    run(dataset, tmp_path / "v.zarr")
    assert len(held) == 20
    assert not any(held)


def test_every_bad_video_becomes_named_failures_and_the_others_stay_the_same_to_the_bit(dataset, tmp_path):
    run(dataset, tmp_path / "good.zarr")
    summary = run(broken_copy(dataset, tmp_path), tmp_path / "v.zarr", allow_missing=True)
    good, store = open_store(tmp_path / "good.zarr"), open_store(tmp_path / "v.zarr")
    by_video = {
        video: {STATUS[int(store.status[i])] for i, s in enumerate(store.segments) if s.video_id == video}
        for video in ("P01_101", "P01_102", "P01_103", "P01_104")
    }
    assert by_video["P01_101"] == {"unreadable_video"}
    assert by_video["P01_102"] == {"missing_video"}
    assert by_video["P01_103"] == {"ok", "short_video"}
    assert by_video["P01_104"] == {"ok"}
    assert {reason[0] for reason in summary.failed} == {
        s.narration_id for i, s in enumerate(store.segments) if store.status[i] != 1
    }
    same = [i for i, s in enumerate(store.segments) if s.video_id == "P01_104"]
    assert torch.equal(store.batch(same, "patch")[0], good.batch(same, "patch")[0])


def test_whoever_knows_that_no_picture_was_lost_says_so_and_the_recipe_records_it(dataset, tmp_path):
    """A file that stands still for two seconds, in a codec that does not tell that from a loss."""
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    (copy / "videos/P01/videos/P01_101.MP4").unlink()
    times = [*range(0, 2000, 100), *range(4000, 6000, 100)]
    path = copy / "videos/P01_101.mkv"
    write_video(path, frames=40, times=times, container="matroska", codec="mpeg4")
    doubted = run(copy, tmp_path / "v.zarr")
    assert {STATUS[status] for _, status, _ in doubted.failed} == {"damaged_frame"}
    assert "--set still_pictures=true, with another --out, shows it" in doubted.failed[0][2]
    with pytest.raises(UsageError, match="still_pictures: None -> True"):
        run(copy, tmp_path / "v.zarr", still_pictures=True)
    assert not run(copy, tmp_path / "w.zarr", still_pictures=True).failures
    store, plain = open_store(tmp_path / "w.zarr"), open_store(tmp_path / "v.zarr")
    assert store.spec.to_dict()["recipe"]["still_pictures"] is True
    assert "still_pictures" not in plain.spec.to_dict()["recipe"]
    shown = np.array(times) / 1000
    for row, segment in enumerate(store.segments):
        if segment.video_id == "P01_101":
            moments = window(segment.start, segment.stop, Sampling(frames=4)).times
            expected = np.searchsorted(shown, moments + 1e-6, side="right") - 1
            assert numbers(store.batch([row], "patch")[0][0]) == expected.tolist()
