"""Is A better than B? What must hold before that is said, and why it is not.

Two rules, and both must hold:

    videos and seeds    the 97 % BCa interval of `paired.corrected` lies on one side of 0
    seeds               signs of the paired seeds agree: p of `paired.sign_flips` is below 5 %

An interval over few videos of unequal size misses more often than it says. Where seeds have no luck and
videos all the say, one of 95 % missed in up to 6.4 % of made-up sweeps, one of 96 % in up to 5.3 %.

Both rules ask for more where more was looked at: of K candidates that were scored on these rows one stands
out by chance, so the interval misses 3 % / K, and p is multiplied by K (Bonferroni).

Several measures are judged one after the other in a fixed order; where one is not decided, the ones after it
are not judged. So all of them together err no more often than the first alone (fixed-sequence testing).
Holm's procedure would serve any order, but six seeds have no p below 3.1 % to give it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mambavl.configs.errors import counted
from mambavl.fuse.paired import LEVEL, SEEDS, ClassMeans, Interval, sign_flips

MISSES = 0.03  # that the interval is asked for, so that they are 5 % at most
WORTH = 5  # videos of equal size: with fewer, an interval over draws of them is not to be trusted


@dataclass(frozen=True)
class Verdict:
    """Who is better, or why nobody is said to be."""

    better: Literal["A", "B"] | None
    why: tuple[str, ...] = ()  # the rules that failed, in words
    is_judged: bool = True  # False: what comes before it is not decided

    @property
    def short(self) -> str:
        if not self.is_judged:
            return "not judged"
        return f"{self.better} is better" if self.better else "not decided"

    @property
    def in_words(self) -> str:
        return f"{self.short}: {'; '.join(self.why)}" if self.why else self.short


@dataclass(frozen=True)
class Evidence:
    """What is known of one difference, A less B."""

    interval: Interval | None  # at 1 - MISSES / among; None: of too few videos
    p: float  # of the signs of the seeds
    pairs: int  # of seeds
    worth: float  # videos of equal size that tell as much
    among: int = 1  # candidates that were looked at, one of which stands out
    single: str = ""  # "A" or "B", where that side was trained once and stands beside several seeds


def weigh(means: ClassMeans, a: np.ndarray, b: np.ndarray, *, among: int = 1, single: str = "") -> Evidence:
    """a, b (seeds, N): hits, as of `ClassMeans.difference`; among, single: as of `Evidence`."""
    by_seed = means.by_seed(a, b)
    return Evidence(
        interval=means.corrected(a, b, MISSES / among) if means.worth >= WORTH else None,
        p=sign_flips(by_seed),
        pairs=len(by_seed),
        worth=means.worth,
        among=among,
        single=single,
    )


def judge(found: Evidence) -> Verdict:
    """By the two rules."""
    why = [fault for fault in (_of_interval(found), _of_seeds(found)) if fault]
    if why or found.interval is None:
        return Verdict(None, tuple(why))
    return Verdict("A" if found.interval.low > 0 else "B")


def _of_interval(found: Evidence) -> str:
    """Why the first rule fails; empty where it holds."""
    if found.interval is None:
        return f"the rows are of too few videos, worth {found.worth:.1f} of equal size; {WORTH} are needed"
    if found.interval.low > 0 or found.interval.high < 0:
        return ""
    ends = f"{found.interval.low:+.2f} to {found.interval.high:+.2f}"
    among = f", for one of {found.among} candidates," if found.among > 1 else ""
    return f"the {100 * (1 - MISSES / found.among):.4g} % interval{among} holds 0 ({ends})"


def _of_seeds(found: Evidence) -> str:
    """Why the second rule fails; empty where it holds."""
    if found.single:
        return f"{found.single} was trained once; train it with each seed of the other"
    needed = pairs_for(found.among)
    if found.pairs < needed:
        of = f" for one of {found.among} candidates" if found.among > 1 else ""
        return f"{counted(found.pairs, 'pair')} of seeds, and {needed} are needed{of}"
    if found.p * found.among < LEVEL:
        return ""
    times = f", times {found.among} candidates" if found.among > 1 else ""
    return f"the seeds do not agree enough: signs like these come by chance, p = {found.p:.2g}{times}"


def pairs_for(among: int) -> int:
    """Of seeds: with fewer, signs cannot tell one of so many candidates. `SEEDS` for one."""
    return next(pairs for pairs in range(SEEDS, 64) if among * 2 / 2**pairs < LEVEL)


def judge_in_order(found: Sequence[Evidence]) -> list[Verdict]:
    """One after the other, until one is not decided."""
    verdicts: list[Verdict] = []
    for one in found:
        is_next = not verdicts or verdicts[-1].better is not None
        verdicts.append(judge(one) if is_next else Verdict(None, is_judged=False))
    return verdicts


# --- single runs


@dataclass(frozen=True)
class McNemar:
    """Rows that one of two single runs has right and the other has not."""

    only_a: int
    only_b: int
    p: float  # mid-p, on both sides
    left_out: int  # rows with a tie, which are neither right nor wrong


def mcnemar(a: np.ndarray, b: np.ndarray) -> McNemar:
    """McNemar's test by the binomial, mid-p: a row that counts is a coin's toss, and of what is as likely as
    what was found one half counts. a, b (N,): 1 right, 0 wrong, between them a tie.

    It takes rows for independent, which those of a video are not, and knows nothing of seeds.
    """
    whole = np.isin(a, (0, 1)) & np.isin(b, (0, 1))
    only_a, only_b = int((whole & (a > b)).sum()), int((whole & (b > a)).sum())
    return McNemar(only_a, only_b, mid_p(only_a, only_b), int((~whole).sum()))


def mid_p(one: int, other: int) -> float:
    """Of so many tosses on each side of a fair coin; exact in whole numbers."""
    tosses, fewer = one + other, min(one, other)
    term, below = 1, 0  # tosses choose 0
    for k in range(fewer):
        below += term
        term = term * (tosses - k) // (k + 1)
    return min(1.0, (2 * below + term) / 2**tosses)
