"""Scattered rows of memory-mapped shards -> one batch: plain Python loops, and their native twin (gather.c)
where it was built.

A shard is a flat array of bytes. Rows lie in it `stride` bytes apart (the row and its checksum), tokens in
chunks of `per_chunk` that lie `stride` bytes apart. The native twin does the same copies without the
interpreter; the same install builds it where a C compiler is at hand, and nothing but time is lost where none
is.
"""

import ctypes
from functools import cache
from pathlib import Path

import numpy as np

from mambavl.cache.native import load

VERSION = 1


class Shards:
    """Flat byte arrays that lie wherever they were mapped or loaded; None where one is not there yet."""

    def __init__(self, count: int) -> None:
        self.arrays: list[np.ndarray | None] = [None] * count
        self.addresses = np.zeros(count, np.uintp)
        self.are_complete = False

    def __setitem__(self, shard: int, array: np.ndarray) -> None:
        self.arrays[shard] = array
        self.addresses[shard] = _at(array)
        self.are_complete = bool(self.addresses.all())

    def __getitem__(self, shard: int) -> np.ndarray:
        array = self.arrays[shard]
        if array is None:
            raise KeyError(f"shard {shard} is not there yet")
        return array

    def missing(self, shards: np.ndarray) -> list[int]:
        """Those of `shards` that are not there yet."""
        if self.are_complete:
            return []
        absent = self.addresses[shards] == 0
        return np.unique(shards[absent]).tolist() if absent.any() else []


def gather_rows(
    shards: Shards,
    rows_per_shard: int,
    stride: int,
    rows: np.ndarray,
    views: np.ndarray,
    out: np.ndarray,
    native: bool = True,
) -> None:
    """out (n, bytes) uint8: view `views[i]` of row `rows[i]`, both int64; every row in range and every shard
    present.
    """
    library = _library()[0] if native else None
    if library:
        library.mambavl_gather_rows(
            _at(shards.addresses),
            rows_per_shard,
            stride,
            _at(rows),
            _at(views),
            len(rows),
            out.shape[1],
            _at(out),
        )
        return
    bytes_ = out.shape[1]
    firsts = rows % rows_per_shard * stride + views * bytes_
    for i, (shard, first) in enumerate(zip((rows // rows_per_shard).tolist(), firsts.tolist(), strict=True)):
        out[i] = shards[shard][first : first + bytes_]


def gather_tokens(
    shards: Shards,
    tokens_per_shard: int,
    per_chunk: int,
    stride: int,
    starts: np.ndarray,
    lengths: np.ndarray,
    out: np.ndarray,
    native: bool = True,
) -> None:
    """out (n, longest, bytes) uint8: `lengths[i]` tokens from `starts[i]` on, zeros behind them."""
    library = _library()[0] if native else None
    if library:
        library.mambavl_gather_tokens(
            _at(shards.addresses),
            tokens_per_shard,
            per_chunk,
            stride,
            _at(starts),
            _at(lengths),
            *out.shape,
            _at(out),
        )
        return
    bytes_ = out.shape[2]
    places = (starts // tokens_per_shard).tolist(), (starts % tokens_per_shard).tolist(), lengths.tolist()
    for i, (shard, place, length) in enumerate(zip(*places, strict=True)):
        done, row = 0, out[i].reshape(-1)
        while done < length:  # a text may reach over the border of a chunk
            chunk, first = divmod(place + done, per_chunk)
            count = min(per_chunk - first, length - done)
            source = chunk * stride + first * bytes_
            row[done * bytes_ : (done + count) * bytes_] = shards[shard][source : source + count * bytes_]
            done += count
        row[length * bytes_ :] = 0


def status() -> str:
    """`ok`, or why the native gather is not used."""
    return _library()[1]


@cache
def _library() -> tuple[ctypes.CDLL | None, str]:
    library, reason = load(Path(__file__).parent, "gather", VERSION)
    if library is None:
        return None, reason
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    library.mambavl_gather_rows.argtypes = [
        pointer,
        number,
        number,
        pointer,
        pointer,
        number,
        number,
        pointer,
    ]
    library.mambavl_gather_rows.restype = None
    library.mambavl_gather_tokens.argtypes = [
        pointer,
        *[number] * 3,
        pointer,
        pointer,
        *[number] * 3,
        pointer,
    ]
    library.mambavl_gather_tokens.restype = None
    return library, "ok"


def _at(array: np.ndarray) -> int:
    if not array.flags.c_contiguous:
        raise ValueError("the native gather wants contiguous arrays")
    return array.__array_interface__["data"][0]  # .ctypes.data takes several microseconds
