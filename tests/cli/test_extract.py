"""Extraction from the shell: resumed, refused, and counted when rows fail."""

import shutil

import numpy as np
import pytest
import torch

from helpers.cli import call
from helpers.dataset import make_dataset
from helpers.road import extract_words
from helpers.ways import frame_files, write_chunks, write_cuttable, write_folder, write_tar
from mambavl.cache import open_store
from mambavl.cache.fill import FillResult
from mambavl.cache.rows import OK, STATUS, STATUS_CODE
from mambavl.cli.extract import print_summaries, refuse_failures
from mambavl.configs.errors import DataError
from mambavl.extract.options import VideoExtraction
from mambavl.extract.sampling import Sampling, window


def test_running_a_command_again_resumes_and_refuses_other_settings(road, capsys):
    again = (*extract_words(road)[:-4], "--out", road / "v.zarr", "--set", "image_size=64")
    assert call(*again, "--set", "sampling.frames=4") == 0
    assert "wrote 0 rows" in capsys.readouterr().out
    assert call(*again, "--set", "sampling.frames=5") == 2
    assert "recipe.sampling.frames: 4 -> 5" in capsys.readouterr().err


def test_a_missing_video_is_listed_by_the_check_and_stops_extraction(road, tmp_path, capsys):
    shutil.copytree(road / "videos", tmp_path / "videos")
    (tmp_path / "videos" / "P01" / "videos" / "P01_103.MP4").unlink()
    where = ("--annotations", road / "annotations", "--videos", tmp_path / "videos")
    assert call("data", "check", *where) == 1
    assert "P01_103: missing (" in capsys.readouterr().out
    words = ("extract", "video", *where, "--encoder", "timm:test_resnet", "--weights", "random")
    words += ("--out", tmp_path / "v.zarr", "--set", "sampling.frames=2")
    assert call(*words) == 1
    assert "1 of 8 videos are not there (P01_103)" in capsys.readouterr().err
    # five rows have no features, as was asked for, and asked again they are no failure either
    for _ in range(2):
        assert call(*words, "--set", "allow_missing=true") == 0
        said = capsys.readouterr().out
        assert said.count("missing_video:") == 5
        assert "rows without features: 5\n" in said
    assert (tmp_path / "v.zarr" / "manifest.json").exists()


def test_rows_that_fail_stop_the_command_and_may_be_tried_again(road, tmp_path, capsys):
    shutil.copytree(road / "videos", tmp_path / "videos")
    broken = tmp_path / "videos" / "P01" / "videos" / "P01_103.MP4"
    broken.write_bytes(b"no video")
    words = ("extract", "video", "--annotations", road / "annotations", "--videos", tmp_path / "videos")
    words += ("--encoder", "timm:test_resnet", "--weights", "random")
    words += ("--out", tmp_path / "v.zarr", "--set", "sampling.frames=2")
    assert call(*words) == 1
    said = capsys.readouterr().err
    assert "5 rows failed, but max_failed is 0 (--set max_failed=N allows N)" in said
    assert "P01_103_0: unreadable_video: " in said
    assert not (tmp_path / "v.zarr" / "manifest.json").exists()
    assert call(*words, "--set", "max_failed=5") == 0
    assert "unreadable_video" in capsys.readouterr().out
    assert call(*words, "--retry-failed", "--shard", "0/2", "--set", "max_failed=5") == 2
    assert "--retry-failed goes without --shard" in capsys.readouterr().err
    assert call(*words, "--retry-failed", "--set", "max_failed=5") == 0
    assert "wrote 0 rows" not in capsys.readouterr().out
    shutil.copy2(road / "videos" / "P01" / "videos" / "P01_103.MP4", broken)
    assert call(*words) == 0
    assert "unreadable_video" not in capsys.readouterr().out


def failing(*statuses):
    """What a run did of a finished store with rows of these statuses."""
    failures = [[f"P01_101_{row}", STATUS_CODE[status], "why"] for row, status in enumerate(statuses)]
    return FillResult(rows=2, seconds={"decode": 1.0, "encode": 2.0}, store_id="a", failures=failures)


@pytest.fixture
def stores(tmp_path):
    options = VideoExtraction(encoder="timm:test_vit")
    return [(tmp_path / "a.zarr", options), (tmp_path / "b.zarr", options)]


def test_every_store_is_told_of_before_one_with_failures_is_refused(stores, capsys):
    damaged = failing("damaged_frame", "missing_video", "empty_window")
    with pytest.raises(DataError, match=r"a.zarr: 1 row failed, but max_failed is 0"):
        print_summaries(stores, [damaged, failing()])
    assert "b.zarr: finished store" in capsys.readouterr().out


def test_what_could_not_be_tried_is_no_failure_of_a_finished_store(stores):
    """As it is none while the store is filled: allow_missing let the command get there."""
    print_summaries(stores, [failing("missing_video", "empty_window"), failing()])


def test_stages_that_stores_share_are_told_once(stores, capsys):
    print_summaries(stores, [failing(), failing()])
    said = capsys.readouterr().out
    assert said.count("decode 1.0 s, encode 2.0 s; the slowest stage is encode") == 1
    assert said.count("wrote 2 rows") == 2


def test_rows_that_fail_are_refused_and_the_setting_is_named_where_there_is_one(tmp_path):
    refuse_failures(tmp_path, 2, 2)
    refuse_failures(tmp_path, 0, None)
    with pytest.raises(DataError, match=r"2 rows failed, but max_failed is 1 \(--set max_failed=N allows N"):
        refuse_failures(tmp_path, 2, 1)
    with pytest.raises(DataError, match=r"1 row failed$"):
        refuse_failures(tmp_path, 1, None)


