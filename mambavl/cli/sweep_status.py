"""`mambavl sweep-status`: how far a sweep is, from any process, while others train."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from mambavl.cli.show import counted_states
from mambavl.configs.errors import counted
from mambavl.fuse.sweep_status import Run, SweepStatus, sweep_status
from mambavl.terminal import duration, out

REDRAWN = 5.0  # seconds between two looks
LINES = 12  # looks between two lines of a log: a minute
IDLE = 3  # looks in a row at which nobody is at work: between two points there is a moment
BEST, FAILURES, RUNNING = 10, 5, 20  # of them, that are shown


def show_status(
    folder: Annotated[Path, typer.Argument(help="Folder of a sweep, as of its --out.")],
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Look again every five seconds while somebody is at work; in a log, a line a minute.",
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Machine-readable: one line at each look, with every run.")
    ] = False,
) -> None:
    """Say how far a sweep is: points by state, who trains what and how fast, the best, and what failed.

    Takes no lock and changes nothing, so it may look at any sweep at any time, from any machine.
    """
    known: dict[str, Run] = {}
    found = sweep_status(folder, known)
    if not watch:
        _show(found, as_json)
    elif out.is_terminal and not as_json:
        with Live(drawn(found), console=out, auto_refresh=False) as live:
            for found in _looks(folder, known):
                live.update(drawn(found), refresh=True)
    else:
        for number, found in enumerate(_looks(folder, known)):
            if number % LINES == 0:
                print(in_json(found) if as_json else summary(found), flush=True)
        _show(sweep_status(folder, known), as_json)


def _show(found: SweepStatus, as_json: bool) -> None:
    if as_json:
        print(in_json(found))
    else:
        out.print(drawn(found))


def _looks(folder: Path, known: dict[str, Run]) -> Iterator[SweepStatus]:
    """Look again and again, while somebody is at work."""
    idle = 0
    while True:
        found = sweep_status(folder, known)
        yield found
        idle = 0 if found.at_work else idle + 1
        if idle >= IDLE:
            return
        time.sleep(REDRAWN)


def in_json(found: SweepStatus) -> str:
    """All that is known of a sweep, in one line of JSON."""
    points, chosen = (
        [{**asdict(run), "seconds_left": run.seconds_left} for run in runs]
        for runs in (found.runs, found.chosen)
    )
    said = {
        "folder": str(found.path),
        "counts": dict(found.counts),
        "at_work": len(found.at_work),
        "epochs_per_second": found.rate,
        "seconds_left": found.seconds_left,
        "points": points,
        "chosen": chosen,
    }
    return json.dumps(said)


def summary(found: SweepStatus) -> str:
    """A sweep in one line."""
    parts = [f"{found.path}: {counted(len(found.runs), 'point')}: {counted_states(found.counts)}"]
    if found.rate:
        parts.append(f"{found.rate * 60:,.1f} epochs/min")
    if found.seconds_left is not None:
        parts.append(f"{duration(found.seconds_left)} left for these")
    if not found.at_work:
        parts.append("nobody is at work")
    return "; ".join(parts)


def drawn(found: SweepStatus) -> RenderableType:
    """A sweep as a page: what is at work, the best, what was chosen and what failed."""
    parts: list[RenderableType] = [Text(summary(found))]
    if found.at_work:
        parts.append(_at_work(found.at_work))
    if best := found.best(BEST):
        table = Table(Column("best", overflow="fold"), best[0].measure)
        for run in best:
            table.add_row(escape(run.name), f"{run.score:.1f}")
        parts.append(table)
    for run in found.chosen:
        score = "" if run.score is None else f", {run.measure} {run.score:.1f}"
        parts.append(Text(f"{run.name}: {run.state}{score}"))
    failed = [run for run in found.runs if run.state == "failed"]
    parts += [Text(f"{run.name}: failed: {run.why}") for run in failed[:FAILURES]]
    if len(failed) > FAILURES:
        parts.append(Text(f"... and {len(failed) - FAILURES:,} more failed"))
    died = [run.name for run in found.runs if run.state == "died"]
    if died:
        parts.append(Text(f"the process died in {', '.join(died[:FAILURES])}; the same command resumes"))
    return Group(*parts)


def _at_work(runs: list[Run]) -> Table:
    others = [Column(header, no_wrap=True) for header in ("epoch", "epochs/min", "left", "by")]
    table = Table(Column("at work", overflow="fold"), *others)  # two names may differ in their ends alone
    for run in runs[:RUNNING]:
        left = "" if run.seconds_left is None else duration(run.seconds_left)
        said = f" (silent for {duration(run.since)})" if run.state == "silent" else ""
        epoch = "" if run.epochs is None else f"{run.epoch}/{run.epochs}"
        rate = f"{run.rate * 60:,.1f}" if run.rate else ""
        table.add_row(escape(run.name), epoch, rate, left, escape(run.who + said))
    if len(runs) > RUNNING:
        table.caption = f"... and {len(runs) - RUNNING:,} more"
    return table
