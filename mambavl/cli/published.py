"""`mambavl published`: what others say that they reach on EK100, and a run's own numbers in the same form."""

import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from mambavl.configs.errors import UsageError
from mambavl.extract.sampling import Task
from mambavl.fuse.published import (
    Published,
    groups_of,
    published,
    read_published,
    rows_of,
    to_json,
    to_markdown,
)
from mambavl.terminal import out


def show_published(
    *,
    runs: Annotated[
        list[Path],
        typer.Argument(
            default_factory=list,
            show_default=False,
            help="Finished runs; their numbers in place of the list.",
        ),
    ],
    task: Annotated[
        Task | None,
        typer.Option(
            help="Of the list, this task alone; of runs, theirs where their stores do not say.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As rows of configs/published.json.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="The list as docs/published.md.")] = False,
) -> None:
    """Print published numbers with their sources, or what runs reached in the same form."""
    if markdown and (runs or task or as_json):
        raise UsageError("--markdown prints the whole list as one page; leave all else out")
    found = _of_runs(runs, task) if runs else list(published().values())
    if task and not runs:
        found = [row for row in found if row.task == task]
    if markdown:
        print(to_markdown(found), end="")
        return
    text = to_json(found)
    read_published(text, "these rows")  # two runs of one name
    if as_json:
        print(text, end="")
        return
    for title, rows in groups_of(found).items():
        targets = " / ".join(one.replace("_", " ") for one in rows[0].targets)
        table = Table("model", targets, "protocol", "tier", "source", title=title, title_justify="left")
        for row in rows:
            cells = (row.model, row.figures, row.protocol, row.tier, f"{row.source}, {row.date}")
            table.add_row(*map(escape, cells))
        out.print(table)


def _of_runs(runs: list[Path], task: Task | None) -> list[Published]:
    from mambavl.fuse.run import read_result

    today = datetime.date.today().isoformat()
    found = []
    for run in runs:
        found += rows_of(read_result(run), run.resolve().name, today, task)
    return found
