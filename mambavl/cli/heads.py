"""`mambavl heads`: heads that others trained."""

from pathlib import Path
from typing import Annotated

import typer

heads_app = typer.Typer(help="Heads that others trained.", no_args_is_help=True)


@heads_app.callback()
def _heads() -> None:
    """A group, although it has one command."""


@heads_app.command("convert")
def heads_convert(
    file: Annotated[Path, typer.Argument(help="A released MambaVL checkpoint: .pth, .pt or .pyth.")],
    target: Annotated[
        Path, typer.Option("--out", help="The safetensors file to write, for mambavl.heads.load.")
    ],
) -> None:
    """Turn the head of a released MambaVL checkpoint into safetensors, strict in every key and shape.

    Nothing in the file is executed.
    """
    from mambavl.heads import convert

    found = convert(file, target)
    print(f"wrote {found['tensors']} tensors, {found['parameters']:,} numbers, to {target}")
    print(f"source sha256 {found['source_sha256']}")
    if found["left_out"] or found["tensors_left_out"]:
        besides = ", ".join(found["left_out"]) or "nothing besides the weights"
        print(f"left out: {besides}; {found['tensors_left_out']} tensors, of encoders")
