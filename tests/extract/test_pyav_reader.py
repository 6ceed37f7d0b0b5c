"""Frames of awkward files: each shows its own number, so a wrong one cannot pass."""

from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
from av.stream import Disposition

from helpers.clips import (
    HEIGHT,
    WIDTH,
    barcode,
    cut_by_an_edit_list,
    damaged,
    noisy_barcode,
    read_barcode,
    without_durations,
    without_packets,
    write_video,
)
from mambavl.extract import watch
from mambavl.extract.pyav_reader import PyAVReader, picture_streams
from mambavl.extract.timeline import VideoError
from mambavl.extract.video_index import VideoIndex
from mambavl.extract.watch import At

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


STILL = [*range(0, 1000, 100), *range(11_000, 12_000, 100)]  # in 1/1000 s: 0.9 to 11.0 s stand still
ONE_PART = {"gop": 9999, "sc_threshold": "0"}
LARGE = {"picture": noisy_barcode, "preset": "ultrafast"}
VP8 = {"codec": "libvpx", "deadline": "realtime", "cpu-used": "8", "b": "400k"}


@pytest.mark.parametrize("container", ["matroska", "mpegts", "flv"])
def test_a_still_picture_of_h264_stands_where_its_count_goes_on(tmp_path, container):
    path = write_video(tmp_path / "a", frames=20, times=STILL, container=container, **ONE_PART)
    reader = PyAVReader(path)
    index, _ = reader.timeline.at(np.array([0.45, 0.95, 5.0, 10.95, 11.05]))
    found = dict(reader.frames(index))
    assert [read_barcode(found[int(i)]) for i in index] == [4, 9, 9, 9, 10]


@pytest.mark.parametrize("container", ["matroska", "mpegts", "flv"])
@pytest.mark.parametrize("lost", [3, 16, 30])
def test_packets_that_are_gone_are_no_picture_that_stands_still(tmp_path, container, lost):
    whole = write_video(tmp_path / "a", frames=90, container=container, **ONE_PART)
    path = without_packets(whole, tmp_path / "b", range(30, 30 + lost), container)
    with pytest.raises(VideoError, match=r"holds no frame for 3\.25 s.*stands still there, --set still_pict"):
        PyAVReader(path).timeline.at(np.array([2.5, 3.25, 8.5]))
    index, _ = PyAVReader(path, still_pictures=True).timeline.at(np.array([3.25]))
    assert index.tolist() == [29]


@pytest.mark.parametrize("options", [{"gop": 10, "sc_threshold": "0"}, {"codec": "mpeg4"}, VP8], ids=str)
def test_where_a_still_picture_looks_like_lost_ones_the_user_insists(tmp_path, options):
    """Before an IDR picture, and in codecs that do not count."""
    path = write_video(tmp_path / "a.mkv", frames=20, times=STILL, container="matroska", **options)
    times = np.array([0.95, 5.0, 11.05])
    with pytest.raises(VideoError, match=r"holds no frame for 5\.00 s"):
        PyAVReader(path).timeline.at(times)
    reader = PyAVReader(path, still_pictures=True)
    index, _ = reader.timeline.at(times)
    found = dict(reader.frames(index))
    assert [read_barcode(found[int(i)]) for i in index] == [9, 9, 10]


