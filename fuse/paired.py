"""Is one better than another on the same rows? Intervals by a bootstrap over videos, a test over seeds.

Rows of one video are alike, so what is drawn again and again, with replacement, is the videos. Two are
compared under the same draws: what makes a video easy for both cancels out. Seeds are another matter: a head
that is trained anew ends elsewhere, which no draw of rows shows. So "better" asks for both.

`difference` draws videos alone. `corrected` draws seeds, too, for an interval that knows of one source of
chance is too narrow where there are two; and it is a BCa interval.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mambavl.fuse import bca
from mambavl.fuse.metrics import class_mean

DRAWS = 2000
SEEDS = 6  # with fewer than six pairs no test over signs can reach 5 %
LEVEL = 0.05


class Interval(NamedTuple):
    """A measure, and the middle 95 % of what draws of videos give."""

    value: float
    low: float
    high: float


class Difference(NamedTuple):
    """What one has more than another."""

    interval: Interval
    p: float  # `sign_flips` of the differences by seed

    @property
    def is_real(self) -> bool:
        """Whether both rules hold: the interval lies on one side of 0, and so do the seeds."""
        return (self.interval.low > 0 or self.interval.high < 0) and self.p < LEVEL


class ClassMeans:
    """Class means over some rows, and over draws of their videos: a class that no drawn video shows does not
    count there, as one that no row has does not count in the measure itself. With one class for all rows they
    are shares of rows.
    """

    def __init__(
        self, label: Sequence[int] | np.ndarray, video: Sequence[str], draws: int = DRAWS, seed: int = 0
    ) -> None:
        """label (N,): the class of each row; video: of each row."""
        _, self._label = np.unique(label, return_inverse=True)
        videos, self._video = np.unique(video, return_inverse=True)
        self._shape = len(videos), int(self._label.max()) + 1
        self._seed = seed
        drawn = np.random.default_rng(seed).multinomial(
            len(videos), np.full(len(videos), 1 / len(videos)), draws
        )
        self._times = drawn.astype(np.float64)  # (draws, videos) how often each was drawn
        self._each = self._by_video(np.ones(len(self._label)))  # (videos, classes) rows
        self._rows = self._times @ self._each  # (draws, classes)

    @property
    def worth(self) -> float:
        """How many videos of equal size tell as much: (sum of rows)^2 / sum of rows^2, of Kish."""
        rows = self._each.sum(1)
        return float(rows.sum() ** 2 / (rows**2).sum())

    def _by_video(self, values: np.ndarray) -> np.ndarray:
        """(N,) -> their sums (videos, classes)."""
        videos, classes = self._shape
        cells = self._video * classes + self._label
        return np.bincount(cells, values, videos * classes).reshape(self._shape)

    def of(self, hits: np.ndarray) -> float:
        """hits (N,), 0 to 1 -> the class mean, in percent."""
        found = class_mean(hits, self._label)
        assert found is not None  # there are rows
        return found

    def interval(self, hits: np.ndarray) -> Interval:
        """hits (seeds, N): of the mean over seeds."""
        return _middle(float(np.mean([self.of(one) for one in hits])), self._draws(hits))

    def difference(self, hits: np.ndarray, others: np.ndarray) -> Difference:
        """hits, others (seeds, N) by pairs of seeds; one that has no seeds, (1, N), is every one's pair."""
        apart = self.by_seed(hits, others)
        interval = _middle(float(np.mean(apart)), self._draws(hits) - self._draws(others))
        return Difference(interval, sign_flips(apart))

    def by_seed(self, hits: np.ndarray, others: np.ndarray) -> list[float]:
        """The difference of each pair of seeds."""
        return [self.of(one) - self.of(other) for one, other in zip(*_paired(hits, others), strict=True)]

    def corrected(self, hits: np.ndarray, others: np.ndarray, level: float = LEVEL) -> Interval:
        """hits, others as of `difference`: its BCa interval over draws of videos and, of n pairs of seeds, of
        n - 1 with replacement. So the variance of n - 1 drawn is that of the mean of n, which n drawn would
        fall short of by 1 / n. There are several videos.
        """
        hits, others = _paired(hits, others)
        apart = np.subtract(hits, others, dtype=np.float64)
        value = float(np.mean([self.of(one) for one in apart]))
        draws = _moved(value, self._crossed(apart))
        ends = bca.interval(value, draws, self.without_each(apart), units=self.worth, level=level)
        return Interval(value, *ends)

    def without_each(self, hits: np.ndarray) -> np.ndarray:
        """(videos,): the mean over seeds of the class mean of the rows of all other videos."""
        found = self._by_video(hits.mean(0))
        return _mean_over_classes(found.sum(0) - found, self._each.sum(0) - self._each)

    def _crossed(self, apart: np.ndarray) -> np.ndarray:
        """(draws,) of videos and seeds: the class mean is linear in the hits, so each seed has its own under
        the same videos, and those are averaged by how often the seed was drawn.
        """
        seeds, draws = len(apart), len(self._times)
        if seeds == 1:
            return self._draws(apart)
        by_seed = np.stack([self._draws(one[None]) for one in apart], 1)
        chance = np.full(seeds, 1 / seeds)
        drawn = np.random.default_rng([self._seed, seeds]).multinomial(seeds - 1, chance, draws)
        return (by_seed * drawn).sum(1) / (seeds - 1)

    def _draws(self, hits: np.ndarray) -> np.ndarray:
        """(draws,): the mean over seeds of each draw's class mean, which is that of the seeds' mean hits."""
        found = self._times @ self._by_video(hits.mean(0))
        return _mean_over_classes(found, self._rows)


def _mean_over_classes(found: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """found, rows (M, classes): sums of hits and numbers of rows -> (M,) class means in percent."""
    shown = rows > 0
    return 100 * (found / np.where(shown, rows, 1)).sum(1) / shown.sum(1)


def _paired(hits: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Raises ValueError where the seeds do not pair."""
    if len(hits) == len(others) or 1 in (len(hits), len(others)):
        seeds = max(len(hits), len(others))
        return np.broadcast_to(hits, (seeds, *hits.shape[1:])), np.broadcast_to(
            others, (seeds, *others.shape[1:])
        )
    raise ValueError(f"{len(hits)} seeds cannot be paired with {len(others)}")


def _middle(value: float, draws: np.ndarray) -> Interval:
    low, high = np.quantile(_moved(value, draws), [LEVEL / 2, 1 - LEVEL / 2])
    return Interval(value, float(low), float(high))


def _moved(value: float, draws: np.ndarray) -> np.ndarray:
    """The draws lie around another mean than the value, for rare classes, often missed, are in few of them;
    so they are moved there.
    """
    return draws - draws.mean() + value


def sign_flips(differences: Sequence[float]) -> float:
    """If signs were a matter of chance: how often the mean would lie as far from 0 or farther. Of n
    differences 2 / 2**n at the least; 1 of fewer than two.
    """
    sums = np.zeros(1)
    for one in differences:
        sums = np.concatenate([sums + one, sums - one])  # the first has no sign turned
    far = np.abs(sums)
    return float((far >= far[0] * (1 - 1e-12)).mean())
