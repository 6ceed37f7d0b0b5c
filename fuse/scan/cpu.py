"""The selective scan on a CPU through scan.c: forward and backward, tens of times the speed of loops over
tensors.

The same install builds it where a C compiler is at hand; `doctor` says so where none was. Threads are the
library's own, as many as torch uses, and begin and end with a call (ctypes releases the interpreter's lock):
nothing here meets torch's OpenMP. Rows of the batch are cut into parts (`fuse.parts`); the same number of
threads gives the same bits. Where u, delta, z
and B and C by step are all bfloat16 or all float16 they are read as they are, and y and their gradients
written so; where their dtypes differ they are widened to float32 first. The rest is float32: state, sums, A,
D.
"""

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import overload

import torch
from torch import Tensor

from mambavl.cache.native import load
from mambavl.configs.errors import UsageError
from mambavl.fuse.parts import cut, parts_of, threads_for
from mambavl.fuse.scan.inputs import CHUNK, Options, ScanInputs, common_groups, expand_groups, sum_groups

VERSION, NO_MEMORY = 5, 1  # of scan.c
ALONE = 2**18  # states over all steps; a thread is not made for fewer, which take a tenth of a ms
TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
INSTRUCTIONS = {"baseline": 1, "avx2": 2, "avx512": 3}
forced_instructions = 0  # 0: the best that this machine has; tests try the others
POINTERS_IN = ("u", "delta", "z", "a", "b", "c", "d", "bias", "lengths", "initial")
POINTERS_OUT = (
    "y",
    "last",
    "checkpoints",
    "dy",
    "dlast",
    "du",
    "ddelta",
    "dz",
    "db",
    "dc",
    "dinitial",
    "da",
    "dd",
    "dbias",
)


class _Part(ctypes.Structure):
    """`struct scan` of scan.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("steps", "channels", "states", "groups")),
        *((name, ctypes.c_int64) for name in ("first_row", "end_row", "from", "to")),
        *(
            (name, ctypes.c_int32)
            for name in ("softplus", "zoh", "constant_b", "constant_c", "pooled", "instructions", "type")
        ),
        *((name, ctypes.c_void_p) for name in (*POINTERS_IN, *POINTERS_OUT)),
    )


def unavailable() -> str | None:
    """Why this backend cannot run here; None: it can."""
    return _library()[1]


def refuses(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why it does not take such tensors; None: it does."""
    if device.type != "cpu":
        return f"it computes on the CPU and the tensors are on {device}"
    return "it computes in float32 and the tensors are float64" if dtype == torch.float64 else None


