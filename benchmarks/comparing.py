"""How often does `mambavl compare` say "better" where there is nothing, and where there is something?

    python benchmarks/comparing.py [--times 1000] [--powers 100] [--quick] [--out FILE]

A sweep is made up: rows in videos of unequal size (log-normal, sigma 0.9) and classes of unequal size, and
for each of two or more candidates who is right on which row, once for each seed. A row is easy or hard for
all; a candidate has leanings of its own towards videos and rows, which its seeds share; a seed has luck of
its own, as a whole and on each row. A label is among the best five more often than it is the best, and the
verdict is taken on top-1, top-5 and class-mean recall@5 one after the other, as the command does.

Without a difference (leanings of all candidates are draws from one distribution, so in the long run nobody is
better):

    same head       the two have the same leanings and differ by the luck of their seeds
    other heads     each has its own leanings
    sure seeds      likewise, and seeds have next to no luck: every seed tells the same, and only videos vary
    few videos      likewise, of 9 videos
    best of 8       the best of eight candidates by mean top-1 on these rows beside the first of them, with
                    ten seeds; their number is told to the verdict

"Better" of A or of B counts, said of any of the three measures. With a difference: other heads, of which A
is right more often in the long run, by so many points of top-1.

The last line is JSON: the share of sweeps, in percent, in which "better" is said.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from harness import Harness, options
from rich.console import Console
from rich.table import Table

from mambavl.fuse.paired import ClassMeans
from mambavl.fuse.verdict import Verdict, judge, judge_in_order, weigh

DRAWS = 1000
TOP1, TOP5 = 1.2, -1.0  # by how much a row's score must be above 0 for its label to be there
EVERY_SHIFT = (0.1, 0.2, 0.3, 0.5)  # of A's scores: about 1.5, 3, 5 and 8 points of top-1


@dataclass(frozen=True)
class World:
    """What sweeps are drawn from."""

    videos: int = 40
    rows: float = 20  # a video, on average
    classes: int = 30
    seeds: int = 6
    candidates: int = 2
    video_lean: float = 0.3  # standard deviations, on the scale of a logit
    row_lean: float = 0.7
    luck: float = 0.1  # of a seed as a whole
    shared: bool = False  # all candidates have the leanings of the first
    shift: float = 0.0  # of the first candidate, everywhere


@dataclass(frozen=True)
class Sweep:
    """Who is right where."""

    video: np.ndarray  # (N,)
    label: np.ndarray  # (N,)
    best1: np.ndarray  # (candidates, seeds, N) 0 or 1
    best5: np.ndarray


NOTHING = {
    "same head": World(shared=True),
    "other heads": World(),
    "sure seeds": World(luck=0.0, video_lean=0.6),
    "few videos": World(luck=0.0, video_lean=0.6, videos=9, rows=60, classes=8),
    "best of 8": World(candidates=8, seeds=10),
}


def draw(world: World, rng: np.random.Generator) -> Sweep:
    """One sweep."""
    sizes = np.maximum(2, rng.lognormal(0, 0.9, world.videos) * world.rows / np.exp(0.9**2 / 2)).astype(int)
    video = np.repeat(np.arange(world.videos), sizes)
    share = 1 / np.arange(1, world.classes + 1) ** 1.2
    label = rng.choice(world.classes, len(video), p=share / share.sum())
    easy = rng.normal(0, 0.7, world.videos)[video] + rng.normal(0, 1, world.classes)[label]
    easy = easy + rng.normal(0, 1, len(video))
    scores = []
    for candidate in range(world.candidates):
        if candidate == 0 or not world.shared:
            lean = rng.normal(0, world.video_lean, world.videos)[video]
            lean = lean + rng.normal(0, world.row_lean, len(video))
        luck = rng.normal(0, world.luck, (world.seeds, 1)) + rng.logistic(0, 0.5, (world.seeds, len(video)))
        scores.append(easy + lean + luck + (world.shift if candidate == 0 else 0.0))
    found = np.stack(scores)
    return Sweep(video, label, (found > TOP1).astype(float), (found > TOP5).astype(float))


def verdicts(sweep: Sweep) -> list[Verdict]:
    """Of top-1, top-5 and recall, up to one that is not decided: the first candidate beside the second; of
    several the best beside the first.
    """
    a, b, among = 0, 1, 1
    if len(sweep.best1) > 2:
        means = sweep.best1.mean((1, 2))
        a, b, among = int(1 + means[1:].argmax()), 0, len(means) - 1
    rows, found = np.zeros(len(sweep.label), int), []
    for label, hits in ((rows, sweep.best1), (rows, sweep.best5), (sweep.label, sweep.best5)):
        means = ClassMeans(label, sweep.video, DRAWS)
        found.append(weigh(means, hits[a], hits[b], among=among))
        if not judge(found[-1]).better:
            break  # what comes after it is not judged
    return judge_in_order(found)


def how_often(world: World, times: int, seed: int) -> dict[str, float]:
    """In percent: how often any measure, and the first, is said to be better; and the mean difference of
    top-1, in points, that was there.
    """
    rng = np.random.default_rng(seed)
    any_, first, apart = 0, 0, 0.0
    for _ in range(times):
        sweep = draw(world, rng)
        found = verdicts(sweep)
        any_ += any(one.better for one in found)
        first += found[0].better is not None
        apart += 100 * float((sweep.best1[0] - sweep.best1[1]).mean())
    return {"any": 100 * any_ / times, "first": 100 * first / times, "points": apart / times}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--times", type=int, default=1000, help="sweeps without a difference, of each kind")
    parser.add_argument("--powers", type=int, default=100, help="sweeps of each planted difference")
    parser.add_argument("--quick", action="store_true", help="20 and 5; the figures mean little")
    given = parser.parse_args(arguments)
    if given.quick:
        given.times, given.powers = 20, 5
    harness, times, powers = Harness(given, "numpy", draws=DRAWS), given.times, given.powers
    console = Console(width=110)
    table = Table("without a difference", "sweeps", "any measure, %", "top-1, %")
    found: dict[str, dict[str, dict[str, float]]] = {"nothing": {}, "planted": {}}
    for number, (name, world) in enumerate(NOTHING.items()):
        one = found["nothing"][name] = how_often(world, times, number)
        table.add_row(name, f"{times:,}", f"{one['any']:.1f}", f"{one['first']:.1f}")
    console.print(table)
    table = Table("videos", "seeds", "points of top-1", "better, %")
    for videos in (40, 138):
        for seeds in (6, 10):
            for shift in EVERY_SHIFT:
                world = World(videos=videos, seeds=seeds, shift=shift)
                one = how_often(world, powers, 100)
                found["planted"][f"{videos} videos, {seeds} seeds, shift {shift:g}"] = one
                table.add_row(str(videos), str(seeds), f"{one['points']:.1f}", f"{one['first']:.0f}")
    console.print(table)
    harness.end(found, {name: one["any"] for name, one in found["nothing"].items()})


if __name__ == "__main__":
    main()
