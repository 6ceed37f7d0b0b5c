"""`mambavl encoders`: which there are, what each takes and costs, and whether an own one can be used."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from mambavl.terminal import out

encoders_app = typer.Typer(help="The frozen encoders.", no_args_is_help=True)


@encoders_app.command("list")
def encoders_list() -> None:
    """List the encoders that features can be extracted with."""
    from mambavl.extract.encoders.registry import ENCODERS, FAMILIES

    table = Table()
    for heading in ("name", "kind", "channels", "state", "weights", "licence"):
        table.add_column(heading, overflow="fold")  # an address that does not fit goes on in the next line
    for record in ENCODERS.values():
        table.add_row(
            record.name, record.kind, str(record.width), record.state, record.weights, record.licence
        )
    for family in FAMILIES:
        table.add_row(family.name, family.kind, "probed", family.state, family.weights, family.licence)
    out.print(table)


@encoders_app.command("show")
def encoders_show(
    name: Annotated[str, typer.Argument(help="A name that `mambavl encoders list` knows.")],
) -> None:
    """Show where an encoder's weights are, what it takes and gives, and what it costs. Needs no weights."""
    from mambavl.complexity.report import describe_encoder

    table = Table("", name, show_header=True)
    for key, value in describe_encoder(name).items():
        table.add_row(key, value)
    out.print(table)


@encoders_app.command("convert")
def encoders_convert(
    file: Annotated[Path, typer.Argument(help="A published checkpoint: .pth, .pt, .pyth or .safetensors.")],
    encoder: Annotated[
        str, typer.Option(help="Whose weights they are: a name that `mambavl encoders list` knows.")
    ],
    target: Annotated[Path, typer.Option("--out", help="The safetensors file to write, for --weights.")],
) -> None:
    """Turn a published checkpoint into safetensors, strict in every key and shape.

    Nothing in the file is executed.
    """
    from mambavl.extract.encoders.published.table import convert

    found = convert(file, encoder, target)
    print(f"wrote {found['tensors']} tensors, {found['parameters']:,} numbers, to {target}")
    print(f"source sha256 {found['source_sha256']}")
    if found["left_out"] or found["tensors_left_out"]:
        besides = ", ".join(found["left_out"]) or "nothing besides the weights"
        print(f"left out: {besides}; {found['tensors_left_out']} tensors")


@encoders_app.command("check")
def encoders_check(
    name: Annotated[
        str, typer.Argument(help="MODULE:FUNCTION of your own encoder, or any other encoder's name.")
    ],
    weights: Annotated[
        str | None, typer.Option(help="As for extract: a file or folder, or `random`.")
    ] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, help="Frames of a clip. Default: what it was made for, else 8.")
    ] = None,
    causal: Annotated[
        bool,
        typer.Option(
            "--causal",
            help="Also: do later frames reach the features? Line `streaming`: within a clip, which is no "
            "failure. Line `anticipation`: over a video file, beyond what a row may see.",
        ),
    ] = False,
) -> None:
    """Check that an encoder keeps what extraction relies on, a line for each property.

    Exit code 1 if any fails.
    """
    from mambavl.extract.encoders.conformance import check_encoder

    failed = 0
    for finding in check_encoder(name, weights=weights, frames=frames, causal=causal):
        print(f"{finding.verdict:<6} {finding.name}: {finding.text}", flush=True)
        failed += finding.verdict == "failed"
    if failed:
        print(f"{name}: {failed} failed")
        raise typer.Exit(1)
    print(f"{name}: can be extracted with")
