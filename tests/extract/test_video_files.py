"""A video is known by its content: staged, exchanged, late, and in stores that knew it by its time."""

import hashlib
import os
import shutil
import struct

import pytest

from helpers.clips import write_video
from helpers.input_faults import FailingReads
from helpers.jobs import run, tree
from helpers.ways import write_folder
from mambavl.cache import open_store
from mambavl.configs.errors import DataError, Interrupted, SystemFault, UsageError
from mambavl.extract import input_files, video_files
from mambavl.extract.input_files import InputFile
from mambavl.extract.video_files import (
    END,
    HASHES,
    content_key,
    fingerprint,
    has_whole_index,
    is_content_key,
    key_of,
    video_keys,
)


def test_a_fingerprint_changes_with_the_file(tmp_path):
    path = tmp_path / "a.MP4"
    path.write_bytes(b"frames")
    os.utime(path, ns=(5, 7))
    assert fingerprint(path, "fast") == [6, 7]
    assert fingerprint(path, "full") == [6, hashlib.sha256(b"frames").hexdigest()]
    assert fingerprint(None, "fast") is None


def box(kind: bytes, content: bytes, how: str = "short") -> bytes:
    """A box of an MP4 file, its size written in one of three ways."""
    if how == "long":
        return struct.pack(">I4sQ", 1, kind, 16 + len(content)) + content
    return struct.pack(">I4s", 8 + len(content) if how == "short" else 0, kind) + content


FTYP, MDAT, MOOV = box(b"ftyp", b"isom"), bytes(3 * END), bytes(3 * END)
MOVIES = {  # the index between head and tail, behind the pictures, or before them
    "middle": FTYP + box(b"mdat", MDAT) + box(b"moov", MOOV) + box(b"free", MDAT),
    "long": FTYP + box(b"mdat", MDAT, "long") + box(b"moov", MOOV, "long") + box(b"free", MDAT),
    "last": FTYP + box(b"mdat", MDAT, "long") + box(b"moov", MOOV, "open"),
    "first": FTYP + box(b"moov", MOOV) + box(b"mdat", MDAT, "open"),
}


