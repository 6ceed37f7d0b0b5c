"""A feature store in other people's forms; `exported` brings two of them back, exactly.

    hdf5   one file, the whole store: every array under its name in the store (tokens of a ragged level one
           after another, without padding), `narration_id`, `reason`, and the texts of spec.json, segments.csv
           and classes.json
    npy    a folder, one dense level: VIDEO_ID.npy (rows of that video, V, ..., D); index.csv: which row is
           where, and its status
    lmdb   one level of per-frame features, as RULSTM reads them:
           VIDEO_ID_frame_0000000001.jpg -> float32 bytes
    parquet
           one file, one level of one vector a row, with ids, times and labels: see `vectors`
    actionformer, mstcn, ego4d
           a folder, one level of windows over whole videos: see `per_video`

A row without features is NaN there, next to its status; in LMDB it is absent. An export is made in a folder
next to its target and put in place when it is whole.
"""

import contextlib
import csv
import io
import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np

from mambavl.cache import canonical, fsops
from mambavl.cache.canonical import JSON, sha256
from mambavl.cache.interchange.per_video import Groups, PerVideo, refuse_names, write_videos
from mambavl.cache.interchange.rulstm import RULSTM_FPS, RULSTM_KEY, need_lmdb
from mambavl.cache.interchange.vectors import write_table
from mambavl.cache.reader import FeatureStore
from mambavl.cache.rows import OK, STATUS
from mambavl.cache.shards import Level
from mambavl.cache.spec import CLASSES, SEGMENTS, SPEC
from mambavl.configs.errors import DataError, Interrupted, UsageError
from mambavl.configs.progress import Progress, ShouldStop, never, unseen

Format = Literal["hdf5", "npy", "lmdb", "parquet", PerVideo]


OURS = "mambavl"  # an HDF5 export's attribute `format`


INDEX, ORIGIN = "index.csv", "store.json"


COLUMNS = (
    "narration_id",
    "video_id",
    "row",
    "start",
    "stop",
    "status",
    "flags",
    "length",
    "frame_pts",
    "reason",
)


# of a frame: times in whole milliseconds, as Matroska keeps them, are off by up to 0.03 at 60 frames a second
ROUNDING = 0.05


def export_store(
    store: FeatureStore,
    target: Path,
    format: Format,
    *,
    level: str | None = None,
    fps: float = RULSTM_FPS,
    progress: Progress = unseen,
    should_stop: ShouldStop = never,
) -> int:
    """Write a finished store to `target`, row group by row group; returns the number of rows whose features
    are in it.

    level: hdf5 takes all of them if absent, the others one. lmdb: of the first view; frame n is the one on
    display at second (n - 1) / fps. actionformer: counts in frames of 1 / fps seconds. Raises UsageError
    where `target` exists or store or level do not fit the format, DataError where two frames would get the
    same key or no video is whole, Interrupted, with nothing left behind, when `should_stop()` turns true.
    """
    if not store.store_id:
        raise UsageError(f"{store.path}: is not finished; only finished stores are exported")
    levels = tuple(store.level(name) for name in ([level] if level else store.levels))
    if format != "hdf5" and len(levels) > 1:
        raise UsageError(
            f"{store.path}: holds {', '.join(store.levels)}; {format} takes one of them: name it with --level"
        )
    ok = store.status == OK
    digests: dict[str, list[str]] = {level.name: [] for level in levels}  # of each row group's values

    def groups() -> Groups:
        progress(0, len(store))
        for group in range(store.layout.groups):
            if should_stop():
                raise Interrupted(f"{target}: stopped; nothing is left of it, the same command starts over")
            rows = store.layout.rows_of(group)
            values = {level.name: _values(store, level, rows, ok) for level in levels}
            for name, array in values.items():
                digests[name].append(sha256(array.tobytes()))
            yield rows, values
            progress(rows.stop, len(store))

    written = int(ok.sum())
    with _put_in_place(Path(target)) as path:
        if format == "hdf5":
            _write_hdf5(store, path, levels, groups(), digests)
        elif format == "npy":
            _write_npy(store, path, levels[0], groups(), digests)
        elif format == "parquet":
            write_table(store, path, levels[0], groups())
        elif format == "lmdb":
            _write_lmdb(store, path, levels[0], groups(), fps)
        else:
            written = write_videos(store, path, levels[0], groups(), format, fps)
    return written


def _values(store: FeatureStore, level: Level, rows: range, ok: np.ndarray) -> np.ndarray:
    """Dense: (rows, *shape), NaN where there is nothing. Ragged: (tokens, D), all rows one after another."""
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
    """Yields where to write; what is there in the end becomes `target`. What a killed export left is deleted
    by the next.
    """
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


