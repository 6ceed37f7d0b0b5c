"""summary.json of a sweep: its points, and what was chosen among them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mambavl.cache import canonical, fsops
from mambavl.configs.errors import DataError
from mambavl.fuse import older
from mambavl.fuse.points import Point
from mambavl.fuse.result import Selection, selection_of
from mambavl.fuse.selection import candidates

SUMMARY = "summary.json"

Line = dict[str, Any]  # of a point: name, run (its folder), values, state, error, epoch, metrics


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What is in the file."""

    points: Sequence[Line]  # the best first
    chosen: Sequence[Line]  # runs of the recipe that was chosen among them, one a seed
    selection: Selection | None  # None: nothing was chosen, or has been yet


def line_of(point: Point) -> Line:
    return {
        "name": point.name,
        "run": point.run.name,
        "values": point.values,
        "state": point.state,
        "error": point.error,
        "epoch": point.epoch,
        "metrics": point.result.metrics if point.result else None,
    }


def write_summary(out: Path, summary: Summary) -> None:
    fsops.write_file(out / SUMMARY, canonical.pretty_json(asdict(summary)))


def read_summary(path: Path) -> Summary:
    """Raises DataError where the file is damaged."""
    try:
        raw = older.summary(json.loads(path.read_bytes()))
        lines = [[_line(line) for line in raw[key]] for key in ("points", "chosen")]
        chosen = raw["selection"]
        return Summary(
            points=lines[0], chosen=lines[1], selection=None if chosen is None else selection_of(chosen)
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: is damaged ({error}); leave it out, or run the sweep again") from None


def runs_without_folder(path: Path) -> dict[str, str]:
    """Runs of a summary.json for which no folder is there: their names, and why. Raises as `read_summary`."""
    found, summary = {}, read_summary(path)
    for line in [*summary.points, *summary.chosen]:
        if not (path.parent / line["run"]).exists():
            found[str(path.parent / line["run"])] = line["error"] or "has not begun"
    return found


def not_chosen(path: Path) -> str | None:
    """What must be said of the best of a sweep's runs that were not chosen on other rows; None where they
    were, or there was nothing to choose. Raises as `read_summary`.
    """
    summary = read_summary(path)
    tried = len(candidates([line["values"] for line in summary.points if line.get("metrics")]))
    if summary.selection or tried < 2 or any("data.hold_out" in line["values"] for line in summary.points):
        return None  # parts held out in turn are no candidates
    return (
        f"{tried} candidates of sweep {path.parent.name} were tried. The best of them was not chosen on "
        "other rows than those it is shown on, so chance is part of its score."
    )


def _line(raw: Line) -> Line:
    if not isinstance(raw["run"], str) or not isinstance(raw["values"], dict):
        raise ValueError(f"run is {raw['run']!r}, values are {raw['values']!r}")
    return {**raw, "error": raw["error"] or ""}
