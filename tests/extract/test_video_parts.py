"""What the parts of a video are called, and which of them make one."""

import pytest

from helpers.input_faults import FailingReads
from mambavl.configs.errors import DataError, SystemFault
from mambavl.extract import input_files
from mambavl.extract.video_parts import SUFFIXES, arrange, list_parts, part_of


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("frame_0000000001.jpg", ("frames", 1)),
        ("frame_0000012345.JPEG", ("frames", 12345)),
        ("frame_7.Png", ("frames", 7)),
        *((f"15{ending}", ("chunks", 15)) for ending in SUFFIXES),
        ("0.MP4", ("chunks", 0)),
        ("1650.MP4", ("chunks", 1650)),
        ("frame_0000000001.jpg.part", None),
        ("._frame_0000000001.jpg", None),
        ("frame_-1.jpg", None),
        ("frame_.jpg", None),
        ("frame_0000000001.gif", None),
        ("Frame 1.jpg", None),
        ("img_00001.jpg", None),
        ("7.5.MP4", None),
        ("-15.MP4", None),
        ("15.jpg", None),
        ("15", None),
        ("P01_01.MP4", None),
        ("frame_\u0661.jpg", None),  # a digit, but not one of these ten
        ("\u0661.MP4", None),
    ],
)
def test_a_part_is_known_by_its_name(name, part):
    assert part_of(name) == part


def test_parts_come_in_order_of_their_numbers_whatever_else_is_there():
    parts = arrange(["30.MP4", "notes.txt", "0.MP4", "120.MP4", "15.MP4"])
    assert (parts.kind, list(parts.names)) == ("chunks", [0, 15, 30, 120])
    parts = arrange(["./b/frame_0000000010.jpg", "frame_0000000009.jpg", "a/"])
    assert (parts.kind, parts.names) == (
        "frames",
        {9: "frame_0000000009.jpg", 10: "./b/frame_0000000010.jpg"},
    )


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["0.MP4", "00.MP4"], "(?:there are 0.MP4 and 00.MP4|keep one)"),
        (["15.MP4", "15.mkv"], "keep one"),
        (["frame_1.jpg", "frame_1.jpg"], "keep one"),  # a tar may hold a name twice
        (["0.MP4", "frame_1.jpg"], r"holds frames \(frame_1.jpg, ...\) and chunks \(0.MP4, ...\)"),
        ([], "holds neither frames"),
        (["a.MP4"], "holds neither frames"),
        (["frame_1.jpg", "frame_0.jpg"], "holds frame_0.jpg, and frames are counted from 1"),
    ],
)
def test_what_is_not_one_video_is_refused(tmp_path, names, said):
    with pytest.raises(ValueError, match=said):
        arrange(names)
    if len(set(names)) == len(names):
        for name in names:
            (tmp_path / name).touch()
        with pytest.raises(DataError, match=f"{tmp_path}: .*{said}"):
            list_parts(tmp_path)


def test_a_folder_that_cannot_be_listed_is_waited_for(tmp_path, monkeypatch):
    (tmp_path / "0.MP4").touch()
    passing = FailingReads(times=2, only=("names",))
    monkeypatch.setattr(input_files, "calls", passing)
    assert list_parts(tmp_path, retries=2).names == {0: "0.MP4"}
    assert passing.waits == [1.0, 5.0]
    monkeypatch.setattr(input_files, "calls", FailingReads(only=("names",)))
    with pytest.raises(SystemFault, match=f"{tmp_path}: cannot be read"):
        list_parts(tmp_path)
