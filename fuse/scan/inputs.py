"""What goes into a scan: the inputs of one stream, options for all streams of a call, groups of channels."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 32  # steps between the states that forward keeps for backward, which computes those between again
MAX_STATES = 256  # a channel; what the kernels have room for


class ScanInputs(NamedTuple):
    """The inputs of one stream's scan. A is not among them, because streams share it."""

    u: Tensor  # (B, L, D)
    delta: Tensor  # (B, L, D)
    B: Tensor  # (B, L, N), (B, L, G, N) or constant (D, N)
    C: Tensor  # as B
    D: Tensor | None = None  # (D,)
    z: Tensor | None = None  # (B, L, D)
    delta_bias: Tensor | None = None  # (D,)
    lengths: Tensor | None = None  # (B,): the steps of each row that are not padding
    initial_state: Tensor | None = None  # (B, D, N)


class Options(NamedTuple):
    """What holds for every stream of a call."""

    softplus: bool = False  # delta is softplus(delta + delta_bias)
    zoh: bool = False  # exact zero-order hold for B (eq. 2) in place of delta B
    pooled: bool = False  # the mean of y over each row's steps in place of y
    state: bool = False  # the last state is asked for: as many numbers as N steps have


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """What the state is kept in: never less than float32."""
    return torch.promote_types(dtype, torch.float32)


def common_groups(streams: list[ScanInputs]) -> int:
    """Groups of channels within each of which all B and C are the same."""
    return math.lcm(*(x.shape[2] for s in streams for x in (s.B, s.C) if x.ndim == 4))


def expand_groups(x: Tensor, groups: int) -> Tensor:
    """B or C by step, (B, L, N) or (B, L, G, N), for `groups` groups: (B, L, groups, N). A constant (D, N)
    becomes (N, D).
    """
    if x.ndim == 2:
        return x.t()
    x = x.unsqueeze(2) if x.ndim == 3 else x
    return x if x.shape[2] == groups else x.repeat_interleave(groups // x.shape[2], 2)


def sum_groups(gradient: Tensor, like: Tensor) -> Tensor:
    """The gradient of `like` from that of `expand_groups(like)`."""
    if like.ndim == 2:
        return gradient.t()
    groups = like.shape[2] if like.ndim == 4 else 1
    return gradient.unflatten(2, (groups, -1)).sum(3).view(like.shape)


def zero_outside(valid: Tensor, x: Tensor) -> Tensor:
    """`x` (B, L, ...) with zeros where `valid` (B, L, 1) is false; constants (D, N) as they are.

    `where`, not a product: a NaN in the padding stays out, and out of the gradient.
    """
    if x.ndim == 2:
        return x
    return torch.where(valid if x.ndim == 3 else valid[..., None], x, 0.0)
