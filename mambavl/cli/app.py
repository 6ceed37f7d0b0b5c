"""The commands. Each reads its options, calls one function of a room, prints what came of it; nothing is
computed here.

Exit codes: 0 done; 1 the data or the result is not right; 2 the call or the recipe is wrong; 75 interrupted,
run again to resume.
"""

import json
import sys
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

import mambavl
from mambavl.cache.rows import STATUS
from mambavl.cli.options import (
    AnnotationsOption,
    SetOption,
    SplitOption,
    annotations_of,
    options_of,
    splits_of,
)
from mambavl.cli.questions import questions_app
from mambavl.configs.errors import DataError, MambaVLError, UsageError
from mambavl.terminal import console, out, progress, stop_on_signal

app = typer.Typer(
    help="Fuse video with questions from frozen features: extract once, then train light heads in fast sweeps.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Look at a data set before any work.", no_args_is_help=True)
encoders_app = typer.Typer(help="The frozen encoders.", no_args_is_help=True)
extract_app = typer.Typer(
    help="Stage one: run a frozen encoder over a data set, fill a feature store.", no_args_is_help=True
)
bench_app = typer.Typer(help="What models cost.", no_args_is_help=True)
cache_app = typer.Typer(
    help="Feature stores: look into them, check and mend them, derive, bring in and give away.",
    no_args_is_help=True,
)
for name, sub in (
    ("data", data_app),
    ("questions", questions_app),
    ("encoders", encoders_app),
    ("extract", extract_app),
    ("cache", cache_app),
    ("bench", bench_app),
):
    app.add_typer(sub, name=name)

VideosOption = Annotated[
    Path, typer.Option("--videos", help="Folder that holds P01/videos/P01_01.MP4 or P01/P01_01.MP4.")
]
RecipeSetOption = Annotated[
    list[str], typer.Option("--set", help="Override a key: --set train.lr=3e-3. May be repeated.")
]
StoreArgument = Annotated[Path, typer.Argument(help="A feature store.")]
RunArgument = Annotated[Path, typer.Argument(help="A run folder, made by train or sweep.")]


class Task(StrEnum):
    """What the frames are taken for."""

    recognition = "recognition"
    anticipation = "anticipation"


class ExportFormat(StrEnum):
    """What a store is exported to."""

    hdf5 = "hdf5"
    npy = "npy"
    lmdb = "lmdb"


class ImportFormat(StrEnum):
    """What a store is made from."""

    hdf5 = "hdf5"
    npy = "npy"
    lmdb = "lmdb"
    safetensors = "safetensors"


