"""Is one better than another on the same rows? Intervals by a bootstrap over videos, a test over seeds.

Rows of one video are alike, so what is drawn again and again, with replacement, is the videos. Two are
compared under the same draws: what makes a video easy for both cancels out. Seeds are another matter: a head
that is trained anew ends elsewhere, which no draw of rows shows. So "better" asks for both.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

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
    count there, as one that no row has does not count in the measure itself.
    """

    def __init__(
        self, label: Sequence[int] | np.ndarray, video: Sequence[str], draws: int = DRAWS, seed: int = 0
    ) -> None:
        """label (N,): the class of each row; video: of each row."""
        _, self._label = np.unique(label, return_inverse=True)
        videos, self._video = np.unique(video, return_inverse=True)
        self._shape = len(videos), int(self._label.max()) + 1
        drawn = np.random.default_rng(seed).multinomial(
            len(videos), np.full(len(videos), 1 / len(videos)), draws
        )
        self._times = drawn.astype(np.float64)  # (draws, videos) how often each was drawn
        self._rows = self._times @ self._by_video(np.ones(len(self._label)))  # (draws, classes)

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
        apart = [self.of(one) - self.of(other) for one, other in zip(*_paired(hits, others), strict=True)]
        interval = _middle(float(np.mean(apart)), self._draws(hits) - self._draws(others))
        return Difference(interval, sign_flips(apart))

    def _draws(self, hits: np.ndarray) -> np.ndarray:
        """(draws,): the mean over seeds of each draw's class mean, which is that of the seeds' mean hits."""
        found = self._times @ self._by_video(hits.mean(0))
        shown = self._rows > 0
        return 100 * (found / np.where(shown, self._rows, 1)).sum(1) / shown.sum(1)


def _paired(hits: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Raises ValueError where the seeds do not pair."""
    if len(hits) == len(others) or 1 in (len(hits), len(others)):
        seeds = max(len(hits), len(others))
        return np.broadcast_to(hits, (seeds, *hits.shape[1:])), np.broadcast_to(
            others, (seeds, *others.shape[1:])
        )
    raise ValueError(f"{len(hits)} seeds cannot be paired with {len(others)}")


def _middle(value: float, draws: np.ndarray) -> Interval:
    """The draws lie around another mean than the value, for rare classes, often missed, are in few of them;
    so they are moved there.
    """
    low, high = np.quantile(draws - draws.mean() + value, [LEVEL / 2, 1 - LEVEL / 2])
    return Interval(value, float(low), float(high))


def sign_flips(differences: Sequence[float]) -> float:
    """If signs were a matter of chance: how often the mean would lie as far from 0 or farther. Of n
    differences 2 / 2**n at the least; 1 of fewer than two.
    """
    values = np.asarray(differences, np.float64)
    signs = np.array(list(itertools.product((1, -1), repeat=len(values))), np.float64)
    means = np.abs(signs @ values)
    return float((means >= abs(values.sum()) * (1 - 1e-12)).mean())
