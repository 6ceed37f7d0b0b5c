"""The loop that fills a store: shares, interrupts, room on the disk, and what it says of a run."""

import itertools
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from helpers.tiny import unfinished
from helpers.worker_logs import dead, put, report
from mambavl.cache import fsops, open_store
from mambavl.cache.diff import diff
from mambavl.cache.fill import MayFail, fill, together
from mambavl.cache.repair import repair
from mambavl.cache.rows import EMPTY_WINDOW, STATUS_CODE
from mambavl.cache.verify import verify
from mambavl.cache.worker_log import reports
from mambavl.cache.writer import RowGroup
from mambavl.configs.errors import DataError, Interrupted, UsageError


def maker(group):
    """Rows of any group of the tiny unfinished store, cut from one."""

    def make(rows):
        count = len(rows)
        return RowGroup(
            levels={"frame": group.levels["frame"][:count]},
            lengths={"length": group.lengths["length"][:count]},
            status=group.status[:count],
            flags=group.flags[:count],
            frame_pts=group.frame_pts[:count],
        )

    return make


def test_every_row_group_is_made_once_and_the_store_is_finished(tmp_path):
    writer, group = unfinished(tmp_path / "s.zarr")
    seen, counts = [], []

    def make(rows):
        seen.append((rows.start, rows.stop))
        return maker(group)(rows)

    result = fill(writer, make, progress=lambda done, total, note: counts.append((done, total)))
    assert seen == [(0, 8), (8, 16), (16, 20)]
    assert counts == [(0, 20), (8, 20), (16, 20), (20, 20)]
    assert result.rows == 20
    assert result.bytes > 0
    assert result.finalized
    assert result.store_id == open_store(tmp_path / "s.zarr").store_id
    assert set(result.seconds) == {"read", "write"}


def test_a_run_does_its_share_and_the_last_one_finishes(tmp_path):
    writer, group = unfinished(tmp_path / "s.zarr")
    first = fill(writer, maker(group), shard=(0, 2))
    assert (first.rows, first.finalized, first.store_id, first.failures) == (12, False, "", [])
    writer, _ = unfinished(tmp_path / "s.zarr")
    second = fill(writer, maker(group), shard=(1, 2))
    assert (second.rows, second.finalized) == (8, True)
    assert first.state == "unfinished store, 8 rows still to do"
    assert second.state == "finished store"
    both = together([first, second])
    assert (both.rows, both.bytes, both.finalized, both.left) == (20, first.bytes + second.bytes, True, 0)
    assert both.seconds["write"] == first.seconds["write"] + second.seconds["write"]


def states(store):
    """Of the runs that have a log in a store."""
    return sorted(report.state for _, report in reports(store))


def test_runs_that_wait_for_each_other_have_given_back_what_they_have_made(tmp_path):
    """Each holds a row group when the other looks for it, and then waits with one that is to be written."""
    both_make = threading.Barrier(2, timeout=60)
    made = []

    def one():
        writer, group = unfinished(tmp_path / "s.zarr")
        looks = itertools.count()

        def make(rows):
            made.append(rows.start)
            if len(made) <= 2:
                both_make.wait()
            return maker(group)(rows)

        return fill(writer, make, should_stop=lambda: next(looks) > 100)

    with ThreadPoolExecutor(2) as threads:
        results = [run.result() for run in [threads.submit(one) for _ in range(2)]]
    assert sorted(made) == [0, 8, 16]
    assert sum(result.rows for result in results) == 20
    assert any(result.finalized for result in results)
    assert verify(tmp_path / "s.zarr") == []


def test_every_run_keeps_a_log_which_goes_with_the_next_one_or_when_the_store_is_finished(tmp_path):
    store = tmp_path / "s.zarr"
    writer, group = unfinished(store)
    seen = []

    def make(rows):
        seen.append(states(store))
        return maker(group)(rows)

    fill(writer, make, shard=(1, 2))
    assert (seen, states(store)) == ([["working"]], ["ended"])
    writer, _ = unfinished(store)
    with pytest.raises(Interrupted):
        fill(writer, make, should_stop=lambda: len(seen) > 1)
    assert (seen[1:], states(store)) == ([["working"]], ["stopped"])
    writer, _ = unfinished(store)
    assert fill(writer, make).finalized
    assert (seen[2:], states(store)) == ([["working"]], [])
    assert verify(store, deep=True) == []
    writer, _ = unfinished(store)
    assert fill(writer, make).rows == 0
    assert states(store) == []


def test_a_log_of_a_killed_run_keeps_nobody_from_finishing_or_checking_a_store(tmp_path):
    store = tmp_path / "s.zarr"
    writer, group = unfinished(store)
    put(store, "killed", report(pid=dead()))
    for number in range(3):
        writer.commit(number, maker(group)(writer.layout.rows_of(number)))
    assert writer.finish()
    assert verify(store, deep=True) == []
    assert repair(store).faults == []
    make_other, _ = unfinished(tmp_path / "t.zarr")
    fill(make_other, maker(group))
    assert list(diff(open_store(store), open_store(tmp_path / "t.zarr"))) == []
    assert states(store) == ["working"]
    writer, _ = unfinished(store)
    fill(writer, maker(group))  # nothing is left to do
    assert states(store) == []


