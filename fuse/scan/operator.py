"""The scan as PyTorch sees it: one operator, forward and backward, for every backend that has a kernel.

It takes any number of streams that share A, so that a backend can do them in one launch and give one dA. What
is registered with it holds for all of them: shapes (`torch.compile` keeps a graph whole), gradients, what
`FlopCounterMode` counts, and `torch.func.vmap`, under which stacked heads become groups of channels.

An operator's lists cannot hold None and still have gradients, so streams travel as one list of the tensors
that are there, and a list of bits that says which: bit i of a stream's number is field i of ScanInputs.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mambavl.fuse.scan import chunked, cpu, triton
from mambavl.fuse.scan.inputs import CHUNK, Options, ScanInputs, state_dtype

KERNELS = {"chunked": chunked, "cpu": cpu, "triton": triton}
FIELDS = ScanInputs._fields


def scan(streams: list[ScanInputs], A: Tensor, options: Options, backend: str) -> list[tuple[Tensor, Tensor]]:
    """(y, last state (B, D, N)) of each stream; (B, D, 0) where the state is not asked for."""
    tensors, present = _pack(streams)
    flags = (*options, _keeps(A, *tensors), backend)
    # the compiler takes no Function that has nothing to differentiate
    if torch.compiler.is_compiling() and not flags[-2]:
        found = selective_scan(A, tensors, present, *flags)
    else:
        found = _Scan.apply(A, present, flags, *tensors)
    ys, lasts = found[: len(streams)], found[len(streams) : 2 * len(streams)]
    return [(y, last.mT) for y, last in zip(ys, lasts, strict=True)]


@torch.library.custom_op("mambavl::selective_scan", mutates_args=())
def selective_scan(
    A: Tensor, tensors: Sequence[Tensor], present: Sequence[int],
    softplus: bool, zoh: bool, pooled: bool, state: bool, keep: bool, backend: str,
) -> list[Tensor]:  # fmt: skip
    """All y; all last states (B, N, D), or (B, 0, D) without `state`; all checkpoints (B, chunks, N, D), the
    states before each chunk, empty unless `keep`.
    """
    options = Options(softplus, zoh, pooled, state)
    found = KERNELS[backend].forward(A, _unpack(tensors, present), options, keep)
    if not state:  # a kernel may have written it even so
        found = [(y, last.new_empty(len(last), 0, last.shape[2]), kept) for y, last, kept in found]
    return [x for column in zip(*found, strict=True) for x in column]


@torch.library.custom_op("mambavl::selective_scan_backward", mutates_args=())
def selective_scan_backward(
    dy: Sequence[Tensor], dlast: Sequence[Tensor], checkpoints: Sequence[Tensor],
    A: Tensor, tensors: Sequence[Tensor], present: Sequence[int],
    softplus: bool, zoh: bool, pooled: bool, state: bool, backend: str,
) -> list[Tensor]:  # fmt: skip
    """The gradients of A and of `tensors` but lengths, in their shapes and dtypes. dlast: (B, N, D), or (B,
    0, D) for none.
    """
    options, lasts = Options(softplus, zoh, pooled, state), [x if x.shape[1] else None for x in dlast]
    da, found = KERNELS[backend].backward(
        A, _unpack(tensors, present), options, list(checkpoints), list(dy), lasts
    )
    gradients = [da, *(x for stream in found for x in stream if x is not None)]
    likes = [A, *(x for name, x in _named(tensors, present) if name != "lengths")]
    return [gradient.to(like.dtype).contiguous() for gradient, like in zip(gradients, likes, strict=True)]


def _keeps(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


def _pack(streams: list[ScanInputs]) -> tuple[list[Tensor], list[int]]:
    present = [sum(1 << i for i, x in enumerate(s) if x is not None) for s in streams]
    return [x for s in streams for x in s if x is not None], present


def _names(present: Sequence[int]) -> Iterator[str]:
    return (name for bits in present for i, name in enumerate(FIELDS) if bits >> i & 1)


def _named(tensors: Sequence[Any], present: Sequence[int]) -> list[tuple[str, Any]]:
    return list(zip(_names(present), tensors, strict=True))


def _unpack(tensors: Sequence[Any], present: Sequence[int]) -> list[ScanInputs]:
    left = iter(tensors)
    streams = []
    for bits in present:
        fields = [next(left) if bits >> i & 1 else None for i in range(len(FIELDS))]
        streams.append(ScanInputs._make(fields))
    return streams


# --- shapes


@selective_scan.register_fake
def _(
    A: Tensor, tensors: Sequence[Tensor], present: Sequence[int],
    softplus: bool, zoh: bool, pooled: bool, state: bool, keep: bool, backend: str,
) -> list[Tensor]:  # fmt: skip
    ys, lasts, checkpoints = [], [], []
    for s in _unpack(tensors, present):
        batch, steps, channels = s.u.shape
        ys.append(s.u.new_empty((batch, channels) if pooled else (batch, steps, channels)))
        states = A.shape[1] if state else 0
        lasts.append(s.u.new_empty(batch, states, channels, dtype=state_dtype(s.u.dtype)))
        chunks = -(-steps // CHUNK) if keep else 0
        checkpoints.append(lasts[-1].new_empty(batch, chunks, A.shape[1], channels))
    return [*ys, *lasts, *checkpoints]


@selective_scan_backward.register_fake
def _(
    dy: Sequence[Tensor], dlast: Sequence[Tensor], checkpoints: Sequence[Tensor],
    A: Tensor, tensors: Sequence[Tensor], present: Sequence[int], *_: object,
) -> list[Tensor]:  # fmt: skip
    likes = [A, *(x for name, x in _named(tensors, present) if name != "lengths")]
    return [torch.empty_like(x, memory_format=torch.contiguous_format) for x in likes]


# --- gradients


class _Scan(torch.autograd.Function):
    """The operator with its gradient. (One registered through torch.library does not work under
    torch.func.grad.)
    """

    @staticmethod
    def forward(A: Tensor, present: list[int], options: tuple, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(selective_scan(A, list(tensors), present, *options))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        A, ctx.present, (*options, _, backend), *tensors = inputs
        ctx.set_materialize_grads(False)
        ctx.options = (*options, backend)
        checkpoints = output[2 * len(ctx.present) :]
        ctx.mark_non_differentiable(*checkpoints)
        ctx.save_for_backward(A, *checkpoints, *tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        size, pooled = len(ctx.present), ctx.options[2]
        A, *saved = ctx.saved_tensors
        checkpoints, tensors = saved[:size], saved[size:]
        dy, dlast = list(gradients[:size]), list(gradients[size : 2 * size])
        for i, s in enumerate(_unpack(tensors, ctx.present)):
            batch, steps, channels = s.u.shape
            if dy[i] is None:
                dy[i] = s.u.new_zeros((batch, channels) if pooled else (batch, steps, channels))
            if dlast[i] is None:
                dlast[i] = checkpoints[i].new_empty(batch, 0, channels)  # of no states: there is none
        if torch.compiler.is_compiling():  # as in `scan`
            da, *rest = selective_scan_backward(dy, dlast, checkpoints, A, tensors, ctx.present, *ctx.options)
        else:
            da, *rest = _ScanBackward.apply(ctx.present, ctx.options, A, *dy, *dlast, *checkpoints, *tensors)
        left = iter(rest)
        return da, None, None, *(None if name == "lengths" else next(left) for name in _names(ctx.present))

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple, A: Tensor, present: list[int], options: tuple, *tensors: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        heads, dims, (*flags, keep, backend) = info.batch_size, in_dims[3:], options
        # stacked heads may ask for a gradient where one does not
        options = (*flags, keep or _keeps(A, *tensors), backend)
        if _lengths_differ(dims, present):
            return _one_by_one(_Scan.apply, heads, in_dims, (A, present, options, *tensors))
        stacked = _stack_all(tensors, dims, present, heads)
        found = _Scan.apply(stack_heads("A", A, in_dims[0], heads), present, options, *stacked)
        return tuple(unstack_heads("y", x, heads) for x in found), (0,) * len(found)


class _ScanBackward(torch.autograd.Function):
    """The gradient's own operator. It has no gradient of its own, and says so."""

    @staticmethod
    def forward(present: list[int], options: tuple, A: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        n = len(present)
        dy, dlast, checkpoints = (list(tensors[i * n : (i + 1) * n]) for i in range(3))
        return tuple(
            selective_scan_backward(dy, dlast, checkpoints, A, list(tensors[3 * n :]), present, *options)
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> None:
        raise RuntimeError('the selective scan has no second derivative but through backend="reference"')

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple, present: list[int], options: tuple, A: Tensor, *tensors: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        heads, outer = info.batch_size, 3 * len(present)
        own, dims = tensors[outer:], in_dims[3 + outer :]
        if _lengths_differ(dims, present):
            return _one_by_one(_ScanBackward.apply, heads, in_dims, (present, options, A, *tensors))
        outputs = zip(tensors[:outer], in_dims[3 : 3 + outer], strict=True)
        states = [stack_heads("y", x, dim, heads) for x, dim in outputs]  # dy, dlast and checkpoints
        stacked = _stack_all(own, dims, present, heads)
        found = iter(
            _ScanBackward.apply(present, options, stack_heads("A", A, in_dims[2], heads), *states, *stacked)
        )
        gradients = [unstack_heads("A", next(found), heads)]
        for name, x, dim in zip(_names(present), own, dims, strict=True):
            if name == "lengths":  # has no gradient
                continue
            gradient = unstack_heads(name, next(found), heads)
            axes = x.ndim - (dim is not None)  # of one head
            if name in ("B", "C") and axes == 3:  # (B, L, N): it has no axis of groups
                gradient = gradient.squeeze(3)
            gradients.append(gradient)
        return tuple(gradients), (0,) * len(gradients)


# --- stacked heads


def stack_heads(name: str, x: Tensor, dim: int | None, heads: int) -> Tensor:
    """The tensors of `heads` heads, stacked along `dim` (None: all have this one), as the tensor of one head
    that has all their channels.
    """
    x = x.expand(heads, *x.shape) if dim is None else x.movedim(dim, 0)
    if name in ("B", "C") and x.ndim > 3:  # (K, B, L, N) or (K, B, L, G, N): groups of their own
        return (x.unsqueeze(3) if x.ndim == 4 else x).movedim(0, 2).flatten(2, 3)
    if name in ("A", "B", "C", "D", "delta_bias"):  # (K, D, N), (K, D)
        return x.flatten(0, 1)
    if name == "initial_state":  # (K, B, D, N)
        return x.movedim(0, 1).flatten(1, 2)
    # u, delta, z, y, and states in the operator's own order: channels last
    return x.movedim(0, -2).flatten(-2)


def unstack_heads(name: str, x: Tensor, heads: int) -> Tensor:
    """The way back, heads first. B and C keep an axis of groups."""
    if name in ("B", "C") and x.ndim > 2:
        return x.unflatten(2, (heads, -1)).movedim(2, 0)
    if name in ("A", "B", "C", "D", "delta_bias"):
        return x.unflatten(0, (heads, -1))
    if name == "initial_state":
        return x.unflatten(1, (heads, -1)).movedim(1, 0)
    return x.unflatten(-1, (heads, -1)).movedim(-2, 0)


def _stack_all(
    tensors: Sequence[Tensor], dims: Sequence[int | None], present: list[int], heads: int
) -> list[Tensor]:
    named = zip(_names(present), tensors, dims, strict=True)
    return [x if name == "lengths" else stack_heads(name, x, dim, heads) for name, x, dim in named]


def _one_by_one(
    function: Callable, heads: int, in_dims: tuple, arguments: tuple
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """Lengths that differ by head cannot share rows: a call for each."""
    found = []
    for head in range(heads):
        pairs = zip(arguments, in_dims, strict=True)
        own = [x.select(dim, head) if isinstance(dim, int) else x for x, dim in pairs]
        found.append(function(*own))
    stacked = tuple(torch.stack(column) for column in zip(*found, strict=True))
    return stacked, (0,) * len(stacked)


def _lengths_differ(dims: Sequence[int | None], present: list[int]) -> bool:
    return any(name == "lengths" and dim is not None for name, dim in zip(_names(present), dims, strict=True))


# --- operations, as FlopCounterMode counts them: a multiply-add is two, exp() one


@register_flop_formula(torch.ops.mambavl.selective_scan)
def forward_operations(
    A: torch.Size, tensors: Sequence[torch.Size], present: Sequence[int], *_: object, **__: object
) -> int:
    """Operations of a call on tensors of these shapes.

    A state and step: delta A, exp, e h, gain B, their sum, h C and its sum, 7. A channel and step: delta u,
    1; D u and its sum, 2; z sigmoid(z) and its product, 5.
    """
    total = 0
    for s in _unpack(tensors, present):
        batch, steps, channels = s.u
        total += batch * steps * channels * (7 * A[1] + 1 + 2 * (s.D is not None) + 5 * (s.z is not None))
    return total


@register_flop_formula(torch.ops.mambavl.selective_scan_backward)
def backward_operations(
    dy: Sequence[torch.Size],
    dlast: Sequence[torch.Size],
    checkpoints: Sequence[torch.Size],
    A: torch.Size,
    tensors: Sequence[torch.Size],
    present: Sequence[int],
    *_: object,
    **__: object,
) -> int:
    """Operations of a call on tensors of these shapes.

    A state and step: the state again, 5; dh 2, its way back 1, dx 1, and sums for dA, d delta, du, dB, dC, 2
    each, 14. A channel and step: du and d delta, 5; for D 4; for z, which needs y again, 2 N + 12.
    """
    total = 0
    for s in _unpack(tensors, present):
        batch, steps, channels = s.u
        by_channel = 5 + 4 * (s.D is not None) + (2 * A[1] + 12) * (s.z is not None)
        total += batch * steps * channels * (19 * A[1] + by_channel)
    return total
