"""Worker processes of one command: as many as asked for, and others in place of those that a decoder crashes.

They are forks, made before anything heavy is done, and share the work by its claims; what they say comes
through a pipe. What a crashed one was reading is known to the store (`suspects`), so its successor reads that
where a crash costs no more than its rows.
"""

import ctypes
import gc
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, Generic, TypeVar

import torch

from mambavl.configs.errors import DataError, Interrupted, MambaVLError
from mambavl.configs.progress import Progress, ShouldStop, say

Result = TypeVar("Result")
CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE)
ASKS_TO_END = (signal.SIGINT, signal.SIGTERM)
IN_VAIN = 3  # crashes of a worker and its successors between which no row was written
POLL = 0.5  # seconds
GRACE = 30.0  # seconds that workers have to end after a signal
PR_SET_PDEATHSIG = 1  # Linux: a signal that a process gets when its parent ends


@dataclass(frozen=True)
class Worker:
    """What a worker is given."""

    number: int
    is_successor: bool  # of one that crashed when it had said how much there is to do
    progress: Progress
    should_stop: ShouldStop
    cores: int | None = None  # that are meant for it; None: nobody has said


@dataclass
class _Process:
    """A worker process, as its parent sees it."""

    number: int
    pid: int
    pipe: Connection
    before: "_Process | None" = None  # the one that crashed and whose place it has
    is_successor: bool = False  # as its worker knows it
    done: int = 0  # rows
    total: int = 0
    pending: int = 0  # rows, when it began
    in_vain: int = 0  # crashes one after another, up to its own
    note: str = ""
    said: tuple[str, Any] | None = None  # ("result", ...) or ("error", ...)


@dataclass
class Crew(Generic[Result]):
    """The workers of a command."""

    work: Callable[[Worker], Result]
    processes: list[_Process] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    done: int = 0  # rows of workers that have ended
    total: int = 0
    remedy: str = ", and reads what that one was reading in a process of its own"
    grace: float = field(default_factory=lambda: GRACE)
    later: list[int] = field(default_factory=list)  # numbers of those that the first one lets begin
    stopped: list[_Process] = field(default_factory=list)  # those that were asked to end

    def start(self, number: int, before: _Process | None = None) -> None:
        ours, theirs = Pipe(duplex=False)
        is_successor = before is not None and (before.is_successor or before.pending > 0)
        sys.stdout.flush()
        sys.stderr.flush()
        # what was open here must not be closed there: a decoder waits for threads that a fork does not have
        gc.collect()
        gc.freeze()
        # a signal that comes before the worker listens must wait until it does
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ASKS_TO_END)
        pid = os.fork()
        if not pid:
            ours.close()
            _serve(self.work, number, is_successor, theirs, blocked)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        gc.unfreeze()
        theirs.close()
        self.processes.append(_Process(number, pid, ours, before, is_successor))

    def wait(self, progress: Progress, should_stop: ShouldStop) -> list[Result]:
        """The results of the workers, when all have ended.

        Raises what the first of them raised, when the others have ended, too; Interrupted where
        `should_stop()` turns true; DataError for a worker that is killed, where no other goes on, or crashes
        again and again.
        """
        while self.processes:
            if should_stop():
                self.end()
                raise self._interrupted()
            ready = wait([process.pipe for process in self.processes], timeout=POLL)
            for process in [one for one in self.processes if one.pipe in ready]:
                self._listen(process)
            self._show(progress)
        return self.results

    def _listen(self, process: _Process) -> None:
        try:
            kind, *said = process.pipe.recv()
        except EOFError:
            self._ended(process)
            return
        if kind == "progress":
            process.done, process.total, process.note = said
            process.pending = max(process.pending, process.total)
            self.total = max(self.total, process.total)
            while self.later:
                self.start(self.later.pop(0))
        else:
            process.said = kind, said[0]

    def _ended(self, process: _Process) -> None:
        _, status = os.waitpid(process.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        process.pipe.close()
        self.processes.remove(process)
        self.done += process.done
        if process.said is not None:
            kind, said = process.said
            if kind == "result":
                self.results.append(said)
                return
            self.end()
            raise said
        if -code in CRASHES:
            before, process.in_vain = process.before, 1
            # what was encoded and not written does not count: it would crash there for ever
            if before and not 0 < process.pending < before.pending:
                process.in_vain += before.in_vain
            process.before = None
            if process.in_vain < IN_VAIN:
                say(f"a worker was ended by signal {-code}; another one goes on{self.remedy}")
                self.start(process.number, process)
                return
            self.end()
            raise DataError(
                f"{IN_VAIN} workers in a row were ended by a signal, the last by {-code}, and no row was "
                "written meanwhile; the same command resumes"
            )
        if self.processes and code < 0:
            say(f"a worker was ended by signal {-code}; the others go on")
            return
        self.end()
        raise DataError(
            f"a worker was ended by signal {-code} (9 may be the system's, for want of memory); "
            "the same command resumes"
            if code < 0
            else f"a worker ended with exit code {code} and said nothing; the same command resumes"
        )

    def _show(self, progress: Progress) -> None:
        notes = [process.note for process in self.processes if process.note]
        done = self.done + sum(process.done for process in self.processes)
        if self.total:
            progress(min(done, self.total), self.total, notes[0] if notes else "")

    def end(self) -> None:
        """Ask the workers to end, and kill those that do not."""
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGTERM)
        ends = time.monotonic() + self.grace
        while self.processes:
            left = ends - time.monotonic()
            if left <= 0:
                for process in self.processes:
                    say(f"worker {process.pid} did not end within {self.grace:.0f} s and is killed")
                self.kill()
            for pipe in wait([process.pipe for process in self.processes], timeout=max(left, POLL)):
                process = next(one for one in self.processes if one.pipe is pipe)
                try:
                    kind, *said = process.pipe.recv()
                    if kind != "progress":
                        process.said = kind, said[0]
                except EOFError:
                    os.waitpid(process.pid, 0)
                    self.processes.remove(process)
                    self.stopped.append(process)

    def kill(self) -> None:
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)

    def _interrupted(self) -> BaseException:
        """What a worker said of its end, best of all that it was interrupted."""
        said = [process.said[1] for process in self.stopped if process.said and process.said[0] == "error"]
        others = [error for error in said if not isinstance(error, Interrupted)]
        return (others or said or [Interrupted("stopped; the same command resumes")])[0]


