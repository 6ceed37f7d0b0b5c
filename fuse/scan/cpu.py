"""The selective scan on a CPU through scan.c: forward and backward, a few times the speed of any loop over tensors.

The same install builds it where a C compiler is at hand; `doctor` says so where none was. Threads are Python's own, one call of
the library each (ctypes releases the interpreter's lock), as many as torch uses: nothing here meets torch's OpenMP. Rows of the
batch are shared out in a fixed way, and sums over rows are added in the order of the threads, so that the same number of threads
gives the same bits. Inputs of lower precision are widened to float32 first; the state is float32.
"""

import ctypes
import math
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mambavl.cache.native import load

VERSION, CHUNK = 1, 32  # of scan.c
INSTRUCTIONS = {"baseline": 1, "avx2": 2, "avx512": 3}
forced_instructions = 0  # 0: the best that this machine has; tests try the others
POINTERS_IN = ("u", "delta", "z", "a", "b", "c", "d", "bias", "lengths", "initial")
POINTERS_OUT = ("y", "last", "checkpoints", "dy", "dlast", "du", "ddelta", "dz", "db", "dc", "dinitial", "da", "dd", "dbias")


class _Call(ctypes.Structure):
    """`struct scan` of scan.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("steps", "channels", "states", "groups", "from", "to")),
        *((name, ctypes.c_int32) for name in ("softplus", "zoh", "constant_b", "constant_c", "pooled", "instructions")),
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


def selective_scan(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, *,
    lengths=None, initial_state=None, return_last_state=False, zoh=False,
):  # fmt: skip
    """See `mambavl.fuse.scan.selective_scan`."""
    y, last, _ = _apply(u, delta, A, B, C, D, z, delta_bias, lengths, initial_state, delta_softplus, zoh, False)
    return (y, last.transpose(1, 2)) if return_last_state else y


def pooled_selective_scan(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, *,
    lengths=None, initial_state=None, zoh=False,
):  # fmt: skip
    """See `mambavl.fuse.scan.pooled_selective_scan`."""
    return _apply(u, delta, A, B, C, D, z, delta_bias, lengths, initial_state, delta_softplus, zoh, True)[0]


def _apply(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    going_back = torch.is_grad_enabled() and any(x.requires_grad for x in inputs if isinstance(x, Tensor))
    return forward(*inputs, going_back)


# --- as PyTorch sees it: two operators with shapes and gradients, so that torch.compile and autograd know what they are


@torch.library.custom_op("mambavl::scan_cpu", mutates_args=(), device_types="cpu")
def forward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, delta_bias: Tensor | None,
    lengths: Tensor | None, initial_state: Tensor | None, delta_softplus: bool, zoh: bool, pooled: bool, keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """(y, last state (B, N, D), checkpoints): `keep` fills the checkpoints, which backward needs; else they are empty."""
    call = _Inputs(u, delta, A, B, C, D, z, delta_bias, lengths, initial_state, delta_softplus, zoh, pooled)
    y, last, checkpoints = (x.float() for x in _outputs(u, A, pooled, keep))
    for part in call.parts():
        call.add(part, y=y, last=last, checkpoints=checkpoints if keep else None)
    call.run(backward=False)
    return y.to(u.dtype), last, checkpoints


@forward.register_fake
def _(u, delta, A, B, C, D, z, delta_bias, lengths, initial_state, delta_softplus, zoh, pooled, keep):
    return _outputs(u, A, pooled, keep)


def _outputs(u: Tensor, A: Tensor, pooled: bool, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    batch, steps, channels = u.shape
    last = u.new_empty(batch, A.shape[1], channels, dtype=torch.float32)
    checkpoints = last.new_empty(batch, -(-steps // CHUNK) if keep else 0, A.shape[1], channels)
    return u.new_empty((batch, channels) if pooled else (batch, steps, channels)), last, checkpoints


@torch.library.custom_op("mambavl::scan_cpu_backward", mutates_args=(), device_types="cpu")
def backward(
    dy: Tensor, dlast: Tensor | None, checkpoints: Tensor,
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, delta_bias: Tensor | None,
    lengths: Tensor | None, initial_state: Tensor | None, delta_softplus: bool, zoh: bool, pooled: bool,
) -> list[Tensor]:  # fmt: skip
    """Gradients of those of u, delta, A, B, C, D, z, delta_bias, initial_state that are there, in their shapes and dtypes."""
    call = _Inputs(u, delta, A, B, C, D, z, delta_bias, lengths, initial_state, delta_softplus, zoh, pooled)
    parts = call.parts()
    given = {"dy": _ready(dy), "dlast": _ready(dlast)}
    made = {
        "du": torch.empty_like(call.tensors["u"]),
        "ddelta": torch.empty_like(call.tensors["delta"]),
        "dz": None if z is None else torch.empty_like(call.tensors["z"]),
        "dinitial": None if initial_state is None else torch.empty_like(call.tensors["initial"]),
    }
    across = len({part[2:] for part in parts})  # ways in which the channels were cut
    sums = {
        "da": call.tensors["a"].new_zeros(len(parts), *call.tensors["a"].shape),
        "dd": None if D is None else call.tensors["a"].new_zeros(len(parts), call.channels),
        "dbias": None if delta_bias is None else call.tensors["a"].new_zeros(len(parts), call.channels),
    }
    for name, constant in (("b", call.constant_b), ("c", call.constant_c)):
        own = call.tensors[name]
        sums[f"d{name}"] = own.new_zeros(len(parts) if constant else across, *own.shape)
    for number, part in enumerate(parts):
        own = {name: None if total is None else total[number % len(total)] for name, total in sums.items()}
        call.add(part, **given, checkpoints=checkpoints, **made, **own)
    call.run(backward=True)
    total = {name: None if value is None else value.sum(0) for name, value in sums.items()}
    found = {
        "A": total["da"].t(), "B": total["db"].t() if call.constant_b else _gather(total["db"], B),
        "C": total["dc"].t() if call.constant_c else _gather(total["dc"], C), "D": total["dd"], "bias": total["dbias"],
        "initial": None if made["dinitial"] is None else made["dinitial"].transpose(1, 2),
    }  # fmt: skip
    order = (
        (made["du"], u), (made["ddelta"], delta), (found["A"], A), (found["B"], B), (found["C"], C), (found["D"], D),
        (made["dz"], z), (found["bias"], delta_bias), (found["initial"], initial_state),
    )  # fmt: skip
    return [gradient.to(like.dtype).contiguous() for gradient, like in order if like is not None]


@backward.register_fake
def _(dy, dlast, checkpoints, *inputs):
    u, delta, A, B, C, D, z, delta_bias, _, initial_state, *_ = inputs
    return [torch.empty_like(x).contiguous() for x in (u, delta, A, B, C, D, z, delta_bias, initial_state) if x is not None]


def _setup(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, softplus, zoh, pooled, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.options = softplus, zoh, pooled
    ctx.save_for_backward(output[2], *tensors)


def _differentiate(ctx: Any, dy: Tensor | None, dlast: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    checkpoints, *tensors = ctx.saved_tensors
    if dy is None:
        u, pooled = tensors[0], ctx.options[2]
        dy = u.new_zeros((u.shape[0], u.shape[2]) if pooled else u.shape)
    found = iter(backward(dy, dlast, checkpoints, *tensors, *ctx.options))
    u, delta, A, B, C, D, z, delta_bias, _, initial_state = tensors
    gradients = [None if x is None else next(found) for x in (u, delta, A, B, C, D, z, delta_bias, initial_state)]
    return (*gradients[:8], None, gradients[8], None, None, None, None)


forward.register_autograd(_differentiate, setup_context=_setup)


def instructions() -> str:
    """The instruction set that is used here: baseline, avx2 or avx512."""
    best = _library()[0].mambavl_scan_instructions()
    return next(name for name, number in INSTRUCTIONS.items() if number == best)


@cache
def _library() -> tuple[ctypes.CDLL | None, str | None]:
    library, reason = load(Path(__file__).parent, "scan", VERSION)
    if library is None:
        return None, reason
    if library.mambavl_scan_chunk() != CHUNK:
        return None, "its library was built from another version of mambavl; reinstall mambavl"
    library.mambavl_scan_run.argtypes = [ctypes.POINTER(_Call), ctypes.c_int32, ctypes.c_int64, ctypes.c_int64]
    return library, None


class _Inputs:
    """The tensors of a call as scan.c wants them, and how the work is shared out."""

    def __init__(self, u, delta, A, B, C, D, z, delta_bias, lengths, initial_state, softplus, zoh, pooled) -> None:
        self.batch, self.steps, self.channels = u.shape
        self.states = A.shape[1]
        self.constant_b, self.constant_c = B.ndim == 2, C.ndim == 2
        self.groups = math.lcm(*(x.shape[2] for x in (B, C) if x.ndim == 4))
        self.flags = {"softplus": softplus, "zoh": zoh, "pooled": pooled, "instructions": forced_instructions}
        self.tensors = {
            "u": _ready(u), "delta": _ready(delta), "z": _ready(z), "a": _ready(A.t()),
            "b": _ready(B.t() if self.constant_b else self._spread(B)),
            "c": _ready(C.t() if self.constant_c else self._spread(C)),
            "d": _ready(D), "bias": _ready(delta_bias), "initial": None if initial_state is None else _ready(initial_state.mT),
            "lengths": None if lengths is None else lengths.to(torch.int64).contiguous(),
        }  # fmt: skip
        self.calls: list[tuple[_Call, tuple[int, ...]]] = []

    def _spread(self, x: Tensor) -> Tensor:
        """(B, L, N) or (B, L, G, N) -> (B, L, groups, N), where B and C have groups of their own."""
        x = x.unsqueeze(2) if x.ndim == 3 else x
        return x if x.shape[2] == self.groups else x.repeat_interleave(self.groups // x.shape[2], 2)

    def parts(self) -> list[tuple[int, int, int, int]]:
        """(first row, row after the last, first channel, channel after the last) of each thread."""
        threads = torch.get_num_threads()
        rows = _cut(self.batch, min(threads, self.batch))
        lanes = 16  # cuts lie where no vector is torn
        cuts = max(1, min(threads // max(len(rows), 1), self.channels // lanes))
        channels = [(lanes * a, min(lanes * b, self.channels)) for a, b in _cut(-(-self.channels // lanes), cuts)]
        return [(*row, *channel) for row in rows for channel in channels]

    def add(self, part: tuple[int, int, int, int], **out: Tensor | None) -> None:
        pointers = {name: None if x is None else x.data_ptr() for name, x in {**self.tensors, **out}.items()}
        sizes = {"steps": self.steps, "channels": self.channels, "states": self.states, "groups": self.groups}
        constant = {"constant_b": self.constant_b, "constant_c": self.constant_c}
        call = _Call(**sizes, **constant, **self.flags, **{"from": part[2], "to": part[3]}, **pointers)
        self.calls.append((call, part))

    def run(self, backward: bool) -> None:
        library = _library()[0]

        def one(entry: tuple[_Call, tuple[int, ...]]) -> int:
            return library.mambavl_scan_run(ctypes.byref(entry[0]), backward, entry[1][0], entry[1][1])

        if not self.calls:
            return
        codes = [one(self.calls[0])] if len(self.calls) == 1 else list(_pool(len(self.calls)).map(one, self.calls))
        if any(codes):
            raise MemoryError("the scan found no memory for its states")


def _gather(gradient: Tensor, like: Tensor) -> Tensor:
    """What `_spread` does, backwards."""
    groups = like.shape[2] if like.ndim == 4 else 1
    return gradient.unflatten(2, (groups, -1)).sum(3).view(like.shape)


def _cut(count: int, parts: int) -> list[tuple[int, int]]:
    """`count` things in order, in `parts` runs of nearly the same length."""
    edges = [count * i // parts for i in range(parts + 1)] if parts else [0]
    return list(pairwise(edges))


def _ready(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.detach().to(torch.float32).contiguous()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=threads, thread_name_prefix="scan")


os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not live on in a forked process
