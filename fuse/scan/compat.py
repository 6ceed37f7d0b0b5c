"""The scan under mamba-ssm's name, signature and layout, for models that were written for its CUDA kernel.

    from mambavl.fuse.scan.compat import selective_scan_fn    # was: from mamba_ssm.ops...

They then run and train where `selective_scan` does: on a CPU too. Channels before steps, (B, D, L); B batch,
L steps, D channels, N states, G groups of channels that share B_t and C_t.
"""

from typing import Any

import torch
from torch import Tensor

from mambavl.fuse.scan import selective_scan


def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y (B, D, L) in u's dtype; with `return_last_state` also the last state (B, D, N).

    u, delta, z: (B, D, L); A: (D, N); B, C: (B, N, L), (B, G, N, L) or constant (D, N); D, delta_bias: (D,).
    Raises ValueError for complex states, which no Mamba has, and as `selective_scan` does.
    """
    if A.is_complex():
        raise ValueError("A is complex; this scan has real states alone, as Mamba's are")
    found = selective_scan(
        _Transposed.apply(u),
        _Transposed.apply(delta),
        A,
        _steps_first(B),
        _steps_first(C),
        D,
        None if z is None else _Transposed.apply(z),
        delta_bias,
        delta_softplus,
        return_last_state=return_last_state,
    )
    if isinstance(found, tuple):
        return _Turned.apply(found[0]), found[1]
    return _Turned.apply(found)


class _Transposed(torch.autograd.Function):
    """(B, D, L) -> (B, L, D), contiguous, and its gradient (B, D, L), with which others go on."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return _transposed(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        return _Transposed.apply(dy)


class _Turned(_Transposed):
    """(B, L, D) -> (B, D, L), as a view, and its gradient (B, L, D), contiguous, as the scan wants it."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.mT


def _transposed(x: Tensor) -> Tensor:
    """On a CPU PyTorch copies a transposed matrix in blocks, a batch of them number by number, which takes
    several times as long.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling() or not len(x) or not x[0].is_contiguous():
        return x.mT.contiguous()
    return torch.stack([matrix.mT.contiguous() for matrix in x])


def _steps_first(x: Tensor) -> Tensor:
    """(B, N, L) -> (B, L, N), (B, G, N, L) -> (B, L, G, N); a constant (D, N) stays."""
    return x if x.ndim == 2 else x.movedim(-1, 1)
