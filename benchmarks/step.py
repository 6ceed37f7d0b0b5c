"""What does a training step of MambaVL's head cost, and what is saved by computing each valid token of each
distinct text once?

    python benchmarks/step.py [--widths 64 192 768] [--batch 128] [--repeats 7] [--quick] [--out FILE]

A batch of EK100's shape: 16 video tokens of 768 a row and two questions of 768 a token. Texts are as long,
and as often the same, as EK100's generated oracle questions (a mean of 21 tokens, 40 at most, a sixth of them
in texts that are there already); under `generic` all rows have the same two. A step is forward, loss,
backward, clipping and AdamW, in float32, features in memory. The same head takes turns with a twin of itself
that computes every row and every step, so that noise from elsewhere meets both; losses and gradients of the
two are compared first. Times are medians, in milliseconds, on all cores that torch uses.

The last line is JSON; ratios above 1 mean that ours is faster.
"""

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from harness import Harness, options, spread, turns
from rich.console import Console
from rich.table import Table

from mambavl.fuse import fusion
from mambavl.fuse.fusion import FusionConfig, SSMFusion
from mambavl.fuse.head import Streams, StreamShape
from mambavl.fuse.optimizer import TrainConfig, build_optimizer
from mambavl.fuse.ragged import Ragged

WIDTH, VIDEO_TOKENS, LONGEST = 768, 16, 40
QUESTIONS = ("verb_question", "noun_question")
PROTOCOLS = ("oracle", "generic")
AGAIN = 1 / 6  # of the texts of a batch, those that it has already
COLUMNS = ("positions", "computed", "step_ms", "all_computed_ms", "ratio")

Step = tuple[float, list[torch.Tensor]]  # its loss, and the gradients of all weights


def main() -> None:
    parser = options(__doc__, repeats=7)
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 192, 768], help="d_model of the heads")
    parser.add_argument("--batch", type=int, default=128, help="rows")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.widths, arguments.batch, arguments.repeats = [16], 6, 1
    harness = Harness(arguments, "torch")
    table = Table("d_model", "texts", "positions", "computed", "a step, ms", "all computed, ms", "ratio")
    figures: dict[str, dict[str, Any]] = {}
    for width in arguments.widths:
        for protocol in PROTOCOLS:
            streams = make_batch(arguments.batch, protocol)
            found = measure(width, streams, arguments.repeats)
            figures[f"d{width}_{protocol}"] = found
            table.add_row(str(width), protocol, *(f"{found[key]:,.4g}" for key in COLUMNS))
    Console().print(table)
    harness.end(figures, {f"{name}_ratio": found["ratio"] for name, found in figures.items()})


def make_batch(rows: int, protocol: str) -> Streams:
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator)
    streams = {"video": (draw(rows, VIDEO_TOKENS, WIDTH), torch.full((rows,), VIDEO_TOKENS))}
    for question in QUESTIONS:
        distinct = 1 if protocol == "generic" else round(rows * (1 - AGAIN))
        lengths = (21.4 + 5 * draw(distinct)).round().clamp(8, LONGEST).long()
        tokens = draw(distinct, int(lengths.max()), WIDTH)
        tokens[torch.arange(tokens.shape[1]) >= lengths[:, None]] = 0.0
        which = torch.arange(rows) % distinct
        streams[question] = (tokens[which], lengths[which])
    return streams


@contextmanager
def all_computed() -> Iterator[None]:
    """The head computes every row and every step."""

    class Dense(Ragged):
        @classmethod
        def of(cls, tokens: torch.Tensor, lengths: torch.Tensor) -> Ragged:
            return cls(lengths, tokens.shape[1], None, None, None)

    fusion.Ragged = Dense
    try:
        yield
    finally:
        fusion.Ragged = Ragged


def measure(width: int, streams: Streams, repeats: int) -> dict[str, Any]:
    rows = len(streams["video"][1])
    shapes = {name: StreamShape(width=WIDTH) for name in streams}
    torch.manual_seed(0)
    head = SSMFusion(FusionConfig(d_model=width, streams=shapes)).train()
    optimizer = build_optimizer(head, TrainConfig())
    for group in optimizer.param_groups:
        group["lr"] = 0.0  # weights stay, so that every step is the same
    keys = torch.arange(rows)
    labels = {target: torch.arange(rows) % classes for target, classes in head.config.targets.items()}

    def step() -> Step:
        logits = head(streams, keys)
        loss = torch.stack([F.cross_entropy(one, labels[target]) for target, one in logits.items()]).sum()
        loss.backward()
        gradients = [parameter.grad.clone() for parameter in head.parameters()]
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach()), gradients

    def plain_step() -> Step:
        with all_computed():
            return step()

    first: dict[str, Step] = {}

    def check(way: str, found: Step) -> None:
        first[way] = found
        refuse_different(first["ours"], found)

    times = turns({"ours": step, "all computed": plain_step}, repeats, check=check)
    mine, plain = (1e3 * statistics.median(seconds) for seconds in times.values())
    positions, computed = counts(streams)
    return {
        "positions": positions,
        "computed": computed,
        "step_ms": round(mine, 1),
        "all_computed_ms": round(plain, 1),
        "ratio": round(plain / mine, 2),
        "times": {way: spread(seconds) for way, seconds in times.items()},
    }


def refuse_different(ours: Step, plain: Step) -> None:
    largest = max(float(gradient.abs().max()) for gradient in plain[1])
    apart = max(float((a - b).abs().max()) for a, b in zip(ours[1], plain[1], strict=True))
    if abs(ours[0] - plain[0]) > 1e-5 or apart > 1e-4 * largest:
        raise SystemExit(f"the two heads differ: losses {ours[0]} and {plain[0]}, gradients by {apart}")


def counts(streams: Streams) -> tuple[int, int]:
    """Positions of a batch as the streams pad them, and those that are computed."""
    questions = [streams[name] for name in QUESTIONS]
    longest = max(tokens.shape[1] for tokens, _ in questions)
    rows = [
        torch.cat(
            [torch.nn.functional.pad(tokens, (0, 0, 0, longest - tokens.shape[1])) for tokens, _ in questions]
        ),
        torch.cat([lengths for _, lengths in questions]),
    ]
    video = streams["video"][0].shape[0] * streams["video"][0].shape[1]
    return video + rows[0].shape[0] * longest, video + len(Ragged.of(*rows).pack(rows[0]))


if __name__ == "__main__":
    main()
