"""`mambavl sweep`: a recipe with a [grid] -> a run for each point. A point with a result.json is skipped."""

import itertools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState

from mambavl.cache import canonical, fsops
from mambavl.configs import override, validate
from mambavl.configs.errors import DataError, UsageError
from mambavl.fuse.data import FeatureData
from mambavl.fuse.recipe import Recipe, build_head
from mambavl.fuse.result import Result
from mambavl.fuse.run import RESULT, CurveLine
from mambavl.fuse.train import train

SUMMARY = "summary.json"
SORT_KEY = "all_action_top1"


@dataclass
class Point:
    """One combination of the grid and how far it is."""

    name: str
    values: dict[str, Any]
    recipe: Recipe
    run: Path
    state: Literal["waiting", "skipped", "running", "done", "failed"] = "waiting"
    epoch: int = 0
    result: Result | None = None
    error: str = ""


def expand(data: dict[str, Any], out: Path, source: str) -> list[Point]:
    """The points of `data`'s [grid]. Every point's recipe is checked before any is run."""
    grid = flatten(data.get("grid", {}))
    if not grid:
        raise UsageError(
            f"{source}: has no [grid]; name keys and lists of values there, e.g. train.lr = [1e-3, 3e-3]"
        )
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise UsageError(f"{source} [grid]: {key} must be a list of values, got {values!r}")
    points: dict[str, Point] = {}
    for values in itertools.product(*grid.values()):
        chosen = dict(zip(grid, values, strict=True))
        # JSON scalars and lists are TOML, too
        assignments = [f"{key}={json.dumps(value)}" for key, value in chosen.items()]
        recipe = override({key: value for key, value in data.items() if key != "grid"}, assignments)
        name = ",".join(f"{key}={value}" for key, value in chosen.items())
        if "title" not in recipe:  # runs that differ in their seed alone carry one title
            recipe["title"] = ", ".join(
                f"{key} = {value}" for key, value in chosen.items() if key != "train.seed"
            )
        point = Point(
            name, chosen, validate(recipe, Recipe, f"{source} [grid {name}]"), out / _folder(name, chosen)
        )
        if points.setdefault(canonical.digest(point.recipe.model_dump(mode="json")), point) is not point:
            raise UsageError(f"{source} [grid]: {name} is listed twice")
    return list(points.values())


def sweep(
    points: list[Point],
    out: Path,
    *,
    on_change: Callable[[list[Point]], None] = lambda points: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Point]:
    """Run every unfinished point, then write summary.json; returns the points, best action top-1 first.

    Stores are opened once and every head is built without memory before the first point runs, so that a wrong
    width or a missing store stops the sweep at once. A point that diverges is marked failed; the others go
    on.
    """
    opened: dict[str, FeatureData] = {}
    for point in points:
        point.state = "skipped" if (point.run / RESULT).exists() else "waiting"
        if point.state == "waiting":
            with torch.device("meta"):
                build_head(point.recipe, _data(point.recipe, opened))
    fsops.make_folder(out)
    for point in points:
        is_waiting = point.state == "waiting"
        if is_waiting:
            point.state = "running"
        on_change(points)

        def report(line: CurveLine, point: Point = point) -> None:
            point.epoch = line["epoch"]
            on_change(points)

        data = _data(point.recipe, opened) if is_waiting else None
        try:
            point.result = train(point.recipe, point.run, data=data, on_epoch=report, should_stop=should_stop)
            if is_waiting:
                point.state = "done"
        except DataError as error:
            point.state, point.error = "failed", str(error)
        on_change(points)
    points = sorted(points, key=_score, reverse=True)
    lines = [
        {
            "name": p.name,
            "run": p.run.name,
            "values": p.values,
            "error": p.error,
            "metrics": p.result.metrics if p.result else None,
        }
        for p in points
    ]
    if PartialState().is_main_process:
        fsops.write_file(out / SUMMARY, canonical.pretty_json(lines))
    return points


def _data(recipe: Recipe, opened: dict[str, FeatureData]) -> FeatureData:
    """The recipe's streams; points that read the same ones share them."""
    sources = {name: source.model_dump(mode="json") for name, source in recipe.sources.items()}
    key = canonical.digest([sources, recipe.data.model_dump()])
    if key not in opened:
        opened[key] = FeatureData(
            recipe.sources, recipe.data, device="cuda" if torch.cuda.is_available() else "cpu"
        )
    return opened[key]


def flatten(grid: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"train": {"lr": [..]}} -> {"train.lr": [..]}."""
    found: dict[str, Any] = {}
    for key, value in grid.items():
        if isinstance(value, dict):
            found |= flatten(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _score(point: Point) -> float:
    score = point.result.metrics.get(SORT_KEY) if point.result else None
    return -1.0 if score is None else score


def _folder(name: str, values: dict[str, Any]) -> str:
    """A folder name for a point: its values where they make one, else as much of them as fits and a hash."""
    safe = re.sub(r"[^A-Za-z0-9_.,=+-]", "_", name)
    is_whole = safe == name and len(name) <= 120 and not name.startswith(".")
    return name if is_whole else f"{safe[:100].lstrip('.')}-{canonical.digest(values)[:8]}"
