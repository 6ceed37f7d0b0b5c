"""What a feature store looks like on disk: rows, levels, spec, Zarr metadata, shard bytes.

    STORE/
      zarr.json                    a plain Zarr v3 group: any Zarr reader opens it
      spec.json                    the recipe that made it, whole; its hash names the store's kind
      segments.csv  classes.json   rows in canonical order, labels, class names, tail and unseen lists
      <level>/c.G.0...             features: one shard a row group G, one inner chunk a row, crc32c each
      status/ flags/ frame_pts/    per row, one chunk a row group; `length` (and `start`) next to their level
      commit/*.journal             one record a finished row group, written last
      commit/seal.json             after `finalize`: size and sha256 of the journals and of environment.json
      manifest.json                after `finalize`, last: every other file's size and sha256, the store id

A level's files lie side by side in one folder (separator "." in their keys), which saves a row group a dozen
folders and fsyncs.

R rows make a row group, the unit of work and of loss. A dense level has one shape for all rows, (V, T, D)
say. A ragged level (text) has values (tokens, D): row r owns `length[r]` tokens from `start[r]`; every row
group begins at a fixed capacity, so that its shard can be written without knowing the others.
"""

import functools
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import google_crc32c
import numpy as np

from mambavl.cache.canonical import pretty_json

TOKEN_CHUNK = 64  # tokens in one inner chunk of a ragged level


SHARD_BYTES = 16 * 2**20  # what a row group aims at, for its largest level


MIN_ROWS, MAX_ROWS = 8, 512


ZSTD_LEVEL = 3


@dataclass(frozen=True)
class Level:
    """One array of features. `shape` is a row's: dense (V, D), (V, T, D), (V, T, g, g, D); ragged (D,), one
    token.
    """

    name: str  # `frame`, `verb_question/last_hidden`
    kind: Literal["dense", "ragged"]
    shape: tuple[int, ...]
    dtype: Literal["float16", "float32"] = "float16"
    steps: int = 0  # dense: time steps that the row's tokens divide into (T); 0 where a row is one vector
    capacity: int = 0  # ragged: tokens a row group has room for, a multiple of TOKEN_CHUNK
    # zstd is for archives: 3-8 % of space, and no reading in place
    compressor: Literal["none", "zstd"] = "none"

    def __post_init__(self) -> None:
        """Raises ValueError for what cannot be a level: specs come from files."""
        sizes = (*self.shape, self.steps, self.capacity)
        fits = (
            type(self.name) is str
            and self.kind in ("dense", "ragged")
            and self.dtype in ("float16", "float32")
            and self.compressor in ("none", "zstd")
        )
        fits = fits and all(type(size) is int and size >= 0 for size in sizes) and 0 not in self.shape
        if self.kind == "dense":
            fits = (
                fits
                and len(self.shape) >= 2
                and self.capacity == 0
                and (not self.steps or self.tokens % self.steps == 0)
            )
        else:
            fits = fits and len(self.shape) == 1 and self.capacity > 0 and self.capacity % TOKEN_CHUNK == 0
        if not fits:
            raise ValueError(f"there is no such level: {asdict(self)}")

    @property
    def views(self) -> int:
        return self.shape[0] if self.kind == "dense" else 1

    @property
    def tokens(self) -> int:
        """Dense: tokens of a row and view, (T, g, g) counted together."""
        return math.prod(self.shape[1:-1])

    def valid_tokens(self, lengths: np.ndarray) -> np.ndarray:
        """(B,) `length` of some rows, which all levels of a group share -> (B,) valid tokens of this one. Of
        a level of fewer steps than its row, such as what is predicted to follow, all are.
        """
        if self.kind == "ragged":
            return lengths
        return np.minimum(lengths, self.steps or 1) * (self.tokens // (self.steps or self.tokens))

    @property
    def width(self) -> int:
        return self.shape[-1]

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """An inner chunk: one row, or TOKEN_CHUNK tokens."""
        return (1, *self.shape) if self.kind == "dense" else (TOKEN_CHUNK, *self.shape)

    @property
    def chunk_bytes(self) -> int:
        return math.prod(self.chunk_shape) * np.dtype(self.dtype).itemsize

    def chunks(self, rows_per_group: int) -> int:
        """Inner chunks in one shard."""
        return rows_per_group if self.kind == "dense" else self.capacity // TOKEN_CHUNK

    def sibling(self, array: str) -> str:
        """The name of a per-row array that stands in the same Zarr group (`length`, `start`)."""
        parent = self.name.rpartition("/")[0]
        return f"{parent}/{array}" if parent else array

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "shape": list(self.shape)}

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> "Level":
        """Raises ValueError for what describes no level."""
        if raw.keys() != {field.name for field in fields(cls)} or not isinstance(raw["shape"], list):
            raise ValueError(f"there is no such level: {raw}")
        return cls(**{**raw, "shape": tuple(raw["shape"])})


