"""How fast does a Mamba of transformers run and train on a CPU with our scan in place of its own?

    python benchmarks/mamba.py [--lengths 128 512 2048] [--batch 1] [--part 4] [--repeats 3] [--threads 2]
                               [--quick] [--out FILE]

The model has the shape of mamba-130m (24 layers of width 768, 16 states, 50,280 words), random weights,
float32. --part 4 is a quarter of it: 6 layers and a quarter of the words, so that scans, other products and
words weigh as in the whole, at a quarter of the time; --part 1 is the whole. What scans takes turns:

    ours           `mambavl.fuse.scan.compat.selective_scan_fn`, put in its place as docs/scan.md shows
    loop           transformers where no kernel is installed: a loop over the steps
    mambapy        transformers with `use_mambapy`, where mambapy is installed
    associative    transformers with `use_associative_scan`, which acts under torch.compile alone: its
                   function is compiled, the rest of the model is not, as with all others

forward is the logits of a batch without gradients, training is logits, loss and the gradients of all weights.
First results are compared with ours: logits and each weight's gradient differ by at most TOLERANCE of their
norm. Times are medians after a first call; of jobs that take seconds fewer turns are taken.

Not run: training with the loop at more than LOOP_TRAINED steps, since the gradient of each step's slice is a
whole tensor of states, and what does not fit into memory. About five minutes on two quiet cores.

The last line is JSON: by work and length, how many times as long as ours the fastest of the others takes.
"""

import argparse
import importlib.util
import inspect
import os
import shutil
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no processes beside what is timed

import torch
from harness import Harness, free_gigabytes, options, spread, turns
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers.models.mamba import modeling_mamba

from mambavl.fuse.scan.compat import selective_scan_fn

LAYERS, WORDS, WIDTH, STATES, EXPAND = 24, 50_280, 768, 16, 2  # of mamba-130m
WORKS = ("forward", "training")
TOLERANCE = 1e-4
LOOP_TRAINED = 128
# tensors of all states, (B, L, D, N), that a layer keeps for its gradients, and that are there besides
KEPT, BESIDES = {"ours": 0, "loop": 4, "mambapy": 6, "associative": 6}, 8
SLOW = {20.0: 1, 5.0: 2}  # seconds of a call -> turns

Scan = Callable[..., Any]
Key = tuple[int, str, str]  # length, work, way


def main() -> None:
    arguments = parse()
    if arguments.quick:
        arguments.lengths, arguments.repeats = [8], 1
    torch.set_num_threads(arguments.threads)
    config = shape(arguments)
    run = Harness(
        arguments, "torch", "transformers", "mambapy",
        layers=config.num_hidden_layers, width=config.hidden_size, states=config.state_size,
        words=config.vocab_size, tolerance=TOLERANCE,
    )  # fmt: skip
    notes: list[str] = []
    scans, found = ways(notes), {}
    torch.manual_seed(0)
    model = modeling_mamba.MambaForCausalLM(config)
    for length in arguments.lengths:
        found[str(length)] = measure(model, length, scans, arguments, notes)
        run.write({"lengths": found, "notes": notes})
    show(found, scans, notes, config)
    run.end({"lengths": found, "notes": notes}, last_line(found))


def parse() -> argparse.Namespace:
    parser = options(__doc__, repeats=3)
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 512, 2048], help="tokens of a text")
    parser.add_argument("--batch", type=int, default=1, help="texts")
    parser.add_argument("--part", type=int, default=4, help="one of so many equal parts of the model")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="all cores by default")
    return parser.parse_args()


def shape(arguments: argparse.Namespace) -> Any:
    if arguments.quick:
        return modeling_mamba.MambaConfig(
            vocab_size=50, hidden_size=32, state_size=4, num_hidden_layers=2, expand=EXPAND
        )
    return modeling_mamba.MambaConfig(
        vocab_size=WORDS // arguments.part, hidden_size=WIDTH, state_size=STATES, expand=EXPAND,
        num_hidden_layers=LAYERS // arguments.part,
    )  # fmt: skip


def ways(notes: list[str]) -> dict[str, Scan]:
    """What scans, ours first."""
    if not hasattr(modeling_mamba, "mamba_selective_scan"):
        raise SystemExit("transformers has no mamba_selective_scan: pip install 'transformers>=5.23'")
    theirs = inspect.unwrap(modeling_mamba.mamba_selective_scan)  # unwrapped: never a kernel from elsewhere
    found = {"ours": selective_scan_fn, "loop": theirs}
    if importlib.util.find_spec("mambapy"):
        found["mambapy"] = partial(theirs, use_mambapy=True)
    else:
        notes.append("mambapy is missing: pip install mambapy")
    if shutil.which("c++") or os.environ.get("CXX"):
        found["associative"] = partial(torch.compile(theirs, dynamic=False), use_associative_scan=True)
    else:
        notes.append("associative: torch.compile wants a C++ compiler")
    return found