def forward(
    A: Tensor, streams: list[ScanInputs], options: Options, keep: bool
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(y, last state (B, N, D), checkpoints (B, chunks, N, D)) of each stream. The state is left out, (B, 0,
    D), where it is not asked for: where steps are few, writing it takes as long as writing y.
    """
    calls = [_Inputs(A, s, options) for s in streams]
    found = [_forward(call, keep) for call in calls]
    _run(calls, backward=False)
    return [
        (y.to(s.u.dtype), last, checkpoints) for s, (y, last, checkpoints) in zip(streams, found, strict=True)
    ]


def backward(
    A: Tensor,
    streams: list[ScanInputs],
    options: Options,
    checkpoints: list[Tensor],
    dys: list[Tensor],
    dlasts: list[Tensor | None],
) -> tuple[Tensor, list[ScanInputs]]:
    """dA, and the gradients of each stream."""
    calls = [_Inputs(A, s, options) for s in streams]
    given = zip(calls, streams, checkpoints, dys, dlasts, strict=True)
    gradients = [_backward(*each) for each in given]
    _run(calls, backward=True)
    found = [gather() for gather in gradients]
    return torch.stack([da for da, _ in found]).sum(0), [of for _, of in found]


def _forward(call: "_Inputs", keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    """y, the last state and the checkpoints of a stream, which are there once its parts have run."""
    batch, steps, channels = call.u.shape
    y = call.u.new_empty((batch, channels) if call.options.pooled else (batch, steps, channels))
    last = call.a.new_empty(batch, call.states if call.options.state else 0, channels)
    checkpoints = call.a.new_empty(batch, -(-steps // CHUNK) if keep else 0, call.states, channels)
    for part in call.cut():
        call.add(
            part, y=y, last=last if call.options.state else None, checkpoints=checkpoints if keep else None
        )
    return y, last, checkpoints


def _backward(
    call: "_Inputs", s: ScanInputs, checkpoints: Tensor, dy: Tensor, dlast: Tensor | None
) -> Callable[[], tuple[Tensor, ScanInputs]]:
    """Called once the parts have run: dA and the gradients of a stream."""
    parts = call.cut()
    du, ddelta = torch.empty_like(call.u), torch.empty_like(call.delta)
    dz, dinitial = (None if x is None else torch.empty_like(x) for x in (call.z, call.initial))
    whole = {
        "dy": _ready(dy, call.dtype), "dlast": _ready(dlast), "checkpoints": checkpoints,
        "du": du, "ddelta": ddelta, "dz": dz, "dinitial": dinitial,
    }  # fmt: skip
    # what several parts add to has a slice for each of them; the slices are added in their order
    cuts = len({part[2:] for part in parts})  # ways in which the channels were cut
    sliced = lambda slices, shape: call.a.new_zeros(slices, *shape)
    da = sliced(len(parts), call.a.shape)
    db = sliced(len(parts) if call.constant_b else cuts, call.b.shape)
    dc = sliced(len(parts) if call.constant_c else cuts, call.c.shape)
    dd, dbias = (None if x is None else sliced(len(parts), x.shape) for x in (s.D, s.delta_bias))
    sums = {"da": da, "db": db, "dc": dc, "dd": dd, "dbias": dbias}
    for number, part in enumerate(parts):
        own = {name: None if total is None else total[number % len(total)] for name, total in sums.items()}
        call.add(part, **whole, **own)
    return lambda: (
        da.sum(0).t(),
        ScanInputs(
            du,
            ddelta,
            sum_groups(db.sum(0), s.B),
            sum_groups(dc.sum(0), s.C),
            None if dd is None else dd.sum(0),
            dz,
            None if dbias is None else dbias.sum(0),
            None,
            None if dinitial is None else dinitial.mT,
        ),
    )


def _run(calls: list["_Inputs"], backward: bool) -> None:
    """All parts of all calls, by as many threads as torch uses."""
    parts = [part for call in calls for part in call.parts]
    threads = threads_for(sum(call.work for call in calls), ALONE)
    code = _loaded().mambavl_scan_run((_Part * len(parts))(*parts), len(parts), threads, backward)
    if code == NO_MEMORY:
        raise MemoryError("the scan found no memory for its states")
    if code:
        raise RuntimeError(f"this machine lacks instruction set {forced_instructions}, which was asked for")


def instructions() -> str:
    """The instruction set that is used here: baseline, avx2 or avx512."""
    best = _loaded().mambavl_scan_instructions()
    return next(name for name, number in INSTRUCTIONS.items() if number == best)


def _loaded() -> ctypes.CDLL:
    """The library. Raises UsageError where it cannot be used; `pick` asks `unavailable` first."""
    library, reason = _library()
    if library is None:
        raise UsageError(f'scan backend "cpu" was asked for, but {reason}')
    return library


@cache
def _library() -> tuple[ctypes.CDLL | None, str | None]:
    library, reason = load(Path(__file__).parent, "scan", VERSION)
    if library is None:
        return None, reason
    if library.mambavl_scan_chunk() != CHUNK:
        return None, "its library was built from another version of mambavl; reinstall mambavl"
    library.mambavl_scan_run.argtypes = [
        ctypes.POINTER(_Part),
        ctypes.c_int32,
        ctypes.c_int32,
        ctypes.c_int32,
    ]
    return library, None


class _Inputs:
    """The tensors of a call as scan.c wants them, and how the work is shared out."""

    def __init__(self, A: Tensor, s: ScanInputs, options: Options) -> None:
        self.batch, self.steps, self.channels = s.u.shape
        self.states = A.shape[1]
        self.work = self.batch * self.steps * self.channels * self.states
        self.constant_b, self.constant_c = s.B.ndim == 2, s.C.ndim == 2
        self.groups = common_groups([s])
        by_step = [x for x in (s.u, s.delta, s.z, s.B, s.C) if x is not None and x.ndim > 2]
        self.dtype = s.u.dtype if len({x.dtype for x in by_step}) == 1 else torch.float32
        self.options = options
        flags = {key: getattr(options, key) for key in ("softplus", "zoh", "pooled")}
        self.flags = {**flags, "instructions": forced_instructions, "type": TYPES[self.dtype]}
        self.u, self.delta = _ready(s.u, self.dtype), _ready(s.delta, self.dtype)
        self.z = _ready(s.z, self.dtype)
        self.a = _ready(A.t())
        self.b, self.c = (
            _ready(expand_groups(x, self.groups), torch.float32 if x.ndim == 2 else self.dtype)
            for x in (s.B, s.C)
        )
        self.initial = None if s.initial_state is None else _ready(s.initial_state.mT)
        self.tensors: dict[str, Tensor | None] = {
            "u": self.u, "delta": self.delta, "z": self.z, "a": self.a, "b": self.b, "c": self.c,
            "d": _ready(s.D), "bias": _ready(s.delta_bias), "initial": self.initial,
            "lengths": None if s.lengths is None else s.lengths.to(torch.int64).contiguous(),
        }  # fmt: skip
        self.parts: list[_Part] = []
        self.kept: list[dict[str, Tensor | None]] = []  # what the parts point into

    def cut(self) -> list[tuple[int, int, int, int]]:
        """(first row, row after the last, first channel, channel after the last) of each part."""
        threads = threads_for(self.work, ALONE)
        rows = parts_of(self.batch, self.steps, threads)
        lanes = 16  # cuts lie where no vector is torn
        cuts = max(1, min(threads // max(len(rows), 1), self.channels // lanes))
        channels = [
            (lanes * a, min(lanes * b, self.channels)) for a, b in cut(-(-self.channels // lanes), cuts)
        ]
        return [(*row, *channel) for row in rows for channel in channels]

    def add(self, part: tuple[int, int, int, int], **out: Tensor | None) -> None:
        tensors = {**self.tensors, **out}
        pointers = {name: None if x is None else x.data_ptr() for name, x in tensors.items()}
        sizes = {"steps": self.steps, "channels": self.channels, "states": self.states, "groups": self.groups}
        constant = {"constant_b": self.constant_b, "constant_c": self.constant_c}
        own = dict(zip(("first_row", "end_row", "from", "to"), part, strict=True))
        self.parts.append(_Part(**sizes, **constant, **self.flags, **own, **pointers))
        self.kept.append(tensors)


@overload
def _ready(x: Tensor, dtype: torch.dtype = ...) -> Tensor: ...
@overload
def _ready(x: None, dtype: torch.dtype = ...) -> None: ...
def _ready(x: Tensor | None, dtype: torch.dtype = torch.float32) -> Tensor | None:
    """As scan.c reads it: contiguous, without a gradient."""
    return None if x is None else x.detach().to(dtype).contiguous()
