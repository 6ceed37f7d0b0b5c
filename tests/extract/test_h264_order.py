"""The count of an H.264 encoder tells a picture that stands still from others that are gone."""

import av
import numpy as np
import pytest

from helpers.clips import without_packets, write_video
from mambavl.extract.h264_order import PictureOrder, Sequence

LONG = {"gop": 9999, "sc_threshold": "0"}
STILL = [*range(0, 2000, 100), *range(9000, 11_000, 100)]  # in 1/1000 s; 1.9 to 9.0 s stand still
CONTAINERS = ["matroska", "mpegts", "flv"]


def order_of(path):
    """pts on display, and which of them are known to be followed by the very next."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        order, shown = PictureOrder(stream), []
        for packet in container.demux(stream):
            if packet.size and packet.pts is not None:
                order.note(packet.pts, packet)
                shown.append(packet.pts)
    shown = np.array(sorted(shown))
    return shown, order.followed(shown)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("bf", ["0", "1", "3"])  # without B-frames x264 counts by frame_num
def test_a_picture_that_stands_still_is_followed_by_the_next(tmp_path, container, bf):
    path = write_video(
        tmp_path / "a", frames=40, times=STILL, container=container, bf=bf, b_strategy="0", **LONG
    )
    shown, followed = order_of(path)
    assert len(shown) == 40
    assert followed.tolist() == [True] * 39 + [False]  # of the last nothing is known


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("bf", ["0", "1", "3"])
@pytest.mark.parametrize("lost", [1, 2, 3, 7, 8, 15, 16, 31, 32, 33])
def test_behind_a_picture_that_others_were_lost_behind_nothing_is_known(tmp_path, container, bf, lost):
    """Also where so many were lost that the count, modulo a power of two, has come round."""
    whole = write_video(tmp_path / "a", frames=100, container=container, bf=bf, b_strategy="0", **LONG)
    path = without_packets(whole, tmp_path / "b", range(40, 40 + lost), container)
    shown, followed = order_of(path)
    assert len(shown) == 100 - lost
    ticks = np.diff(shown)
    is_hole = ticks > 1.5 * np.median(ticks)
    assert is_hole.any()
    assert not followed[:-1][is_hole].any()
    assert followed[:-1][~is_hole].mean() > 0.9


@pytest.mark.parametrize("gop", [10, 16])  # 16: where its count comes round, too
def test_the_count_begins_anew_at_an_idr_picture(tmp_path, gop):
    _, followed = order_of(
        write_video(tmp_path / "a.mkv", frames=40, gop=gop, container="matroska", bf="0", sc_threshold="0")
    )
    assert np.flatnonzero(~followed).tolist() == sorted({*range(gop - 1, 40, gop), 39})


def test_in_an_open_group_the_count_goes_on_over_the_keyframe(tmp_path):
    params = {"x264-params": "open-gop=1:bframes=2:keyint=12:min-keyint=12:scenecut=0"}
    _, followed = order_of(write_video(tmp_path / "a.mkv", frames=40, container="matroska", **params))
    assert followed[:-1].all()


@pytest.mark.parametrize("profile", ["baseline", "main", "high422", "high444"])
def test_sequences_of_all_profiles_are_read(tmp_path, profile):
    pixels = {"high422": "yuv422p", "high444": "yuv444p"}.get(profile, "yuv420p")
    options = (
        {"profile": profile, "x264-params": "cqm=jvt:scenecut=0:keyint=99"}
        if "high" in profile
        else {"profile": profile, **LONG}
    )
    path = write_video(tmp_path / "a.mkv", frames=30, container="matroska", pixels=pixels, **options)
    _, followed = order_of(path)
    assert followed[:-1].all()


def test_of_interlaced_pictures_the_count_is_known_too(tmp_path):
    path = write_video(
        tmp_path / "a.mkv",
        frames=30,
        container="matroska",
        **{"x264-params": "interlaced=1:keyint=99:scenecut=0"},
    )
    assert order_of(path)[1][:-1].all()


def test_nothing_is_known_of_another_codec(tmp_path):
    _, followed = order_of(write_video(tmp_path / "a.mkv", frames=20, container="matroska", codec="mpeg4"))
    assert not followed.any()


def test_of_two_sequences_nothing_is_known(tmp_path):
    """Slices would have to say which of them they are of."""
    one, other = (
        write_video(tmp_path / name, frames=20, container="mpegts", **LONG, **more)
        for name, more in (("a", {"bf": "0"}), ("b", {"bf": "2"}))
    )
    (tmp_path / "c").write_bytes(one.read_bytes() + other.read_bytes())
    assert not order_of(tmp_path / "c")[1].any()


@pytest.mark.parametrize("size", range(1, 12))
def test_a_sequence_or_a_slice_that_is_cut_says_nothing(size):
    whole = bytes.fromhex("67f40028919b282830f600")[:size]
    sequence = Sequence.read(whole)
    assert sequence is None or size > 8
    assert Sequence(False, 4, 6, True).count(bytes([0x65])) is None


def test_a_slice_is_read_by_hand():
    """7.3.3: first_mb 0 (1), slice_type 7 (0001000), pps 0 (1), frame_num 5 in 4 bits, of an IDR picture its
    id 0 (1), the count 22 in 6 bits.
    """
    bits = "1000100010101010110000"
    data = int(bits.ljust(24, "0"), 2).to_bytes(3, "big")
    assert Sequence(False, 4, 6, True).count(b"\x41" + data) == 22
    assert Sequence(False, 4, 0, True).count(b"\x41" + data) == 10  # two a frame
    assert Sequence(False, 4, 0, True).count(b"\x01" + data) == 9  # that no other refers to
    idr = "1000100010101101011000"
    data = int(idr.ljust(24, "0"), 2).to_bytes(3, "big")
    assert Sequence(False, 4, 6, True).count(b"\x65" + data) == 22
    assert Sequence(False, 4, 6, True).modulus == 64
    assert Sequence(False, 4, 0, True).modulus == 32


def number(value):
    """9.1: as many zeros as bits follow the first one."""
    bits = f"{value + 1:b}"
    return "0" * (len(bits) - 1) + bits


def signed(value):
    return number(2 * value - 1 if value > 0 else -2 * value)


def unit(kind, *bits):
    """7.3.1: a NAL unit, with a 3 behind each two zeros where fewer than four would follow."""
    whole = "".join(bits) + "1"
    data, zeros, found = int(whole.ljust(-(-len(whole) // 8) * 8, "0"), 2), 0, bytearray([kind])
    for byte in data.to_bytes(-(-len(whole) // 8)):
        if zeros == 2 and byte < 4:
            found.append(3)
            zeros = 0
        found.append(byte)
        zeros = zeros + 1 if byte == 0 else 0
    return bytes(found)


FULL_LIST = "".join(map(signed, [1, -1] * 8))
SHORT_LIST = signed(-8)  # the next would be 0, so all that follow are as the last


@pytest.mark.parametrize(
    ("profile", "chroma", "matrices"),
    [
        (66, "", ""),
        (100, number(1) + number(0) * 2 + "0", "0"),
        (100, number(1) + number(0) * 2 + "0", "1" + "0" * 8),
        (
            100,
            number(1) + number(0) * 2 + "0",
            "1" + ("1" + FULL_LIST) + "0" * 5 + ("1" + FULL_LIST * 4) + "0",
        ),
        (100, number(1) + number(0) * 2 + "0", "1" + ("1" + SHORT_LIST) * 8),
        (244, number(3) + "1" + number(0) * 2 + "0", "1" + "0" * 11 + "1" + FULL_LIST * 4),
    ],
)
@pytest.mark.parametrize("is_frames_only", [True, False])
def test_a_sequence_is_read_by_hand(profile, chroma, matrices, is_frames_only):
    """7.3.2.1.1: frame_num of 9 bits, and the count of 12."""
    head = (f"{profile:08b}" + "0" * 16, number(0), chroma, matrices, number(5))
    tail = (number(4), "0", number(19), number(10), f"{is_frames_only:b}")
    expected = {"has_planes": profile == 244, "frame_num_bits": 9, "is_frames_only": is_frames_only}
    found = Sequence.read(unit(0x67, *head, number(0), number(8), *tail))
    assert found == Sequence(count_bits=12, **expected)
    assert Sequence.read(unit(0x67, *head, number(2), *tail)) == Sequence(count_bits=0, **expected)
    assert Sequence.read(unit(0x67, *head, number(1), *tail)) is None  # pic_order_cnt_type 1


def test_bytes_that_keep_zeros_apart_are_no_part_of_the_count():
    begin = (number(0), number(7), number(0))
    head = unit(0x41, *begin, "0" * 16, f"{5:016b}")
    assert b"\0\0\3" in head
    assert Sequence(False, 16, 16, True).count(head) == 5
    assert Sequence(True, 4, 6, False).count(unit(0x41, *begin, "10", "0101", "1", "1", "010110")) == 22
    assert Sequence(True, 4, 6, False).count(unit(0x41, *begin, "10", "0101", "0", "010110")) == 22
