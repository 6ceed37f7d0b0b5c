"""How close do the frozen encoders run to the matrix products they consist of, and how much
memory do they take?

    python benchmarks/extraction.py [--encoder avion-vit-b ...] [--repeats 3] [--quick] [--out FILE]

Weights are random: none of the published ones are at hand, and the time does not depend on them. Every
encoder has its true width and depth, float32, one clip at a time; most have a shorter or smaller clip than
their own, so that a forward takes seconds on a CPU (the table says which). It runs on two threads unless
OMP_NUM_THREADS says otherwise. Encoders run one after the other, each in a fresh process:

    forward    `tokens` of one clip (RoBERTa: of a batch of questions), without gradients
    floor      the products that the forward called (linear layers, batched products, fused attention), on
               operands of the same shapes and strides that were made before: no norm, activation, sum or
               copy between them. A convolution whose patches do not overlap is a product too, and is timed
               as one
    ratio      median over --repeats turns of a forward's time over the floor's right after it: on a busy
               machine neighbours in time are comparable, medians of each alone are not
    memory     peak of the process during the first forward above what it held before: everything but
               weights and the clip. Next to it: what the scores of its largest attention call would take in
               memory, and what N x N scores of all heads of the N tokens of a clip (an image, a question)
               would. Fused attention holds neither; without it this ends with an error

The last line is JSON: {"encoders": {name: {"samples_per_s", "over_floor"}}}. Wants 4 GB; takes about 8
minutes on two cores.
"""

import argparse
import json
import math
import os
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
import torch.nn.functional as F
from harness import Harness, options, own_process, reset_peak, spread, status_bytes, turns
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mambavl.complexity.count import text_encoder
from mambavl.extract.encoders.registry import build

QUESTIONS, QUESTION_TOKENS = 16, 40
CLIPS: dict[str, dict[str, Any]] = {  # what is not the encoder's own
    "orvit": {},
    "orvit-hr": {"frames": 4},
    "motionformer": {"frames": 8},
    "motionformer-hr": {"frames": 4},
    "motionformer-l": {"image_size": 112},
    "avion-vit-b": {},
    "avion-vit-l": {"frames": 2},
    "lavila-tsf-b": {},
    "lavila-tsf-l": {"frames": 2},
    "timm:vit_base_patch16_224": {"frames": 8},
    "roberta-base": {},
}
SMALL = {"width": 64, "depth": 2, "heads": 4, "image_size": 64, "frames": 4}
QUICK: dict[str, dict[str, Any]] = {
    "orvit": SMALL | {"orvit_layers": (1,)},
    "motionformer": SMALL,
    "avion-vit-b": SMALL,
    "lavila-tsf-b": SMALL,
    "timm:test_vit": {"frames": 2},
}


def main() -> None:
    parser = options(__doc__, repeats=3)
    parser.add_argument(
        "--encoder", action="append", choices=[*CLIPS, *QUICK], help="only this one; may be repeated"
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)  # the fresh process of one encoder
    arguments = parser.parse_args()
    sizes = QUICK if arguments.quick else CLIPS
    if arguments.child:
        print(json.dumps(measure(arguments.child, sizes[arguments.child], arguments.repeats)))
        return
    harness = Harness(arguments, "torch", "timm", "transformers", weights="random", dtype="float32")
    console = Console(width=150)
    console.print(
        "weights are random"
        + ("; --quick: small encoders, the figures mean nothing" if arguments.quick else "")
    )
    words = ("--repeats", arguments.repeats, *(["--quick"] if arguments.quick else []))
    rows = {name: own_process("--child", name, *words) for name in arguments.encoder or sizes}
    print_table(console, rows)
    last = {name: {key: row[key] for key in ("samples_per_s", "over_floor")} for name, row in rows.items()}
    harness.end({"encoders": rows}, {"encoders": last})


def print_table(console: Console, rows: dict[str, dict[str, Any]]) -> None:
    table = Table("encoder", "one sample", "tokens", "samples/s", "forward, s", "floor, s", "forward / floor")
    table.title = "forward next to its matrix products"
    for name, row in rows.items():
        times = (
            f"{row[key]:.3f}" for key in ("samples_per_s", "forward_seconds", "floor_seconds", "over_floor")
        )
        table.add_row(name, row["sample"], f"{row['tokens']:,}", *times)
    console.print(table)
    table = Table(
        "encoder",
        "weights, MB",
        "peak above them, MB",
        "its largest scores, MB",
        "N x N x heads, MB",
        title="memory",
    )
    for name, row in rows.items():
        sizes = ("weights", "peak_above_weights", "largest_scores", "all_scores")
        table.add_row(name, *(f"{row[f'{key}_megabytes']:,.1f}" for key in sizes))
    console.print(table)


# --- one encoder


@dataclass(frozen=True)
class Case:
    """An encoder and a forward of it: `samples` clips or questions, as `sequences` of `tokens` tokens that
    attention sees.
    """

    model: nn.Module
    forward: Callable[[], Tensor]
    sample: str
    samples: int
    sequences: int
    tokens: int


