"""Our own exports, HDF5 and npy, back into a store: the same rows, values, times and statuses.

An export is untrusted: what it says of its rows and of each row group's values carries a sha256, values must
be finite where the row has features, and names in it are matched, never made into paths. LMDB does not come
back: it keeps the features alone.
"""

import contextlib
import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mambavl.cache.canonical import sha256
from mambavl.cache.classes import Classes
from mambavl.cache.fill import FillResult, fill
from mambavl.cache.interchange.arrays import hdf5_node, open_hdf5
from mambavl.cache.interchange.export import INDEX, ORIGIN, OURS, export_digest
from mambavl.cache.interchange.foreign import source_sha256
from mambavl.cache.interchange.per_video import NAME_IN_EXPORT
from mambavl.cache.layout import Layout
from mambavl.cache.rows import OK, STATUS, STATUS_CODE, read_segments
from mambavl.cache.shards import Level
from mambavl.cache.spec import CLASSES, READABLE, SEGMENTS, SPEC, Inputs, ParentStore, Spec
from mambavl.cache.writer import RowGroup, StoreWriter
from mambavl.configs.errors import DataError
from mambavl.configs.progress import Progress, ShouldStop, never, unseen


@dataclass
class _Export:
    """An export, opened: what it says of its store, and values on request."""

    store_id: str
    spec: Spec
    segments: bytes
    classes: bytes
    levels: tuple[Level, ...]
    arrays: dict[str, np.ndarray]  # status, flags, length, frame_pts
    reasons: list[str]
    narration_ids: list[str]
    rows_sha256: str
    digests: dict[str, list[str]]  # of each row group's values, by level
    # dense: of some rows; ragged: of some tokens, counted over all rows
    read: Callable[[Level, slice], np.ndarray]

    @property
    def layout(self) -> Layout:
        return replace(Layout.from_spec(self.spec), levels=self.levels)


def is_export(source: Path, format: str) -> bool:
    """Whether `source` is an HDF5 file or an npy folder made by `export_store`."""
    if format == "npy":
        return (source / ORIGIN).is_file() and (source / INDEX).is_file()
    if format != "hdf5" or not source.is_file():
        return False
    with open_hdf5(source) as file:
        return str(file.attrs.get("format")) == OURS


def import_export(
    source: Path,
    format: Literal["hdf5", "npy"],
    out: Path,
    *,
    content_sha256: str | None = None,
    progress: Progress = unseen,
    should_stop: ShouldStop = never,
) -> FillResult:
    """Write (or resume) the store that an export was made of: the same rows, features, times, statuses; it
    names its parent.

    Raises DataError where the export was damaged or changed, Interrupted when `should_stop()` turns true
    between row groups.
    """
    source = Path(source)
    content_sha256 = content_sha256 or source_sha256(source, format)
    with contextlib.ExitStack() as stack:
        with _sound(source):
            export = _open_npy(source) if format == "npy" else _open_hdf5(source, stack)
            _check(export)
            segments, classes = read_segments(export.segments), Classes.from_json(export.classes)
            parent = ParentStore(store_id=export.store_id, spec=export.spec.to_dict())
            spec = replace(
                export.spec,
                recipe=replace(export.spec.recipe, source="import"),
                inputs=Inputs(sha256=content_sha256, parent=parent),
                levels=export.levels,
            )
        writer = StoreWriter(
            out, spec, segments, classes, {"made_by": "mambavl cache import", "source": str(source)}
        )

        def make(rows: range) -> RowGroup:
            with _sound(source):
                return _row_group(export, rows)

        return fill(writer, make, progress=progress, should_stop=should_stop)


@contextlib.contextmanager
def _sound(source: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, csv.Error) as error:
        raise DataError(f"{source}: is a damaged export ({error}); export the store again") from None


def _check(export: _Export) -> None:
    """Raises ValueError where the parts of an export do not fit each other."""
    for name, data in ((SEGMENTS, export.segments), (CLASSES, export.classes)):
        if sha256(data) != export.spec.sha256_of(name):
            raise ValueError(f"{name} is not the one of its store")
    if not export.levels:
        raise ValueError("it holds no level")
    for array in export.layout.row_arrays:
        if not array.name.endswith("start") and export.arrays[array.name].shape != (
            export.layout.rows,
            *array.shape,
        ):
            raise ValueError(f"{array.name} is {export.arrays[array.name].shape}")
    if [segment.narration_id for segment in read_segments(export.segments)] != export.narration_ids:
        raise ValueError("its rows are not in the order of their store")
    if export_digest(export.narration_ids, export.arrays, export.reasons) != export.rows_sha256:
        raise ValueError("what it says of its rows was changed")
    if not set(export.arrays["status"].tolist()) <= STATUS.keys() - {0}:
        raise ValueError("a status has no meaning")


def _spec(found: dict[str, Any]) -> Spec:
    """A spec that came from outside; names of levels become folders."""
    if found["schema"] not in READABLE:
        readable = " and ".join(map(str, READABLE))
        raise ValueError(f"its schema version is {found['schema']}, this version of mambavl reads {readable}")
    spec = Spec.from_dict(found)
    for level in spec.levels:
        if not all(map(NAME_IN_EXPORT.fullmatch, level.name.split("/"))):
            raise ValueError(f"there is no level {level.name!r}")
    return spec


