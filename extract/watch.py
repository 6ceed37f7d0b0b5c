"""What a thread that reads videos is at, so that somebody else may see when it comes to nothing new."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

OPENING = "opening it"  # the place before the first frame


class Stopped(Exception):
    """The job has ended; nobody waits for what a thread is reading."""


class At:
    """What one thread is at. Written by that thread, read by the one that watches it."""

    def __init__(self) -> None:
        self.video = ""
        self.place = ""  # OPENING, or such as `frame 17`
        # when it came there, or went on; time in which a disk kept it aside
        self.since = time.monotonic()
        self.waits_for_disk = False
        self.is_over = False

    def now(self, video: str, place: str) -> None:
        """Say what comes next. Raises Stopped where nobody waits for it."""
        if self.is_over:
            raise Stopped
        self.video, self.place, self.since = video, place, time.monotonic()

    def alive(self) -> None:
        """It goes on, on its way to that place: a frame may hang on hundreds before it."""
        self.since = time.monotonic()

    def silent_for(self) -> float:
        """Seconds in which it came to nothing new, though no disk kept it."""
        return 0.0 if self.waits_for_disk else time.monotonic() - self.since

    def disk_begins(self) -> None:
        self.waits_for_disk = True

    def disk_ends(self, seconds: float) -> None:
        self.since += seconds
        self.waits_for_disk = False


_threads = threading.local()


def begin(at: At) -> None:
    """This thread is watched from now on."""
    _threads.at = at


def alive() -> None:
    """This thread goes on."""
    at: At | None = getattr(_threads, "at", None)
    if at is not None:
        at.alive()


@contextmanager
def disk() -> Iterator[None]:
    """A system call that reads: a disk that does not answer is no fault of a decoder."""
    at: At | None = getattr(_threads, "at", None)
    if at is None:
        yield
        return
    since = time.monotonic()
    at.disk_begins()
    try:
        yield
    finally:
        at.disk_ends(time.monotonic() - since)
