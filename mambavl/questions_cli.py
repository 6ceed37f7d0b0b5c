"""`mambavl questions`: the commands that make questions."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mambavl.options import AnnotationsOption, SplitOption, annotations_of

questions_app = typer.Typer(help="Make the verb and noun questions.", no_args_is_help=True)


class Protocol(StrEnum):
    """What the questions may know."""

    oracle = "oracle"
    generic = "generic"
    none = "none"


class Backend(StrEnum):
    """Who writes the questions."""

    template = "template"


@questions_app.command("generate")
def questions_generate(
    annotations: AnnotationsOption,
    target: Annotated[Path, typer.Option("--out", help="The question file, JSONL.")],
    split: SplitOption = "train,validation",
    protocol: Annotated[
        Protocol, typer.Option(help="oracle: from each row's own labels; generic: one fixed pair; none: empty texts.")
    ] = Protocol.oracle,
    backend: Annotated[Backend, typer.Option(help="Who writes them.")] = Backend.template,
) -> None:
    """Write a verb question and a noun question for every segment."""
    from mambavl.extract.questions import generate, write_questions

    count = write_questions(target, generate(annotations_of(annotations, split), protocol.value))
    print(f"wrote {count:,} question pairs ({protocol.value} protocol, {backend.value} backend) to {target}")
