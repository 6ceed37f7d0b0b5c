"""What differs between two stores: their recipes, the rows that they hold, and what the rows are.

Rows are matched by narration_id; what is compared of them are those that both stores hold.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mambavl.cache import canonical
from mambavl.cache.reader import FeatureStore
from mambavl.cache.rows import OK, STATUS
from mambavl.configs.errors import counted, some
from mambavl.configs.progress import Progress, unseen

BATCH_BYTES = 64 * 2**20


@dataclass(frozen=True)
class _Shared:
    """The rows that both stores hold: their names, and where they are in each, (N,) int64."""

    names: np.ndarray
    ours: np.ndarray
    theirs: np.ndarray

    def where(self, picked: np.ndarray) -> "_Shared":
        """Some of them, by a mask (N,)."""
        return _Shared(self.names[picked], self.ours[picked], self.theirs[picked])


def diff(ours: FeatureStore, theirs: FeatureStore, progress: Progress = unseen) -> Iterator[str]:
    """Lines that say what differs; none when the stores say the same.

    First the spec, field by field, then rows that only one has, statuses, lengths, and for every level that
    both have in the same shape the rows whose values differ, with the largest difference. progress counts
    levels.
    """
    for line in canonical.differences(ours.spec.to_dict(), theirs.spec.to_dict()):
        yield f"spec {line}"
    row_of, row_of_theirs = _row_of(ours), _row_of(theirs)
    for mine, others, store in ((row_of, row_of_theirs, ours), (row_of_theirs, row_of, theirs)):
        if alone := [name for name in mine if name not in others]:
            yield f"rows only in {store.path}: {_rows(alone)}"
    names = [name for name in row_of if name in row_of_theirs]
    shared = _Shared(
        np.array(names, object),
        np.array([row_of[name] for name in names], np.int64),
        np.array([row_of_theirs[name] for name in names], np.int64),
    )
    yield from _per_row(ours, theirs, shared)
    is_ok = (ours.status[shared.ours] == OK) & (theirs.status[shared.theirs] == OK)
    levels = [name for name in ours.levels if name in theirs.levels]
    for number, name in enumerate(levels):
        progress(number, len(levels))
        mine_level, their_level = ours.levels[name], theirs.levels[name]
        if (mine_level.shape, mine_level.kind) == (their_level.shape, their_level.kind):
            yield from _values(ours, theirs, name, shared.where(is_ok))  # else the spec's line has said it
    progress(len(levels), len(levels))


def _row_of(store: FeatureStore) -> dict[str, int]:
    return {segment.narration_id: row for row, segment in enumerate(store.segments)}


def _per_row(ours: FeatureStore, theirs: FeatureStore, shared: _Shared) -> Iterator[str]:
    """Statuses, flags, times and reasons."""
    status, their_status = ours.status[shared.ours], theirs.status[shared.theirs]
    changed = np.flatnonzero(status != their_status)
    if changed.size:
        first = changed[0]
        words = f"{STATUS[int(status[first])]} -> {STATUS[int(their_status[first])]}"
        yield f"status: {_rows(shared.names[changed])} (first: {words})"
    for name in ("flags", "frame_pts"):
        if not (_has_array(ours, name) and _has_array(theirs, name)):
            continue
        values, their_values = ours.row_array(name)[shared.ours], theirs.row_array(name)[shared.theirs]
        if values.shape == their_values.shape:
            same = _equal_or_nan(values, their_values)
            if not same.all():
                yield f"{name}: {_rows(shared.names[~same])}"
    reasons = {name: reason for name, _, reason in ours.failures}
    their_reasons = {name: reason for name, _, reason in theirs.failures}
    if unlike := [name for name in shared.names if reasons.get(name) != their_reasons.get(name)]:
        yield f"reasons: {_rows(unlike)}"


def _has_array(store: FeatureStore, name: str) -> bool:
    return any(array.name == name for array in store.layout.row_arrays)


def _equal_or_nan(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """(N,) whether all values of a row are equal, or NaN in both."""
    same = (ours == theirs) | ((ours != ours) & (theirs != theirs))
    return same.reshape(len(same), -1).all(1) if same.size else np.ones(len(same), bool)


def _values(ours: FeatureStore, theirs: FeatureStore, name: str, shared: _Shared) -> Iterator[str]:
    """Of rows that have features in both stores: where a level's lengths or values differ."""
    level = ours.levels[name]
    same_length = ours.lengths(shared.ours, name) == theirs.lengths(shared.theirs, name)
    if not same_length.all():
        yield f"level {name}: other lengths in {_rows(shared.names[~same_length])}"
    shared = shared.where(same_length)
    changed: set[str] = set()
    worst = 0.0
    step = max(1, BATCH_BYTES // max(1, level.chunk_bytes))
    for view in range(level.views):
        for first in range(0, len(shared.names), step):
            part = slice(first, first + step)
            values = ours.batch(shared.ours[part], name, view=view)[0].double()
            their_values = theirs.batch(shared.theirs[part], name, view=view)[0].double()
            bad, gap = _unlike(values, their_values)
            changed.update(shared.names[part][bad])
            worst = math.nan if math.isnan(worst) or math.isnan(gap) else max(worst, gap)
    if changed:
        listed = _rows(sorted(changed))
        yield f"level {name}: other values in {listed}; the largest difference is {worst:.3g}"


def _unlike(ours: torch.Tensor, theirs: torch.Tensor) -> tuple[np.ndarray, float]:
    """Which rows of two batches (B, L, D) differ, (B,), and by how much at most; NaN where one is NaN."""
    other = ((ours != theirs) & ~(ours.isnan() & theirs.isnan())).flatten(1)
    gaps = (ours - theirs).abs().flatten(1)[other]
    gap = float(gaps.max()) if len(gaps) else 0.0  # max() hands NaN on
    return other.any(1).numpy(), gap


def _rows(names: Sequence[str] | np.ndarray) -> str:
    return f"{counted(len(names), 'row')} ({some(list(names))})"