def test_a_webm_that_leaves_the_end_of_a_picture_to_the_next_one_is_believed_while_it_is_whole(tmp_path):
    path = write_video(
        tmp_path / "a.webm",
        frames=60,
        times=[*range(0, 5000, 100), *range(15_000, 16_000, 100)],
        container="webm",
        picture=noisy_barcode,
        **VP8,
    )
    without_durations(path)
    times = np.array([4.95, 14.9, 15.05])
    reader = PyAVReader(path, index=VideoIndex(tmp_path / "index", pytest.fail))
    index, _ = reader.timeline.at(times)
    found = dict(reader.frames(index))
    assert [read_barcode(found[int(i)]) for i in index] == [49, 49, 50]
    kept = PyAVReader(path, index=VideoIndex(tmp_path / "index", pytest.fail)).timeline
    np.testing.assert_array_equal(kept.longest, reader.timeline.longest)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + data[len(data) // 2 + 5000 :])
    with pytest.raises(VideoError, match=r"holds no frame for 14\.90 s"):
        PyAVReader(path).timeline.at(times)


def test_a_hole_of_zeros_is_no_picture_that_stands_still(tmp_path):
    """In files of every container that would be believed if they were whole, and of one that is not known."""
    for container, more in (
        ("matroska", LARGE),
        ("mpegts", LARGE),
        ("webm", {**VP8, "picture": noisy_barcode}),
    ):
        path = write_video(tmp_path / container, frames=240, gop=240, container=container, **more)
        if container == "webm":
            without_durations(path)
        data = path.read_bytes()
        pts = PyAVReader(path).timeline.pts
        path.write_bytes(data[: len(data) // 2] + bytes(60_000) + data[len(data) // 2 + 60_000 :])
        reader = PyAVReader(path)
        spoilt, none = reader.timeline, np.zeros_like(reader._scan.followed)
        nothing_known = replace(reader._scan, followed=none).timeline(reader._tick, stands=False)
        gone = np.setdiff1d(np.round(pts, 2), np.round(spoilt.pts, 2))
        refused = {time for time in gone.tolist() if is_hole(spoilt, time)}
        assert refused == {time for time in gone.tolist() if is_hole(nothing_known, time)}
        assert len(refused) >= 4


def is_hole(timeline, time):
    try:
        timeline.at(np.array([time + 0.05]))
    except VideoError:
        return True
    return False


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


@pytest.fixture
def packets(monkeypatch):
    """The times of the packets that go to the decoder or are passed over, of all readers."""
    passed, right = [], PyAVReader._packets_from

    def counted(self, key_pts):
        for pts, packet in right(self, key_pts):
            passed.append(pts)
            yield pts, packet

    monkeypatch.setattr(PyAVReader, "_packets_from", counted)
    return passed


@pytest.mark.parametrize("bf", ["0", "2"])
def test_one_keyframe_in_a_long_file_costs_no_more_than_the_file(tmp_path, packets, bf):
    """Batch after batch goes on where the one before ended."""
    path = write_video(tmp_path / "a.MP4", frames=600, gop=9999, bf=bf, sc_threshold="0")
    reader = PyAVReader(path)
    for first in range(0, 600, 20):
        wanted = np.arange(first, first + 12, 3)
        found = dict(reader.frames(wanted))
        assert {i: read_barcode(frame) for i, frame in found.items()} == {i: i for i in wanted.tolist()}
    assert len(packets) <= 600
    assert packets == list(dict.fromkeys(packets))  # each once
    packets.clear()
    assert read_barcode(dict(reader.frames(np.array([3])))[3]) == 3  # back to the keyframe, and no further
    assert len(packets) < 20


def test_what_is_not_to_come_any_more_is_looked_for_from_the_keyframe(tmp_path, packets):
    path = write_video(tmp_path / "a.MP4", frames=300, gop=9999, b_strategy="0", sc_threshold="0")
    reader = PyAVReader(path)
    key, shown = int(reader._scan.keys[0]), reader._scan.shown

    def read_from_the_keyframe(wanted):
        packets.clear()
        assert read_barcode(dict(reader.frames(np.array([wanted])))[wanted]) == wanted
        assert len(packets) < wanted + 20
        return packets[0] == key

    assert read_from_the_keyframe(30)
    assert not read_from_the_keyframe(40)
    assert read_from_the_keyframe(39)  # it was shown before
    assert not read_from_the_keyframe(60)
    reader._run.skipped.add(int(shown[80]))  # as where a decoder gives pictures late
    assert read_from_the_keyframe(80)
    assert reader.rotation() == 0  # which begins at the keyframe
    assert read_from_the_keyframe(100)
    next(reader.frames(np.array([120, 121])))  # whoever stops in between
    assert read_from_the_keyframe(140)


def test_what_a_decoder_that_went_on_does_not_give_is_judged_by_one_that_begins_at_the_keyframe(tmp_path):
    reader = PyAVReader(write_video(tmp_path / "a.MP4"))

    def fails():
        raise ValueError("damaged on the way")
        yield

    for frames in (iter(()), fails()):
        dict(reader.frames(np.array([14])))
        reader._run.frames = frames
        assert read_barcode(dict(reader.frames(np.array([16])))[16]) == 16


def assert_what_was_asked_before_does_not_matter(path, requests):
    """A reader that is asked in turn says what one says that is asked once. Returns how many frames are
    damaged.
    """
    reader, count = PyAVReader(path), 0
    for wanted in requests:
        found, expected = dict(reader.frames(wanted)), dict(PyAVReader(path).frames(wanted))
        assert found.keys() == expected.keys()
        for index, frame in found.items():
            if isinstance(frame, VideoError):
                assert str(frame) == str(expected[index])
                count += 1
            else:
                np.testing.assert_array_equal(frame, expected[index])
    return count


PYRAMID = {"x264-params": "b-pyramid=normal:bframes=3:b-adapt=0:keyint=60:scenecut=0"}
MPEG4 = {"codec": "mpeg4", "sc_threshold": "1000000000"}
ONE_KEY = {"gop": 9999, "sc_threshold": "0"}


@pytest.mark.parametrize(
    "options",
    [ONE_KEY, PYRAMID, {"bf": "0"}, OPEN_GOP, INTRA_REFRESH, MPEG4, {"container": "mpegts"}],
    ids=str,
)
def test_frames_and_damage_do_not_hang_on_what_was_asked_before(tmp_path, options):
    draw, lost = np.random.default_rng(0), 0
    large = {"picture": noisy_barcode} if "codec" in options else LARGE
    data = write_video(tmp_path / "a", **{"frames": 90, "gop": 45, **large, **options}).read_bytes()
    for hole in (0, 16, 300):
        for _ in range(3):
            spoilt, at = bytearray(data), int(draw.integers(len(data) // 4, len(data) * 3 // 4))
            spoilt[at : at + hole] = draw.bytes(hole)
            path = tmp_path / "b"
            path.write_bytes(spoilt)
            ascending = np.sort(draw.integers(0, len(PyAVReader(path).timeline.pts), 16))
            lost += assert_what_was_asked_before_does_not_matter(path, np.split(ascending, 8))
    assert lost > 3


def test_a_damaged_picture_that_makes_no_other_spoils_none_that_is_asked_for_later(tmp_path):
    whole = write_video(tmp_path / "a.MP4", frames=60, gop=60, b_strategy="0", sc_threshold="0", **LARGE)
    lost = 0
    for number in range(10, 40, 2):
        path = damaged(whole, tmp_path / "b.MP4", number)
        requests = [np.array([number + step]) for step in (-3, 0, 6)]
        lost += assert_what_was_asked_before_does_not_matter(path, requests)
    assert 15 < lost < 30  # by itself, or with those behind it


def test_every_packet_on_the_way_to_a_frame_shows_that_it_goes_on(tmp_path):
    """With one keyframe a wanted frame may take longer than a decoder may be silent."""

    class Counting(At):
        beats = 0

        def alive(self):
            self.beats += 1

    at = Counting()
    watch.begin(at)
    try:
        reader = PyAVReader(write_video(tmp_path / "a.mp4", frames=120, gop=120))
        assert at.beats >= 120  # the scan
        before = at.beats
        assert len(list(reader.frames(np.array([110])))) == 1
        assert at.beats - before >= 50
        reader.close()
    finally:
        watch.begin(None)


def test_pictures_that_change_in_size_and_colour_format_are_each_converted_as_themselves(tmp_path):
    """Between two clips that were joined; the converter is set up once, for the first."""
    path, clips = tmp_path / "joined.ts", (("yuv420p", 160, 48), ("yuv444p", 96, 64), ("yuv420p", 160, 48))
    drawn = np.random.default_rng(3)
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=10)
        for number, (pixels, width, height) in enumerate(clips):
            coder = av.CodecContext.create("libx264", "w")
            coder.pix_fmt, coder.width, coder.height = pixels, width, height
            coder.time_base, coder.options = Fraction(1, 10), {"bf": "0"}
            for frame in range(6):
                picture = drawn.integers(0, 256, (height, width, 3), np.uint8)
                made = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixels)
                made.pts, made.time_base = 6 * number + frame, coder.time_base
                for packet in coder.encode(made):
                    packet.stream = stream
                    output.mux(packet)
            for packet in coder.encode(None):
                packet.stream = stream
                output.mux(packet)
    with av.open(str(path)) as whole:
        alone = [frame.to_ndarray(format="rgb24") for frame in whole.decode(video=0)]
    assert {picture.shape for picture in alone} == {(48, 160, 3), (64, 96, 3)}
    found = dict(PyAVReader(path).frames(np.arange(18)))
    for number, picture in enumerate(alone):
        np.testing.assert_array_equal(found[number], picture)
