"""mamba-ssm's CUDA scan behind our signature, where it is installed; imported only then.

It has one layout, steps last, and knows neither lengths nor an initial state nor exact ZOH, and no gradient
passes through its last state. Lengths are emulated: delta is made to vanish at padding, which keeps the
state. The rest is refused by name.
"""

import importlib
import importlib.util
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from mambavl.configs.errors import UsageError
from mambavl.fuse.scan.inputs import Options, ScanInputs, common_groups, expand_groups, zero_outside

VANISHING = -1e4  # softplus of it is 0 exactly, whatever the bias


def unavailable() -> str | None:
    """Why this backend cannot run here; None: it can. A broken install is reported in its own words."""
    if importlib.util.find_spec("mamba_ssm") is None:
        return "mamba-ssm is not installed (extra `cuda`)"
    if not torch.cuda.is_available():
        return "there is no GPU"
    return _import()[1]


def refuses(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why it does not take such tensors; None: it does."""
    if device.type != "cuda":
        return f"it computes on a GPU and the tensors are on {device}"
    return "it computes in float32 and the tensors are float64" if dtype == torch.float64 else None


def scan(s: ScanInputs, A: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    """(y (B, L, D), or its masked mean (B, D); last state (B, D, N)) of one stream. Raises UsageError for
    what it cannot do.
    """
    for name, there in (("initial_state", s.initial_state is not None), ("zoh", options.zoh)):
        if there:
            raise UsageError(f'scan backend "mamba" knows no {name}; use "auto"')
    selective_scan_fn, reason = _import()
    if selective_scan_fn is None:
        raise UsageError(f'scan backend "mamba" was asked for, but {reason}; or use "auto"')
    batch, length, channels = s.u.shape
    dtype = s.u.dtype
    if not batch or not length:  # its kernel cannot be launched on nothing
        y = s.u.new_zeros((batch, channels) if options.pooled else s.u.shape)
        return y, s.u.new_zeros(batch, *A.shape, dtype=torch.float32)
    u, delta, B, C, z, bias = s.u, s.delta, s.B, s.C, s.z, s.delta_bias
    valid = None
    if s.lengths is not None:
        valid = (torch.arange(length, device=u.device) < s.lengths[:, None])[..., None]  # (B, L, 1)
        if not options.softplus and bias is not None:
            delta, bias = delta + bias, None
        delta = torch.where(valid, delta, VANISHING if options.softplus else 0.0)
        u = torch.where(valid, u, 0.0)
        z = None if z is None else torch.where(valid, z, 0.0)
        B, C = zero_outside(valid, B), zero_outside(valid, C)
    steps_last = lambda x: None if x is None else x.to(dtype).movedim(1, -1).contiguous()
    coefficient = lambda x: x.float() if x.ndim == 2 else steps_last(x)  # (D, N); (B, N, L); (B, G, N, L)
    wide = lambda x: None if x is None else x.float()
    if B.ndim > 2 and C.ndim > 2:
        groups = common_groups([s])
        B, C = expand_groups(B, groups), expand_groups(C, groups)  # it takes one number of groups for both
    elif B.ndim == 2 and C.ndim == 4 and C.shape[2] > 1:
        raise UsageError('scan backend "mamba" knows no constant B with groups of C; use "auto"')
    y, last = selective_scan_fn(
        steps_last(u),
        steps_last(delta),
        A.float(),
        coefficient(B),
        coefficient(C),
        wide(s.D),
        steps_last(z),
        wide(bias),
        options.softplus,
        return_last_state=True,
    )
    y = y.movedim(-1, 1)
    if valid is not None:
        y = torch.where(valid, y, 0.0)
    if options.pooled:
        count = length if s.lengths is None else s.lengths.clamp(1, max(1, length))[:, None]
        y = (y.float().sum(1) / count).to(dtype)
    return y, _NoGradient.apply(last.float())


class _NoGradient(torch.autograd.Function):
    """The last state, which mamba-ssm lets no gradient through: an error then, not a gradient that is
    silently missing.
    """

    @staticmethod
    def forward(ctx: Any, last: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        return last.detach().clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> None:
        if gradient is not None:
            raise RuntimeError('scan backend "mamba" passes no gradient through the last state; use "auto"')
        return None


@cache
def _import() -> tuple[Callable | None, str | None]:
    try:
        return importlib.import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn, None
    except Exception as error:  # a compiled extension can fail in any way; its own words are what helps
        return None, f"mamba-ssm is installed but its scan cannot be loaded ({type(error).__name__}: {error})"
