"""The depthwise causal Conv1d of a Mamba block, steps before channels.

    y_t = bias + sum_k w_k u_{t - K + 1 + k}

On a CPU a sum of K shifted products: in conv.c, which the install builds where a C compiler is at hand, for
float32 and up to 16 taps; else, and to test it against, in PyTorch, a few rows at a time so that they stay in
cache. PyTorch's own convolution wants channels before steps, and at 1,569 of them takes about eight times as
long as the second way, most of it for its gradient. Elsewhere it is PyTorch's own.
"""

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mambavl.cache.native import load
from mambavl.fuse.parts import parts_of, threads_for
from mambavl.fuse.scan.operator import stack_heads, unstack_heads

BLOCK = 2**19  # numbers of a few rows, about what a core's cache holds
VERSION = 1  # of conv.c
ALONE = 2**16  # numbers of u; a thread is not made for fewer


def causal_conv(u: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """u (B, L, D), weight (D, 1, K), bias (D,) -> (B, L, D), contiguous; zeros before the first step. Raises
    ValueError for other shapes.
    """
    if u.ndim != 3 or weight.shape[:2] != (u.shape[2], 1) or bias.shape != u.shape[2:]:
        shapes = f"u is {tuple(u.shape)}, weight {tuple(weight.shape)} and bias {tuple(bias.shape)}"
        raise ValueError(f"{shapes}; they are (B, L, D), (D, 1, K) and (D,)")
    if u.device.type in ("cpu", "meta") and not torch.is_autocast_enabled("cpu"):
        return _Conv.apply(u, weight, bias)
    padded = F.conv1d(u.mT, weight, bias, padding=weight.shape[2] - 1, groups=u.shape[2])
    return padded[..., : u.shape[1]].mT.contiguous()


@torch.library.custom_op("mambavl::causal_conv", mutates_args=())
def forward(u: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """As `causal_conv`."""
    taps = _taps(weight)
    return (native_forward if _native(u, taps, bias) else torch_forward)(u, taps, bias)


@torch.library.custom_op("mambavl::causal_conv_backward", mutates_args=())
def backward(dy: Tensor, u: Tensor, weight: Tensor) -> list[Tensor]:
    """Gradients of u, weight and bias."""
    taps = _taps(weight)
    du, dtaps, dbias = (native_backward if _native(u, taps, dy) else torch_backward)(dy, u, taps)
    return [du, dtaps.flip(0).t()[:, None].contiguous(), dbias]


def torch_forward(u: Tensor, taps: Tensor, bias: Tensor) -> Tensor:
    """u (B, L, D), taps (K, D) as `_taps` has them, bias (D,) -> (B, L, D)."""
    y = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    for rows in _rows(u):
        torch.addcmul(bias, u[rows], taps[0], out=y[rows])
        for back, tap in enumerate(taps[1 : u.shape[1]], 1):
            y[rows, back:].addcmul_(u[rows, :-back], tap)
    return y


def torch_backward(dy: Tensor, u: Tensor, taps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of u, taps and bias."""
    du = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    dtaps, dbias = torch.zeros_like(taps), torch.zeros_like(taps[0])
    for rows in _rows(u):
        torch.mul(dy[rows], taps[0], out=du[rows])
        dtaps[0] += (dy[rows] * u[rows]).sum((0, 1))
        dbias += dy[rows].sum((0, 1))
        for back, tap in enumerate(taps[1 : u.shape[1]], 1):
            du[rows, :-back].addcmul_(dy[rows, back:], tap)
            dtaps[back] += (dy[rows, back:] * u[rows, :-back]).sum((0, 1))
    return du, dtaps, dbias


# --- the same in C


class _Part(ctypes.Structure):
    """`struct conv` of conv.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("steps", "channels", "taps", "first_row", "end_row")),
        *((name, ctypes.c_int64) for name in ("u_row", "u_step")),
        *((name, ctypes.c_void_p) for name in ("u", "tap", "bias", "y", "dy", "du", "dtap", "dbias")),
    )


def native_forward(u: Tensor, taps: Tensor, bias: Tensor) -> Tensor:
    """As `torch_forward`."""
    u, bias = _channels_together(u.detach()), bias.detach().contiguous()
    y, threads = torch.empty(u.shape, dtype=u.dtype), threads_for(u.numel(), ALONE)
    rows = parts_of(len(u), u.shape[1], threads)
    _run([_part(u, own, tap=taps, bias=bias, y=y) for own in rows], threads)
    return y


def native_backward(dy: Tensor, u: Tensor, taps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `torch_backward`."""
    u, dy = _channels_together(u.detach()), dy.contiguous()
    du, threads = torch.empty(u.shape, dtype=u.dtype), threads_for(u.numel(), ALONE)
    rows = parts_of(len(u), u.shape[1], threads)
    # what several parts add to has a slice for each of them; the slices are added in their order
    dtaps, dbias = taps.new_zeros(len(rows), *taps.shape), taps.new_zeros(len(rows), taps.shape[1])
    sums = zip(rows, dtaps, dbias, strict=True)
    _run([_part(u, own, tap=taps, dy=dy, du=du, dtap=tap, dbias=bias) for own, tap, bias in sums], threads)
    return du, dtaps.sum(0), dbias.sum(0)


def _part(u: Tensor, rows: tuple[int, int], tap: Tensor, **tensors: Tensor) -> _Part:
    sizes = {"steps": u.shape[1], "channels": u.shape[2], "taps": len(tap)}
    strides = {"u_row": u.stride(0), "u_step": u.stride(1)}
    pointers = {name: x.data_ptr() for name, x in {"u": u, "tap": tap, **tensors}.items()}
    return _Part(**sizes, **strides, **pointers, first_row=rows[0], end_row=rows[1])


def _run(parts: list[_Part], threads: int) -> None:
    library, _ = _library()
    assert library is not None
    library.mambavl_conv_run((_Part * len(parts))(*parts), len(parts), threads)


def _channels_together(u: Tensor) -> Tensor:
    return u if u.stride(2) == 1 else u.contiguous()


def _native(u: Tensor, taps: Tensor, other: Tensor) -> bool:
    library, _ = _library()
    if library is None or u.device.type != "cpu" or {u.dtype, taps.dtype, other.dtype} != {torch.float32}:
        return False
    return 1 <= len(taps) <= library.mambavl_conv_most_taps()


def unavailable() -> str | None:
    """Why the one in C cannot be used here; None: it can."""
    return _library()[1] or None


@cache
def _library() -> tuple[ctypes.CDLL | None, str]:
    return load(Path(__file__).parent, "conv", VERSION)


# --- for both


def _taps(weight: Tensor) -> Tensor:
    """(K, D): of the step itself, of the one before it, ...; contiguous, as a stride costs four times."""
    return weight[:, 0].flip(1).t().contiguous()


def _rows(u: Tensor) -> list[slice]:
    size = max(1, BLOCK // max(1, u.shape[1] * u.shape[2]))
    return [slice(first, first + size) for first in range(0, len(u), size)]


@forward.register_fake
def _(u: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return u.new_empty(u.shape)


@backward.register_fake
def _(dy: Tensor, u: Tensor, weight: Tensor) -> list[Tensor]:
    return [u.new_empty(u.shape), weight.new_empty(weight.shape), weight.new_empty(weight.shape[0])]


@register_flop_formula(torch.ops.mambavl.causal_conv)
def forward_operations(u: torch.Size, weight: torch.Size, bias: torch.Size, **_: object) -> int:
    """A multiply-add for each tap, as of a convolution; the arguments are shapes."""
    return 2 * u[0] * u[1] * u[2] * weight[2]


@register_flop_formula(torch.ops.mambavl.causal_conv_backward)
def backward_operations(dy: torch.Size, u: torch.Size, weight: torch.Size, **_: object) -> int:
    return 4 * u[0] * u[1] * u[2] * weight[2]


class _Conv(torch.autograd.Function):
    """The operator with its gradient; heads stacked by vmap are more channels."""

    @staticmethod
    def forward(u: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return forward(u, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:
        u, weight = ctx.saved_tensors
        return _ConvBackward.apply(dy, u, weight)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], u: Tensor, weight: Tensor, bias: Tensor
    ) -> tuple[Tensor, int]:
        together = _together(("u", "D", "D"), (u, weight, bias), in_dims, info.batch_size)
        return unstack_heads("u", _Conv.apply(*together), info.batch_size), 0


class _ConvBackward(torch.autograd.Function):
    @staticmethod
    def forward(dy: Tensor, u: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        return tuple(backward(dy, u, weight))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> None:
        raise RuntimeError("the causal convolution has no second derivative on a CPU")

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], dy: Tensor, u: Tensor, weight: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        together = _together(("u", "u", "D"), (dy, u, weight), in_dims, info.batch_size)
        found = zip(("u", "D", "D"), _ConvBackward.apply(*together), strict=True)  # D: channels first
        return tuple(unstack_heads(name, x, info.batch_size) for name, x in found), (0, 0, 0)


def _together(
    names: tuple[str, ...], tensors: tuple[Tensor, ...], dims: tuple[int | None, ...], heads: int
) -> list[Tensor]:
    """Stacks heads as the scan's operator does: steps before channels like its `u`, channels first like its
    `D`.
    """
    return [stack_heads(name, x, dim, heads) for name, x, dim in zip(names, tensors, dims, strict=True)]
