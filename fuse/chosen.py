"""The runs of what a sweep with `select_on` chose: trained on all rows, in folders named `chosen,POINT`."""

from dataclasses import dataclass, replace
from pathlib import Path

from mambavl.fuse.owner import held
from mambavl.fuse.points import Point, folder_name
from mambavl.fuse.result import Result, Selection
from mambavl.fuse.run import RESULT, write_result, write_selection
from mambavl.fuse.selection import on_all_rows

CHOSEN = "chosen"  # begins the names of such runs


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What was chosen among the points of a sweep."""

    selection: Selection | None  # None: no candidate has a score at all its points
    runs: list[Point]  # of what was chosen: trained on all rows, one a seed
    earlier: list[Path]  # finished runs of what was chosen before, among other points


def final(point: Point) -> Point:
    """What is run if the point is chosen."""
    name = f"{CHOSEN},{point.name}"
    run = point.run.parent / folder_name(name, point.values)
    return Point(name, point.values, on_all_rows(point.recipe), run)


def others(out: Path, chosen: list[Point]) -> list[Path]:
    """Finished runs of what was chosen before."""
    names = {point.run.name for point in chosen}
    there = sorted(out.glob(f"{CHOSEN},*/{RESULT}"))
    return [path.parent for path in there if path.parent.name not in names]


def renew_selection(run: Path, result: Result, selection: Selection) -> Result:
    """The same candidate was chosen again: its result says among how many, at most. A choice among fewer
    points does not undo that it stood out among more.
    """
    before = result.selection
    if before == selection or (before and before.among > selection.among):
        return result
    renewed = replace(result, selection=selection)
    with held(run):
        write_selection(run, selection)
        write_result(run, renewed)
    return renewed
