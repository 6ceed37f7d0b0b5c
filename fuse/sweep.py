"""`mambavl sweep`: a recipe with a [grid] -> one run a point. A point that has its result.json is skipped."""

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mambavl.cache import schema
from mambavl.configs import check, set_key
from mambavl.configs.errors import DataError, UsageError
from mambavl.fuse.data import FeatureData
from mambavl.fuse.evaluate import RESULT
from mambavl.fuse.recipe import Recipe
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
    state: str = "waiting"  # waiting, skipped, running, done, failed
    epoch: int = 0
    result: dict[str, Any] | None = None
    error: str = ""


def expand(data: dict[str, Any], out: Path, source: str) -> list[Point]:
    """The points of `data`'s [grid]. Every point's recipe is checked before any is run."""
    grid = flatten(data.get("grid", {}))
    if not grid:
        raise UsageError(f"{source}: has no [grid]; name keys and lists of values there, e.g. train.lr = [1e-3, 3e-3]")
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise UsageError(f"{source} [grid]: {key} must be a list of values, got {values!r}")
    points = []
    for values in itertools.product(*grid.values()):
        chosen = dict(zip(grid, values, strict=True))
        point = _copy({key: value for key, value in data.items() if key != "grid"})
        for key, value in chosen.items():
            set_key(point, key, value)
        name = ",".join(f"{key}={_short(value)}" for key, value in chosen.items())
        points.append(Point(name, chosen, check(point, Recipe, f"{source} [grid {name}]"), out / _safe(name)))
    return points


def sweep(
    points: list[Point],
    out: Path,
    *,
    on_change: Callable[[list[Point]], None] = lambda points: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Point]:
    """Run every unfinished point, then write summary.json; returns the points, best action top-1 first.

    Points that read the same streams share one open set of stores. A point that diverges is marked failed; the others go on.
    """
    opened: dict[str, FeatureData] = {}
    for point in points:
        point.state = "skipped" if (point.run / RESULT).exists() else "running"
        on_change(points)

        def report(line: dict[str, Any], point: Point = point) -> None:
            point.epoch = line["epoch"]
            on_change(points)

        try:
            data = None
            if point.state == "running":
                key = schema.digest([{k: v.model_dump(mode="json") for k, v in point.recipe.streams.items()},
                                     point.recipe.data.model_dump()])  # fmt: skip
                data = opened.setdefault(key, None) or FeatureData(point.recipe.streams, point.recipe.data)
                opened[key] = data
            point.result = train(point.recipe, point.run, data=data, on_epoch=report, should_stop=should_stop)
            point.state = "skipped" if point.state == "skipped" else "done"
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
            "metrics": p.result and p.result["metrics"],
        }
        for p in points
    ]
    (out / SUMMARY).write_bytes(schema.pretty_json(lines))
    return points


def flatten(grid: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"train": {"lr": [..]}} -> {"train.lr": [..]}."""
    found = {}
    for key, value in grid.items():
        found |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _copy(value: Any) -> Any:
    """A copy of nested tables, so that one point's values never reach another."""
    return {key: _copy(item) for key, item in value.items()} if isinstance(value, dict) else value


def _score(point: Point) -> float:
    score = (point.result or {}).get("metrics", {}).get(SORT_KEY)
    return -1.0 if score is None else score


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _safe(name: str) -> str:
    """A folder name: no separators, no leading dot."""
    return re.sub(r"[^A-Za-z0-9_.,=+-]", "_", name).lstrip(".")[:200]
