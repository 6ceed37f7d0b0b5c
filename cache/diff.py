"""What differs between two stores: the recipes that made them, the rows that they hold, and what the rows are."""

from collections.abc import Callable, Iterator

import numpy as np

from mambavl.cache import schema
from mambavl.cache.reader import FeatureStore

BATCH_BYTES = 64 * 2**20
NAMES_SHOWN = 5


def diff(
    ours: FeatureStore, theirs: FeatureStore, progress: Callable[[int, int], None] = lambda done, total: None
) -> Iterator[str]:
    """Lines that say what differs; none when the stores say the same.

    First the spec, field by field, then rows that only one has, statuses, lengths, and for every level that both have in the
    same shape the rows whose values differ, with the largest difference. Rows are matched by narration_id.
    """
    yield from (f"spec {line}" for line in schema.differences(ours.spec, theirs.spec))
    rows = [{segment.narration_id: row for row, segment in enumerate(store.segments)} for store in (ours, theirs)]
    for mine, other, store in ((rows[0], rows[1], ours), (rows[1], rows[0], theirs)):
        if alone := [name for name in mine if name not in other]:
            yield f"rows only in {store.path}: {_some(alone)}"
    names = [name for name in rows[0] if name in rows[1]]
    left, right = (np.array([side[name] for name in names], np.int64) for side in rows)
    status = ours.status[left], theirs.status[right]
    if (changed := np.flatnonzero(status[0] != status[1])).size:
        first = changed[0]
        words = f"{schema.STATUS[int(status[0][first])]} -> {schema.STATUS[int(status[1][first])]}"
        yield f"status: {_some([names[i] for i in changed])} (first: {words})"
    both = np.flatnonzero((status[0] == schema.OK) & (status[1] == schema.OK))
    shared = [name for name, level in ours.levels.items() if name in theirs.levels]
    for number, name in enumerate(shared):
        progress(number, len(shared))
        pair = ours.levels[name], theirs.levels[name]
        if (pair[0].shape, pair[0].kind) != (pair[1].shape, pair[1].kind):
            continue  # the spec's line has said it
        yield from _values(ours, theirs, name, left[both], right[both], [names[i] for i in both])
    progress(len(shared), len(shared))


def _values(
    ours: FeatureStore, theirs: FeatureStore, name: str, left: np.ndarray, right: np.ndarray, names: list[str]
) -> Iterator[str]:
    level = ours.levels[name]
    lengths = ours.lengths(left, name), theirs.lengths(right, name)
    same_length = lengths[0] == lengths[1]
    if not same_length.all():
        yield f"level {name}: other lengths in {_some([names[i] for i in np.flatnonzero(~same_length)])}"
    rows, worst = np.flatnonzero(same_length), 0.0
    changed: list[str] = []
    step = max(1, BATCH_BYTES // max(1, level.chunk_bytes))
    for view in range(level.views):
        for first in range(0, len(rows), step):
            part = rows[first : first + step]
            a, b = (store.batch(index[part], name, view=view)[0].double() for store, index in ((ours, left), (theirs, right)))
            gap = (a - b).abs().flatten(1)
            if gap.numel():
                bad = gap.amax(1).numpy() > 0
                changed += [names[i] for i in part[bad]]
                worst = max(worst, float(gap.max()))
    if changed:
        yield f"level {name}: other values in {_some(sorted(set(changed)))}; the largest difference is {worst:.3g}"


def _some(names: list[str]) -> str:
    return f"{len(names):,} rows ({', '.join(names[:NAMES_SHOWN])}{', ...' if names[NAMES_SHOWN:] else ''})"
