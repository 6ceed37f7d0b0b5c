"""Frames in folders and tars: each at its nominal time, or a reason, and never another in its place."""

import errno
import io
import os
import random
import re
import tarfile

import numpy as np
import pytest
from PIL import Image

from helpers.clips import barcode, read_barcode
from helpers.input_faults import ERRNOS, FailingReads
from helpers.ways import encoded, write_folder, write_tar
from mambavl.configs.errors import DataError, SystemFault
from mambavl.extract import frame_reader, input_files
from mambavl.extract.frame_reader import decode_picture
from mambavl.extract.timeline import VideoError
from mambavl.extract.video import open_video


def numbered(count, ending="png"):
    """Frames, from 1 on, that show their numbers."""
    return {f"frame_{n:010d}.{ending}": encoded(barcode(n), ending) for n in range(1, count + 1)}


def write(tmp_path, way, files, video_id="P01_101"):
    write_one = {"folder": write_folder, "tar": write_tar}[way]
    return write_one(tmp_path / "rgb_frames" / (f"{video_id}.tar" if way == "tar" else video_id), files)


def frames_at(path, times):
    """What is given for each time: the number shown, or the status."""
    reader = open_video(path)
    index, _ = reader.timeline.at(np.asarray(times))
    found = dict(reader.frames(index))
    reader.close()
    return [
        found[i].status if isinstance(found[i], VideoError) else read_barcode(found[i])
        for i in index.tolist()
    ]


WAYS = pytest.mark.parametrize("way", ["folder", "tar"])


@WAYS
@pytest.mark.parametrize(("video_id", "rate"), [("P01_01", 60), ("P01_101", 50)])
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_frame_n_begins_at_n_minus_one_over_the_nominal_rate(tmp_path, way, video_id, rate, ending):
    path = write(tmp_path, way, numbered(130, ending), video_id)
    timeline = open_video(path).timeline
    assert timeline.fps == rate
    np.testing.assert_array_equal(timeline.pts, np.arange(130) / rate)
    assert timeline.end == 130 / rate
    n = np.array([1, 2, 60, 130])
    assert frames_at(path, (n - 1) / rate) == n.tolist()
    assert frames_at(path, n / rate - 1e-3) == n.tolist()
    assert frames_at(path, [130 / rate + 0.05]) == [130]  # held for a moment, as the last of a file
    with pytest.raises(VideoError, match="ends at") as error:
        frames_at(path, [130 / rate + 0.2])
    assert error.value.status == "short_video"


@WAYS
def test_frames_that_are_not_there_or_are_broken_fail_who_wants_them(tmp_path, way):
    files = numbered(20, "jpg")
    for n in (1, 2, 7, 11, 12, 13):
        del files[f"frame_{n:010d}.jpg"]
    files["frame_0000000009.jpg"] = files["frame_0000000009.jpg"][:-100]
    files["frame_0000000010.jpg"] = b""
    path = write(tmp_path, way, files)
    n = np.arange(1, 21)
    expected = ["damaged_frame" if k in (1, 2, 7, 9, 10, 11, 12, 13) else k for k in range(1, 21)]
    assert frames_at(path, (n - 0.5) / 50) == expected
    reader = open_video(path)
    assert [reason.removeprefix(f"{path}: ") for reason in reader.timeline.missing.values()] == [
        "frame_0000000001 to frame_0000000002 are not there",
        "frame_0000000007 is not there",
        "frame_0000000011 to frame_0000000013 are not there",
    ]
    reasons = {i: str(frame) for i, frame in reader.frames(np.arange(17)) if isinstance(frame, VideoError)}
    name = re.escape(str(path)) + (": ./" if way == "tar" else "/")
    assert re.fullmatch(
        f"{name}frame_0000000009.jpg: (image file is truncated|broken data|.*damaged).*", reasons[7]
    )
    assert re.fullmatch(f"{name}frame_0000000010.jpg: is no JPEG or PNG picture", reasons[8])
    assert (reader.timeline.end, reader.timeline.fps) == (20 / 50, 50)


