"""`mambavl reproduce`: a table of results from its inputs, by one command."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from mambavl.cli.options import AnnotationsOption, SetOption
from mambavl.cli.settings import with_settings

reproduce_app = typer.Typer(help="Make a table of results anew, from its inputs.", no_args_is_help=True)


Inputs = Annotated[
    Literal["matched", "released"],
    typer.Option(
        "--inputs", help="matched: as the paper describes them; released: as the authors' code reads them."
    ),
]
Stores = Annotated[
    list[Path],
    typer.Option(
        "--stores",
        default_factory=list,
        show_default=False,
        help="Feature stores, or a folder of them. Repeatable. Each row takes those that fit it.",
    ),
]
Seeds = Annotated[int, typer.Option("--seeds", min=1, help="Runs of a row; six for a verdict.")]
Rows = Annotated[
    list[str],
    typer.Option("--row", default_factory=list, show_default=False, help="This row alone. Repeatable."),
]
Random = Annotated[
    list[str],
    typer.Option(
        "--allow-random",
        default_factory=list,
        show_default=False,
        help="An encoder whose untrained weights are taken all the same, to try the way. Repeatable.",
    ),
]
Plan = Annotated[
    bool, typer.Option("--plan", help="Say what the rows need and the commands that make it; run nothing.")
]
Folder = Annotated[
    Path | None, typer.Option("--out", help="Where runs and the table go. Default: table1, table2, table3.")
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="How many processes share the runs of a row. Default: one.")
]


@reproduce_app.command()
def history(
    *,
    annotations: AnnotationsOption,
    folder: Annotated[Path, typer.Option("--out", help="Where stores, runs and the table go.")] = Path(
        "history"
    ),
    encoder: Annotated[str, typer.Option(help="Text encoder of the past's narrations.")] = "minilm",
    weights: Annotated[
        Path | None, typer.Option(help="Its weights, where it does not come with them.")
    ] = None,
    weights_state: Annotated[
        str | None, typer.Option(help="What they are: pretrained, random.", show_default=False)
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="How many processes share the runs. Default: one.")
    ] = None,
) -> None:
    """Anticipation from what was done before: heads, counts and both, by class-mean recall@5.

    No video is read: the annotation files of EK100 are enough. Writes results.md, .json and .svg. What is
    there is not made again, so the same command resumes; on two quiet cores it takes some hours.
    """
    from mambavl.reproduce.history import run

    text = {"encoder": encoder, "weights": weights and str(weights), "weights_state": weights_state}
    run(annotations, folder, text={key: value for key, value in text.items() if value}, workers=workers)


@reproduce_app.command(cls=with_settings("train"))
def table1(
    *,
    stores: Stores,
    inputs: Inputs = "matched",
    folder: Folder = None,
    plan: Plan = False,
    seeds: Seeds = 3,
    rows: Rows,
    sets: SetOption,
    allowed: Random,
    workers: Workers = None,
) -> None:
    """The paper's Table 1, recognition: published beside what heads reach on frozen features.

    Each row says first what it needs. Writes results.md and .json; the same command resumes. Exit code 1
    where a row has no numbers, for lack of stores.
    """
    _table(1, inputs, stores, rows, sets, seeds, allowed, folder, plan, workers)


@reproduce_app.command(cls=with_settings("train"))
def table2(
    *,
    stores: Stores,
    inputs: Inputs = "matched",
    folder: Folder = None,
    plan: Plan = False,
    seeds: Seeds = 3,
    rows: Rows,
    sets: SetOption,
    allowed: Random,
    workers: Workers = None,
) -> None:
    """The paper's Table 2, anticipation: published beside what heads reach on frozen features.

    As `table1`. Actions are measured twice, by EK100's recall@5 and by the easier one of the published rows.
    """
    _table(2, inputs, stores, rows, sets, seeds, allowed, folder, plan, workers)


@reproduce_app.command(cls=with_settings("train"))
def table3(
    *,
    stores: Stores,
    inputs: Inputs = "matched",
    folder: Folder = None,
    plan: Plan = False,
    seeds: Seeds = 3,
    rows: Rows,
    sets: SetOption,
    allowed: Random,
    workers: Workers = None,
) -> None:
    """The paper's Table 3, fusions, and its controls: one input alone, nothing shared, an untrained RoBERTa.

    As `table1`. With --inputs matched all heads read the same tokens.
    """
    _table(3, inputs, stores, rows, sets, seeds, allowed, folder, plan, workers)


@reproduce_app.command()
def table4(
    *,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Where results.md and .json go. Default: nowhere.")
    ] = None,
) -> None:
    """The paper's Table 4, what models cost: counted from the models, in seconds, without weights.

    Exit code 1 unless parameters are the released models' own and multiply-adds within 0.2 % of print.
    """
    from mambavl.reproduce.counted import run

    run(folder)


def _table(
    number: Literal[1, 2, 3],
    inputs: Literal["matched", "released"],
    stores: list[Path],
    rows: list[str],
    sets: list[str],
    seeds: int,
    allowed: list[str],
    folder: Path | None,
    is_plan: bool,
    workers: int | None,
) -> None:
    from mambavl.reproduce.rows import table
    from mambavl.reproduce.tables import Asked, plan, run

    asked = Asked(table(number, inputs), stores, rows, sets, seeds, allowed)
    if is_plan:
        plan(asked)
    else:
        run(asked, folder or Path(f"table{number}"), workers=workers)
