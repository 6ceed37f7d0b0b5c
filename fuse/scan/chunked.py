"""The selective scan in PyTorch alone, a chunk of steps at a time: any device, no compiler, float64 too,
little memory.

Only the states of one chunk exist at once, (rows, chunk, D, N) for some rows of the batch, and the state
before each chunk; never (B, L, D, N). The gradient walks the chunks backwards and recomputes their states.

    forward    h_t = e_t h_{t-1} + g_t B_t u_t     e = exp(x), x = delta A, g = delta, or delta phi(x)
    backward   dh_t = dy_t C_t + e_{t+1} dh_{t+1}
               dx_t = dh_t e_t h_{t-1}  (+ through phi)     dB_t = dh_t g_t u_t     ...
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mambavl.fuse.scan.inputs import (
    CHUNK,
    Options,
    ScanInputs,
    common_groups,
    expand_groups,
    state_dtype,
    sum_groups,
    zero_outside,
)

TERMS = 12  # of the series for exact ZOH: beyond float64 at |x| < 1/4
# about what one tensor of a chunk's states takes; larger ones leave the cache, smaller ones cost more calls
BYTES = 32 * 2**20


def unavailable() -> str | None:
    """Why this backend cannot run here; None: it runs wherever PyTorch does."""
    return None


def refuses(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why it does not take such tensors; None: it takes any."""
    return None


