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


def keys_of_tokens(keys: np.ndarray, stream: str, length: int) -> np.ndarray:
    return splitmix(keys_of_place(keys, stream)[:, None], np.arange(length))


def drop(x: Tensor, p: float, keys: np.ndarray) -> Tensor:
    """x (..., D), keys (...): channel c has quarter c % 4 of word c // 4 of its key; it stays where the
    quarter, signed, is below (1/2 - p) 2^16.
    """
    c = np.arange(x.shape[-1])
    quarter = (splitmix(keys[..., None], c // 4) >> (16 * (c % 4)).astype(np.uint64)).astype(np.uint16)
    kept = 65536 - round(p * 65536)
    stays = torch.from_numpy(quarter.astype(np.int16) < kept - 32768).to(x.dtype)
    return x * stays * (65536 / kept)
