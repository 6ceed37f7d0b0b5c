"""Whether a Matroska file is whole, and says nothing of how long its pictures last."""

from itertools import pairwise

import av
import numpy as np
import pytest

from helpers.clips import noisy_barcode, without_durations, write_video
from mambavl.extract.input_files import InputFile
from mambavl.extract.matroska import lasts_until_the_next

VP8 = {"codec": "libvpx", "deadline": "realtime", "cpu-used": "8", "b": "400k"}


def says(path):
    file = InputFile(path)
    file.seek(7)
    found = lasts_until_the_next(file)
    assert file.tell() == 7
    file.close()
    return found


@pytest.mark.parametrize(
    "muxer", [{}, {"live": "1"}, {"cues_to_front": "1", "reserve_index_space": "4096"}], ids=str
)
@pytest.mark.parametrize("container", ["matroska", "webm"])
def test_a_whole_file_without_durations_is_one(tmp_path, container, muxer):
    """live: neither the segment nor a cluster says its size, as browsers write them."""
    codec = VP8 if container == "webm" else {}
    path = write_video(tmp_path / "a", frames=80, container=container, muxer=muxer, **codec)
    assert not says(path)  # its track says a duration
    assert says(without_durations(path))


@pytest.fixture
def whole(tmp_path):
    path = without_durations(
        write_video(
            tmp_path / "a", frames=240, container="matroska", preset="ultrafast", picture=noisy_barcode
        )
    )
    assert says(path)
    return path


def test_bytes_that_are_lost_or_zeroed_anywhere_show(whole):
    data, draw = whole.read_bytes(), np.random.default_rng(0)
    end = data.rindex(bytes.fromhex("1c53bb6b"))  # of the pictures: Cues
    for hole in (1, 7, 200, 3000):
        for at in draw.integers(64, end - hole, 12).tolist():
            whole.write_bytes(data[:at] + data[at + hole :])
            assert not says(whole)
    for at in draw.integers(64, end - 60_000, 20).tolist():
        whole.write_bytes(data[:at] + bytes(60_000) + data[at + 60_000 :])
        assert not says(whole)


def test_a_file_that_breaks_off_is_whole_up_to_there(whole):
    data = whole.read_bytes()
    for share in (0.4, 0.7, 0.9):
        whole.write_bytes(data[: int(len(data) * share)])
        assert says(whole)
    whole.write_bytes(data + bytes(1000))  # behind its end
    assert not says(whole)


@pytest.mark.parametrize("data", [b"", b"\0", b"no video at all", b"\x1a\x45\xdf\xa3"])
def test_another_file_is_none(tmp_path, data):
    (tmp_path / "a").write_bytes(data)
    assert not says(tmp_path / "a")


CLUSTER = bytes.fromhex("1f43b675")


def blocks_of(path):
    """Where each block begins and ends, by FFmpeg, which says where the track's number stands in it."""
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.pos + 4 + packet.size) for packet in container.demux() if packet.size]
    head = min(after - end for (_, end), (after, _) in pairwise(packets))  # kind and size
    return [(start - head, end) for start, end in packets]


def test_whole_blocks_and_clusters_that_are_taken_out_show(whole):
    data, blocks = whole.read_bytes(), blocks_of(whole)
    for first, last in ((3, 3), (10, 12), (100, 100), (len(blocks) - 2, len(blocks) - 2)):
        whole.write_bytes(data[: blocks[first][0]] + data[blocks[last][1] :])
        assert not says(whole)
    clusters = [place for place in range(len(data)) if data.startswith(CLUSTER, place)]
    clusters = [place for place in clusters if place > clusters[0] or data[place + 4] != 0x53]  # SeekHead's
    for begin, end in pairwise(clusters[-3:]):
        whole.write_bytes(data[:begin] + data[end:])
        assert not says(whole)


def element(kind, content, size=None):
    """size: as it is written, eight bytes, absent: that of the content."""
    return bytes.fromhex(kind) + (1 << 56 | len(content) if size is None else size).to_bytes(8) + content


UNKNOWN = (1 << 57) - 1


def made(path, *, groups=b"", track=b"", size=None, more=b""):
    """A file of one film, track 1, and one sound, track 2, written by hand."""
    film = element("ae", element("d7", b"\1") + element("83", b"\1") + track)
    sound = element("ae", element("d7", b"\2") + element("83", b"\2") + element("23e383", b"\1\1"))
    cluster = element("e7", b"\0") + element("a3", b"\x81\0\0\x80picture") + groups
    content = element("1654ae6b", film + sound) + element("1f43b675", cluster, size) * 2 + more
    path.write_bytes(element("1a45dfa3", b"") + element("18538067", content, size))
    return path


@pytest.mark.parametrize("size", [None, UNKNOWN])
def test_who_says_how_long_a_picture_lasts(tmp_path, size):
    path = tmp_path / "a"
    assert says(made(path, size=size))
    assert not says(made(path, size=size, track=element("23e383", b"\1\1")))  # DefaultDuration
    film, sound = (element("a0", element("a1", track + b"\0\0\0data")) for track in (b"\x81", b"\x82"))
    timed_film, timed_sound = (
        element("a0", element("a1", track + b"\0\0\0data") + element("9b", b"\5"))
        for track in (b"\x81", b"\x82")
    )
    assert says(made(path, size=size, groups=film + sound))
    assert says(made(path, size=size, groups=film + timed_sound))
    assert not says(made(path, size=size, groups=sound + timed_film))


@pytest.mark.parametrize("size", [None, UNKNOWN])
def test_what_does_not_belong_there_shows(tmp_path, size):
    path = tmp_path / "a"
    assert says(made(path, size=size, more=element("1c53bb6b", b"cues") + element("ec", b"void")))
    for more in (
        b"\0",
        b"\xff",
        element("a1", b""),
        element("e7", b"") if size is None else b"\1",
        b"\x42\x42\x81x",
    ):
        assert not says(made(path, size=size, more=more))
    assert not says(made(path, size=size, groups=element("a3", b"", UNKNOWN)))  # no size of its own