def forward(
    A: Tensor, streams: list[ScanInputs], options: Options, keep: bool
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(y, last state (B, N, D), checkpoints (B, chunks, N, D)) of each stream."""
    return [_forward(A, s, options, keep) for s in streams]


def backward(
    A: Tensor,
    streams: list[ScanInputs],
    options: Options,
    checkpoints: list[Tensor],
    dys: list[Tensor],
    dlasts: list[Tensor | None],
) -> tuple[Tensor, list[ScanInputs]]:
    """dA, and the gradients of each stream."""
    found = [_backward(A, *each, options) for each in zip(streams, checkpoints, dys, dlasts, strict=True)]
    return torch.stack([da for da, _ in found]).sum(0), [gradients for _, gradients in found]


class _Chunk(NamedTuple):
    """Some rows and steps, channels as (G, P) = (groups, channels of each): u, delta, z (b, c, G, P); B, C
    (b, c, G, 1, N) or, constant, (G, P, N)."""

    rows: slice
    steps: slice
    u: Tensor
    delta: Tensor
    B: Tensor
    C: Tensor
    z: Tensor | None


class _Inputs(NamedTuple):
    """A stream's tensors, wide, past bias and softplus, and zero at padding: that keeps the state and adds
    nothing there.
    """

    u: Tensor
    delta: Tensor
    B: Tensor
    C: Tensor
    z: Tensor | None
    D: Tensor | None
    a: Tensor  # (G, P, N)
    slope: Tensor | float  # of softplus
    valid: Tensor | None  # (B, L, 1)
    num_valid: Tensor  # (B, 1): valid steps of each row, at least 1
    start: Tensor  # (B, D, N)
    groups: int


def _inputs(A: Tensor, s: ScanInputs, options: Options) -> _Inputs:
    wide, (batch, length, channels) = state_dtype(s.u.dtype), s.u.shape
    groups = common_groups([s])
    delta = s.delta.to(wide)
    if s.delta_bias is not None:
        delta = delta + s.delta_bias.to(wide)
    slope: Tensor | float = 1.0
    if options.softplus:
        delta, slope = F.softplus(delta), torch.sigmoid(delta)
    u, B, C = (x.to(wide) for x in (s.u, s.B, s.C))
    z, D = (None if x is None else x.to(wide) for x in (s.z, s.D))
    B, C = (x if x.ndim == 2 else expand_groups(x, groups) for x in (B, C))
    valid, num_valid = None, torch.full((batch, 1), max(1, length), dtype=wide, device=u.device)
    if s.lengths is not None:
        valid = (torch.arange(length, device=u.device) < s.lengths[:, None])[..., None]
        num_valid = s.lengths.to(num_valid).clamp(1, max(1, length))[:, None]
        u, delta, B, C = (zero_outside(valid, x) for x in (u, delta, B, C))
        z = None if z is None else zero_outside(valid, z)
    start = u.new_zeros(batch, channels, A.shape[1]) if s.initial_state is None else s.initial_state.to(wide)
    a = A.to(wide).unflatten(0, (groups, -1))
    return _Inputs(u, delta, B, C, z, D, a, slope, valid, num_valid, start, groups)


def _forward(A: Tensor, stream: ScanInputs, options: Options, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    x = _inputs(A, stream, options)
    batch, length, channels = x.u.shape
    if options.pooled:
        y = x.u.new_zeros(batch, channels)
    else:
        y = torch.empty_like(x.u, memory_format=torch.contiguous_format)
    last = torch.empty_like(x.start)
    notes = x.u.new_empty(batch, -(-length // CHUNK) if keep else 0, A.shape[1], channels)
    for rows in _rows(batch, length, A):
        state = x.start[rows].unflatten(1, (x.groups, -1))
        for number, chunk in enumerate(_chunks(x, rows)):
            if keep:
                notes[rows, number] = state.flatten(1, 2).mT
            states, _ = _states(chunk, x.a, state, options.zoh)
            state = states[:, -1]
            out = _gated(_read(states, chunk, x.D), chunk.z).flatten(2)
            if x.valid is not None:  # a constant C reads the state at padding too
                out = torch.where(x.valid[rows, chunk.steps], out, 0.0)
            if options.pooled:
                y[rows] += out.sum(1)
            else:
                y[rows, chunk.steps] = out
        last[rows] = state.flatten(1, 2)
    return (y / x.num_valid if options.pooled else y).to(stream.u.dtype), last.mT.contiguous(), notes


def _backward(
    A: Tensor, stream: ScanInputs, notes: Tensor, dy: Tensor, dlast: Tensor | None, options: Options
) -> tuple[Tensor, ScanInputs]:
    """(dA, the stream's gradients)"""
    x = _inputs(A, stream, options)
    dy = dy.to(x.u.dtype) / (x.num_valid if options.pooled else 1.0)
    du, ddelta, dA, dB, dC = (torch.zeros_like(value) for value in (x.u, x.delta, x.a, x.B, x.C))
    dD, dz = (None if value is None else torch.zeros_like(value) for value in (x.D, x.z))
    dstart = torch.zeros_like(x.start)
    for rows in _rows(x.u.shape[0], x.u.shape[1], A):
        carry = torch.zeros_like(x.start[rows]) if dlast is None else dlast[rows].mT
        carry = carry.unflatten(1, (x.groups, -1))
        for number, chunk in reversed(list(enumerate(_chunks(x, rows)))):
            before = notes[rows, number].mT.unflatten(1, (x.groups, -1))
            states, decays = _states(chunk, x.a, before, options.zoh)
            grad = _upstream(dy, chunk, options.pooled)
            if x.valid is not None:
                grad = torch.where(x.valid[rows, chunk.steps][..., None], grad, 0.0)
            if dz is not None and chunk.z is not None:
                gate = torch.sigmoid(chunk.z)
                dz[rows, chunk.steps] = (
                    grad * _read(states, chunk, x.D) * gate * (1 + chunk.z * (1 - gate))
                ).flatten(2)
                grad = grad * chunk.z * gate
            if dD is not None:
                dD += (grad * chunk.u).sum((0, 1)).flatten()
            _add(dC, grad[..., None] * states, chunk)
            dh = grad[..., None] * chunk.C  # (b, c, G, P, N); from here on the gradient of each state
            dh[:, -1] += carry
            for t in range(dh.shape[1] - 1, 0, -1):
                dh[:, t - 1].addcmul_(dh[:, t], decays[:, t])
            carry = dh[:, 0] * decays[:, 0]
            previous = torch.cat([before[:, None], states[:, :-1]], 1)
            dx = dh * decays * previous
            phi, slope = _phi(chunk.delta[..., None] * x.a, decays) if options.zoh else (1.0, None)
            du_delta = (chunk.u * chunk.delta)[..., None]
            _add(dB, dh * phi * du_delta, chunk)
            dh_b = dh * chunk.B
            if options.zoh:
                dx = dx + dh_b * du_delta * slope
            held = (dh_b * phi).sum(-1)
            du_chunk = held * chunk.delta
            if x.D is not None:
                du_chunk = du_chunk + grad * x.D.view(x.groups, -1)
            dA += (dx * chunk.delta[..., None]).sum((0, 1))
            du[rows, chunk.steps] = du_chunk.flatten(2)
            ddelta[rows, chunk.steps] = ((dx * x.a).sum(-1) + held * chunk.u).flatten(2)
        dstart[rows] = carry.flatten(1, 2)
    ddelta = ddelta * x.slope
    if x.valid is not None:
        ddelta = torch.where(x.valid, ddelta, 0.0)
    dbias = None if stream.delta_bias is None else ddelta.sum((0, 1))
    dB, dC = (
        gradient if like.ndim == 2 else sum_groups(gradient, like)
        for gradient, like in ((dB, stream.B), (dC, stream.C))
    )
    initial = None if stream.initial_state is None else dstart
    return dA.flatten(0, 1), ScanInputs(du, ddelta, dB, dC, dD, dz, dbias, None, initial)


def _rows(batch: int, length: int, A: Tensor) -> Iterator[slice]:
    """The batch in parts whose states of one chunk take about BYTES."""
    size = max(1, BYTES // max(1, min(length, CHUNK) * A.numel() * A.element_size()))
    return (slice(first, min(first + size, batch)) for first in range(0, batch, size))


def _chunks(x: _Inputs, rows: slice) -> Iterator[_Chunk]:
    def grouped(value: Tensor, steps: slice) -> Tensor:
        return value[rows, steps].unflatten(2, (x.groups, -1))

    def coefficients(value: Tensor, steps: slice) -> Tensor:
        return value.unflatten(0, (x.groups, -1)) if value.ndim == 2 else value[rows, steps].unsqueeze(3)

    length = x.u.shape[1]
    for first in range(0, length, CHUNK):
        steps = slice(first, min(first + CHUNK, length))
        yield _Chunk(
            rows,
            steps,
            grouped(x.u, steps),
            grouped(x.delta, steps),
            coefficients(x.B, steps),
            coefficients(x.C, steps),
            None if x.z is None else grouped(x.z, steps),
        )


def _states(chunk: _Chunk, a: Tensor, h: Tensor, zoh: bool) -> tuple[Tensor, Tensor]:
    """Every h_t and e_t of a chunk, (b, c, G, P, N) each; h (b, G, P, N): the state before it."""
    x = chunk.delta[..., None] * a
    decays = torch.exp(x)
    states = (chunk.delta * chunk.u)[..., None] * chunk.B
    if zoh:
        states = states * _phi(x, decays)[0]
    for t in range(states.shape[1]):
        h = states[:, t].addcmul_(h, decays[:, t])
    return states, decays


def _phi(x: Tensor, decays: Tensor) -> tuple[Tensor, Tensor]:
    """phi(x) = (exp(x) - 1) / x and its slope; both by their series near 0, where A may be nothing."""
    small = x.abs() < 0.25
    safe = torch.where(small, 1.0, x)
    far = torch.expm1(safe) / safe
    near, slope = torch.zeros_like(x), torch.zeros_like(x)
    for k in range(TERMS, -1, -1):  # phi = sum x^k / (k + 1)!,  phi' = sum x^k (k + 1) / (k + 2)!
        near = near * x + 1 / math.factorial(k + 1)
        slope = slope * x + (k + 1) / math.factorial(k + 2)
    return torch.where(small, near, far), torch.where(small, slope, (decays - far) / safe)


def _read(states: Tensor, chunk: _Chunk, D: Tensor | None) -> Tensor:
    """C_t h_t + D u_t, (b, c, G, P)."""
    y = (states * chunk.C).sum(-1)
    return y if D is None else y + D.view(y.shape[2], -1) * chunk.u


def _gated(y: Tensor, z: Tensor | None) -> Tensor:
    return y if z is None else y * F.silu(z)


def _upstream(dy: Tensor, chunk: _Chunk, pooled: bool) -> Tensor:
    """The gradient of y at a chunk's steps, (b, c, G, P); of a sum over steps it is the same at each."""
    if pooled:
        return dy[chunk.rows].unflatten(1, (chunk.u.shape[2], -1))[:, None].expand(chunk.u.shape)
    return dy[chunk.rows, chunk.steps].unflatten(2, (chunk.u.shape[2], -1))


def _add(total: Tensor, gradient: Tensor, chunk: _Chunk) -> None:
    """Add the gradient (b, c, G, P, N) of B or C where it belongs: summed over what shares a coefficient."""
    if total.ndim == 2:
        total += gradient.sum((0, 1)).flatten(0, 1)
    else:
        total[chunk.rows, chunk.steps] = gradient.sum(3)