@WAYS
@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"frame_0000000000.jpg": b""}, "frames are counted from 1"),
        ({"frame_3.jpg": b""}, "keep one of them"),
        ({"frame_0000000002.JPEG": b""}, "keep one of them"),
        ({"0.MP4": b""}, r"holds frames \(.*\) and chunks \("),
    ],
)
def test_what_is_not_the_frames_of_one_video_is_refused(tmp_path, way, more, said):
    path = write(tmp_path, way, {**numbered(3), **more})
    with pytest.raises((DataError, VideoError), match=said):
        open_video(path)


def test_other_files_are_passed_over_and_other_names_are_nothing(tmp_path):
    others = {"Thumbs.db": b"x", "frame_0000000004.jpg.part": b"x", "._frame_0000000001.png": b"x"}
    folder = write(tmp_path, "folder", {**numbered(3), **others})
    (folder / "frame_0000000005.png").mkdir()
    assert open_video(folder).timeline.end == 3 / 50
    images = write_folder(tmp_path / "P01_102", {"img_00001.jpg": encoded(barcode(1), "jpg")})
    with pytest.raises(DataError, match="P01_102: holds neither frames"):
        open_video(images)
    with pytest.raises(VideoError, match=r"P01_103\.tar: holds neither frames"):
        open_video(write_tar(tmp_path / "P01_103.tar", {"img_00001.jpg": b"x"}))


@WAYS
@pytest.mark.parametrize("video_id", ["V1", "kitchen_12", "P01_1", "P01_1011"])
def test_a_rate_that_nobody_says_is_not_guessed(tmp_path, way, video_id):
    with pytest.raises(DataError, match=f"{video_id}.*known of EPIC's videos only"):
        open_video(write(tmp_path, way, numbered(3), video_id))


# --- tars


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("prefix", ["", "./", "P01_101/", "../../../etc/", "/", "d" * 150 + "/"])
def test_members_are_read_wherever_their_names_point(tmp_path, format, prefix):
    if len(prefix) > 100 and format == tarfile.USTAR_FORMAT:
        prefix = prefix[60:]
    before = sorted(tmp_path.rglob("*"))
    path = write_tar(tmp_path / "P01_101.tar", dict(reversed(numbered(5).items())), prefix, format)
    assert frames_at(path, [0.0, 0.02, 0.09]) == [1, 2, 5]
    assert sorted(tmp_path.rglob("*")) == sorted([*before, path])


def test_links_and_folders_named_like_frames_are_no_frames(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(encoded(barcode(700)))
    path = write_tar(tmp_path / "P01_101.tar", numbered(2))
    with tarfile.open(path, "a") as tar:
        for n, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE), 3):
            member = tarfile.TarInfo(f"./frame_{n:010d}.png")
            member.type, member.linkname = kind, str(secret)
            tar.addfile(member)
    assert open_video(path).timeline.end == 2 / 50


@pytest.mark.parametrize("name", ["P01_101.tar", "P01_101.TAR"])
def test_a_tar_that_is_none_is_cut_off_or_damaged_is_unreadable(tmp_path, name):
    path = write_tar(tmp_path / name, numbered(8))
    whole = path.read_bytes()
    [third] = [m.start() for m in re.finditer(rb"\./frame_0000000003", whole)]
    for content in (
        b"",
        b"no tar at all" * 100,
        whole[: third + 700],
        whole[: third + 100],
        whole[:third] + b"\xff" * 512 + whole[third + 512 :],
        whole[: third + 124] + b"9" * 12 + whole[third + 136 :],
    ):
        path.write_bytes(content)
        with pytest.raises(VideoError, match=re.escape(str(path))) as error:
            open_video(path)
        assert error.value.status == "unreadable_video"


def test_no_damage_to_a_tar_does_more_than_fail_it_or_its_frames(tmp_path):
    path = write_tar(tmp_path / "P01_101.tar", numbered(4), format=tarfile.PAX_FORMAT)
    whole, chance = path.read_bytes(), random.Random(0)
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(chance.choice((1, 8, 64))):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            reader = open_video(path)
        except VideoError:
            continue
        for index, frame in reader.frames(np.arange(len(reader.timeline.pts))):
            if isinstance(frame, VideoError):
                assert frame.status == "damaged_frame"
            else:  # by its time
                assert read_barcode(frame) == round(reader.timeline.pts[index] * 50) + 1
        reader.close()


