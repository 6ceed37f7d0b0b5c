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
