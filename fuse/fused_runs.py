"""Runs whose scores are to be mixed: what is read of each, and which do not belong together.

A mixture is of scores of the same rows, under the same labels. What is chosen for it is chosen on training
rows that were held out of other runs (HELD), each of one run's recipe. What a run that counts has in its file
is no log p: its own exponent, chosen among its own training rows, is in it (log p - exponent log prior, see
`counts`), and HELD's is another than its run's. So `Member.log_p` takes it out, by choice.json and prior.json
of the run: a run that counts has plain probabilities like any other.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mambavl.cache import canonical, open_store
from mambavl.cache.classes import Classes
from mambavl.cache.rows import Segment
from mambavl.configs.errors import DataError, UsageError, differs, some
from mambavl.fuse import fused
from mambavl.fuse.counting import read_choice
from mambavl.fuse.counts import COUNTS
from mambavl.fuse.data import assign_folds
from mambavl.fuse.idle import without
from mambavl.fuse.recipe import Recipe, what_decides
from mambavl.fuse.result import Result
from mambavl.fuse.run import (
    STREAMS,
    as_kept,
    read_classes,
    read_prior,
    read_recipe,
    read_result,
    scores_file,
)
from mambavl.fuse.scored import ScoresFile, read_scores_file

MAY_DIFFER = ("data.hold_out", "data.hold_out_by", "data.eval_split", "train.seed")  # of a run and its HELD


@dataclass(frozen=True)
class Member:
    """A run whose scores are mixed, or chosen on."""

    run: Path
    recipe: Recipe
    result: Result
    file: ScoresFile  # of the split of its result
    prior: Mapping[str, np.ndarray]  # target -> logarithms (classes,), float32
    fed: dict[str, dict[str, Any]]  # its streams.json
    segments: Mapping[str, Segment]  # narration_id -> row, of all rows of its stores

    @property
    def trained_on(self) -> set[str]:
        """narration_ids of the rows that its head may have been trained on."""
        data = self.recipe.data
        rows = [segment for segment in self.segments.values() if segment.split == data.train_split]
        if data.held_out:
            part, parts = data.held_out
            owners = [getattr(segment, f"{data.hold_out_by}_id") for segment in rows]
            part_of = assign_folds(owners, parts)
            rows = [row for row, owner in zip(rows, owners, strict=True) if part_of[owner] != part]
        return {segment.narration_id for segment in rows}

    def participants(self, ids: Iterable[str]) -> set[str]:
        """Whose rows some rows are."""
        return {self.segments[name].participant_id for name in ids}

    def exponent(self, name: str) -> float:
        """That of the prior which is in the scores of a target already: of runs that count."""
        if self.result.head != COUNTS:
            return 0.0
        choice = read_choice(self.run)
        if choice is None:
            raise DataError(f"{self.run}: has no choice.json, so its exponent is not known; count again")
        return float(choice["chosen"][name]["exponent"])

    def log_p(self, name: str) -> np.ndarray:
        """Log-probabilities (rows, columns) of a target, float32, without an exponent of the run's own."""
        scores, prior = self.file.scores[name], self.prior[name]
        return fused.without_exponent(scores, prior, self.exponent(name), self.by_prior(name))

    def by_prior(self, name: str) -> np.ndarray:
        """(rows,) bool: those without features, which got the training prior, as it was kept."""
        kept = as_kept({name: self.prior[name]}, self.recipe.train.score_dtype)[name]
        return (self.file.scores[name] == kept).all(1)


def read_member(run: Path, rows_of: dict[str, tuple[Segment, ...]]) -> Member:
    """Raises DataError for a run that has not finished, or whose files are damaged, and for a mixture.

    rows_of: store -> its rows, of those that were read before.
    """
    recipe = read_recipe(run)  # of a mixture there is none: it says so
    result = read_result(run)
    fed = json.loads((run / STREAMS).read_bytes())
    return Member(
        run=run,
        recipe=recipe,
        result=result,
        file=read_scores_file(scores_file(run, result.split), read_classes(run)),
        prior={name: values.astype(np.float32) for name, values in read_prior(run).items()},
        fed=fed,
        segments=_segments(result, fed, rows_of),
    )


