"""The log that a run keeps of itself: what its lines say, when it goes, and that it never ends the work."""

import errno
import json
import os

import pytest

from helpers.tiny import CLASSES, make_segments, unfinished
from helpers.worker_logs import dead, put, report
from mambavl.cache import fsops
from mambavl.cache.shards import Level
from mambavl.cache.spec import COMMIT, Spec
from mambavl.cache.work import Work
from mambavl.cache.worker_log import EVERY, LOG, Report, WorkerLog, reports, sweep
from mambavl.cache.writer import StoreWriter
from mambavl.configs.errors import Interrupted
from mambavl.configs.progress import never, unseen


def writer(path, per_group=4):
    level = Level("frame", "dense", (1, 4, 6), "float32", steps=4)
    return StoreWriter(
        path,
        Spec(kind="video", levels=(level,), rows_per_group=per_group),
        make_segments(32),
        CLASSES,
        {},
    )


def work_of(*writers):
    return Work(writers, (0, 1), unseen, never)


class Clock:
    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now


def at_once(event, seconds):
    """Instead of waiting for the next line: the run is over."""
    return True


def lines(store):
    (file,) = (store / COMMIT).glob(f"*{LOG}")
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_each_store_has_the_numbers_of_its_own_rows_and_the_times_of_the_run(tmp_path):
    a, b = writer(tmp_path / "a.zarr"), writer(tmp_path / "b.zarr", per_group=8)
    work, clock = work_of(a, b), Clock()
    with WorkerLog([a, b], work, clock=clock, wait=at_once):
        clock.now = 1020.0
        work.timed("decode", 12.0)
        work.timed("encode", 5.0)
        work.stalled, work.at = 3.5, "P01_101"
        work.encoded(0, 12)
        work.encoded(1, 8)
        work.by_others[0] = 4
        work.written, work.bytes, work.failed = [8, 0], [640, 0], [2, 0]
    first, last = lines(a.path)
    assert first == report()
    times = {"seconds": {"decode": 12.0, "encode": 5.0}, "stalled": 3.5, "video": "P01_101"}
    ours = {"done": 16, "made": 12, "written": 8, "rows_per_s": 0.6, "failed": 2, "bytes": 640}
    assert last == report(time=1020.0, state="ended", **ours, **times)
    last = lines(b.path)[-1]
    assert last == report(time=1020.0, state="ended", done=8, made=8, rows_per_s=0.4, **times)


def test_a_thread_writes_a_line_every_ten_seconds_while_the_run_is_busy(tmp_path):
    store = writer(tmp_path / "s.zarr")
    work, clock, waits = work_of(store), Clock(), []

    def wait(event, seconds):
        waits.append(seconds)
        clock.now += seconds
        work.is_waiting = len(waits) == 2
        return len(waits) == 4

    log = WorkerLog([store], work, clock=clock, wait=wait)
    with log:
        log._thread.join()
    assert waits == [EVERY] * 4
    found = [(line["time"], line["state"]) for line in lines(store.path)]
    assert found == [
        (1000.0, "working"),
        (1010.0, "working"),
        (1020.0, "waiting"),
        (1030.0, "working"),
        (1040.0, "ended"),
    ]


@pytest.mark.parametrize(("error", "state"), [(Interrupted("stop"), "stopped"), (ValueError("x"), "failed")])
def test_the_last_line_says_how_a_run_ended(tmp_path, error, state):
    store = writer(tmp_path / "s.zarr")
    with pytest.raises(type(error)), WorkerLog([store], work_of(store), wait=at_once):
        raise error
    assert lines(store.path)[-1]["state"] == state


def test_a_full_disk_is_said_once_and_a_torn_line_spoils_no_other(tmp_path, capsys, monkeypatch):
    store = writer(tmp_path / "s.zarr")
    log = WorkerLog([store], work_of(store), wait=at_once)

    class Full(fsops.Calls):
        def write(self, descriptor, data):
            os.write(descriptor, data[:9])
            raise OSError(errno.ENOSPC, "full")

        def truncate(self, descriptor, length):
            raise OSError(errno.EIO, "broken as well")

    with log, monkeypatch.context() as patched:
        patched.setattr(fsops, "calls", Full())
        log.write("working")
        log.write("waiting")
    said = capsys.readouterr().err
    assert said.count("the disk is full") == 1
    assert "the work goes on" in said
    ((_, last),) = reports(store.path)
    assert last.state == "ended"


def test_a_store_without_pending_rows_gets_no_log(tmp_path):
    done, left = unfinished(tmp_path / "done.zarr")[0], writer(tmp_path / "left.zarr")
    work = work_of(left)
    work.pending = ([], work.pending[0])
    work.totals = [0, 32]
    for counts in (work.made, work.by_others, work.written, work.bytes, work.failed):
        counts.append(0)
    with WorkerLog([done, left], work, wait=at_once):
        pass
    assert not list((done.path / COMMIT).glob(f"*{LOG}"))
    assert len(lines(left.path)) == 2


def test_the_last_whole_line_counts_and_what_is_no_line_is_passed_over(tmp_path):
    store = writer(tmp_path / "s.zarr").path
    put(store, "a", report(done=1), report(done=2), '{"time": 10')
    put(store, "b", report(done=3), "\n\n", '{"time": 5}\n', "[]\n")
    put(store, "c", "")
    long = report(video="x" * 70_000)  # longer than what is read of a file
    put(store, "d", long, report(done=4))
    found = [(name, line.done if line else None) for name, line in reports(store)]
    assert found == [("a", 2), ("b", 3), ("c", None), ("d", 4)]


def test_who_is_killed_or_silent_does_not_say_so(tmp_path):
    def seen(now, **changed):
        return Report(**report(**changed)).seen(now)

    assert seen(1010.0) == "working"
    assert seen(1010.0, state="waiting") == "waiting"
    assert seen(1061.0) == "silent"
    assert seen(990.0) == "working"  # the clock of another host
    assert seen(1010.0, pid=dead()) == "killed"
    assert seen(1010.0, pid=dead(), host="another") == "working"
    assert seen(1061.0, pid=dead(), host="another") == "silent"
    assert seen(1e9, pid=dead(), state="stopped") == "stopped"


def test_a_run_deletes_the_logs_of_runs_that_are_over(tmp_path):
    store = writer(tmp_path / "s.zarr").path
    put(store, "ended", report(state="ended"))
    put(store, "failed", report(state="failed", host="another"))
    put(store, "killed", report(pid=dead()))
    put(store, "forgotten", report(host="another", time=1000.0 - 3601))
    put(store, "empty", "")
    put(store, "living", report())
    put(store, "silent", report(host="another", time=1000.0 - 3599))
    (store / COMMIT / "x.journal").write_bytes(b"")
    sweep(store, 1000.0)
    kept = {"living.progress.jsonl", "silent.progress.jsonl"}
    assert {file.name for file in (store / COMMIT).glob(f"*{LOG}")} == kept
    sweep(store, 1000.0, every=True)
    assert not list((store / COMMIT).glob(f"*{LOG}"))
    assert (store / COMMIT / "x.journal").exists()


def test_a_log_that_was_deleted_begins_again(tmp_path):
    store = writer(tmp_path / "s.zarr")
    with WorkerLog([store], work_of(store), wait=at_once):
        sweep(store.path, 1e12)
    (line,) = lines(store.path)
    assert line["state"] == "ended"
