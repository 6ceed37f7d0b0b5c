"""Dropout whose mask belongs to a row: a function of (seed, epoch, row, place in the head, position) alone.

A row is dropped the same on CPU and GPU, in whatever batch and process it is trained, however far its batch
is padded. No generator has a state: every 64 bits are SplitMix64's (Steele, Lea and Flood, 2014), of a key
and a counter, and each quarter of them decides about one channel. B batch, L tokens, D channels.
"""

import functools
import math
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

# SplitMix64's increment and multipliers as int64, whose arithmetic wraps as it wants it
GAMMA = 0x9E3779B97F4A7C15 - 2**64
FIRST = 0xBF58476D1CE4E5B9 - 2**64
SECOND = 0x94D049BB133111EB - 2**64
LEVELS = 2**16  # a probability is taken to the nearest of so many: four channels share one word


def row_keys(seed: int, epoch: int, rows: np.ndarray) -> Tensor:
    """(B,) int64 on the CPU: what `dropout` draws a row's masks from in one epoch."""
    return _derived(_of_epoch(seed, epoch), torch.from_numpy(rows))


@functools.lru_cache(maxsize=32)
def _of_epoch(seed: int, epoch: int) -> Tensor:
    return _derived(torch.tensor(seed), epoch)


def random_keys(count: int, device: torch.device) -> Tensor:
    """(count,) int64 from torch's global generator, for rows that have no name."""
    return torch.randint(-(2**63), 2**63 - 1, (count,), device=device)


def keys_at(keys: Tensor | None, place: str) -> Tensor | None:
    """Keys (B,) or (B, L) of one place in the head; places of other names have independent masks. None stays
    None.
    """
    return None if keys is None else _of_name(keys, place)


def keys_of_tokens(keys: Tensor, lengths: dict[str, int]) -> Tensor:
    """(B,) -> (B, L): the keys of the tokens of several streams, one after the other; lengths: stream -> its
    tokens, padding included. A token's key counts from the start of its own stream, as the padding of the one
    before it is another in another batch.
    """
    found = []
    for stream, length in lengths.items():
        found.append(_derived(_of_name(keys, stream)[:, None], torch.arange(length, device=keys.device)))
    return torch.cat(found, 1)


def dropout(x: Tensor, p: float, keys: Tensor | None) -> Tensor:
    """x (B, D) or (B, L, D) with channels set to 0 with probability p, the others scaled to keep the
    expectation. keys: one for each vector of x, (B,) or (B, L) int64; None leaves x as it is.
    """
    kept = _kept(p)
    if keys is None or kept == LEVELS:
        return x
    return (x * (LEVELS / kept)).masked_fill(_levels(keys, x.shape[-1]) >= kept - LEVELS // 2, 0.0)


def dropout_of_heads(x: Tensor, chances: Sequence[float], keys: Tensor | None) -> Tensor:
    """`dropout` of K heads side by side, x (B, K, D), each with its own of the `chances`. keys: (B,) of the
    rows, where all heads draw alike, or (B, K).
    """
    kept = torch.tensor([_kept(p) for p in chances], dtype=torch.int32)[:, None]
    if keys is None or bool((kept == LEVELS).all()):
        return x
    kept = kept.to(x.device)
    of_heads = keys[:, None] if keys.ndim == 1 else keys
    dropped = _levels(of_heads, x.shape[-1]) >= kept - LEVELS // 2
    return (x * (LEVELS / kept.double()).to(x.dtype)).masked_fill(dropped, 0.0)


def _kept(p: float) -> int:
    """Of LEVELS."""
    return LEVELS - min(round(p * LEVELS), LEVELS - 1)


def _levels(keys: Tensor, channels: int) -> Tensor:
    """(...) -> (..., channels) int16, every value as likely."""
    words = torch.arange(math.ceil(channels / 4), device=keys.device)
    return _derived(keys[..., None], words).view(torch.int16)[..., :channels]


def _of_name(keys: Tensor, name: str) -> Tensor:
    return _derived(keys, zlib.crc32(name.encode()))


def _derived(keys: Tensor, numbers: Tensor | int) -> Tensor:
    """SplitMix64's output number `numbers` for the seeds `keys`, both int64 and broadcast."""
    steps = (numbers + 1) * GAMMA
    if isinstance(steps, int):  # does not wrap by itself
        steps = (steps + 2**63) % 2**64 - 2**63
    words = keys + steps
    # `>>` keeps the sign, so what it brings in is cut
    words ^= (words >> 30) & (2**34 - 1)
    words *= FIRST
    words ^= (words >> 27) & (2**37 - 1)
    words *= SECOND
    words ^= (words >> 31) & (2**33 - 1)
    return words
