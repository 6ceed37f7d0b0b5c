"""Writing a feature store: create or resume, commit row groups, finalise, verify.

A row group is committed as: every shard to a temporary name, fsync, rename, fsync of the folder; then one record in this
writer's own journal, fsync. It is done when a valid record exists *and* every file has the recorded length. Data before
record, always: a kill at any instant costs at most one row group, and nothing half-written is ever taken for done.
"""

import hashlib
import json
import math
import os
import socket
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mambavl.cache import fsops, journal, schema
from mambavl.cache.schema import Classes, Level, Segment
from mambavl.configs.errors import DataError, UsageError

SPEC, SEGMENTS, CLASSES, MANIFEST, ENVIRONMENT = (
    "spec.json",
    "segments.csv",
    "classes.json",
    "manifest.json",
    "environment.json",
)
REQUIRED = {
    SPEC: {"schema", "kind", "recipe", "levels", "rows", "rows_per_group", "frame_pts", "segments_sha256", "classes_sha256"},
    MANIFEST: {"schema", "spec_sha256", "files", "failures", "store_id"},
}


@dataclass(frozen=True)
class RowArray:
    """A per-row array of a store: status, flags, length, start, frame_pts."""

    name: str
    dtype: str
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Layout:
    """Names and shapes of everything in a store; all of it follows from spec.json and the number of rows."""

    levels: tuple[Level, ...]
    rows: int
    rows_per_group: int
    frame_pts: tuple[int, ...] = ()  # (V, T) where the rows are video

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> "Layout":
        return cls(
            levels=tuple(Level.from_dict(raw) for raw in spec["levels"]),
            rows=spec["rows"],
            rows_per_group=spec["rows_per_group"],
            frame_pts=tuple(spec["frame_pts"]),
        )

    @property
    def groups(self) -> int:
        return math.ceil(self.rows / self.rows_per_group)

    def rows_of(self, group: int) -> range:
        first = group * self.rows_per_group
        return range(first, min(first + self.rows_per_group, self.rows))

    @property
    def row_arrays(self) -> tuple[RowArray, ...]:
        arrays = {"status": RowArray("status", "uint8"), "flags": RowArray("flags", "uint8")}
        if self.frame_pts:
            arrays["frame_pts"] = RowArray("frame_pts", "float64", self.frame_pts)
        for level in self.levels:
            length = level.beside("length")
            arrays[length] = RowArray(length, "int32")
            if level.kind == "ragged":
                start = level.beside("start")
                arrays[start] = RowArray(start, "int64")
        return tuple(arrays.values())

    def level(self, name: str) -> Level:
        for level in self.levels:
            if level.name == name:
                return level
        raise UsageError(f"there is no level {name!r}; this store holds {', '.join(level.name for level in self.levels)}")

    def present_chunks(self, level: Level, group: int) -> int:
        return len(self.rows_of(group)) if level.kind == "dense" else level.chunks(self.rows_per_group)

    def level_file(self, level: Level, group: int) -> str:
        return schema.chunk_key(level.name, 1 + len(level.shape), group)

    def row_file(self, array: RowArray, group: int) -> str:
        return schema.chunk_key(array.name, 1 + len(array.shape), group)

    def file_sizes(self, group: int) -> dict[str, int]:
        """Every file of a row group with the length it must have."""
        sizes = {
            self.level_file(level, group): schema.shard_size(
                level, self.present_chunks(level, group), level.chunks(self.rows_per_group)
            )
            for level in self.levels
        }
        for array in self.row_arrays:
            items = self.rows_per_group * math.prod(array.shape)
            sizes[self.row_file(array, group)] = items * np.dtype(array.dtype).itemsize + 4
        return sizes

    def metadata(self, attributes: dict[str, Any]) -> dict[str, bytes]:
        """Every zarr.json of the store."""
        files = {"zarr.json": schema.group_metadata(attributes)}
        for level in self.levels:
            files[f"{level.name}/zarr.json"] = schema.level_metadata(level, self.rows, self.rows_per_group)
            if "/" in level.name:
                files[level.beside("zarr.json")] = schema.group_metadata({})
        for array in self.row_arrays:
            files[f"{array.name}/zarr.json"] = schema.row_array_metadata(array.shape, array.dtype, self.rows, self.rows_per_group)
        return files


