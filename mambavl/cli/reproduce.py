"""`mambavl reproduce`: a table of results from its inputs, by one command."""

from pathlib import Path
from typing import Annotated

import typer

from mambavl.cli.options import AnnotationsOption

reproduce_app = typer.Typer(help="Make a table of results anew, from its inputs.", no_args_is_help=True)


@reproduce_app.callback()
def _group() -> None:
    pass


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
