"""Worker processes: what they give comes back, a crash costs nothing, and all end with the command."""

import faulthandler
import io
import os
import signal
import sys
import threading
import time

import pytest
import torch
from rich.console import Console
from rich.file_proxy import FileProxy
from rich.progress import Progress

from helpers.forks import fork
from mambavl.configs.errors import DataError, Interrupted, SystemFault
from mambavl.configs.progress import never, unseen
from mambavl.extract import workers
from mambavl.extract.workers import crew

LONG = 60  # seconds that a test waits for what must come


def run(work, count=1, progress=unseen, should_stop=never):
    with crew(work, count) as found:
        return found.wait(progress, should_stop)


def once(path):
    """Whether this is the first time, over all processes."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def crash_by(number):
    faulthandler.disable()  # of the tests: it prints what is as it should be
    os.kill(os.getpid(), number)


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def until(true):
    ends = time.monotonic() + LONG
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.02)


def hang(worker):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(1)


def test_each_is_a_process_with_a_number_and_says_what_it_did():
    found = run(lambda worker: (worker.number, os.getpid()), 3)
    assert sorted(number for number, _ in found) == [0, 1, 2]
    assert len({pid for _, pid in found} | {os.getpid()}) == 4


def test_progress_is_that_of_all_together():
    def work(worker):
        worker.progress(0, 40, "")
        worker.progress(5 + worker.number, 40, "slowest: decode")

    said = []
    run(work, 3, progress=lambda *each: said.append(each))
    assert said[-1] == (5 + 6 + 7, 40, "")
    assert {total for _, total, _ in said} == {40}


@pytest.mark.parametrize("error", [SystemFault("the disk is away"), DataError("no such video")])
def test_what_one_raises_ends_the_others_and_is_raised(error, tmp_path):
    def work(worker):
        if worker.number:
            (tmp_path / str(os.getpid())).touch()
            until(worker.should_stop)
            return
        until(lambda: os.listdir(tmp_path))
        raise error

    with pytest.raises(type(error), match=str(error)):
        run(work, 2)
    (other,) = os.listdir(tmp_path)
    assert not is_alive(int(other))


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT])
def test_another_goes_on_where_one_crashed(tmp_path, capfd, number):
    def work(worker):
        if once(tmp_path / "crashed"):
            crash_by(number)
        return "done"

    assert run(work) == ["done"]
    assert f"a worker was ended by signal {int(number)}; another one goes on" in capfd.readouterr().err


def test_who_comes_after_a_crash_knows_whether_the_work_had_begun(tmp_path):
    """Failed rows are opened again before a worker says how many rows there are, and only once: whoever comes
    later must not do so, also when the one before it crashed early.
    """

    def early(worker):
        if once(tmp_path / "early"):
            crash_by(signal.SIGSEGV)
        return worker.is_successor

    def late(worker):
        if once(tmp_path / "late"):
            worker.progress(0, 9, "")
            crash_by(signal.SIGSEGV)
        if once(tmp_path / "late and early"):
            crash_by(signal.SIGSEGV)
        return worker.is_successor

    assert run(early) == [False]
    assert run(late) == [True]


def test_crashes_again_and_again_end_the_command_unless_it_gets_on(tmp_path):
    def crash(worker):
        crash_by(signal.SIGSEGV)

    with pytest.raises(DataError, match="3 workers in a row were ended by a signal, the last by 11"):
        run(crash)

    def gets_on(worker):
        for number in range(5):
            if once(tmp_path / str(number)):
                worker.progress(0, 9 - number, "")  # so many are pending: others were written
                crash_by(signal.SIGSEGV)
        return "done"

    assert run(gets_on) == ["done"]

    def encodes(worker):  # and crashes before that is written, each time
        worker.progress(0, 9, "")
        worker.progress(4, 9, "")
        crash_by(signal.SIGSEGV)

    with pytest.raises(DataError, match="3 workers in a row"):
        run(encodes)


def test_one_that_is_killed_leaves_its_work_to_the_others(tmp_path, capfd):
    def work(worker):
        if once(tmp_path / "killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        until(lambda: (tmp_path / "killed").exists())
        time.sleep(0.2)
        return worker.number

    assert len(run(work, 2)) == 1
    assert "a worker was ended by signal 9; the others go on" in capfd.readouterr().err
    (tmp_path / "killed").unlink()
    with pytest.raises(DataError, match="ended by signal 9"):
        run(work, 1)


def test_one_that_says_nothing_is_no_success():
    with pytest.raises(DataError, match="ended with exit code 3 and said nothing"):
        run(lambda worker: os._exit(3))


def test_a_stop_is_asked_of_all_and_their_word_is_raised(tmp_path):
    def work(worker):
        once(tmp_path / str(worker.number))
        until(worker.should_stop)
        raise Interrupted(f"stopped after {worker.number} rows")

    with pytest.raises(Interrupted, match="stopped after"):
        run(work, 2, should_stop=lambda: len(os.listdir(tmp_path)) == 2)


def test_one_that_does_not_end_is_killed(monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(workers, "GRACE", 0.5)

    def work(worker):
        (tmp_path / str(os.getpid())).touch()
        hang(worker)

    with pytest.raises(Interrupted, match="the same command resumes"):
        run(work, should_stop=lambda: os.listdir(tmp_path))
    (pid,) = os.listdir(tmp_path)
    assert not is_alive(int(pid))
    assert "did not end within" in capfd.readouterr().err


def test_none_outlives_its_command_however_that_ends(tmp_path):
    def work(worker):
        (tmp_path / str(os.getpid())).touch()
        hang(worker)

    command = fork(lambda: run(work, 2))
    until(lambda: len(os.listdir(tmp_path)) == 2)
    command.send_signal(signal.SIGKILL)
    command.wait()
    for pid in os.listdir(tmp_path):
        until(lambda pid=pid: not is_alive(int(pid)))


def test_a_terminals_interrupt_is_the_commands_to_handle():
    def work(worker):
        os.kill(os.getpid(), signal.SIGINT)
        return worker.should_stop()

    assert run(work) == [False]


def test_a_signal_that_comes_before_a_worker_listens_is_not_lost(monkeypatch):
    system_fork = os.fork

    def fork_and_ask_to_end():
        if pid := system_fork():
            os.kill(pid, signal.SIGTERM)
        return pid

    def work(worker):
        until(worker.should_stop)
        return "asked"

    monkeypatch.setattr(os, "fork", fork_and_ask_to_end)
    assert run(work) == ["asked"]


def test_a_second_interrupt_waits_for_no_worker(capfd):
    def work(worker):
        signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getppid(), signal.SIGINT))
        worker.progress(1, 2, "")  # not before: until then SIGTERM is the crew's
        while True:
            time.sleep(1)

    done = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in a background job it is ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            run(work, progress=lambda rows, *_: done.append(rows), should_stop=lambda: any(done))
    finally:
        signal.signal(signal.SIGINT, before)
    assert "did not end within" not in capfd.readouterr().err


def test_threads_of_a_worker_may_all_use_torch_at_once():
    pictures = torch.rand(64, 64, 64)

    def work(worker):
        gate, failed = threading.Barrier(16), []

        def use():
            gate.wait()
            try:
                pictures.mul(2).sum()
            except RuntimeError as error:
                failed.append(str(error))

        threads = [threading.Thread(target=use) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return failed

    threads = torch.get_num_threads()
    torch.set_num_threads(threads)  # once, it is set again in every thread that begins
    pictures.mul(2).sum()
    for _ in range(30):
        assert run(work) == [[]]


def test_a_worker_writes_beside_the_bar_of_its_command():
    def work(worker):
        return isinstance(sys.stdout, FileProxy) or isinstance(sys.stderr, FileProxy)

    with Progress(console=Console(file=io.StringIO(), force_terminal=True)):
        assert isinstance(sys.stderr, FileProxy)
        assert run(work) == [False]


def test_others_may_wait_for_the_first_one(tmp_path):
    def work(worker):
        others = os.listdir(tmp_path)
        (tmp_path / str(worker.number)).touch()
        if worker.number == 0:
            time.sleep(0.3)
            others = os.listdir(tmp_path)
            worker.progress(0, 9, "")
            until(lambda: len(os.listdir(tmp_path)) == 3)
        return worker.number, others

    with crew(work, 3, first_alone=True) as found:
        said = dict(found.wait(unseen, never))
    assert said.keys() == {0, 1, 2}
    assert said[0] == ["0"]
