"""What goes into a scan: a stream, the options that hold for all streams of a call, and groups of channels."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 32  # steps between the states that forward keeps for backward, which computes those between anew
MAX_STATES = 256  # a channel; what the kernels have room for


class ScanInputs(NamedTuple):
    """The inputs of one scan; A is not among them, for streams share it. Shapes:
    `mambavl.fuse.scan.selective_scan`.
    """

    u: Tensor
    delta: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None = None
    z: Tensor | None = None
    delta_bias: Tensor | None = None
    lengths: Tensor | None = None
    initial_state: Tensor | None = None


class Options(NamedTuple):
    """What holds for every stream of a call."""

    softplus: bool = False
    zoh: bool = False
    pooled: bool = False


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """What the state is kept in: never less than float32."""
    return torch.promote_types(dtype, torch.float32)


def common_groups(streams: list[ScanInputs]) -> int:
    """Groups of channels within each of which all B and C are the same."""
    return math.lcm(*(x.shape[2] for s in streams for x in (s.B, s.C) if x.ndim == 4))


def expand_groups(x: Tensor, groups: int) -> Tensor:
    """B or C, (B, L, N) or (B, L, G, N), for `groups` groups: (B, L, groups, N). Constants (D, N) become (N,
    D).
    """
    if x.ndim == 2:
        return x.t()
    x = x.unsqueeze(2) if x.ndim == 3 else x
    return x if x.shape[2] == groups else x.repeat_interleave(groups // x.shape[2], 2)


def sum_groups(gradient: Tensor, like: Tensor) -> Tensor:
    """What `spread` does, backwards: the gradient of `like`."""
    if like.ndim == 2:
        return gradient.t()
    groups = like.shape[2] if like.ndim == 4 else 1
    return gradient.unflatten(2, (groups, -1)).sum(3).view(like.shape)
