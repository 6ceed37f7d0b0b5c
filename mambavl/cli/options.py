"""Options that commands share, and how their texts are read."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mambavl.configs.errors import UsageError

AnnotationsOption = Annotated[Path, typer.Option("--annotations", help="Folder of the EPIC_100_*.csv files.")]
SplitOption = Annotated[
    str, typer.Option("--split", help="Splits, separated by commas: train, validation, test.")
]
SetOption = Annotated[
    list[str],
    typer.Option("--set", help="Set a key (README lists them): --set sampling.frames=8. Repeatable."),
]


def annotations_of(folder: Path, split: str) -> Any:
    """The annotations of some splits, named in one text."""
    from mambavl.extract.annotations import read_annotations

    return read_annotations(folder, tuple(splits_of(split)))


def splits_of(text: str) -> list[str]:
    """`train,validation` as a list. Raises UsageError when it names none, or one twice."""
    splits = [part.strip() for part in text.split(",") if part.strip()]
    if not splits:
        raise UsageError(
            f"--split {text!r}: names no split; use train, validation or test, separated by commas"
        )
    if len(set(splits)) < len(splits):
        raise UsageError(f"--split {text!r}: names a split twice")
    return splits


def options_of(kind: Any, settings: dict[str, Any], sets: list[str]) -> Any:
    """A `kind` of Config from a command's own options (None: not given) and its `--set` texts."""
    from mambavl.configs import override, validate

    return validate(
        override({key: value for key, value in settings.items() if value is not None}, sets), kind, "--set"
    )
