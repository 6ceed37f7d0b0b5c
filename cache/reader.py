"""Reading a feature store: random batches straight from the memory-mapped shard files of the Zarr archive.

The shards are uncompressed and laid row by row (schema.encode_shard), so a row is at a known offset and zarr's Python path,
hundreds of times slower on random rows, is never taken. A shard's size and index are checked once, when it is first mapped.
"""

import hashlib
import math
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mambavl.cache import schema, store
from mambavl.cache.schema import Classes, Level, Segment
from mambavl.cache.store import Layout
from mambavl.configs.errors import DataError


class FeatureStore:
    """A store opened read-only. Safe to pickle and to use after a fork: maps are opened on first use in each process.

    `partial` opens an unfinished store; rows that were never written then have status 0.
    """

    def __init__(self, path: Path | str, *, partial: bool = False) -> None:
        self.path = Path(path)
        self.spec: dict[str, Any] = store.read_spec(self.path)
        self.layout = Layout.from_spec(self.spec)
        self.store_id = self._check(partial)
        self._maps: dict[tuple[str, int], np.ndarray] = {}

    def __len__(self) -> int:
        return self.layout.rows

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}

    @property
    def levels(self) -> dict[str, Level]:
        return {level.name: level for level in self.layout.levels}

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """One record a row, in row order."""
        return schema.read_segments(self._hashed(store.SEGMENTS))

    @cached_property
    def classes(self) -> Classes:
        return Classes.from_json(self._hashed(store.CLASSES))

    @cached_property
    def status(self) -> np.ndarray:
        """(rows,) uint8; 1 is ok, the rest is named in schema.STATUS."""
        return self.row_array("status")

    def row_array(self, name: str) -> np.ndarray:
        """A whole per-row array: `status`, `flags`, `length`, `start`, `frame_pts`; the fill value where nothing was written."""
        array = next(a for a in self.layout.row_arrays if a.name == name)
        fill = np.nan if array.dtype.startswith("float") else 0
        out = np.full((self.layout.rows, *array.shape), fill, array.dtype)
        for group in self._written_groups:
            file = self.path / self.layout.row_file(array, group)
            values = schema.decode_rows(file.read_bytes(), (self.layout.rows_per_group, *array.shape), array.dtype)
            if values is None:
                raise DataError(f"{file}: is damaged; run `mambavl cache verify --deep {self.path}`")
            rows = self.layout.rows_of(group)
            out[rows.start : rows.stop] = values[: len(rows)]
        return out

    def batch(self, rows: Any, level: str, *, view: int = 0) -> tuple[Tensor, Tensor]:
        """Features of some rows, in the order given.

        Returns (tokens (B, L, D) in the stored dtype, lengths (B,) int64), zeros from each length on. Dense: L tokens, grids
        flattened row by row. Ragged: padded to the longest of the batch. Raises DataError for a row whose status is not ok.
        """
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        spec = self.layout.level(level)
        bad = rows[self.status[rows] != schema.OK]
        if len(bad):
            first, reason = self.segments[bad[0]].narration_id, schema.STATUS[int(self.status[bad[0]])]
            raise DataError(f"{self.path}: row {first} has no features ({reason}); {len(bad)} such rows were asked for")
        lengths = self._lengths(spec, rows)
        tokens = self._dense(rows, spec, view, lengths) if spec.kind == "dense" else self._ragged(rows, spec, lengths)
        return torch.from_numpy(tokens), torch.from_numpy(lengths)

    def _lengths(self, level: Level, rows: np.ndarray) -> np.ndarray:
        """(B,) int64: valid tokens of some rows at this level."""
        steps = self._row_array(level.beside("length"))[rows].astype(np.int64)
        if level.kind == "ragged":
            return steps
        if level.steps == 0:
            return np.minimum(steps, 1)
        return steps * (math.prod(level.shape[1:-1]) // level.steps)

    def _row_array(self, name: str) -> np.ndarray:
        cache = self.__dict__.setdefault("_row_arrays", {})
        if name not in cache:
            cache[name] = self.row_array(name)
        return cache[name]

    def _dense(self, rows: np.ndarray, level: Level, view: int, lengths: np.ndarray) -> np.ndarray:
        tokens = math.prod(level.shape[1:-1])  # shape is (V, ..., D)
        out = np.empty((len(rows), tokens, level.width), level.dtype)
        groups, local = np.divmod(rows, self.layout.rows_per_group)
        for group in np.unique(groups):
            here = groups == group
            out[here] = self._map(level, int(group))[local[here], view]
        if (lengths < tokens).any():
            out[np.arange(tokens) >= lengths[:, None]] = 0  # the fill value is NaN, and padding must be harmless
        return out

    def _ragged(self, rows: np.ndarray, level: Level, lengths: np.ndarray) -> np.ndarray:
        out = np.zeros((len(rows), int(lengths.max(initial=0)), level.width), level.dtype)
        groups, places = np.divmod(self._row_array(level.beside("start"))[rows], level.capacity)
        for i, (group, place, length) in enumerate(zip(groups.tolist(), places.tolist(), lengths.tolist(), strict=True)):
            done = 0
            while done < length:  # a text may reach over the border of a token chunk
                chunk, first = divmod(place + done, schema.TOKEN_CHUNK)
                count = min(schema.TOKEN_CHUNK - first, length - done)
                out[i, done : done + count] = self._map(level, group)[chunk, first : first + count]
                done += count
        return out

    def _map(self, level: Level, group: int) -> np.ndarray:
        """A shard as an array: dense (rows, V, tokens, D), ragged (chunks, 64, D), the checksums between rows left out."""
        key = (level.name, group)
        if key not in self._maps:
            file = self.path / self.layout.level_file(level, group)
            present, chunks = self.layout.present_chunks(level, group), level.chunks(self.layout.rows_per_group)
            try:
                data = np.memmap(file, np.uint8, mode="r")
            except (OSError, ValueError) as error:
                raise DataError(f"{file}: cannot be mapped ({error}); run `mambavl cache verify {self.path}`") from None
            if not schema.shard_is_dense(memoryview(data), level, present, chunks):
                raise DataError(f"{file}: its shard index is damaged; run `mambavl cache verify --deep {self.path}`")
            inner = (
                (level.shape[0], math.prod(level.shape[1:-1]), level.width)
                if level.kind == "dense"
                else (schema.TOKEN_CHUNK, level.width)
            )
            dtype = np.dtype(level.dtype).newbyteorder("<")
            strides = np.empty(inner, dtype).strides if math.prod(inner) else (0,) * len(inner)
            self._maps[key] = np.ndarray((present, *inner), dtype, data, 0, (level.chunk_bytes + 4, *strides))
        return self._maps[key]

    @cached_property
    def _written_groups(self) -> list[int]:
        if self.store_id:
            return list(range(self.layout.groups))
        return sorted(store.committed_groups(self.path, self.layout))

    def _check(self, partial: bool) -> str:
        """The store id of a finalised store whose files all have their recorded length."""
        if not (self.path / store.MANIFEST).exists():
            if partial:
                return ""
            done = store.committed_groups(self.path, self.layout)
            rows = sum(len(self.layout.rows_of(group)) for group in done)
            raise DataError(
                f"{self.path}: {rows:,} of {len(self):,} rows are done; finish with the same `mambavl extract` command"
            )
        faults = store.verify(self.path)
        if faults:
            more = f" (and {len(faults) - 1} more; `mambavl cache verify {self.path}` lists them)" if faults[1:] else ""
            raise DataError(f"{self.path}: {faults[0]}{more}")
        return store.read_json(self.path, store.MANIFEST)["store_id"]

    def _hashed(self, name: str) -> bytes:
        data = (self.path / name).read_bytes()
        if hashlib.sha256(data).hexdigest() != self.spec[f"{name.partition('.')[0]}_sha256"]:
            raise DataError(f"{self.path / name}: was changed after extraction; its sha256 is not the one in spec.json")
        return data


def open_store(path: Path | str, *, partial: bool = False) -> FeatureStore:
    """Open a finished store read-only. Raises DataError when it is unfinished (unless `partial`), damaged or no store."""
    return FeatureStore(path, partial=partial)
