"""The points of a sweep: what a recipe asks for, and where each of them is on the disk."""

import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mambavl.cache import canonical
from mambavl.configs.errors import DataError, UsageError
from mambavl.fuse import grid
from mambavl.fuse.owner import last_failure
from mambavl.fuse.recipe import WITHOUT_WEIGHT, Recipe, what_decides
from mambavl.fuse.result import Result, Selection
from mambavl.fuse.run import RECIPE, RESULT, read_recipe, read_result
from mambavl.fuse.selection import hold_out

# skipped: had finished before this sweep; elsewhere: another process trains it; pruned: a search gave it up
State = Literal["waiting", "skipped", "running", "elsewhere", "done", "failed", "pruned"]
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
    error: str = ""  # why it failed or was pruned, or who works on it elsewhere
    failure_before: Failure = None  # of an attempt before this sweep, once it `is_found`
    is_found: bool = False
    selection: Selection | None = None  # of a run of what was chosen
    trial: int | None = None  # number of the proposal, in a search


OnChange = Callable[[list[Point]], None]


def expand(data: dict[str, Any], out: Path, source: str, assignments: Sequence[str] = ()) -> list[Point]:
    """The points of `data`'s [grid], as `grid.expand` finds and checks them, with a folder in `out` each; of
    a recipe with `select_on` they hold those rows out. Raises as `grid.expand` and `selection.hold_out` do.
    """
    found = grid.expand(hold_out(data, source, assignments), source, assignments)
    return [Point(name, values, recipe, out / folder_name(name, values)) for name, values, recipe in found]


def point_at(
    data: dict[str, Any], values: dict[str, Any], out: Path, source: str, assignments: Sequence[str] = ()
) -> Point:
    """The point at which keys of `data` have some values, as `grid.combination` makes it; with `select_on` it
    holds those rows out.
    """
    found = grid.combination(hold_out(data, source, assignments), values, source, assignments)
    return Point(found.name, found.values, found.recipe, out / folder_name(found.name, found.values))


def find(points: list[Point], out: Path) -> None:
    """Where each point is on the disk, and how far it was before this sweep: what its last failure was is
    looked up once, and kept by whoever goes on with the sweep in place of a process that crashed.
    """
    for point, (run, recipe) in zip(points, find_folders(points, out), strict=True):
        point.run, point.recipe = run, recipe
        point.state = "skipped" if (run / RESULT).exists() else "waiting"
        if not point.is_found:
            point.failure_before, point.is_found = last_failure(run), True


def look_again(points: list[Point]) -> None:
    """Those that other processes have finished since the sweep began are done, for whoever watches it."""
    for point in points:
        if point.state in ("waiting", "elsewhere") and (point.run / RESULT).exists():
            with contextlib.suppress(DataError):  # whoever comes to the point says what is wrong with it
                point.result = read_result(point.run)
                point.state, point.error = "done", ""


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


def folder_name(name: str, values: dict[str, Any]) -> str:
    """A folder name for a point: its values where they make one, else as much of them as fits and a hash."""
    safe = re.sub(r"[^A-Za-z0-9_.,=+-]", "_", name)
    is_whole = safe == name and len(name) <= 120 and not name.startswith(".")
    return name if is_whole else f"{safe[:100].lstrip('.')}-{canonical.digest(values)[:8]}"


def _digest(recipe: Recipe) -> str:
    return canonical.digest(what_decides(recipe))