@pytest.mark.parametrize("name", MOVIES)
def test_head_tail_and_index_make_a_video_what_it_is(tmp_path, name):
    path, whole = tmp_path / "a.MP4", MOVIES[name]
    path.write_bytes(whole)
    expected = content_key(path)
    assert expected[0] == len(whole)
    index = whole.index(b"moov") + len(MOOV) // 2
    for at, matters in (
        (9, True),
        (len(whole) - 1, True),
        (index, True),
        (END - 1, True),
        (whole.index(b"mdat") + len(MDAT) // 2, False),  # cheap: not every byte is read
    ):
        changed = bytearray(whole)
        changed[at] ^= 1
        path.write_bytes(changed)
        assert (content_key(path) != expected) == matters, at
    for other in (whole + b"x", whole[:-1]):
        path.write_bytes(other)
        assert content_key(path) != expected


@pytest.mark.parametrize(
    "content",
    [b"", b"short", b"\x1aE\xdf\xa3" * 1000, bytes(10_000), b"\0\0\0\x10moov", box(b"free", b"") * 20_000],
    ids=["empty", "short", "mkv", "zeros", "cut", "boxes"],
)
def test_files_without_an_index_have_a_head_and_a_tail(tmp_path, content):
    keys = []
    for changed in (content, content + b"x"):
        (tmp_path / "a").write_bytes(changed)
        keys.append(content_key(tmp_path / "a"))
    assert keys[0] != keys[1]


def test_an_open_file_is_known_as_it_is_by_path_and_stays_where_it_is(tmp_path):
    path = tmp_path / "a.MP4"
    path.write_bytes(MOVIES["middle"])
    file = InputFile(path)
    file.seek(77)
    assert key_of(file) == content_key(path)
    assert has_whole_index(file)
    assert file.tell() == 77


@pytest.mark.parametrize(
    ("content", "is_whole"),
    [
        *((movie, True) for movie in MOVIES.values()),
        (FTYP + box(b"moov", MOOV) + box(b"moof", b"") + box(b"mdat", MDAT), False),
        (MOVIES["middle"] + b"garbage", False),
        (MOVIES["middle"][:-1], False),
        (FTYP + box(b"mdat", MDAT), False),
        (b"\x1aE\xdf\xa3" * 1000, False),
        (b"", False),
    ],
    ids=[*MOVIES, "fragments", "garbage", "cut", "no index", "mkv", "empty"],
)
def test_only_an_mp4_without_fragments_has_all_of_its_pictures_in_its_index(tmp_path, content, is_whole):
    (tmp_path / "a").write_bytes(content)
    assert has_whole_index(InputFile(tmp_path / "a")) == is_whole


def test_keys_by_content_are_told_from_others(tmp_path):
    (tmp_path / "a").write_bytes(b"frames")
    assert is_content_key(content_key(tmp_path / "a"))
    assert not is_content_key(fingerprint(tmp_path / "a", "fast"))
    assert not is_content_key(fingerprint(tmp_path / "a", "full"))


def test_a_copy_is_the_same_video(tmp_path):
    path = write_video(tmp_path / "a.MP4")
    key = content_key(path)
    os.utime(shutil.copy(path, tmp_path / "b.mp4"), ns=(1, 1))
    assert content_key(tmp_path / "b.mp4") == key
    assert video_keys({"b": tmp_path / "b.mp4", "a": None}, tmp_path / "s.zarr", "fast") == {
        "a": None,
        "b": key,
    }


def test_what_cannot_be_read_has_no_key(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.MP4")
    key = content_key(path)
    passing = FailingReads(first=2, times=2)
    monkeypatch.setattr(input_files, "calls", passing)
    assert content_key(path, retries=2) == key
    for first in range(1, 8):
        monkeypatch.setattr(input_files, "calls", FailingReads(first=first))
        with pytest.raises(SystemFault, match=r"a\.MP4: cannot be read"):
            content_key(path)


# --- frames and chunks

PARTS = {
    "frames": {f"frame_{n:010d}.jpg": bytes([n]) * (50 + n) for n in range(1, 41)},
    "chunks": {f"{15 * n}.MP4": MOVIES["middle"] + bytes([n]) for n in range(3)},
}


@pytest.mark.parametrize("method", ["fast", "full"])
@pytest.mark.parametrize("kind", PARTS)
def test_a_folder_is_its_parts_wherever_it_lies(tmp_path, kind, method):
    def key(folder):
        return video_keys({"a": folder}, tmp_path / "s.zarr", method)["a"]

    folder = write_folder(tmp_path / "P01_01", PARTS[kind])
    expected = key(folder)
    assert expected[0] == sum(map(len, PARTS[kind].values()))
    copy = write_folder(tmp_path / "elsewhere" / "P01_01.MP4", {"notes.txt": b"", **PARTS[kind]})
    for path in copy.iterdir():
        os.utime(path, ns=(1, 1))
    assert key(copy) == expected
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        path.write_bytes(data[:-1])  # another size
        assert key(folder) != expected
        path.unlink()
        if len(list(folder.iterdir())):
            assert key(folder) != expected
        path.write_bytes(data)
    assert key(folder) == expected
    first = next(iter(PARTS[kind]))
    (folder / first).write_bytes(b"\1" + PARTS[kind][first][1:-1] + b"\7")
    assert key(folder) != expected


def test_in_full_every_byte_of_every_picture_counts(tmp_path):
    folder = write_folder(tmp_path / "P01_01", PARTS["frames"])
    cheap, whole = content_key(folder), fingerprint(folder, "full")
    (folder / "frame_0000000002.jpg").write_bytes(bytes(52))
    assert content_key(folder) == cheap  # not among those that are read
    assert fingerprint(folder, "full") != whole
    (folder / "frame_0000000002.jpg").write_bytes(bytes(51))
    (folder / "frame_0000000004.jpg").write_bytes(bytes(55))  # all together they are as large as before
    assert content_key(folder) != cheap


@pytest.mark.parametrize("kind", PARTS)
@pytest.mark.parametrize("method", ["fast", "full"])
def test_a_folder_that_cannot_be_read_has_no_key(tmp_path, monkeypatch, kind, method):
    folder = write_folder(tmp_path / "P01_01", PARTS[kind])
    read = content_key if method == "fast" else lambda path: fingerprint(path, "full")
    only = ("open", "stat", "read", "names", "is_folder", "size")
    calls = FailingReads(first=10**9, only=only, most=10**6)
    monkeypatch.setattr(input_files, "calls", calls)
    read(folder)
    for first in range(1, calls.made + 1):
        monkeypatch.setattr(input_files, "calls", FailingReads(first=first, only=only, most=10**6))
        with pytest.raises(SystemFault, match=r"P01_01.*: cannot be read \(Input/output error\)"):
            read(folder)


def test_a_folder_that_is_not_one_video_has_no_key(tmp_path):
    folder = write_folder(tmp_path / "P01_01", {**PARTS["frames"], **PARTS["chunks"]})
    for method in ("fast", "full"):
        with pytest.raises(DataError, match=f"{folder}: holds frames .* and chunks"):
            video_keys({"a": folder}, tmp_path / "s.zarr", method)


# --- through the job


@pytest.fixture
def copy(dataset, tmp_path):
    """The data set, staged elsewhere: the same files, written now."""
    shutil.copytree(dataset, tmp_path / "copy", copy_function=shutil.copyfile)
    for path in (tmp_path / "copy").rglob("*.MP4"):
        os.utime(path, ns=(1, 1))
    return tmp_path / "copy"


def video(folder, number):
    return folder / "videos" / "P01" / "videos" / f"P01_{number}.MP4"


@pytest.mark.usefixtures("barcode")
@pytest.mark.parametrize("method", ["fast", "full"])
def test_processes_may_read_copies_in_different_places(dataset, copy, tmp_path, method):
    run(dataset, tmp_path / "whole.zarr", video_hash=method)
    run(dataset, tmp_path / "v.zarr", video_hash=method, shard=(0, 2))
    assert run(copy, tmp_path / "v.zarr", video_hash=method, shard=(1, 2)).finalized
    assert tree(tmp_path / "v.zarr") == tree(tmp_path / "whole.zarr")


@pytest.mark.usefixtures("barcode")
def test_a_video_that_comes_later_has_its_rows_done_and_no_others(dataset, copy, tmp_path):
    run(dataset, tmp_path / "whole.zarr", rows_per_group=5)
    video(copy, 102).unlink()
    store = tmp_path / "v.zarr"
    assert len(run(copy, store, rows_per_group=5, allow_missing=True).failures) == 5
    assert open_store(store).spec.inputs.videos["P01_102"] is None
    shutil.copyfile(video(dataset, 102), video(copy, 102))
    result = run(copy, store, rows_per_group=5)
    assert (result.rows, result.failures) == (5, [])
    assert tree(store) == tree(tmp_path / "whole.zarr")


@pytest.mark.usefixtures("barcode")
def test_another_video_of_the_same_name_is_another_recipe(dataset, copy, tmp_path):
    run(dataset, tmp_path / "v.zarr")
    write_video(video(copy, 102), frames=59)
    with pytest.raises(UsageError, match=r"inputs\.videos\.P01_102"):
        run(copy, tmp_path / "v.zarr")


@pytest.mark.usefixtures("barcode")
def test_a_store_that_knows_its_videos_by_time_goes_on_by_that(dataset, copy, tmp_path, monkeypatch):
    with monkeypatch.context() as before:  # as the code before wrote it
        before.setattr(
            video_files,
            "content_key",
            lambda path, retries: [os.stat(path).st_size, os.stat(path).st_mtime_ns],
        )
        run(dataset, tmp_path / "whole.zarr", rows_per_group=5)
        answers = iter([False] * 5 + [True] * 9)
        with pytest.raises(Interrupted):
            run(dataset, tmp_path / "v.zarr", rows_per_group=5, should_stop=lambda: next(answers))
        late = tmp_path / "late"
        shutil.copytree(dataset, late)  # with their times
        video(late, 103).unlink()
        run(late, tmp_path / "late.zarr", rows_per_group=5, allow_missing=True)
    stat = video(dataset, 101).stat()
    assert open_store(tmp_path / "whole.zarr").spec.inputs.videos["P01_101"] == [
        stat.st_size,
        stat.st_mtime_ns,
    ]
    with pytest.raises(UsageError, match=r"inputs\.videos"):
        run(copy, tmp_path / "v.zarr", rows_per_group=5)
    result = run(dataset, tmp_path / "v.zarr", rows_per_group=5)
    assert 0 < result.rows < 20
    assert tree(tmp_path / "v.zarr") == tree(tmp_path / "whole.zarr")
    assert run(dataset, tmp_path / "v.zarr", rows_per_group=5).rows == 0
    shutil.copy2(video(dataset, 103), video(late, 103))
    assert run(late, tmp_path / "late.zarr", rows_per_group=5).rows == 5
    assert tree(tmp_path / "late.zarr") == tree(tmp_path / "whole.zarr")


# --- full


@pytest.fixture
def hashed(monkeypatch):
    """The files that were hashed whole, one after the other."""
    names, whole = [], video_files.file_sha256
    monkeypatch.setattr(video_files, "file_sha256", lambda path: names.append(path.name) or whole(path))
    return names


@pytest.mark.usefixtures("barcode")
def test_whole_files_are_hashed_once_for_all_processes(dataset, copy, tmp_path, hashed):
    run(dataset, tmp_path / "v.zarr", video_hash="full", shard=(0, 2))
    run(copy, tmp_path / "v.zarr", video_hash="full", shard=(1, 2))
    assert hashed == [f"P01_10{number}.MP4" for number in (1, 2, 3, 4)]
    write_video(video(copy, 102), frames=59)
    with pytest.raises(UsageError, match=r"inputs\.videos\.P01_102"):
        run(copy, tmp_path / "v.zarr", video_hash="full")
    assert hashed[4:] == ["P01_102.MP4"]


def test_hashes_that_are_damaged_are_said_and_no_others_folder_gets_any(tmp_path, hashed):
    path = write_video(tmp_path / "a.MP4")
    other = tmp_path / "other"
    other.mkdir()
    (other / "letter.txt").touch()
    expected = [path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()]
    assert video_keys({"a": path}, other, "full") == {"a": expected}
    assert [file.name for file in other.iterdir()] == ["letter.txt"]
    for _ in range(2):
        assert video_keys({"a": path, "b": None}, tmp_path / "s.zarr", "full") == {"a": expected, "b": None}
    assert hashed == ["a.MP4"] * 2
    (tmp_path / "s.zarr" / HASHES).write_text("{")
    with pytest.raises(DataError, match=r"videos\.json: is damaged .*; delete it"):
        video_keys({"a": path}, tmp_path / "s.zarr", "full")
