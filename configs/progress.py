"""How long work says how far it is, and learns that it should stop."""

import sys
from collections.abc import Callable
from typing import Protocol


class Progress(Protocol):
    """Takes how far it is: rows, bytes or files, as the taker says; and what else there is to know of it."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


ShouldStop = Callable[[], bool]  # asked between two units of work


def unseen(done: int, total: int, note: str = "") -> None:
    """The progress that nobody looks at."""


def never() -> bool:
    """The answer where nobody can ask for a stop."""
    return False


def say(line: str) -> None:
    """A line for people, beside what is asked for: to stderr, at once."""
    print(line, file=sys.stderr, flush=True)
