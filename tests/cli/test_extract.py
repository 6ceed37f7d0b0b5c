"""Extraction from the shell: resumed, refused, and counted when rows fail."""

import shutil

import pytest

from helpers.cli import call
from helpers.road import extract_words
from mambavl.cli.extract import refuse_failures
from mambavl.configs.errors import DataError


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
    # five rows have no features, none was allowed; that was known before, and the store is finished
    assert call(*words, "--set", "allow_missing=true") == 1
    captured = capsys.readouterr()
    assert captured.out.count("missing_video:") == 5
    assert "5 rows failed, but max_failed is 0 (--set max_failed=N allows N)\n" in captured.err
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


def test_rows_that_fail_are_refused_and_the_setting_is_named_where_there_is_one(tmp_path):
    refuse_failures(tmp_path, 2, 2)
    refuse_failures(tmp_path, 0, None)
    with pytest.raises(DataError, match=r"2 rows failed, but max_failed is 1 \(--set max_failed=N allows N"):
        refuse_failures(tmp_path, 2, 1)
    with pytest.raises(DataError, match=r"1 row failed$"):
        refuse_failures(tmp_path, 1, None)
