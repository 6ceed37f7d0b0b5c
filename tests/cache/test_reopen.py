"""Row groups opened again, for rows that failed and for videos that came: only those, and the same bytes."""

import contextlib
import shutil
from dataclasses import replace

import numpy as np
import pytest

from helpers.damage import content
from helpers.faults import FailingCalls, Killed, exchanged
from helpers.tiny import CLASSES, make_segments
from mambavl.cache import fsops, open_store
from mambavl.cache.fill import fill
from mambavl.cache.finalize import finalize
from mambavl.cache.reopen import reopen_failed
from mambavl.cache.rows import EMPTY_WINDOW, STATUS_CODE
from mambavl.cache.shards import Level
from mambavl.cache.spec import MANIFEST, EncoderIdentity, FeatureRecipe, Inputs, Spec
from mambavl.cache.verify import verify
from mambavl.cache.writer import RowGroup, StoreWriter
from mambavl.configs.errors import DataError, Interrupted, UsageError

SEGMENTS = make_segments(40)  # ten rows a video: P01_101 to P01_104
ALL = {f"P01_10{number}": [1, "a" * 64] for number in (1, 2, 3, 4)}
DAMAGED, MISSING = STATUS_CODE["damaged_frame"], STATUS_CODE["missing_video"]
LEVEL = Level("frame", "dense", (1, 4, 6), "float32", steps=4)


def spec_of(videos):
    identity = EncoderIdentity(name="fake", state="random", sha256="0" * 64, width=6)
    return Spec(
        kind="video",
        recipe=FeatureRecipe(encoder=identity),
        inputs=Inputs(videos=videos),
        levels=(LEVEL,),
        frame_pts=(1, 4),
        rows_per_group=4,
    )


def write(path, videos, failed=None, *, retry_failed=False, should_stop=lambda: False, made=None):
    """Fill the store; a row is its number, or failed. made: gets the first row of each group that is made."""
    writer = StoreWriter(path, spec_of(videos), SEGMENTS, CLASSES, {}, retry_failed=retry_failed)

    def make(rows):
        if made is not None:
            made.append(rows.start)
        status = np.array([(failed or {}).get(row, 1) for row in rows], np.uint8)
        values = np.broadcast_to(np.array(rows, np.float32)[:, None, None, None], (len(rows), 1, 4, 6)).copy()
        values[status != 1] = np.nan
        return RowGroup(
            levels={"frame": values},
            lengths={"length": np.where(status == 1, 4, 0)},
            status=status,
            flags=np.zeros(len(rows), np.uint8),
            frame_pts=np.zeros((len(rows), 1, 4)),
            reasons=dict.fromkeys(np.flatnonzero(status != 1).tolist(), "made so"),
        )

    return fill(writer, make, should_stop=should_stop)


@pytest.fixture
def whole(tmp_path):
    write(tmp_path / "whole.zarr", ALL)
    return content(tmp_path / "whole.zarr")


def missing(*videos):
    return {**ALL, **dict.fromkeys(videos)}


def rows_of(video, status):
    return {row: status for row, segment in enumerate(SEGMENTS) if segment.video_id == video}


@pytest.mark.parametrize("finished", [True, False])
def test_failed_rows_are_tried_again_and_no_others(tmp_path, whole, finished):
    path = tmp_path / "s.zarr"
    failed = {5: DAMAGED, 30: STATUS_CODE["unreadable_video"]}
    stops = iter([False] * 8 + [True])
    if finished:
        write(path, ALL, failed)
    else:
        with pytest.raises(Interrupted, match="stopped after 32 rows"):
            write(path, ALL, failed, should_stop=lambda: next(stops))
    assert finished == (path / MANIFEST).exists()
    made = []
    result = write(path, ALL, retry_failed=True, made=made)
    assert made == ([4, 28] if finished else [4, 28, 32, 36])
    assert result.failures == []
    assert content(path) == whole
    assert verify(path, deep=True) == []


def test_what_was_not_tried_is_not_tried_again(tmp_path):
    path = tmp_path / "s.zarr"
    write(path, missing("P01_102"), {**rows_of("P01_102", MISSING), 1: EMPTY_WINDOW})
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*") if file.name != "lock"}
    assert reopen_failed(path) == []
    assert before == {file: file.stat().st_mtime_ns for file in path.rglob("*") if file.name != "lock"}


def test_rows_that_fail_again_fail_again(tmp_path):
    path = tmp_path / "s.zarr"
    write(path, ALL, {5: DAMAGED})
    before = content(path)
    made = []
    assert len(write(path, ALL, {5: DAMAGED}, retry_failed=True, made=made).failures) == 1
    assert made == [4]
    assert content(path) == before


def test_a_store_that_lost_its_journals_keeps_its_sound_row_groups(tmp_path, whole):
    path = tmp_path / "s.zarr"
    write(path, ALL, {5: DAMAGED})
    for file in (path / "commit").glob("*.journal"):
        file.unlink()
    made = []
    write(path, ALL, retry_failed=True, made=made)
    assert made == [4]
    assert content(path) == whole


@pytest.mark.parametrize("finished", [True, False])
def test_a_video_that_came_later_opens_its_rows_and_no_others(tmp_path, whole, finished):
    path = tmp_path / "s.zarr"
    videos, failed = missing("P01_102"), rows_of("P01_102", MISSING)
    stops = iter([False] * 5 + [True])
    if finished:
        write(path, videos, failed)
    else:
        with pytest.raises(Interrupted, match="stopped after 20 rows"):
            write(path, videos, failed, should_stop=lambda: next(stops))
    made = []
    assert write(path, ALL, made=made).failures == []
    # rows 10 to 19 are the video's; groups have four rows
    assert made == ([8, 12, 16] if finished else [8, 12, 16, 20, 24, 28, 32, 36])
    assert content(path) == whole
    assert verify(path, deep=True) == []


