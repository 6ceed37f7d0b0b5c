"""Threads that read ahead: in order, each with its own reader, and none keeps the program from ending."""

import threading

import pytest

from mambavl.configs.errors import SystemFault
from mambavl.extract.ahead import Ahead, Task
from mambavl.extract.watch import Stopped

LONG = 30  # seconds that a test waits for what must come


def submit(ahead, rows, first=0):
    task = Task(first, rows)
    ahead.submit(task)
    return task


class Reader:
    """Rows are numbers, or what is to be done."""

    def __init__(self, at, log):
        self.at, self.log, self.seconds = at, log, {}
        log.append(("open", threading.current_thread().name))

    def read(self, rows):
        self.seconds["decode"] = 2.0
        return [[row() if callable(row) else row * 10 for row in rows]]

    def close(self):
        self.log.append(("close", threading.current_thread().name))


@pytest.fixture
def start():
    begun = []

    def make(threads, log=None, reader=Reader):
        begun.append(Ahead(lambda at: reader(at, [] if log is None else log), threads))
        return begun[-1]

    yield make
    for ahead in begun:
        ahead.close()


def test_tasks_are_done_with_what_they_took(start):
    ahead = start(2)
    tasks = [submit(ahead, [number, number + 1]) for number in range(20)]
    assert [task.result.result(LONG) for task in tasks] == [[[n * 10, n * 10 + 10]] for n in range(20)]
    assert [task.seconds for task in tasks] == [{"decode": 2.0}] * 20


def test_threads_work_beside_each_other_and_each_closes_its_reader(start):
    log = []
    ahead = start(3, log)
    together = threading.Barrier(3, timeout=LONG)
    tasks = [submit(ahead, [together.wait]) for _ in range(3)]
    for task in tasks:
        task.result.result(LONG)
    assert ahead.close()
    assert sorted(kind for kind, _ in log) == ["close"] * 3 + ["open"] * 3
    assert len({name for _, name in log}) == 3


def test_what_a_reader_raises_is_raised_where_its_task_is_waited_for(start):
    ahead = start(1)

    def fail():
        raise SystemFault("disk")

    bad, good = submit(ahead, [fail]), submit(ahead, [1])
    with pytest.raises(SystemFault, match="disk"):
        bad.result.result(LONG)
    assert good.result.result(LONG) == [[10]]


def test_a_reader_that_cannot_be_opened_is_tried_again_and_keeps_nobody_waiting(start):
    faults = [SystemFault("no file descriptor is left")]

    def open_reader(at, log):
        if faults:
            raise faults.pop()
        return Reader(at, log)

    ahead = start(1, reader=open_reader)
    bad, good = submit(ahead, [1]), submit(ahead, [1])
    with pytest.raises(SystemFault, match="no file descriptor"):
        bad.result.result(LONG)
    assert good.result.result(LONG) == [[10]]


def test_a_job_that_ends_stops_its_threads_at_their_next_frame(start):
    begun, more = threading.Event(), threading.Event()
    frames = []

    class Slow(Reader):
        def read(self, rows):
            for number in range(1000):
                self.at.now("P01_01", f"frame {number}")
                frames.append(number)
                begun.set()
                more.wait(LONG)
            return []

    ahead = start(1, reader=Slow)
    task = submit(ahead, [0])
    assert begun.wait(LONG)
    threading.Timer(0.1, more.set).start()
    assert ahead.close()
    assert frames == [0]
    with pytest.raises(Stopped):
        task.result.result(LONG)


def test_a_diary_knows_what_is_being_read(start):
    class Diary(dict):
        begins = dict.__setitem__

        def ends(self, thread):
            seen.append(dict(self))
            del self[thread]

    diary, seen = Diary(), []
    ahead = Ahead(lambda at: Reader(at, []), 1, diary)
    for first in (8, 16):
        submit(ahead, [1], first).result.result(LONG)
    assert ahead.close()
    assert seen == [{0: 8}, {0: 16}]
    assert not diary