# --- pictures


def test_every_kind_of_eight_bit_picture_is_rgb():
    pixels = barcode(345)
    image = Image.fromarray(pixels)
    np.testing.assert_array_equal(decode_picture(encoded(pixels)), pixels)
    for mode in ("L", "P", "RGBA"):
        np.testing.assert_array_equal(decode_picture(saved(image.convert(mode), "PNG")), pixels)
    for mode in ("L", "CMYK"):
        assert read_barcode(decode_picture(saved(image.convert(mode), "JPEG"))) == 345
    assert read_barcode(decode_picture(saved(image, "JPEG", progressive=True))) == 345
    with pytest.raises(ValueError, match="eight bits a colour"):
        decode_picture(saved(Image.fromarray(np.zeros((4, 4), np.uint16)), "PNG"))
    with pytest.raises(ValueError, match="is no JPEG or PNG picture"):
        decode_picture(saved(image, "BMP"))


def saved(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


@pytest.mark.parametrize("damage", ["zeroed", "lost", "cut", "noise"])
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_a_picture_with_a_damaged_block_is_none(format, damage):
    """PIL alone gives grey or shifted blocks for most damaged JPEG files, and says nothing."""
    chance, block = np.random.default_rng(0), 4096
    image = Image.fromarray(chance.integers(0, 256, (32, 57, 3)).astype(np.uint8)).resize((456, 256))
    whole = saved(image, format)
    for at in chance.integers(700, len(whole) - block - 100, 40).tolist():
        before, after = whole[:at], whole[at + block :]
        middle = {"zeroed": bytes(block), "lost": b"", "noise": chance.bytes(block)}
        with pytest.raises(ValueError, match=r"\w"):
            decode_picture(before if damage == "cut" else before + middle[damage] + after)


def test_every_byte_of_a_png_counts():
    whole = encoded(barcode(5))
    for at in range(len(whole) - 12):  # the last chunk only says that it is the last
        changed = bytearray(whole)
        changed[at] ^= 1
        with pytest.raises(ValueError, match=r"\w"):
            decode_picture(bytes(changed))


def test_a_picture_that_is_larger_than_any_is_not_read(tmp_path, monkeypatch):
    path = write_tar(tmp_path / "P01_101.tar", numbered(2))
    folder = write_folder(tmp_path / "P01_101", numbered(2))
    monkeypatch.setattr(frame_reader, "MOST_BYTES", 100)
    for way in (path, folder):
        reason = dict(open_video(way).frames(np.array([0])))[0]
        assert "bytes, more than a picture" in str(reason)
        assert reason.status == "damaged_frame"


# --- errors of the system


def read_all(path):
    reader = open_video(path)
    try:
        return {index: read_barcode(frame) for index, frame in reader.frames(np.arange(6))}
    finally:
        reader.close()


@WAYS
@pytest.mark.parametrize("error", ERRNOS)
def test_whichever_call_fails_it_is_never_the_pictures_fault(tmp_path, monkeypatch, way, error):
    path = write(tmp_path, way, numbered(6))
    only = ("open", "stat", "read", "names", "is_folder")
    calls = FailingReads(first=10**9, only=only)
    monkeypatch.setattr(input_files, "calls", calls)
    expected = read_all(path)
    assert expected == {n: n + 1 for n in range(6)}
    assert calls.made > 10
    assert not calls.left_open
    for first in range(1, calls.made + 1):
        failing = FailingReads(error=error, first=first, only=only)
        monkeypatch.setattr(input_files, "calls", failing)
        said = re.escape(os.strerror(getattr(errno, error)))
        with pytest.raises(SystemFault, match=f"P01_101.*: cannot be read \\({said}\\)"):
            read_all(path)
        assert not failing.left_open
