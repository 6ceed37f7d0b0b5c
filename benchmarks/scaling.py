"""How do time and memory of a training step grow: with the length of the video, the rows of a batch, and the
number of heads that are trained at once? From which length on is an SSM cheaper than attention?

    python benchmarks/scaling.py [--lengths 16 64 256 1024 4096] [--repeats 5] [--threads 2] [--quick]
                                 [--out FILE]

    length   mambavl, transformer 6x4 (the paper's) and transformer 1x4 (whose block has about as many
             parameters as mambavl's) read the same video of L tokens and the same two questions, two rows at
             a time
    rows     the same three at one length, more rows in a batch
    heads    heads of mambavl in one pass over the data (`fuse.stacked`), beside one head so many times

A step is forward, loss, backward, clipping and AdamW, in float32, features in memory. Each point is a process
of its own, forked before any work and warmed up with a tiny head of the kind: its memory is the peak above
what it held before it built the head, its time the median of the repeats after the first, with the fastest
and the slowest. Points of the heads take turns. Memory is read where Linux keeps it. On two quiet cores the
whole takes about ten minutes, most of them for 6x4 at 4,096 tokens. `plots.py` draws it.
The crossing is where the lines of two heads cut each other, straight between lengths on scales of doubling.
It, pages and pictures take the fastest step: a point is measured alone, so what else the machine does meets
one and not another.

The last line is JSON: the lengths from which on mambavl is cheaper, in time and in memory; null where it is
dearer up to the longest.
"""

import argparse
import gc
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # before torch is imported, as the program does

import torch
from harness import Harness, clock, options, reset_peak, spread, status_bytes
from rich.console import Console
from rich.table import Table
from sweeps import Loop, in_one_pass, in_sequence, make_heads

from mambavl.fuse.baselines import TransformerConfig, TransformerFusion
from mambavl.fuse.fusion import FusionConfig, SSMFusion
from mambavl.fuse.head import Head, Streams, StreamShape
from mambavl.fuse.optimizer import TrainConfig, build_optimizer

WIDTH, QUESTION_TOKENS = 768, 21
LENGTHS, ROWS, HEADS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096), (1, 4, 16, 64), (1, 2, 4, 8)
AT_ROWS, AT_LENGTH, HEADS_WIDTH = 2, 64, 192  # what is held while another grows
LEAST = 0.5  # seconds of repeats, where steps are short
Point = dict[str, Any]
KINDS: dict[str, Callable[[dict[str, StreamShape], int], Head]] = {
    "mambavl": lambda streams, width: SSMFusion(FusionConfig(d_model=width, streams=streams)),
    "transformer 6x4": lambda streams, width: TransformerFusion(
        TransformerConfig(d_model=width, streams=streams, depth=6, num_heads=4)
    ),
    "transformer 1x4": lambda streams, width: TransformerFusion(
        TransformerConfig(d_model=width, streams=streams, depth=1, num_heads=4)
    ),
}
TITLES = {"length": "tokens of the video", "rows": "rows of a batch", "heads": "heads in one pass"}


def main() -> None:
    arguments = parse()
    harness, found = Harness(arguments, "torch"), dict[str, Any]()
    for axis, points in points_of(arguments).items():
        found[axis] = measured(points, arguments)
        print_axis(axis, found[axis])
        harness.write(found)
    found["crossing"] = crossings(found["length"])
    harness.end(found, found["crossing"])


def parse() -> argparse.Namespace:
    parser = options(__doc__, repeats=5)
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS), help="tokens of the video")
    parser.add_argument("--rows", type=int, nargs="+", default=list(ROWS))
    parser.add_argument("--heads", type=int, nargs="+", default=list(HEADS))
    parser.add_argument("--width", type=int, default=WIDTH, help="d_model, and channels of the features")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="all cores by default")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.lengths = [length for length in arguments.lengths if length <= 256]
        arguments.rows, arguments.heads = arguments.rows[:2], arguments.heads[:2]
        arguments.width, arguments.repeats = 64, 1
    return arguments


def points_of(arguments: argparse.Namespace) -> dict[str, list[Point]]:
    """By axis; the kinds of a length take turns."""
    common = {"width": arguments.width, "count": 1}
    lengths = [
        {"kind": kind, "x": length, "length": length, "rows": AT_ROWS, **common}
        for length in arguments.lengths
        for kind in KINDS
    ]
    rows = [
        {"kind": kind, "x": rows, "length": AT_LENGTH, "rows": rows, **common}
        for rows in arguments.rows
        for kind in KINDS
    ]
    narrow = {"length": 16, "rows": 32, "width": min(arguments.width, HEADS_WIDTH)}
    heads = [
        {"kind": kind, "x": count, "count": count, **narrow}
        for count in arguments.heads
        for kind in ("one pass", "one by one")
    ]
    return {"length": lengths, "rows": rows, "heads": heads}


