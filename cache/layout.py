"""What files a store has, how long each must be, and which row groups are done. Nothing here writes.

A row group is done when a valid record of it exists, made under this store's spec, *and* every one of its
files has the length that the record gives. `spec.json` says everything else about the files.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mambavl.cache import journal, shards
from mambavl.cache.canonical import sha256
from mambavl.cache.shards import Level
from mambavl.cache.spec import COMMIT, SCHEMA_VERSION, Spec
from mambavl.configs.errors import UsageError


@dataclass(frozen=True)
class RowArray:
    """A per-row array of a store: status, flags, length, start, frame_pts."""

    name: str
    dtype: str
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Layout:
    """Names and shapes of everything in a store; all of it follows from spec.json."""

    levels: tuple[Level, ...]
    rows: int
    rows_per_group: int
    spec_sha256: str
    frame_pts: tuple[int, ...] = ()  # (V, T) where the rows are video
    schema: int = SCHEMA_VERSION

    @classmethod
    def from_spec(cls, spec: Spec) -> "Layout":
        return cls(spec.levels, spec.rows, spec.rows_per_group, spec.digest(), spec.frame_pts, spec.schema)

    @property
    def groups(self) -> int:
        return math.ceil(self.rows / self.rows_per_group)

    def rows_of(self, group: int) -> range:
        first = group * self.rows_per_group
        return range(first, min(first + self.rows_per_group, self.rows))

    @property
    def row_arrays(self) -> tuple[RowArray, ...]:
        """Per-row arrays, each once: levels of one Zarr group share their `length` and `start`."""
        arrays = {"status": RowArray("status", "uint8"), "flags": RowArray("flags", "uint8")}
        if self.frame_pts:
            arrays["frame_pts"] = RowArray("frame_pts", "float64", self.frame_pts)
        for level in self.levels:
            length = level.sibling("length")
            arrays[length] = RowArray(length, "int32")
            if level.kind == "ragged":
                start = level.sibling("start")
                arrays[start] = RowArray(start, "int64")
        return tuple(arrays.values())

    def level(self, name: str) -> Level:
        """Raises UsageError, naming those that there are, for another level."""
        for level in self.levels:
            if level.name == name:
                return level
        raise UsageError(
            f"there is no level {name!r}; this store holds {', '.join(level.name for level in self.levels)}"
        )

    def longest(self, level: Level) -> int | None:
        """What `length` may be at most; levels of one group share it. None: all are single vectors."""
        if level.kind == "ragged":
            return level.capacity
        group = level.sibling("length")
        return max(other.steps for other in self.levels if other.sibling("length") == group) or None

    def present_chunks(self, level: Level, group: int) -> int:
        return len(self.rows_of(group)) if level.kind == "dense" else self.chunks(level)

    def chunks(self, level: Level) -> int:
        """Inner chunks that a shard has room for."""
        return level.chunks(self.rows_per_group)

    def level_file(self, level: Level, group: int) -> str:
        return shards.chunk_key(level.name, 1 + len(level.shape), group)

    def row_file(self, array: RowArray, group: int) -> str:
        return shards.chunk_key(array.name, 1 + len(array.shape), group)

    def file_sizes(self, group: int) -> dict[str, int | None]:
        """Every file of a row group with the length it must have; None for a compressed shard, whose record
        says.
        """
        sizes = {
            self.level_file(level, group): shards.shard_size(
                level, self.present_chunks(level, group), self.chunks(level)
            )
            for level in self.levels
        }
        for array in self.row_arrays:
            items = self.rows_per_group * math.prod(array.shape)
            sizes[self.row_file(array, group)] = items * np.dtype(array.dtype).itemsize + 4
        return sizes

    def metadata(self) -> dict[str, bytes]:
        """Every zarr.json of the store."""
        files = {}
        named = self.schema >= 4
        for level in self.levels:
            files[f"{level.name}/zarr.json"] = shards.level_metadata(
                level, self.rows, self.rows_per_group, named=named
            )
            if "/" in level.name:
                files[level.sibling("zarr.json")] = shards.group_metadata({})
        for array in self.row_arrays:
            files[f"{array.name}/zarr.json"] = shards.row_array_metadata(
                array.shape, array.dtype, self.rows, self.rows_per_group, named=named
            )
        attributes = {"mambavl": {"schema": self.schema, "spec_sha256": self.spec_sha256}}
        # with the others inside, a reader need not look for them, and stumble over our own files
        inside = {name.removesuffix("/zarr.json"): data for name, data in files.items()} if named else None
        return {"zarr.json": shards.group_metadata(attributes, inside), **files}


def records(path: Path) -> Iterator[dict[str, Any]]:
    for file in sorted((Path(path) / COMMIT).glob("*.journal")):
        yield from journal.read(file)


def committed_groups(path: Path, layout: Layout, only: int | None = None) -> dict[int, dict[str, Any]]:
    """Row group -> its record, of the groups (or of `only` one) whose files have their recorded length.

    Where several writers recorded a group with other bytes, the one whose sha256 the files have; none, if
    none has.
    """
    path = Path(path)
    claims: dict[int, list[dict[str, Any]]] = {}
    for record in records(path):
        if only not in (None, record["group"]):
            continue
        known = claims.setdefault(record["group"], [])
        if record["spec"] == layout.spec_sha256 and all(record["files"] != other["files"] for other in known):
            known.append(record)
    done = {}
    for group, known in claims.items():
        fitting = [record for record in known if is_complete(path, layout, record)]
        if len(fitting) > 1:
            fitting = [record for record in fitting if _has_content(path, record)]
        if fitting:
            done[group] = fitting[0]
    return done


def is_complete(path: Path, layout: Layout, record: dict[str, Any]) -> bool:
    """Whether a record is of this store, and every file of its row group there at the recorded length."""
    group, files = record["group"], record["files"]
    if record["spec"] != layout.spec_sha256 or not 0 <= group < layout.groups:
        return False
    for name, expected in layout.file_sizes(group).items():
        found = file_size(path / name)
        if found is None or found != files.get(name, [None])[0] or expected not in (None, found):
            return False
    return True


def _has_content(path: Path, record: dict[str, Any]) -> bool:
    """By sha256. A crc32c would not do: over rows that carry their own crc32c it is the same whatever they
    hold.
    """
    return all(
        sha256((path / name).read_bytes()) == expected for name, (_, expected) in record["files"].items()
    )


def file_size(path: Path) -> int | None:
    """None where there is no file."""
    try:
        return path.stat().st_size
    except OSError:
        return None
