"""Errors of the system while inputs are read: waited for, then told, and never taken for damage."""

import errno
import json
import os
import re

import numpy as np
import pytest

from helpers.cli import call
from helpers.clips import read_barcode, write_video
from helpers.dataset import broken_copy
from helpers.input_faults import ERRNOS, FAULTS, FailingReads, FaultyInChildren
from helpers.jobs import run, tree
from helpers.road import extract_words
from helpers.sounds import ramp, write_sound
from mambavl.cache.layout import records
from mambavl.configs.errors import DataError, Interrupted, SystemFault
from mambavl.extract import input_files, video_job
from mambavl.extract.annotations import read_annotations
from mambavl.extract.data_check import check_data
from mambavl.extract.input_files import InputFile, patiently, read_whole, try_twice
from mambavl.extract.sound import SoundReader
from mambavl.extract.suspects import LOST
from mambavl.extract.timeline import VideoError
from mambavl.extract.video import open_video


@pytest.fixture
def put(monkeypatch):
    """Puts failing calls in place, and gives them."""

    def put_in_place(**how):
        calls = FailingReads(**how)
        monkeypatch.setattr(input_files, "calls", calls)
        return calls

    return put_in_place


def test_a_passing_error_is_waited_for_with_growing_pauses_on_a_file_opened_anew(tmp_path, put):
    (tmp_path / "a").write_bytes(bytes(range(200)))
    calls = put(error="ESTALE", first=1, times=3, only=("read",))
    assert read_whole(tmp_path / "a", retries=3) == bytes(range(200))
    assert calls.waits == [1.0, 5.0, 25.0]
    assert len(calls.opened) == 4


def test_an_error_that_stays_names_file_error_and_tries(tmp_path, put):
    calls = put(error="ETIMEDOUT")
    with pytest.raises(SystemFault, match=r"a\.MP4: cannot be read \(Connection timed out\), tried 6 times"):
        InputFile(tmp_path / "a.MP4", retries=5)
    assert calls.waits == [1.0, 5.0, 25.0, 60.0, 60.0]


def test_only_errors_of_the_system_are_tried_again(tmp_path):
    tries = []

    def read():
        tries.append(1)
        raise ValueError("what the bytes say")

    with pytest.raises(ValueError, match="what the bytes say"):
        patiently(tmp_path, 3, read)
    assert len(tries) == 1


def test_a_file_is_read_and_sought_like_any_other(tmp_path):
    (tmp_path / "a").write_bytes(b"0123456789")
    file = InputFile(tmp_path / "a")
    with open(tmp_path / "a", "rb") as plain:
        for offset, whence, size in [(0, 0, 4), (2, 1, 3), (-3, 2, 9), (4, 0, 1), (20, 0, 5), (-1, 2, 0)]:
            assert file.seek(offset, whence) == plain.seek(offset, whence)
            assert file.read(size) == plain.read(size)
            assert file.tell() == plain.tell()
    assert file.seek(-1) < 0  # a damaged index may ask for it
    file.check()
    file.close()
    (tmp_path / "empty").touch()
    assert read_whole(tmp_path / "empty") == b""


def test_a_file_that_is_exchanged_or_cut_while_it_is_read_is_not_read_on(tmp_path, put):
    path = tmp_path / "a"
    path.write_bytes(bytes(1000))
    file = InputFile(path, retries=1)
    put(error="ESTALE", times=1, only=("read",))
    path.write_bytes(bytes(900))
    os.utime(path, ns=(1, 1))
    assert file.read(10) == b""
    with pytest.raises(DataError, match="was exchanged while it was being read"):
        file.check()
    path.write_bytes(bytes(1000))
    file = InputFile(path)
    path.write_bytes(bytes(10))
    file.seek(500)
    assert file.read(10) == b""
    with pytest.raises(SystemFault, match="it ends at byte 500 of 1,000"):
        file.check()


def test_every_file_is_closed(tmp_path, put):
    calls = put(first=10**9)
    for content in (b"", b"not a video"):
        (tmp_path / "a.MP4").write_bytes(content)
        for opener in (open_video, SoundReader):
            with pytest.raises(VideoError):
                opener(tmp_path / "a.MP4")
    open_video(write_video(tmp_path / "b.MP4")).close()
    assert len(calls.opened) == 5
    assert not calls.left_open
    for first in (2, 3, 5):
        calls = put(first=first)
        with pytest.raises(SystemFault):
            open_video(tmp_path / "b.MP4")
        assert not calls.left_open


# --- readers: every call in turn


