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
    # five rows failed, none was allowed; the store is finished
    assert call(*words, "--set", "allow_missing=true") == 1
    captured = capsys.readouterr()
    assert captured.out.count("missing_video:") == 5
    assert "5 rows failed, but max_failed is 0 (--set max_failed=N allows N)\n" in captured.err
    assert (tmp_path / "v.zarr" / "manifest.json").exists()


def test_rows_that_fail_are_refused_and_the_setting_is_named_where_there_is_one(tmp_path):
    refuse_failures(tmp_path, 2, 2)
    refuse_failures(tmp_path, 0, None)
    with pytest.raises(DataError, match=r"2 rows failed, but max_failed is 1 \(--set max_failed=N allows N"):
        refuse_failures(tmp_path, 2, 1)
    with pytest.raises(DataError, match=r"1 row failed$"):
        refuse_failures(tmp_path, 1, None)
