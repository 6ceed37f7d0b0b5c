"""Selective scan: one recurrence, behind one signature.

    h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t        y_t = C_t h_t  (+ D u_t)  (times silu(z_t))

B batch, L steps (frames or tokens), D channels, N states a channel, G groups of channels that share B_t and C_t. A is a
parameter; delta, B and C follow the input. Layout: steps before channels, (B, L, D), as the features come.
"""

from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from mambavl.configs import did_you_mean
from mambavl.configs.errors import UsageError
from mambavl.fuse.scan import chunked, cpu, reference

BACKENDS: dict[str, ModuleType] = {"reference": reference, "chunked": chunked, "cpu": cpu}
AUTO_ORDER = ("cpu", "chunked")  # the first that is available and takes the tensors


def available_backends() -> dict[str, str]:
    """Backend -> "ok", or the reason why it cannot run here."""
    return {name: module.unavailable() or "ok" for name, module in BACKENDS.items()}


@torch.compiler.assume_constant_result
def pick(backend: str = "auto", device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> str:
    """The backend that `backend` stands for, for tensors of this device and dtype.

    One that is asked for by name is never replaced by another: UsageError instead.
    """
    device = torch.device(device)
    if backend == "auto":
        return next(name for name in AUTO_ORDER if not (BACKENDS[name].unavailable() or BACKENDS[name].refuses(device, dtype)))
    if backend not in BACKENDS:
        raise UsageError(f"there is no scan backend {backend!r}{did_you_mean(backend, ['auto', *BACKENDS])}")
    reason = BACKENDS[backend].unavailable() or BACKENDS[backend].refuses(device, dtype)
    if reason:
        raise UsageError(f'scan backend "{backend}" was asked for, but {reason}; or use "auto"')
    return backend


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    lengths: Tensor | None = None,
    initial_state: Tensor | None = None,
    return_last_state: bool = False,
    zoh: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """The scan's output y (B, L, D) in u's dtype; with `return_last_state` also the state (B, D, N) after each row's last step.

    u, delta, z: (B, L, D); A: (D, N); B, C: (B, L, N), (B, L, G, N) or constant (D, N); D, delta_bias: (D,);
    initial_state: (B, D, N). lengths (B,): steps from there on are padding: they leave the state alone and y is 0 there.
    zoh: the exact zero-order hold for B, (exp(delta A) - 1) / A B (paper, eq. 2), in place of Mamba's delta B. The state is
    kept in float32, in float64 for float64 inputs. Training through the reference keeps every step's (B, D, N) state: at 1,569
    tokens, B = 128, D = 1,536, N = 16 about 70 GB (measured by rows); the others keep that of one step in 32 to 64.
    """
    return _implementation(backend, u, "selective_scan")(
        u, delta, A, B, C, D, z, delta_bias, delta_softplus,
        lengths=lengths, initial_state=initial_state, return_last_state=return_last_state, zoh=zoh,
    )  # fmt: skip


def pooled_selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    lengths: Tensor | None = None,
    initial_state: Tensor | None = None,
    zoh: bool = False,
    backend: str = "auto",
) -> Tensor:
    """The mean (B, D) of `selective_scan` over each row's valid steps, without ever writing (B, L, D); 0 for an empty row."""
    return _implementation(backend, u, "pooled_selective_scan")(
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, lengths=lengths, initial_state=initial_state, zoh=zoh
    )


def _implementation(backend: str, u: Tensor, function: str) -> Callable:
    return getattr(BACKENDS[pick(backend, u.device, u.dtype)], function)
