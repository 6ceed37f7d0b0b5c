"""How long work says how far it is, and learns that it should stop."""

from collections.abc import Callable

Progress = Callable[[int, int], None]  # done, of how many: rows, bytes or files, as its taker says
ShouldStop = Callable[[], bool]  # asked between two units of work


def unseen(done: int, total: int) -> None:
    """The progress that nobody looks at."""


def never() -> bool:
    """The answer where nobody can ask for a stop."""
    return False
