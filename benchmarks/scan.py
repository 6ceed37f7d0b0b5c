"""How fast is the selective scan, forward and backward, compared with other ways to compute it in PyTorch and
with the best that the machine could do; and what does a step of training cost beyond its matrix products?

    python benchmarks/scan.py [--repeats 7] [--device cpu] [--quick] [--out FILE]

Scans: float32, N = 16 states, with D, the gate z, delta's bias and softplus, at the shapes that the head
meets: 16 frames and 40 tokens at a batch of 128, the 1,569 tokens of a ViT at a batch of 8. Forward is
without gradients; forward+backward gives those of all eight inputs. On a CPU with two threads unless
OMP_NUM_THREADS says otherwise. Peers:

    loop           h = exp(delta_t A) h + delta_t u_t B_t; y_t = sum of h C_t, over x.unbind(1), so that no
                   tensor (B, L, D, N) exists: the best loop in PyTorch that we know, written here
    compiled       the same under torch.compile(fullgraph=True, dynamic=False); every step is code of its own
    jax            the same as lax.scan under jit, in a process of its own, on all cores, which checks it
                   against ours and takes no turns with the others (pip install jax)
    mambapy        its parallel scan, pscan, called as MambaBlock.selective_scan does (pip install mambapy)
    transformers   mamba_selective_scan of its Mamba, the loop that runs without a kernel; channels first, as
                   it wants them

Every way's first result, gradients too, is checked against ours before it is timed. Ways take turns; medians
of --repeats, of at most 3 where the first call took over 2 seconds, and of 1 where it took over 15. What does
not fit into memory or takes too long has a dash, and the reason below. Ours also reads bfloat16, beside
float32 at the first shape.

Roofline (CPU, needs cc): the rates of vector multiply-adds, of the scan's own exp2 and of copying memory,
measured by a small C library on as many threads; see `roofline` for what is counted. Then: a Mixer block that
is pooled inside its scan against one that is averaged after it; the peak memory of a long scan, each in a
fresh process; a training step of SSMFusion (forward, two cross-entropies, backward) against its matrix
products alone.

The last line is JSON; ratios "vs" a peer above 1 mean that ours is faster. Wants 17 GB of memory; takes about
15 minutes, mostly the peers'.
"""

import argparse
import ctypes
import importlib
import inspect
import json
import math
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
import torch.nn.functional as F
from harness import Harness, clock, free_gigabytes, options, own_process, spread, status_bytes, turns
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mambavl.configs.errors import UsageError
from mambavl.fuse.fusion import FusionConfig, Mixer, SSMFusion
from mambavl.fuse.head import StreamShape
from mambavl.fuse.scan import (
    available_backends,
    pick,
    pooled_selective_scan,
    pooled_selective_scans,
    selective_scan,
)

N = 16
SHAPES = ((128, 16, 1536), (128, 40, 1536), (8, 1569, 1536))  # (B, L, D)
LONG = (128, 1569, 1536)  # whose memory is measured
QUICK_SHAPES = ((2, 4, 32), (2, 5, 32), (2, 70, 32))
SLOW = {15.0: 1, 2.0: 3}  # a first call of more seconds is timed so often
# Tensors (B, L, D, N) at the peak of a backward.
HELD = {"loop": 5, "compiled": 5, "jax": 5, "mambapy": 12, "transformers": 9, "reference": 4}
PEERS = ("compiled", "loop", "jax", "mambapy", "transformers")
MOST_COMPILED = 100  # steps, each of which is compiled apart
KEYS = tuple(
    (kind, direction) for kind in ("plain", "pooled") for direction in ("forward", "forward+backward")
)
TRAINING = "plain forward+backward"
COPIED = 128 * 2**20  # bytes a thread, far more than any cache

Inputs = tuple[Tensor, ...]  # u, delta, A, B, C, D, z, delta_bias, in this order
Scan = Callable[..., Tensor]


