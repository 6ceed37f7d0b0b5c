"""The program `mambavl`: its groups of commands, and how an error becomes a line and an exit code.

Exit codes: 0 done; 1 the data or the result is not right; 2 the call or the recipe is wrong; 75 interrupted,
run again to resume.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from mambavl.cli import train
from mambavl.cli.bench import bench_app
from mambavl.cli.cache import cache_app
from mambavl.cli.compare import compare_two
from mambavl.cli.data import data_app
from mambavl.cli.dense import extract_dense
from mambavl.cli.encoders import encoders_app
from mambavl.cli.export import export
from mambavl.cli.extract import extract_app
from mambavl.cli.heads import heads_app
from mambavl.cli.hub import pull, push
from mambavl.cli.plan import extract_plan
from mambavl.cli.predict import predict
from mambavl.cli.published import show_published
from mambavl.cli.questions import questions_app
from mambavl.cli.reproduce import reproduce_app
from mambavl.cli.scores import fuse_scores
from mambavl.cli.settings import settings, with_settings
from mambavl.cli.status import extract_status
from mambavl.cli.submit import submit
from mambavl.cli.sweep_status import show_status
from mambavl.configs.errors import MambaVLError
from mambavl.terminal import out

app = typer.Typer(
    help="Fuse video with questions from frozen features: extract once, then train light heads in sweeps.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def run() -> int:
    """Run the command line and return its exit code."""
    try:
        app()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except MambaVLError as error:
        print(f"mambavl: {error}", file=sys.stderr)
        return error.exit_code
    # a disk that is full, a folder that may not be written, an output that is a folder
    except OSError as error:
        print(f"mambavl: {error.filename or 'input or output'}: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0


def _version(wanted: bool) -> None:
    if wanted:
        print(f"mambavl {version('mambavl')}")
        raise typer.Exit


@app.callback()
def _root(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False) -> None:
    """Say what works on this machine, and what to install for the rest."""
    from mambavl.doctor import examine

    found = examine()
    if as_json:
        print(json.dumps(found, indent=1))
        return
    for section, entries in found.items():
        table = Table(title=section, title_justify="left", show_header=False)
        for name, value in entries.items():
            table.add_row(name, value)
        out.print(table)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--out", help="Where everything goes.")] = Path("demo"),
    quick: Annotated[bool, typer.Option("--quick", help="Fewer segments, one seed: about a minute.")] = False,
) -> None:
    """Run every step on a rendered toy kitchen, on a CPU and without a network; ends with a report."""
    from mambavl.demo.run import run as run_demo

    run_demo(folder, quick=quick)


app.command(cls=with_settings("train"))(train.train)
app.command(cls=with_settings("train"))(train.sweep)
for command in (train.evaluate, train.report, submit, export, push, pull, predict, settings):
    app.command()(command)
app.command("sweep-status")(show_status)
app.command("fuse-scores")(fuse_scores)
app.command("published")(show_published)
app.command("compare")(compare_two)
for name, group in (
    ("data", data_app),
    ("questions", questions_app),
    ("encoders", encoders_app),
    ("extract", extract_app),
    ("cache", cache_app),
    ("heads", heads_app),
    ("bench", bench_app),
    ("reproduce", reproduce_app),
):
    app.add_typer(group, name=name)
extract_app.command("dense", cls=with_settings("extract.video"))(extract_dense)
extract_app.command("plan", cls=with_settings("extract.video"))(extract_plan)
extract_app.command("status")(extract_status)