def frames_of(path, wanted=range(60)):
    """What a reader gives of a video of 60 frames; a frame that it calls damaged is not taken."""
    reader = open_video(path)
    try:
        assert len(reader.timeline.pts) == 60
        return {index: read_barcode(frame) for index, frame in reader.frames(np.array(wanted))}
    finally:
        reader.close()


def last_frame_of(path):
    return frames_of(path, [59])


def heard_in(path):
    reader = SoundReader(path)
    try:
        return [reader.window(start, 4000, 16_000).samples.tolist() for start in (0.5, 3.0)]
    finally:
        reader.close()


@pytest.mark.parametrize("name", ["v.MP4", "v.mkv"])
@pytest.mark.parametrize("read", [frames_of, last_frame_of, heard_in])
def test_whichever_call_fails_it_is_never_the_files_fault(tmp_path, put, name, read):
    """FFmpeg takes a failed read for the end, for invalid data, or for a picture that is half there."""
    path = tmp_path / name
    if read is not heard_in:
        write_video(path, frames=60, gop=12)
    else:
        write_sound(path, ramp(), codec="aac" if name == "v.MP4" else "pcm_s16le")
    calls = put(first=10**9)
    expected = read(path)
    assert calls.made > 5
    for at in range(1, calls.made + 1):
        put(error="EIO", first=at)
        with pytest.raises(SystemFault, match=re.escape(f"{name}: cannot be read (Input/output error)")):
            read(path)
    put(first=10**9)
    assert read(path) == expected


@pytest.mark.parametrize("gives", [True, False])
def test_a_picture_is_neither_given_nor_damaged_once_its_file_has_failed(tmp_path, put, monkeypatch, gives):
    """A demuxer may give what it has of a packet, and a decoder make a whole picture of that; or both just
    end.
    """
    reader = open_video(write_video(tmp_path / "v.MP4"))
    decode = reader._decode

    def fail_first(*wanted):
        frame = next(decode(*wanted))
        put()
        reader._file.close()
        reader._file.seek(0)
        assert reader._file.read(10) == b""
        if gives:
            yield frame

    monkeypatch.setattr(reader, "_decode", fail_first)
    with pytest.raises(SystemFault):
        next(reader.frames(np.array([0])))


@pytest.mark.parametrize("error", ERRNOS)
def test_no_error_of_the_system_says_anything_of_a_video(tmp_path, put, error):
    path = write_video(tmp_path / "v.MP4")
    for first, only in ((1, ("open",)), (1, ("stat",)), (1, ("read",)), (3, ("read",))):
        put(error=error, first=first, only=only)
        for read in (frames_of, heard_in):
            with pytest.raises(SystemFault, match=re.escape(os.strerror(getattr(errno, error)))):
                read(path)


def test_a_lack_of_memory_inside_ffmpeg_is_no_damage(tmp_path, monkeypatch):
    reader = open_video(write_video(tmp_path / "v.MP4"))

    def decode(*_):
        raise reader._av.error.MemoryError(errno.ENOMEM, "Cannot allocate memory")
        yield

    monkeypatch.setattr(reader, "_decode", decode)
    with pytest.raises(SystemFault, match=r"v\.MP4: FFmpeg got no memory"):
        list(reader.frames(np.array([3])))


def test_decord_fails_a_frame_only_where_the_file_can_be_read_and_it_fails_again(tmp_path, put, monkeypatch):
    decord = pytest.importorskip("decord", reason="decord has no wheel for this machine")
    path, failing, real = write_video(tmp_path / "v.MP4", frames=60), [], decord.VideoReader

    class Sometimes(real):
        def __getitem__(self, index):
            if failing:
                failing.pop()
                raise decord.DECORDError("it could not be read")
            return super().__getitem__(index)

    monkeypatch.setattr(decord, "VideoReader", Sometimes)
    reader = open_video(path, "decord")
    failing += [1]
    assert read_barcode(dict(reader.frames(np.array([7])))[7]) == 7
    failing += [1, 1]
    assert dict(reader.frames(np.array([7])))[7].status == "damaged_frame"
    failing += [1]
    put()
    with pytest.raises(SystemFault):
        list(reader.frames(np.array([7])))


def test_a_reader_of_its_own_is_asked_twice(tmp_path):
    (tmp_path / "a").touch()
    answers = iter([KeyError("first"), "second"])

    def read():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert try_twice(tmp_path / "a", 0, read, (KeyError,)) == "second"
    with pytest.raises(SystemFault):
        try_twice(tmp_path / "gone", 0, lambda: {}["x"], (KeyError,))


# --- the whole job


