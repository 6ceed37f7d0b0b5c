"""One vector a row as a Parquet table, with ids, times and labels: what search tools and viewers read.

    narration_id, video_id, participant_id, split   texts
    start, stop                                     seconds
    status, narration                               texts; a row that is not `ok` has no vector
    TARGET_class, TARGET_label                      id and name; of a multi-label target TARGET_classes and
                                                    TARGET_label, lists; null where the row has no label
    vector                                          a fixed-size list of D float32; of several views the mean

A row of the table is a row of the store, in its order. The file's metadata says which store and level it is
of.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mambavl.cache.interchange.parquet import need_pyarrow
from mambavl.cache.interchange.per_video import Groups
from mambavl.cache.reader import FeatureStore
from mambavl.cache.rows import OK, STATUS, Segment, label_column
from mambavl.cache.shards import Level
from mambavl.configs.errors import UsageError

FIELDS = {
    "narration_id": str,
    "video_id": str,
    "participant_id": str,
    "split": str,
    "start": float,
    "stop": float,
}
KEY = b"mambavl"  # of the metadata


def write_table(store: FeatureStore, path: Path, level: Level, groups: Groups) -> None:
    """Raises UsageError for a level with several vectors a row, and without pyarrow."""
    pyarrow = need_pyarrow()
    if level.kind != "dense" or len(level.shape) != 2:
        raise UsageError(
            f"{store.path}: level {level.name} has several vectors a row, and parquet takes one: export "
            f"level clip, or make it with `mambavl cache pool {store.path} --to clip --out STORE`"
        )
    schema = _schema(pyarrow, store, level)
    with pyarrow.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for rows, values in groups:
            segments = [store.segments[row] for row in rows]
            status = [int(code) for code in store.status[rows.start : rows.stop]]
            columns = _facts(store, segments, status)
            columns["vector"] = _vectors(pyarrow, values[level.name], status, schema)
            writer.write_table(pyarrow.table(columns, schema=schema), row_group_size=len(rows))


def _schema(pyarrow: Any, store: FeatureStore, level: Level) -> Any:
    text, number = pyarrow.string(), pyarrow.int32()
    kinds = {name: pyarrow.float64() if kind is float else text for name, kind in FIELDS.items()}
    kinds |= {"status": text, "narration": text}
    for name, target in store.classes.targets.items():
        several = target.kind == "multi"
        kinds[label_column(name, several)] = pyarrow.list_(number) if several else number
        kinds[f"{name}_label"] = pyarrow.list_(text) if several else text
    kinds["vector"] = pyarrow.list_(pyarrow.float32(), level.width)
    said = {
        "store_id": store.store_id,
        "level": level.name,
        "views": level.views,
        "classes": json.loads(store.classes.to_json()),
    }
    return pyarrow.schema(kinds, metadata={KEY: json.dumps(said, sort_keys=True).encode()})


def _facts(store: FeatureStore, segments: list[Segment], status: list[int]) -> dict[str, Any]:
    found: dict[str, Any] = {name: [getattr(one, name) for one in segments] for name in FIELDS}
    found["status"] = [STATUS[code] for code in status]
    found["narration"] = [segment.narration for segment in segments]
    for name, target in store.classes.targets.items():
        labels = [segment.labels.get(name) for segment in segments]
        found[label_column(name, target.kind == "multi")] = [
            list(label) if isinstance(label, tuple) else label for label in labels
        ]
        found[f"{name}_label"] = [_named(label, target.classes) for label in labels]
    return found


def _named(label: Any, classes: Mapping[int, str]) -> Any:
    if isinstance(label, tuple):
        return [classes.get(one) for one in label]
    return None if label is None else classes.get(label)


def _vectors(pyarrow: Any, values: np.ndarray, status: list[int], schema: Any) -> Any:
    """values (rows, V, D), NaN where a row has no features."""
    mean = values.astype(np.float32).mean(axis=1)
    missing = np.array([code != OK for code in status])
    flat = pyarrow.array(mean.reshape(-1), pyarrow.float32())
    return pyarrow.FixedSizeListArray.from_arrays(
        flat, type=schema.field("vector").type, mask=pyarrow.array(missing)
    )
