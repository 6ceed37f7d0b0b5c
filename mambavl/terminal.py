"""What people see: progress bars on a terminal, plain lines in a log file, tables, and how a signal stops the
work.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from mambavl.configs.progress import Progress, ShouldStop, say

RANK = "RANK"  # what launchers call a process by; the first one speaks for all
LINE_EVERY = 10.0  # seconds between two lines of a log

console = Console(stderr=True)
# tables in a log file are not squeezed
out = Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def is_first() -> bool:
    """Whether this is the first of the processes that a launcher started, or the only one."""
    return os.environ.get(RANK, "0") == "0"


@contextmanager
def progress(what: str, unit: str) -> Iterator[Progress]:
    """Yields `update(done, total, note)`: a bar on a terminal, else a line to stderr every ten seconds and at
    the end; both with the rate since the first of them and the time that the rest will take at that rate.
    """
    pace = _Pace(unit)
    if console.is_terminal:
        columns = (
            TextColumn(what),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeElapsedColumn(),
            TextColumn("{task.fields[said]}"),
        )
        with RichProgress(*columns, console=console) as bar:
            task = bar.add_task(what, total=None, said="")

            def draw(done: int, total: int, note: str = "") -> None:
                said = ", ".join(filter(None, (pace.of(done, total), note)))
                bar.update(task, completed=done, total=total, said=said)

            yield draw
        return
    start = last = time.monotonic()
    at_end: int | None = None  # the total that was said to be done

    def line(done: int, total: int, note: str = "") -> None:
        nonlocal last, at_end
        now = time.monotonic()
        paced = pace.of(done, total)
        if total and (now - last >= LINE_EVERY or done == total) and done != at_end:
            last = now
            at_end = total if done == total else None
            said = ", ".join(filter(None, (f"{now - start:.0f} s", paced, note)))
            say(f"{what}: {done:,} of {total:,} {unit}, {said}")

    yield line


class _Pace:
    """How fast it goes, from all that was seen: rich's own estimate forgets what is older than 30 s."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._first: tuple[float, int] | None = None  # when, and what was done before

    def of(self, done: int, total: int) -> str:
        """Such as `8.5 rows/s, 2 h 30 min left`; nothing as long as nothing was done."""
        now = time.monotonic()
        if self._first is None:
            self._first = now, done
        since, before = self._first
        if done <= before or now <= since:
            return ""
        rate = (done - before) / (now - since)
        left = f", {duration((total - done) / rate)} left" if done < total else ""
        digits = 2 if rate < 1 else 1 if rate < 100 else 0
        return f"{rate:,.{digits}f} {self._unit}/s{left}"


def duration(seconds: float) -> str:
    """Such as `45 s`, `12 min`, `2 h 30 min`, `3 days 4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} days {hours} h"


@contextmanager
def stop_on_signal() -> Iterator[ShouldStop]:
    """Yields `should_stop()`: true after SIGINT or SIGTERM. A second signal ends the program at once, as
    usual.
    """
    stopped = False
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: object) -> None:
        nonlocal stopped
        stopped = True
        restore()
        say("stopping after the work in hand; once more to stop at once")

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: stopped
    finally:
        restore()
