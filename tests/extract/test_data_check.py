"""`mambavl data check`: each fault of the videos on its line."""

import shutil
from dataclasses import replace

import numpy as np

from helpers.clips import write_video
from helpers.dataset import broken_copy
from helpers.ways import frame_files, write_chunks, write_cuttable, write_folder, write_tar
from mambavl.extract.annotations import read_annotations
from mambavl.extract.data_check import check_data
from mambavl.extract.pyav_reader import PyAVReader
from mambavl.extract.video_index import VideoIndex


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
    write_video(copy / "P01_101.mkv", frames=40, times=times, container="matroska", gop=20, sc_threshold="0")
    (problem,) = check_data(read, copy).problems
    assert problem == (
        "P01_101: holds no frame between 1.90 and 4.00 s; if nothing was lost there, check with "
        "--still-pictures and extract with --set still_pictures=true"
    )
    assert check_data(read, copy, still_pictures=True).problems == []
    upright = PyAVReader._pixels
    monkeypatch.setattr(PyAVReader, "_pixels", lambda self, frame: np.rot90(upright(self, frame)))
    report = check_data(read, dataset / "videos")
    assert [problem.partition(": ")[2] for problem in report.problems] == [
        "mismatched: its picture is 48x160, of another shape than the listed 160x48"
    ] * 4
    assert "another size than the list says (a resized copy): 4 videos" in "\n".join(report.notes)


def test_frames_and_chunks_are_checked_like_files(dataset, tmp_path):
    read, copy = read_annotations(dataset / "annotations"), tmp_path / "videos"
    shutil.copytree(dataset / "videos", copy)
    files = copy / "P01/videos"
    frames = frame_files(files / "P01_101.MP4", 50, "jpg")
    write_folder(copy / "P01/rgb_frames/P01_101", frames)
    write_tar(copy / "P01/rgb_frames/P01_102.tar", frames)
    cut = write_chunks(copy / "P01/P01_103.MP4", write_cuttable(tmp_path / "cuttable.MP4"), 2)
    for number in (101, 102, 103):
        (files / f"P01_{number}.MP4").unlink()
    report = check_data(read, copy, full=True)
    assert report.problems == []
    assert dict(report.rates) == {50.0: 2, 10.0: 2}
    for number in (7, 8, 30):
        (copy / f"P01/rgb_frames/P01_101/frame_{number:010d}.jpg").unlink()
    (copy / "P01/rgb_frames/P01_101/frame_0000000001.jpg").write_bytes(b"no picture")
    (cut / "2.MP4").unlink()
    write_tar(copy / "P01/rgb_frames/P01_102.tar", dict(list(frames.items())[:100]))
    found = "\n".join(check_data(read, copy).problems)
    folder = copy / "P01/rgb_frames/P01_101"
    assert f"P01_101: has 2 holes; {folder}: frame_0000000007 to frame_0000000008 are not there" in found
    assert f"P01_101: corrupt: 1 of 5 frames tried cannot be decoded; {folder}/frame_0000000001.jpg" in found
    assert "P01_102: short: " in found
    assert f"P01_103: has 1 hole; {cut}: there is nothing from 2.00 to 4 s" in found
    (copy / "P01/P01_104.mkv").write_bytes(b"another file")
    assert f"P01_104: there are {files}/P01_104.MP4 and {copy}/P01/P01_104.mkv; keep one" in "\n".join(
        check_data(read, copy).problems
    )


def test_a_check_with_an_index_keeps_every_scan_and_says_the_same(dataset, tmp_path, monkeypatch):
    read, videos = read_annotations(dataset / "annotations"), broken_copy(dataset, tmp_path) / "videos"
    bare, index = check_data(read, videos), VideoIndex(tmp_path / "index")
    assert check_data(read, videos, index=index) == bare
    assert len(list(index.folder.iterdir())) == bare.rates.total() == 2
    scans = []
    demux = PyAVReader._demux
    monkeypatch.setattr(PyAVReader, "_demux", lambda self: scans.append(self.path) or demux(self))
    assert check_data(read, videos, index=index) == bare
    assert not [path for path in scans if path.name != "P01_101.MP4"]  # which cannot be read
