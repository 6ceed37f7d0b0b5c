"""Reading a feature store: random batches straight from the memory-mapped shard files of the Zarr archive.

The shards are uncompressed and laid row by row (shards.encode_shard), so a row is at a known offset and
zarr's Python path, hundreds of times slower on random rows, is never taken. Compressed stores, and those
wanted in memory, are decoded once; `sources` knows where the values of a level are.
"""

from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from mambavl.cache import verify as verification
from mambavl.cache.canonical import sha256
from mambavl.cache.classes import Classes
from mambavl.cache.layout import Layout, committed_groups
from mambavl.cache.rows import OK, STATUS, Segment, read_segments
from mambavl.cache.shards import Level
from mambavl.cache.sources import Resident, Source, StoreFiles, Verify, open_source, take
from mambavl.cache.spec import CLASSES, MANIFEST, SEGMENTS, SPEC, Spec, read_json, read_spec
from mambavl.configs.errors import DataError, UsageError


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
        self._files = _open_files(self.path, self.layout, verify, partial)
        self.store_id = self._files.store_id  # "" if unfinished
        self._sources: dict[str, Source] = {}
        self._row_arrays: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return self.layout.rows

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__ | {"_sources": {}, "_row_arrays": {}}
        for cached in ("segments", "classes", "failures", "_all_ok"):
            state.pop(cached, None)
        return state

    @property
    def done_groups(self) -> int:
        """Row groups that are written; of a finished store all."""
        return len(self._files.groups)

    def level(self, name: str) -> Level:
        """Raises UsageError, naming the store and its levels, for another level."""
        try:
            return self.layout.level(name)
        except UsageError as error:
            raise UsageError(f"{self.path}: {error}") from None

    @property
    def levels(self) -> dict[str, Level]:
        return {level.name: level for level in self.layout.levels}

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """One record a row, in row order."""
        return read_segments(_hashed(self.path, SEGMENTS, self.spec))

    @cached_property
    def classes(self) -> Classes:
        return Classes.from_json(_hashed(self.path, CLASSES, self.spec))

    @cached_property
    def failures(self) -> list[list[Any]]:
        """[narration_id, status, reason] of the rows without features."""
        if self.store_id:
            return read_json(self.path, MANIFEST)["failures"]
        done = committed_groups(self.path, self.layout)
        return sorted(failure for record in done.values() for failure in record["failures"])

    @property
    def status(self) -> np.ndarray:
        """(rows,) uint8; 1 is ok, the rest is named in rows.STATUS."""
        return self.row_array("status")

    def row_array(self, name: str) -> np.ndarray:
        """A whole per-row array: `status`, `flags`, `length`, `start`, `frame_pts`; the fill value where
        nothing was written. Raises UsageError for an array that the store does not have.
        """
        if name not in self._row_arrays:
            arrays = {array.name: array for array in self.layout.row_arrays}
            if name not in arrays:
                raise UsageError(f"there is no array {name!r}; there are {', '.join(arrays)}")
            self._row_arrays[name] = self._files.row_values(arrays[name])
        return self._row_arrays[name]

    def batch(self, rows: ArrayLike, level: str, *, view: ArrayLike = 0) -> tuple[Tensor, Tensor]:
        """Features of some rows, in the order given: numbers, or a mask over all rows. view: of a dense
        level, one or one a row.

        Returns (tokens (B, L, D) in the stored dtype, lengths (B,) int64), zeros from each length on. Dense:
        L tokens, grids flattened row by row. Ragged: padded to the longest of the batch. Raises DataError for
        a row whose status is not ok, or (with verify="read") whose bytes are damaged, IndexError for a row
        that is not there.
        """
        found, rows = self.level(level), self._row_numbers(rows)
        self._refuse_rows_without_features(rows)
        views = self._views(found, view, len(rows))
        lengths = self._lengths(found, rows)
        source = self._source(found)
        if isinstance(source, Tensor):
            return take(source, found, rows, views, lengths, self._starts(found, rows))
        longest = found.tokens if found.kind == "dense" else int(lengths.max(initial=0))
        tokens = self._empty((len(rows), longest, found.width), found.dtype)
        out = tokens.numpy().view(np.uint8)
        if found.kind == "dense":
            source.rows(rows, views, out.reshape(len(rows), found.chunk_bytes // found.views))
            if len(rows) and lengths.min() < longest:  # the fill value is NaN, and padding must be harmless
                tokens[torch.from_numpy(np.arange(longest) >= lengths[:, None])] = 0
        else:
            source.tokens(self._starts(found, rows), lengths, out)
        return tokens, torch.from_numpy(lengths)

    def lengths(self, rows: ArrayLike, level: str) -> np.ndarray:
        """(B,) int64: valid tokens of some rows at a level, without reading them."""
        return self._lengths(self.level(level), self._row_numbers(rows))

    def _source(self, level: Level) -> Source:
        if level.name not in self._sources:
            self._refuse_bounds(level)
            self._sources[level.name] = open_source(level, self._files, self.resident, self.device)
        return self._sources[level.name]

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

    def _views(self, level: Level, view: ArrayLike, count: int) -> np.ndarray:
        """(B,) int64."""
        views = np.zeros(count, np.int64)
        views[:] = np.asarray(view).astype(np.int64, casting="same_kind") if count else 0
        if count and not 0 <= views.min() <= views.max() < level.views:
            raise UsageError(
                f"{self.path}: level {level.name} has {level.views} views; asked for {np.asarray(view)}"
            )
        return views

    def _lengths(self, level: Level, rows: np.ndarray) -> np.ndarray:
        return level.valid_tokens(self.row_array(level.sibling("length"))[rows].astype(np.int64))

    def _row_numbers(self, rows: ArrayLike) -> np.ndarray:
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
            self.row_array(level.sibling("length"))[rows] > 0, self.row_array(level.sibling("start"))[rows], 0
        )

    def _refuse_bounds(self, level: Level) -> None:
        """Before anything is copied by address: do `length` (and `start`) stay within the level?"""
        lengths = self.row_array(level.sibling("length")).astype(np.int64)
        most = self.layout.longest(level)
        fits = (lengths >= 0).all() and (most is None or (lengths <= most).all())
        if level.kind == "ragged" and fits:
            starts = self.row_array(level.sibling("start"))
            group = np.arange(len(self)) // self.layout.rows_per_group * level.capacity
            fits = ((lengths == 0) | ((starts >= group) & (starts + lengths <= group + level.capacity))).all()
        if not fits:
            raise DataError(
                f"{self.path}: the lengths of level {level.name} reach beyond it; "
                "run `mambavl cache verify --deep`"
            )


def _open_files(path: Path, layout: Layout, verify: Verify, partial: bool) -> StoreFiles:
    """Every file's recorded size and sha256, and which row groups are done; checked as `open_store` says."""
    if not (path / MANIFEST).exists():
        done = committed_groups(path, layout)
        if not partial:
            rows = sum(len(layout.rows_of(group)) for group in done)
            raise DataError(
                f"{path}: {rows:,} of {layout.rows:,} rows are done; run again the command that made it"
            )
        entries = {name: entry for record in done.values() for name, entry in record["files"].items()}
        return StoreFiles(path, layout, verify, "", entries, sorted(done))
    if verify != "none" and (faults := verification.verify(path)):
        more = (
            f" (and {len(faults) - 1} more; `mambavl cache verify {path}` lists them)" if faults[1:] else ""
        )
        raise DataError(f"{path}: {faults[0]}{more}; `mambavl cache repair {path}` re-opens what is bad")
    manifest = read_json(path, MANIFEST)
    if manifest["spec_sha256"] != layout.spec_sha256:
        raise DataError(f"{path / SPEC}: is not the spec that the store was finalised with")
    groups = list(range(layout.groups))
    return StoreFiles(path, layout, verify, manifest["store_id"], manifest["files"], groups)


def _hashed(path: Path, name: str, spec: Spec) -> bytes:
    """segments.csv or classes.json. Raises DataError where it is not the one that the spec names."""
    data = (path / name).read_bytes()
    if sha256(data) != spec.sha256_of(name):
        raise DataError(
            f"{path / name}: was changed after extraction; its sha256 is not the one in spec.json"
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

    partial: open an unfinished one; rows that were never written then have status 0.
    verify: "open" compares every file's size and the manifest now, and each shard's index when it is first
        touched; "read" also compares each shard's sha256 when it is first touched, and each row's crc32c
        whenever it is read; "none" looks at a shard's size only, where it is needed to stay within the file.
    resident: "mmap" maps the shard files (a compressed store is decoded once into a scratch file, see
        `sources.scratch_folder`); "ram" and "device" decode a level whole, on its first use, into memory or
        onto `device`, where batches are then put together.
    pin: batches in page-locked memory, from where a GPU fetches them without waiting. Not for forked loader
        processes.

    Raises DataError when the store is unfinished, damaged or none at all, UsageError for an unknown mode.
    """
    for name, value, known in (
        ("verify", verify, get_args(Verify)),
        ("resident", resident, get_args(Resident)),
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