def main() -> None:
    parser = options(__doc__, repeats=7)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    # the fresh process of `memory`: plain or pooled, B, L, D
    parser.add_argument("--memory", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--jax", nargs=3, type=int, help=argparse.SUPPRESS)  # that of `jax_times`: B, L, D
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if arguments.memory:
        kind, *shape = arguments.memory
        print(json.dumps(peak_memory(tuple(map(int, shape)), kind == "pooled", device)))
        return
    if arguments.jax:
        print(json.dumps(time_jax(tuple(arguments.jax), arguments.repeats)))
        return
    harness = Harness(arguments, "torch", "jax", "mambapy", "transformers", backends=available_backends())
    console, notes = Console(width=130), []
    shapes, width, batch = (QUICK_SHAPES, 16, 2) if arguments.quick else (SHAPES, 768, 128)
    long = shapes[2] if arguments.quick else LONG
    memory = {kind: run_memory(kind, long, device, notes) for kind in ("plain", "pooled")}
    spreads: dict[str, dict] = {}
    scans = {name(shape): scan_times(shape, device, arguments.repeats, notes, spreads) for shape in shapes}
    rates = machine_rates(torch.get_num_threads(), notes) if device.type == "cpu" else {}
    rest = {
        **half_times(shapes[0], device, arguments.repeats),
        **block_times((*shapes[2][:2], width), device, arguments.repeats),
        **{f"{kind}_{key}": value for kind, row in memory.items() for key, value in row.items()},
        **step_times(width, batch, device, arguments.repeats),
    }
    ours, short = pick("auto", device), name(shapes[0])
    roofs = (
        {name(shape): roofline(shape, scans[name(shape)][ours], rates) for shape in shapes} if rates else {}
    )
    print_tables(console, scans, ours, rates, roofs, rest)
    for note in dict.fromkeys(notes):
        console.print(f"- {note}", highlight=False)
    compared = {"sequential" if peer == "loop" else peer: peer for peer in PEERS}
    last = {
        **{f"fwd_bwd_vs_{said}": ratio(scans[short], peer, ours) for said, peer in compared.items()},
        "forward_vs_compiled": ratio(scans[short], "compiled", ours, "plain forward"),
        "least_vs_best_peer": min(
            (r for ways in scans.values() for peer in PEERS if (r := ratio(ways, peer, ours))), default=None
        ),
        "roofline_percent": roofs[short][TRAINING]["percent"] if roofs else None,
        **{key: rest[key] for key in ("bfloat16_vs_float32", "pooled_block_saving", "step_vs_products")},
        "memory_beyond_vs_inputs": rest["plain_memory_beyond_vs_inputs"],
    }
    figures = {"ours": ours, "scans_milliseconds": scans, "scans_spread": spreads, "machine_rates": rates}
    harness.end({**figures, "roofline": roofs, "rest": rest, "notes": notes, **last}, last)


def name(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def ratio(ways: dict[str, dict], peer: str, ours: str, of: str = TRAINING) -> float | None:
    """The peer's time over ours."""
    return ways[peer][of] and round(ways[peer][of] / ways[ours][of], 2)


def print_tables(console: Console, scans: dict, ours: str, rates: dict, roofs: dict, rest: dict) -> None:
    table = Table(
        "B x L x D", "way", *map(" ".join, KEYS), f"{TRAINING} / ours", title="selective scan, float32, ms"
    )
    for shape, ways in scans.items():
        for way, times in ways.items():
            shown = ("-" if times[key] is None else f"{times[key]:,.2f}" for key in map(" ".join, KEYS))
            table.add_row(shape, way, *shown, str(ratio(ways, way, ours) or "-"))
        table.add_section()
    console.print(table)
    if roofs:
        table = Table(
            "B x L x D",
            "scan, ms",
            "exp2",
            "multiply-adds",
            "memory",
            "max",
            "sum",
            "measured",
            "% of roofline",
        )
        units = {"multiply_adds": "G multiply-adds/s", "exponentials": "G exp2/s", "copy": "GB/s copied"}
        table.title = "roofline: " + ", ".join(
            f"{rates[key] / 1e9:,.1f} {unit}" for key, unit in units.items()
        )
        for shape, rows in roofs.items():
            for key, row in rows.items():
                table.add_row(shape, key, *(f"{value:,.2f}" for value in row.values()))
            table.add_section()
        console.print(table)
    table = Table("the rest", "")
    for key, value in rest.items():
        table.add_row(key.replace("_", " "), value if isinstance(value, str) else f"{value:,}")
    console.print(table)


# --- timing


def measure(
    jobs: dict[Any, Callable],
    repeats: int,
    device: torch.device,
    check: Callable[[Any, Any], None],
    spreads: dict[Any, dict[str, float]] | None = None,
) -> dict[Any, float]:
    """Median milliseconds of each job; into `spreads` also the fastest and the slowest."""
    often = lambda seconds, repeats: min(
        repeats, next((times for limit, times in SLOW.items() if seconds > limit), repeats)
    )
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    found = turns(jobs, repeats, check=check, often=often, wait=wait)
    of = {key: spread(seconds) for key, seconds in found.items()}
    if spreads is not None:
        spreads |= of
    return {key: one["milliseconds"] for key, one in of.items()}


# --- scans


def scan_inputs(shape: tuple[int, int, int], device: torch.device) -> Inputs:
    """Normal features; A and delta's bias as in a fresh Mamba, so that the states neither vanish nor grow."""
    (batch, steps, channels), make = shape, torch.Generator(device).manual_seed(0)
    normal = partial(torch.randn, generator=make, device=device)
    u, delta, z = (normal(shape) for _ in range(3))
    a = -torch.arange(1.0, N + 1, device=device).repeat(channels, 1)
    b, c = (normal(batch, steps, N) for _ in range(2))
    inputs = (u, delta.mul_(0.5), a, b, c, normal(channels), z, normal(channels) * 0.5 - 4.5)
    return tuple(x.requires_grad_() for x in inputs)


def scan_times(
    shape: tuple[int, int, int],
    device: torch.device,
    repeats: int,
    notes: list[str],
    spreads: dict[str, dict],
) -> dict[str, dict]:
    """Way -> milliseconds of each of KEYS, None where it was not measured; into `spreads`, by shape, each
    way's fastest and slowest.
    """
    inputs, ours = scan_inputs(shape, device), pick("auto", device)
    dy = {
        "plain": torch.randn(shape, device=device),
        "pooled": torch.randn(shape[0], shape[2], device=device),
    }
    # (way, plain or pooled) -> it, its inputs, the gradient of y
    scans: dict[tuple[str, str], tuple[Scan, Inputs, Tensor]] = {}
    # ours first: what the rest must equal
    for backend in sorted(available_backends(), key=lambda backend: backend != ours):
        try:
            pick(backend, device)
        except UsageError as error:
            notes.append(f"{backend}: {error}")
            continue
        for kind, function in {"plain": selective_scan, "pooled": pooled_selective_scan}.items():
            scans[backend, kind] = partial(function, delta_softplus=True, backend=backend), inputs, dy[kind]
    # (B, D, L)
    flipped = tuple(x.detach().mT.contiguous().requires_grad_() if x.shape == shape else x for x in inputs)
    for way, scan in peers(notes).items():
        its = (flipped, dy["plain"].mT.contiguous()) if way == "transformers" else (inputs, dy["plain"])
        scans[way, "plain"] = scan, *its
    jobs: dict[tuple[str, ...], Callable] = {}
    for (way, kind), (scan, tensors, gradient) in scans.items():
        for direction in (direction for k, direction in KEYS if k == kind):
            back = gradient if "backward" in direction else None
            if reason := left_out(way, back is not None, shape, device):
                notes.append(f"{way}, {kind} {direction}, {name(shape)}: {reason}")
            else:
                jobs[way, kind, direction] = partial(run, partial(scan, *tensors), tensors, back)
    truth: dict[tuple[str, ...], list[Tensor]] = {}
    check = lambda key, found: same(found, truth.setdefault(key[1:], found), f"{key}, {shape}")
    of: dict[tuple[str, ...], dict[str, float]] = {}
    for key, job in jobs.items():
        if key[0] == "compiled":
            job()  # so that turns are not given by how long compiling took
    medians = measure(jobs, repeats, device, check, of)
    spreads[name(shape)] = {" ".join(key): one for key, one in of.items()}
    ways = dict.fromkeys([way for way, _ in scans] + list(PEERS))
    found = {way: {" ".join(key): medians.get((way, *key)) for key in KEYS} for way in ways}
    if device.type == "cpu":
        found["jax"] |= jax_times(shape, repeats, notes)
    return found


def run(function: Callable[..., Tensor], inputs: Inputs, gradient: Tensor | None) -> list[Tensor]:
    """[y], or with `gradient`, that of y, [y, gradients of all inputs]."""
    with torch.set_grad_enabled(gradient is not None):
        y = function()
    return [y.detach()] if gradient is None else [y.detach(), *torch.autograd.grad(y, inputs, gradient)]


def same(found: list[Tensor], expected: list[Tensor], what: str, tolerance: float = 1e-3) -> None:
    for number, (a, b) in enumerate(zip(found, expected, strict=True)):
        a = a.mT if a.shape != b.shape else a
        if not (a - b).abs().max() <= tolerance * b.abs().max():
            raise SystemExit(f"{what}: result {number} differs from ours")


def left_out(way: str, backward: bool, shape: tuple[int, int, int], device: torch.device) -> str | None:
    if way == "compiled" and shape[1] > MOST_COMPILED:
        return "not run: it would be compiled step by step"
    if way == "transformers" and backward and shape[1] > 1000:
        return "not run: the gradient of each step's slice is a whole tensor of states, L squared in all"
    needed, free = HELD.get(way, 0) * math.prod(shape) * N * 4 / 1e9, free_on(device)
    return f"needs about {needed:.0f} GB and {free:.0f} are free" if needed > 0.9 * free else None


def peers(notes: list[str]) -> dict[str, Scan]:
    found: dict[str, Scan] = {
        "loop": loop,
        "compiled": torch.compile(loop, fullgraph=True, dynamic=False),
    }
    try:
        found["mambapy"] = partial(by_pscan, importlib.import_module("mambapy.pscan").pscan)
    except ImportError:
        notes.append("mambapy is missing: pip install mambapy")
    try:
        theirs = importlib.import_module("transformers.models.mamba.modeling_mamba").mamba_selective_scan
        theirs = partial(inspect.unwrap(theirs), delta_softplus=True)  # unwrapped: never a compiled kernel
        found["transformers"] = lambda u, delta, A, B, C, *rest: theirs(u, delta, A, B.mT, C.mT, *rest)
    except (ImportError, AttributeError):
        notes.append("transformers has no mamba_selective_scan: pip install 'transformers>=5.23'")
    return found


def loop(u, delta, A, B, C, D, z, bias):
    delta = F.softplus(delta + bias)
    h, found = u.new_zeros(u.shape[0], *A.shape), []
    for d, x, b, c in zip(delta.unbind(1), u.unbind(1), B.unbind(1), C.unbind(1), strict=True):
        h = torch.exp(d[..., None] * A) * h + (d * x)[..., None] * b[:, None]
        found.append((h * c[:, None]).sum(-1))
    return (torch.stack(found, 1) + D * u) * F.silu(z)


def by_pscan(pscan, u, delta, A, B, C, D, z, bias):
    delta = F.softplus(delta + bias)
    gain = delta[..., None] * B[:, :, None]
    states = pscan(torch.exp(delta[..., None] * A), gain * u[..., None])
    return ((states @ C[..., None])[..., 0] + D * u) * F.silu(z)


def jax_times(shape: tuple[int, int, int], repeats: int, notes: list[str]) -> dict[str, float]:
    """`time_jax` in a process of its own, so that its threads and memory are not here."""
    try:
        return own_process("--repeats", repeats, "--jax", *shape)
    except subprocess.CalledProcessError as error:
        notes.append(f"jax, {name(shape)}: {error}")
        return {}


def time_jax(shape: tuple[int, int, int], repeats: int) -> dict[str, float]:
    """Milliseconds by "plain forward" and "plain forward+backward", checked against ours."""
    import jax
    import jax.numpy as jnp

    def scan(u, delta, A, B, C, D, z, bias):
        delta = jax.nn.softplus(delta + bias)

        def step(h, at):
            d, x, b, c = at
            h = jnp.exp(d[..., None] * A) * h + (d * x)[..., None] * b[:, None]
            return h, (h * c[:, None]).sum(-1)

        by_step = [x.swapaxes(0, 1) for x in (delta, u, B, C)]
        _, y = jax.lax.scan(step, jnp.zeros((u.shape[0], *A.shape), u.dtype), by_step)
        return (y.swapaxes(0, 1) + D * u) * jax.nn.silu(z)

    def both(dy, *inputs):
        y, back = jax.vjp(scan, *inputs)
        return y, *back(dy)

    device = torch.device("cpu")
    tensors, dy = scan_inputs(shape, device), torch.randn(shape)
    inputs = [jnp.asarray(x.detach().numpy()) for x in tensors]
    forward, whole = jax.jit(scan), jax.jit(partial(both, jnp.asarray(dy.numpy())))
    jobs = {
        "plain forward": lambda: jax.block_until_ready([forward(*inputs)]),
        TRAINING: lambda: jax.block_until_ready(whole(*inputs)),
    }
    ours = run(partial(selective_scan, *tensors, delta_softplus=True), tensors, dy)
    as_torch = lambda found: [torch.from_numpy(np.array(x)) for x in found]
    return measure(
        jobs, repeats, device, lambda key, found: same(as_torch(found), ours[: len(found)], f"jax, {key}")
    )


# --- what the machine could do

RATES_C = r"""
#include <stdint.h>
#include <string.h>
#if defined(__AVX512F__)
#include <immintrin.h>
enum { W = 16 };
#define MAX(a, b) ((vec)_mm512_max_ps((__m512)(a), (__m512)(b)))
#define MIN(a, b) ((vec)_mm512_min_ps((__m512)(a), (__m512)(b)))
#elif defined(__AVX2__)
#include <immintrin.h>
enum { W = 8 };
#define MAX(a, b) ((vec)_mm256_max_ps((__m256)(a), (__m256)(b)))
#define MIN(a, b) ((vec)_mm256_min_ps((__m256)(a), (__m256)(b)))
#else
enum { W = 4 };
#define MAX(a, b) pick((ivec)((a) > (b)), a, b)
#define MIN(a, b) pick((ivec)((a) < (b)), a, b)
#endif
typedef float vec __attribute__((vector_size(W * 4)));
typedef int32_t ivec __attribute__((vector_size(W * 4)));

static inline vec all(float x) { vec zero = {0}; return zero + x; }
static inline vec pick(ivec mask, vec yes, vec no) { return (vec)(((ivec)yes & mask) | ((ivec)no & ~mask)); }
static inline vec exp2_of(vec x) /* as in kernel.h */
{
#if defined(__AVX512F__) && defined(__AVX512DQ__)
    static const float powers[32] __attribute__((aligned(64))) = {[0 ... 31] = 1.0f}; /* any take as long */
    __m512 whole = _mm512_roundscale_ps((__m512)x, 5 << 4);
    vec f = x - (vec)whole;
    vec power = (vec)_mm512_permutex2var_ps(
        _mm512_load_ps(powers), (__m512i)((vec)whole + 393216.0f), _mm512_load_ps(powers + 16));
    vec p = all(2.402270331e-01f);
    p = p * f + 6.931573400e-01f, p = p * f;
    return (vec)_mm512_scalef_ps((__m512)(power * p + power), whole);
#else
    vec low = MIN(all(127.49f), MAX(all(-126.0f), x)), shifted = low + 12582912.0f;
    vec f = low - (shifted - 12582912.0f);
    vec p = all(1.535336188319500e-4f);
    p = p * f + 1.339887440266574e-3f, p = p * f + 9.618437357674640e-3f, p = p * f + 5.550332471162809e-2f;
    p = p * f + 2.402264791363012e-1f, p = p * f + 6.931472028550421e-1f, p = p * f + 1.0f;
    return pick((ivec)(x >= 128.0f), all(__builtin_inff()), (vec)(((ivec)shifted << 23) + (ivec)p));
#endif
}

#define CHAINS 12 /* independent ones, so that no operation waits for the one before it */
#define REPEATED(NAME, NEXT) \
    int64_t NAME(int64_t loops, float *out) \
    { \
        vec x[CHAINS]; \
        for (int i = 0; i < CHAINS; i++) \
            x[i] = all(-0.01f * i); \
        for (int64_t loop = 0; loop < loops; loop++) \
            _Pragma("GCC unroll 16") for (int i = 0; i < CHAINS; i++) x[i] = NEXT; \
        for (int i = 0; i < CHAINS; i++) \
            *out += x[i][0]; \
        return loops * CHAINS * W; \
    }
REPEATED(multiply_adds, x[i] * all(0.999f) + all(0.001f))
REPEATED(beside_additions, (x[i] * all(0.999f) + all(0.001f)) + all(0.002f))
REPEATED(exponentials, exp2_of(x[i])) /* soon infinity, which takes no longer than any other number */

int64_t copy(int64_t bytes, char *memory)
{
    memcpy(memory, memory + bytes, bytes);
    return 2 * bytes; /* read and written */
}
"""


def machine_rates(threads: int, notes: list[str]) -> dict[str, float]:
    """Multiply-adds, exponentials and copied bytes a second, all threads at once; the best of 100, being a
    ceiling. And multiply-adds that each have an addition beside them: another port costs nothing.
    """
    compiler = shutil.which("cc")
    if not compiler:
        notes.append("the roofline is missing: no cc")
        return {}
    with tempfile.TemporaryDirectory() as folder:
        source, built = Path(folder, "rates.c"), Path(folder, "rates.so")
        source.write_text(RATES_C)
        subprocess.run(
            [compiler, "-O3", "-march=native", "-shared", "-fPIC", "-o", built, source], check=True
        )
        library = ctypes.CDLL(str(built))
    best, memory = {}, [torch.ones(2, COPIED // 4) for _ in range(threads)]
    amounts = {"multiply_adds": 5_000_000, "exponentials": 1_000_000, "copy": COPIED}
    amounts["beside_additions"] = 5_000_000
    with ThreadPoolExecutor(threads) as pool:
        for kind, amount in amounts.items():
            function = library[kind]  # ctypes lets other threads run meanwhile
            function.restype, function.argtypes = ctypes.c_int64, [ctypes.c_int64, ctypes.c_void_p]
            best[kind], given = 0.0, ([amount] * threads, [x.data_ptr() for x in memory])
            work = partial(pool.map, function, *given)
            for _ in range(100):
                seconds, done = clock(lambda work=work: sum(work()))
                best[kind] = max(best[kind], done / seconds)
    return best


def roofline(
    shape: tuple[int, int, int], times: dict[str, float], rates: dict[str, float]
) -> dict[str, dict[str, float]]:
    """Milliseconds that the exponentials, the multiply-adds and the memory of a scan take at the machine's
    rates; the larger of computing and memory, which is the best that could be reached, and what was measured.

    For each row, step, channel and state, as kernel.h has it for N = 16, a fused multiply-add or a product
    being one operation:
        forward     exp2, and 4: x = delta a;  h = e h + gain b (two);  y += h c
        backward    forward once more, and 8: dh = carry + dy c;  dC += dy h;  carry = dh e;
                    dx = carry h_before;  dgain += dh b;  dx_a += dx a;  dA += dx delta;  dB += dh gain
    exp2 and multiply-adds are added, as they want the same units. What is done once for all 16 states
    (softplus, gate, D) is left out. Memory: forward reads u, delta, z, B, C and writes y; backward reads them
    again and dy, and writes the gradients of all.
    """
    (batch, steps, channels), rows = shape, {}
    tensor, coefficients = batch * steps * channels, 2 * batch * steps * N
    for key, measured in times.items():
        exps, operations, passes = (2, 4 + 4 + 8, 3) if "backward" in key else (1, 4, 1)
        y = batch * channels * (1 if "pooled" in key else steps)
        parts = {
            "exp": tensor * N * exps / rates["exponentials"] * 1e3,
            "multiply_adds": tensor * N * operations / rates["multiply_adds"] * 1e3,
            "memory": 4
            * (passes * (3 * tensor + coefficients) + (2 if passes > 1 else 1) * y)
            / rates["copy"]
            * 1e3,
        }
        most, total = max(parts["exp"] + parts["multiply_adds"], parts["memory"]), sum(parts.values())
        row = {**parts, "max": most, "sum": total, "measured": measured, "percent": 100 * most / measured}
        rows[key] = {part: round(value, 3) for part, value in row.items()}
    return rows


def half_times(shape: tuple[int, int, int], device: torch.device, repeats: int) -> dict[str, float]:
    """Forward and backward of ours, u, delta, z, B and C in bfloat16, beside float32."""
    whole, dy = scan_inputs(shape, device), torch.randn(shape, device=device)
    half = tuple(x.detach().bfloat16().requires_grad_() if x.ndim > 2 else x for x in whole)
    jobs = {
        "float32": partial(run, partial(selective_scan, *whole, delta_softplus=True), whole, dy),
        "bfloat16": partial(run, partial(selective_scan, *half, delta_softplus=True), half, dy.bfloat16()),
    }
    truth: list[Tensor] = []

    def check(key: str, found: list[Tensor]) -> None:
        truth[:] = truth or found
        same([x.float() for x in found], truth, f"the scan of {key}", 0.05)

    times = measure(jobs, repeats, device, check)
    return {
        **{f"{name(shape)}_{key}_milliseconds": taken for key, taken in times.items()},
        "bfloat16_vs_float32": round(times["bfloat16"] / times["float32"], 3),
    }


# --- a block of the head


def block_times(shape: tuple[int, int, int], device: torch.device, repeats: int) -> dict[str, float]:
    """Forward and backward of a Mixer block at x (B, L, d) and the mean over its steps."""
    torch.manual_seed(0)
    config = FusionConfig(d_model=shape[2])
    mixer, x = Mixer(config).to(device), torch.randn(shape, device=device, requires_grad=True)
    a, d_skip = (
        scan_inputs((1, 1, config.d_inner), device)[2],
        torch.ones(config.d_inner, device=device, requires_grad=True),
    )
    lengths, dy = (
        torch.full((shape[0],), shape[1], device=device),
        torch.randn(shape[0], shape[2], device=device),
    )
    valid = (torch.arange(shape[1], device=device) < lengths[:, None])[..., None]
    ways = {
        "plain": lambda: torch.where(valid, mixer(x, lengths, a, d_skip), 0.0).sum(1) / lengths[:, None],
        "pooled": lambda: mixer.out_proj(
            pooled_selective_scans([mixer.scan_inputs(x, lengths, d_skip)], a, True)[0]
        ),
    }
    inputs, truth = (x, a, d_skip, *mixer.parameters()), {}
    jobs = {way: partial(run, function, inputs, dy) for way, function in ways.items()}
    times = measure(
        jobs,
        repeats,
        device,
        lambda way, found: same(found, truth.setdefault("plain", found), f"the {way} block"),
    )
    saving = {"pooled_block_saving": round(1 - times["pooled"] / times["plain"], 3)}
    return {**{f"{way}_block_{name(shape)}_milliseconds": taken for way, taken in times.items()}, **saving}


# --- memory


def run_memory(
    kind: str, shape: tuple[int, int, int], device: torch.device, notes: list[str]
) -> dict[str, Any]:
    """`peak_memory` in a fresh process; of fewer rows where not all would fit."""
    row, free = math.prod(shape[1:]) * 4 / 1e9, free_on(device)  # a row of one tensor
    # three inputs and dy, y and three gradients, and room to work
    fitting = min(shape[0], int(0.8 * free / (11 * row)))
    if fitting < shape[0]:
        notes.append(f"memory, {kind}: {fitting} rows in place of {shape[0]}, since {free:.0f} GB are free")
    return own_process("--device", device.type, "--memory", kind, fitting, *shape[1:])


def peak_memory(shape: tuple[int, int, int], pooled: bool, device: torch.device) -> dict[str, Any]:
    """What a scan's forward and backward take beyond inputs, output and gradients. On a CPU by VmHWM, the
    peak of this process alone (ru_maxrss would begin with its parent's)."""
    scan = partial(pooled_selective_scan if pooled else selective_scan, delta_softplus=True)

    def work(shape: tuple[int, int, int]) -> tuple[int, int]:
        inputs, dy = (
            scan_inputs(shape, device),
            torch.ones((shape[0], shape[2]) if pooled else shape, device=device),
        )
        found = run(partial(scan, *inputs), inputs, dy)
        return sum(x.nbytes for x in (*inputs, dy)), sum(x.nbytes for x in found)

    work((2, 40, 32))  # loads all that it takes
    before = torch.cuda.memory_allocated() if device.type == "cuda" else status_bytes("VmRSS")
    given, made = work(shape)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else status_bytes("VmHWM")
    beyond = peak - before - given - made
    return {
        "memory_shape": name(shape),
        "memory_inputs_gigabytes": round(given / 1e9, 3),
        "memory_output_and_gradients_gigabytes": round(made / 1e9, 3),
        "memory_beyond_gigabytes": round(beyond / 1e9, 3),
        "memory_beyond_vs_inputs": round(beyond / given, 3),
        "memory_of_one_tensor_of_all_states_gigabytes": round(math.prod(shape) * N * 4 / 1e9, 1),
    }


def free_on(device: torch.device) -> float:
    """Gigabytes."""
    return torch.cuda.mem_get_info()[0] / 1e9 if device.type == "cuda" else free_gigabytes()


# --- a training step


class Products(TorchFunctionMode):
    """Notes every linear layer's x (M, K) and weight (N, K), and whether x wants a gradient. A mode, not
    hooks on modules: it also sees a layer whose weight is used without calling the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[int, int, int, bool]] = []
        self.weights: set[int] = set()

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if function is F.linear:
            x, weight = args[:2]
            self.found.append((x.numel() // x.shape[-1], *weight.shape, x.requires_grad))
            self.weights.add(weight.untyped_storage().data_ptr())
        return function(*args, **(kwargs or {}))


def step_times(width: int, batch: int, device: torch.device, repeats: int) -> dict[str, float]:
    """One step of the default head, 16 frames and two questions of 40 tokens, without optimizer; and its
    products alone.
    """
    torch.manual_seed(0)
    steps = {"video": 16, "verb_question": 40, "noun_question": 40}
    config = FusionConfig(streams={stream: StreamShape(width=width) for stream in steps}, d_model=width)
    head = SSMFusion(config).to(device).train()
    streams = {
        stream: (
            torch.randn(batch, length, width, device=device),
            torch.full((batch,), length, device=device),
        )
        for stream, length in steps.items()
    }
    targets = {key: torch.randint(count, (batch,), device=device) for key, count in config.targets.items()}

    def loss() -> Tensor:
        logits = head(streams)
        return sum(F.cross_entropy(logits[key], target) for key, target in targets.items())

    def step() -> None:
        head.zero_grad(set_to_none=True)
        loss().backward()

    with Products() as products:
        loss()
    layers = {
        module.weight.untyped_storage().data_ptr()
        for module in head.modules()
        if isinstance(module, nn.Linear)
    }
    if layers - products.weights:
        raise SystemExit(f"{len(layers - products.weights)} linear layers were not seen multiplying")
    operands = [
        tuple(torch.randn(size, device=device) for size in ((m, k), (n, k), (m, n)))
        for m, n, k, _ in products.found
    ]

    def multiply() -> None:
        for (x, weight, dy), (*_, wanted) in zip(operands, products.found, strict=True):
            torch.mm(x, weight.T)
            torch.mm(dy.T, x)
            if wanted:
                torch.mm(dy, weight)

    times = measure({"step": step, "products": multiply}, repeats, device, lambda way, found: None)
    flop = sum(2 * m * k * n * (2 + wanted) for m, n, k, wanted in products.found)
    return {
        "step_milliseconds": times["step"],
        "products_milliseconds": times["products"],
        "products_gigaflop": round(flop / 1e9, 2),
        "step_vs_products": round(times["step"] / times["products"], 3),
    }


if __name__ == "__main__":
    main()
