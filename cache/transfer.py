"""A feature store in other people's forms, and back from two of them, exactly.

    hdf5   one file, the whole store: every array under its name in the store (tokens of a ragged level one after another, without
           padding), `narration_id`, `reason`, and the texts of spec.json, segments.csv and classes.json
    npy    a folder, one dense level: VIDEO_ID.npy (rows of that video, V, ..., D); index.csv: which row is where, and its status
    lmdb   one level of per-frame features, as RULSTM reads them: VIDEO_ID_frame_0000000001.jpg -> float32 bytes

A row without features is NaN there, beside its status; in LMDB it is absent. An export is made in a folder beside its target and
put in place when it is whole.
"""

import contextlib
import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mambavl.cache import fsops, schema
from mambavl.cache.arrays import hdf5_node, open_hdf5
from mambavl.cache.importing import (
    RULSTM_FPS,
    RULSTM_KEY,
    Imported,
    Progress,
    ShouldStop,
    fill,
    need_lmdb,
    source_sha256,
)
from mambavl.cache.layout import CLASSES, SEGMENTS, SPEC, Layout, sha256
from mambavl.cache.reader import FeatureStore
from mambavl.cache.schema import Classes, Level
from mambavl.cache.store import RowGroup, StoreWriter
from mambavl.configs.errors import DataError, Interrupted, UsageError

Format = Literal["hdf5", "npy", "lmdb"]
OURS = "mambavl"  # an HDF5 export's attribute `format`
INDEX, ORIGIN = "index.csv", "store.json"
COLUMNS = ("narration_id", "video_id", "row", "start", "stop", "status", "flags", "length", "frame_pts", "reason")
ROUNDING = 0.05  # of a frame: times in whole milliseconds, as Matroska keeps them, are off by up to 0.03 at 60 frames a second
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")  # what may become a file name

Groups = Iterator[tuple[range, dict[str, np.ndarray]]]  # the rows of each row group, and their values by level


def export_store(
    store: FeatureStore,
    target: Path,
    format: Format,
    *,
    level: str | None = None,
    fps: float = RULSTM_FPS,
    progress: Progress = lambda done, total: None,
    should_stop: ShouldStop = lambda: False,
) -> int:
    """Write a finished store to `target`, row group by row group; returns the number of rows that have features.

    level: hdf5 takes all of them if absent; npy and lmdb take one. lmdb: of the first view; frame n is the one on display at
    second (n - 1) / fps. Raises UsageError where `target` exists or the level does not fit the format, DataError where two
    frames would get the same key, Interrupted, with nothing left behind, when `should_stop()` turns true.
    """
    if not store.store_id:
        raise UsageError(f"{store.path}: is not finished; only finished stores are exported")
    levels = tuple(store.layout.level(name) for name in ([level] if level else store.levels))
    if format != "hdf5" and len(levels) > 1:
        raise UsageError(f"{store.path}: holds {', '.join(store.levels)}; {format} takes one of them: name it with --level")
    ok = store.status == schema.OK
    digests: dict[str, list[str]] = {level.name: [] for level in levels}  # of each row group's values

    def groups() -> Groups:
        progress(0, len(store))
        for group in range(store.layout.groups):
            if should_stop():
                raise Interrupted(f"{target}: stopped; nothing is left of it, the same command starts anew")
            rows = store.layout.rows_of(group)
            values = {level.name: _values(store, level, rows, ok) for level in levels}
            for name, array in values.items():
                digests[name].append(sha256(array.tobytes()))
            yield rows, values
            progress(rows.stop, len(store))

    with _put_in_place(Path(target)) as path:
        if format == "hdf5":
            _write_hdf5(store, path, levels, groups(), digests)
        elif format == "npy":
            _write_npy(store, path, levels[0], groups(), digests)
        else:
            _write_lmdb(store, path, levels[0], groups(), fps)
    return int(ok.sum())