class Dtype(StrEnum):
    """How features are stored."""

    float16 = "float16"
    float32 = "float32"


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
        print(f"mambavl {mambavl.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False) -> None:
    """Say what works on this machine, and what to install for the rest."""
    from mambavl import doctor as subject

    found = subject.examine()
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
    """Run the whole road on a rendered toy kitchen, on a CPU and without a network; ends with a report."""
    from mambavl.demo import run as subject

    subject.run(folder, quick=quick)


@data_app.command("check")
def data_check(
    annotations: AnnotationsOption,
    videos: VideosOption,
    split: SplitOption = "train,validation",
    full: Annotated[
        bool, typer.Option("--full", help="Decode every frame of every video, not a few of each.")
    ] = False,
) -> None:
    """List every video that is missing, short, corrupt or not what the lists say. Exit code 1 if any."""
    from mambavl.extract.data_check import check_data

    read = annotations_of(annotations, split)
    with progress("checking", "videos") as update:
        report = check_data(read, videos, full=full, on_video=update)
    for problem in report.problems:
        print(problem)
    for note in report.notes:
        print(f"note: {note}")
    print(
        "frames a second: "
        + ", ".join(f"{rate:g} ({count} videos)" for rate, count in sorted(report.rates.items()))
    )
    print(f"{report.videos} videos, {len(read.segments):,} segments: {len(report.problems)} problems")
    if report.problems:
        raise typer.Exit(1)


@encoders_app.command("list")
def encoders_list() -> None:
    """What can be extracted with."""
    from mambavl.extract.encoders.registry import ENCODERS

    table = Table("name", "kind", "channels", "state", "weights", "licence")
    for record in ENCODERS.values():
        table.add_row(
            record.name, record.kind, str(record.width), record.state, record.weights, record.licence
        )
    table.add_row(
        "timm:NAME",
        "video",
        "probed",
        "pretrained",
        "any timm image model, frame by frame; hub or --weights FILE",
        "the model's",
    )
    table.add_row(
        "MODULE:FUNCTION",
        "video, text",
        "probed",
        "its own",
        "your own; `mambavl encoders check MODULE:FUNCTION` tries it",
        "yours",
    )
    table.add_row(
        "hf:NAME",
        "video, text",
        "probed",
        "pretrained",
        "transformers models of video (VideoMAE, TimeSformer, ViViT, V-JEPA 2), images or text; hub name or folder",
        "the model's",
    )
    table.add_row(
        "audio:NAME",
        "audio",
        "probed",
        "pretrained",
        "transformers models of sound (AST, Wav2Vec2, HuBERT, WavLM, Whisper's encoder); hub name or folder",
        "the model's",
    )
    out.print(table)


@encoders_app.command("show")
def encoders_show(name: Annotated[str, typer.Argument(help="A name of `mambavl encoders list`.")]) -> None:
    """Where an encoder's weights are, what it takes and gives, and what it costs. Needs no weights."""
    from mambavl.complexity.report import describe_encoder

    table = Table("", name, show_header=True)
    for key, value in describe_encoder(name).items():
        table.add_row(key, value)
    out.print(table)


@encoders_app.command("convert")
def encoders_convert(
    file: Annotated[Path, typer.Argument(help="A published checkpoint: .pth, .pt, .pyth or .safetensors.")],
    encoder: Annotated[str, typer.Option(help="Whose weights they are: a name of `mambavl encoders list`.")],
    target: Annotated[Path, typer.Option("--out", help="The safetensors file to write, for --weights.")],
) -> None:
    """Turn a published checkpoint into safetensors, strict in every key and shape. Nothing in the file is
    run.
    """
    from mambavl.extract.encoders.published.table import convert

    found = convert(file, encoder, target)
    print(f"wrote {found['tensors']} tensors, {found['parameters']:,} numbers, to {target}")
    print(f"source sha256 {found['source_sha256']}")
    if found["left_out"] or found["tensors_left_out"]:
        print(
            f"left out: {', '.join(found['left_out']) or 'nothing beside the weights'}; {found['tensors_left_out']} tensors"
        )


@encoders_app.command("check")
def encoders_check(
    name: Annotated[
        str, typer.Argument(help="MODULE:FUNCTION of your own encoder, or any other encoder's name.")
    ],
    weights: Annotated[
        str | None, typer.Option(help="As for extract: a file or folder, or `random`.")
    ] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, help="Of a clip. Default: what it was made for, else 8.")
    ] = None,
) -> None:
    """Try an encoder: does it keep what extraction relies on? A line for each property. Exit code 1 if any
    fails.
    """

    from mambavl.extract.encoders.conformance import check_encoder

    failed = 0
    for finding in check_encoder(name, weights=weights, frames=frames):
        print(f"{finding.verdict:<6} {finding.name}: {finding.text}", flush=True)
        failed += finding.verdict == "failed"
    if failed:
        print(f"{name}: {failed} failed")
        raise typer.Exit(1)
    print(f"{name}: can be extracted with")


