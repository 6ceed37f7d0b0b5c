"""The native gather and its Python twin give the same batch, and it is the one that indexing gives."""

import ctypes

import numpy as np
import pytest

from mambavl.cache import gather
from mambavl.cache.gather import Shards, gather_rows, gather_tokens

WAYS = [
    pytest.param(False, id="python"),
    pytest.param(
        True, id="native", marks=pytest.mark.skipif(gather.status() != "ok", reason=gather.status())
    ),
]


def laid_out(values: np.ndarray, per_shard: int, gap: int = 4) -> Shards:
    """(items, bytes) -> shards in which every item is followed by `gap` bytes of nothing."""
    shards = Shards(-(-len(values) // per_shard))
    for shard in range(len(shards.arrays)):
        part = values[shard * per_shard : (shard + 1) * per_shard]
        shards[shard] = np.concatenate([part, np.full((len(part), gap), 255, np.uint8)], 1).reshape(-1)
    return shards


@pytest.mark.parametrize("native", WAYS)
@pytest.mark.parametrize("bytes_", [1, 6, 4096])
@pytest.mark.parametrize("views", [1, 3])
def test_rows_are_those_that_indexing_gives(native, bytes_, views):
    rng = np.random.default_rng(bytes_)
    values = rng.integers(0, 256, (50, views, bytes_), np.uint8)
    shards = laid_out(values.reshape(50, -1), per_shard=8)
    rows, view = rng.integers(0, 50, 33), rng.integers(0, views, 33)
    out = np.zeros((33, bytes_), np.uint8)
    gather_rows(shards, 8, views * bytes_ + 4, rows, view, out, native)
    np.testing.assert_array_equal(out, values[rows, view])


@pytest.mark.parametrize("native", WAYS)
@pytest.mark.parametrize("bytes_", [2, 96])
def test_tokens_may_cross_chunks_and_the_rest_is_zero(native, bytes_):
    rng = np.random.default_rng(bytes_)
    per_chunk, per_shard = 4, 20
    tokens = rng.integers(1, 256, (60, bytes_), np.uint8)
    shards = laid_out(tokens.reshape(-1, per_chunk * bytes_), per_shard=per_shard // per_chunk)
    starts = np.array([0, 3, 19, 20, 41, 59, 25, 0])
    lengths = np.array([20, 9, 1, 13, 0, 1, 15, 0])
    out = np.full((8, 20, bytes_), 7, np.uint8)
    gather_tokens(shards, per_shard, per_chunk, per_chunk * bytes_ + 4, starts, lengths, out, native)
    for found, start, length in zip(out, starts, lengths, strict=True):
        np.testing.assert_array_equal(found[:length], tokens[start : start + length])
        assert not found[length:].any()


@pytest.mark.parametrize("native", WAYS)
def test_an_empty_batch_is_empty(native):
    shards = laid_out(np.zeros((4, 8), np.uint8), per_shard=4)
    none = np.empty(0, np.int64)
    gather_rows(shards, 4, 12, none, none, np.empty((0, 8), np.uint8), native)
    gather_tokens(shards, 4, 4, 12, none, none, np.empty((0, 0, 8), np.uint8), native)


def test_a_library_of_another_version_is_not_used(monkeypatch):
    class Old:
        def mambavl_gather_version(self):
            return gather.VERSION - 1

    monkeypatch.setattr(ctypes, "CDLL", lambda path: Old())
    monkeypatch.setattr(gather.Path, "exists", lambda self: True)
    gather._library.cache_clear()
    try:
        assert "another version" in gather.status()
    finally:
        gather._library.cache_clear()
