"""Which rows of a page get pictures, and of which moments: the same for the same scores.

A third of them are confident mistakes, a third are rows that the runs disagree about, and a third are drawn
at random, so that what stands out is seen beside what is usual.
"""

from collections.abc import Sequence

import numpy as np

from mambavl.cache.rows import Segment

FRAMES = 4
OBSERVED = 64 / 30  # seconds before an action's anticipation ends that an encoder sees: see extract.sampling
CONFIDENT, APART, DRAWN = "confident mistakes", "runs disagree", "drawn at random"
WHY = (CONFIDENT, APART, DRAWN)


def choose(
    first: np.ndarray, probabilities: np.ndarray, is_right: np.ndarray, has_label: np.ndarray, count: int
) -> dict[int, str]:
    """Row -> why it is shown, `count` of N rows or all of them.

    Of R runs: first (R, N) the best class, -1 where a run does not have the row; probabilities (R, N) of it;
    is_right (R, N) bool; has_label (N,) bool.
    """
    rows = first.shape[1]
    count = min(count, rows)
    there = first >= 0
    wrong = np.where(there & ~is_right & has_label, probabilities, 0.0).sum(0) / np.maximum(there.sum(0), 1)
    apart = np.array([len(set(own[own >= 0].tolist())) for own in first.T])
    confident, disputed = np.flatnonzero(wrong > 0), np.flatnonzero(apart > 1)
    by_confidence = confident[np.argsort(-wrong[confident], kind="stable")].tolist()
    # of as many answers the ones that are given with most confidence, taken together
    sure = np.where(there, probabilities, 0.0).sum(0)
    by_answers = disputed[np.lexsort((-sure[disputed], -apart[disputed]))].tolist()
    at_random = np.random.default_rng(0).permutation(rows).tolist()
    found: dict[int, str] = {}
    for order, why, most in (
        (by_confidence, CONFIDENT, count // 3),
        (by_answers, APART, count // 3),
        (at_random, DRAWN, rows),
    ):
        left = [row for row in order if row not in found]
        found |= dict.fromkeys(left[: min(most, count - len(found))], why)
    return found


def moments(segment: Segment, tau_a: float | None) -> tuple[list[float], int]:
    """Seconds of its video to show of a row, and how many of them lie before the action.

    Four middles of equal parts of the action. tau_a: where the runs anticipate, how long before it they have
    to; then three moments of what they could see, if there was anything, and the middle of the action.
    """
    start, stop = segment.start, segment.stop
    if tau_a is None or start - tau_a <= 0:
        return _middles(start, stop, FRAMES), 0
    end = start - tau_a
    before = _middles(max(end - OBSERVED, 0.0), end, FRAMES - 1)
    return [*before, (start + stop) / 2], len(before)


def _middles(start: float, stop: float, parts: int) -> list[float]:
    return [start + (stop - start) * (part + 0.5) / parts for part in range(parts)]


def said(why: Sequence[str]) -> str:
    """Such as `100 confident mistakes, 100 runs disagree, ...`, for people."""
    words = {
        CONFIDENT: "that the runs are wrong about with most confidence",
        APART: "that they disagree about most",
        DRAWN: "drawn at random (seed 0), so that the usual is seen, too",
    }
    counts = {one: why.count(one) for one in WHY}
    return ", ".join(f"{count} {words[one]}" for one, count in counts.items() if count)
