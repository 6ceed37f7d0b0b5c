"""Reading in a process of its own, for what may hang or crash: a thread that hangs in a decoder cannot be
ended, and a decoder that crashes takes its process along.

The child is started when it is first needed and read to for as long as it lives. Every time it comes to
something new it says so; when nothing comes for too long it is killed.
"""

import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Generic, Protocol, TypeVar

import torch

from mambavl.cache.rows import Segment
from mambavl.configs.errors import DataError
from mambavl.configs.progress import say
from mambavl.extract import watch
from mambavl.extract.ahead import RowReader, Task
from mambavl.extract.watch import OPENING, At, Stopped

Clip = TypeVar("Clip")
PATIENCE = 5  # rows of a video at which its decoder may be lost; then the others are not tried
START = 300.0  # seconds that a child has to import everything, on a machine however busy
SAYS_SO = 0.5  # seconds after which a child that goes on says so
AGAIN = "the same command resumes"


class Reading(Protocol[Clip]):
    """How rows are read; it is sent to another process, and so is what comes of it."""

    def open(self, at: At) -> RowReader[list[list[Clip]]]: ...

    def failed(self, rows: Sequence[Segment], status: str, reason: str) -> list[list[Clip]]:
        """The clips of rows that cannot be read, by store."""
        ...


@dataclass
class Lost(Exception):
    """The child was killed or crashed."""

    video: str
    place: str
    why: str

    def __str__(self) -> str:
        return f"{self.video}: the decoder {self.why} ({self.place})"

    @property
    def status(self) -> str:
        return "unreadable_video" if self.place == OPENING else "damaged_frame"


