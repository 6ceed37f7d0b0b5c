"""What a run that fills a store says of itself every ten seconds, for `mambavl extract status`: lines of JSON
in a file of its own, commit/HOST-PID-xxxx.progress.jsonl, beside its journal.

Nothing depends on these files: what is done is in the journals, and a log that cannot be written or read is
done without. A run that begins deletes the logs of runs that are over, and who finishes a store deletes all.
"""

import dataclasses
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from mambavl.cache import fsops
from mambavl.cache.spec import COMMIT
from mambavl.cache.work import Work
from mambavl.cache.writer import StoreWriter
from mambavl.configs.errors import DataError, Interrupted
from mambavl.configs.progress import say

LOG = ".progress.jsonl"
EVERY = 10.0  # seconds between two lines
SILENT = 60.0  # seconds without a line after which a run is taken for dead, or hung
FORGOTTEN = 3600.0  # after which its log may be deleted; a run that lives begins another
TAIL = 1 << 16  # bytes that hold the last line

# stopped: as somebody asked for; failed: by an error
State = Literal["working", "waiting", "ended", "stopped", "failed"]
Seen = Literal["working", "waiting", "ended", "stopped", "failed", "silent", "killed"]
OVER = ("ended", "stopped", "failed", "killed")


@dataclass(frozen=True)
class Report:
    """A line: how far a run is in one store. Rows and bytes are of that store, times of the whole run."""

    time: float  # seconds since 1970, by the clock of its host
    host: str
    pid: int
    state: State
    done: int  # of `total` rows: encoded by this run, or done by others meanwhile
    total: int  # rows that were pending when it began
    made: int  # rows encoded by this run
    written: int  # those of them that are on the disk
    rows_per_s: float  # encoded by this run since it began
    failed: int  # rows of the store, as far as this run knows
    bytes: int  # written by this run
    seconds: dict[str, float]  # busy time by stage; of several threads together
    stalled: float  # seconds that the encoder waited for rows to be read
    video: str  # in work

    def seen(self, now: float) -> Seen:
        """What a run is whose last line this is: `killed` and `silent` ones do not say so."""
        if self.state in OVER:
            return self.state
        if self.host == socket.gethostname() and not fsops.is_alive(self.pid):
            return "killed"
        return "silent" if self.age(now) > SILENT else self.state

    def age(self, now: float) -> float:
        """Seconds since it was written; clocks of two hosts may differ."""
        return max(0.0, now - self.time)


class WorkerLog:
    """Keeps the log of one run while it is entered, a file in each store; a thread writes, since the run may
    be busy for longer with one batch.
    """

    def __init__(
        self,
        writers: Sequence[StoreWriter],
        work: Work,
        *,
        clock: Callable[[], float] = time.time,
        wait: Callable[[threading.Event, float], bool] = threading.Event.wait,
    ) -> None:
        """wait: until the event is set, for so many seconds at most; whether it was set."""
        self._stores = [writer.path for writer in writers]
        # a store of which nothing is pending may be finished
        self._files = {
            number: writer.path / COMMIT / f"{writer.name}{LOG}"
            for number, writer in enumerate(writers)
            if work.pending[number]
        }
        self._work, self._clock, self._wait = work, clock, wait
        self._since = clock()
        self._torn: set[Path] = set()  # files that may end in a part of a line
        self._has_complained = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._write_on, name="progress log", daemon=True)

    def __enter__(self) -> Self:
        for store in self._stores:
            self._unless_it_fails(partial(sweep, store, self._clock()))
        self.write("working")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self.write("ended" if error is None else "stopped" if isinstance(error, Interrupted) else "failed")

    def _write_on(self) -> None:
        while not self._wait(self._over, EVERY):
            self.write("waiting" if self._work.is_waiting else "working")

    def write(self, state: State) -> None:
        """Add a line to each file."""
        now = self._clock()
        for number, file in self._files.items():
            line = json.dumps(dataclasses.asdict(self._report(number, state, now)), ensure_ascii=False)
            self._unless_it_fails(partial(self._append, file, line))

    def _append(self, file: Path, line: str) -> None:
        begin = "\n" if file in self._torn else ""
        self._torn.add(file)
        fsops.append(file, f"{begin}{line}\n".encode())
        self._torn.discard(file)

    def _report(self, number: int, state: State, now: float) -> Report:
        work, made = self._work, self._work.made[number]
        passed = now - self._since
        return Report(
            time=round(now, 3),
            host=socket.gethostname(),
            pid=os.getpid(),
            state=state,
            done=made + work.by_others[number],
            total=work.totals[number],
            made=made,
            written=work.written[number],
            rows_per_s=round(made / passed, 4) if passed > 0 else 0.0,
            failed=work.failed[number],
            bytes=work.bytes[number],
            seconds={stage: round(seconds, 3) for stage, seconds in work.seconds.copy().items()},
            stalled=round(work.stalled, 3),
            video=work.at,
        )

    def _unless_it_fails(self, deed: Callable[[], object]) -> None:
        """A disk that is full or broken stops the work elsewhere, if at all; of the log it is said once."""
        try:
            deed()
        except DataError as error:
            if not self._has_complained:
                self._has_complained = True
                say(f"mambavl: {error} (`mambavl extract status` cannot see this run; the work goes on)")


def reports(store: Path) -> Iterator[tuple[str, Report | None]]:
    """The writers that have a log in a store, and the last line of each; None where it has no whole one."""
    for file in sorted((store / COMMIT).glob(f"*{LOG}")):
        try:
            with open(file, "rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL))
                tail = log.read()
        except FileNotFoundError:  # deleted a moment ago
            continue
        found = (_parsed(line) for line in reversed(tail.split(b"\n")))
        yield file.name.removesuffix(LOG), next((report for report in found if report), None)


def sweep(store: Path, now: float, *, every: bool = False) -> None:
    """Delete the logs of runs that are over, or `every` one. Raises DataError where the disk refuses."""
    for name, report in reports(store):
        if every or report is None or report.seen(now) in OVER or report.age(now) > FORGOTTEN:
            fsops.remove(store / COMMIT / f"{name}{LOG}")


def _parsed(line: bytes) -> Report | None:
    try:
        found: Any = json.loads(line)
        return Report(**{field.name: found[field.name] for field in dataclasses.fields(Report)})
    except (ValueError, KeyError, TypeError):
        return None
