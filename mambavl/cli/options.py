"""Options that commands share, and how their texts are read.

What a call names (the data, the encoder, what to write) is a flag; everything else is a key of a settings
record and is set by `--set key=value`. A key that has a flag is refused in `--set`, so that there is one way
to say each thing.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.models import OptionInfo

from mambavl.configs import ConfigType, override, set_key, validate
from mambavl.configs.errors import UsageError, counted
from mambavl.extract.annotations import SPLITS, Annotations
from mambavl.extract.data_set import read_data_set
from mambavl.extract.sampling import Task

# keys of the settings records that are flags of the commands
FLAGS = {
    "encoder": "--encoder",
    "weights": "--weights",
    "splits": "--split",
    "sampling.task": "--task",
    "last": "--last",
    "tau": "--tau",
    "protocol": "--protocol",
    "model": "--model",
    "base_url": "--base-url",
    "budget": "--budget",
}

AnnotationsOption = Annotated[
    Path,
    typer.Option(
        "--annotations", help="Folder of the EPIC_100_*.csv files, or of own lists and a targets.toml."
    ),
]
VideosOption = Annotated[
    list[Path],
    typer.Option(
        "--videos",
        help="Folder that holds P01/videos/P01_01.MP4, P01/P01_01.MP4 (a file, or chunks in a folder) or "
        "P01/rgb_frames/P01_01 (frames in a folder, or in P01_01.tar). Repeatable.",
    ),
]
SplitOption = Annotated[
    str, typer.Option("--split", help="Splits, separated by commas: train, validation, test.")
]
TaskOption = Annotated[
    Task,
    typer.Option(
        "--task", help="recognition: the action; anticipation: the window that ends sampling.tau_a before it."
    ),
]
EncodersOption = Annotated[
    list[str],
    typer.Option("--encoder", help="A name of `mambavl encoders list`. Repeatable: each has an --out."),
]
StoresOption = Annotated[
    list[Path], typer.Option("--out", help="The feature store to write or resume, one for each encoder.")
]
WeightsOption = Annotated[
    list[str] | None,
    typer.Option("--weights", help="Weights: a file, a folder or `random`; once, or for each encoder."),
]
GpusOption = Annotated[
    str | None,
    typer.Option("--gpus", help="A process for each GPU, which share the work: `all`, or how many."),
]
EngineOption = Annotated[
    Literal["processes", "ray"],
    typer.Option(
        "--engine", help="processes: of this machine; ray: of the Ray cluster that this machine belongs to."
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        help="With --engine ray: how many. Default: one for each GPU of the cluster, or for each node.",
    ),
]
EncoderOption = Annotated[str, typer.Option("--encoder", help="A name that `mambavl encoders list` knows.")]
ShardOption = Annotated[
    str,
    typer.Option("--shard", help="i/n: do every n-th row group only, from the i-th on (counted from 0)."),
]
RetryOption = Annotated[
    bool,
    typer.Option("--retry-failed", help="Try rows again that failed, also in a finished store."),
]
StoreOption = Annotated[Path, typer.Option("--out", help="The feature store to write or resume.")]
LicenceOption = Annotated[
    str | None,
    typer.Option(
        "--licence",
        help="As model hubs spell it, such as cc-by-4.0. Default: what the data set asks for (EK100: "
        "cc-by-nc-4.0); needed where that is not known.",
        show_default=False,
    ),
]
QuestionsOption = Annotated[Path, typer.Option("--out", help="The question file to write, JSONL.")]


def set_option(example: str, more: str = "") -> OptionInfo:
    """`--set` of a command that takes the assignment `example`. more: what else it takes."""
    return typer.Option(
        "--set",
        default_factory=list,
        show_default=False,
        help=f"Set a key, such as --set {example}. Repeatable.{more}",
    )


# of the commands that take several encoders
VideoSets = Annotated[list[str], set_option("sampling.frames=8", " 2:levels=clip is for the second encoder.")]
SetOption = Annotated[list[str], set_option("train.lr=3e-4")]  # of the commands that take a recipe


def splits_of(text: str) -> tuple[str, ...]:
    """`train,validation` as names. Raises UsageError for an unknown split, when it names none, or one
    twice.
    """
    splits = [part.strip() for part in text.split(",") if part.strip()]
    if not splits:
        raise UsageError(
            f"--split {text!r}: names no split; use train, validation or test, separated by commas"
        )
    for split in splits:
        if split not in SPLITS:
            raise UsageError(f"--split {split}: use train, validation or test")
    if len(set(splits)) < len(splits):
        raise UsageError(f"--split {text!r}: names a split twice")
    return tuple(splits)


def annotations_of(folder: Path, split: str) -> Annotations:
    """The annotations of the splits that `--split` names."""
    return read_data_set(folder, splits_of(split))


def shard_of(text: str) -> tuple[int, int]:
    """`0/4` as (0, 4). Raises UsageError for anything that is not i/n with i below n."""
    index, slash, count = text.partition("/")
    if not (slash and index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise UsageError(f"--shard {text!r}: expected i/n with i from 0 to n-1, for example 0/4")
    return int(index), int(count)


def refuse_shared_retry(shard: tuple[int, int], retry_failed: bool) -> None:
    """Raises UsageError: the writers of a store would each open again what another has just tried."""
    if retry_failed and shard != (0, 1):
        raise UsageError(
            "--retry-failed goes without --shard: it opens the rows again for everybody. Start one command "
            "with it; once that writes, others may join with --shard and without --retry-failed"
        )


def pairs_of(option: str, assignments: list[str], shape: str, example: str) -> dict[str, str]:
    """`KEY=VALUE` texts of a repeatable option. Raises UsageError, showing `shape` and `example`."""
    pairs = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise UsageError(f"{option} {assignment!r}: expected {shape}, for example {option} {example}")
        pairs[key] = value
    return pairs


def settings_of(kind: type[ConfigType], flags: dict[str, Any], sets: list[str]) -> ConfigType:
    """A settings record from a command's flags (key -> value, None where not given) and its `--set` texts.

    Raises UsageError for an unknown key, a wrong value, and a key in `--set` that has a flag.
    """
    settings = override({}, sets)
    for key in flags:
        if _holds(settings, key):
            raise UsageError(f"--set {key}=...: use {FLAGS[key]}")
    for key, value in flags.items():
        if value is not None:
            set_key(settings, key, value)
    return validate(settings, kind, "--set")


def _holds(settings: dict[str, Any], key: str) -> bool:
    value: Any = settings
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            return False
        value = value[part]
    return True


def one_each(
    kind: type[ConfigType],
    encoders: list[str],
    stores: list[Path],
    weights: list[str] | None,
    flags: dict[str, Any],
    sets: list[str],
) -> list[tuple[Path, ConfigType]]:
    """The store and the settings of each encoder. `--set 2:key=value` is for the second alone.

    Raises UsageError where encoders, stores and weights do not pair, and as `settings_of`.
    """
    if len(stores) != len(encoders) or len(set(stores)) < len(stores):
        raise UsageError(
            f"{counted(len(encoders), 'encoder')} and {counted(len(set(stores)), 'store')}: "
            "give each --encoder an --out of its own, in the same order"
        )
    given: list[str | None] = [*weights] if weights else [None]
    if len(given) == 1:
        given *= len(encoders)
    if len(given) != len(encoders):
        raise UsageError(
            f"--weights is given {len(given)} times for {counted(len(encoders), 'encoder')}: "
            "give it once, or once for each"
        )
    jobs: list[tuple[Path, ConfigType]] = []
    for number, (encoder, store, own) in enumerate(zip(encoders, stores, given, strict=True), 1):
        mine = _sets_of(number, len(encoders), sets)
        jobs.append((store, settings_of(kind, {"encoder": encoder, "weights": own, **flags}, mine)))
    return jobs


def _sets_of(number: int, encoders: int, sets: list[str]) -> list[str]:
    """The assignments for all encoders, then those for the one of a number."""
    found: list[str] = []
    own: list[str] = []
    for assignment in sets:
        before, colon, rest = assignment.partition(":")
        if not (colon and before.isdigit()):
            found.append(assignment)
            continue
        if not 1 <= int(before) <= encoders:
            raise UsageError(
                f"--set {assignment}: there is no encoder {before}; they are counted from 1 to {encoders}, "
                "in the order of --encoder"
            )
        if int(before) == number:
            own.append(rest)
    return found + own


def gpus_of(text: str | None) -> int | None:
    """How many GPUs `--gpus` asks for. Raises UsageError for more than there are."""
    if text is None:
        return None
    import torch

    there = torch.cuda.device_count()
    if text != "all" and not (text.isdigit() and int(text)):
        raise UsageError(f"--gpus {text}: use `all` or a number from 1 on")
    wanted = there if text == "all" else int(text)
    if not there or wanted > there:
        raise UsageError(
            f"--gpus {text}: {counted(there, 'GPU')} can be used here; `mambavl doctor` says more"
        )
    return wanted
