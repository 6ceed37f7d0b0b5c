"""The check of a data set before any work."""

import shutil

from helpers.cli import call


def test_a_data_set_that_is_right_is_counted(road, capsys):
    where = ("--annotations", road / "annotations", "--videos", road / "videos")
    assert call("data", "check", *where) == 0
    said = capsys.readouterr().out
    assert "8 videos, 40 segments: 0 problems" in said
    assert "frames a second: " in said


def test_what_is_missing_gives_a_line_and_exit_code_1(road, tmp_path, capsys):
    shutil.copytree(road / "videos", tmp_path / "videos")
    (tmp_path / "videos" / "P01" / "videos" / "P01_103.MP4").unlink()
    where = ("--annotations", road / "annotations", "--videos", tmp_path / "videos")
    assert call("data", "check", *where) == 1
    said = capsys.readouterr().out
    assert "P01_103: missing (" in said
    assert said.endswith("1 problems\n")


def test_the_scans_of_videos_are_kept_where_it_is_asked_for(road, tmp_path, capsys):
    where = ("--annotations", road / "annotations", "--videos", road / "videos")
    for _ in range(2):
        assert call("data", "check", *where, "--index", tmp_path / "video-index") == 0
        assert len(list((tmp_path / "video-index").iterdir())) == 1  # they are copies of one
        said = capsys.readouterr()
        assert "8 videos, 40 segments: 0 problems" in said.out
        assert "index" not in said.err
