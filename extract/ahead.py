"""Threads that read rows ahead of the encoder, each with a reader of its own; and what each is at."""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from mambavl.cache.rows import Segment
from mambavl.extract import watch
from mambavl.extract.watch import At

Found = TypeVar("Found")
FoundByReader = TypeVar("FoundByReader", covariant=True)
GRACE = 5.0  # seconds that a thread has to come to its next frame when the job ends


class RowReader(Protocol[FoundByReader]):
    """Reads what rows show or sound like. For one thread."""

    seconds: dict[str, float]  # busy time by stage, until somebody takes it away

    def read(self, rows: Sequence[Segment]) -> FoundByReader: ...

    def close(self) -> None: ...


@dataclass(eq=False)
class Task(Generic[Found]):
    """Rows to be read, and what comes of it."""

    first: int  # number of the first row
    rows: Sequence[Segment]
    result: "Future[Found]" = field(default_factory=Future)
    seconds: dict[str, float] = field(default_factory=dict)


class Diary(Protocol):
    """Is told what each thread reads."""

    def begins(self, thread: int, first: int) -> None: ...

    def ends(self, thread: int) -> None: ...


class Ahead(Generic[Found]):
    """N threads that do tasks in the order in which they come."""

    def __init__(
        self, open_reader: Callable[[At], RowReader[Found]], threads: int, diary: Diary | None = None
    ) -> None:
        self._open_reader, self._diary = open_reader, diary
        self._tasks: queue.SimpleQueue[Task[Found] | None] = queue.SimpleQueue()
        self._left: list[_Thread[Found]] = []  # those that were replaced
        self._threads = [self._start(number) for number in range(threads)]

    def _start(self, number: int) -> "_Thread[Found]":
        thread = _Thread(self._open_reader, self._tasks, number, self._diary)
        thread.start()
        return thread

    def submit(self, task: Task[Found]) -> None:
        self._tasks.put(task)

    def silent(self, seconds: float) -> "list[_Thread[Found]]":
        """Threads that have come to nothing new for so long, though no disk kept them."""
        return [thread for thread in self._threads if thread.is_silent(seconds)]

    def replace(self, silent: "_Thread[Found]") -> Task[Found] | None:
        """Start another thread in place of one that does not come back; what that one was at, to be done
        otherwise. None where it has come back after all.
        """
        silent.at.is_over = True
        self._left.append(silent)
        place = self._threads.index(silent)
        self._threads[place] = self._start(place)
        if task := silent.task:
            task.result = Future()  # whatever that thread still says, nobody hears it
        return task

    def close(self) -> bool:
        """End the threads, each at its next frame; False where one does not come to it."""
        for thread in self._threads:
            thread.at.is_over = True
            self._tasks.put(None)
        ends = time.monotonic() + GRACE
        for thread in self._threads:
            thread.join(max(0.0, ends - time.monotonic()))
        return not any(thread.is_alive() for thread in (*self._threads, *self._left))


class _Thread(threading.Thread, Generic[Found]):
    """A daemon: one that hangs in a decoder cannot be ended, and must not keep the program."""

    def __init__(
        self,
        open_reader: Callable[[At], RowReader[Found]],
        tasks: "queue.SimpleQueue[Task[Found] | None]",
        number: int,
        diary: Diary | None,
    ) -> None:
        super().__init__(name=f"read-{number}", daemon=True)
        self.at = At()
        self.task: Task[Found] | None = None  # in work
        self._number, self._diary = number, diary
        self._open_reader, self._tasks = open_reader, tasks

    def run(self) -> None:
        watch.begin(self.at)
        reader: RowReader[Found] | None = None
        try:
            while not self.at.is_over and (task := self._tasks.get()) is not None:
                self.at.since = time.monotonic()
                self.task, result = task, task.result
                try:
                    reader = reader or self._open_reader(self.at)  # here: somebody waits for what goes wrong
                    found = self._read(reader, task)
                except BaseException as error:
                    self.task = None
                    result.set_exception(error)
                else:
                    self.task = None
                    task.seconds, reader.seconds = reader.seconds, {}
                    result.set_result(found)
        finally:
            if reader is not None:
                reader.close()

    def _read(self, reader: RowReader[Found], task: Task[Found]) -> Found:
        if self._diary is not None:
            self._diary.begins(self._number, task.first)
        try:
            return reader.read(task.rows)
        finally:
            if self._diary is not None and not self.at.is_over:  # else another thread has its place
                self._diary.ends(self._number)

    def is_silent(self, seconds: float) -> bool:
        return self.task is not None and self.at.silent_for() > seconds
