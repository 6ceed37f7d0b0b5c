"""The selective scan on a GPU through Triton (triton_kernels.py): all streams in one launch, without `nvcc`.

It runs on NVIDIA and AMD. Inputs may be float32, bfloat16 or float16; the state is float32. Under
TRITON_INTERPRET=1 the same kernels run on a CPU, slowly: that is how they are tested where there is no GPU.
On a GPU a small case is computed first and compared with `chunked`; where it comes out different this backend
says so and is not taken.
"""

import importlib.util
import math
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from types import ModuleType
from typing import overload

import torch
from torch import Tensor

from mambavl.fuse.scan import chunked
from mambavl.fuse.scan.inputs import CHUNK, Options, ScanInputs, common_groups, expand_groups, sum_groups

FINE = 2  # steps whose states backward holds in registers; 4 no longer fit
BLOCK = 32  # channels of a program, which is one warp
PROGRAMS = 2048  # of backward, about; fixed, for partial sums are added in their order


def unavailable() -> str | None:
    """Why this backend cannot run here; None: it can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; it comes with PyTorch's builds for GPUs"
    if _interpreted():
        return None
    if not torch.cuda.is_available():
        return "there is no GPU"
    return _checked(torch.device("cuda", torch.cuda.current_device()))


def refuses(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why it does not take such tensors; None: it does."""
    if device.type != ("cpu" if _interpreted() else "cuda"):
        return f"it computes on a GPU and the tensors are on {device}"
    if dtype == torch.float64:
        return "it computes in float32 and the tensors are float64"
    return None if _interpreted() else _checked(device)