def _write_hdf5(
    store: FeatureStore, path: Path, levels: tuple[Level, ...], groups: Groups, digests: dict[str, list[str]]
) -> None:
    import h5py

    text = h5py.string_dtype()
    with h5py.File(path, "w") as file:
        file.attrs.update(format=OURS, store_id=store.store_id, status_names=json.dumps(STATUS))
        for name in (SPEC, SEGMENTS, CLASSES):  # an attribute may have 64 KB, and a spec has more
            file.create_dataset(name, data=(store.path / name).read_bytes().decode(), dtype=text)
        file.create_dataset(
            "narration_id", data=[segment.narration_id for segment in store.segments], dtype=text
        )
        file.create_dataset("reason", data=_reasons(store), dtype=text)
        for array in replace(store.layout, levels=levels).row_arrays:
            file[array.name] = (
                _starts(store, array.name) if array.name.endswith("start") else store.row_array(array.name)
            )
        for level in levels:
            rows = store.row_array(level.sibling("length")).sum() if level.kind == "ragged" else len(store)
            file.create_dataset(level.name, (rows, *level.shape), level.dtype)
        done: Counter[str] = Counter()
        for _, values in groups:
            for name, part in values.items():
                file[name][done[name] : done[name] + len(part)] = part
                done[name] += len(part)
        for name, found in digests.items():
            file.create_dataset(f"{name}.sha256", data=found, dtype=text)
        file.attrs["rows_sha256"] = _rows_sha256(store, *levels)


def _rows_sha256(store: FeatureStore, *levels: Level) -> str:
    """Of what is known of each row apart from its features; of some levels only, if they are named."""
    layout = replace(store.layout, levels=levels or store.layout.levels)
    arrays = {
        array.name: store.row_array(array.name)
        for array in layout.row_arrays
        if not array.name.endswith("start")
    }
    return export_digest([segment.narration_id for segment in store.segments], arrays, _reasons(store))


def export_digest(narration_ids: list[str], arrays: dict[str, np.ndarray], reasons: list[str]) -> str:
    content = {name: sha256(np.ascontiguousarray(array).tobytes()) for name, array in arrays.items()}
    return canonical.digest([narration_ids, content, reasons])


def _starts(store: FeatureStore, name: str) -> np.ndarray:
    """The first token of each row where nothing pads the row groups."""
    lengths = store.row_array(name.removesuffix("start") + "length").astype(np.int64)
    return np.cumsum(lengths) - lengths


def _write_npy(
    store: FeatureStore, folder: Path, level: Level, groups: Groups, digests: dict[str, list[str]]
) -> None:
    if level.kind == "ragged":
        raise UsageError(
            f"{store.path}: the rows of level {level.name} differ in length, which npy cannot hold; use hdf5"
        )
    videos = Counter(segment.video_id for segment in store.segments)
    refuse_names(store, "; use hdf5")
    fsops.make_folder(folder)
    for video, count in videos.items():
        fsops.write_file(folder / f"{video}.npy", _npy_header((count, *level.shape), level.dtype))
    for rows, values in groups:
        for video, part in groupby(rows, key=lambda row: store.segments[row].video_id):
            numbers = np.array(list(part)) - rows.start
            fsops.append(folder / f"{video}.npy", values[level.name][numbers].tobytes())
    origin: dict[str, JSON] = {
        "store_id": store.store_id,
        "spec": store.spec.to_dict(),
        "level": level.name,
        "sha256": digests,
        "rows_sha256": _rows_sha256(store, level),
    }
    fsops.write_file(folder / ORIGIN, canonical.pretty_json(origin))
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
    # a bare carriage return would end the row
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(COLUMNS)
    reasons, lengths = _reasons(store), store.row_array(level.sibling("length"))
    times = (
        store.row_array("frame_pts").reshape(len(store), math.prod(store.layout.frame_pts))
        if store.layout.frame_pts
        else np.empty((len(store), 0))
    )
    place: Counter[str] = Counter()
    for row, segment in enumerate(store.segments):
        video = segment.video_id
        where = (segment.narration_id, video, place[video], repr(segment.start), repr(segment.stop))
        what = (STATUS[int(store.status[row])], store.row_array("flags")[row], lengths[row])
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
        raise UsageError(
            f"{store.path}: level {level.name} is not one vector for each frame shown; use hdf5 or npy"
        )
    # a frame is on display from its time on
    frames = np.ceil(store.row_array("frame_pts")[:, 0] * fps - ROUNDING) + 1
    there = np.arange(level.steps) < store.row_array(level.sibling("length"))[:, None]
    there[store.status != OK] = False
    if np.isnan(frames[there]).any():
        raise UsageError(f"{store.path}: does not know the times of its frames; use hdf5 or npy")
    # addresses; the file grows as it is filled
    room = 2**24 + 2 * int(there.sum()) * (level.width * 4 + 4096)
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
        f"{segments[row].narration_id} hold different vectors for it. Either two frames fall on one number "
        f"at {fps:g} a second: try a higher --fps; or the encoder looks at several frames at once, so that "
        "none has its own features: use hdf5 or npy"
    )
