"""The readable selective scan: the recurrence as it is written, a step at a time. Slow, exact, runs anywhere;
the other backends are tested against it.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mambavl.fuse.scan.inputs import Options, ScanInputs, state_dtype, zero_outside


def unavailable() -> str | None:
    """Why this backend cannot run here; None: it runs wherever PyTorch does."""
    return None


def refuses(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why it does not take such tensors; None: it takes any."""
    return None


def scan(s: ScanInputs, A: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    """(y (B, L, D), or its masked mean (B, D); last state (B, D, N)) of one stream."""
    steps = _steps(s, A, options)
    state = _start(s, A)
    if not options.pooled:
        ys = []
        for h, y in steps:
            state = h
            ys.append(y)
        y = torch.stack(ys, dim=1).to(s.u.dtype) if ys else torch.zeros_like(s.u)
        return y, state
    total = torch.zeros_like(state[..., 0])
    for h, y in steps:
        state, total = h, total + y
    length = s.u.shape[1]
    if s.lengths is None:
        count = torch.full_like(total[:, 0], length)
    else:
        count = s.lengths.to(total).clamp(max=length)
    return (total / count.clamp(min=1)[:, None]).to(s.u.dtype), state


def _steps(s: ScanInputs, A: Tensor, options: Options) -> Iterator[tuple[Tensor, Tensor]]:
    """(h_t (B, D, N), y_t (B, D)) for t = 0 .. L-1; y_t is 0 and h_t unchanged at padding."""
    u, delta, B, C, D, z, delta_bias, lengths, _ = s
    _, length, channels = u.shape
    wide = state_dtype(u.dtype)
    u, delta, A, B, C = (x.to(wide) for x in (u, delta, A, B, C))
    if lengths is not None:
        # Zeros at padding, where a NaN may stand: `where`, not `*`, stops it, and its gradient.
        valid = (torch.arange(length, device=u.device) < lengths[:, None])[..., None]  # (B, L, 1)
        u, delta, B, C = (zero_outside(valid, x) for x in (u, delta, B, C))
        z = None if z is None else zero_outside(valid, z)
    if delta_bias is not None:
        delta = delta + delta_bias.to(wide)
    if options.softplus:
        delta = F.softplus(delta)
    if lengths is not None:
        delta = zero_outside(valid, delta)  # exp(0 A) = 1 keeps the state and 0 B u adds nothing
    h = _start(s, A)
    gates = None if z is None else F.silu(z.to(wide)).unbind(1)
    # unbind, not u[:, t]: the gradient of a slice is a whole tensor of zeros, L times over
    steps = zip(
        u.unbind(1),
        delta.unbind(1),
        _by_step(B, length, channels),
        _by_step(C, length, channels),
        strict=True,
    )
    for t, (u_t, delta_t, b, c) in enumerate(steps):  # (B, D), (B, D), and b, c ready to meet (B, D, N)
        decay = delta_t[..., None] * A
        gain = delta_t[..., None]
        if options.zoh:
            gain = gain * _phi(decay)  # eq. 2: Bbar = (delta A)^-1 (exp(delta A) - 1) delta B
        h = torch.exp(decay) * h + gain * b * u_t[..., None]  # eq. 3: h_t = Abar h_{t-1} + Bbar u_t
        y = (h * c).sum(-1)  # eq. 3: y_t = C_t h_t
        if D is not None:
            y = y + D.to(wide) * u_t
        if gates is not None:
            y = y * gates[t]
        yield h, y if lengths is None else torch.where(valid[:, t], y, 0.0)


def _phi(x: Tensor) -> Tensor:
    """(exp(x) - 1) / x, which is 1 at 0: exact ZOH is delta phi(delta A) B, and A may be 0."""
    small = x.abs() < 1e-2
    safe = torch.where(small, 1.0, x)
    return torch.where(small, 1 + x / 2 * (1 + x / 3 * (1 + x / 4)), torch.expm1(safe) / safe)


def _start(s: ScanInputs, A: Tensor) -> Tensor:
    """h before the first step, (B, D, N)."""
    wide = state_dtype(s.u.dtype)
    return (
        s.u.new_zeros(s.u.shape[0], *A.shape, dtype=wide)
        if s.initial_state is None
        else s.initial_state.to(wide)
    )


def _by_step(coefficients: Tensor, length: int, channels: int) -> Sequence[Tensor]:
    """B_t or C_t for every t: constant (D, N), per step (B, L, N), or per step and group (B, L, G, N)."""
    if coefficients.ndim == 2:
        return [coefficients] * length
    if coefficients.ndim == 3:
        return coefficients.unsqueeze(2).unbind(1)  # (B, 1, N)
    return coefficients.repeat_interleave(channels // coefficients.shape[2], dim=2).unbind(1)  # (B, D, N)
