"""What do heads cost that are trained in one pass, beside the same heads one after another, and shared out
over two processes?

    python benchmarks/sweeps.py [--rows mambavl:64:20 ...] [--batch 128] [--repeats 5] [--threads 2]
                                [--quick] [--out FILE]

A row is a kind of head, its d_model, and how many heads; by default those of docs/training.md.

A step is a batch of EK100's shape, as benchmarks/step.py makes it (its texts are computed once by every head,
packed or not), and for each head forward, loss, backward, clipping and AdamW, in float32, features in memory.
The three ways take turns, so that noise from elsewhere meets all of them; losses of the pack are compared
with those of the heads alone first. In two processes each trains half of the heads with half of the threads.
Times are medians in milliseconds for a step of all heads, by the wall clock and of CPU: beside other programs
the second alone says how fast.

Memory is the peak of a process of its own (Linux), above what it held before it built the first head. What is
read is the batch, once for each loop over the data. The floor is a step of heads that have next to nothing to
compute, in milliseconds of CPU: what Python, autograd and the optimiser cost beside the products.

The last line is JSON: in sequence over one pass, of CPU; above 1 one pass is faster. FILE is written after
each row.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # before torch is imported, as the program does

import torch
import torch.nn.functional as F
from harness import Harness, options, own_process, reset_peak, spread, status_bytes, turns
from rich.console import Console
from rich.table import Table
from step import make_batch
from torch import Tensor

from mambavl.fuse.attentive import AttentiveConfig, AttentiveFusion
from mambavl.fuse.baselines import MLPConfig, MLPFusion
from mambavl.fuse.fusion import FusionConfig, SSMFusion
from mambavl.fuse.head import Head, Streams, StreamShape
from mambavl.fuse.optimizer import TrainConfig, build_optimizer
from mambavl.fuse.stacked import Stack, heads_at_once
from mambavl.fuse.stacked_optimizer import StackedOptimizer, limit, norms

HEADS = {
    "mambavl": (SSMFusion, FusionConfig),
    "mlp": (MLPFusion, MLPConfig),
    "attentive": (AttentiveFusion, AttentiveConfig),
}
ROWS = (
    "mambavl:64:20", "mambavl:192:8", "mambavl:768:4", "mlp:64:20", "mlp:192:20", "attentive:64:20",
    "attentive:192:8",
)  # fmt: skip
FEW = 20  # of the floor
WARM = 10  # steps of it that do not count
RATES = (1e-6, 2e-6)  # of the heads by turns; so small that all steps are alike
SMOOTHING = 0.1
FLOOR = {"d_model": 8, "rows": 2, "width": 8, "tokens": 2}

COLUMNS = {
    "in sequence, ms": "sequence_ms",
    "two processes": "two_processes_ms",
    "one pass": "one_pass_ms",
    "CPU: sequence": "sequence_cpu_ms",
    "one pass ": "one_pass_cpu_ms",
    "ratio": "cpu_ratio",
    "in heads": "one_pass_in_heads",
    "memory: sequence, MB": "sequence_mb",
    "one pass  ": "one_pass_mb",
}

Loop = Callable[[], list[float]]  # a step of some heads; returns their losses


def main() -> None:
    arguments = parse()
    if arguments.worker == "share":
        share(arguments)
        return
    if arguments.worker == "memory":
        print(memory(arguments))
        return
    if arguments.quick:
        arguments.rows, arguments.repeats = ["mambavl:16:4"], 1
        arguments.batch = min(arguments.batch, 8)
    harness, threads = Harness(arguments, "torch"), arguments.threads
    torch.set_num_threads(threads)
    table = Table("head", "d_model", "heads", *COLUMNS)
    found: dict[str, dict[str, Any]] = {"floor": {}}
    for row in arguments.rows:
        head, width, count = row.split(":")
        figures = measure(head, int(width), int(count), arguments, threads)
        found[f"{head}_d{width}"] = figures
        table.add_row(head, width, count, *(f"{figures[key]:,.4g}" for key in COLUMNS.values()))
        harness.write(found)
    floor = found["floor"] = measure_floor(arguments)
    Console().print(table)
    Console().print(
        f"floor: a step of one head {floor['one_ms']:.1f} ms of CPU, of {FEW} in one pass "
        f"{floor['together_ms']:.1f}"
    )
    ratios = {name: figures["cpu_ratio"] for name, figures in found.items() if "cpu_ratio" in figures}
    harness.end(found, ratios | {"floor": floor["ratio"]})


def parse() -> argparse.Namespace:
    parser = options(__doc__, repeats=5)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), help="head:d_model:heads")
    parser.add_argument("--batch", type=int, default=128, help="rows")
    parser.add_argument("--worker", choices=["share", "memory"], help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="all cores by default")
    parser.add_argument("--way", choices=["sequence", "pass"], help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(head: str, width: int, count: int, arguments: argparse.Namespace, threads: int) -> dict[str, Any]:
    streams = make_batch(arguments.batch, "oracle")
    sequence, sequence_cpu = counted(in_sequence(make_heads(head, width, streams, count), streams))
    one_pass, pass_cpu = counted(in_one_pass(make_heads(head, width, streams, count), streams))
    halves, half = [count - count // 2, count // 2], max(1, threads // 2)
    shares = [start_share(f"{head}:{width}:{n}", arguments.batch, half) for n in halves]
    shares_cpu: list[float] = []

    def two_processes() -> list[float]:
        for share in shares:
            say(share, "step")
        answers = [answer(share) for share in shares]
        shares_cpu.append(sum(one["cpu"] for one in answers))
        return [loss for one in answers for loss in one["losses"]]

    first: dict[str, list[float]] = {}

    def check(way: str, losses: list[float]) -> None:
        """Both processes begin with the same head, so what the second says is not looked at."""
        first[way] = losses[: halves[0]] if way == "two" else losses
        apart = max(abs(a - b) for a, b in zip(first["sequence"], first[way], strict=way != "two"))
        if apart > 1e-4:
            raise SystemExit(f"{head}, d {width}, {way}: losses differ from those in sequence by {apart}")

    jobs = {"sequence": sequence, "two": two_processes, "pass": one_pass}
    seconds = turns(jobs, arguments.repeats, check=check)
    for share in shares:
        say(share, "")
        share.wait()
    wall = {way: 1e3 * statistics.median(own) for way, own in seconds.items()}
    spent = {"sequence": sequence_cpu, "two": shares_cpu, "pass": pass_cpu}
    cpu = {way: 1e3 * statistics.median(own[1:]) for way, own in spent.items()}  # the first warmed up
    words = ("--worker", "memory", "--rows", f"{head}:{width}:{count}", "--batch", arguments.batch)
    peaks = {
        way: own_process(*words, "--threads", threads, "--way", way, OMP_NUM_THREADS=str(threads))
        for way in ("sequence", "pass")
    }
    read = sum(tokens.nbytes + lengths.nbytes for tokens, lengths in streams.values())
    return {
        "heads": count,
        "sequence_ms": round(wall["sequence"], 1),
        "two_processes_ms": round(wall["two"], 1),
        "one_pass_ms": round(wall["pass"], 1),
        "ratio": round(wall["sequence"] / wall["pass"], 2),
        "ratio_to_two_processes": round(wall["two"] / wall["pass"], 2),
        "sequence_cpu_ms": round(cpu["sequence"], 1),
        "two_processes_cpu_ms": round(cpu["two"], 1),
        "one_pass_cpu_ms": round(cpu["pass"], 1),
        "cpu_ratio": round(cpu["sequence"] / cpu["pass"], 2),
        "one_pass_in_heads": round(cpu["pass"] / cpu["sequence"] * count, 2),  # alone
        "sequence_mb": peaks["sequence"],
        "one_pass_mb": peaks["pass"],
        "sequence_read_mb": round(count * read / 1e6, 1),
        "one_pass_read_mb": round(read / 1e6, 1),
        "times": {way: spread(own) for way, own in seconds.items()},
    }


def counted(loop: Loop) -> tuple[Loop, list[float]]:
    """The same, and a list that grows by the seconds of CPU of each call."""
    used: list[float] = []

    def step() -> list[float]:
        since = time.process_time()
        losses = loop()
        used.append(time.process_time() - since)
        return losses

    return step, used


def measure_floor(arguments: argparse.Namespace) -> dict[str, float]:
    streams = {}
    for name in ("video", "verb_question", "noun_question"):
        shape = FLOOR["rows"], FLOOR["tokens"], FLOOR["width"]
        tokens = torch.randn(shape, generator=torch.Generator().manual_seed(len(name)))
        streams[name] = tokens, torch.full((FLOOR["rows"],), FLOOR["tokens"])
    make = lambda count: make_heads("mambavl", FLOOR["d_model"], streams, count)
    one, alone_cpu = counted(in_sequence(make(1), streams))
    several, together_cpu = counted(in_one_pass(make(FEW), streams))
    torch.set_num_threads(1)
    turns({"one": one, "several": several}, WARM - 1 + 10 * arguments.repeats)
    alone, together = (1e3 * statistics.median(used[WARM:]) for used in (alone_cpu, together_cpu))
    return {
        "one_ms": round(alone, 2),
        "together_ms": round(together, 2),
        "ratio": round(together / alone, 2),
    }


# --- a step


def make_heads(
    head: str, width: int, streams: Streams, count: int
) -> list[tuple[Head, torch.optim.Optimizer, TrainConfig]]:
    """Heads of their own start and rates, as a sweep has them."""
    kind, config = HEADS[head]
    shapes = {name: StreamShape(width=tokens.shape[2]) for name, (tokens, _) in streams.items()}
    found = []
    for number in range(count):
        torch.manual_seed(number)
        built = kind(config(d_model=width, streams=shapes)).train()
        train = TrainConfig(lr=RATES[number % 2], lr_ssm=RATES[number % 2], lr_start=0, lr_end=0)
        found.append((built, build_optimizer(built, train), train))
    return found


def labels_of(head: Head, streams: Streams) -> dict[str, Tensor]:
    rows = len(streams["video"][1])
    return {target: torch.arange(rows) % classes for target, classes in head.config.targets.items()}


def in_sequence(heads: list[tuple[Head, torch.optim.Optimizer, TrainConfig]], streams: Streams) -> Loop:
    labels, keys = labels_of(heads[0][0], streams), torch.arange(len(streams["video"][1]))

    def step() -> list[float]:
        losses = []
        for head, optimizer, train in heads:
            logits = head(streams, keys)
            own = [F.cross_entropy(x, labels[t], label_smoothing=SMOOTHING) for t, x in logits.items()]
            loss = torch.stack(own).sum()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(head.parameters(), train.clip_norm)
            for group in optimizer.param_groups:
                group["lr"] = group["peak"]
            optimizer.step()
            optimizer.zero_grad()
            losses.append(torch.stack([loss.detach(), norm]).tolist()[0])
        return losses

    return step


def in_one_pass(heads: list[tuple[Head, torch.optim.Optimizer, TrainConfig]], streams: Streams) -> Loop:
    """As `fuse.pack` does it, without its folders."""
    labels, keys = labels_of(heads[0][0], streams), torch.arange(len(streams["video"][1]))
    at_once, parts = heads_at_once(heads[0][0], len(keys)), []
    for first in range(0, len(heads), at_once):
        built, optimizers, trains = zip(*heads[first : first + at_once], strict=True)
        stack = Stack(built)
        parts.append((stack, StackedOptimizer(stack, optimizers, trains), trains))

    def step() -> list[float]:
        losses, read = [], parts[0][0].read(streams)
        for stack, optimizer, trains in parts:
            own = [cross_entropies(x, labels[t]) for t, x in stack(read, keys).items()]
            total = torch.stack(own).sum(0)
            gradients = torch.autograd.grad(total.sum(), [leaf.values for leaf in stack.leaves])
            found = norms(gradients)
            losses += torch.stack([total.detach(), found]).tolist()[0]
            clipped = limit(gradients, found, [train.clip_norm for train in trains])
            optimizer.step(clipped, [1.0] * len(trains))
        return losses

    return step


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """(K, B, C), (B,) -> (K,)."""
    logs = logits.log_softmax(-1)
    hits = logs.gather(2, labels.expand(len(logs), -1)[..., None])[..., 0]
    return -((1 - SMOOTHING) * hits + SMOOTHING * logs.mean(-1)).mean(1)


# --- processes of their own


def start_share(row: str, batch: int, threads: int) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--worker", "share", "--rows", row]
    command += ["--batch", str(batch), "--threads", str(threads)]
    env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)


def say(process: subprocess.Popen[str], word: str) -> None:
    process.stdin.write(f"{word}\n")
    process.stdin.flush()


def answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    return json.loads(process.stdout.readline())


def share(arguments: argparse.Namespace) -> None:
    """A part of the heads, one after the other: a step whenever the parent asks for one."""
    torch.set_num_threads(arguments.threads)
    streams = make_batch(arguments.batch, "oracle")
    step, used = counted(in_sequence(heads_of(arguments, streams), streams))
    while sys.stdin.readline().strip():
        losses = step()
        print(json.dumps({"cpu": used[-1], "losses": losses}), flush=True)


def memory(arguments: argparse.Namespace) -> int:
    torch.set_num_threads(arguments.threads)
    streams = make_batch(arguments.batch, "oracle")
    reset_peak()
    before = status_bytes("VmRSS")
    way = {"sequence": in_sequence, "pass": in_one_pass}[arguments.way]
    step = way(heads_of(arguments, streams), streams)
    for _ in range(2):
        step()
    return round((status_bytes("VmHWM") - before) / 1e6)


def heads_of(
    arguments: argparse.Namespace, streams: Streams
) -> list[tuple[Head, torch.optim.Optimizer, TrainConfig]]:
    [row] = arguments.rows
    head, width, count = row.split(":")
    return make_heads(head, int(width), streams, int(count))


if __name__ == "__main__":
    main()
