"""What a run computes, written out in numpy and plain PyTorch from the documentation alone."""

import zlib

import numpy as np
import torch
from torch import Tensor

GAMMA = 0x9E3779B97F4A7C15


def splitmix(seeds, number) -> np.ndarray:
    """Output `number` (from 0) of SplitMix64 generators started at `seeds`, uint64."""
    seeds, number = np.array(seeds, np.uint64, ndmin=1), np.array(number, np.uint64, ndmin=1)
    state = seeds + (number + np.uint64(1)) * np.uint64(GAMMA)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def keys_of_rows(seed: int, epoch: int, rows: np.ndarray) -> np.ndarray:
    return splitmix(splitmix(seed, epoch), rows)


def keys_of_place(keys: np.ndarray, place: str) -> np.ndarray:
    return splitmix(keys, zlib.crc32(place.encode()))


def drop(x: Tensor, p: float, keys: np.ndarray) -> Tensor:
    """x (B, D) or (B, L, D), keys (B,): channel c of token t has quarter c % 4 of word t * ceil(D / 4) +
    c // 4; it stays where the quarter, signed, is below (1/2 - p) 2^16.
    """
    tokens, channels = (x.shape[1] if x.ndim == 3 else 1), x.shape[-1]
    t, c = np.arange(tokens)[:, None], np.arange(channels)
    words = splitmix(keys[:, None, None], t * -(-channels // 4) + c // 4)  # (B, L, D)
    quarter = (words >> (16 * (c % 4)).astype(np.uint64)).astype(np.uint16).astype(np.int16)
    kept = 65536 - round(p * 65536)
    stays = torch.from_numpy(quarter < kept - 32768).view(x.shape).to(x.dtype)
    return x * stays * (65536 / kept)