def _segments(
    result: Result, fed: dict[str, dict[str, Any]], rows_of: dict[str, tuple[Segment, ...]]
) -> dict[str, Segment]:
    """All rows that a run was trained and scored on; every stream has the same."""
    scored, trained = next(iter(result.streams.values())), next(iter(fed.values()))
    paths = list(scored.stores)
    if not set(trained["store_ids"]) <= set(scored.store_ids):  # scored on another split's stores
        paths += trained["stores"]
    for path in paths:
        if path not in rows_of:
            rows_of[path] = open_store(path, verify="none").segments
    return {segment.narration_id: segment for path in paths for segment in rows_of[path]}


# --- what does not belong together


def refuse_unlike(members: Sequence[Member]) -> None:
    """Raises DataError where runs have other rows, labels or targets than the first."""
    for other in members[1:]:
        one, where = members[0], f"{members[0].run} and {other.run}"
        if one.result.split != other.result.split:
            raise DataError(f"{where}: are scored on {one.result.split} and on {other.result.split}")
        _refuse_other_targets(where, one.file.classes, other.file.classes)
        if one.file.ids != other.file.ids:
            apart = sorted(set(one.file.ids) ^ set(other.file.ids))
            raise DataError(
                f"{where}: have other rows of {one.result.split}: {len(one.file.ids):,} and "
                f"{len(other.file.ids):,}, not in both {some(apart)}"
            )
        for name, labels in one.file.labels.items():
            unlike = (labels != other.file.labels[name]).reshape(len(labels), -1).any(1)
            if unlike.any():
                raise DataError(
                    f"{where}: were scored against other labels of {name}, the first of row "
                    f"{one.file.ids[int(np.argmax(unlike))]}; they are of two lists of annotations"
                )


def _refuse_other_targets(where: str, one: Classes, other: Classes) -> None:
    if one.names != other.names:
        raise DataError(f"{where}: score other targets: {', '.join(one.names)}; {', '.join(other.names)}")
    for name in one.targets:
        if one.targets[name] != other.targets[name]:
            raise DataError(f"{where}: have other classes of {name}")
    for name in one.derived:
        pairs = [len(classes.derived[name].pairs or ()) for classes in (one, other)]
        if one.derived[name] != other.derived[name]:
            raise DataError(
                f"{where}: rank {name} among other combinations, {pairs[0]:,} and {pairs[1]:,} (0: by the "
                "product of its parts); those that the rows show that each was trained on"
            )
    if one.groups != other.groups:
        raise DataError(f"{where}: put other rows into the groups {', '.join(one.groups)}")


def refuse_other_recipe(member: Member, held: Member) -> None:
    """Raises DataError where HELD is not its run's recipe, trained on the same stores; UsageError where it
    holds no rows out.
    """
    if not held.recipe.data.hold_out:
        raise UsageError(
            f"{held.run}: holds out no training rows to choose on; train the recipe of {member.run} with "
            "--set data.hold_out=0/5 into another folder, and name that one with --chosen-on"
        )
    recipes = [_decided(one.recipe) for one in (member, held)]
    fed = [
        {
            name: {key: value for key, value in stream.items() if key != "stores"}
            for name, stream in one.items()
        }
        for one in (member.fed, held.fed)
    ]
    faults = canonical.differences(recipes[0], recipes[1]) + canonical.differences(fed[0], fed[1])
    if faults:
        what = differs(faults, f"{member.run} -> {held.run}")
        raise DataError(f"{held.run}: is another recipe than {member.run}, or read other stores. {what}")


def _decided(recipe: Recipe) -> dict[str, Any]:
    """What decided the weights, but for which rows were held out, the seed, and where the stores lay."""
    stores = [f"streams.{name}.store" for name in recipe.streams]
    return without(what_decides(recipe), [*MAY_DIFFER, *stores])


def refuse_trained_on(members: Sequence[Member], held: Sequence[Member]) -> None:
    """Raises DataError where scores are mixed or chosen on rows that a head has seen."""
    scored = set(members[0].file.ids)
    chosen_on = set(held[0].file.ids) if held else set()
    for one in (*members, *held):
        if found := scored & one.trained_on:
            raise DataError(
                f"{one.run}: was trained on {len(found):,} of the rows that are scored "
                f"({some(sorted(found))})"
            )
    for one in held:
        if found := chosen_on & one.trained_on:
            raise DataError(
                f"{one.run}: was trained on {len(found):,} of the rows to choose on ({some(sorted(found))})"
            )
    if found := scored & chosen_on:
        raise DataError(
            f"{held[0].run}: {len(found):,} of the rows to choose on are scored ({some(sorted(found))}); "
            "the choice would fit what it is measured by"
        )
