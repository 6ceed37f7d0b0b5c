"""Where a level's values are: in mapped shard files, decoded in memory or in a scratch file, on a device.

    MappedShards    the shard files themselves: one map a row group, values read in place
    DecodedRows     one array for all row groups, of a compressed level or of one that is wanted in memory
    Tensor          the same array on a device, where batches are then put together (`take`)

The first two answer the same questions: `rows` for a dense level, `tokens` for a ragged one. B rows of a
batch, V views, L tokens, D numbers a token; bytes are those of the stored dtype.
"""

import ctypes
import math
import mmap
import os
import weakref
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mambavl.cache import fsops, shards
from mambavl.cache.canonical import sha256
from mambavl.cache.gather import Shards, gather_rows, gather_tokens
from mambavl.cache.layout import Layout, RowArray
from mambavl.cache.shards import Level
from mambavl.cache.spec import MANIFEST
from mambavl.configs.errors import DataError

Verify = Literal["open", "read", "none"]
Resident = Literal["mmap", "ram", "device"]


@dataclass(frozen=True)
class StoreFiles:
    """The files of an opened store, read and mapped with as many checks as `verify` asks for."""

    path: Path
    layout: Layout
    verify: Verify
    store_id: str  # "" while the store is unfinished
    entries: dict[str, list]  # file -> recorded [size, sha256]
    groups: list[int]  # row groups that are done
    # what tells the manifest from one that takes its place
    opened_as: tuple[int, int] | None = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "opened_as", self._manifest_mark())

    def read(self, name: str, *, hashed: bool) -> bytes:
        """A whole file, its sha256 compared if `hashed`. Raises DataError where it is damaged."""
        try:
            data = (self.path / name).read_bytes()
        except OSError as error:
            raise self.damaged(name, f"cannot be read ({error.strerror})") from None
        if hashed and sha256(data) != self.entries[name][1]:
            raise self.damaged(name, "its sha256 is not the recorded one")
        return data

    def row_values(self, array: RowArray) -> np.ndarray:
        """(rows, *array.shape) of a per-row array; the fill value where nothing was written."""
        fill = np.nan if array.dtype.startswith("float") else 0
        out = np.full((self.layout.rows, *array.shape), fill, array.dtype)
        for group in self.groups:
            file = self.layout.row_file(array, group)
            shape = (self.layout.rows_per_group, *array.shape)
            values = shards.decode_rows(self.read(file, hashed=True), shape, array.dtype)
            if values is None:
                raise self.damaged(file, "its crc32c does not match")
            rows = self.layout.rows_of(group)
            out[rows.start : rows.stop] = values[: len(rows)]
        out.flags.writeable = False
        return out

    def map(self, level: Level, group: int) -> np.ndarray:
        """A shard's bytes, checked: its length always, its index unless verify="none", all of it if
        verify="read".
        """
        name = self.layout.level_file(level, group)
        present, chunks = self.layout.present_chunks(level, group), self.layout.chunks(level)
        if self._manifest_mark() != self.opened_as:
            raise DataError(f"{self.path}: was repaired or replaced since it was opened; open it again")
        try:
            data = map_file(self.path / name)
        except (OSError, ValueError) as error:
            raise self.damaged(name, f"cannot be mapped ({error})") from None
        if len(data) != shards.shard_size(level, present, chunks):
            raise self.damaged(name, f"has {len(data):,} bytes")
        if self.verify == "read" and sha256(data.data) != self.entries[name][1]:
            raise self.damaged(name, "its sha256 is not the recorded one")
        if self.verify != "none" and shards.shard_index(data, level, present, chunks) is None:
            raise self.damaged(name, "its shard index is damaged")
        return data

    def damaged(self, name: str, what: str) -> DataError:
        return DataError(f"{self.path / name}: {what}; run `mambavl cache verify --deep {self.path}`")

    def _manifest_mark(self) -> tuple[int, int] | None:
        if not self.store_id:
            return None
        try:
            stat = (self.path / MANIFEST).stat()
        except OSError:
            return (0, 0)
        return stat.st_ino, stat.st_mtime_ns