@dataclass
class RowGroup:
    """What the rows of one group become. Rows whose status is not ok hold NaN (dense) or nothing (ragged)."""

    levels: dict[str, np.ndarray]  # dense: (rows, *shape); ragged: (tokens, D), rows one after another
    lengths: dict[str, np.ndarray]  # by array name (`length`, `verb_question/length`): (rows,) steps or tokens
    status: np.ndarray  # (rows,) uint8
    flags: np.ndarray  # (rows,) uint8
    frame_pts: np.ndarray | None = None  # (rows, V, T) seconds
    reasons: dict[int, str] | None = None  # row within the group -> why it failed


class StoreWriter:
    """Creates a store or resumes one of the very same spec; then `pending()`, `commit()`, `finalize()`."""

    def __init__(
        self, path: Path, spec: dict[str, Any], segments: tuple[Segment, ...], classes: Classes, environment: dict
    ) -> None:
        self.path = Path(path)
        spec = {**spec, "schema": schema.SCHEMA_VERSION, "rows": len(segments)}
        files = {SEGMENTS: schema.write_segments(segments), CLASSES: classes.to_json()}
        for name, data in files.items():
            spec[f"{name.partition('.')[0]}_sha256"] = hashlib.sha256(data).hexdigest()
        self.spec = spec
        self.layout = Layout.from_spec(spec)
        self.segments = segments
        if (self.path / SPEC).exists():
            self._refuse_other(read_spec(self.path))
        else:
            self._create(files, environment)
        fsops.sweep_temporaries(self.path)
        self._journal = self.path / "commit" / f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.journal"

    def _create(self, files: dict[str, bytes], environment: dict) -> None:
        attributes = {"mambavl": {"schema": schema.SCHEMA_VERSION, "spec_sha256": schema.digest(self.spec)}}
        files = {**files, ENVIRONMENT: schema.pretty_json(environment), **self.layout.metadata(attributes)}
        ours = {"commit", *(name.partition("/")[0] for name in files)}
        foreign = [entry.name for entry in self.path.glob("*") if entry.name not in ours]
        if not all(name.startswith(fsops.TEMPORARY) for name in foreign):  # those are a killed creation's
            raise UsageError(f"{self.path}: is no feature store and not empty ({foreign[0]}); choose another --out")
        fsops.make_folder(self.path / "commit")
        for name, data in files.items():
            fsops.make_folder((self.path / name).parent)
            fsops.write_file(self.path / name, data)
        fsops.write_file(self.path / SPEC, schema.pretty_json(self.spec))  # last: a folder without it is not yet a store

    def _refuse_other(self, existing: dict[str, Any]) -> None:
        if existing != self.spec:
            fields = "\n  ".join(schema.differences(existing, self.spec)[:20])
            raise UsageError(
                f"{self.path}: was made by another recipe; stores never mix. What differs (there -> asked for):\n  {fields}\n"
                "Use the same settings to resume, or another --out."
            )

    @property
    def is_final(self) -> bool:
        return (self.path / MANIFEST).exists()

    def pending(self) -> list[int]:
        """Row groups still to do, in order."""
        done = committed_groups(self.path, self.layout)
        return [group for group in range(self.layout.groups) if group not in done]

    def commit(self, group: int, rows: RowGroup) -> int:
        """Write a row group and record it; returns the bytes written."""
        files = self._encode(group, rows)
        for name, data in files.items():
            path = self.path / name
            fsops.make_folder(path.parent)
            fsops.write_file(path, data)
        record = {
            "group": group,
            "files": {name: [len(data), hashlib.sha256(data).hexdigest()] for name, data in files.items()},
            "failures": [
                [self.segments[self.layout.rows_of(group)[row]].narration_id, int(rows.status[row]), reason]
                for row, reason in sorted((rows.reasons or {}).items())
            ],
        }
        journal.append(self._journal, record)
        return sum(map(len, files.values()))

    def _encode(self, group: int, rows: RowGroup) -> dict[str, bytes]:
        layout, count = self.layout, len(self.layout.rows_of(group))
        values: dict[str, np.ndarray] = {"status": rows.status, "flags": rows.flags, **rows.lengths}
        if layout.frame_pts:
            values["frame_pts"] = rows.frame_pts
        files = {}
        for level in layout.levels:
            array = rows.levels[level.name]
            if level.kind == "ragged":
                lengths = rows.lengths[level.beside("length")]
                values[level.beside("start")] = group * level.capacity + np.cumsum(lengths) - lengths
                array = _pad_tokens(array, level)
            elif array.shape != (count, *level.shape):
                raise ValueError(f"level {level.name}: expected {(count, *level.shape)}, got {array.shape}")
            files[layout.level_file(level, group)] = schema.encode_shard(array, level, level.chunks(layout.rows_per_group))
        for array in layout.row_arrays:
            files[layout.row_file(array, group)] = schema.encode_rows(values[array.name], layout.rows_per_group, array.dtype)
        return files

    def finalize(self) -> dict[str, Any]:
        return finalize(self.path)