def test_a_log_that_cannot_be_written_ends_no_work(tmp_path, capsys, monkeypatch):
    append = fsops.append

    def full(path, data):
        if path.suffix == ".jsonl":
            raise DataError(f"{path}: could not be written: the disk is full")
        append(path, data)

    monkeypatch.setattr(fsops, "append", full)
    writer, group = unfinished(tmp_path / "s.zarr")
    assert fill(writer, maker(group)).finalized
    assert capsys.readouterr().err.count("the disk is full") == 1


def test_an_interrupt_between_row_groups_keeps_what_is_done(tmp_path):
    writer, group = unfinished(tmp_path / "s.zarr")
    answers = iter([False, True])
    with pytest.raises(Interrupted, match=r"s\.zarr: stopped after 8 rows; the same command resumes"):
        fill(writer, maker(group), should_stop=lambda: next(answers))
    with pytest.raises(UsageError):  # it was closed
        writer.commit(1, group)
    writer, _ = unfinished(tmp_path / "s.zarr")
    assert fill(writer, maker(group)).rows == 12


def test_a_disk_without_room_is_refused_before_anything_is_made(tmp_path, monkeypatch):
    writer, _ = unfinished(tmp_path / "s.zarr")
    needed = sum(sum(writer.layout.file_sizes(group).values()) for group in range(3))
    monkeypatch.setattr(fsops, "free_bytes", lambda path: needed - 1)
    message = f"{needed:,} bytes are still to be written and {needed - 1:,} are free"
    with pytest.raises(DataError, match=re.escape(message)):
        fill(writer, lambda rows: pytest.fail("something was made"))


def test_failures_are_the_stores_and_an_empty_window_is_none(tmp_path):
    writer, group = unfinished(tmp_path / "s.zarr")

    def make(rows):
        made = maker(group)(rows)
        made.status = np.where(np.array(rows) == 3, STATUS_CODE["missing_video"], made.status).astype(
            np.uint8
        )
        made.status[np.array(rows) == 9] = EMPTY_WINDOW
        made.reasons = dict.fromkeys(np.flatnonzero(made.status != 1).tolist(), "why")
        return made

    result = fill(writer, make)
    missing, empty = ["P01_101_3", STATUS_CODE["missing_video"], "why"], ["P01_101_9", EMPTY_WINDOW, "why"]
    assert result.failures == [missing, empty]
    assert result.failed == [missing]


def failing(group, rows_that_fail, made):
    def make(rows):
        made.append(rows.start)
        found = maker(group)(rows)
        found.status = found.status.copy()
        for row, status in rows_that_fail.items():
            if row in rows:
                found.status[row - rows.start] = status
        found.reasons = dict.fromkeys(np.flatnonzero(found.status != 1).tolist(), "why")
        return found

    return make


DAMAGED = STATUS_CODE["damaged_frame"]


def test_one_row_too_many_that_fails_stops_at_once_and_more_may_be_allowed_later(tmp_path):
    writer, group = unfinished(tmp_path / "s.zarr")
    bad, made = {3: DAMAGED, 4: DAMAGED, 9: DAMAGED}, []
    message = r"s\.zarr: 2 rows failed, but max_failed is 1 .*\n  P01_101_3: damaged_frame: why\n  P01_101_4"
    with pytest.raises(DataError, match=message):
        fill(writer, failing(group, bad, made), may_fail=MayFail(1))
    for allowed in (0, 1):  # nothing more is tried
        writer, _ = unfinished(tmp_path / "s.zarr")
        with pytest.raises(DataError, match=f"2 rows failed, but max_failed is {allowed}"):
            fill(writer, failing(group, bad, made), may_fail=MayFail(allowed))
    assert made == [0]
    writer, _ = unfinished(tmp_path / "s.zarr")
    with pytest.raises(DataError, match="3 rows failed, but max_failed is 2"):
        fill(writer, failing(group, bad, made), may_fail=MayFail(2))
    assert not writer.is_final
    writer, _ = unfinished(tmp_path / "s.zarr")
    result = fill(writer, failing(group, bad, made), may_fail=MayFail(3))
    assert (made, result.rows, len(result.failures), result.finalized) == ([0, 8, 16], 4, 3, True)


def test_rows_that_another_writer_failed_keep_the_store_from_being_finished(tmp_path):
    writer, group = unfinished(tmp_path / "s.zarr")
    other, _ = unfinished(tmp_path / "s.zarr")
    make = failing(group, {12: DAMAGED}, [])

    def meanwhile(rows):
        if rows.start == 0:
            other.commit(1, make(range(8, 16)))
        return make(rows)

    with pytest.raises(DataError, match="1 row failed, but max_failed is 0"):
        fill(writer, meanwhile, may_fail=MayFail(0), shard=(0, 2))
    other.close()
    assert not writer.is_final


def test_what_was_known_before_the_work_is_no_failure_of_it(tmp_path):
    writer, group = unfinished(tmp_path / "s.zarr")
    known = {3: STATUS_CODE["missing_video"], 9: EMPTY_WINDOW}
    result = fill(writer, failing(group, known, []), may_fail=MayFail(0))
    assert (result.finalized, len(result.failures)) == (True, 2)
