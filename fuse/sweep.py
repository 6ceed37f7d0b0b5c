"""`mambavl sweep`: a recipe with a [grid] -> a run for each point. A point with a result.json is skipped, one
that another process trains is left to it.
"""

import gc
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from mambavl.cache import canonical, fsops
from mambavl.configs.errors import DataError, Interrupted, MambaVLError, UsageError
from mambavl.fuse import grid
from mambavl.fuse.data import FeatureData
from mambavl.fuse.owner import RunHeld, last_failure, reason
from mambavl.fuse.processes import Processes
from mambavl.fuse.recipe import WITHOUT_WEIGHT, Recipe, build_head, run_targets, what_decides
from mambavl.fuse.result import Result
from mambavl.fuse.run import (
    RECIPE,
    RESULT,
    CurveLine,
    read_recipe,
    refuse_other_folder,
    refuse_other_recipe,
    refuse_other_stores,
)
from mambavl.fuse.train import train

SUMMARY = "summary.json"
SORT_KEY = "all_action_top1"
WAIT = 1.0  # seconds between two looks at points that other processes train

# skipped: had finished before this sweep; elsewhere: another process trains it
State = Literal["waiting", "skipped", "running", "elsewhere", "done", "failed"]
Failure = dict[str, str] | None  # as owner.last_failure gives it


@dataclass
class Point:
    """One combination of the grid and how far it is."""

    name: str
    values: dict[str, Any]
    recipe: Recipe
    run: Path
    state: State = "waiting"
    epoch: int = 0
    result: Result | None = None
    error: str = ""  # why it failed, or who works on it elsewhere
    failure_before: Failure = None  # of an attempt before this sweep


OnChange = Callable[[list[Point]], None]


def expand(data: dict[str, Any], out: Path, source: str, assignments: Sequence[str] = ()) -> list[Point]:
    """The points of `data`'s [grid], as `grid.expand` finds and checks them, with a folder in `out` each."""
    found = grid.expand(data, source, assignments)
    return [Point(name, values, recipe, out / _folder(name, values)) for name, values, recipe in found]


def sweep(
    points: list[Point],
    out: Path,
    *,
    on_change: OnChange = lambda points: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Point]:
    """Run every unfinished point; returns the points, best action top-1 first. summary.json lists them after
    every one that ends.

    Stores are opened once, every folder is compared with its recipe and every head is built without memory
    before the first point runs, so that a changed recipe, a wrong width or a missing store stops the sweep at
    once: UsageError or DataError. A point that ends in any other error is marked failed, with its reason; the
    others go on. A point that another process trains is passed over and looked at again later, so several
    sweeps in one folder share its points. Raises Interrupted when `should_stop()` turns true in any process.
    """
    return _Sweep(points, out, on_change, should_stop).run()


