"""`mambavl data check`: each fault of the videos on its line."""

import shutil
from dataclasses import replace

from helpers.clips import write_video
from helpers.dataset import broken_copy
from mambavl.extract.annotations import read_annotations
from mambavl.extract.data_check import check_data
from mambavl.extract.pyav_reader import PyAVReader


def test_data_check_lists_each_fault_on_its_line(dataset, tmp_path):
    read = read_annotations(dataset / "annotations")
    assert check_data(read, dataset / "videos", full=True).problems == []
    report = check_data(read, broken_copy(dataset, tmp_path) / "videos")
    problems = report.problems
    assert [problem.split(":")[0] for problem in problems] == ["P01_101", "P01_102", "P01_103", "P01_103"]
    assert problems[1] == "P01_102: missing (5 rows)"
    assert "expected P01/videos/P01_01.MP4" in report.notes[-1]
    assert "short" in problems[2]
    assert "rows end after the video" in problems[3]


def test_own_lists_need_not_say_anything_of_videos(dataset):
    read = read_annotations(dataset / "annotations")
    bare = tuple(replace(segment, start_frame=0, stop_frame=0) for segment in read.segments)
    report = check_data(replace(read, videos={}, segments=bare), dataset / "videos")
    assert report.problems == []
    assert not any("frame columns" in note for note in report.notes)
    assert any("frame columns" in note for note in check_data(read, dataset / "videos").notes)
    others = {name: info for name, info in read.videos.items() if name != "P01_101"}
    [problem] = check_data(replace(read, videos=others), dataset / "videos").problems
    assert problem == "P01_101: is not in the list of videos (video_info.csv)"


def test_a_root_one_level_too_high_is_one_problem(dataset):
    read = read_annotations(dataset / "annotations")
    (problem,) = check_data(read, dataset).problems
    assert problem.endswith(f"try --videos {dataset / 'videos'}")


def test_two_files_of_one_video_are_a_problem_of_that_video(dataset, tmp_path):
    read, copy = read_annotations(dataset / "annotations"), tmp_path / "videos"
    shutil.copytree(dataset / "videos", copy)
    (copy / "P01_101.mp4").touch()
    (problem,) = check_data(read, copy).problems
    assert problem.startswith(
        f"P01_101: there are {copy / 'P01/videos/P01_101.MP4'} and {copy / 'P01_101.mp4'}"
    )


def test_a_hole_is_a_problem_and_a_turned_picture_is_compared_as_it_is_shown(dataset, tmp_path, monkeypatch):
    read, copy = read_annotations(dataset / "annotations"), tmp_path / "videos"
    shutil.copytree(dataset / "videos", copy)
    (copy / "P01/videos/P01_101.MP4").unlink()
    times = [*range(0, 2000, 100), *range(4000, 6000, 100)]
    write_video(copy / "P01_101.mkv", frames=40, times=times, container="matroska")
    (problem,) = check_data(read, copy).problems
    assert problem == "P01_101: holds no frame between 1.90 and 4.00 s"
    monkeypatch.setattr(PyAVReader, "rotation", lambda self: -90.0)
    report = check_data(read, dataset / "videos")
    assert [problem.partition(": ")[2] for problem in report.problems] == [
        "mismatched: its picture is 48x160, of another shape than the listed 160x48"
    ] * 4
    assert "another size than the list says (a resized copy): 4 videos" in "\n".join(report.notes)