@bench_app.command("complexity")
def bench_complexity(
    recipe: Annotated[
        str | None, typer.Option(help="Count the head of this recipe: a file, or a packaged name.")
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="Count this encoder alone: a published one, a RoBERTa, timm:NAME.")
    ] = None,
    sets: Annotated[
        list[str],
        typer.Option(
            "--set", help="A key of the recipe, or a size of the encoder: --set image_size=336. Repeatable."
        ),
    ] = [],  # noqa: B006
    streams: Annotated[
        list[str],
        typer.Option(
            "--stream", help="A recipe's stream without a store, tokens x width: video=1568x768. Repeatable."
        ),
    ] = [],  # noqa: B006
) -> None:
    """Count parameters and multiply-adds: the paper's Table 4, every encoder, our head. No weights, no GPU;
    ends in JSON.
    """
    from mambavl.complexity import report as subject

    if recipe and encoder:
        raise UsageError("--recipe counts a head and --encoder an encoder; give one of them")
    if (sets and not (recipe or encoder)) or (streams and not recipe):
        raise UsageError("--set changes a --recipe or an --encoder, --stream a --recipe; name it too")
    if recipe:
        found = subject.print_recipe(out, recipe, sets, streams)
    elif encoder:
        found = subject.print_encoder(out, encoder, sets)
    else:
        found = subject.print_report(out)
    print(json.dumps(found))


@extract_app.command("video")
def extract_video(
    annotations: AnnotationsOption,
    videos: VideosOption,
    encoder: Annotated[str, typer.Option(help="A name of `mambavl encoders list`.")],
    store: Annotated[Path, typer.Option("--out", help="The feature store to write or resume.")],
    split: SplitOption = "train,validation",
    task: Annotated[
        Task, typer.Option(help="recognition: the action; anticipation: what ends 1 s before.")
    ] = Task.recognition,
    weights: Annotated[str | None, typer.Option(help="A weights file, or `random`.")] = None,
    shard: Annotated[
        str, typer.Option(help="i/n: do every n-th row group only, from the i-th (0-based).")
    ] = "0/1",
    sets: SetOption = [],  # noqa: B006
) -> None:
    """Fill a video feature store. Run it again to resume."""
    from mambavl.extract.options import VideoExtraction
    from mambavl.extract.video_job import extract_video

    settings = {
        "encoder": encoder,
        "splits": splits_of(split),
        "sampling": {"task": task.value},
        "weights": weights,
    }
    options = options_of(VideoExtraction, settings, sets)
    read = annotations_of(annotations, ",".join(options.splits))
    _extract(
        lambda **hooks: extract_video(read, videos, store, options, shard=_shard(shard), **hooks),
        store,
        options.max_failed,
    )


@extract_app.command("text")
def extract_text(
    annotations: AnnotationsOption,
    questions: Annotated[Path, typer.Option(help="A question file of `mambavl questions generate`.")],
    encoder: Annotated[str, typer.Option(help="A name of `mambavl encoders list`.")],
    store: Annotated[Path, typer.Option("--out", help="The feature store to write or resume.")],
    split: SplitOption = "train,validation",
    weights: Annotated[
        str | None, typer.Option(help="A folder with config, tokenizer, model.safetensors.")
    ] = None,
    shard: Annotated[
        str, typer.Option(help="i/n: do every n-th row group only, from the i-th (0-based).")
    ] = "0/1",
    sets: SetOption = [],  # noqa: B006
) -> None:
    """Fill a text feature store: both questions of every row. Run it again to resume."""
    from mambavl.extract.options import TextExtraction
    from mambavl.extract.text_job import extract_text

    settings = {"encoder": encoder, "splits": splits_of(split), "weights": weights}
    options = options_of(TextExtraction, settings, sets)
    read = annotations_of(annotations, ",".join(options.splits))
    _extract(
        lambda **hooks: extract_text(read, questions, store, options, shard=_shard(shard), **hooks), store, 0
    )


