"""The depthwise causal Conv1d of a Mamba block, steps before channels.

    y_t = bias + sum_k w_k u_{t - K + 1 + k}

On a CPU a sum of K shifted products, a few rows at a time so that they stay in cache: at 1,569 steps
PyTorch's own convolution, which wants channels before steps, takes about eight times as long, most of it for
its gradient. Elsewhere it is PyTorch's own.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mambavl.fuse.scan.operator import stack_heads, unstack_heads

BLOCK = 2**19  # numbers of a few rows, about what a core's cache holds


def causal_conv(u: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """u (B, L, D), weight (D, 1, K), bias (D,) -> (B, L, D), contiguous; zeros before the first step."""
    if u.device.type in ("cpu", "meta") and not torch.is_autocast_enabled("cpu"):
        return _Conv.apply(u, weight, bias)
    padded = F.conv1d(u.mT, weight, bias, padding=weight.shape[2] - 1, groups=u.shape[2])
    return padded[..., : u.shape[1]].mT.contiguous()


@torch.library.custom_op("mambavl::causal_conv", mutates_args=())
def forward(u: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """As `causal_conv`."""
    y = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    taps = _taps(weight)
    for rows in _rows(u):
        torch.addcmul(bias, u[rows], taps[0], out=y[rows])
        for back, tap in enumerate(taps[1 : u.shape[1]], 1):
            y[rows, back:].addcmul_(u[rows, :-back], tap)
    return y


@torch.library.custom_op("mambavl::causal_conv_backward", mutates_args=())
def backward(dy: Tensor, u: Tensor, weight: Tensor) -> list[Tensor]:
    """Gradients of u, weight and bias."""
    taps = _taps(weight)
    du = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    dtaps = torch.zeros(len(taps), len(weight), dtype=u.dtype, device=u.device)
    dbias = torch.zeros_like(weight[:, 0, 0])
    for rows in _rows(u):
        torch.mul(dy[rows], taps[0], out=du[rows])
        dtaps[0] += (dy[rows] * u[rows]).sum((0, 1))
        dbias += dy[rows].sum((0, 1))
        for back, tap in enumerate(taps[1 : u.shape[1]], 1):
            du[rows, :-back].addcmul_(dy[rows, back:], tap)
            dtaps[back] += (dy[rows, back:] * u[rows, :-back]).sum((0, 1))
    return [du, dtaps.flip(0).t()[:, None].contiguous(), dbias]


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