def _values(store: FeatureStore, level: Level, rows: range, ok: np.ndarray) -> np.ndarray:
    """Dense: (rows, *shape), NaN where there is nothing. Ragged: (tokens, D) of all rows, one after another."""
    there = np.flatnonzero(ok[rows.start : rows.stop])
    if level.kind == "ragged":
        tokens, lengths = store.batch(rows.start + there, level.name)
        return tokens.cpu().numpy()[np.arange(tokens.shape[1]) < lengths.cpu().numpy()[:, None]]
    values = np.full((len(rows), *level.shape), np.nan, level.dtype)
    for view in range(level.views):
        tokens, lengths = store.batch(rows.start + there, level.name, view=view)
        found = tokens.cpu().numpy()
        found[np.arange(level.tokens) >= lengths.cpu().numpy()[:, None]] = np.nan
        values[there, view] = found.reshape(len(there), *level.shape[1:])
    return values


@contextlib.contextmanager
def _put_in_place(target: Path) -> Iterator[Path]:
    """Yields where to write; what is there in the end becomes `target`. What a killed export left is deleted by the next."""
    if target.exists() or target.is_symlink():
        raise UsageError(f"{target}: exists, and nothing is overwritten; delete it, or choose another --out")
    workplace = target.with_name(f"{fsops.TEMPORARY}{target.name}")
    fsops.make_folder(workplace)
    held = fsops.lock(workplace / "lock", exclusive=True, wait=False)
    if held is None:
        raise UsageError(f"{target}: another process is exporting to it; let it end first")
    path = workplace / target.name
    try:
        if path.is_dir():
            fsops.remove_folder(path)
        fsops.remove(path)
        yield path
        fsops.sync_folder(path)  # or file
        fsops.rename(path, target)
    except (OSError, RuntimeError) as error:  # h5py raises either when the disk is full
        raise DataError(f"{target}: could not be written ({error})") from error
    finally:
        fsops.remove_folder(workplace)
        fsops.unlock(held)


# --- out


def _write_hdf5(
    store: FeatureStore, path: Path, levels: tuple[Level, ...], groups: Groups, digests: dict[str, list[str]]
) -> None:
    import h5py

    text = h5py.string_dtype()
    with h5py.File(path, "w") as file:
        file.attrs.update(format=OURS, store_id=store.store_id, status_names=json.dumps(schema.STATUS))
        for name in (SPEC, SEGMENTS, CLASSES):  # an attribute may have 64 KB, and a spec has more
            file.create_dataset(name, data=(store.path / name).read_bytes().decode(), dtype=text)
        file.create_dataset("narration_id", data=[segment.narration_id for segment in store.segments], dtype=text)
        file.create_dataset("reason", data=_reasons(store), dtype=text)
        for array in replace(store.layout, levels=levels).row_arrays:
            file[array.name] = _starts(store, array.name) if array.name.endswith("start") else store.row_array(array.name)
        for level in levels:
            rows = store.row_array(level.beside("length")).sum() if level.kind == "ragged" else len(store)
            file.create_dataset(level.name, (rows, *level.shape), level.dtype)
        done: Counter[str] = Counter()
        for _, values in groups:
            for name, array in values.items():
                file[name][done[name] : done[name] + len(array)] = array
                done[name] += len(array)
        for name, found in digests.items():
            file.create_dataset(f"{name}.sha256", data=found, dtype=text)
        file.attrs["rows_sha256"] = _rows_sha256(store, *levels)


def _rows_sha256(store: FeatureStore, *levels: Level) -> str:
    """Of what is known of each row beside its features; of some levels only, if they are named."""
    layout = replace(store.layout, levels=levels or store.layout.levels)
    arrays = {array.name: store.row_array(array.name) for array in layout.row_arrays if not array.name.endswith("start")}
    return _digest([segment.narration_id for segment in store.segments], arrays, _reasons(store))


def _digest(narration_ids: list[str], arrays: dict[str, np.ndarray], reasons: list[str]) -> str:
    content = {name: sha256(np.ascontiguousarray(array).tobytes()) for name, array in arrays.items()}
    return schema.digest([narration_ids, content, reasons])


