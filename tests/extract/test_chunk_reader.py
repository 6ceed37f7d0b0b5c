"""A video in chunks: the frames of all of them by the video's time, and holes where one is not there."""

import numpy as np
import pytest

from helpers.clips import read_barcode, write_video
from helpers.input_faults import FailingReads
from helpers.ways import pictures_of, write_chunks, write_cuttable
from mambavl.configs.errors import SystemFault
from mambavl.extract import chunk_reader, input_files
from mambavl.extract.timeline import VideoError
from mambavl.extract.video import open_video


def shown(path, times, decoder="pyav"):
    """What is given for each time: the number shown, or the status."""
    reader = open_video(path, decoder)
    index, _ = reader.timeline.at(np.asarray(times))
    found = dict(reader.frames(index))
    reader.close()
    return [
        found[i].status if isinstance(found[i], VideoError) else read_barcode(found[i])
        for i in index.tolist()
    ]


@pytest.fixture
def video(tmp_path):
    """Six seconds of ten frames, which show their numbers."""
    return write_cuttable(tmp_path / "whole.MP4")


@pytest.fixture
def chunks(video, tmp_path):
    """It in 0.MP4, 2.MP4, 4.MP4."""
    return write_chunks(tmp_path / "P01_01.MP4", video, 2)


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
@pytest.mark.parametrize("seconds", [1, 2, 3, 5, 15])
def test_chunks_are_the_video_that_they_were_cut_from(video, tmp_path, seconds, decoder):
    if decoder == "decord":
        pytest.importorskip("decord", reason="decord has no wheel for this machine")
    folder = write_chunks(tmp_path / "P01_01", video, seconds)
    assert len(list(folder.iterdir())) == -(-6 // seconds)
    whole, cut = open_video(video), open_video(folder, decoder)
    np.testing.assert_allclose(cut.timeline.pts, whole.timeline.pts, atol=1e-9)
    assert cut.timeline.end == pytest.approx(whole.timeline.end)
    assert not cut.timeline.missing
    found = dict(cut.frames(np.arange(60)[::-1]))
    for index, pixels in enumerate(pictures_of(video)):
        np.testing.assert_array_equal(found[index], pixels)
    times = np.random.default_rng(0).uniform(0, 5.99, 30)
    assert shown(folder, times, decoder) == np.floor(times * 10).astype(int).tolist()


def test_a_chunk_that_is_not_there_fails_who_wants_it_and_nobody_else(chunks):
    (chunks / "2.MP4").unlink()
    assert open_video(chunks).timeline.fps == pytest.approx(10)
    assert shown(chunks, [1.95, 2.0, 3.0, 3.99, 4.0]) == [19, *["damaged_frame"] * 3, 40]
    (chunks / "0.MP4").unlink()
    assert shown(chunks, [0.0, 0.1, 3.99, 4.0, 5.99]) == [*["damaged_frame"] * 3, 40, 59]
    [reason] = open_video(chunks).timeline.missing.values()
    assert reason == f"{chunks}: there is nothing from 0.00 to 4 s"


def test_without_its_last_chunks_a_video_is_short(chunks):
    (chunks / "4.MP4").unlink()
    with pytest.raises(VideoError, match=r"ends at 4\.00 s") as error:
        shown(chunks, [4.5])
    assert error.value.status == "short_video"


@pytest.mark.parametrize("number", [0, 2, 4])
def test_a_chunk_that_cannot_be_opened_is_a_hole_with_its_reason(chunks, number):
    broken = chunks / f"{number}.MP4"
    broken.write_bytes(broken.read_bytes()[:500])
    times = np.arange(0.05, 6, 0.1)
    assert shown(chunks, times) == [
        "damaged_frame" if number <= k / 10 < number + 2 else k for k in range(60)
    ]
    [reason] = open_video(chunks).timeline.missing.values()
    assert reason.startswith(f"{broken}: ")


def test_chunks_of_which_none_can_be_opened_are_no_video(chunks):
    for path in chunks.iterdir():
        path.write_bytes(b"no video")
    with pytest.raises(VideoError, match=r"0\.MP4: ") as error:
        open_video(chunks)
    assert error.value.status == "unreadable_video"


def test_the_last_frame_of_a_chunk_stands_until_the_next_one_begins_and_no_longer(tmp_path):
    folder = tmp_path / "P01_01.MP4"
    write_video(folder / "0.MP4", frames=18, fps=10)  # ends at 1.8
    write_video(folder / "2.MP4", frames=23, fps=10)  # runs over into the next one
    write_video(folder / "4.MP4", frames=14, fps=10)  # ends 0.6 s before the next one
    write_video(folder / "6.MP4", frames=10, fps=10)
    assert shown(folder, [1.75, 1.85, 1.999, 2.0]) == [17, 17, 17, 0]
    assert shown(folder, [3.95, 3.9999, 4.0, 4.25]) == [19, 19, 0, 2]
    assert shown(folder, [5.35, 5.45, 5.99, 6.0]) == [13, "damaged_frame", "damaged_frame", 0]
    assert (np.diff(open_video(folder).timeline.pts) > 0).all()


def test_a_damaged_frame_of_a_chunk_is_one_of_the_video(chunks):
    data = bytearray((chunks / "2.MP4").read_bytes())
    at = data.index(b"mdat")
    size = int.from_bytes(data[at - 4 : at], "big")
    data[at + size // 2 : at + size // 2 + 200] = bytes(200)
    (chunks / "2.MP4").write_bytes(data)
    found = dict(open_video(chunks).frames(np.arange(60)))
    broken = [index for index, frame in found.items() if isinstance(frame, VideoError)]
    assert broken
    assert set(broken) <= set(range(20, 40))
    assert "2.MP4: frame" in str(found[broken[0]])
    for index in set(found) - set(broken):
        assert read_barcode(found[index]) == index


def test_few_files_are_open_at_a_time_and_all_are_closed(video, tmp_path, monkeypatch):
    folder = write_chunks(tmp_path / "P01_01", video, 1)
    calls = FailingReads(first=10**9)
    monkeypatch.setattr(input_files, "calls", calls)
    reader = open_video(folder)
    most = 0
    for number in (0, 1, 2, 3, 4, 5, 0):
        assert read_barcode(dict(reader.frames(np.array([number * 10])))[number * 10]) == number * 10
        most = max(most, len(calls.left_open))
    assert most == chunk_reader.MOST_OPEN
    opened = len(calls.opened)
    assert len(dict(reader.frames(np.array([0, 1, 41, 51])))) == 4
    assert len(calls.opened) == opened  # those used last
    assert len(dict(reader.frames(np.array([31])))) == 1
    assert len(dict(reader.frames(np.array([42, 52])))) == 2
    assert len(calls.opened) == opened + 1  # in place of the one not used for the longest time
    reader.close()
    assert not calls.left_open


def test_a_chunk_that_is_broken_after_it_was_opened_fails_its_frames(chunks):
    reader = open_video(chunks)
    reader.close()
    (chunks / "2.MP4").write_bytes(b"no video")
    found = dict(reader.frames(np.array([10, 25])))
    assert read_barcode(found[10]) == 10
    assert (found[25].status, "2.MP4" in str(found[25])) == ("damaged_frame", True)


def test_whichever_call_fails_it_is_never_the_chunks_fault(chunks, monkeypatch):
    only = ("open", "stat", "read", "names", "is_folder")

    def read_all():
        reader = open_video(chunks)
        try:
            return {i: read_barcode(frame) for i, frame in reader.frames(np.array([0, 19, 20, 59]))}
        finally:
            reader.close()

    calls = FailingReads(first=10**9, only=only)
    monkeypatch.setattr(input_files, "calls", calls)
    assert read_all() == {0: 0, 19: 19, 20: 20, 59: 59}
    assert not calls.left_open
    for first in range(1, calls.made + 1):
        failing = FailingReads(first=first, only=only)
        monkeypatch.setattr(input_files, "calls", failing)
        with pytest.raises(SystemFault, match=r"cannot be read \(Input/output error\)"):
            read_all()
        assert not failing.left_open


def test_a_still_picture_within_a_chunk_stands_where_the_user_says_so(tmp_path):
    folder = tmp_path / "P01_01.mkv"
    times = [*range(0, 500, 100), *range(2500, 3000, 100)]
    for second in (0, 3):
        write_video(folder / f"{second}.mkv", frames=10, times=times, container="matroska", codec="mpeg4")
    wanted = np.array([0.45, 2.0, 5.0])
    with pytest.raises(VideoError, match=r"holds no frame for 2\.00 s"):
        open_video(folder).timeline.at(wanted)
    reader = open_video(folder, still_pictures=True)
    index, _ = reader.timeline.at(wanted)
    assert [read_barcode(frame) for _, frame in reader.frames(index)] == [4, 4]
    assert index.tolist() == [4, 4, 14]
    reader.close()
