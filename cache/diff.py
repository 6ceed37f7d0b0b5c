"""What differs between two stores: the recipes that made them, the rows that they hold, and what the rows
are.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from mambavl.cache import canonical
from mambavl.cache.reader import FeatureStore
from mambavl.cache.rows import OK, STATUS
from mambavl.configs.errors import some
from mambavl.configs.progress import Progress, unseen

BATCH_BYTES = 64 * 2**20


def diff(ours: FeatureStore, theirs: FeatureStore, progress: Progress = unseen) -> Iterator[str]:
    """Lines that say what differs; none when the stores say the same.

    First the spec, field by field, then rows that only one has, statuses, lengths, and for every level that
    both have in the same shape the rows whose values differ, with the largest difference. Rows are matched by
    narration_id.
    """
    yield from (f"spec {line}" for line in canonical.differences(ours.spec.to_dict(), theirs.spec.to_dict()))
    rows = [
        {segment.narration_id: row for row, segment in enumerate(store.segments)} for store in (ours, theirs)
    ]
    for mine, other, store in ((rows[0], rows[1], ours), (rows[1], rows[0], theirs)):
        if alone := [name for name in mine if name not in other]:
            yield f"rows only in {store.path}: {_rows(alone)}"
    names = [name for name in rows[0] if name in rows[1]]
    left, right = (np.array([side[name] for name in names], np.int64) for side in rows)
    status = ours.status[left], theirs.status[right]
    if (changed := np.flatnonzero(status[0] != status[1])).size:
        first = changed[0]
        words = f"{STATUS[int(status[0][first])]} -> {STATUS[int(status[1][first])]}"
        yield f"status: {_rows([names[i] for i in changed])} (first: {words})"
    for name in ("flags", "frame_pts"):
        arrays = [
            store.row_array(name)[index]
            for store, index in ((ours, left), (theirs, right))
            if name in _row_arrays(store)
        ]
        if len(arrays) == 2 and arrays[0].shape == arrays[1].shape:
            same = np.array(
                [np.array_equal(a, b, equal_nan=True) for a, b in zip(*arrays, strict=True)], bool
            )
            if not same.all():
                yield f"{name}: {_rows([names[i] for i in np.flatnonzero(~same)])}"
    reasons = [{name: reason for name, _, reason in store.failures} for store in (ours, theirs)]
    if unlike := [name for name in names if reasons[0].get(name) != reasons[1].get(name)]:
        yield f"reasons: {_rows(unlike)}"
    both = np.flatnonzero((status[0] == OK) & (status[1] == OK))
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
        yield f"level {name}: other lengths in {_rows([names[i] for i in np.flatnonzero(~same_length)])}"
    rows, worst = np.flatnonzero(same_length), 0.0
    changed: list[str] = []
    step = max(1, BATCH_BYTES // max(1, level.chunk_bytes))
    for view in range(level.views):
        for first in range(0, len(rows), step):
            part = rows[first : first + step]
            a, b = (
                store.batch(index[part], name, view=view)[0].double()
                for store, index in ((ours, left), (theirs, right))
            )
            other = ((a != b) & ~(a.isnan() & b.isnan())).flatten(1)
            bad = other.any(1).numpy()
            if bad.any():
                changed += [names[i] for i in part[bad]]
                gaps = (a - b).abs().flatten(1)[other]
                worst = math.nan if gaps.isnan().any() or worst != worst else max(worst, float(gaps.max()))
    if changed:
        yield f"level {name}: other values in {_rows(sorted(set(changed)))}; the largest difference is {worst:.3g}"


def _row_arrays(store: FeatureStore) -> set[str]:
    return {array.name for array in store.layout.row_arrays}


def _rows(names: Sequence[str]) -> str:
    return f"{len(names):,} rows ({some(names)})"