class MappedShards:
    """A level in its shard files: rows, or chunks of tokens, each followed by its crc32c.

    It holds the files and not the store, so that the maps go when the store does.
    """

    def __init__(self, level: Level, files: StoreFiles) -> None:
        self.level, self.files = level, files
        self.rows_per_shard = files.layout.rows_per_group
        self.shards = Shards(files.layout.groups)
        self.stride = level.chunk_bytes + 4

    def rows(self, rows: np.ndarray, views: np.ndarray, out: np.ndarray) -> None:
        """out (B, bytes of a view) uint8: view `views[i]` of row `rows[i]`."""
        per_shard = self.rows_per_shard
        self._map(rows // per_shard)
        if self.files.verify == "read":
            self._check(rows // per_shard, rows % per_shard)
        gather_rows(self.shards, per_shard, self.stride, rows, views, out)

    def tokens(self, starts: np.ndarray, lengths: np.ndarray, out: np.ndarray) -> None:
        """out (B, L, bytes of a token) uint8: `lengths[i]` tokens from `starts[i]` on, then zeros."""
        capacity, per_chunk = self.level.capacity, shards.TOKEN_CHUNK
        self._map(starts // capacity)
        if self.files.verify == "read":
            for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
                first = start % capacity
                chunks = np.arange(first // per_chunk, -(-(first + length) // per_chunk))
                self._check(np.full(len(chunks), start // capacity), chunks)
        gather_tokens(self.shards, capacity, per_chunk, self.stride, starts, lengths, out)

    def _map(self, groups: np.ndarray) -> None:
        for group in self.shards.missing(groups):
            self.shards[group] = self.files.map(self.level, group)

    def _check(self, groups: np.ndarray, chunks: np.ndarray) -> None:
        for group, chunk in zip(groups.tolist(), chunks.tolist(), strict=True):
            if not shards.chunk_is_sound(self.shards[group], chunk * self.stride, self.stride):
                name = self.files.layout.level_file(self.level, group)
                raise self.files.damaged(name, f"the crc32c of chunk {chunk} does not match")


class DecodedRows:
    """A level as one array: dense (rows, V, ..., D), ragged (tokens, D)."""

    def __init__(self, level: Level, values: np.ndarray) -> None:
        self.count = max(len(values), 1)
        self.stride = level.chunk_bytes if level.kind == "dense" else self.count * level.chunk_bytes
        self.shards = Shards(1)
        self.shards[0] = values.reshape(-1).view(np.uint8)

    def rows(self, rows: np.ndarray, views: np.ndarray, out: np.ndarray) -> None:
        """As of MappedShards."""
        gather_rows(self.shards, self.count, self.stride, rows, views, out)

    def tokens(self, starts: np.ndarray, lengths: np.ndarray, out: np.ndarray) -> None:
        """As of MappedShards."""
        gather_tokens(self.shards, self.count, self.count, self.stride, starts, lengths, out)


Source = MappedShards | DecodedRows | Tensor


def open_source(level: Level, files: StoreFiles, resident: Resident, device: torch.device) -> Source:
    """The values of a level where `resident` wants them; nothing of a mapped level is read yet."""
    if resident == "mmap" and level.compressor == "none":
        return MappedShards(level, files)
    if resident == "mmap" and files.store_id:
        return DecodedRows(level, _scratch(level, files))
    whole = _decoded(level, files)
    if resident == "device":
        return torch.from_numpy(whole).to(device)
    return DecodedRows(level, whole)


def _decoded(level: Level, files: StoreFiles) -> np.ndarray:
    """All of a level in memory, every crc32c compared: (rows, *shape), or ragged (groups * capacity, D)."""
    layout = files.layout
    chunks = layout.rows if level.kind == "dense" else layout.groups * layout.chunks(level)
    out = np.zeros((chunks, *level.chunk_shape), level.dtype)
    for group in files.groups:
        file = layout.level_file(level, group)
        data = np.frombuffer(files.read(file, hashed=files.verify == "read"), np.uint8)
        index = shards.shard_index(data, level, layout.present_chunks(level, group), layout.chunks(level))
        if index is None:
            raise files.damaged(file, "its shard index is damaged")
        first = group * layout.chunks(level)
        for i, (offset, size) in enumerate(index.tolist()):
            values = shards.decode_chunk(data, offset, size, level)
            if values is None:
                raise files.damaged(file, f"the crc32c of chunk {i} does not match")
            out[first + i] = values
    return out[:, 0] if level.kind == "dense" else out.reshape(-1, level.width)


def _scratch(level: Level, files: StoreFiles) -> np.ndarray:
    """A compressed level, decoded once (in memory) into a file that all who read this store here
    map from then on.
    """
    layout, folder = files.layout, scratch_folder() / files.store_id
    file, mark = (folder / f"{level.name.replace('/', '.')}.{kind}" for kind in ("raw", "sha256"))
    rows = layout.rows if level.kind == "dense" else layout.groups * level.capacity
    size = rows * math.prod(level.shape) * np.dtype(level.dtype).itemsize
    if not size:
        return np.empty((rows, *level.shape), level.dtype)
    if not (mark.exists() and file.exists() and file.stat().st_size == size):
        fsops.make_folder(folder)
        values = _decoded(level, files).reshape(-1).view(np.uint8).data
        fsops.write_file(file, values)
        fsops.write_file(mark, sha256(values).encode())  # last: it says that the file is whole
    mapped = map_file(file)
    if files.verify == "read" and sha256(mapped.data) != mark.read_text():
        raise DataError(f"{file}: is damaged; delete {folder} and try again")
    return mapped.view(level.dtype).reshape(rows, *level.shape)


def take(
    values: Tensor, level: Level, rows: np.ndarray, views: np.ndarray, lengths: np.ndarray, starts: np.ndarray
) -> tuple[Tensor, Tensor]:
    """A batch of a level that lies on a device; computed there."""
    counts = torch.from_numpy(lengths).to(values.device)
    if level.kind == "dense":
        picked = values[torch.from_numpy(rows).to(values.device), torch.from_numpy(views).to(values.device)]
        tokens = picked.reshape(len(rows), level.tokens, level.width)
    else:
        places = torch.arange(int(lengths.max(initial=0)), device=values.device)
        where = torch.from_numpy(starts).to(values.device)[:, None] + places
        tokens = values[where.clamp(max=len(values) - 1)]
    beyond = torch.arange(tokens.shape[1], device=values.device) >= counts[:, None]
    return tokens.masked_fill(beyond[..., None], 0), counts


def map_file(file: Path) -> np.ndarray:
    """A file's bytes, mapped read-only and shared, with no descriptor left open.

    Patch tokens of EK100 make 11,000 shards, and Python's own mmap keeps a descriptor for each (until
    `trackfd` of 3.13). A private map, such as torch.from_file's, costs a tenth of the speed: the system
    cannot use large pages for it.
    """
    size = file.stat().st_size
    if not size:
        raise ValueError("it is empty")
    libc = _libc()
    with open(file, "rb") as opened:
        address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, opened.fileno(), 0)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "the system refused the map")
    block = (ctypes.c_ubyte * size).from_address(address)
    weakref.finalize(block, libc.munmap, address, size).atexit = False
    mapped = np.frombuffer(memoryview(block), np.uint8)
    mapped.flags.writeable = False
    return mapped


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int64,
    ]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return libc


def scratch_folder() -> Path:
    """Where compressed stores are decoded to: $MAMBAVL_SCRATCH, or a folder of the user's cache."""
    if named := os.environ.get("MAMBAVL_SCRATCH"):
        return Path(named)
    return user_cache() / "scratch"


def user_cache() -> Path:
    """Where files lie that can be made again: `mambavl` in $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mambavl"
