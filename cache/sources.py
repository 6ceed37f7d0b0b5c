"""Where a level's values are: in mapped shard files, or decoded in memory."""

import ctypes
import mmap
import os
import weakref
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mambavl.cache import shards
from mambavl.cache.gather import Shards, gather_rows, gather_tokens
from mambavl.cache.layout import Layout
from mambavl.cache.shards import Level

if TYPE_CHECKING:
    from mambavl.cache.reader import FeatureStore


class MappedShards:
    """A level in its shard files: rows, or chunks of tokens, each followed by its crc32c. It keeps no hold of
    its store, so that the maps go when the store does."""

    def __init__(self, level: Level, layout: Layout) -> None:
        self.level, self.rows_per_shard = level, layout.rows_per_group
        self.shards = Shards(layout.groups)
        self.stride = level.chunk_bytes + 4

    def rows(self, store: "FeatureStore", rows: np.ndarray, views: np.ndarray, out: np.ndarray) -> None:
        per_shard = self.rows_per_shard
        self._map(store, rows // per_shard)
        if store.verify == "read":
            self._check(store, rows // per_shard, rows % per_shard)
        gather_rows(self.shards, per_shard, self.stride, rows, views, out)

    def tokens(self, store: "FeatureStore", starts: np.ndarray, lengths: np.ndarray, out: np.ndarray) -> None:
        capacity, per_chunk = self.level.capacity, shards.TOKEN_CHUNK
        self._map(store, starts // capacity)
        if store.verify == "read":
            for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
                chunks = np.arange(
                    start % capacity // per_chunk, -(-(start % capacity + length) // per_chunk)
                )
                self._check(store, np.full(len(chunks), start // capacity), chunks)
        gather_tokens(self.shards, capacity, per_chunk, self.stride, starts, lengths, out)

    def _map(self, store: "FeatureStore", groups: np.ndarray) -> None:
        for group in self.shards.missing(groups):
            self.shards[group] = store._map(self.level, group)

    def _check(self, store: "FeatureStore", groups: np.ndarray, chunks: np.ndarray) -> None:
        for group, chunk in zip(groups.tolist(), chunks.tolist(), strict=True):
            if not shards.chunk_is_sound(self.shards.arrays[group], chunk * self.stride, self.stride):
                name = store.layout.level_file(self.level, group)
                raise store._damaged(name, f"the crc32c of chunk {chunk} does not match")


class DecodedRows:
    """A level as one array: dense (rows, V, ..., D), ragged (tokens, D)."""

    def __init__(self, level: Level, values: np.ndarray) -> None:
        self.count = max(len(values), 1)
        self.stride = level.chunk_bytes if level.kind == "dense" else self.count * level.chunk_bytes
        self.shards = Shards(1)
        self.shards[0] = values.reshape(-1).view(np.uint8)

    def rows(self, store: "FeatureStore", rows: np.ndarray, views: np.ndarray, out: np.ndarray) -> None:
        gather_rows(self.shards, self.count, self.stride, rows, views, out)

    def tokens(self, store: "FeatureStore", starts: np.ndarray, lengths: np.ndarray, out: np.ndarray) -> None:
        gather_tokens(self.shards, self.count, self.count, self.stride, starts, lengths, out)


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
    mapped = np.frombuffer(block, np.uint8)
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
    named = os.environ.get("MAMBAVL_SCRATCH")
    return (
        Path(named)
        if named
        else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mambavl" / "scratch"
    )