# --- frames and chunks


def lay(way, video, videos):
    """A video of ten frames a second, in another way: its PNG or JPEG pictures, or chunks of two seconds."""
    kind, _, ending = way.partition(" ")
    home = videos / "P01"
    if kind == "file":
        (home / "videos").mkdir(parents=True, exist_ok=True)
        shutil.copy2(video, home / "videos")
    elif kind == "folder":
        write_folder(home / "rgb_frames" / video.stem, frame_files(video, 50, ending))
    elif kind == "tar":
        write_tar(home / "rgb_frames" / f"{video.stem}.tar", frame_files(video, 50, ending))
    else:
        write_chunks(home / video.name, video, 2)


@pytest.fixture(scope="module")
def ways(tmp_path_factory):
    """Two videos of six seconds, and the store of their files."""
    folder = make_dataset(tmp_path_factory.mktemp("ways"), videos=2)
    for name in ("P01_101.MP4", "P01_102.MP4"):
        write_cuttable(folder / "videos/P01/videos" / name)
    assert call(*extract_ways(folder, folder / "videos"), "--out", folder / "v.zarr") == 0
    return folder


def extract_ways(data, videos, task="recognition"):
    where = ("--annotations", data / "annotations", "--videos", videos, "--task", task)
    sets = ("--set", "sampling.frames=4", "--set", "image_size=64", "--set", "dtype=float32")
    return ("extract", "video", *where, "--encoder", "timm:test_resnet", "--weights", "random", *sets)


@pytest.mark.parametrize("way", ["file", "chunks", "folder png", "tar png", "folder jpg", "tar jpg"])
def test_a_video_gives_the_same_rows_in_whatever_way_it_lies(ways, tmp_path, way):
    """P01_101 and P01_102 are of the newer videos, with 50 pictures a second."""
    for video in (ways / "videos/P01/videos").iterdir():
        lay(way, video, tmp_path / "videos")
    assert call("data", "check", "--annotations", ways / "annotations", "--videos", tmp_path / "videos") == 0
    assert call(*extract_ways(ways, tmp_path / "videos"), "--out", tmp_path / "v.zarr") == 0
    expected, store = open_store(ways / "v.zarr"), open_store(tmp_path / "v.zarr")
    assert store.segments == expected.segments
    assert (store.status == OK).all()
    rows = list(range(len(store.segments)))
    features, same = store.batch(rows, "frame")[0], expected.batch(rows, "frame")[0]
    if way.endswith("jpg"):
        spread = (same - same.mean()).abs().mean()
        assert (features - same).abs().max() < 0.1 * spread
    else:
        assert torch.equal(features, same)
    rate = 50 if "g" in way else 10  # of pictures, which are jpg or png
    for segment, pts in zip(store.segments, store.row_array("frame_pts")[:, 0], strict=True):
        times = window(segment.start, segment.stop, Sampling(frames=4)).times
        np.testing.assert_allclose(pts, np.floor(times * rate + 1e-6) / rate, atol=1e-6)


def test_rows_that_want_a_frame_that_is_not_there_fail_and_no_others(ways, tmp_path, capsys):
    first, second = sorted((ways / "videos/P01/videos").iterdir())
    lay("folder png", first, tmp_path / "videos")
    lay("chunks", second, tmp_path / "videos")
    words = (*extract_ways(ways, tmp_path / "videos"), "--out", tmp_path / "v.zarr", "--set", "max_failed=10")
    (tmp_path / "videos/P01/P01_102.MP4/2.MP4").unlink()
    for number in range(131, 161):  # 2.6 to 3.2 s
        (tmp_path / f"videos/P01/rgb_frames/P01_101/frame_{number:010d}.png").unlink()
    assert call(*words) == 0
    said = capsys.readouterr().out
    expected, store = open_store(ways / "v.zarr"), open_store(tmp_path / "v.zarr")
    for row, segment in enumerate(store.segments):
        times = window(segment.start, segment.stop, Sampling(frames=4)).times
        gone = (2.6, 3.2) if segment.video_id == "P01_101" else (2.0, 4.0)
        if ((times >= gone[0]) & (times < gone[1])).any():
            assert f"{segment.narration_id}: damaged_frame: " in said
            assert STATUS[store.status[row]] == "damaged_frame"
        else:
            assert torch.equal(store.batch([row], "frame")[0], expected.batch([row], "frame")[0])
    assert 0 < (store.status != OK).sum() < 10


def test_videos_lie_under_several_roots(ways, tmp_path, capsys):
    first, second = sorted((ways / "videos/P01/videos").iterdir())
    lay("file", first, tmp_path / "here")
    lay("tar png", second, tmp_path / "there")
    words = (*extract_ways(ways, tmp_path / "here"), "--videos", tmp_path / "there")
    where = ("--annotations", ways / "annotations", "--videos", tmp_path / "here")
    assert call("data", "check", *where, "--videos", tmp_path / "there") == 0
    assert call("data", "check", *where) == 1
    assert call(*words, "--out", tmp_path / "v.zarr") == 0
    expected, store = open_store(ways / "v.zarr"), open_store(tmp_path / "v.zarr")
    rows = list(range(len(store.segments)))
    assert torch.equal(store.batch(rows, "frame")[0], expected.batch(rows, "frame")[0])
    lay("chunks", second, tmp_path / "here")
    capsys.readouterr()
    assert call(*words, "--out", tmp_path / "w.zarr") == 1
    said = capsys.readouterr().err
    assert f"{tmp_path}/here/P01/P01_102.MP4 and {tmp_path}/there/P01/rgb_frames/P01_102.tar; keep" in said