def _starts(store: FeatureStore, name: str) -> np.ndarray:
    """The first token of each row where nothing pads the row groups."""
    lengths = store.row_array(name.removesuffix("start") + "length").astype(np.int64)
    return np.cumsum(lengths) - lengths


def _write_npy(store: FeatureStore, folder: Path, level: Level, groups: Groups, digests: dict[str, list[str]]) -> None:
    if level.kind == "ragged":
        raise UsageError(f"{store.path}: the rows of level {level.name} differ in length, which npy cannot hold; use hdf5")
    videos = Counter(segment.video_id for segment in store.segments)
    if bad := next((video for video in videos if not _NAME.fullmatch(video)), None):
        raise DataError(f"{store.path}: video_id {bad!r} makes no file name (letters, digits, _ and -); use hdf5")
    fsops.make_folder(folder)
    for video, count in videos.items():
        fsops.write_file(folder / f"{video}.npy", _npy_header((count, *level.shape), level.dtype))
    for rows, values in groups:
        for video, part in groupby(rows, key=lambda row: store.segments[row].video_id):
            numbers = np.array(list(part)) - rows.start
            fsops.append(folder / f"{video}.npy", values[level.name][numbers].tobytes())
    origin = {"store_id": store.store_id, "spec": store.spec, "level": level.name}
    origin |= {"sha256": digests, "rows_sha256": _rows_sha256(store, level)}
    fsops.write_file(folder / ORIGIN, schema.pretty_json(origin))
    for name in (SEGMENTS, CLASSES):
        fsops.write_file(folder / name, (store.path / name).read_bytes())
    fsops.write_file(folder / INDEX, _index(store, level))


def _npy_header(shape: tuple[int, ...], dtype: str) -> bytes:
    header = io.BytesIO()
    little = np.dtype(dtype).newbyteorder("<").str
    np.lib.format.write_array_header_1_0(header, {"descr": little, "fortran_order": False, "shape": shape})
    return header.getvalue()


def _index(store: FeatureStore, level: Level) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)  # a bare carriage return would end the row
    writer.writerow(COLUMNS)
    reasons, lengths = _reasons(store), store.row_array(level.beside("length"))
    times = (
        store.row_array("frame_pts").reshape(len(store), math.prod(store.layout.frame_pts))
        if store.layout.frame_pts
        else np.empty((len(store), 0))
    )
    place: Counter[str] = Counter()
    for row, segment in enumerate(store.segments):
        video = segment.video_id
        where = (segment.narration_id, video, place[video], repr(segment.start), repr(segment.stop))
        what = (schema.STATUS[int(store.status[row])], store.row_array("flags")[row], lengths[row])
        writer.writerow((*where, *what, " ".join(map(repr, times[row].tolist())), reasons[row]))
        place[video] += 1
    return text.getvalue().encode()


def _reasons(store: FeatureStore) -> list[str]:
    """Why a row has no features; "" where it has."""
    known = {narration_id: reason for narration_id, _, reason in store.failures}
    return [known.get(segment.narration_id, "") for segment in store.segments]