class Isolated(Generic[Clip]):
    """Does tasks one after another in a child process; a thread waits for it.

    Rows at which the child is lost, together and once more alone, fail; so does a video that it cannot open
    or is lost at too often.
    """

    def __init__(self, reading: Reading[Clip], silence: float, say_lost: Callable[[str], None]) -> None:
        """silence: seconds in which the child may come to nothing new; say_lost: is told of videos at which
        it hung or crashed.
        """
        self._reading, self._silence, self._say_lost = reading, silence, say_lost
        self._tasks: queue.SimpleQueue[Task[list[list[Clip]]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._child: _Child | None = None
        self._lost: dict[str, list[Lost]] = {}  # by video
        self._is_over = False

    def submit(self, task: Task[list[list[Clip]]]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="isolated", daemon=True)
            self._thread.start()
        self._tasks.put(task)

    def close(self) -> None:
        self._is_over = True
        self._tasks.put(None)
        if child := self._child:
            child.end()  # the thread, which may be reading from it, does the rest
        if self._thread:
            self._thread.join()

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                found = self._read(task.rows)
            except BaseException as error:
                task.result.set_exception(error)
            else:
                task.result.set_result(found)
        if self._child:
            self._child.close()

    def _read(self, rows: Sequence[Segment]) -> list[list[Clip]]:
        if not any(self._given_up(row.video_id) for row in rows):
            try:
                return self._in_child(rows)
            except Lost as lost:
                self._note(lost)
        by_row = [self._read_one(row) for row in rows]
        return [[clip for clips in by_store for clip in clips] for by_store in zip(*by_row, strict=True)]

    def _read_one(self, row: Segment) -> list[list[Clip]]:
        """As `_read`; a row at which the child is lost again fails."""
        if (lost := self._given_up(row.video_id)) is None:
            try:
                return self._in_child([row])
            except Lost as again:
                lost = again
                self._note(lost)
        return self._reading.failed([row], lost.status, str(lost))

    def _given_up(self, video_id: str) -> Lost | None:
        """Why rows of a video are not tried any more, if that is so."""
        lost = self._lost.get(video_id, [])
        at_opening = [one for one in lost if one.place == OPENING]
        if len(at_opening) > 1:
            return at_opening[-1]
        if len(lost) > PATIENCE:
            return Lost(
                video_id, OPENING, f"hung or crashed {len(lost)} times, the last time: {lost[-1].why}"
            )
        return None

    def _note(self, lost: Lost) -> None:
        self._lost.setdefault(lost.video, []).append(lost)
        self._say_lost(lost.video)
        say(str(lost))

    def _in_child(self, rows: Sequence[Segment]) -> list[list[Clip]]:
        """Raises Lost where the child hangs or crashes, else as its reader does."""
        if self._is_over:
            raise Stopped
        child = self._child = self._child or _Child(self._reading)
        try:
            if self._is_over:  # `close` may not have seen the child
                raise Stopped
            return child.read(rows, self._silence)
        except (Lost, Stopped):
            child.close()
            self._child = None
            if self._is_over:
                raise Stopped from None
            raise


class _Child(Generic[Clip]):
    """A process that reads, as its parent sees it."""

    def __init__(self, reading: Reading[Clip]) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would have the locks of threads that it lacks
        ours, theirs = context.Pipe()
        self._pipe: Connection = ours
        self._process = context.Process(target=_serve, args=(reading, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self._is_new = True

    def read(self, rows: Sequence[Segment], silence: float) -> list[list[Clip]]:
        kind, said = self._ask(rows, silence)
        if kind == "error":
            raise said
        return said

    def _ask(self, rows: Sequence[Segment], silence: float) -> tuple[str, Any]:
        """("found", clips) or ("error", what the reader raised). Raises Lost where neither comes, DataError
        where the child does not come to begin.
        """
        video, place, waits_for_disk = rows[0].video_id, OPENING, False
        try:
            self._pipe.send(rows)
            while True:
                patience = START if self._is_new else silence
                while not self._pipe.poll(patience):
                    if self._is_new:
                        raise DataError(f"a process to read in did not start within {patience:g} s; {AGAIN}")
                    if not waits_for_disk:
                        raise Lost(video, place, f"gave nothing for {patience:g} s")
                kind, said = self._pipe.recv()
                self._is_new = False
                if kind == "at":
                    video, place = said
                elif kind == "disk":
                    waits_for_disk = said
                elif kind != "alive":
                    return kind, said
        except (EOFError, OSError) as error:
            self._process.join(START)
            code = self._process.exitcode
            how = f"was ended by signal {-code}" if code and code < 0 else f"ended with exit code {code}"
            if self._is_new:  # no fault of the rows
                raise DataError(
                    f"a process to read in could not start: it {how}. A script of your own needs "
                    f"`if __name__ == '__main__':` before it begins an extraction; else {AGAIN}"
                ) from error
            raise Lost(video, place, how) from error

    def end(self) -> None:
        """End the process, whatever it does; another thread may wait for it."""
        self._process.kill()

    def close(self) -> None:
        self.end()
        self._process.join()
        self._pipe.close()


class _SpeakingAt(At):
    """Says through a pipe where its thread is."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__()
        self._pipe = pipe

    def now(self, video: str, place: str) -> None:
        self._pipe.send(("at", (video, place)))

    def alive(self) -> None:
        if time.monotonic() - self.since > SAYS_SO:  # not at every packet
            super().alive()
            self._pipe.send(("alive", None))

    def disk_begins(self) -> None:
        self._pipe.send(("disk", True))

    def disk_ends(self, seconds: float) -> None:
        self._pipe.send(("disk", False))


def _serve(reading: Reading[Any], pipe: Connection) -> None:
    """What the child does: read what it is told to, until its parent is gone."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: it is the parent's to end this
    at = _SpeakingAt(pipe)
    watch.begin(at)
    reader: RowReader[list[list[Any]]] | None = None
    try:
        while True:
            rows = pipe.recv()
            pipe.send(("at", (rows[0].video_id, OPENING)))
            try:
                reader = reader or reading.open(at)  # here: what goes wrong is no fault of the rows
                found = reader.read(rows)
            except Exception as error:
                pipe.send(("error", error))
            else:
                pipe.send(("found", found))
    except (EOFError, OSError):
        pass
    finally:
        if reader is not None:
            reader.close()


def _end_with_parent() -> None:
    """A child that hangs does not see that its pipe is closed."""
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)
