"""Videos are found in every usual layout and with any ending; what lies there instead is said, once."""

import os

import pytest

from helpers.dataset import broken_copy
from mambavl.configs.errors import DataError
from mambavl.extract import video_folder
from mambavl.extract.annotations import read_annotations
from mambavl.extract.video_folder import SUFFIXES, VideoFolder, find_videos


def put(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@pytest.mark.parametrize("ending", [*SUFFIXES, ".MP4", ".Mkv", ".WEBM"])
@pytest.mark.parametrize("layout", ["P01/videos", "P01", "."])
def test_every_usual_layout_and_ending_is_found(tmp_path, layout, ending):
    path = put(tmp_path / layout / f"P01_01{ending}")
    for name in ("P01_010.mp4", "P01_0.mp4", "P01_01.MP4.part", "._P01_01.MP4", "P01_01.csv", "P01_01"):
        put(path.with_name(name))
    assert VideoFolder(tmp_path).find("P01", "P01_01") == path
    assert VideoFolder(tmp_path).find("P01", "P01_02") is None


@pytest.mark.parametrize("other", ["P01/videos/P01_01.mkv", "P01/P01_01.mp4", "P01_01.MP4"])
def test_two_files_of_one_video_are_an_error_that_names_both(tmp_path, other):
    first, second = put(tmp_path / "P01/videos/P01_01.MP4"), put(tmp_path / other)
    with pytest.raises(DataError) as error:
        VideoFolder(tmp_path).find("P01", "P01_01")
    assert f"{first} and {second}; keep one" in str(error.value)


@pytest.mark.parametrize(
    "inside",
    [
        "rgb_frames/P01_01.tar",
        "rgb_frames/P01_01/frame_0000000001.jpg",
        "P01_01/frame_0000000001.PNG",
        "P01_01.MP4/0.MP4",
        "P01_01/15.mkv",
    ],
)
def test_frames_and_chunks_are_a_video_and_a_file_goes_before_them(tmp_path, inside):
    part = put(tmp_path / "P01" / inside)
    found = part if part.suffix == ".tar" else part.parent
    for name in ("P01_01.csv", "P01_010.tar"):
        put(found.with_name(name))
    assert VideoFolder(tmp_path).find("P01", "P01_01") == found
    file = put(tmp_path / "P01/videos/P01_01.MP4")
    assert VideoFolder(tmp_path).find("P01", "P01_01") == file


def test_a_tar_and_a_folder_of_frames_are_an_error_that_names_both(tmp_path):
    tar = put(tmp_path / "P01/rgb_frames/P01_01.tar")
    frames = put(tmp_path / "P01/P01_01/frame_0000000001.jpg").parent
    with pytest.raises(DataError, match=f"P01_01: there are {tar} and {frames}; keep one"):
        VideoFolder(tmp_path).find("P01", "P01_01")


@pytest.mark.parametrize("name", ["P01/videos/P01_01.MP4", "P01_01.mkv", "P01/rgb_frames/P01_01.tar"])
def test_a_video_is_looked_for_under_every_root(tmp_path, name):
    first, second = tmp_path / "first", tmp_path / "second"
    found, other = put(first / name), put(second / "P01/P01_02.MP4")
    folder = VideoFolder([first, second])
    assert folder.find("P01", "P01_01") == found
    assert folder.find("P01", "P01_02") == other
    assert folder.find("P01", "P01_03") is None
    assert VideoFolder([second, first]).find("P01", "P01_01") == found
    assert VideoFolder([first, first, found.parent]).find("P01", "P01_01") == found  # the same file
    linked = second / name
    linked.parent.mkdir(parents=True, exist_ok=True)
    linked.symlink_to(found)
    assert VideoFolder([second, first]).find("P01", "P01_01") == linked
    linked.unlink()
    again = put(second / "P01" / ("P01_01.tar" if name.endswith("tar") else "P01_01.mp4"))
    folder = VideoFolder([first, second])  # the one before has listed them
    with pytest.raises(DataError) as error:
        folder.find("P01", "P01_01")
    assert str(error.value) == (
        f"P01_01: there are {found} and {again}; keep one of them, or name the folders of those that you "
        f"mean (--videos {found.parent}, one --videos for each)"
    )
    said = folder.elsewhere("P01", "P01_03")
    assert f", under {first} or {second}; there is P01" in said


def test_whoever_has_files_and_frames_names_the_folders_of_one_kind(tmp_path):
    file = put(tmp_path / "P01/videos/P01_01.MP4")
    tar = put(tmp_path / "P01/rgb_frames/P01_01.tar")
    assert VideoFolder(tmp_path / "P01/videos").find("P01", "P01_01") == file
    assert VideoFolder(tmp_path / "P01/rgb_frames").find("P01", "P01_01") == tar


def test_each_root_must_be_there(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such folder; --videos"):
        VideoFolder([tmp_path, tmp_path / "nowhere"])


def test_a_hint_is_looked_for_round_every_root(tmp_path):
    put(tmp_path / "b" / "deep" / "P01" / "P01_01.MP4")
    (tmp_path / "a" / "x" / "y").mkdir(parents=True)
    said = VideoFolder([tmp_path / "a" / "x" / "y", tmp_path / "b"]).elsewhere("P01", "P01_01")
    assert said.endswith(f"try --videos {tmp_path / 'b' / 'deep'}")


def test_a_folder_of_something_else_is_no_video_and_a_linked_one_is(tmp_path):
    put(tmp_path / "P01/P01_01/notes.txt")
    put(tmp_path / "P01/P01_01.old/frame_0000000001.jpg")
    (tmp_path / "P01/P01_01.mkv").mkdir()
    file = put(tmp_path / "P01/videos/P01_01.MP4")
    assert VideoFolder(tmp_path).find("P01", "P01_01") == file
    put(tmp_path / "disk" / "frame_0000000001.jpg")
    (tmp_path / "P01/rgb_frames").mkdir()
    (tmp_path / "P01/rgb_frames/P01_02").symlink_to(tmp_path / "disk")
    (tmp_path / "P01/P01_02").symlink_to(tmp_path / "disk")  # the same one
    assert VideoFolder(tmp_path).find("P01", "P01_02") == tmp_path / "P01/rgb_frames/P01_02"


def test_a_link_to_the_same_file_is_no_second_file(tmp_path):
    path = put(tmp_path / "P01/videos/P01_01.MP4")
    (tmp_path / "P01_01.mp4").symlink_to(path)
    (tmp_path / "P01" / "P01_01.mkv").symlink_to(tmp_path / "nowhere")
    assert VideoFolder(tmp_path).find("P01", "P01_01") == path


def test_a_folder_that_cannot_be_read_stops_the_job(tmp_path, monkeypatch):
    """It never makes a video missing."""
    put(tmp_path / "P01/videos/P01_01.MP4")

    def scandir(folder):
        if folder.name == "videos":
            raise OSError(5, "Input/output error")
        return os_scandir(folder)

    os_scandir = os.scandir
    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(
        DataError, match=r"videos: cannot be read \(Input/output error\); run the same command"
    ):
        VideoFolder(tmp_path).find("P01", "P01_01")


@pytest.mark.parametrize(
    ("there", "asked", "said"),
    [
        # the root one or more levels too high
        ("EPIC/P01/videos/P01_01.MP4", ".", "try --videos {root}/EPIC"),
        ("a/b/P01/P01_01.mp4", ".", "try --videos {root}/a/b"),
        ("a/videos/P01_01.mp4", ".", "try --videos {root}/a/videos"),
        # or too low
        ("P01/videos/P01_01.MP4", "P01/videos", "try --videos {root}"),
        ("P01/P01_01.MP4", "P01/videos", "try --videos {root}"),
        # frames and chunks, in the same way
        ("EPIC/P01/rgb_frames/P01_01.tar", ".", "try --videos {root}/EPIC"),
        ("a/b/P01/rgb_frames/P01_01/frame_0000000001.jpg", ".", "try --videos {root}/a/b"),
        ("a/b/P01/P01_01.MP4/0.MP4", ".", "P01_01 is {root}/a/b/P01/P01_01.MP4; try --videos {root}/a/b"),
        # nothing that could be read
        (
            "P01/P01_01/img_00001.jpg",
            ".",
            "P01_01 is a folder with img_00001.jpg, and neither frames (frame_",
        ),
        ("P01/rgb_frames/P01_01.tar.gz", ".", "P01_01.tar.gz does not end like a video (.mp4, "),
        ("P01/videos/P01_02.MP4", ".", "all in one folder, P01_01.MP4, under {root}; there is P01"),
    ],
)
def test_what_lies_there_instead_is_said(tmp_path, there, asked, said):
    root = tmp_path / "root"
    put(root / there)
    (root / asked).mkdir(parents=True, exist_ok=True)
    if asked != ".":
        (root / asked / "other").touch()
    folder = VideoFolder(root / asked)
    if asked == "." or "videos" not in there:
        assert folder.find("P01", "P01_01") is None
    assert said.format(root=root) in folder.elsewhere("P01", "P01_01")


def test_an_empty_folder_says_what_is_expected(tmp_path):
    assert VideoFolder(tmp_path).elsewhere("P01", "P01_01") == (
        "expected P01/videos/P01_01.MP4, P01/rgb_frames/P01_01.tar (or the folder P01_01 of its frames), "
        "P01/P01_01.MP4 (or a folder of this name with chunks) or, all in one folder, P01_01.MP4, "
        f"under {tmp_path}; there is nothing"
    )


def test_the_search_for_a_hint_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(video_folder, "MOST_LOOKED_AT", 10)
    for number in range(30):
        put(tmp_path / f"{number:02d}" / "x" / "P01_01.MP4")
    assert "there is 00, 01, 02, 03, 04, ..." in VideoFolder(tmp_path).elsewhere("P01", "P01_01")


def test_missing_videos_stop_the_job_unless_they_are_allowed(dataset, tmp_path):
    read, copy = read_annotations(dataset / "annotations"), broken_copy(dataset, tmp_path)
    paths = find_videos(read, copy / "videos", allow_missing=True)
    assert [video for video, path in paths.items() if path is None] == ["P01_102"]
    assert paths["P01_104"] == copy / "videos" / "P01" / "videos" / "P01_104.MP4"
    with pytest.raises(DataError, match=r"1 of 4 videos are not there \(P01_102\).*allow_missing=true"):
        find_videos(read, copy / "videos", allow_missing=False)
    with pytest.raises(DataError, match=r"4 of 4 videos are not there.*try --videos") as error:
        find_videos(read, copy, allow_missing=True)  # a store without any
    assert str(copy / "videos") in str(error.value)
    with pytest.raises(DataError, match="--videos takes the folder that holds"):
        find_videos(read, tmp_path / "nowhere", allow_missing=True)


def test_files_may_be_named_one_by_one(dataset, tmp_path):
    read = read_annotations(dataset / "annotations")
    named = {f"P01_{number}": tmp_path / f"{number}.MP4" for number in (104, 103, 102, 101, 200)}
    assert find_videos(read, named, allow_missing=False) == {
        video: path for video, path in named.items() if video != "P01_200"
    }