def print_axis(axis: str, points: Sequence[Point]) -> None:
    table = Table(TITLES[axis], "head", "parameters", "ms", "fastest", "slowest", "memory, MB")
    for one in points:
        times = [f"{one[key]:,.1f}" for key in ("milliseconds", "fastest", "slowest", "megabytes")]
        table.add_row(f"{one['x']:,}", one["kind"], f"{one['parameters']:,}", *times)
    Console(width=120).print(table)


# --- a point


def measured(points: Sequence[Point], arguments: argparse.Namespace) -> list[Point]:
    """Each with its figures, from a process of its own."""
    context = multiprocessing.get_context("fork")
    found = []
    for point in points:
        receive, send = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(point, arguments.repeats, arguments.threads, send))
        process.start()
        send.close()
        try:
            found.append({**point, **receive.recv()})
        except EOFError:
            raise SystemExit(f"{point}: its process ended without figures; was there memory?") from None
        process.join()
    return found


def work(point: Point, repeats: int, threads: int, send: Any) -> None:
    torch.set_num_threads(threads)
    tiny = {**point, "width": 8, "count": 1}
    build(tiny, make_streams(2, 4, 8))[1]()  # code that is loaded when it is first used is nobody's memory
    streams = make_streams(point["rows"], point["length"], point["width"])
    gc.collect()
    reset_peak()
    before = status_bytes("VmRSS")
    parameters, step = build(point, streams)
    step()
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < repeats or time.perf_counter() - begun < min(LEAST, 0.1 * repeats):
        times.append(clock(step)[0])
    megabytes = round((status_bytes("VmHWM") - before) / 1e6, 1)
    send.send({"parameters": parameters, **spread(times), "megabytes": megabytes})


def build(point: Point, streams: Streams) -> tuple[int, Loop]:
    """Parameters of the head, and a step."""
    if point["kind"] in KINDS:
        shapes = {name: StreamShape(width=tokens.shape[2]) for name, (tokens, _) in streams.items()}
        torch.manual_seed(0)
        head, train = KINDS[point["kind"]](shapes, point["width"]).train(), TrainConfig()
        return head.num_params(), in_sequence([(head, build_optimizer(head, train), train)], streams)
    heads = make_heads("mambavl", point["width"], streams, point["count"])
    step = in_one_pass(heads, streams) if point["kind"] == "one pass" else in_sequence(heads, streams)
    return sum(head.num_params() for head, _, _ in heads), step


def make_streams(rows: int, length: int, width: int) -> Streams:
    """A video of so many tokens and two questions, drawn; all of a length, so that nothing is left out."""
    draw = torch.Generator().manual_seed(0)
    lengths = {"video": length, "verb_question": QUESTION_TOKENS, "noun_question": QUESTION_TOKENS}
    return {
        name: (torch.randn(rows, size, width, generator=draw), torch.full((rows,), size))
        for name, size in lengths.items()
    }


# --- what follows


def crossings(points: Sequence[Point]) -> dict[str, float | None]:
    """`time, transformer 6x4` -> the length from which on mambavl is cheaper than it."""
    found = {}
    for name, key in (("time", "fastest"), ("memory", "megabytes")):
        lines = {kind: [(one["x"], one[key]) for one in points if one["kind"] == kind] for kind in KINDS}
        for kind in KINDS:
            if kind != "mambavl":
                found[f"{name}, {kind}"] = crossing(lines["mambavl"], lines[kind])
    return found


def crossing(ours: Sequence[tuple[float, float]], theirs: Sequence[tuple[float, float]]) -> float | None:
    """The x from which on our line stays below theirs, each (x, value) in order; the first x where it is
    below throughout, None where it is not at the last.
    """
    apart = [math.log(max(a, 1e-9) / max(b, 1e-9)) for (_, a), (_, b) in zip(ours, theirs, strict=True)]
    if apart[-1] >= 0:
        return None
    last = max((place for place, value in enumerate(apart) if value >= 0), default=None)
    if last is None:
        return ours[0][0]
    low, high = (math.log(ours[place][0]) for place in (last, last + 1))
    share = apart[last] / (apart[last] - apart[last + 1])
    return round(math.exp(low + share * (high - low)), 1)


if __name__ == "__main__":
    main()
