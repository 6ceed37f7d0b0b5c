"""`mambavl extract status`: how far stores are, from any process, while others fill them."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from mambavl.cache.status import Status, Worker, status
from mambavl.configs.errors import DataError, counted
from mambavl.terminal import duration, out

REDRAWN = 5.0  # seconds between two looks
LINES = 12  # looks between two lines of a log: a minute
SHOWN = 5  # failures


def extract_status(
    stores: Annotated[list[Path], typer.Argument(help="Feature stores, finished or not.")],
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Look again every five seconds until the stores are finished; in a log, a line a minute.",
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Machine-readable: a line for each store at each look.")
    ] = False,
) -> None:
    """Say how far feature stores are: rows, failures, who is at work, how fast, and how long it will take.

    Takes no lock and changes nothing, so it may look at any store at any time, from any machine.
    """
    if not watch:
        looked, faults = _look_at_all(stores)
        _print(looked, as_json, is_whole=True)
        if faults:
            raise DataError("\nmambavl: ".join(faults))
    elif out.is_terminal and not as_json:
        _redraw(stores)
    else:
        _say_on(stores, as_json)


def _look_at_all(stores: Sequence[Path]) -> tuple[list[Status], list[str]]:
    """Those that are stores, and what is wrong with the others."""
    looked, faults = [], []
    for store in stores:
        try:
            looked.append(status(store))
        except DataError as error:
            faults.append(str(error))
    return looked, faults


def _redraw(stores: Sequence[Path]) -> None:
    looked = [status(store) for store in stores]
    with Live(_drawn(looked), console=out, auto_refresh=False) as live:
        while not _is_over(looked):
            time.sleep(REDRAWN)
            looked = [status(store) for store in stores]
            live.update(_drawn(looked), refresh=True)


def _say_on(stores: Sequence[Path], as_json: bool) -> None:
    looks, is_over = 0, False
    while not is_over:
        if looks:
            time.sleep(REDRAWN)
        looked = [status(store) for store in stores]
        is_over = _is_over(looked)
        if is_over or looks % LINES == 0:
            _print(looked, as_json, is_whole=False)
        looks += 1


def _is_over(looked: Sequence[Status]) -> bool:
    return all(found.is_finished for found in looked)


def _print(looked: Sequence[Status], as_json: bool, *, is_whole: bool) -> None:
    for found in looked:
        if as_json:
            print(json.dumps(found.to_dict(), ensure_ascii=False), flush=True)
        elif is_whole:
            out.print(_drawn([found]))
        else:
            print(summary(found), flush=True)


def summary(found: Status) -> str:
    """A store in one line."""
    if found.is_finished:
        parts = [f"finished: {counted(found.rows, 'row')}"]
    else:
        share = f" ({100 * found.done / found.rows:.1f} %)" if found.rows else ""
        parts = [f"{found.done:,} of {counted(found.rows, 'row')} done{share}"]
        if found.encoded:
            parts.append(f"{found.encoded:,} more encoded")
    if found.failures:
        parts.append(f"{len(found.failures):,} failed")
    if not found.is_finished:
        parts.append(_pace(found))
    return f"{found.path}: {', '.join(parts)}"


def _pace(found: Status) -> str:
    at_work = found.at_work
    if not at_work:
        return "nobody is at work; the command that made it goes on"
    parts = [f"{counted(len(at_work), 'run')} at work"]
    if found.seconds_left is not None:
        parts += [f"{found.rows_per_s:,.2f} rows/s", f"{duration(found.seconds_left)} left"]
    if found.slowest:
        parts.append(f"slowest: {found.slowest}")
    return ", ".join(parts)


def _drawn(looked: Sequence[Status]) -> RenderableType:
    parts: list[RenderableType] = []
    for found in looked:
        parts.append(Text(summary(found)))
        for row, kind, reason in found.failures[:SHOWN]:
            parts.append(Text(f"  {row}: {kind}: {reason}"))
        if len(found.failures) > SHOWN:
            parts.append(Text(f"  ... and {len(found.failures) - SHOWN:,} more"))
        if found.workers:
            parts.append(_table(found.workers))
    return Group(*parts)


def _table(workers: Sequence[Worker]) -> Table:
    table = Table("host", "process", "state", "rows", "rows/s", "waits for reading", "video")
    for worker in workers:
        report = worker.report
        waits = f"{report.stalled:,.0f} s" if report.stalled else ""
        table.add_row(
            escape(report.host),
            str(report.pid),
            _state(worker),
            f"{report.done:,} of {report.total:,}",
            f"{report.rows_per_s:,.2f}",
            waits,
            escape(report.video),
        )
    return table


def _state(worker: Worker) -> str:
    said = {
        "waiting": "waits for others",
        "silent": f"silent for {duration(worker.age)}",
        "killed": "was killed",
        "ended": "has ended",
        "stopped": "was stopped",
        "failed": "ended by an error",
    }
    return said.get(worker.seen, worker.seen)