@extract_app.command("audio")
def extract_audio(
    annotations: AnnotationsOption,
    videos: VideosOption,
    encoder: Annotated[
        str, typer.Option(help="audio:NAME, a transformers model of sound by hub name or folder.")
    ],
    store: Annotated[Path, typer.Option("--out", help="The feature store to write or resume.")],
    split: SplitOption = "train,validation",
    task: Annotated[
        Task, typer.Option(help="recognition: the action; anticipation: what ends 1 s before.")
    ] = Task.recognition,
    weights: Annotated[str | None, typer.Option(help="A folder that is used instead, or `random`.")] = None,
    shard: Annotated[
        str, typer.Option(help="i/n: do every n-th row group only, from the i-th (0-based).")
    ] = "0/1",
    sets: SetOption = [],  # noqa: B006
) -> None:
    """Fill a feature store with the videos' soundtracks. Run it again to resume."""
    from mambavl.extract.audio_job import extract_audio
    from mambavl.extract.options import AudioExtraction

    settings = {
        "encoder": encoder,
        "splits": splits_of(split),
        "sampling": {"task": task.value},
        "weights": weights,
    }
    options = options_of(AudioExtraction, settings, sets)
    read = annotations_of(annotations, ",".join(options.splits))
    _extract(
        lambda **hooks: extract_audio(read, videos, store, options, shard=_shard(shard), **hooks),
        store,
        options.max_failed,
    )


def _extract(job: Any, store: Path, max_failed: int) -> None:

    with progress("extracting", "rows") as update, stop_on_signal() as should_stop:
        summary = job(progress=update, should_stop=should_stop)
    for narration_id, status, reason in summary.failures:
        print(f"{narration_id}: {STATUS[status]}: {reason}")
    if summary.seconds:
        stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in summary.seconds.items())
        slowest = max(summary.seconds, key=summary.seconds.__getitem__)
        print(f"busy: {stages}; the slowest stage is {slowest}")
    state = "finished store" if summary.finalized else "unfinished store, other writers have a part of it"
    print(f"wrote {summary.rows:,} rows ({summary.bytes / 1e6:.1f} MB) to {store}: {state}")
    if summary.failures:
        print(f"{len(summary.failures)} rows have no features")
    if len(summary.failed) > max_failed:
        raise DataError(
            f"{store}: {len(summary.failed)} rows failed; at most {max_failed} were allowed (--set max_failed=N)"
        )


@cache_app.command("info")
def cache_info(store: StoreArgument) -> None:
    """What made a store, what it holds, how far it is."""
    from mambavl.cache import open_store

    opened = open_store(store, partial=True)
    counts = {
        STATUS[code]: int((opened.status == code).sum()) for code in sorted(set(opened.status.tolist()))
    }
    size = sum(file.stat().st_size for file in store.rglob("*") if file.is_file())
    facts = {
        "store id": opened.store_id or "not finalised",
        "rows": f"{len(opened):,}: " + ", ".join(f"{count:,} {name}" for name, count in counts.items()),
        "row groups": f"{opened.layout.groups} of {opened.layout.rows_per_group} rows",
        "size": f"{size / 1e6:,.1f} MB",
        **{
            f"level {level.name}": f"{level.kind} {level.shape} {level.dtype}"
            for level in opened.layout.levels
        },
        **{key: json.dumps(value) for key, value in opened.spec.recipe.to_dict().items()},
    }
    table = Table(show_header=False, title=escape(str(store)), title_justify="left")
    for key, value in facts.items():
        table.add_row(key, escape(value))  # names may look like markup
    out.print(table)


@cache_app.command("verify")
def cache_verify(
    store: StoreArgument,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every byte: sha256, crc32c, shard indices, journals.")
    ] = False,
) -> None:
    """Check a store; one line for every bad object. Exit code 1 if any."""
    from mambavl.cache.verify import verify

    with progress("verifying", "bytes") as update:
        faults = verify(store, deep, update)
    for fault in faults:
        print(f"{store}: {fault}")
    if faults:
        raise typer.Exit(1)
    print(
        f"{store}: sound ({'every byte was read' if deep else 'sizes and manifest; --deep reads every byte'})"
    )


@cache_app.command("repair")
def cache_repair(store: StoreArgument) -> None:
    """Delete what is damaged and re-open its row groups, so that the command that made the store fills just
    them again.
    """
    from mambavl.cache.repair import repair
    from mambavl.cache.writer import finalize

    with progress("verifying", "bytes") as update:
        done = repair(store, update)
    for fault in done.faults:
        print(f"{store}: {fault}")
    if done.needs_extraction:
        lost = (
            f"{len(done.reopened)} row groups are open"
            if done.reopened
            else "what describes its rows is to be written anew"
        )
        print(f"{store}: {lost}; run the command that made the store again, with the same options")
    elif done.faults:
        print(f"{store}: mended, store id {finalize(store)['store_id'][:16]}")
    else:
        print(f"{store}: sound; nothing was done")