def rows_per_group(row_bytes: float) -> int:
    """The power of two from 8 to 512 that brings a shard nearest to 16 MiB; `row_bytes` is a row's of the
    largest level.
    """
    wanted = 2 ** round(math.log2(SHARD_BYTES / max(row_bytes, 1)))
    return min(max(wanted, MIN_ROWS), MAX_ROWS)


def token_capacity(lengths: np.ndarray, group_rows: int) -> int:
    """Tokens that the largest row group of a ragged level holds, in whole chunks. lengths (rows,): tokens of
    each row.
    """
    largest = max(lengths[first : first + group_rows].sum() for first in range(0, len(lengths), group_rows))
    chunks = max(1, -(-int(largest) // TOKEN_CHUNK))
    return chunks * TOKEN_CHUNK


_CRC = {"name": "crc32c"}


_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}


_ZSTD = {"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": False}}


def group_metadata(attributes: dict[str, Any], inside: Mapping[str, bytes] | None = None) -> bytes:
    """zarr.json of a group. inside: name -> zarr.json of all that it holds, for readers that take them from
    here (zarr-python's consolidated metadata).
    """
    found: dict[str, Any] = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    if inside is not None:
        metadata = {name: json.loads(data) for name, data in sorted(inside.items())}
        found["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": metadata}
    return pretty_json(found)


@functools.lru_cache(maxsize=64)  # the same few for every store of a run
def level_metadata(level: Level, rows: int, group_rows: int, *, named: bool = True) -> bytes:
    """zarr.json of a level: shard = row group, inner chunk = one row (or 64 tokens), each with its crc32c.
    named: its axes have names; those of older stores have none.
    """
    groups = math.ceil(rows / group_rows)
    length = rows if level.kind == "dense" else groups * level.capacity
    shard_length = group_rows if level.kind == "dense" else level.capacity
    sharding = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": list(level.chunk_shape),
            "codecs": [_BYTES, _CRC] if level.compressor == "none" else [_BYTES, _ZSTD, _CRC],
            "index_codecs": [_BYTES, _CRC],
            "index_location": "end",
        },
    }
    names = _axes(level) if named else None
    return _array_metadata(
        (length, *level.shape), (shard_length, *level.shape), level.dtype, "NaN", [sharding], names
    )


@functools.lru_cache(maxsize=64)
def row_array_metadata(
    shape: tuple[int, ...], dtype: str, rows: int, group_rows: int, *, named: bool = True
) -> bytes:
    """zarr.json of a per-row array (status, flags, length, start, frame_pts): one chunk a row group."""
    fill: Any = "NaN" if dtype.startswith("float") else 0
    codecs = [{"name": "bytes"} if dtype == "uint8" else _BYTES, _CRC]
    names = ["row", "pts_view", "pts_step"][: 1 + len(shape)] if named else None
    return _array_metadata((rows, *shape), (group_rows, *shape), dtype, fill, codecs, names)


def _axes(level: Level) -> list[str]:
    """Names of a level's axes, without which xarray opens no array. In one folder a name stands for one size,
    so all but the rows' begin with the level's own.
    """
    name = level.name.rpartition("/")[2]
    if level.kind == "ragged":
        return [f"{name}_token", f"{name}_channel"]
    inner = ["step", "y", "x"] if len(level.shape) == 5 else ["step"]
    used = ["row", "view", *inner[: len(level.shape) - 2], "channel"]
    return [used[0], *(f"{name}_{axis}" for axis in used[1:])]


def _array_metadata(
    shape: tuple, chunk: tuple, dtype: str, fill: Any, codecs: list[dict], names: list[str] | None
) -> bytes:
    return pretty_json(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(shape),
            "data_type": dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "fill_value": fill,
            "codecs": codecs,
            "attributes": {},
            **({"dimension_names": names} if names else {}),
        }
    )


def chunk_key(array: str, ndim: int, group: int) -> str:
    """The file of row group `group`: all axes but the first have a single chunk."""
    return f"{array}/" + ".".join(["c", str(group), *["0"] * (ndim - 1)])


_ABSENT = 2**64 - 1  # the shard index's mark for a chunk that does not exist (rows past the end of the array)


