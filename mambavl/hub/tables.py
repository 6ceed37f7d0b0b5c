"""The rows of a store as Parquet files, one a split: what a hub's viewer shows of a store.

Columns: those of segments.csv with labels as numbers, `status`, and for each level `LEVEL_tokens`, how many
tokens the row has, and `LEVEL_norm`, the mean length of them as vectors; null where a row has no features.
"""

import io
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from mambavl.cache.reader import FeatureStore
from mambavl.cache.rows import FIELDS, OK, STATUS, label_column
from mambavl.configs.errors import UsageError, to_install
from mambavl.configs.progress import Progress, unseen

FOLDER = "rows"  # of the repository


def row_tables(store: FeatureStore, progress: Progress = unseen) -> dict[str, tuple[str, bytes]]:
    """Split, as hubs spell such names, -> (name in the repository, content). Raises UsageError without
    pyarrow.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UsageError(f"the table of rows needs the package pyarrow: {to_install('hub')}") from None
    columns = _columns(store) | _measures(store, progress)
    table = pyarrow.table(columns)
    splits = [re.sub(r"\W+", "_", segment.split) or "rows" for segment in store.segments]
    found = {}
    for split in dict.fromkeys(splits):
        rows = [row for row, its_split in enumerate(splits) if its_split == split]
        written = io.BytesIO()
        pyarrow.parquet.write_table(table.take(rows), written)
        found[split] = (f"{FOLDER}/{split}.parquet", written.getvalue())
    return found


def _columns(store: FeatureStore) -> dict[str, Iterable[Any]]:
    columns: dict[str, Iterable[Any]] = {}
    for name in FIELDS:
        values = [getattr(segment, name) for segment in store.segments]
        columns[name] = [list(value) for value in values] if isinstance(values[:1], tuple) else values
    for target, one in store.classes.targets.items():
        labels = [segment.labels.get(target) for segment in store.segments]
        several = one.kind == "multi"
        columns[label_column(target, several)] = [_listed(label) for label in labels] if several else labels
    columns["status"] = [STATUS[code] for code in store.status.tolist()]
    return columns


def _listed(label: int | tuple[int, ...] | None) -> list[int] | None:
    return None if label is None else [label] if isinstance(label, int) else list(label)


def _measures(store: FeatureStore, progress: Progress) -> dict[str, Iterable[Any]]:
    """Of each level, a row group at a time."""
    found: dict[str, Iterable[Any]] = {}
    sound = np.flatnonzero(store.status == OK)
    done, total = 0, len(sound) * len(store.levels)
    for name in store.levels:
        tokens: list[int | None] = [None] * len(store)
        norms: list[float | None] = [None] * len(store)
        for group in range(store.layout.groups):
            rows = np.intersect1d(store.layout.rows_of(group), sound)
            values, lengths = store.batch(rows, name)
            length_of = values.float().norm(dim=-1).sum(dim=1)
            for row, count, norm in zip(rows.tolist(), lengths.tolist(), length_of.tolist(), strict=True):
                tokens[row] = count
                norms[row] = norm / count if count else None
            done += len(rows)
            progress(done, total)
        column = name.replace("/", "_")
        found |= {f"{column}_tokens": tokens, f"{column}_norm": norms}
    return found
