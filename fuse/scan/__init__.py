"""Selective scan: one recurrence, behind one signature.

    h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t        y_t = C_t h_t  (+ D u_t)  (times silu(z_t))

B batch, L steps (frames or tokens), D channels, N states a channel, G groups of channels that share B_t and
C_t. A is a parameter; delta, B and C follow the input. Layout: steps before channels, (B, L, D), as the
features come.
"""

import logging
from collections.abc import Sequence
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from mambavl.configs.errors import UsageError, did_you_mean
from mambavl.fuse.scan import chunked, cpu, mamba, operator, reference, triton
from mambavl.fuse.scan.inputs import MAX_STATES, Options, ScanInputs

__all__ = [
    "BACKENDS",
    "ScanInputs",
    "available_backends",
    "pick",
    "pooled_selective_scan",
    "pooled_selective_scans",
    "require",
    "selective_scan",
]

BACKENDS: dict[str, ModuleType] = {
    "reference": reference,
    "chunked": chunked,
    "cpu": cpu,
    "triton": triton,
    "mamba": mamba,
}
# the first that is available and takes the tensors
AUTO_ORDER = {"cuda": ("triton", "chunked"), "cpu": ("cpu", "chunked")}
FORMS = {  # axes of each input; G, groups of channels, divides D
    "u": ["BLD"], "delta": ["BLD"], "B": ["BLN", "BLGN", "DN"], "C": ["BLN", "BLGN", "DN"],
    "D": ["D"], "z": ["BLD"], "delta_bias": ["D"], "lengths": ["B"], "initial_state": ["BDN"],
}  # fmt: skip

log = logging.getLogger(__name__)


def available_backends() -> dict[str, str]:
    """Backend -> "ok", or the reason why it cannot run here."""
    return {name: module.unavailable() or "ok" for name, module in BACKENDS.items()}