def _pad_tokens(tokens: np.ndarray, level: Level) -> np.ndarray:
    if len(tokens) > level.capacity or tokens.shape[1:] != level.shape:
        raise ValueError(f"level {level.name}: {tokens.shape} does not fit {level.capacity} tokens of {level.shape}")
    padded = np.full((level.capacity, *level.shape), np.nan, level.dtype)
    padded[: len(tokens)] = tokens
    return padded


def read_spec(path: Path) -> dict[str, Any]:
    """The spec of a store; DataError when `path` is no store or one of another schema version."""
    spec = read_json(Path(path), SPEC)
    if spec.get("schema") != schema.SCHEMA_VERSION:
        raise DataError(f"{path}: has schema version {spec.get('schema')}; this version of mambavl reads {schema.SCHEMA_VERSION}")
    return spec


def read_json(path: Path, name: str) -> dict[str, Any]:
    if not path.is_dir():
        raise DataError(f"{path}: no such store; make it with `mambavl extract video` or `mambavl extract text`")
    try:
        found = json.loads((path / name).read_bytes())
        if not isinstance(found, dict) or not found.keys() >= REQUIRED[name]:
            raise ValueError(f"it lacks {', '.join(sorted(REQUIRED[name]))}")
        return found
    except FileNotFoundError:
        raise DataError(f"{path}: is no feature store: it has no {name}") from None
    except ValueError as error:
        raise DataError(f"{path / name}: is damaged ({error})") from None


def records(path: Path) -> Iterator[dict[str, Any]]:
    for file in sorted((Path(path) / "commit").glob("*.journal")):
        yield from journal.read(file)


def committed_groups(path: Path, layout: Layout) -> dict[int, dict[str, Any]]:
    """Row group -> its record, for the groups whose files are all there at their recorded length.

    Where several writers recorded a group with other bytes, the one whose sha256 the files have; none, if none has.
    """
    path = Path(path)
    claims: dict[int, list[dict[str, Any]]] = {}
    for record in records(path):
        known = claims.setdefault(record["group"], [])
        if all(record["files"] != other["files"] for other in known):
            known.append(record)
    done = {}
    for group, known in claims.items():
        sizes = layout.file_sizes(group)
        fitting = [r for r in known if all(_size(path / n) == size == r["files"].get(n, [None])[0] for n, size in sizes.items())]
        if len(fitting) > 1:
            fitting = [record for record in fitting if _has_content(path, record)]
        if fitting:
            done[group] = fitting[0]
    return done