def make_case(name: str, sizes: dict[str, Any]) -> Case:
    if name == "roberta-base":
        torch.manual_seed(0)
        model = text_encoder(name)
        ids = torch.randint(5, 50000, (QUESTIONS, QUESTION_TOKENS))
        what = f"a question of {QUESTION_TOKENS} tokens, {QUESTIONS} at once"
        return Case(
            model, lambda: model(input_ids=ids).last_hidden_state, what, QUESTIONS, QUESTIONS, QUESTION_TOKENS
        )
    own = dict(sizes)
    frames = own.pop("frames") if name.startswith("timm:") else None
    model = build(name, weights="random", **own)
    frames, size = frames or model.config.frames, model.pixels.image_size
    video = torch.randn(1, 3, frames, size, size)
    inputs = [video]
    if "orvit" in name:
        inputs.append(torch.tensor([0.5, 0.5, 0.4, 0.3]).expand(1, frames, model.config.objects, 4))
    steps, height, width = model.token_grid((frames, size, size))
    apart = frames if name.startswith("timm:") else 1  # an image model sees every frame alone
    tokens = 1 + steps * height * width // apart
    return Case(
        model, lambda: model.tokens(*inputs), f"a clip of {frames} frames, {size} px", 1, apart, tokens
    )


def measure(name: str, sizes: dict[str, Any], repeats: int) -> dict[str, Any]:
    """Times and memory of one encoder; this process has done nothing else."""
    case = make_case(name, sizes)
    reset_peak()
    products, before = Products(), status_bytes("VmRSS")
    with torch.no_grad(), products:  # inference mode would hide what a linear layer is made of
        case.forward()
    peak = status_bytes("VmHWM") - before
    with torch.inference_mode():
        jobs = [job for product, times in products.found.items() for job in [replay(*product)] * times]
        seconds = turns({"forward": case.forward, "floor": lambda: [job() for job in jobs]}, repeats)
    forwards, floors = seconds["forward"], seconds["floor"]
    if not any(kind == "attention" for kind, *_ in products.found):
        raise SystemExit(f"{name}: no fused attention was called, so its scores are held in memory")
    queries = [(operands[0][0], operands[1][0]) for kind, *operands in products.found if kind == "attention"]
    median = statistics.median(forwards)
    return {
        "sample": case.sample,
        "tokens": case.tokens,
        "samples_per_s": round(case.samples / median, 3),
        "forward_seconds": round(median, 3),
        "floor_seconds": round(statistics.median(floors), 3),
        "over_floor": round(statistics.median(a / b for a, b in zip(forwards, floors, strict=True)), 3),
        "times": {way: spread(own) for way, own in seconds.items()},
        "products": len(jobs),
        "weights_megabytes": megabytes(sum(p.nbytes for p in case.model.parameters())),
        "peak_above_weights_megabytes": megabytes(peak),
        "largest_scores_megabytes": megabytes(max(4 * math.prod(q[:-1]) * k[-2] for q, k in queries)),
        "all_scores_megabytes": megabytes(4 * case.sequences * queries[0][0][1] * case.tokens**2),
    }


# --- products


class Products(TorchDispatchMode):
    """Counts the matrix products that run: (kind, shape and strides of each operand) -> how often."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[tuple] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kind = function.overloadpacket.__name__
        if kind in ("addmm", "baddbmm"):
            self._note("mm" if kind == "addmm" else "bmm", *args[1:3])
        elif kind in ("mm", "bmm"):
            self._note(kind, *args[:2])
        elif kind.startswith("_scaled_dot_product"):
            self._note("attention", *args[:3])
        elif kind == "convolution":
            self._note("mm", *as_product(*args))
        return function(*args, **(kwargs or {}))

    def _note(self, kind: str, *operands: Tensor) -> None:
        self.found[kind, *((tuple(x.shape), x.stride()) for x in operands)] += 1


def as_product(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: list[int], padding: list[int], *rest: Any
) -> tuple:
    """The operands of the product that a convolution over patches which do not overlap is."""
    kernel = list(weight.shape[2:])
    if stride != kernel or any(padding) or weight.shape[1] != x.shape[1]:
        raise SystemExit(
            f"a convolution of {kernel} by {stride} is no single product; this benchmark is for transformers"
        )
    patches = x.numel() // math.prod(weight.shape[1:])
    return torch.empty(patches, weight[0].numel(), device="meta"), torch.empty(
        weight[0].numel(), len(weight), device="meta"
    )


def replay(kind: str, *operands: tuple[tuple[int, ...], tuple[int, ...]]) -> Callable[[], Tensor]:
    """The same product of other numbers, which are made now and multiplied once. Products of the same
    operands share them.
    """
    tensors = [random_strided(*operand) for operand in operands]
    if kind == "attention":
        F.scaled_dot_product_attention(*tensors)
        return partial(F.scaled_dot_product_attention, *tensors)
    product = {"mm": torch.mm, "bmm": torch.bmm}[kind]
    return partial(product, *tensors, out=product(*tensors))


def random_strided(shape: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    extent = 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    return torch.randn(extent).as_strided(shape, stride)


def megabytes(count: int) -> float:
    return round(count / 1e6, 1)


if __name__ == "__main__":
    main()