def pick(
    backend: str = "auto", device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> str:
    """The backend that `backend` stands for, for tensors of this device and dtype.

    One that is asked for by name is never replaced by another: UsageError instead. What `auto` takes is
    logged once, as a warning where it had to pass over a faster one.
    """
    device = torch.device(device)
    if backend == "auto":
        passed_over: list[str] = []
        for name in AUTO_ORDER.get(device.type, ("chunked",)):
            missing, refused = BACKENDS[name].unavailable(), BACKENDS[name].refuses(device, dtype)
            if not missing and not refused:
                _say_once(name, device.type, "; ".join(passed_over))
                return name
            passed_over += [f"{name}: {missing}"] if missing else []
    reason = _missing(backend) or BACKENDS[backend].refuses(device, dtype)
    if reason:
        raise UsageError(f'scan backend "{backend}" was asked for, but {reason}; or use "auto"')
    return backend


# What torch.compiler.assume_constant_result does, which would import the whole compiler: 1.1 s of CPU in each
# command, also where nothing is trained.
pick._dynamo_marked_constant = True  # type: ignore[attr-defined]


def require(backend: str) -> None:
    """Raises UsageError, before there are tensors, where a backend asked for by name is unknown or cannot run
    here.
    """
    if backend != "auto" and (reason := _missing(backend)):
        raise UsageError(f'scan backend "{backend}" was asked for, but {reason}; or use "auto"')


def _missing(backend: str) -> str | None:
    if backend not in BACKENDS:
        raise UsageError(f"there is no scan backend {backend!r}{did_you_mean(backend, ['auto', *BACKENDS])}")
    return BACKENDS[backend].unavailable()


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
    """The scan's output y (B, L, D) in u's dtype (eq. 3); with `return_last_state` also the state (B, D, N)
    after each row's last step.

    u, delta, z: (B, L, D); A: (D, N); B, C: (B, L, N), (B, L, G, N) or constant (D, N); D, delta_bias: (D,);
    initial_state: (B, D, N). lengths (B,): steps from there on are padding: they leave the state alone and y
    is 0 there. zoh: the exact zero-order hold for B, (exp(delta A) - 1) / A B (paper, eq. 2), in place of
    Mamba's delta B. The state is kept in float32, in float64 for float64 inputs. Training through the
    reference keeps every step's (B, D, N) state: at 1,569 tokens, B = 128, D = 1,536, N = 16 about 70 GB
    (measured by rows); the others keep that of one step in 32. Raises ValueError for shapes, dtypes and
    devices that do not go together.
    """
    stream = ScanInputs(u, delta, B, C, D, z, delta_bias, lengths, initial_state)
    [(y, last)] = _scan([stream], A, Options(delta_softplus, zoh, state=return_last_state), backend)
    return (y, last) if return_last_state else y


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
    """The mean (B, D) of `selective_scan` over each row's valid steps, without ever writing (B, L, D); 0 for
    an empty row.
    """
    stream = ScanInputs(u, delta, B, C, D, z, delta_bias, lengths, initial_state)
    return pooled_selective_scans([stream], A, delta_softplus, zoh=zoh, backend=backend)[0]


def pooled_selective_scans(
    streams: Sequence[ScanInputs],
    A: Tensor,
    delta_softplus: bool = False,
    *,
    zoh: bool = False,
    backend: str = "auto",
) -> list[Tensor]:
    """`pooled_selective_scan` of several streams that share A, each with its own B and L: (B, D) for each.

    On a GPU in one launch, with one dA.
    """
    return [mean for mean, _ in _scan(list(streams), A, Options(delta_softplus, zoh, pooled=True), backend)]


def _scan(
    streams: list[ScanInputs], A: Tensor, options: Options, backend: str
) -> list[tuple[Tensor, Tensor]]:
    """(y or its mean, last state) of each stream; a state that is not asked for may have no numbers."""
    _check(streams, A)
    device = A.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        streams = [_lowered(s, dtype) for s in streams]
    name = pick(backend, A.device, streams[0].u.dtype)
    if name in operator.KERNELS:
        return operator.scan(streams, A, options, name)
    return [BACKENDS[name].scan(s, A, options) for s in streams]


def _lowered(s: ScanInputs, dtype: torch.dtype) -> ScanInputs:
    """What autocast computes with: u, delta, B, C and z in its dtype; the rest stays wide."""
    to = lambda x: x if x.dtype == torch.float64 else x.to(dtype)
    z = None if s.z is None else to(s.z)
    return s._replace(u=to(s.u), delta=to(s.delta), B=to(s.B), C=to(s.C), z=z)


def _check(streams: list[ScanInputs], A: Tensor) -> None:
    """Kernels read raw memory: shapes, dtypes and devices that do not fit are refused here by name. Raises
    ValueError.
    """
    if not streams:
        raise ValueError("there is no stream to scan")
    if A.ndim != 2 or not 1 <= A.shape[1] <= MAX_STATES or not A.shape[0]:
        raise ValueError(f"A is {tuple(A.shape)}; it is (D, N), with 1 to {MAX_STATES} states N a channel")
    for s in streams:
        if s.u.ndim != 3 or s.u.shape[2] != A.shape[0]:
            raise ValueError(f"u is {tuple(s.u.shape)} and A {tuple(A.shape)}; they are (B, L, D) and (D, N)")
        if s.u.dtype != streams[0].u.dtype:
            raise ValueError(
                f"u is {s.u.dtype} in one stream and {streams[0].u.dtype} in another; "
                "streams that are scanned together have one dtype"
            )
        batch, steps, channels = s.u.shape
        sizes = {"B": batch, "L": steps, "D": channels, "N": A.shape[1]}
        for name, x in zip(ScanInputs._fields, s, strict=True):
            if x is None:
                continue
            if not any(_has_form(x, form, sizes) for form in FORMS[name]):
                allowed = " or ".join(f"({', '.join(form)})" for form in FORMS[name])
                known = ", ".join(f"{axis} = {size}" for axis, size in sizes.items())
                raise ValueError(f"{name} is {tuple(x.shape)}; it is {allowed}, with {known}")
            if x.ndim == 4 and (x.shape[2] < 1 or channels % x.shape[2]):
                groups = x.shape[2]
                raise ValueError(
                    f"{name} is {tuple(x.shape)}: {channels} channels are not {groups} groups of equal size"
                )
            if x.device != A.device:
                raise ValueError(f"{name} is on {x.device} and A on {A.device}")
            if x.is_floating_point() == (name == "lengths") or x.is_complex():
                kind = "an integer" if name == "lengths" else "a real floating-point"
                raise ValueError(f"{name} is {x.dtype}; it is {kind} type")
    if not A.is_floating_point():
        raise ValueError(f"A is {A.dtype}; it is a real floating-point type")


def _has_form(x: Tensor, form: str, sizes: dict[str, int]) -> bool:
    """Whether x has the axes of `form`, such as BLD; an axis that is not in `sizes` may have any size."""
    if x.ndim != len(form):
        return False
    return all(x.shape[i] == sizes.get(axis, x.shape[i]) for i, axis in enumerate(form))


@cache
def _say_once(name: str, device: str, passed_over: str) -> None:
    if passed_over:
        log.warning("selective scan on %s: %s, which is slower (%s)", device, name, passed_over)
    else:
        log.info("selective scan on %s: %s", device, name)
