"""95 % intervals of what entries reach, and of what one has more than another: the bootstrap of `compare`.

Videos are drawn, and seeds (`paired.ClassMeans.corrected`). The interval of a measure is that of its
difference from 0. There is none where the stores are gone that say of which video a row is, and of fewer than
`WORTH` videos of equal size.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from mambavl.fuse.paired import ClassMeans, Interval
from mambavl.fuse.report.measured import Measured
from mambavl.fuse.report.tables import DASH, Cell
from mambavl.fuse.verdict import WORTH

DRAWS = 2000


@dataclass
class Intervals:
    """Draws of videos are made once for all entries that are scored on the same rows."""

    draws: int = DRAWS
    _means: dict[tuple[bytes, bytes], ClassMeans] = field(default_factory=dict)

    def of(self, one: Measured, key: str) -> Interval | None:
        """key: of a measure over all rows: `all_verb_top1`; None for one that no interval is made of."""
        hits = _hits(one, key)
        means = self._drawn(one, key)
        if hits is None or means is None:
            return None
        return means.corrected(hits, np.zeros((1, hits.shape[1])))

    def difference(self, one: Measured, other: Measured, key: str) -> Interval | None:
        """What `one` has more. Both have the same rows and labels; their seeds pair, or one has a single."""
        hits, others, means = _hits(one, key), _hits(other, key), self._drawn(one, key)
        if hits is None or others is None or means is None:
            return None
        return means.corrected(hits, others)

    def _drawn(self, one: Measured, key: str) -> ClassMeans | None:
        """None of too few videos, or where nobody knows them."""
        target, measure = parted(key)
        if one.segments is None or target not in one.seen[0].ranked:
            return None
        label = (
            one.label(target) if measure == "mean_class_recall5" else np.zeros(len(one.label(target)), int)
        )
        video = [one.segments[row].video_id for row in one.rows(target)]
        if not video:
            return None
        at = label.tobytes(), "\n".join(video).encode()
        if at not in self._means:
            self._means[at] = ClassMeans(label, video, self.draws)
        means = self._means[at]
        return means if means.worth >= WORTH else None


def parted(key: str) -> tuple[str, str]:
    """`all_verb_top1` -> verb, top1."""
    name = key.removeprefix("all_")
    for measure in ("top1", "top5", "mean_class_recall5", "map"):
        if name.endswith(f"_{measure}"):
            return name.removesuffix(f"_{measure}"), measure
    raise ValueError(f"{key} is of no measure over all rows")


def _hits(one: Measured, key: str) -> np.ndarray | None:
    """(runs, n); None where the target has several labels a row."""
    target, measure = parted(key)
    if target not in one.seen[0].ranked or measure == "map":
        return None
    return one.hits(target, five=measure != "top1")


def are_alike(one: Measured, other: Measured, targets: Iterable[str]) -> bool:
    """Whether two entries have the same rows in one order, and the same labels of some targets."""
    return one.ids == other.ids and all(
        np.array_equal(one.label(name), other.label(name)) for name in targets
    )


def cell(value: float | None, interval: Interval | None, spread: str = "", form: str = ".1f") -> Cell:
    """`41.2 ± 0.3 (39.8 to 42.5)`: spread is the deviation over seeds, in brackets the interval."""
    if value is None:
        return Cell(DASH)
    ends = f" ({interval.low:{form}} to {interval.high:{form}})" if interval else ""
    return Cell(f"{value:{form}}{spread}{ends}", value, kind="interval" if ends else "")