def test_two_videos_that_come_one_after_the_other(tmp_path, whole):
    path = tmp_path / "s.zarr"
    gone = {**rows_of("P01_101", MISSING), **rows_of("P01_104", MISSING)}
    write(path, missing("P01_101", "P01_104"), gone)
    write(path, missing("P01_104"), rows_of("P01_104", MISSING))
    write(path, ALL)
    assert content(path) == whole


def test_a_mended_video_is_taken_where_some_of_its_rows_failed(tmp_path, whole):
    path = tmp_path / "s.zarr"
    torn = {**ALL, "P01_103": [1, "b" * 64]}
    write(path, torn, {25: DAMAGED})
    made = []
    write(path, ALL, made=made)
    assert made == [20, 24, 28]  # its sound rows too: they were other pictures
    assert content(path) == whole


def test_other_files_in_place_of_sound_ones_are_another_recipe(tmp_path):
    path = tmp_path / "s.zarr"
    write(path, ALL)
    before = content(path)
    for videos in (
        {**ALL, "P01_103": [2, "c" * 64]},  # its rows are done
        missing("P01_103"),
        {**ALL, "P01_105": [1, "d" * 64]},
        {video: key for video, key in ALL.items() if video != "P01_104"},
        None,
    ):
        with pytest.raises(UsageError, match=r"was made by another recipe(.|\n)*inputs\.videos"):
            write(path, videos)
    other = replace(spec_of(ALL), rows_per_group=5)
    with pytest.raises(UsageError, match="rows_per_group: 4 -> 5"):
        StoreWriter(path, other, SEGMENTS, CLASSES, {})
    assert content(path) == before


def test_a_came_video_does_not_excuse_another_change(tmp_path):
    path = tmp_path / "s.zarr"
    write(path, missing("P01_102"), rows_of("P01_102", MISSING))
    for videos in ({**ALL, "P01_103": [2, "c" * 64]}, {**ALL, "P01_101": None}):
        with pytest.raises(UsageError, match=r"inputs\.videos\.P01_10[13]"):
            write(path, videos)


def test_a_video_whose_rows_failed_may_be_mended_and_may_not_vanish(tmp_path):
    path = tmp_path / "s.zarr"
    write(path, ALL, {25: DAMAGED})
    with pytest.raises(UsageError, match=r"inputs\.videos\.P01_103: .* -> None"):
        write(path, missing("P01_103"))


def test_nothing_is_opened_under_a_writer(tmp_path):
    path = tmp_path / "s.zarr"
    stops = iter([False, True])
    with pytest.raises(Interrupted, match="stopped after 4 rows"):
        write(path, missing("P01_104"), {1: DAMAGED}, should_stop=lambda: next(stops))
    writer = StoreWriter(path, spec_of(missing("P01_104")), SEGMENTS, CLASSES, {})
    with pytest.raises(DataError, match="another process is writing it"):
        reopen_failed(path)
    with pytest.raises(DataError, match=r"videos have come or changed .*another process is writing it"):
        StoreWriter(path, spec_of(ALL), SEGMENTS, CLASSES, {})
    writer.close()


def test_of_two_that_start_together_one_opens_the_rows_and_both_go_on(tmp_path, whole, monkeypatch):
    path, lock = tmp_path / "s.zarr", fsops.lock
    write(path, missing("P01_102"), rows_of("P01_102", MISSING))

    def too_late(file, *, exclusive, wait):
        if exclusive and not wait:
            monkeypatch.undo()
            StoreWriter(path, spec_of(ALL), SEGMENTS, CLASSES, {}).close()  # the faster one
            return None
        return lock(file, exclusive=exclusive, wait=wait)

    monkeypatch.setattr(fsops, "lock", too_late)
    made = []
    write(path, ALL, made=made)
    assert made == [8, 12, 16]
    assert content(path) == whole


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("retry", [True, False])
def test_killed_at_any_call_the_same_command_ends_in_the_same_bytes(tmp_path, retry, finished):
    """Whether rows are retried or a video has come, and no other row is done again; also where somebody
    finishes the store in between.
    """
    first = (ALL, {5: DAMAGED}) if retry else (missing("P01_102"), rows_of("P01_102", MISSING))
    write(tmp_path / "whole.zarr", ALL)
    whole = content(tmp_path / "whole.zarr")
    stops, opened = iter([False] * 8 + [True]), {4} if retry else {8, 12, 16}
    if finished:
        write(tmp_path / "before.zarr", *first)
    else:
        with pytest.raises(Interrupted):
            write(tmp_path / "before.zarr", *first, should_stop=lambda: next(stops))
        opened |= {32, 36}
    path, killed = tmp_path / "s.zarr", 0
    for at in range(1, 1000):
        shutil.copytree(tmp_path / "before.zarr", path)
        calls = FailingCalls(at, "kill", only=("write", "replace", "unlink"))  # what others may see
        try:
            with exchanged(calls):
                StoreWriter(path, spec_of(ALL), SEGMENTS, CLASSES, {}, retry_failed=retry).close()
        except Killed:
            killed += 1
        else:
            break
        if at % 2 and retry:
            with contextlib.suppress(DataError):  # rows are open
                finalize(path)
        made = []
        write(path, ALL, retry_failed=retry, made=made)
        assert set(made) == opened, at
        assert content(path) == whole, at
        shutil.rmtree(path)
    assert killed > 8
    assert open_store(tmp_path / "whole.zarr").status.tolist() == [1] * 40
