"""The scan of a video is read from an index, or made anew; what a reader gives is the same."""

import itertools
import os
import pickle
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import av
import numpy as np
import pytest

from helpers import forks
from helpers.clips import cut_by_an_edit_list, damaged, noisy_barcode, read_barcode, turned, write_video
from helpers.faults import FailingCalls, Killed
from helpers.input_faults import FailingReads
from mambavl.cache import fsops
from mambavl.configs.errors import SystemFault
from mambavl.extract import input_files, video_index
from mambavl.extract.pyav_reader import PyAVReader
from mambavl.extract.timeline import VideoError
from mambavl.extract.video import open_video
from mambavl.extract.video_files import END, content_key
from mambavl.extract.video_index import Scan, VideoIndex

FRAMES, FPS = 240, 10
HOLE = 40_000  # bytes


class CountedReads(input_files.Calls):
    """The calls of the system, and how many bytes they gave."""

    def __init__(self):
        self.bytes = 0

    def read(self, descriptor, size, position):
        data = super().read(descriptor, size, position)
        self.bytes += len(data)
        return data


@pytest.fixture
def reads(monkeypatch):
    counted = CountedReads()
    monkeypatch.setattr(input_files, "calls", counted)
    return counted


def large(path, **options):
    """A file of two megabytes, most of which lies between what its content key covers."""
    if options.get("codec", "libx264") == "libx264":
        options = {"preset": "ultrafast", "crf": "8", **options}
    return write_video(path, **{"frames": FRAMES, "fps": FPS, "gop": 24, "picture": noisy_barcode, **options})


