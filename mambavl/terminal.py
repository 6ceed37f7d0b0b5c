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
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from mambavl.configs.progress import Progress, ShouldStop

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
    """Yields `update(done, total)`: a bar on a terminal, else a line to stderr every ten seconds and at the
    end.
    """
    if console.is_terminal:
        columns = (
            TextColumn(what),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with RichProgress(*columns, console=console) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    start = last = time.monotonic()

    def line(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if total and (now - last >= LINE_EVERY or done == total):
            last = now
            print(f"{what}: {done:,} of {total:,} {unit}, {now - start:.0f} s", file=sys.stderr, flush=True)

    yield line


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
        print("stopping after the work in hand; once more to stop at once", file=sys.stderr, flush=True)

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: stopped
    finally:
        restore()
