"""Locks between processes that a file system's locks may not reach, those of several hosts: somebody whom all
of them can ask keeps a second lock for each that `fsops.lock` takes.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

ASK_AGAIN = 0.2  # seconds, where others hold what is waited for


class LockKeeper(Protocol):
    """Whom this process asks. Each may raise what ends the work, where the keeper cannot be reached."""

    def take(self, path: Path, descriptor: int, *, exclusive: bool) -> bool:
        """False where others hold it, or this process through another descriptor."""
        ...

    def give_back(self, descriptor: int) -> None:
        """One that is not held is no fault."""
        ...


_keeper: LockKeeper | None = None


@contextmanager
def kept_by(keeper: LockKeeper) -> Iterator[None]:
    """While it is open, every lock that this process takes is its keeper's, too."""
    global _keeper
    _keeper = keeper
    try:
        yield
    finally:
        _keeper = None


def take(path: Path, descriptor: int, *, exclusive: bool, wait: bool) -> bool:
    """Whether the keeper gives us what the file system gave us; where there is none, it does."""
    keeper = _keeper
    if keeper is None:
        return True
    while not keeper.take(path.absolute(), descriptor, exclusive=exclusive):
        if not wait:
            return False
        time.sleep(ASK_AGAIN)
    return True


def give_back(descriptor: int) -> None:
    if _keeper is not None:
        _keeper.give_back(descriptor)