def forward(
    A: Tensor, streams: list[ScanInputs], options: Options, keep: bool
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(y, last state (B, N, D), checkpoints (B, chunks, N, D)) of each stream."""
    call = _Call(A, streams, options)
    ys, lasts, checkpoints = [], [], []
    for s in call.streams:
        batch, steps, channels = s.u.shape
        shape = (batch, channels) if options.pooled else (batch, steps, channels)
        ys.append(s.u.new_empty(shape) if s.lengths is None else s.u.new_zeros(shape))
        lasts.append(s.u.new_empty(batch, A.shape[1], channels, dtype=torch.float32))
        checkpoints.append(
            lasts[-1].new_empty(batch, -(-steps // CHUNK) if keep else 0, A.shape[1], channels)
        )
    noted = tuple(x if keep else None for x in checkpoints)
    if call.rows:
        with _on(A.device):
            _kernels().forward[(call.rows, call.blocks_in_all)](
                call.A,
                *call.columns,
                tuple(ys),
                tuple(lasts),
                noted,
                *call.sizes,
                **call.constants,
                num_warps=1,
            )
    return [(y.to(s.u.dtype), last, c) for y, last, c, s in zip(ys, lasts, checkpoints, streams, strict=True)]


def backward(
    A: Tensor,
    streams: list[ScanInputs],
    options: Options,
    checkpoints: list[Tensor],
    dys: list[Tensor],
    dlasts: list[Tensor | None],
) -> tuple[Tensor, list[ScanInputs]]:
    """dA, and the gradients of each stream."""
    call = _Call(A, streams, options)
    programs = max(1, min(call.rows, PROGRAMS // call.blocks_in_all))
    notes = -(-max(min(s.u.shape[1], CHUNK) for s in streams) // FINE)
    scratch = call.A.new_empty(programs * call.blocks_in_all * notes * call.padded_states * BLOCK)
    partial = lambda *shape: call.A.new_zeros(programs, *shape)
    da, own = partial(*call.A.shape), []
    for s in call.streams:
        new = torch.empty_like if s.lengths is None else torch.zeros_like
        by_step = (*s.u.shape[:2], call.blocks_in_all, A.shape[1])
        fresh = s.u.new_empty if s.lengths is None else s.u.new_zeros
        db, dc = (
            partial(*call.A.shape) if x.ndim == 2 else fresh(by_step, dtype=torch.float32) for x in (s.B, s.C)
        )
        dd, dbias = (None if x is None else partial(x.shape[0]) for x in (s.D, s.delta_bias))
        dz, dinitial = (None if x is None else new(x) for x in (s.z, s.initial_state))
        own.append(ScanInputs(new(s.u), new(s.delta), db, dc, dd, dz, dbias, None, dinitial))
    made = _columns(own)
    if call.rows:
        tensors = call.columns[:8] + tuple(
            tuple(_ready(x) for x in column) for column in (checkpoints, dys, dlasts)
        )
        with _on(A.device):
            _kernels().backward[(programs, call.blocks_in_all)](
                call.A, *tensors, scratch, da, *made[:7], made[8], *call.sizes, notes,
                **call.constants, FINE=FINE, num_warps=1,
            )  # fmt: skip
    gradients = []
    for s, g in zip(streams, own, strict=True):
        db, dc = (_total(x, like, call.groups) for x, like in ((g.B, s.B), (g.C, s.C)))
        dd, dbias = (None if x is None else x.sum(0) for x in (g.D, g.delta_bias))
        dinitial = None if g.initial_state is None else g.initial_state.mT
        gradients.append(ScanInputs(g.u, g.delta, db, dc, dd, g.z, dbias, None, dinitial))
    return da.sum(0).t(), gradients


class _Call:
    """A call's tensors as triton_kernels.py wants them, and how the work is shared out."""

    def __init__(self, A: Tensor, streams: list[ScanInputs], options: Options) -> None:
        channels, states = A.shape
        self.A, self.groups = _ready(A.t().float()), common_groups(streams)
        self.padded_states = 1 << (states - 1).bit_length()  # Triton's tiles are powers of two
        width = channels // self.groups
        blocks = -(-width // BLOCK)
        self.blocks_in_all, self.rows = self.groups * blocks, sum(s.u.shape[0] for s in streams)
        self.streams = [
            ScanInputs(
                _ready(s.u), _ready(s.delta),
                _ready(expand_groups(s.B, self.groups)), _ready(expand_groups(s.C, self.groups)),
                _ready(s.D), _ready(s.z), _ready(s.delta_bias), _ready(s.lengths),
                None if s.initial_state is None else _ready(s.initial_state.mT.float()),
            )
            for s in streams
        ]  # fmt: skip
        self.columns = _columns(self.streams)
        batches, steps = tuple(s.u.shape[0] for s in streams), tuple(s.u.shape[1] for s in streams)
        self.sizes = (batches, steps, states, channels, self.groups, width, blocks)
        self.constants = {
            "SOFTPLUS": options.softplus, "ZOH": options.zoh, "POOLED": options.pooled,
            "CONSTANT_B": tuple(s.B.ndim == 2 for s in streams),
            "CONSTANT_C": tuple(s.C.ndim == 2 for s in streams),
            "STREAMS": len(streams), "N": self.padded_states, "BLOCK": BLOCK, "CHUNK": CHUNK,
        }  # fmt: skip


def _columns(streams: list[ScanInputs]) -> tuple[tuple[Tensor | None, ...], ...]:
    """Tensors by name, one entry for each stream, in the order of triton_kernels.py: u, delta, B, C, D, z,
    delta_bias, lengths, h_0.
    """
    return tuple(zip(*streams, strict=True))


def _total(partial: Tensor, like: Tensor, groups: int) -> Tensor:
    """The gradient of B or C from the partial sums: over rows (programs, N, D), or over channels (B, L,
    groups * blocks, N).
    """
    return sum_groups(partial.sum(0) if like.ndim == 2 else partial.unflatten(2, (groups, -1)).sum(3), like)


@overload
def _ready(x: Tensor) -> Tensor: ...
@overload
def _ready(x: None) -> None: ...
def _ready(x: Tensor | None) -> Tensor | None:
    """As the kernels read it: contiguous, without a gradient."""
    return None if x is None else x.detach().contiguous()


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


def _on(device: torch.device) -> AbstractContextManager:
    """Triton launches on the current device, whatever the tensors' own is."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@cache
def _kernels() -> ModuleType:
    from mambavl.fuse.scan import triton_kernels  # imports Triton, which takes a moment and may be absent

    return triton_kernels


@cache
def _checked(device: torch.device) -> str | None:
    """What is wrong with Triton's results on a device, found out once; None: nothing. In a thread of its own,
    where no transform, dispatch mode or default device of the caller's is in force."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_wrong, device).result()


def _wrong(device: torch.device) -> str | None:
    """Compares a small case of two streams with `chunked`: what is wrong with it, or None."""
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float32).to(device)
    A, options = -torch.exp(draw(40, 16)), Options(softplus=True)
    by_channel, by_state = lambda *rows: draw(*rows, 40), lambda *rows: draw(*rows, 16)
    long, short = (2, 70), (3, 9)  # rows, steps; 70 crosses two borders of chunks
    streams = [
        ScanInputs(
            by_channel(*long), by_channel(*long), by_state(*long), by_state(*long),
            D=by_channel(), z=by_channel(*long), delta_bias=by_channel(),
        ),
        ScanInputs(
            by_channel(*short), by_channel(*short), by_state(*short), by_state(*short),
            lengths=torch.tensor([9, 0, 5], device=device),
        ),
    ]  # fmt: skip
    dys = [draw(*s.u.shape) for s in streams]
    found = []
    for backend in (forward, backward), (chunked.forward, chunked.backward):
        try:
            columns = zip(*backend[0](A, streams, options, True), strict=True)
            ys, lasts, checkpoints = (list(column) for column in columns)
            da, gradients = backend[1](A, streams, options, checkpoints, dys, [None, None])
        # a compiler's, a driver's: whatever it is, it is shown and this backend is not taken
        except Exception as error:
            first_line = str(error).strip().splitlines()[0][:200]
            return f"Triton failed on {device}: {type(error).__name__}: {first_line}"
        found.append([*ys, *lasts, da, *(x for stream in gradients for x in stream if x is not None)])
    worst = max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(*found, strict=True))
    if worst < 1e-4 and math.isfinite(worst):
        return None
    return f"Triton's results on {device} are off by {worst:.1e}"
