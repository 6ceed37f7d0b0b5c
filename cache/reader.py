"""Reading a feature store: random batches straight from the memory-mapped shard files of the Zarr archive.

The shards are uncompressed and laid row by row (schema.encode_shard), so a row is at a known offset and
zarr's Python path, hundreds of times slower on random rows, is never taken. Compressed stores, and those
wanted in memory, are decoded once.
"""

import math
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mambavl.cache import fsops, shards
from mambavl.cache import verify as verification
from mambavl.cache.canonical import sha256
from mambavl.cache.layout import Layout, committed_groups
from mambavl.cache.rows import OK, STATUS, Classes, Segment, read_segments
from mambavl.cache.shards import Level
from mambavl.cache.sources import DecodedRows, MappedShards, map_file, scratch_folder, take
from mambavl.cache.spec import CLASSES, MANIFEST, SEGMENTS, SPEC, read_json, read_spec
from mambavl.configs.errors import DataError, UsageError

Verify = Literal["open", "read", "none"]


Resident = Literal["mmap", "ram", "device"]


class FeatureStore:
    """A store opened read-only; `open_store` says how. Safe to pickle and to use after a fork: each process
    maps for itself.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        partial: bool = False,
        verify: Verify = "open",
        resident: Resident = "mmap",
        device: torch.device | str = "cpu",
        pin: bool = False,
    ) -> None:
        self.path = Path(path).absolute()  # shards are mapped later, maybe from another working folder
        self.verify, self.resident, self.device, self.pin = verify, resident, torch.device(device), pin
        self.spec = read_spec(self.path)
        self.layout = Layout.from_spec(self.spec)
        self.store_id, self._files, self._written_groups = self._open(partial)
        self._opened_as = self._manifest_mark()
        self._sources: dict[str, MappedShards | Tensor] = {}
        self._row_arrays: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return self.layout.rows

    def __getstate__(self) -> dict[str, Any]:
        cached = ("segments", "classes", "failures", "_all_ok")
        return {
            **{key: value for key, value in self.__dict__.items() if key not in cached},
            "_sources": {},
            "_row_arrays": {},
        }

    @property
    def levels(self) -> dict[str, Level]:
        return {level.name: level for level in self.layout.levels}

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """One record a row, in row order."""
        return read_segments(self._hashed(SEGMENTS))

    @cached_property
    def classes(self) -> Classes:
        return Classes.from_json(self._hashed(CLASSES))

    @cached_property
    def failures(self) -> list[list[Any]]:
        """[narration_id, status, reason] of the rows without features."""
        if self.store_id:
            return read_json(self.path, MANIFEST)["failures"]
        done = committed_groups(self.path, self.layout)
        return sorted(failure for record in done.values() for failure in record["failures"])

    @property
    def status(self) -> np.ndarray:
        """(rows,) uint8; 1 is ok, the rest is named in schema.STATUS."""
        return self.row_array("status")

    def row_array(self, name: str) -> np.ndarray:
        """A whole per-row array: `status`, `flags`, `length`, `start`, `frame_pts`; the fill value where
        nothing was written.
        """
        if name not in self._row_arrays:
            array = next((a for a in self.layout.row_arrays if a.name == name), None)
            if array is None:
                raise UsageError(
                    f"there is no array {name!r}; there are {', '.join(a.name for a in self.layout.row_arrays)}"
                )
            fill = np.nan if array.dtype.startswith("float") else 0
            out = np.full((self.layout.rows, *array.shape), fill, array.dtype)
            for group in self._written_groups:
                file = self.layout.row_file(array, group)
                data = self._read(file, hashed=True)
                values = shards.decode_rows(data, (self.layout.rows_per_group, *array.shape), array.dtype)
                if values is None:
                    raise self._damaged(file, "its crc32c does not match")
                rows = self.layout.rows_of(group)
                out[rows.start : rows.stop] = values[: len(rows)]
            out.flags.writeable = False
            self._row_arrays[name] = out
        return self._row_arrays[name]

    def batch(self, rows: Any, level: str, *, view: Any = 0) -> tuple[Tensor, Tensor]:
        """Features of some rows, in the order given: numbers, or a mask over all rows. view: of a dense
        level, one or one a row.

        Returns (tokens (B, L, D) in the stored dtype, lengths (B,) int64), zeros from each length on. Dense:
        L tokens, grids flattened row by row. Ragged: padded to the longest of the batch. Raises DataError for
        a row whose status is not ok, or (with verify="read") whose bytes are damaged, IndexError for a row
        that is not there.
        """
        spec, rows = self.layout.level(level), self._row_numbers(rows)
        self._refuse_rows_without_features(rows)
        views = self._views(spec, view, len(rows))
        lengths = self._lengths(spec, rows)
        source = self._source(spec)
        if isinstance(source, Tensor):
            return take(source, spec, rows, views, lengths, self._starts(spec, rows))
        longest = spec.tokens if spec.kind == "dense" else int(lengths.max(initial=0))
        tokens = self._empty((len(rows), longest, spec.width), spec.dtype)
        out = tokens.numpy().view(np.uint8)
        if spec.kind == "dense":
            source.rows(self, rows, views, out.reshape(len(rows), spec.chunk_bytes // spec.views))
            if len(rows) and lengths.min() < longest:  # the fill value is NaN, and padding must be harmless
                tokens[torch.from_numpy(np.arange(longest) >= lengths[:, None])] = 0
        else:
            source.tokens(self, self._starts(spec, rows), lengths, out)
        return tokens, torch.from_numpy(lengths)

    def _empty(self, shape: tuple[int, ...], dtype: str) -> Tensor:
        if self.pin:
            return torch.empty(shape, dtype=getattr(torch, dtype), pin_memory=True)
        # torch's own aligned memory is handed back to the system more often
        return torch.from_numpy(np.empty(shape, dtype))

    def _refuse_rows_without_features(self, rows: np.ndarray) -> None:
        if self._all_ok:
            return
        bad = rows[self.status[rows] != OK]
        if len(bad):
            first, reason = self.segments[bad[0]].narration_id, STATUS[int(self.status[bad[0]])]
            raise DataError(
                f"{self.path}: row {first} has no features ({reason}); {len(bad)} such rows were asked for"
            )

    @cached_property
    def _all_ok(self) -> bool:
        return bool((self.status == OK).all())

    def _views(self, level: Level, view: Any, count: int) -> np.ndarray:
        """(B,) int64."""
        views = np.zeros(count, np.int64)
        views[:] = np.asarray(view).astype(np.int64, casting="same_kind") if count else 0
        if count and not 0 <= views.min() <= views.max() < level.views:
            raise UsageError(f"{self.path}: level {level.name} has {level.views} views; asked for {view}")
        return views

    def lengths(self, rows: Any, level: str) -> np.ndarray:
        """(B,) int64: valid tokens of some rows at a level, without reading them."""
        return self._lengths(self.layout.level(level), self._row_numbers(rows))

    def _lengths(self, level: Level, rows: np.ndarray) -> np.ndarray:
        steps = self.row_array(level.beside("length"))[rows].astype(np.int64)
        if level.kind == "ragged":
            return steps
        return steps * (level.tokens // level.steps) if level.steps else np.minimum(steps, 1)

    def _row_numbers(self, rows: Any) -> np.ndarray:
        rows = np.asarray(rows)
        if rows.dtype == bool:
            if rows.shape != (len(self),):
                raise IndexError(f"{self.path}: a mask of shape {rows.shape} for {len(self)} rows")
            return np.flatnonzero(rows)
        if rows.dtype != np.int64:
            rows = rows.astype(np.int64, casting="safe" if rows.size else "unsafe")
        rows = np.ascontiguousarray(rows).reshape(-1)
        if not len(rows):
            return rows
        least, greatest = rows.min(), rows.max()
        if least < -len(self) or greatest >= len(self):
            raise IndexError(
                f"{self.path}: row {greatest if greatest >= len(self) else least} of {len(self)}"
            )
        return rows if least >= 0 else np.where(rows < 0, rows + len(self), rows)

    def _starts(self, level: Level, rows: np.ndarray) -> np.ndarray:
        """(B,) first tokens of some rows; empty for a dense level. A row without tokens starts nowhere, so 0
        will do.
        """
        if level.kind == "dense":
            return np.empty(0, np.int64)
        return np.where(
            self.row_array(level.beside("length"))[rows] > 0, self.row_array(level.beside("start"))[rows], 0
        )

    def _refuse_bounds(self, level: Level) -> None:
        """Before anything is copied by address: do `length` (and `start`) stay within the level?"""
        lengths = self.row_array(level.beside("length")).astype(np.int64)
        most = level.capacity if level.kind == "ragged" else level.steps or lengths.max(initial=0)
        fits = (lengths >= 0).all() and (lengths <= most).all()
        if level.kind == "ragged" and fits:
            starts = self.row_array(level.beside("start"))
            group = np.arange(len(self)) // self.layout.rows_per_group * level.capacity
            fits = ((lengths == 0) | ((starts >= group) & (starts + lengths <= group + level.capacity))).all()
        if not fits:
            raise DataError(
                f"{self.path}: the lengths of level {level.name} reach beyond it; run `mambavl cache verify --deep`"
            )

    # --- where the values of a level are

    def _source(self, level: Level) -> "MappedShards | Tensor":
        if level.name not in self._sources:
            self._sources[level.name] = self._make_source(level)
        return self._sources[level.name]

    def _make_source(self, level: Level) -> "MappedShards | Tensor":
        self._refuse_bounds(level)
        if self.resident == "mmap" and level.compressor == "none":
            return MappedShards(level, self.layout)
        if self.resident == "mmap" and self.store_id:
            return DecodedRows(level, self._scratch(level))
        whole = self._decoded(level)
        if self.resident == "device":
            return torch.from_numpy(whole).to(self.device)
        return DecodedRows(level, whole)

    def _decoded(self, level: Level) -> np.ndarray:
        """All of a level in memory: (groups * chunks, *chunk_shape without its 1), every checksum compared."""
        layout = self.layout
        chunks = layout.rows if level.kind == "dense" else layout.groups * layout.chunks(level)
        out = np.zeros((chunks, *level.chunk_shape), level.dtype)
        for group in self._written_groups:
            file = layout.level_file(level, group)
            data = np.frombuffer(self._read(file, hashed=self.verify == "read"), np.uint8)
            index = shards.shard_index(data, level, layout.present_chunks(level, group), layout.chunks(level))
            if index is None:
                raise self._damaged(file, "its shard index is damaged")
            first = group * layout.chunks(level)
            for i, (offset, size) in enumerate(index.tolist()):
                values = shards.decode_chunk(data, offset, size, level)
                if values is None:
                    raise self._damaged(file, f"the crc32c of chunk {i} does not match")
                out[first + i] = values
        return out[:, 0] if level.kind == "dense" else out.reshape(-1, level.width)

    def _scratch(self, level: Level) -> np.ndarray:
        """A compressed level, decoded once (in memory) into a file that all who read this store here map from
        then on.
        """
        folder = scratch_folder() / self.store_id
        file, mark = (folder / f"{level.name.replace('/', '.')}.{kind}" for kind in ("raw", "sha256"))
        rows = self.layout.rows if level.kind == "dense" else self.layout.groups * level.capacity
        size = rows * math.prod(level.shape) * np.dtype(level.dtype).itemsize
        if not size:
            return np.empty((rows, *level.shape), level.dtype)
        if not (mark.exists() and file.exists() and file.stat().st_size == size):
            fsops.make_folder(folder)
            values = self._decoded(level).reshape(-1).view(np.uint8).data
            fsops.write_file(file, values)
            fsops.write_file(mark, sha256(values).encode())  # last: it says that the file is whole
        mapped = map_file(file)
        if self.verify == "read" and sha256(mapped) != mark.read_text():
            raise DataError(f"{file}: is damaged; delete {folder} and try again")
        return mapped.view(level.dtype).reshape(rows, *level.shape)

    # --- files

    def _open(self, partial: bool) -> tuple[str, dict[str, list], list[int]]:
        """The store id ("" if unfinished), every file's recorded [size, sha256], and the row groups that are
        done.
        """
        if not (self.path / MANIFEST).exists():
            done = committed_groups(self.path, self.layout)
            if partial:
                return (
                    "",
                    {name: entry for record in done.values() for name, entry in record["files"].items()},
                    sorted(done),
                )
            rows = sum(len(self.layout.rows_of(group)) for group in done)
            raise DataError(
                f"{self.path}: {rows:,} of {len(self):,} rows are done; run the command that made it again"
            )
        faults = verification.verify(self.path) if self.verify != "none" else []
        if faults:
            more = (
                f" (and {len(faults) - 1} more; `mambavl cache verify {self.path}` lists them)"
                if faults[1:]
                else ""
            )
            raise DataError(
                f"{self.path}: {faults[0]}{more}; `mambavl cache repair {self.path}` re-opens what is bad"
            )
        manifest = read_json(self.path, MANIFEST)
        if manifest["spec_sha256"] != self.layout.spec_sha256:
            raise DataError(f"{self.path / SPEC}: is not the spec that the store was finalised with")
        return manifest["store_id"], manifest["files"], list(range(self.layout.groups))

    def _manifest_mark(self) -> tuple[int, int] | None:
        """What tells this manifest from one that takes its place."""
        if not self.store_id:
            return None
        try:
            stat = (self.path / MANIFEST).stat()
        except OSError:
            return (0, 0)
        return stat.st_ino, stat.st_mtime_ns

    def _read(self, name: str, *, hashed: bool) -> bytes:
        try:
            data = (self.path / name).read_bytes()
        except OSError as error:
            raise self._damaged(name, f"cannot be read ({error.strerror})") from None
        if hashed and sha256(data) != self._files[name][1]:
            raise self._damaged(name, "its sha256 is not the recorded one")
        return data

    def _map(self, level: Level, group: int) -> np.ndarray:
        """A shard's bytes, checked: its length always, its index unless verify="none", all of it if
        verify="read".
        """
        name = self.layout.level_file(level, group)
        present, chunks = self.layout.present_chunks(level, group), self.layout.chunks(level)
        if self._manifest_mark() != self._opened_as:
            raise DataError(f"{self.path}: was repaired or replaced since it was opened; open it again")
        try:
            data = map_file(self.path / name)
        except (OSError, ValueError) as error:
            raise self._damaged(name, f"cannot be mapped ({error})") from None
        if len(data) != shards.shard_size(level, present, chunks):
            raise self._damaged(name, f"has {len(data):,} bytes")
        if self.verify == "read" and sha256(data) != self._files[name][1]:
            raise self._damaged(name, "its sha256 is not the recorded one")
        if self.verify != "none" and shards.shard_index(data, level, present, chunks) is None:
            raise self._damaged(name, "its shard index is damaged")
        return data

    def _damaged(self, name: str, what: str) -> DataError:
        return DataError(f"{self.path / name}: {what}; run `mambavl cache verify --deep {self.path}`")

    def _hashed(self, name: str) -> bytes:
        data = (self.path / name).read_bytes()
        if sha256(data) != self.spec.sha256_of(name):
            raise DataError(
                f"{self.path / name}: was changed after extraction; its sha256 is not the one in spec.json"
            )
        return data


def open_store(
    path: Path | str,
    *,
    partial: bool = False,
    verify: Verify = "open",
    resident: Resident = "mmap",
    device: torch.device | str = "cpu",
    pin: bool = False,
) -> FeatureStore:
    """Open a finished store read-only.

    partial: open an unfinished one; rows that were never written then have status 0. verify: "open" compares
    every file's size and the manifest now, and each shard's index when it is first touched; "read" also
        compares each shard's sha256 when it is first touched, and each row's crc32c whenever it is read;
        "none" looks at a shard's size only, where it is needed to stay within the file.
    resident: "mmap" maps the shard files (a compressed store is decoded once into a scratch file, see
    `scratch_folder`); "ram"
        and "device" decode a level whole, on its first use, into memory or onto `device`, where batches are
        then put together.
    pin: batches in page-locked memory, from where a GPU fetches them without waiting. Not for forked loader
    processes.

    Raises DataError when the store is unfinished, damaged or none at all, UsageError for an unknown mode.
    """
    for name, value, known in (
        ("verify", verify, ("open", "read", "none")),
        ("resident", resident, ("mmap", "ram", "device")),
    ):
        if value not in known:
            raise UsageError(f"{name}={value!r}: there are {', '.join(known)}")
    if pin and not torch.cuda.is_available():
        raise UsageError("pin=True: page-locked memory needs a CUDA GPU")
    try:
        torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"device={device!r}: {str(error).splitlines()[0]}") from None
    return FeatureStore(path, partial=partial, verify=verify, resident=resident, device=device, pin=pin)