@cache_app.command("diff")
def cache_diff(
    store: StoreArgument, other: Annotated[Path, typer.Argument(help="Another feature store.")]
) -> None:
    """Say what differs between two stores: the recipes field by field, the rows, their values. Exit code 1 if
    anything.
    """
    from mambavl.cache import open_store
    from mambavl.cache.diff import diff

    stores = [open_store(path, partial=True, verify="read") for path in (store, other)]
    with progress("comparing", "levels") as update:
        lines = list(diff(*stores, update))
    for line in lines:
        print(line)
    if lines:
        raise typer.Exit(1)
    print(f"{store} and {other} say the same")


@cache_app.command("gc")
def cache_gc(
    store: StoreArgument,
    every_host: Annotated[
        bool,
        typer.Option(
            "--every-host", help="Also what processes of other machines left; only when none is writing."
        ),
    ] = False,
) -> None:
    """Delete the half-written files of killed writers."""
    from mambavl.cache.repair import gc

    deleted = gc(store, every_host=every_host)
    print(
        f"{store}: deleted {len(deleted)} half-written files ({sum(size for _, size in deleted) / 1e6:.1f} MB)"
    )


@cache_app.command("pool")
def cache_pool(
    store: StoreArgument,
    to: Annotated[str, typer.Option(help="clip, frame, or grid with a number of cells: grid4.")],
    target: Annotated[Path, typer.Option("--out", help="The store to write or resume.")],
) -> None:
    """Derive a smaller level from a store, without the videos: the mean over patches, cells or frames."""
    from mambavl.cache import open_store
    from mambavl.cache.pool import pool

    parent = open_store(store, verify="read")
    with progress("pooling", "row groups") as update, stop_on_signal() as should_stop:
        store_id = pool(parent, target, to, progress=update, should_stop=should_stop)
    state = (
        f"finished store, store id {store_id[:16]}"
        if store_id
        else "unfinished store: another writer is still at work on it"
    )
    print(f"wrote {len(parent):,} rows of level {to} to {target}: {state}")