class _Sweep:
    def __init__(
        self, points: list[Point], out: Path, on_change: OnChange, should_stop: Callable[[], bool]
    ) -> None:
        self.points, self.out, self.should_stop = points, out, should_stop
        self.processes = Processes()
        self.on_change = on_change if self.processes.is_main else lambda points: None
        self.opened: dict[str, FeatureData] = {}

    def run(self) -> list[Point]:
        for point, found in zip(self.points, self.processes.once(self._found), strict=True):
            point.run, point.recipe, point.state, point.failure_before = found
        self.processes.every(self._check)
        self.processes.once(lambda: fsops.make_folder(self.out))
        ahead = self.points
        while ahead:
            for point in ahead:
                self._run(point)
            ahead = [point for point in self.points if point.state == "elsewhere"]
            if ahead:
                self._wait(len(ahead))
        self.processes.once(self._write_summary)
        return self._ranked()

    def _found(self) -> list[tuple[Path, Recipe, State, Failure]]:
        """Where each point is on the disk, and how far it was before this sweep."""
        found: list[tuple[Path, Recipe, State, Failure]] = []
        for run, recipe in find_folders(self.points, self.out):
            state: State = "skipped" if (run / RESULT).exists() else "waiting"
            found.append((run, recipe, state, last_failure(run)))
        return found

    def _check(self) -> None:
        """Everything that can be refused before the first update."""
        for point in self.points:
            refuse_other_folder(point.run)
            refuse_other_recipe(point.run, point.recipe)
            if point.state == "skipped" and not point.recipe.has_stores():
                continue  # the stores have moved on, the run stands
            data = self._data(point.recipe)
            refuse_other_stores(point.run, data)
            if point.state == "waiting":
                with torch.device("meta"):
                    build_head(point.recipe, data, run_targets(point.recipe, data))

    def _run(self, point: Point) -> None:
        before = point.state, point.error

        def started() -> None:
            point.state, point.error = "running", ""
            self.on_change(self.points)

        def report(line: CurveLine) -> None:
            point.epoch = line["epoch"]
            self.on_change(self.points)

        try:
            failure = self.processes.once(lambda: last_failure(point.run))
            if failure and failure != point.failure_before:
                raise DataError(failure["error"])  # in another sweep, since this one began
            has_stores = self.processes.once(point.recipe.has_stores)
            point.result = train(
                point.recipe,
                point.run,
                data=self._data(point.recipe) if has_stores else None,
                on_start=started,
                on_epoch=report,
                should_stop=self.should_stop,
            )
            if point.state != "skipped":
                point.state, point.error = "done", ""
        except Interrupted:
            raise
        except RunHeld as held:
            point.state, point.error = "elsewhere", f"{held.holder} works on it"
        except Exception as error:
            if self.processes.count > 1 and not isinstance(error, MambaVLError):
                raise  # of this process alone: the others wait in the middle of an exchange
            point.state, point.error = "failed", reason(error)
        if point.state == "failed":
            _free_memory()
        if (point.state, point.error) != before:
            self.processes.once(self._write_summary)
            self.on_change(self.points)

    def _wait(self, number: int) -> None:
        if self.processes.any(self.should_stop()):
            raise Interrupted(
                f"{self.out}: stopped while other processes train {number} of the points; "
                "the same command resumes"
            )
        time.sleep(WAIT)

    def _data(self, recipe: Recipe) -> FeatureData:
        """The recipe's streams; points that read the same ones share them."""
        sources = {name: source.model_dump(mode="json") for name, source in recipe.sources.items()}
        key = canonical.digest([sources, recipe.data.model_dump()])
        if key not in self.opened:
            self.opened[key] = FeatureData(recipe.sources, recipe.data, device=self.processes.device)
        return self.opened[key]

    def _ranked(self) -> list[Point]:
        return sorted(self.points, key=_score, reverse=True)

    def _write_summary(self) -> None:
        lines = [
            {
                "name": point.name,
                "run": point.run.name,
                "values": point.values,
                "state": point.state,
                "error": point.error,
                "metrics": point.result.metrics if point.result else None,
            }
            for point in self._ranked()
        ]
        fsops.write_file(self.out / SUMMARY, canonical.pretty_json(lines))


def find_folders(points: list[Point], out: Path) -> list[tuple[Path, Recipe]]:
    """The folder of each point in `out`, and its recipe with the title that it has there.

    A run whose recipe gives the point's weights is the point's, whatever its folder is called: its name, and
    its title where the recipe has none, come from the grid, and an axis added to the grid changes both. A
    finished run comes first, then one under the point's own name.
    """
    there: dict[str, list[tuple[Path, Recipe]]] = {}
    for recipe_file in sorted(out.glob(f"*/{RECIPE}")):
        try:
            recipe = read_recipe(recipe_file.parent)
        except UsageError:
            continue  # of another version, or not ours: no point can be this run
        there.setdefault(_digest(recipe), []).append((recipe_file.parent, recipe))
    found = []
    for point in points:
        has_twins = any(key in WITHOUT_WEIGHT for key in point.values)  # other points with the same weights
        runs = [] if has_twins else there.get(_digest(point.recipe), [])
        runs = sorted(runs, key=lambda run: (not (run[0] / RESULT).exists(), run[0] != point.run))
        if runs and runs[0][0] != point.run:
            run, recipe = runs[0]
            found.append((run, point.recipe.model_copy(update={"title": recipe.title})))
        else:
            found.append((point.run, point.recipe))
    return found


def points_without_folder(summary: Path) -> dict[str, str]:
    """Points of a summary.json for which no folder is there: their names, and why. Raises DataError where the
    file is damaged.
    """
    found = {}
    try:
        for line in json.loads(summary.read_bytes()):
            if not (summary.parent / line["run"]).exists():
                found[str(summary.parent / line["run"])] = line["error"] or "has not begun"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{summary}: is damaged ({error}); leave it out, or run the sweep again") from None
    return found


def _digest(recipe: Recipe) -> str:
    return canonical.digest(what_decides(recipe))


def _free_memory() -> None:
    """What the failed point still holds; the next one may need all there is."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _score(point: Point) -> float:
    score = point.result.metrics.get(SORT_KEY) if point.result else None
    return -1.0 if score is None else score


def _folder(name: str, values: dict[str, Any]) -> str:
    """A folder name for a point: its values where they make one, else as much of them as fits and a hash."""
    safe = re.sub(r"[^A-Za-z0-9_.,=+-]", "_", name)
    is_whole = safe == name and len(name) <= 120 and not name.startswith(".")
    return name if is_whole else f"{safe[:100].lstrip('.')}-{canonical.digest(values)[:8]}"