def encode_shard(values: np.ndarray, level: Level, chunks: int) -> memoryview:
    """A whole shard, always the same bytes for the same values (and, if compressed, the same zstd).

    values: (rows <= chunks, *shape) of a dense level, or (capacity, D) of a ragged one, in the level's dtype.
    Rows lie one after another, each followed by its crc32c; then the index (offset, size) and the index's own
    crc32c.
    """
    flat = np.ascontiguousarray(values, dtype=np.dtype(level.dtype).newbyteorder("<")).reshape(-1)
    rows = flat.view(np.uint8).reshape(-1, level.chunk_bytes)
    parts = rows if level.compressor == "none" else [_zstd().encode(row) for row in rows]
    sizes = np.array([len(part) + 4 for part in parts], np.uint64)
    index = np.full((chunks, 2), _ABSENT, "<u8")
    index[: len(rows)] = np.stack([np.cumsum(sizes) - sizes, sizes], 1)
    tail = index.tobytes()
    out = np.empty(int(sizes.sum()) + len(tail) + 4, np.uint8)
    for (offset, size), part in zip(index.tolist(), parts, strict=False):
        out[offset : offset + size - 4] = (
            part if level.compressor == "none" else np.frombuffer(part, np.uint8)
        )
        out[offset + size - 4 : offset + size] = np.frombuffer(
            struct.pack("<I", google_crc32c.value(part)), np.uint8
        )
    out[-len(tail) - 4 :] = np.frombuffer(tail + struct.pack("<I", google_crc32c.value(tail)), np.uint8)
    return out.data


def shard_size(level: Level, present: int, chunks: int) -> int | None:
    """Bytes of a shard in which the first `present` of `chunks` inner chunks exist; None where they are
    compressed.
    """
    return present * (level.chunk_bytes + 4) + chunks * 16 + 4 if level.compressor == "none" else None


def shard_index(data: np.ndarray, level: Level, present: int, chunks: int) -> np.ndarray | None:
    """(present, 2) int64 offset and size of the chunks of a shard (uint8); None where the index is damaged or
    not ours.
    """
    end = len(data) - chunks * 16 - 4
    if end < 0:
        return None
    tail = data[end:-4]
    if google_crc32c.value(tail) != int.from_bytes(data[-4:].tobytes(), "little"):
        return None
    index = np.frombuffer(tail.tobytes(), "<u8").reshape(chunks, 2)
    sizes = index[:present, 1].astype(np.int64)
    in_order = (
        index[:present, 0] == (np.cumsum(sizes) - sizes).astype(np.uint64)
    ).all() and sizes.sum() == end
    fixed = level.compressor != "none" or (sizes == level.chunk_bytes + 4).all()
    return (
        index[:present].astype(np.int64)
        if in_order and fixed and (index[present:] == _ABSENT).all()
        else None
    )


def chunk_is_sound(data: np.ndarray, offset: int, size: int) -> bool:
    """Whether the crc32c behind a chunk of a shard (uint8) is that of its bytes."""
    found = int.from_bytes(data[offset + size - 4 : offset + size].tobytes(), "little")
    return google_crc32c.value(data[offset : offset + size - 4]) == found


def decode_chunk(data: np.ndarray, offset: int, size: int, level: Level) -> np.ndarray | None:
    """The values of one chunk, `level.chunk_shape`; None when its checksum or its length is wrong."""
    if not chunk_is_sound(data, offset, size):
        return None
    raw = data[offset : offset + size - 4]
    if level.compressor == "zstd":
        raw = np.frombuffer(_zstd().decode(raw), np.uint8)
    if len(raw) != level.chunk_bytes:
        return None
    return raw.view(np.dtype(level.dtype).newbyteorder("<")).reshape(level.chunk_shape)


def _zstd() -> Any:
    from numcodecs.zstd import Zstd  # comes with zarr

    return Zstd(level=ZSTD_LEVEL)


def encode_rows(values: np.ndarray, group_rows: int, dtype: str) -> bytes:
    """One chunk of a per-row array: padded to a whole row group with the fill value, then crc32c."""
    little = np.dtype(dtype).newbyteorder("<")
    fill = np.nan if dtype.startswith("float") else 0
    padded = np.full((group_rows, *values.shape[1:]), fill, little)
    padded[: len(values)] = values
    data = padded.tobytes()
    return data + struct.pack("<I", google_crc32c.value(data))


def decode_rows(data: bytes, shape: tuple[int, ...], dtype: str) -> np.ndarray | None:
    """The values of `encode_rows`, padding included; None when the size or the checksum does not fit."""
    little = np.dtype(dtype).newbyteorder("<")
    if len(data) != math.prod(shape) * little.itemsize + 4:
        return None
    if google_crc32c.value(data[:-4]) != struct.unpack("<I", data[-4:])[0]:
        return None
    return np.frombuffer(data[:-4], little).reshape(shape)
