"""`mambavl bench`: what models cost."""

import json
from typing import Annotated

import typer

from mambavl.configs.errors import UsageError
from mambavl.terminal import out

bench_app = typer.Typer(help="What models cost.", no_args_is_help=True)


@bench_app.command("complexity")
def bench_complexity(
    *,
    recipe: Annotated[
        str | None, typer.Option(help="Count the head of this recipe: a file, or a packaged name.")
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="Count this encoder alone: a published one, a RoBERTa, timm:NAME.")
    ] = None,
    sets: Annotated[
        list[str],
        typer.Option(
            "--set",
            default_factory=list,
            show_default=False,
            help="A key of the recipe, or a size of the encoder: --set image_size=336. Repeatable.",
        ),
    ],
    streams: Annotated[
        list[str],
        typer.Option(
            "--stream",
            default_factory=list,
            show_default=False,
            help="A stream of the recipe without a store, tokens x width: video=1568x768. Repeatable.",
        ),
    ],
) -> None:
    """Count parameters and multiply-adds: the paper's Table 4, every encoder, our head.

    Needs no weights and no GPU; ends in JSON.
    """
    from mambavl.complexity.report import print_encoder, print_recipe, print_report

    if recipe and encoder:
        raise UsageError("--recipe counts a head and --encoder an encoder; give one of them")
    if (sets and not (recipe or encoder)) or (streams and not recipe):
        raise UsageError("--set changes a --recipe or an --encoder, --stream a --recipe; name it too")
    if recipe:
        found = print_recipe(out, recipe, sets, streams)
    elif encoder:
        found = print_encoder(out, encoder, sets)
    else:
        found = print_report(out)
    print(json.dumps(found))
