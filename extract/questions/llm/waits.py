"""How long a client waits: for its turn, after a fault, and no longer than a signal allows."""

import random
from collections.abc import Awaitable, Callable

from mambavl.extract.questions.llm.options import LLMSettings

PIECE = 0.5  # seconds that a signal waits at most


class Pace:
    """Spreads an amount per minute evenly: never a burst, so no minute holds more than the limit and one
    call.
    """

    def __init__(self, per_minute: float | None, clock: Callable[[], float]) -> None:
        self._seconds = 60.0 / per_minute if per_minute else 0.0
        self._clock = clock
        self._free = 0.0

    def delay(self, amount: float) -> float:
        """Seconds to wait before something of this amount; the place in the line is taken."""
        start = max(self._clock(), self._free)
        self._free = start + amount * self._seconds
        return start - self._clock()


def backoff(options: LLMSettings, call: int, requested: float | None, jitter: random.Random) -> float:
    """Seconds before the next call: doubled from call to call, cut to no less than half by the jitter. What
    the server asks for (`requested`) is honoured up to `max_wait`.
    """
    own = min(options.max_wait, options.backoff * 2.0 ** min(call, 30)) * jitter.uniform(0.5, 1.0)
    if requested is None:
        return own
    return max(own, min(options.max_wait, requested) + own * jitter.random())


async def wait(
    seconds: float, is_over: Callable[[], bool], sleep: Callable[[float], Awaitable[None]]
) -> None:
    """Sleep in pieces, until the seconds are over or `is_over` says so: a signal ends a long wait."""
    while seconds > 0 and not is_over():
        piece = min(seconds, PIECE)
        await sleep(piece)
        seconds -= piece