def _write_lmdb(store: FeatureStore, folder: Path, level: Level, groups: Groups, fps: float) -> None:
    lmdb = need_lmdb()
    if level.kind == "ragged" or not level.steps == level.tokens == (store.layout.frame_pts or (0, 0))[1]:
        raise UsageError(f"{store.path}: level {level.name} is not one vector for each frame shown; use hdf5 or npy")
    frames = np.ceil(store.row_array("frame_pts")[:, 0] * fps - ROUNDING) + 1  # a frame is on display from its time on
    there = np.arange(level.steps) < store.row_array(level.beside("length"))[:, None]
    there[store.status != schema.OK] = False
    if np.isnan(frames[there]).any():
        raise UsageError(f"{store.path}: does not know the times of its frames; use hdf5 or npy")
    room = 2**24 + 2 * int(there.sum()) * (level.width * 4 + 4096)  # addresses; the file grows as it is filled
    try:
        with lmdb.open(str(folder), map_size=room, lock=False) as env:
            for rows, values in groups:
                vectors = values[level.name][:, 0].astype("<f4")
                with env.begin(write=True) as transaction:
                    for i, step in np.argwhere(there[rows.start : rows.stop]).tolist():
                        row, value = rows[i], vectors[i, step].tobytes()
                        key = RULSTM_KEY.format(store.segments[row].video_id, int(frames[row, step])).encode()
                        if not transaction.put(key, value, overwrite=False) and transaction.get(key) != value:
                            raise _two_vectors(store, np.where(there, frames, 0), row, frames[row, step], fps)
    except lmdb.Error as error:
        raise OSError(str(error)) from error  # a full disk, as `_put_in_place` knows it


def _two_vectors(store: FeatureStore, frames: np.ndarray, row: int, number: float, fps: float) -> DataError:
    segments, video = store.segments, store.segments[row].video_id
    other = next(i for i in range(row + 1) if segments[i].video_id == video and number in frames[i])
    return DataError(
        f"{store.path}: {RULSTM_KEY.format(video, int(number))}: rows {segments[other].narration_id} and "
        f"{segments[row].narration_id} hold different vectors for it. Either two frames fall on one number at {fps:g} a second: "
        "try a higher --fps; or the encoder looks at several frames at once, so that none has its own features: use hdf5 or npy"
    )


# --- and back


@dataclass
class _Export:
    """An export, opened: what it says of its store, and values on request."""

    store_id: str
    spec: dict[str, Any]
    segments: bytes
    classes: bytes
    levels: tuple[Level, ...]
    arrays: dict[str, np.ndarray]  # status, flags, length, frame_pts
    reasons: list[str]
    narration_ids: list[str]
    rows_sha256: str
    digests: dict[str, list[str]]  # of each row group's values, by level
    read: Callable[[Level, slice], np.ndarray]  # dense: of some rows; ragged: of some tokens, counted over all rows

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
    progress: Progress = lambda done, total: None,
    should_stop: ShouldStop = lambda: False,
) -> Imported:
    """Write (or resume) the store that an export was made of: the same rows, features, times, statuses; it names its parent.

    Raises DataError where the export was damaged or changed, Interrupted when `should_stop()` turns true between row groups.
    """
    source = Path(source)
    content_sha256 = content_sha256 or source_sha256(source, format)
    with contextlib.ExitStack() as stack:
        with _sound(source):
            export = _open_npy(source) if format == "npy" else _open_hdf5(source, stack)
            _check(export)
            segments, classes = schema.read_segments(export.segments), Classes.from_json(export.classes)
            spec = {
                "kind": export.spec["kind"],
                "recipe": {**export.spec["recipe"], "source": "import"},
                "inputs": {"sha256": content_sha256, "parent": {"store_id": export.store_id, "spec": export.spec}},
                "levels": [level.to_dict() for level in export.levels],
                "frame_pts": export.spec["frame_pts"],
                "rows_per_group": export.spec["rows_per_group"],
            }
        writer = StoreWriter(out, spec, segments, classes, {"made_by": "mambavl cache import", "source": str(source)})

        def make(rows: range) -> RowGroup:
            with _sound(source):
                return _row_group(export, rows)

        return fill(writer, make, progress, should_stop)


@contextlib.contextmanager
def _sound(source: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, csv.Error) as error:
        raise DataError(f"{source}: is a damaged export ({error}); export the store again") from None


