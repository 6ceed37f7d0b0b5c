"""`mambavl export`: a run as a folder to hand on."""

from pathlib import Path
from typing import Annotated

import typer

from mambavl.cli.options import LicenceOption
from mambavl.extract.sampling import Task


def export(
    *,
    run: Annotated[Path, typer.Argument(help="A finished run that kept its weights.")],
    out: Annotated[Path, typer.Option(help="The folder to write; a new one.")],
    licence: LicenceOption = None,
    task: Annotated[
        Task | None, typer.Option(help="Where the run's stores do not say it.", show_default=False)
    ] = None,
) -> None:
    """Write a run's weights, their description as JSON, its numbers and a model card.

    They load with torch alone; docs/results.md has the ten lines. No path of this machine is in them.
    """
    from mambavl.fuse.export import export_run

    found = export_run(run, out, licence=licence, task=task)
    print(f"wrote {run} to {out}, licence {found}")