def measure(
    model: Any, length: int, scans: dict[str, Scan], arguments: argparse.Namespace, notes: list[str]
) -> dict[str, dict[str, Any]]:
    """By work and way: milliseconds and tokens a second, None where it was not run."""
    generator = torch.Generator().manual_seed(length)
    words = torch.randint(model.config.vocab_size, (arguments.batch, length), generator=generator)
    found: dict[str, dict[str, Any]] = {}
    for work in WORKS:
        jobs = {}
        for way, scan in scans.items():
            if reason := left_out(way, work, words, model.config):
                notes.append(f"{way}, {work}, {length} tokens: {reason}")
            else:
                jobs[way] = partial(call, model, words, scan, work)
        if "associative" in jobs:
            jobs["associative"]()  # so that turns are not given by how long compiling took
        seconds = turns(jobs, arguments.repeats, check=Same(f"{work}, {length} tokens"), often=often)
        found[work] = dict.fromkeys(scans)
        for way, its in seconds.items():
            found[work][way] = one = spread(its)
            one["tokens_per_second"] = round(1e3 * words.numel() / one["milliseconds"], 1)
        model.zero_grad()
    return found


def call(model: Any, words: Tensor, scan: Scan, work: str) -> dict[str, Tensor]:
    """Logits, and in training the gradients of all weights, with `scan` in place of the model's own."""

    def put_in(*args: Any, use_mambapy: bool, use_associative_scan: bool, **keys: Any) -> Any:
        return scan(*args, **keys)

    own, modeling_mamba.mamba_selective_scan = modeling_mamba.mamba_selective_scan, put_in
    try:
        if work == "forward":
            with torch.no_grad():
                return {"logits": model.eval()(words, use_cache=False).logits}
        model.train().zero_grad()
        out = model(words, labels=words)
        out.loss.backward()
        return {"logits": out.logits.detach()} | {
            name: weight.grad for name, weight in model.named_parameters()
        }
    finally:
        modeling_mamba.mamba_selective_scan = own


class Same:
    """Refuses what differs from the first results, which are ours."""

    def __init__(self, what: str) -> None:
        self.what, self.ours = what, dict[str, Tensor]()

    def __call__(self, way: str, found: dict[str, Tensor]) -> None:
        if not self.ours:
            self.ours = {name: value.clone() for name, value in found.items()}
        for name, value in self.ours.items():
            apart = float((found[name] - value).norm() / value.norm())
            if not apart <= TOLERANCE:
                raise SystemExit(f"{way}, {self.what}: {name} differs from ours by {apart:.2g} of its norm")


def often(seconds: float, repeats: int) -> int:
    return min(repeats, next((times for limit, times in SLOW.items() if seconds > limit), repeats))


def left_out(way: str, work: str, words: Tensor, config: Any) -> str | None:
    if way == "loop" and work == "training" and words.shape[1] > LOOP_TRAINED:
        return "not run: the gradient of each step's slice is a whole tensor of states, L squared in all"
    states = 4 * words.numel() * config.expand * config.hidden_size * config.state_size / 1e9
    kept = KEPT[way] * config.num_hidden_layers if work == "training" else 0
    needed, free = states * (kept + (BESIDES if way != "ours" else 0)), free_gigabytes()
    return f"needs about {needed:.0f} GB and {free:.0f} are free" if needed > 0.9 * free else None


def show(found: dict[str, Any], scans: dict[str, Scan], notes: list[str], config: Any) -> None:
    console = Console(width=130)
    table = Table("tokens", "work", *(f"{way}, tokens/s" for way in scans), "best of the others / ours")
    table.title = f"{config.num_hidden_layers} layers of {config.hidden_size}, {config.vocab_size:,} words"
    for length, works in found.items():
        for work, its in works.items():
            rates = [f"{one['tokens_per_second']:,.0f}" if one else "–" for one in its.values()]
            lead = over_best(its)
            table.add_row(length, work, *rates, "–" if lead is None else f"{lead:.2f}")
    console.print(table)
    for note in notes:
        console.print(note)


def last_line(found: dict[str, Any]) -> dict[str, float | None]:
    return {f"{work}_{n}": over_best(its) for n, works in found.items() for work, its in works.items()}


def over_best(its: dict[str, Any]) -> float | None:
    """Time of the fastest of the others over ours."""
    others = [one["milliseconds"] for way, one in its.items() if one and way != "ours"]
    return round(min(others) / its["ours"]["milliseconds"], 2) if others else None


if __name__ == "__main__":
    main()
