"""The selective scan in PyTorch alone, a chunk of steps at a time: any device, no compiler, float64 too, little memory.

Only the states of one chunk exist at once, (rows, chunk, D, N) for some rows of the batch, and the state before each chunk, of
which there are about sqrt(L); never (B, L, D, N). The gradient walks the chunks backwards and computes their states anew.

    forward    h_t = e_t h_{t-1} + g_t B_t u_t     e = exp(x), x = delta A, g = delta (or delta phi(x): exact hold)
    backward   dh_t = dy_t C_t + e_{t+1} dh_{t+1}     dx_t = dh_t e_t h_{t-1}  (+ through phi)     dB_t = dh_t g_t u_t     ...
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

TERMS = 12  # of the series for exact ZOH: beyond float64 at |x| < 1/4
BYTES = 32 * 2**20  # about what one tensor of a chunk's states takes; larger ones leave the cache, smaller ones cost more calls


def unavailable() -> str | None:
    """Why this backend cannot run here; None: it runs wherever PyTorch does."""
    return None


def refuses(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why it does not take such tensors; None: it takes any."""
    return None


def selective_scan(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, *,
    lengths=None, initial_state=None, return_last_state=False, zoh=False,
):  # fmt: skip
    """See `mambavl.fuse.scan.selective_scan`."""
    y, last = _scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, lengths, initial_state, zoh, pooled=False)
    return (y, last) if return_last_state else y


def pooled_selective_scan(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, *,
    lengths=None, initial_state=None, zoh=False,
):  # fmt: skip
    """See `mambavl.fuse.scan.pooled_selective_scan`."""
    total, _ = _scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, lengths, initial_state, zoh, pooled=True)
    length = u.shape[1]
    count = torch.full_like(total[:, 0], length) if lengths is None else lengths.to(total).clamp(max=length)
    return (total / count.clamp(min=1)[:, None]).to(u.dtype)


def _scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, lengths, initial_state, zoh, pooled) -> tuple[Tensor, Tensor]:
    """(y (B, L, D) in u's dtype, or its sum over the steps (B, D) in float32 or wider; last state (B, D, N))."""
    wide, (batch, length, channels) = torch.promote_types(u.dtype, torch.float32), u.shape
    groups = next((x.shape[2] for x in (B, C) if x.ndim == 4), 1)
    delta = delta.to(wide) if delta_bias is None else delta.to(wide) + delta_bias.to(wide)
    if delta_softplus:
        delta = F.softplus(delta)
    inputs, valid = [x if x is None else x.to(wide) for x in (u, delta, B, C, z)], None
    if lengths is not None:  # zeros at padding keep the state and add nothing; `where` stops a NaN that stands there
        valid = (torch.arange(length, device=u.device) < lengths.to(u.device)[:, None])[..., None]  # (B, L, 1)
        inputs = [
            x if x is None or x.ndim == 2 else torch.where(valid if x.ndim == 3 else valid[..., None], x, 0.0) for x in inputs
        ]
    u_, delta, B, C, z = inputs
    h = u_.new_zeros(batch, channels, A.shape[1]) if initial_state is None else initial_state.to(wide)
    D = None if D is None else D.to(wide)
    y, last = _Scan.apply(u_, delta, A.to(wide), B, C, D, z, h, valid, groups, zoh, pooled)
    return (y if pooled else y.to(u.dtype)), last


class _Chunk(NamedTuple):
    """Some rows and steps, channels as (G, P) = (groups, channels of each): u, delta, z (b, c, G, P); B, C (b, c, G, 1, N) or,
    constant, (G, P, N)."""

    rows: slice
    steps: slice
    u: Tensor
    delta: Tensor
    B: Tensor
    C: Tensor
    z: Tensor | None


