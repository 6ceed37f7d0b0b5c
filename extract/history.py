"""What was done before: of each row, the actions of its video that had ended tau seconds before it starts.

    until = start - tau             the last moment that may be known of
    past  = the `last` actions of the video with stop <= until, oldest first
    age   = until - stop            seconds, 0 or more

Times are compared as whole microseconds, for 12.34 - 1 is not 11.34 in binary. A time that was read from
frame numbers is known to a frame only, and an action counts as ended when its last frame has.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from mambavl.cache.rows import Segment
from mambavl.extract.annotations import nominal_rate
from mambavl.extract.questions.labels import is_labelled

Order = Literal["time", "shuffled"]
MICROSECONDS = 1_000_000


class Past(NamedTuple):
    """What one row knows of its video."""

    actions: tuple[int, ...]  # their numbers among the actions given, oldest first
    ages: tuple[float, ...]  # of each, seconds


def histories(
    segments: Sequence[Segment],
    actions: Sequence[Segment],
    *,
    last: int,
    tau: float,
    order: Order = "time",
) -> list[Past]:
    """The past of each of some rows, of the actions that have a verb and a noun class.

    order: `shuffled` deals a row's actions to other places, and leaves the ages where they are: what is lost
    is the order alone. Raises ValueError for a tau below 0, with which an action would be in its own past.
    """
    if tau < 0:
        raise ValueError(f"tau is {tau}: below 0 a row's own action would be in its past")
    ended: dict[str, list[tuple[int, int, str, int]]] = {}  # video_id -> stop, start, id, number
    for number, action in enumerate(actions):
        if is_labelled(action):
            key = (_stop(action), _us(action.start), action.narration_id, number)
            ended.setdefault(action.video_id, []).append(key)
    for known in ended.values():
        known.sort()
    found = []
    for segment in segments:
        known = ended.get(segment.video_id, [])
        until = _us(segment.start) - _us(tau)
        count = bisect_right(known, until, key=lambda action: action[0])
        recent = known[max(0, count - last) : count]
        refuse_later(segment, [actions[number] for *_, number in recent], tau)
        numbers = [number for *_, number in recent]
        if order == "shuffled":
            numbers = _shuffled(segment.narration_id, numbers)
        ages = tuple((until - stop) / MICROSECONDS for stop, *_ in recent)
        found.append(Past(tuple(numbers), ages))
    return found


def refuse_later(segment: Segment, past: Sequence[Segment], tau: float) -> None:
    """Raises RuntimeError where an action of a row's past is not over tau seconds before the row starts, is
    of another video or the row itself: a fault of this program, which no store may be made with.
    """
    for action in past:
        is_over = round((segment.start - tau - action.stop) * MICROSECONDS) >= 0
        if not is_over or action.video_id != segment.video_id or action.narration_id == segment.narration_id:
            raise RuntimeError(
                f"{segment.narration_id} starts at {segment.start} s: {action.narration_id} of "
                f"{action.video_id}, which ends at {action.stop} s, is no past of it at tau = {tau}"
            )


def _stop(action: Segment) -> int:
    """Microseconds at which an action is over for certain."""
    last_frame = 1 / nominal_rate(action.video_id) if action.time_from_frames else 0.0
    return _us(action.stop + last_frame)


def _us(seconds: float) -> int:
    return round(seconds * MICROSECONDS)


def _shuffled(narration_id: str, numbers: list[int]) -> list[int]:
    """In an order drawn from the row's id alone."""
    seed = int.from_bytes(hashlib.sha256(narration_id.encode()).digest()[:8], "big")
    return [numbers[place] for place in np.random.default_rng(seed).permutation(len(numbers))]
