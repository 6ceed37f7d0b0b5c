"""`select_on` of a sweep's recipe: the best candidate is chosen on training rows that were held out, then
trained on all of them and scored once on rows that had no part in the choice.

The best of many candidates lies above its own mean by chance alone; on the rows it was chosen on, that chance
is part of its score. Points that differ in their seed alone are one candidate, compared by their mean.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mambavl.cache import canonical
from mambavl.configs import is_set
from mambavl.configs.errors import DataError, UsageError
from mambavl.fuse.data import check_part
from mambavl.fuse.drawn import axes_of
from mambavl.fuse.recipe import Recipe
from mambavl.fuse.result import Result, Selection

KEY = "select_on"
SEED = "train.seed"
WHICH_ROWS = ("data.train_split", "data.eval_split", "data.hold_out", "data.hold_out_by")


@dataclass(frozen=True)
class Choice:
    """Which points were chosen: those of one candidate, one a seed."""

    points: tuple[int, ...]  # their places among the points of the sweep
    selection: Selection


def hold_out(data: dict[str, Any], source: str, assignments: Sequence[str] = ()) -> dict[str, Any]:
    """A sweep's recipe with what `select_on` stands for in its place: all points hold those rows out.

    Raises UsageError, which names `source`, or --set where it is one of the `assignments`, where the value is
    no part, and where the recipe or its grid says itself which rows are trained on and scored.
    """
    if KEY not in data:
        return data
    where = "--set" if is_set(KEY, assignments) else source
    part, section, axes = data[KEY], data.get("data", {}), axes_of(data)
    try:
        check_part(part)
    except ValueError as error:
        raise UsageError(f"{where}: {KEY} = {part!r}: {error}") from None
    if isinstance(section, dict) and "hold_out" in section:
        raise UsageError(
            f"{where}: {KEY} = {part} and data.hold_out = {section['hold_out']}: both hold rows out of "
            "training; leave one of them out"
        )
    for key in WHICH_ROWS:
        if key in axes:
            raise UsageError(
                f"{where}: {KEY} = {part} compares all points on the same rows; leave {key} out of "
                f"{axes[key]}, or {KEY}"
            )
    train = data.get("train", {})
    if "train.stop_after" in axes or (isinstance(train, dict) and "stop_after" in train):
        raise UsageError(
            f"{where}: {KEY} = {part} trains the best point on all rows in the end, and none are left for "
            "train.stop_after to watch; leave one of them out"
        )
    kept = {key: value for key, value in data.items() if key != KEY}
    return {**kept, "data": {**section, "hold_out": part}} if isinstance(section, dict) else kept


def on_all_rows(recipe: Recipe) -> Recipe:
    """A point's recipe, trained on all training rows and scored on its eval_split; its head is kept."""
    data = recipe.data.model_copy(update={"hold_out": None})
    train = recipe.train.model_copy(update={"keep": "weights"})
    return recipe.model_copy(update={"data": data, "train": train})


def score_of(result: Result | None, rank_by: str | None = None) -> float | None:
    """None for a point without a result, or one on whose rows nothing could be measured. rank_by: a target,
    as in the recipe.
    """
    return None if result is None else result.metrics.get(result.measure_of(rank_by))


def candidates(values: Sequence[dict[str, Any]]) -> list[list[int]]:
    """Points, given as their values of the grid -> those that differ in their seed alone, together."""
    found: dict[str, list[int]] = {}
    for place, chosen in enumerate(values):
        without_seed = {key: value for key, value in chosen.items() if key != SEED}
        found.setdefault(canonical.digest(without_seed), []).append(place)
    return list(found.values())


def choose(
    values: Sequence[dict[str, Any]],
    results: Sequence[Result | None],
    rank_by: str | None = None,
    pruned: int = 0,
) -> Choice | None:
    """The candidate with the best mean over its seeds; of equals the first in the order of the grid.

    values, results: of all points, in that order. rank_by: the target that is compared, as in the recipe.
    pruned: points besides that a search gave up. A candidate with a point that has no score is not compared:
    the mean of the other seeds is one of those that went well. None where no candidate is left. Raises
    DataError where the points were not measured alike.
    """
    measured = [result for result in results if result is not None]
    alike = {(result.measure_of(rank_by), result.split, result.rows.scored) for result in measured}
    if len(alike) > 1:
        listed = "; ".join(f"{by} on {rows} rows of {split}" for by, split, rows in sorted(alike))
        raise DataError(
            f"the points cannot be compared, so none was chosen. They were scored by {listed}. Leave what "
            "makes them differ out of [grid], or sweep without select_on"
        )
    groups = candidates(values)
    means: list[tuple[float, list[int]]] = []
    for members in groups:
        scores = [score_of(results[place], rank_by) for place in members]
        known = [score for score in scores if score is not None]
        if len(known) == len(members):
            means.append((math.fsum(known) / len(known), members))
    if not means:
        return None
    score, best = max(means, key=lambda found: found[0])  # the first of equals
    [(by, on, _)] = alike
    failed = len(groups) - len(means)
    selection = Selection(among=len(means), failed=failed, on=on, by=by, score=score, pruned=pruned)
    return Choice(tuple(best), selection)
