"""The readable selective scan: the recurrence as it is written, a step at a time. Slow, exact, anywhere; it judges the others."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


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
    state, ys = _start(u, A, initial_state), []
    for h, y in _steps(u, delta, A, B, C, D, z, delta_bias, delta_softplus, lengths, initial_state, zoh):
        state = h
        ys.append(y)
    out = torch.stack(ys, dim=1).to(u.dtype) if ys else torch.zeros_like(u)
    return (out, state) if return_last_state else out


def pooled_selective_scan(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, *,
    lengths=None, initial_state=None, zoh=False,
):  # fmt: skip
    """See `mambavl.fuse.scan.pooled_selective_scan`."""
    total = torch.zeros(u.shape[0], u.shape[2], dtype=_wide(u.dtype), device=u.device)
    for _, y in _steps(u, delta, A, B, C, D, z, delta_bias, delta_softplus, lengths, initial_state, zoh):
        total = total + y
    length = u.shape[1]
    count = torch.full_like(total[:, 0], length) if lengths is None else lengths.to(total).clamp(max=length)
    return (total / count.clamp(min=1)[:, None]).to(u.dtype)


def _steps(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    lengths: Tensor | None,
    h: Tensor | None,
    zoh: bool,
) -> Iterator[tuple[Tensor, Tensor]]:
    """(h_t (B, D, N), y_t (B, D)) for t = 0 .. L-1; y_t is 0 and h_t unchanged at padding."""
    _, length, channels = u.shape
    wide = _wide(u.dtype)
    u, delta, A, B, C = (x.to(wide) for x in (u, delta, A, B, C))
    if delta_bias is not None:
        delta = delta + delta_bias.to(wide)
    if delta_softplus:
        delta = F.softplus(delta)
    if lengths is not None:
        # Zeros at padding: exp(0 A) = 1 keeps the state and 0 B u adds nothing. `where`, not `*`, stops a NaN that stands there.
        valid = (torch.arange(length, device=u.device) < lengths.to(u.device)[:, None])[..., None]  # (B, L, 1)
        u, delta, B, C, z = (None if x is None else _zero_outside(valid, x) for x in (u, delta, B, C, z))
    h = _start(u, A, h)
    gates = None if z is None else F.silu(z.to(wide)).unbind(1)
    # unbind, not u[:, t]: the gradient of a slice is a whole tensor of zeros, L times over
    steps = zip(u.unbind(1), delta.unbind(1), _by_step(B, length, channels), _by_step(C, length, channels), strict=True)
    for t, (u_t, delta_t, b, c) in enumerate(steps):  # (B, D), (B, D), and b, c ready to meet (B, D, N)
        decay = delta_t[..., None] * A
        gain = delta_t[..., None] * _phi(decay) if zoh else delta_t[..., None]
        h = torch.exp(decay) * h + gain * b * u_t[..., None]
        y = (h * c).sum(-1)
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


def _start(u: Tensor, A: Tensor, initial_state: Tensor | None) -> Tensor:
    """h before the first step, (B, D, N)."""
    if initial_state is not None:
        return initial_state.to(_wide(u.dtype))
    return torch.zeros(u.shape[0], *A.shape, dtype=_wide(u.dtype), device=u.device)


def _zero_outside(valid: Tensor, x: Tensor) -> Tensor:
    """`x` (B, L, ...) with zeros where `valid` (B, L, 1) is false; constants (D, N) as they are."""
    return x if x.ndim == 2 else torch.where(valid if x.ndim == 3 else valid[..., None], x, 0.0)


def _by_step(coefficients: Tensor, length: int, channels: int) -> Sequence[Tensor]:
    """B_t or C_t for every t: constant (D, N), per step (B, L, N), or per step and group (B, L, G, N)."""
    if coefficients.ndim == 2:
        return [coefficients] * length
    if coefficients.ndim == 3:
        return coefficients.unsqueeze(2).unbind(1)  # (B, 1, N)
    return coefficients.repeat_interleave(channels // coefficients.shape[2], dim=2).unbind(1)  # (B, D, N)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """What the state is kept in: never less than float32."""
    return torch.promote_types(dtype, torch.float32)