@contextmanager
def crew(
    work: Callable[[Worker], Result],
    workers: int,
    *,
    first_alone: bool = False,
    grace: float | None = None,
    remedy: str | None = None,
) -> Iterator[Crew[Result]]:
    """Workers that do `work`; none is left at the end. first_alone: the others begin when the first one has
    said how much there is to do. grace: seconds that they have to end after a signal. remedy: what is said
    of one that goes on in place of another.

    They are forks: enter before threads are started, and before a GPU is used.
    """
    found = Crew(work)
    found.grace = found.grace if grace is None else grace
    found.remedy = found.remedy if remedy is None else remedy
    numbers = list(range(workers))
    if first_alone:
        numbers, found.later = numbers[:1], numbers[1:]
    for number in numbers:
        found.start(number)
    try:
        yield found
    except KeyboardInterrupt:  # the second one
        found.kill()
        raise
    finally:
        found.end()


def _serve(
    work: Callable[[Worker], Any],
    number: int,
    is_successor: bool,
    pipe: Connection,
    signals: set[int | signal.Signals],
) -> None:
    """The life of a worker. signals: that are to be blocked once it listens to them."""
    code = 1
    try:
        # a fork has torch's threads to make anew, and two that do so at once find none
        torch.set_num_threads(torch.get_num_threads())
        # a progress bar may stand before them, and the thread that draws it have had its lock
        sys.stdout = getattr(sys.stdout, "rich_proxied_file", sys.stdout)
        sys.stderr = getattr(sys.stderr, "rich_proxied_file", sys.stderr)
        stopped, parent = False, os.getppid()
        _end_with_parent()

        def note(signum: int, frame: object) -> None:
            nonlocal stopped
            stopped = True

        signal.signal(signal.SIGTERM, note)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all: the parent says what to do
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)

        def should_stop() -> bool:
            return stopped or os.getppid() != parent

        def progress(done: int, total: int, note: str = "") -> None:
            pipe.send(("progress", done, total, note))

        try:
            pipe.send(("result", work(Worker(number, is_successor, progress, should_stop))))
            code = 0
        except Exception as error:
            if not isinstance(error, MambaVLError):
                traceback.print_exc()  # the parent knows only its own
            pipe.send(("error", error))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _end_with_parent() -> None:
    """Where the system can do it, a worker ends with its parent even while it hangs; elsewhere at its next
    question whether it should stop.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
