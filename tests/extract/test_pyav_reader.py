"""Frames of awkward files: each shows its own number, so a wrong one cannot pass."""

from types import SimpleNamespace

import av
import numpy as np
import pytest
from av.stream import Disposition

from helpers.clips import HEIGHT, WIDTH, barcode, cut_by_an_edit_list, damaged, read_barcode, write_video
from mambavl.extract.pyav_reader import PyAVReader, picture_streams
from mambavl.extract.timeline import VideoError

OPEN_GOP = {"x264-params": "open-gop=1:bframes=2:keyint=12:min-keyint=12"}
INTRA_REFRESH = {"x264-params": "intra-refresh=1:bframes=0:keyint=20"}


@pytest.mark.parametrize("changes", [{}, OPEN_GOP, INTRA_REFRESH, {"codec": "mpeg4"}], ids=str)
@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts"])
def test_a_few_frames_here_and_there_are_those_asked_for(tmp_path, container, changes):
    """In MPEG-TS a seek lands behind the keyframe; without IDR the first pictures behind one never come."""
    reader = PyAVReader(write_video(tmp_path / "a", frames=120, gop=30, container=container, **changes))
    draw = np.random.default_rng(0)
    for _ in range(15):
        wanted = np.unique(draw.integers(0, 120, 6))
        found = dict(reader.frames(wanted))
        assert {i: read_barcode(frame) for i, frame in found.items()} == {int(i): int(i) for i in wanted}
    reader.close()


@pytest.mark.parametrize("bf", ["0", "2"])
def test_b_frames_in_avi_have_no_times_and_are_refused(tmp_path, bf):
    path = write_video(tmp_path / "a.avi", frames=120, container="avi", bf=bf)
    if bf == "2":
        with pytest.raises(VideoError, match=r"no times of their own \(B-frames in avi\); enc") as error:
            PyAVReader(path)
        assert error.value.status == "unreadable_video"
    else:
        found = dict(PyAVReader(path).frames(np.array([3, 50, 119])))
        assert [read_barcode(found[i]) for i in (3, 50, 119)] == [3, 50, 119]


def test_falling_times_later_in_a_file_hand_out_no_picture_behind_them(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.avi", frames=120, container="avi", gop=12)
    monkeypatch.setattr(PyAVReader, "_has_proved_times", lambda self, scan: True)
    found = dict(PyAVReader(path).frames(np.arange(120)))
    said = {str(frame).rpartition(": ")[2] for frame in found.values() if isinstance(frame, VideoError)}
    assert "the pictures there come with times that are not theirs" in said


def test_a_picture_of_mp4_stands_until_the_next_one(tmp_path):
    """Screen recordings: three pictures, ten seconds apart, among many."""
    times = [*range(0, 1000, 100), 11_000, 21_000, *range(21_100, 22_000, 100)]
    reader = PyAVReader(write_video(tmp_path / "a.MP4", frames=len(times), times=times))
    index, _ = reader.timeline.at(np.array([0.95, 5.0, 10.9, 20.9]))
    found = dict(reader.frames(index))
    assert [read_barcode(found[int(i)]) for i in index] == [9, 9, 9, 10]


def test_a_hole_in_another_container_is_no_picture_that_stands(tmp_path):
    times = [*range(0, 1000, 100), *range(11_000, 12_000, 100)]
    path = write_video(tmp_path / "a.mkv", frames=len(times), times=times, container="matroska")
    with pytest.raises(VideoError, match=r"holds no frame for 5\.00 s"):
        PyAVReader(path).timeline.at(np.array([5.0]))


def test_cover_art_is_no_picture_of_the_video():
    art, film, unknown = (
        SimpleNamespace(disposition=disposition, codec_context=codec)
        for disposition, codec in (
            (Disposition.attached_pic, "mjpeg"),
            (Disposition.default, "h264"),
            (Disposition.default, None),
        )
    )
    assert picture_streams(SimpleNamespace(streams=SimpleNamespace(video=[art, unknown, film]))) == [film]


def write_with(path, disposition):
    """A second picture beside the film, a black image."""
    with av.open(str(path), "w") as output:
        still, film = output.add_stream("mjpeg"), output.add_stream("libx264", rate=10)
        still.width, still.height, still.pix_fmt, still.disposition = WIDTH, HEIGHT, "yuvj420p", disposition
        film.width, film.height, film.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        black = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        output.mux(still.encode(av.VideoFrame.from_ndarray(black, format="rgb24")))
        output.mux(still.encode())
        for number in range(20):
            output.mux(film.encode(av.VideoFrame.from_ndarray(barcode(number), format="rgb24")))
        output.mux(film.encode())
    return path


def test_cover_art_is_not_counted_and_a_second_picture_is(tmp_path):
    reader = PyAVReader(write_with(tmp_path / "a.mp4", Disposition.attached_pic))
    assert reader.streams == 1
    assert read_barcode(dict(reader.frames(np.array([7])))[7]) == 7
    assert PyAVReader(write_with(tmp_path / "b.mp4", Disposition.default)).streams == 2


@pytest.mark.parametrize("bf", ["0", "2"])
def test_no_picture_behind_a_damaged_one_is_handed_out(tmp_path, bf):
    """Up to the next keyframe they are made of it, and those shown before it may be, too; the decoder marks
    one of them.
    """
    whole = write_video(tmp_path / "a.MP4", frames=120, gop=60, bf=bf, sc_threshold="0")
    sound = dict(PyAVReader(whole).frames(np.arange(120)))
    noticed = 0
    for number in range(3, 57, 3):
        found = dict(PyAVReader(damaged(whole, tmp_path / "b.MP4", number)).frames(np.arange(120)))
        broken = [i for i, frame in found.items() if isinstance(frame, VideoError)]
        if not broken:
            continue  # zeros may be a picture
        noticed += 1
        assert broken == list(range(broken[0], 60))
        for i in set(range(120)) - set(broken):
            np.testing.assert_array_equal(found[i], sound[i])
        # asked alone, it is the same
        last = dict(PyAVReader(tmp_path / "b.MP4").frames(np.array([59])))[59]
        assert isinstance(last, VideoError)
        assert last.status == "damaged_frame"
    assert noticed >= 5


@pytest.mark.parametrize("gop", [12, 250])
@pytest.mark.parametrize("hidden", [1, 13, 30])
def test_frames_that_an_edit_list_hides_are_decoded_but_never_counted(tmp_path, gop, hidden):
    whole = write_video(tmp_path / "a.MP4", frames=60, gop=gop)
    path = cut_by_an_edit_list(whole, tmp_path / "cut.MP4", hidden)
    reader = PyAVReader(path)
    assert len(reader.timeline.pts) == 60 - hidden
    shown = {i: read_barcode(frame) for i, frame in reader.frames(np.arange(60 - hidden))}
    assert shown == {i: i + hidden for i in range(60 - hidden)}