@cache_app.command("selftest")
def cache_selftest(
    folder: Annotated[
        Path, typer.Argument(help="A folder on the file system to be tried. What is made there is deleted.")
    ],
    kills: Annotated[int, typer.Option(min=1, help="Writers to be killed.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
) -> None:
    """Try what stores rely on, on your file system: kill writers, run two at once, ask for locks. Exit code 1
    if any fails.
    """
    from mambavl.cache.selftest import selftest

    with progress("killing", "writers") as update, stop_on_signal() as should_stop:
        checks = list(selftest(folder, kills, seed, update, should_stop))
    for check in checks:
        print(f"{'ok    ' if check.passed else 'FAILED'} {check.name}: {check.said}")
    if not all(check.passed for check in checks):
        raise typer.Exit(1)


@cache_app.command("finalize")
def cache_finalize(store: StoreArgument) -> None:
    """Finish a complete store: write its manifest and make its files read-only. Extraction does it by itself."""
    from mambavl.cache.writer import finalize

    manifest = finalize(store)
    print(
        f"{store}: finalised, store id {manifest['store_id'][:16]}, {len(manifest['failures'])} rows without features"
    )


@cache_app.command("export")
def cache_export(
    store: StoreArgument,
    to: Annotated[
        ExportFormat,
        typer.Option("--to", help="One HDF5 file; an npy file a video; RULSTM's LMDB of frames."),
    ],
    target: Annotated[Path, typer.Option("--out", help="The file (hdf5) or folder (npy, lmdb) to write.")],
    level: Annotated[
        str | None, typer.Option(help="One level. hdf5 takes all of them if it is left out.")
    ] = None,
    fps: Annotated[
        float, typer.Option(min=0.001, help="lmdb: frame n of a video shows second (n - 1) / fps.")
    ] = 30.0,
) -> None:
    """Write a store in a form that others read. What hdf5 and npy hold can be imported again and is the same
    then.
    """
    from mambavl.cache import open_store
    from mambavl.cache.interchange.export import export_store

    opened = open_store(store, verify="read")
    with progress("exporting", "rows") as update, stop_on_signal() as should_stop:
        count = export_store(
            opened, target, to.value, level=level, fps=fps, progress=update, should_stop=should_stop
        )
    without = f", {len(opened) - count:,} have none" if count < len(opened) else ""
    print(f"wrote the features of {count:,} rows{without} to {target}")


@cache_app.command("import")
def cache_import(
    source: Annotated[
        Path, typer.Argument(help="A file or folder of features: an export, or what others made.")
    ],
    kind: Annotated[
        ImportFormat,
        typer.Option(
            "--format", help="hdf5, safetensors: by narration_id; npy: a file a video; lmdb: RULSTM's."
        ),
    ],
    store: Annotated[Path, typer.Option("--out", help="The feature store to write or resume.")],
    annotations: Annotated[
        Path | None, typer.Option(help="Folder of the EPIC_100_*.csv files; an export needs none.")
    ] = None,
    split: SplitOption = "train,validation",
    task: Annotated[
        Task, typer.Option(help="recognition: the action; anticipation: what ends 1 s before.")
    ] = Task.recognition,
    encoder: Annotated[str | None, typer.Option(help="What made the features, for the record.")] = None,
    fps: Annotated[float | None, typer.Option(help="npy, lmdb (30): frames a second.")] = None,
    window: Annotated[int | None, typer.Option(help="npy: frames that a step saw.")] = None,
    stride: Annotated[int | None, typer.Option(help="npy: frames from a step to the next.")] = None,
    dataset: Annotated[str | None, typer.Option(help="hdf5, npz: which of several arrays.")] = None,
    dtype: Annotated[
        Dtype | None, typer.Option(help="Default: float16 if the source is, else float32.")
    ] = None,
    max_failed: Annotated[
        int, typer.Option(min=0, help="Rows without features above which the exit code is 1.")
    ] = 0,
    sets: SetOption = [],  # noqa: B006
) -> None:
    """Make a feature store of an export, or of features that others made. Run it again to resume."""
    from mambavl.cache.interchange.exported import import_export, is_export
    from mambavl.cache.interchange.foreign import (
        BY_TIME,
        SamplingTimes,
        check_options,
        import_features,
        source_sha256,
    )
    from mambavl.cache.rows import STATUS

    options = {
        "encoder": encoder,
        "fps": fps,
        "window": window,
        "stride": stride,
        "dataset": dataset,
        "dtype": dtype,
    }
    options = {name: getattr(value, "value", value) for name, value in options.items() if value is not None}
    is_ours = is_export(source, kind.value)
    if is_ours:
        if beyond := [*options, *["annotations"] * bool(annotations), *["set"] * bool(sets)]:
            raise UsageError(
                f"{source}: is an export and brings rows, labels and recipe with it; leave out --{beyond[0]}"
            )
        job = partial(import_export, source, kind.value, store)
    else:
        if annotations is None:
            raise UsageError(
                f"{source}: is no export of mambavl; say with --annotations DIR which rows its features belong to"
            )
        check_options(kind.value, dataset, fps, window, stride)  # before a long read
        if sets and kind.value not in BY_TIME:
            raise UsageError(
                f"--set {sets[0]}: the moments of {kind.value} features were chosen when they were made"
            )
        read = annotations_of(annotations, split)
        moments = (
            _moments(read.segments, _sampling(task, sets))
            if kind.value in BY_TIME
            else SamplingTimes({"task": task.value})
        )
        job = partial(
            import_features, source, kind.value, store, read.segments, read.classes, moments, **options
        )
    with stop_on_signal() as should_stop:
        with progress("reading", "bytes") as update:
            content = source_sha256(source, kind.value, update, should_stop)
        with progress("importing", "rows") as update:
            done = job(content_sha256=content, progress=update, should_stop=should_stop)
    for narration_id, status, reason in done.failures:
        print(f"{narration_id}: {STATUS[status]}: {reason}")
    if done.unused:
        print(f"{done.unused:,} arrays of {source} belong to no row")
    state = "finished store" if done.finalized else "unfinished store, other writers have a part of it"
    print(f"wrote {done.rows:,} rows ({done.bytes / 1e6:.1f} MB) to {store}: {state}")
    if not is_ours and len(done.failed) > max_failed:
        raise DataError(
            f"{store}: {len(done.failed)} rows failed; at most {max_failed} were allowed (--max-failed N)"
        )


@app.command()
def train(
    recipe: Annotated[
        Path, typer.Argument(help="A recipe file, or the name of a packaged one such as fuse/default.")
    ],
    sets: RecipeSetOption = [],  # noqa: B006
    folder: Annotated[
        Path | None, typer.Option("--out", help="The run folder. Default: runs/RECIPE.")
    ] = None,
) -> None:
    """Train a fusion head from feature stores, score it, write result.json. Run it again to resume."""
    from mambavl.configs import load
    from mambavl.fuse.recipe import Recipe
    from mambavl.fuse.train import train

    loaded = load(recipe, Recipe, sets)
    target = folder or Path("runs") / recipe.stem
    was_finished = (target / "result.json").exists()
    with progress("training", "epochs") as update, stop_on_signal() as should_stop:
        result = train(
            loaded,
            target,
            on_epoch=lambda line: update(line["epoch"], loaded.train.epochs),
            should_stop=should_stop,
        )
    _print_result(result)
    print(
        f"{target}: had finished before; nothing was done"
        if was_finished
        else f"wrote {target / 'result.json'}"
    )


@app.command()
def sweep(
    recipe: Annotated[Path, typer.Argument(help="A recipe with a grid section: keys -> lists of values.")],
    sets: RecipeSetOption = [],  # noqa: B006
    folder: Annotated[
        Path | None, typer.Option("--out", help="Folder of the runs. Default: runs/RECIPE.")
    ] = None,
) -> None:
    """Train one run for every point of a recipe's grid. Finished points are skipped."""
    from rich.live import Live

    from mambavl.configs import find_recipe, override, read_toml
    from mambavl.fuse import sweep as subject

    source = find_recipe(recipe)
    target = folder or Path("runs") / recipe.stem
    points = subject.expand(override(read_toml(source), sets), target, source.name)
    with stop_on_signal() as should_stop:
        if console.is_terminal:
            with Live(console=console, refresh_per_second=4) as live:
                points = subject.sweep(
                    points,
                    target,
                    on_change=lambda now: live.update(_sweep_table(now)),
                    should_stop=should_stop,
                )
        else:
            points = subject.sweep(points, target, on_change=_SweepLines(), should_stop=should_stop)
    out.print(_sweep_table(points))
    print(f"wrote {len(points)} runs and {subject.SUMMARY} to {target}")
    failed = [point for point in points if point.state == "failed"]
    if failed:
        raise DataError("\n".join(point.error for point in failed))


def _sweep_table(points: list) -> Table:
    table = Table("point", "state", "epoch", "text", "verb", "noun", "action")
    for point in points:
        scores = [
            _percent(point.result["metrics"].get(f"all_{t}_top1")) if point.result else ""
            for t in ("verb", "noun", "action")
        ]
        text = (
            point.result["text_protocol"] + " (!)" * bool(point.result.get("notice")) if point.result else ""
        )
        epoch = f"{point.epoch}/{point.recipe.train.epochs}" if point.epoch else ""
        table.add_row(point.name, point.state, epoch, text, *scores)
    notices = {point.result["notice"] for point in points if point.result and point.result.get("notice")}
    table.caption = "\n".join(f"(!) {notice}" for notice in sorted(notices)) or None
    return table


class _SweepLines:
    """A line in the log for each change of a point's state."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}

    def __call__(self, points: list) -> None:
        for point in points:
            if self.states.get(point.name, "waiting") != point.state:
                self.states[point.name] = point.state
                print(f"{point.name}: {point.state}", file=sys.stderr, flush=True)


@app.command()
def evaluate(
    run: RunArgument,
    split: Annotated[str | None, typer.Option(help="Another split than the run's own.")] = None,
    store: Annotated[
        list[str], typer.Option("--store", help="STREAM=PATH: the same features, moved or of another split.")
    ] = [],  # noqa: B006
) -> None:
    """Score a finished run again from its stores; writes scores and result.json."""
    from mambavl.fuse.evaluate import evaluate_run

    moved = {}
    for assignment in store:
        stream, equals, path = assignment.partition("=")
        if not equals:
            raise UsageError(
                f"--store {assignment!r}: expected STREAM=PATH, for example --store video=stores/video.zarr"
            )
        moved[stream] = Path(path)
    result = evaluate_run(run, split=split, streams=moved)
    _print_result(result)
    is_own = split is None
    print(f"wrote {run / 'scores' / result['split']}.npz" + (f" and {run / 'result.json'}" if is_own else ""))


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    target: Annotated[Path, typer.Option("--out", help="The page to write.")] = Path("report.html"),
) -> None:
    """Write one page: every run measured, beside published numbers; curves, confusions, what the text leaks."""
    from mambavl.fuse.report import write_report

    write_report(runs, target)
    print(f"wrote {len(runs)} runs to {target}")


def _print_result(result: dict[str, Any]) -> None:
    measured, prior = result["metrics"], result["prior_metrics"]
    title = f"{result['title']}, {result['split']}, {result['text_protocol']} text"
    table = Table("", "verb", "noun", "action", title=title, title_justify="left")
    for label, key in (("top-1", "top1"), ("top-5", "top5"), ("mean class recall@5", "mean_class_recall5")):
        table.add_row(
            label, *(_percent(measured.get(f"all_{target}_{key}")) for target in ("verb", "noun", "action"))
        )
    table.add_row(
        "prior top-1", *(_percent(prior.get(f"all_{target}_top1")) for target in ("verb", "noun", "action"))
    )
    out.print(table)
    encoders = ", ".join(
        f"{name}: {stream['encoder']['name']} ({stream['encoder']['state']})"
        for name, stream in result["streams"].items()
    )
    print(f"text protocol {result['text_protocol']}; {encoders}")
    if result.get("notice"):
        out.print(escape(result["notice"]), style="bold red")
    rows = result["rows"]
    print(f"{rows['scored']:,} rows scored, {rows['scored_by_prior']:,} of them by the prior (no features)")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _sampling(task: Task, sets: list[str]) -> Any:
    from mambavl.configs import Config, override, validate
    from mambavl.extract.sampling import Sampling

    class Import(Config):
        sampling: Sampling

    return validate(override({"sampling": {"task": task.value}}, sets), Import, "--set").sampling


def _moments(segments: tuple, sampling: Any) -> Any:
    import numpy as np

    from mambavl.cache.interchange.foreign import SamplingTimes
    from mambavl.cache.rows import FLAG_TIME_FROM_FRAMES
    from mambavl.extract.sampling import window

    windows = [window(segment.start, segment.stop, sampling) for segment in segments]
    times = [np.full(sampling.frames, np.nan) if seen.is_empty else seen.times for seen in windows]
    flags = [
        seen.flags | FLAG_TIME_FROM_FRAMES * s.time_from_frames
        for seen, s in zip(windows, segments, strict=True)
    ]
    return SamplingTimes(sampling.model_dump(), np.stack(times), np.array(flags, np.uint8))


def _shard(text: str) -> tuple[int, int]:
    index, slash, count = text.partition("/")
    if not (slash and index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise UsageError(f"--shard {text!r}: expected i/n with i from 0 to n-1, for example 0/4")
    return int(index), int(count)