def _check(export: _Export) -> None:
    """Raises ValueError where the parts of an export do not fit each other."""
    for name, data in ((SEGMENTS, export.segments), (CLASSES, export.classes)):
        if sha256(data) != export.spec[f"{name.partition('.')[0]}_sha256"]:
            raise ValueError(f"{name} is not the one of its store")
    if not export.levels:
        raise ValueError("it holds no level")
    for array in export.layout.row_arrays:
        if not array.name.endswith("start") and export.arrays[array.name].shape != (export.layout.rows, *array.shape):
            raise ValueError(f"{array.name} is {export.arrays[array.name].shape}")
    if [segment.narration_id for segment in schema.read_segments(export.segments)] != export.narration_ids:
        raise ValueError("its rows are not in the order of their store")
    if _digest(export.narration_ids, export.arrays, export.reasons) != export.rows_sha256:
        raise ValueError("what it says of its rows was changed")
    if not set(export.arrays["status"].tolist()) <= schema.STATUS.keys() - {0}:
        raise ValueError("a status has no meaning")


def _layout(spec: dict[str, Any]) -> Layout:
    """The layout of a spec that came from outside; names of levels become folders."""
    if spec["schema"] != schema.SCHEMA_VERSION:
        raise ValueError(f"its schema version is {spec['schema']}, this version of mambavl reads {schema.SCHEMA_VERSION}")
    layout = Layout.from_spec(spec)
    if bad := [level.name for level in layout.levels if not all(map(_NAME.fullmatch, level.name.split("/")))]:
        raise ValueError(f"there is no level {bad[0]!r}")
    return layout


def _row_group(export: _Export, rows: range) -> RowGroup:
    arrays = {name: array[rows.start : rows.stop] for name, array in export.arrays.items()}
    levels = {}
    for level in export.levels:
        lengths = export.arrays[level.beside("length")]
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
            raise ValueError(f"level {level.name} holds {values.dtype} {values.shape} for rows {rows.start} to {rows.stop - 1}")
        finite = np.isfinite(values).reshape(len(values), level.views, level.tokens, level.width)
        if not finite[_valid(export, level, rows)].all():
            raise ValueError(f"level {level.name} holds NaN or infinity in rows {rows.start} to {rows.stop - 1}")
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
    ok, lengths = export.arrays["status"][there] == schema.OK, export.arrays[level.beside("length")][there]
    tokens = lengths * (level.tokens // level.steps) if level.steps else np.minimum(lengths, 1)
    valid = (np.arange(level.tokens) < tokens[:, None]) & ok[:, None]
    return np.broadcast_to(valid[:, None], (len(rows), level.views, level.tokens))


def _open_hdf5(source: Path, stack: contextlib.ExitStack) -> _Export:
    file = stack.enter_context(open_hdf5(source))

    def get(name: str, where: Any = ()) -> Any:
        return hdf5_node(file, name, source)[where]

    spec = json.loads(get(SPEC))
    layout = _layout(spec)
    levels = tuple(level for level in layout.levels if level.name in file)
    names = [array.name for array in replace(layout, levels=levels).row_arrays if not array.name.endswith("start")]
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
    layout = _layout(origin["spec"])
    level = layout.level(origin["level"])
    table = list(csv.DictReader(io.StringIO((folder / INDEX).read_bytes().decode(), newline="")))
    arrays = {
        "status": np.array([schema.STATUS_CODE[line["status"]] for line in table], np.uint8),
        "flags": np.array([int(line["flags"]) for line in table], np.uint8),
        level.beside("length"): np.array([int(line["length"]) for line in table], np.int32),
    }
    if layout.frame_pts:
        times = np.array([[float(seconds) for seconds in line["frame_pts"].split()] for line in table])
        arrays["frame_pts"] = times.reshape(len(table), *layout.frame_pts)

    def read(level: Level, where: slice) -> np.ndarray:
        parts = []
        for video, lines in groupby(table[where], key=lambda line: line["video_id"]):
            if not _NAME.fullmatch(video):
                raise ValueError(f"there is no video {video!r}")
            values = np.load(folder / f"{video}.npy", mmap_mode="r", allow_pickle=False)
            parts.append(values[[int(line["row"]) for line in lines]])
        return np.concatenate(parts)

    return _Export(
        store_id=origin["store_id"],
        spec=origin["spec"],
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
