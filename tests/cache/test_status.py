"""How far a store is, seen from outside: counted by hand, with workers that live, wait, and were killed."""

import os
import signal
import socket
import threading
import time

import pytest

from helpers import forks, worker_logs
from helpers.tiny import unfinished
from mambavl.cache import fsops, journal
from mambavl.cache.fill import fill
from mambavl.cache.reopen import reopen_failed
from mambavl.cache.rows import EMPTY_WINDOW, STATUS_CODE
from mambavl.cache.spec import COMMIT
from mambavl.cache.status import status
from mambavl.configs.errors import DataError

DAMAGED = STATUS_CODE["damaged_frame"]
NOW = 2000.0


@pytest.fixture
def begun(tmp_path):
    """Twenty rows in groups of 8, 8 and 4, of which the first is done: row 3 failed, row 5 saw nothing."""
    writer, group = unfinished(tmp_path / "s.zarr")
    group.status = group.status.copy()
    group.status[3], group.status[5] = DAMAGED, EMPTY_WINDOW
    group.reasons = {3: "why", 5: "nothing"}
    writer.commit(0, group)
    return writer, group


def put(store, name, **changed):
    worker_logs.put(store, name, worker_logs.report(**{"time": NOW - 5, "total": 20} | changed))


def test_rows_are_counted_in_the_journals(begun):
    found = status(begun[0].path, NOW)
    assert (found.is_finished, found.rows, found.done, found.encoded) == (False, 20, 8, 0)
    assert found.failures == [["P01_101_3", "damaged_frame", "why"]]
    assert (found.workers, found.rows_per_s, found.seconds_left, found.slowest) == ([], 0.0, None, "")


def test_a_row_group_counts_once_and_records_of_another_spec_not_at_all(begun):
    writer, group = begun
    other, _ = unfinished(writer.path)
    other.commit(0, group)
    journal.append(writer.path / COMMIT / "x.journal", {"group": 1, "spec": "f" * 64, "failures": []})
    spec = writer.layout.spec_sha256
    journal.append(writer.path / COMMIT / "x.journal", {"group": 3, "spec": spec, "failures": []})
    found = status(writer.path, NOW)
    assert (found.done, len(found.failures)) == (8, 1)


def test_two_workers_are_added_up_and_one_that_waits_has_no_speed(begun):
    store = begun[0].path
    put(store, "a", made=2, done=2, rows_per_s=0.5, seconds={"decode": 9.0, "encode": 5.0})
    put(store, "b", host="b", made=3, done=3, rows_per_s=0.25, seconds={"encode": 5.0, "write": 1.0})
    put(store, "c", host="c", state="waiting", done=9, rows_per_s=4.0)
    found = status(store, NOW)
    assert (found.done, found.encoded, found.rows_per_s) == (8, 5, 0.75)
    assert found.seconds_left == pytest.approx((20 - 8 - 5) / 0.75)
    assert found.slowest == "encode"  # nothing stalled, whatever the threads that decode add up to
    put(store, "b", host="b", rows_per_s=0.25, seconds={"decode": 3.0, "resize": 13.0}, stalled=2.0)
    assert status(store, NOW).slowest == "resize"


def test_killed_silent_and_ended_workers_are_shown_and_do_not_count(begun):
    store = begun[0].path
    put(store, "a", pid=worker_logs.dead(), made=8, rows_per_s=1.0)
    put(store, "b", host="other", time=NOW - 90, made=8, rows_per_s=1.0)
    put(store, "c", state="ended", made=8, rows_per_s=1.0)
    put(store, "d", host="zz", made=1, rows_per_s=2.0)
    found = status(store, NOW)
    ages = {each.seen: each.age for each in found.workers}
    assert ages == {"working": 5.0, "killed": 5.0, "ended": 5.0, "silent": 90.0}
    assert found.workers[0].seen == "working"
    assert (found.encoded, found.rows_per_s, found.seconds_left) == (1, 2.0, 5.5)