@pytest.mark.usefixtures("barcode")
@pytest.mark.parametrize(
    ("error", "only"), [*((error, ("open",)) for error in ERRNOS), ("EIO", ("stat",)), ("ESTALE", ("read",))]
)
def test_an_error_that_stays_stops_the_job_and_the_same_command_completes(
    dataset, tmp_path, put, error, only
):
    run(dataset, tmp_path / "whole.zarr", rows_per_group=4)
    target = tmp_path / "v.zarr"
    # the second video, in the second row group
    calls = put(error=error, first={"read": 12}.get(only[0], 2), only=only)
    with pytest.raises(SystemFault, match=r"P01_10\d\.MP4: cannot be read .*, tried 4 times"):
        run(dataset, target, rows_per_group=4)
    assert calls.waits == [1.0, 5.0, 25.0]
    assert all(not record["failures"] for record in records(target))
    assert not (target / "manifest.json").exists()
    put(first=10**9)
    assert run(dataset, target, rows_per_group=4).failures == []
    assert tree(target) == tree(tmp_path / "whole.zarr")


@pytest.mark.usefixtures("barcode")
def test_an_error_that_passes_is_not_seen_at_all(dataset, tmp_path, put):
    run(dataset, tmp_path / "whole.zarr")
    for only in ("open", "stat", "read"):
        calls = put(error="ENOENT", first=2, times=2, only=(only,))
        assert run(dataset, tmp_path / f"{only}.zarr").failures == []
        assert calls.waits == [1.0, 5.0]
        assert tree(tmp_path / f"{only}.zarr") == tree(tmp_path / "whole.zarr")


def test_an_error_that_stays_ends_the_command_with_1_and_names_the_file(road, tmp_path, put, capsys):
    """In a worker process of the command, which then completes."""
    words = (*extract_words(road), "--out", tmp_path / "v.zarr")
    for error, only, first in (("EMFILE", "open", 3), ("ESTALE", "read", 12)):
        put(error=error, first=first, only=(only,))
        assert call(*words) == 1
        said = capsys.readouterr().err
        assert re.search(
            rf"P0\d_10\d\.MP4: cannot be read \({os.strerror(getattr(errno, error))}\), tried 4", said
        )
    put(error="ENOENT", first=2, times=2)
    assert call(*words) == 0  # no row has failed, since none may


@pytest.fixture
def read_in_a_child(dataset, tmp_path, monkeypatch):
    """A store of which every video is to be read in a process of its own, where calls fail as told."""
    run(dataset, tmp_path / "whole.zarr", rows_per_group=4)
    with pytest.raises(Interrupted):
        run(dataset, tmp_path / "v.zarr", rows_per_group=4, should_stop=lambda: True)
    lines = [f'{{"video": "P01_{number}"}}\n' for number in range(101, 105)]
    (tmp_path / "v.zarr" / LOST).write_text("".join(lines))
    monkeypatch.setattr(video_job, "ClipReading", FaultyInChildren)

    def go_on(**how):
        monkeypatch.setenv(FAULTS, json.dumps(how))
        return run(dataset, tmp_path / "v.zarr", rows_per_group=4)

    return go_on


@pytest.mark.usefixtures("barcode")
@pytest.mark.parametrize(("error", "only", "first"), [("EMFILE", "open", 2), ("EIO", "read", 12)])
def test_an_error_that_stays_stops_the_job_from_another_process_too(
    read_in_a_child, tmp_path, error, only, first
):
    target = tmp_path / "v.zarr"
    with pytest.raises(SystemFault, match=r"P01_10\d\.MP4: cannot be read .*, tried 4 times"):
        read_in_a_child(error=error, only=[only], first=first)
    assert all(not record["failures"] for record in records(target))
    assert not (target / "manifest.json").exists()
    assert read_in_a_child(error="ENOENT", first=2, times=2).failures == []  # one that passes
    assert tree(target) == tree(tmp_path / "whole.zarr")


def test_the_check_of_the_videos_names_each_that_cannot_be_read_and_goes_on(dataset, tmp_path, put):
    read = read_annotations(dataset / "annotations")
    put(error="EACCES", first=2, times=1, only=("open",))
    problems = check_data(read, dataset / "videos").problems
    assert len(problems) == 1
    assert "P01_102.MP4: cannot be read (Permission denied)" in problems[0]


@pytest.mark.usefixtures("barcode")
def test_what_the_bytes_say_still_fails_its_row(dataset, tmp_path, put):
    calls = put(first=10**9)
    summary = run(broken_copy(dataset, tmp_path), tmp_path / "v.zarr", allow_missing=True)
    assert len(summary.failed) > 10
    assert calls.waits == []