def zeroed(path):
    """A hole of zeros behind the middle of a file, wider than a packet, over the head of a fragment."""
    data = bytearray(path.read_bytes())
    hole = max(data.find(b"moof", len(data) // 2), len(data) // 2)
    assert END < hole < len(data) - END - HOLE
    data[hole : hole + HOLE] = bytes(HOLE)
    path.write_bytes(data)
    return path


def halved(path):
    os.truncate(path, path.stat().st_size // 2)
    return path


FRAGMENTED = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
OPEN_GOP = {"x264-params": "open-gop=1:bframes=2:keyint=24:min-keyint=24"}
INTRA_REFRESH = {"x264-params": "intra-refresh=1:bframes=0:keyint=20", "preset": "fast"}
VP8 = {"codec": "libvpx", "deadline": "realtime", "cpu-used": "8", "b": "400k"}
X265 = {"preset": "ultrafast", "x265-params": "log-level=none"}
FILES = {  # name -> what makes the file; a frame shows its own number, `hidden` more where some are hidden
    "mp4": lambda path: large(path),
    "mp4, index first": lambda path: large(path, muxer={"movflags": "faststart"}),
    "fragmented mp4": lambda path: large(path, muxer=FRAGMENTED),
    "no b-frames": lambda path: large(path, bf="0"),
    "mpeg-4": lambda path: large(path, codec="mpeg4", qscale="2"),
    "hevc": lambda path: large(
        path, codec="libx265", preset="ultrafast", **{"x265-params": "log-level=none"}
    ),
    "mkv": lambda path: large(path, container="matroska"),
    "mkv without cues": lambda path: large(path, container="matroska", muxer={"live": "1"}),
    "webm": lambda path: large(path, container="webm", **VP8),
    "avi": lambda path: large(path, container="avi", bf="0"),
    "mpeg-ts": lambda path: large(path, container="mpegts"),
    "flv": lambda path: large(path, container="flv"),
    "open gop": lambda path: large(path, **OPEN_GOP),
    "open gop, mpeg-ts": lambda path: large(path, container="mpegts", **OPEN_GOP),
    "intra refresh": lambda path: large(path, **INTRA_REFRESH),
    "intra refresh, mkv": lambda path: large(path, container="matroska", **INTRA_REFRESH),
    "hidden": lambda path: cut_by_an_edit_list(large(path.with_name("whole")), path, 30),
    "turned": lambda path: turned(large(path.with_name("whole")), path),
    "damaged mp4": lambda path: damaged(large(path.with_name("whole")), path, 101),
    "damaged fragments": lambda path: zeroed(large(path, muxer=FRAGMENTED)),
    "damaged mkv": lambda path: zeroed(large(path, container="matroska")),
    "damaged mpeg-ts": lambda path: zeroed(large(path, container="mpegts")),
    "damaged avi": lambda path: damaged(large(path.with_name("whole"), container="avi", bf="0"), path, 101),
    "cut mp4": lambda path: halved(large(path, muxer={"movflags": "faststart"})),
    "cut fragments": lambda path: halved(large(path, muxer=FRAGMENTED)),
    "cut mkv": lambda path: halved(large(path, container="matroska")),
    "cut mpeg-ts": lambda path: halved(large(path, container="mpegts")),
    "cut avi": lambda path: halved(large(path, container="avi", bf="0")),
}


def assert_same_answers(ours, truth, draw, times=10):
    """Two readers, asked for the same frames here and there, say the same, and right, of each. Returns how
    many are sound.
    """
    sound = 0
    for _ in range(times):
        wanted = draw.integers(0, len(truth.timeline.pts), int(draw.integers(1, 7)))
        found, expected = dict(ours.frames(wanted)), dict(truth.frames(wanted))
        assert found.keys() == expected.keys() == set(wanted.tolist())
        for index, frame in found.items():
            if isinstance(frame, VideoError):
                assert (frame.status, str(frame)) == (expected[index].status, str(expected[index]))
            else:
                np.testing.assert_array_equal(frame, expected[index])
                sound += 1
    return sound


@pytest.mark.parametrize("name", FILES)
def test_with_an_index_each_frame_is_what_it_was_without(tmp_path, name, monkeypatch, count):
    path, index = FILES[name](tmp_path / "video"), VideoIndex(tmp_path / "index", pytest.fail)
    truth = PyAVReader(path)
    PyAVReader(path, index=index).close()
    assert len(list(index.folder.iterdir())) == 1
    monkeypatch.setattr(PyAVReader, "_demux", lambda self: pytest.fail("was read whole again"))
    kept = open_video(path, index=index, key=content_key(path))
    for field in ("pts", "end", "longest"):
        np.testing.assert_array_equal(getattr(kept.timeline, field), getattr(truth.timeline, field))
    for field, value in vars(truth._scan).items():
        np.testing.assert_array_equal(getattr(kept._scan, field), value)
    for field in ("container", "codec", "streams"):
        assert getattr(kept, field) == getattr(truth, field)
    assert kept.rotation() == truth.rotation()
    sound = assert_same_answers(kept, truth, np.random.default_rng(0))
    assert sound > 5
    count("frames that an index gave", sound)
    # by the numbers that they show, from a reader that was never asked before
    wanted = np.random.default_rng(1).integers(0, len(truth.timeline.pts), 8)
    first = 30 if name == "hidden" else 0
    for i, frame in PyAVReader(path, index=index).frames(wanted):
        if not isinstance(frame, VideoError):
            upright = np.rot90(frame) if name == "turned" else frame
            assert read_barcode(upright) == first + round(truth.timeline.pts[i] * FPS)


def test_a_second_opening_reads_what_ffmpeg_needs_and_no_more(tmp_path, reads):
    path, index = large(tmp_path / "a.MP4", frames=700), VideoIndex(tmp_path / "index")
    key, size = content_key(path), path.stat().st_size
    assert size > 5e6
    reads.bytes = 0
    PyAVReader(path, index=index, key=key)
    assert reads.bytes > size
    reads.bytes = 0
    PyAVReader(path, index=index, key=key)
    (kept,) = index.folder.iterdir()
    assert reads.bytes + kept.stat().st_size < size / 10
    reads.bytes = 0
    PyAVReader(path, index=index)  # reads the key, too
    assert reads.bytes < 2 * END + size / 10


@pytest.mark.parametrize("key", [[1, 2], [1, "0" * 64], None], ids=["by time", "whole", "none"])
def test_a_key_of_another_kind_is_not_taken_for_the_content(tmp_path, key):
    index = VideoIndex(tmp_path / "index")
    for number, frames in enumerate((20, 30)):
        path = write_video(tmp_path / f"{number}.MP4", frames=frames)
        for _ in range(2):
            assert len(PyAVReader(path, index=index, key=key).timeline.pts) == frames
        assert len(list(index.folder.iterdir())) == number + 1


def test_a_copy_is_not_scanned_again_and_another_file_is(tmp_path, monkeypatch):
    path, index = write_video(tmp_path / "a.MP4"), VideoIndex(tmp_path / "index")
    PyAVReader(path, index=index)
    shutil.copyfile(path, tmp_path / "b.MP4")
    os.utime(tmp_path / "b.MP4", ns=(1, 1))
    write_video(path, frames=50)
    assert len(PyAVReader(path, index=index).timeline.pts) == 50
    monkeypatch.setattr(PyAVReader, "_demux", lambda self: pytest.fail("was read whole again"))
    assert len(PyAVReader(tmp_path / "b.MP4", index=index).timeline.pts) == 60


@pytest.mark.parametrize(
    "options", [{"container": "matroska"}, {"muxer": FRAGMENTED}, {"container": "mpegts"}]
)
def test_packets_that_are_mended_in_place_are_scanned_again(tmp_path, options):
    """Size, head and tail stand, and with them the content key; where the times of the packets stand, only
    the time of change tells.
    """
    path, index = large(tmp_path / "a", **options), VideoIndex(tmp_path / "index")
    whole = path.read_bytes()
    PyAVReader(zeroed(path), index=index)
    key = content_key(path)
    path.write_bytes(whole)
    assert content_key(path) == key
    assert len(PyAVReader(path, index=index).timeline.pts) == FRAMES
    zeroed(path)
    truth = PyAVReader(path)
    assert len(truth.timeline.pts) < FRAMES
    assert_same_answers(PyAVReader(path, index=index), truth, np.random.default_rng(0))


def test_the_index_of_mp4_says_all_of_a_damaged_file_too(tmp_path, monkeypatch):
    """So one that is mended is not scanned again, and each is judged by what is decoded."""
    whole, index = large(tmp_path / "a.MP4"), VideoIndex(tmp_path / "index")
    broken = damaged(whole, tmp_path / "b.MP4", 101)
    truth = PyAVReader(broken)
    PyAVReader(whole, index=index)
    monkeypatch.setattr(PyAVReader, "_demux", lambda self: pytest.fail("was read whole again"))
    sound = assert_same_answers(PyAVReader(broken, index=index), truth, np.random.default_rng(0), times=20)
    assert sound < sum(isinstance(frame, np.ndarray) for _, frame in truth.frames(np.arange(FRAMES)))


@pytest.fixture
def kept(tmp_path):
    """A video of 60 frames, and the file of its scan."""
    path, index = write_video(tmp_path / "a.MP4"), VideoIndex(tmp_path / "index")
    PyAVReader(path, index=index)
    (file,) = index.folder.iterdir()
    return path, file


def spoilt(whole, kind, other):
    if kind == "another's":
        return other
    if kind == "pickle":
        return pickle.dumps({"shown": [1]})
    if kind == "empty":
        return b""
    if kind == "cut":
        return whole[: len(whole) // 2]
    if kind == "longer":
        return whole + b"\0"
    changed = bytearray(whole)
    changed[{"first": 0, "checksum": 31, "arrays": 32, "last": -1}[kind]] ^= 1
    return bytes(changed)


@pytest.mark.parametrize(
    "kind", ["another's", "pickle", "empty", "cut", "longer", "first", "checksum", "arrays", "last"]
)
def test_a_damaged_file_or_another_videos_is_made_anew_with_one_line(tmp_path, kept, kind):
    path, file = kept
    whole = file.read_bytes()
    others = VideoIndex(tmp_path / "others")
    PyAVReader(write_video(tmp_path / "b.MP4", frames=80), index=others)
    file.write_bytes(spoilt(whole, kind, next(others.folder.iterdir()).read_bytes()))
    said = []
    reader = PyAVReader(path, index=VideoIndex(file.parent, said.append))
    assert len(reader.timeline.pts) == 60
    (line,) = said
    assert line == f"{file}: is damaged, or belongs to another video; the video is scanned again"
    assert file.read_bytes() == whole
    PyAVReader(path, index=VideoIndex(file.parent, pytest.fail))


@pytest.mark.parametrize("what", ["layout", "libavformat", "libavcodec"])
def test_scans_of_other_versions_are_not_read(kept, monkeypatch, what):
    """Another FFmpeg may see other packets in a file."""
    path, file = kept
    if what == "layout":
        monkeypatch.setattr(video_index, "VERSION", video_index.VERSION + 1)
    else:
        monkeypatch.setattr(av, "library_versions", {**av.library_versions, what: (99, 0, 0)})
    PyAVReader(path, index=VideoIndex(file.parent, pytest.fail))
    assert len(list(file.parent.iterdir())) == 2


def test_the_index_lies_beside_the_store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert VideoIndex.beside("v.zarr").folder == tmp_path / "video-index"
    assert VideoIndex.beside(tmp_path / "stores" / "v.zarr").folder == tmp_path / "stores" / "video-index"


def test_a_folder_that_cannot_be_used_costs_the_reuse_and_is_said_once(tmp_path):
    (tmp_path / "index").write_text("a file")
    said = []
    index = VideoIndex(tmp_path / "index", said.append)
    for number in range(3):
        path = write_video(tmp_path / f"{number}.MP4", frames=20 + number)
        assert len(PyAVReader(path, index=index).timeline.pts) == 20 + number
    (line,) = said
    assert line.startswith(f"{tmp_path}/index")
    assert line.endswith("; without kept scans a video is read whole at each opening")


@pytest.mark.parametrize("fault", ["EIO", "ENOSPC", "short", "kill"])
def test_whichever_call_fails_a_scan_is_kept_whole_or_not_at_all(tmp_path, monkeypatch, fault):
    path, only = write_video(tmp_path / "a.MP4"), ["write"] if fault == "short" else None
    for at in itertools.count(1):
        folder, said = tmp_path / str(at), []
        calls = FailingCalls(at, fault, only=only)
        with monkeypatch.context() as put:
            put.setattr(fsops, "calls", calls)
            try:
                reader = PyAVReader(path, index=VideoIndex(folder, said.append))
                assert len(reader.timeline.pts) == 60
                assert len(said) == (bool(calls.failed) and fault != "short")
            except Killed:
                assert fault == "kill"
        for _ in range(2):
            reader = PyAVReader(path, index=VideoIndex(folder, pytest.fail))
            assert len(reader.timeline.pts) == 60
        assert sum(not name.startswith(fsops.TEMPORARY) for name in os.listdir(folder)) == 1
        if not calls.failed:
            break
    assert at > (2 if fault == "short" else 8)


@pytest.mark.parametrize("times", [1, None])
def test_whichever_read_fails_no_scan_is_kept_of_what_was_read(tmp_path, monkeypatch, times):
    """A demuxer takes a failed read for the end of the file."""
    path = write_video(tmp_path / "a.MP4")
    calls = FailingReads(first=10**9)
    monkeypatch.setattr(input_files, "calls", calls)
    PyAVReader(path, index=VideoIndex(tmp_path / "whole"))
    for at in range(1, calls.made + 1):
        failing = FailingReads(first=at, times=times)
        monkeypatch.setattr(input_files, "calls", failing)
        with pytest.raises(SystemFault):
            PyAVReader(path, index=VideoIndex(tmp_path / "index"))
        assert not failing.left_open
    assert not list(tmp_path.glob("index/*"))


def test_the_scan_of_a_file_that_is_exchanged_meanwhile_is_not_kept(tmp_path, monkeypatch):
    """Or the next one to read the new file would believe it."""
    path, index = write_video(tmp_path / "a.MP4", frames=60), VideoIndex(tmp_path / "index")
    demux = PyAVReader._demux

    def exchange_and_demux(self):
        write_video(tmp_path / "b.MP4", frames=50)
        os.replace(tmp_path / "b.MP4", path)
        return demux(self)

    monkeypatch.setattr(PyAVReader, "_demux", exchange_and_demux)
    assert len(PyAVReader(path, index=index).timeline.pts) == 60
    assert not list(tmp_path.glob("index/*"))
    # nor under a key that is older than the file
    key = content_key(path)
    write_video(path, frames=40)
    monkeypatch.setattr(PyAVReader, "_demux", demux)
    assert len(PyAVReader(path, index=index, key=key).timeline.pts) == 40
    assert not list(tmp_path.glob("index/*"))


def test_times_that_are_not_proved_are_not_kept(tmp_path, monkeypatch):
    """Whether pictures without times are in order is seen when they are decoded; where that fails, it is
    tried at each opening.
    """
    path, index = write_video(tmp_path / "a.MP4"), VideoIndex(tmp_path / "index")
    monkeypatch.setattr(PyAVReader, "_has_proved_times", lambda self, scan: False)
    PyAVReader(path, index=index)
    assert not list(tmp_path.glob("index/*"))


def test_processes_that_come_at_once_all_have_it_and_leave_one_file(tmp_path):
    path, folder = large(tmp_path / "a.MP4"), tmp_path / "index"

    def look():
        for _ in range(5):
            reader = PyAVReader(path, index=VideoIndex(folder, pytest.fail))
            assert len(reader.timeline.pts) == FRAMES
            for file in folder.iterdir():
                if not file.name.startswith(fsops.TEMPORARY):
                    file.unlink(missing_ok=True)

    children = [forks.fork(look) for _ in range(4)]
    assert [child.wait() for child in children] == [0] * 4
    PyAVReader(path, index=VideoIndex(folder, pytest.fail))
    assert len(list(folder.iterdir())) == 1


def test_a_scan_comes_back_as_it_was(tmp_path):
    draw = np.random.default_rng(0)
    scan = Scan(
        shown=np.sort(draw.integers(-(2**40), 2**60, 9)),
        keys=np.array([-5, 2**61]),
        proved_by=draw.integers(0, 2**60, 9),
        lasts=draw.random(9),
        typical=1.5,
        followed=draw.random(9) > 0.5,
        begins_at_any_key=False,
        is_reordered=True,
        has_proved_times=True,
    )
    VideoIndex(tmp_path).keep([9, "parts:x"], scan)
    found = VideoIndex(tmp_path).scan_of([9, "parts:x"])
    assert type(found.is_reordered) is bool
    for name, value in vars(scan).items():
        np.testing.assert_array_equal(getattr(found, name), value)
    assert VideoIndex(tmp_path).scan_of([9, "parts:y"]) is None


def test_a_file_that_several_threads_open_at_once_is_scanned_by_one(tmp_path, monkeypatch):
    path, index = write_video(tmp_path / "a.MP4"), VideoIndex(tmp_path / "index")
    scans, together, demux = [], threading.Barrier(4), PyAVReader._demux

    def slowly(reader):
        scans.append(reader)
        time.sleep(0.2)  # the others are at the file by now
        return demux(reader)

    def opened(_):
        together.wait()
        return PyAVReader(path, index=index).timeline.pts.tolist()

    truth = PyAVReader(path).timeline.pts.tolist()
    monkeypatch.setattr(PyAVReader, "_demux", slowly)
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(opened, range(4))) == [truth] * 4
    assert len(scans) == 1


def test_a_scan_that_hangs_or_fails_keeps_no_other_thread_from_the_file(tmp_path, monkeypatch):
    path, index = write_video(tmp_path / "a.MP4"), VideoIndex(tmp_path / "index")
    demux, hangs, goes_on, alive = PyAVReader._demux, threading.Event(), threading.Event(), []

    def hanging(reader):
        if not hangs.is_set():
            hangs.set()
            assert goes_on.wait(60)
            raise ValueError("holds nothing")
        return demux(reader)

    monkeypatch.setattr(PyAVReader, "_demux", hanging)
    monkeypatch.setattr(video_index, "PATIENCE", 0.3)
    monkeypatch.setattr(video_index.watch, "alive", lambda: alive.append(threading.get_ident()))
    with ThreadPoolExecutor(1) as threads:
        stuck = threads.submit(PyAVReader, path, index=index)
        assert hangs.wait(60)
        assert len(PyAVReader(path, index=index).timeline.pts) == 60
        assert alive.count(threading.get_ident()) > 60  # it also waited; a packet says so, too
        goes_on.set()
        with pytest.raises(VideoError, match="holds nothing"):
            stuck.result(60)
    next(index.folder.iterdir()).unlink()
    assert len(PyAVReader(path, index=index).timeline.pts) == 60


def test_no_two_threads_parse_a_scan_at_once(kept, monkeypatch):
    """Python 3.11 cannot."""
    path, file = kept
    load, inside, together = np.load, [], threading.Event()

    def watched(*words, **settings):
        inside.append(1)
        if len(inside) > 1:
            together.set()
        together.wait(0.5)
        inside.pop()
        return load(*words, **settings)

    monkeypatch.setattr(np, "load", watched)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: VideoIndex(file.parent).scan_of(content_key(path)), range(4)))
    assert None not in found
    assert not together.is_set()