def test_logs_that_are_older_than_the_journals_do_not_make_more_rows_than_there_are(begun):
    writer, group = begun
    put(writer.path, writer.name, made=10, written=0, rows_per_s=1.0)
    assert status(writer.path, NOW).encoded == 2
    writer.commit(1, group)
    assert (status(writer.path, NOW).done, status(writer.path, NOW).encoded) == (16, 0)
    put(writer.path, "another", made=6, rows_per_s=1.0)
    found = status(writer.path, NOW)
    assert (found.done, found.encoded, found.seconds_left) == (16, 4, 0.0)


def test_a_finished_store_says_so_and_keeps_no_log(begun):
    writer, group = begun
    writer.commit(1, group)
    group.levels = {"frame": group.levels["frame"][:4]}
    group.lengths = {"length": group.lengths["length"][:4]}
    group.status, group.flags, group.frame_pts = group.status[:4], group.flags[:4], group.frame_pts[:4]
    group.reasons = {3: "why"}
    result = fill(writer, lambda rows: group)
    assert result.finalized
    found = status(writer.path, NOW)
    assert (found.is_finished, found.done, found.seconds_left, found.workers) == (True, 20, 0.0, [])
    assert [row for row, _, _ in found.failures] == ["P01_101_3", "P01_102_1", "P01_102_9"]
    assert not list((writer.path / COMMIT).glob("*.jsonl"))
    assert reopen_failed(writer.path) == [0, 1, 2]
    assert status(writer.path, NOW).done == 0


def test_a_run_of_another_process_is_seen_alive_and_then_killed(tmp_path):
    reached, never_written = tmp_path / "reached", threading.Event()

    def run():
        writer, group = unfinished(tmp_path / "s.zarr")

        def make(rows):
            if rows.start:
                reached.touch()
                never_written.wait()
            return group

        fill(writer, make)

    child = forks.fork(run)
    while not reached.exists():
        assert child.poll() is None
        time.sleep(0.01)
    found = status(tmp_path / "s.zarr")
    (worker,) = found.workers
    assert (worker.seen, worker.report.pid, worker.report.total) == ("working", child.pid, 20)
    assert found.done in (0, 8)  # the first is on its way to the disk
    child.send_signal(signal.SIGKILL)
    child.wait()
    (worker,) = status(tmp_path / "s.zarr").workers
    assert worker.seen == "killed"


def test_what_is_no_store_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such store"):
        status(tmp_path / "none.zarr")
    with pytest.raises(DataError, match="is not a feature store"):
        status(tmp_path)


def test_looking_takes_no_lock_and_changes_nothing(begun, monkeypatch):
    store = begun[0].path
    put(store, "a", made=1)

    def refuse(*args, **more):
        raise AssertionError("it touched the disk")

    monkeypatch.setattr(fsops, "lock", refuse)
    for name in ("open", "write", "unlink", "replace", "fsync"):
        monkeypatch.setattr(fsops.Calls, name, refuse)
    assert status(store, NOW).done == 8


def test_the_keys_for_programs_stay(begun):
    times = {"rows_per_s": 0.5, "seconds": {"encode": 1.0}}
    put(begun[0].path, "a", made=1, done=3, video="P01_101", **times)
    assert status(begun[0].path, NOW).to_dict() == {
        "store": str(begun[0].path),
        "state": "unfinished",
        "rows": 20,
        "done": 8,
        "encoded": 1,
        "failed": 1,
        "failures": [["P01_101_3", "damaged_frame", "why"]],
        "rows_per_s": 0.5,
        "seconds_left": 22.0,
        "slowest": "encode",
        "workers": [
            {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "state": "working",
                "reported_seconds_ago": 5.0,
                "done": 3,
                "total": 20,
                "rows_per_s": 0.5,
                "seconds": {"encode": 1.0},
                "stalled": 0.0,
                "video": "P01_101",
            }
        ],
    }