def _row_group(export: _Export, rows: range) -> RowGroup:
    arrays = {name: array[rows.start : rows.stop] for name, array in export.arrays.items()}
    levels = {}
    for level in export.levels:
        lengths = export.arrays[level.sibling("length")]
        where = slice(rows.start, rows.stop)
        if level.kind == "ragged":
            where = slice(int(lengths[: rows.start].sum()), int(lengths[: rows.stop].sum()))
        values = export.read(level, where)
        if (
            sha256(np.ascontiguousarray(values).tobytes())
            != export.digests[level.name][rows.start // export.layout.rows_per_group]
        ):
            raise ValueError(f"level {level.name} was changed in rows {rows.start} to {rows.stop - 1}")
        if values.shape != (where.stop - where.start, *level.shape) or values.dtype != level.dtype:
            raise ValueError(
                f"level {level.name} holds {values.dtype} {values.shape} "
                f"for rows {rows.start} to {rows.stop - 1}"
            )
        finite = np.isfinite(values).reshape(len(values), level.views, level.tokens, level.width)
        if not finite[_valid(export, level, rows)].all():
            raise ValueError(
                f"level {level.name} holds NaN or infinity in rows {rows.start} to {rows.stop - 1}"
            )
        levels[level.name] = values
    return RowGroup(
        levels=levels,
        lengths={name: array for name, array in arrays.items() if name.endswith("length")},
        status=arrays["status"],
        flags=arrays["flags"],
        frame_pts=arrays.get("frame_pts"),
        reasons={i: export.reasons[row] for i, row in enumerate(rows) if export.reasons[row]},
    )


def _valid(export: _Export, level: Level, rows: range) -> np.ndarray | slice:
    """Where a row group's values, (rows, V, tokens, D), must be numbers."""
    if level.kind == "ragged":
        return slice(None)
    there = slice(rows.start, rows.stop)
    ok, lengths = export.arrays["status"][there] == OK, export.arrays[level.sibling("length")][there]
    valid = (np.arange(level.tokens) < level.valid_tokens(lengths)[:, None]) & ok[:, None]
    return np.broadcast_to(valid[:, None], (len(rows), level.views, level.tokens))


def _open_hdf5(source: Path, stack: contextlib.ExitStack) -> _Export:
    file = stack.enter_context(open_hdf5(source))

    def get(name: str, where: Any = ()) -> Any:
        return hdf5_node(file, name, source)[where]

    spec = _spec(json.loads(get(SPEC)))
    layout = Layout.from_spec(spec)
    levels = tuple(level for level in layout.levels if level.name in file)
    names = [
        array.name for array in replace(layout, levels=levels).row_arrays if not array.name.endswith("start")
    ]
    return _Export(
        store_id=str(file.attrs["store_id"]),
        spec=spec,
        segments=get(SEGMENTS),
        classes=get(CLASSES),
        levels=levels,
        arrays={name: get(name) for name in names},
        reasons=[reason.decode() for reason in get("reason")],
        narration_ids=[name.decode() for name in get("narration_id")],
        rows_sha256=str(file.attrs["rows_sha256"]),
        digests={level.name: [digest.decode() for digest in get(f"{level.name}.sha256")] for level in levels},
        read=lambda level, where: get(level.name, where),
    )


def _open_npy(folder: Path) -> _Export:
    origin = json.loads((folder / ORIGIN).read_bytes())
    spec = _spec(origin["spec"])
    layout = Layout.from_spec(spec)
    level = layout.level(origin["level"])
    table = list(csv.DictReader(io.StringIO((folder / INDEX).read_bytes().decode(), newline="")))
    arrays: dict[str, np.ndarray] = {
        "status": np.array([STATUS_CODE[line["status"]] for line in table], np.uint8),
        "flags": np.array([int(line["flags"]) for line in table], np.uint8),
        level.sibling("length"): np.array([int(line["length"]) for line in table], np.int32),
    }
    if layout.frame_pts:
        times = np.array([[float(seconds) for seconds in line["frame_pts"].split()] for line in table])
        arrays["frame_pts"] = times.reshape(len(table), *layout.frame_pts)

    def read(level: Level, where: slice) -> np.ndarray:
        parts = []
        for video, lines in groupby(table[where], key=lambda line: line["video_id"]):
            if not NAME_IN_EXPORT.fullmatch(video):
                raise ValueError(f"there is no video {video!r}")
            values = np.load(folder / f"{video}.npy", mmap_mode="r", allow_pickle=False)
            parts.append(values[[int(line["row"]) for line in lines]])
        return np.concatenate(parts)

    return _Export(
        store_id=origin["store_id"],
        spec=spec,
        segments=(folder / SEGMENTS).read_bytes(),
        classes=(folder / CLASSES).read_bytes(),
        levels=(level,),
        arrays=arrays,
        reasons=[line["reason"] for line in table],
        narration_ids=[line["narration_id"] for line in table],
        rows_sha256=origin["rows_sha256"],
        digests=origin["sha256"],
        read=read,
    )
