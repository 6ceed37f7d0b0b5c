"""`mambavl submit`: a run's scores as EK100's challenge file, and what is wrong with such a file."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from mambavl.cli.options import annotations_of
from mambavl.configs.errors import DataError, UsageError, counted
from mambavl.extract.sampling import Task
from mambavl.fuse.submission import HIGHEST_LEVEL, LEVELS, Examined, examine
from mambavl.terminal import out


def _level(key: str) -> typer.models.OptionInfo:
    """The option of a supervision level."""
    found: typer.models.OptionInfo = typer.Option(
        f"--{key.replace('_', '-')}",
        help=f"Supervision, {LEVELS[key]}. A whole number from 0 to {HIGHEST_LEVEL}; the challenge's page "
        "says what the others are.",
        min=0,
        max=HIGHEST_LEVEL,
        show_default=False,
    )
    return found


def submit(
    *,
    run: Annotated[
        Path | None,
        typer.Argument(
            help="A finished run, scored on the split; with --check optional.", show_default=False
        ),
    ] = None,
    target: Annotated[Path, typer.Option("--out", help="The zip to write.")] = Path("submission.zip"),
    pretraining: Annotated[int | None, _level("sls_pt")] = None,
    labels: Annotated[int | None, _level("sls_tl")] = None,
    data: Annotated[int | None, _level("sls_td")] = None,
    split: Annotated[
        Literal["test", "validation"],
        typer.Option(help="The rows. `mambavl evaluate RUN --split test` scores those of test."),
    ] = "test",
    annotations: Annotated[
        Path | None,
        typer.Option(help="The folder of EPIC_100_*.csv: rows are held against its list and named."),
    ] = None,
    task: Annotated[
        Task | None,
        typer.Option(help="Which challenge, where the run's stores do not say.", show_default=False),
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(help="In place of writing: name every fault of this .zip or .json, whoever wrote it."),
    ] = None,
) -> None:
    """Write a run's scores as EK100's challenge file: a zip of test.json, with 97 verb and 300 noun scores of
    every row, and the best 100 pairs of a run that ranks pairs itself.

    The three --sls options say how much supervision the run had: of pretraining, of the training labels, and
    of the training data. Text or history made from labels (oracle) is refused for test, where no labels are.
    """
    levels = dict(zip(LEVELS, (pretraining, labels, data), strict=True))
    if check is not None:
        if any(level is not None for level in levels.values()):
            raise UsageError("--check reads a file as it is; leave the --sls options out")
        listed = _listed(run, annotations, split)
        _print_verdict(examine(check, listed=listed, task=task), split)
        return
    if run is None:
        raise UsageError("name a run folder, whose scores are written, or a file with --check")
    from mambavl.fuse.submitting import write_submission

    given = {key: level for key, level in levels.items() if level is not None}
    if missing := [f"--{key.replace('_', '-')} ({LEVELS[key]})" for key in LEVELS if key not in given]:
        raise UsageError("the challenge asks for the level of supervision; add " + ", ".join(missing))
    listed = _listed(None, annotations, split)
    written = write_submission(run, target, levels=given, split=split, task=task, listed=listed)
    found = examine(target, listed=written.ids, task=written.task)
    if found.faults:
        raise DataError(f"{target}: was written and does not pass its own check: {found.faults[0]}")
    told = written.result
    print(f"{told.title}: text protocol {told.protocols}")
    if told.notice:
        out.print(told.notice, style="bold red", markup=False)
    pairs = "its own ranking of pairs" if written.actions else "no actions: they are ranked by the products"
    print(f"wrote {counted(len(written.ids), 'row')} of {split} to {target}: {found.challenge}, {pairs}")


def _listed(run: Path | None, annotations: Path | None, split: str) -> list[str] | None:
    """The ids that a file must have, where they are known."""
    if annotations is not None:
        return [segment.narration_id for segment in annotations_of(annotations, split).segments]
    if run is None:
        return None
    from mambavl.fuse.run import read_classes, scores_file
    from mambavl.fuse.scored import read_scores_file

    return list(read_scores_file(scores_file(run, split), read_classes(run)).ids)


def _print_verdict(found: Examined, split: str) -> None:
    """Raises DataError, naming the faults, where there are any."""
    rows = counted(len(found.ids), "row")
    if found.faults:
        listed = "\n".join(f"  {fault}" for fault in found.faults)
        raise DataError(f"{found.path}: {counted(len(found.faults), 'fault')} in {rows}:\n{listed}")
    actions = "no actions" if found.pairs is None else "with actions"
    levels = ", ".join(f"{key} {level}" for key, level in found.levels.items())
    print(f"{found.path}: {found.challenge}, {rows}, {actions}, {levels}: no fault found")
    if not found.is_listed:
        print(f"its rows were not held against a list; --annotations DIR --split {split} does that")
