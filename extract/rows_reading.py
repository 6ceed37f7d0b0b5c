"""Rows are read by threads; what makes one of them hang, or made a process crash, by another process."""

from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import Generic, TypeVar

from mambavl.cache.rows import Segment
from mambavl.configs.progress import say
from mambavl.extract.ahead import Ahead, Task
from mambavl.extract.isolated import Isolated, Reading
from mambavl.extract.suspects import Suspects

Clip = TypeVar("Clip")


class RowsReading(Generic[Clip]):
    """Reads rows ahead of whoever takes them. For one thread, beside those that read."""

    def __init__(
        self, reading: Reading[Clip], threads: int, silence: float, suspects: Suspects | None
    ) -> None:
        """silence: seconds in which a decoder may come to nothing new. suspects: of an unfinished store."""
        self._silence, self._suspects = silence, suspects
        self._ahead: Ahead[list[list[Clip]]] = Ahead(reading.open, threads, suspects)
        self._isolated = Isolated(reading, silence, self._note_lost)

    def _note_lost(self, video_id: str) -> None:
        if self._suspects:
            self._suspects.lost(video_id)

    def _clear(self, first: int, read: "Future[list[list[Clip]]]") -> None:
        if self._suspects and not read.exception():
            self._suspects.cleared(first)

    def submit(self, first: int, rows: Sequence[Segment]) -> Task[list[list[Clip]]]:
        """Read rows, of which the first has the number `first`, after those that were submitted before."""
        task: Task[list[list[Clip]]] = Task(first, rows)
        if self._suspects and self._suspects.holds(first):
            self._isolated.submit(task)
            task.result.add_done_callback(partial(self._clear, first))
        else:
            self._ahead.submit(task)
        return task

    def look_after(self) -> None:
        """Give what threads hang at to a process that can be killed."""
        for thread in self._ahead.silent(self._silence):
            say(
                f"{thread.at.video}: nothing came for {self._silence:g} s ({thread.at.place}); it is tried "
                "again in a process of its own"
            )
            self._note_lost(thread.at.video)
            if task := self._ahead.replace(thread):
                self._isolated.submit(task)

    def close(self) -> bool:
        """End what reads; False where a thread hangs."""
        self._isolated.close()
        has_ended = self._ahead.close()
        if self._suspects:
            self._suspects.close()
        return has_ended
