"""How much was looked at on the rows of a comparison, and what the best of it is worth on others.

The best of many candidates lies above its own mean by chance. What sweeps record says among how many it
stands out; what else was tried and deleted, nobody can say here.

    nested by participant: for each participant the candidate that is best on the rows of all others is
    measured on theirs, and the measure is taken over all rows put together so

No row has a part in choosing what it is scored by. That takes out what is chance of rows; chance of seeds,
which is the same in all kitchens, it leaves in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mambavl.cache import canonical
from mambavl.configs.errors import UsageError, counted
from mambavl.fuse.idle import without
from mambavl.fuse.metrics import RECALL5
from mambavl.fuse.paired import ClassMeans
from mambavl.fuse.recipe import what_decides
from mambavl.fuse.run import RECIPE, RESULT, read_curves, read_recipe, read_result
from mambavl.fuse.selection import SEED
from mambavl.fuse.sides import Member, Side
from mambavl.fuse.summary import SUMMARY


@dataclass(frozen=True)
class Looked:
    """What one sweep has scored on some rows."""

    sweep: Path
    candidates: tuple[
        tuple[str, ...], ...
    ]  # names of the run folders of each: they differ in their seed alone
    scorings: int  # epochs of all runs after which these rows were scored

    @property
    def runs(self) -> int:
        return sum(len(names) for names in self.candidates)

    def holds(self, side: Side) -> bool:
        return side.first.result is not None and side.first.path.resolve().parent == self.sweep

    @property
    def in_words(self) -> str:
        """Such as `sharing: 24 runs of 4 candidates, scored after 720 epochs in all`."""
        runs = f"{counted(self.runs, 'run')} of {counted(len(self.candidates), 'candidate')}"
        return f"{self.sweep.name}: {runs}, scored after {counted(self.scorings, 'epoch')} in all"


def looked_at(sides: Sequence[Side]) -> list[Looked]:
    """The sweeps that runs of some sides lie in, each once."""
    found: dict[Path, Looked] = {}
    for side in sides:
        for member in side.members:
            folder = member.path.resolve().parent
            if member.result and folder not in found and (folder / SUMMARY).is_file():
                found[folder] = _look(folder, member.result.split)
    return list(found.values())


def _look(folder: Path, split: str) -> Looked:
    candidates: dict[str, list[str]] = {}
    scorings = 0
    for path in sorted(folder.glob(f"*/{RECIPE}")):
        run = path.parent
        try:
            recipe = read_recipe(run)
        except UsageError:
            continue  # of another version, or not ours: it is no point of this sweep
        if recipe.data.scored != split:
            continue
        scored = sum(any(_is_measure(key) for key in line) for line in read_curves(run))
        if not scored and (run / RESULT).exists():
            scored = 1  # a head that counts
        if scored:
            key = canonical.digest(without(what_decides(recipe), [SEED]))
            candidates.setdefault(key, []).append(run.name)
            scorings += scored
    return Looked(folder, tuple(tuple(names) for names in candidates.values()), scorings)


def _is_measure(key: str) -> bool:
    return key.endswith(("_top1", "_map", f"_{RECALL5}"))


def stands_out_among(sides: Sequence[Side], found: Sequence[Looked]) -> int:
    """Among how many candidates one side may have been taken to stand beside the other: all but the other."""
    alone = sum(not any(sweep.holds(side) for sweep in found) for side in sides)
    return max(1, sum(len(sweep.candidates) for sweep in found) + alone - 1)


def rivals(side: Side, sweep: Looked) -> list[list[Member]]:
    """The candidates of the sweep that a side lies in which have finished with the side's seeds, itself among
    them; of each the runs in the order of their seeds.
    """
    kept = []
    for names in sweep.candidates:
        runs = [sweep.sweep / name for name in names if (sweep.sweep / name / RESULT).exists()]
        members = [Member(run, read_result(run)) for run in runs]
        own = {one.result.seed: one for one in members if one.result}
        if sorted(own) == side.seeds:
            kept.append([own[seed] for seed in side.seeds])
    return kept


@dataclass(frozen=True)
class Nested:
    """What the best of several candidates is worth on rows that had no part in choosing it."""

    candidates: int
    best: str  # on all rows
    plain: float  # of the best, on the very rows it is the best on
    nested: float
    participants: int
    same: int  # participants without whose rows the same one is the best


def nested(hits: Mapping[str, np.ndarray], label: np.ndarray, participant: Sequence[str]) -> Nested:
    """hits: candidate -> (N,) of each row, a mean over seeds; label (N,): as of `ClassMeans`; participant: of
    each row, two or more. Of equals the first is the best.
    """
    names, every = list(hits), np.stack(list(hits.values()))
    means = ClassMeans(label, participant, draws=1)
    plain = np.array([means.of(one) for one in every])
    of_others = np.stack([means.without_each(one[None]) for one in every])  # (candidates, participants)
    people, owner = np.unique(participant, return_inverse=True)
    chosen = of_others.argmax(0)
    put_together = every[chosen[owner], np.arange(len(owner))]
    best = int(plain.argmax())
    return Nested(
        candidates=len(names),
        best=names[best],
        plain=float(plain[best]),
        nested=means.of(put_together),
        participants=len(people),
        same=int((chosen == best).sum()),
    )