def _has_content(path: Path, record: dict[str, Any]) -> bool:
    """By sha256. A crc32c would not do: over rows that carry their own crc32c it is the same whatever they hold."""
    return all(hashlib.sha256((path / name).read_bytes()).hexdigest() == sha256 for name, (_, sha256) in record["files"].items())


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def finalize(path: Path) -> dict[str, Any]:
    """Check that every row group is done, write manifest.json, drop the write bits. Training opens finalised stores only."""
    path = Path(path)
    spec = read_spec(path)
    layout = Layout.from_spec(spec)
    if (path / MANIFEST).exists():  # closed before: never written anew from files that may have changed since
        faults = verify(path)
        if faults:
            listed = "\n  ".join(faults[:20])
            raise DataError(f"{path}: was finished and is damaged since; move it away and extract anew:\n  {listed}")
        return read_json(path, MANIFEST)
    done = committed_groups(path, layout)
    if len(done) < layout.groups:
        missing = sum(len(layout.rows_of(group)) for group in range(layout.groups) if group not in done)
        raise DataError(
            f"{path}: {layout.rows - missing:,} of {layout.rows:,} rows are done; finish with the same `mambavl extract` command"
        )
    files = {name: entry for group in sorted(done) for name, entry in done[group]["files"].items()}
    attributes = {"mambavl": {"schema": schema.SCHEMA_VERSION, "spec_sha256": schema.digest(spec)}}
    for name in [SPEC, SEGMENTS, CLASSES, *layout.metadata(attributes)]:
        data = (path / name).read_bytes()
        files[name] = [len(data), hashlib.sha256(data).hexdigest()]
    manifest = {
        "schema": schema.SCHEMA_VERSION,
        "spec_sha256": schema.digest(spec),
        "files": files,
        "failures": sorted(failure for record in done.values() for failure in record["failures"]),
    }
    manifest["store_id"] = schema.digest(manifest)
    fsops.write_file(path / MANIFEST, schema.pretty_json(manifest))
    for name in [*files, MANIFEST]:
        fsops.drop_write_bits(path / name)
    return manifest


def verify(path: Path, deep: bool = False) -> list[str]:
    """Faults of a store, one line each; an empty list means sound. `deep` also reads every byte (sha256, crc32c, shard index)."""
    path = Path(path)
    spec = read_spec(path)
    layout = Layout.from_spec(spec)
    if (path / MANIFEST).exists():
        manifest = read_json(path, MANIFEST)
        return list(_verify_final(path, spec, layout, manifest, deep))
    done = committed_groups(path, layout)
    faults = [f"not finalised: {len(done)} of {layout.groups} row groups are done; finish the extraction"]
    for group in sorted(done):
        faults += _verify_group(path, layout, group, done[group]["files"], deep)
    return faults


def _verify_final(path: Path, spec: dict, layout: Layout, manifest: dict, deep: bool) -> Iterator[str]:
    body = {key: value for key, value in manifest.items() if key != "store_id"}
    if schema.digest(body) != manifest.get("store_id"):
        yield f"{MANIFEST}: does not match its own store id"
    if manifest["spec_sha256"] != schema.digest(spec):
        yield f"{SPEC}: is not the spec that the store was finalised with"
    per_group = {name for group in range(layout.groups) for name in layout.file_sizes(group)}
    for name in per_group - manifest["files"].keys():
        yield f"{name}: is not in the manifest"
    for name in sorted(manifest["files"].keys() - per_group):
        yield from _verify_file(path, name, manifest["files"][name], True)
    for group in range(layout.groups):
        yield from _verify_group(path, layout, group, manifest["files"], deep)


def _verify_group(path: Path, layout: Layout, group: int, files: dict[str, list], deep: bool) -> Iterator[str]:
    sizes = layout.file_sizes(group)
    for name in sizes:
        if name in files:
            yield from _verify_file(path, name, files[name], deep)
    if not deep:
        return
    for level in layout.levels:
        name = layout.level_file(level, group)
        present, chunks = layout.present_chunks(level, group), level.chunks(layout.rows_per_group)
        if _size(path / name) == sizes[name]:
            data = (path / name).read_bytes()
            if not schema.shard_is_dense(memoryview(data), level, present, chunks):
                yield f"{name}: its shard index is damaged"
            for chunk in schema.bad_chunks(data, level, present):
                yield f"{name}: crc32c of {'row' if level.kind == 'dense' else 'token chunk'} {chunk} does not match"
    for array in layout.row_arrays:
        name = layout.row_file(array, group)
        shape = (layout.rows_per_group, *array.shape)
        if _size(path / name) == sizes[name] and schema.decode_rows((path / name).read_bytes(), shape, array.dtype) is None:
            yield f"{name}: crc32c does not match"


def _verify_file(path: Path, name: str, entry: list, deep: bool) -> Iterator[str]:
    size = _size(path / name)
    if size is None:
        yield f"{name}: is missing"
    elif size != entry[0]:
        yield f"{name}: has {size:,} bytes, expected {entry[0]:,}"
    elif deep and hashlib.sha256((path / name).read_bytes()).hexdigest() != entry[1]:
        yield f"{name}: sha256 does not match the manifest"