class _Scan(torch.autograd.Function):
    """The recurrence over inputs that are wide, masked, and past softplus."""

    @staticmethod
    def forward(ctx, u, delta, A, B, C, D, z, h, valid, groups, zoh, pooled):
        ctx.set_materialize_grads(False)
        batch, length, channels = u.shape
        y = u.new_zeros(batch, channels) if pooled else torch.empty_like(u, memory_format=torch.contiguous_format)
        last = torch.empty_like(h)
        a = A.unflatten(0, (groups, -1))
        starts = u.new_empty(max(1, len(_starts(length))), *h.shape)
        for rows in _rows(batch, length, A):
            state = h[rows].unflatten(1, (groups, -1))
            for number, chunk in enumerate(_chunks(u, delta, B, C, z, rows, groups)):
                starts[number, rows] = state.flatten(1, 2)
                states, _ = _states(chunk, a, state, zoh)
                state = states[:, -1]
                out = _gated(_read(states, chunk, D), chunk.z).flatten(2)
                if valid is not None:  # a constant C reads the state at padding too
                    out = torch.where(valid[rows, chunk.steps], out, 0.0)
                if pooled:
                    y[rows] += out.sum(1)
                else:
                    y[rows, chunk.steps] = out
            last[rows] = state.flatten(1, 2)
        ctx.save_for_backward(u, delta, A, B, C, D, z, valid, starts)
        ctx.options = groups, zoh, pooled
        return y, last

    @staticmethod
    def backward(ctx, dy, dlast):
        u, delta, A, B, C, D, z, valid, starts = ctx.saved_tensors
        groups, zoh, pooled = ctx.options
        a = A.unflatten(0, (groups, -1))
        du, ddelta, dA, dB, dC = (torch.zeros_like(x) for x in (u, delta, a, B, C))
        dD, dz = (None if x is None else torch.zeros_like(x) for x in (D, z))
        dh0 = torch.zeros_like(starts[0])
        for rows in _rows(u.shape[0], u.shape[1], A):
            carry = torch.zeros_like(starts[0, rows]) if dlast is None else dlast[rows]
            carry = carry.unflatten(1, (groups, -1))
            chunks = list(enumerate(_chunks(u, delta, B, C, z, rows, groups)))
            for number, chunk in reversed(chunks):
                before = starts[number, rows].unflatten(1, (groups, -1))
                states, decays = _states(chunk, a, before, zoh)
                grad = torch.zeros_like(chunk.u) if dy is None else _upstream(dy, chunk, pooled)
                if valid is not None:
                    grad = torch.where(valid[rows, chunk.steps][..., None], grad, 0.0)
                if z is not None:
                    gate = torch.sigmoid(chunk.z)
                    slope = gate * (1 + chunk.z * (1 - gate))
                    dz[rows, chunk.steps] = (grad * _read(states, chunk, D) * slope).flatten(2)
                    grad = grad * chunk.z * gate
                if D is not None:
                    dD += (grad * chunk.u).sum((0, 1)).flatten()
                _add(dC, grad[..., None] * states, chunk)
                dh = grad[..., None] * chunk.C  # (b, c, G, P, N); from here on the gradient of each state
                dh[:, -1] += carry
                for t in range(dh.shape[1] - 1, 0, -1):
                    dh[:, t - 1].addcmul_(dh[:, t], decays[:, t])
                carry = dh[:, 0] * decays[:, 0]
                previous = torch.cat([before[:, None], states[:, :-1]], 1)
                dx = dh * decays * previous
                phi, slope = _phi(chunk.delta[..., None] * a, decays) if zoh else (1.0, None)
                du_delta = (chunk.u * chunk.delta)[..., None]
                _add(dB, dh * phi * du_delta, chunk)
                dh_b = dh * chunk.B
                if zoh:
                    dx = dx + dh_b * du_delta * slope
                held = (dh_b * phi).sum(-1)
                du_chunk = held * chunk.delta
                ddelta_chunk = (dx * a).sum(-1) + held * chunk.u
                dA += (dx * chunk.delta[..., None]).sum((0, 1))
                if D is not None:
                    du_chunk = du_chunk + grad * D.view(groups, -1)
                du[rows, chunk.steps], ddelta[rows, chunk.steps] = du_chunk.flatten(2), ddelta_chunk.flatten(2)
            dh0[rows] = carry.flatten(1, 2)
        return du, ddelta, dA.flatten(0, 1), dB, dC, dD, dz, dh0, None, None, None, None


def _starts(length: int) -> range:
    """The first step of each chunk; there are about as many chunks as steps in one, so that neither takes much memory."""
    return range(0, length, max(16, math.isqrt(length)))


def _rows(batch: int, length: int, A: Tensor) -> Iterator[slice]:
    """The batch in parts whose states of one chunk take about BYTES."""
    steps = min(length, _starts(length).step) if length else 1
    size = max(1, BYTES // max(1, steps * A.numel() * A.element_size()))
    return (slice(first, min(first + size, batch)) for first in range(0, batch, size))


def _chunks(u, delta, B, C, z, rows, groups) -> Iterator[_Chunk]:
    def grouped(x: Tensor | None, steps: slice) -> Tensor | None:
        return None if x is None else x[rows, steps].unflatten(2, (groups, -1))

    def coefficients(x: Tensor, steps: slice) -> Tensor:
        if x.ndim == 2:
            return x.unflatten(0, (groups, -1))  # (G, P, N)
        x = x[rows, steps]
        return x[:, :, None, None] if x.ndim == 3 else x.unsqueeze(3)  # (b, c, G or 1, 1, N)

    starts = _starts(u.shape[1])
    for first in starts:
        steps = slice(first, min(first + starts.step, u.shape[1]))
        yield _Chunk(
            rows,
            steps,
            grouped(u, steps),
            grouped(delta, steps),
            coefficients(B, steps),
            coefficients(C, steps),
            grouped(z, steps),
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
    elif total.ndim == 3:
        total[chunk.rows, chunk.steps] = gradient.sum((2, 3))
    else:
        total[chunk.rows, chunk.steps] = gradient.sum(3)
