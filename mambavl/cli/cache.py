"""`mambavl cache`: feature stores, from looking into them to giving them away."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from mambavl.cache.interchange.export import Format as ExportFormat
from mambavl.cache.interchange.foreign import Format as ImportFormat
from mambavl.cache.rows import STATUS
from mambavl.cli.extract import refuse_failures
from mambavl.cli.options import LicenceOption, SplitOption, StoreOption, set_option, settings_of, splits_of
from mambavl.cli.settings import with_settings
from mambavl.configs.errors import UsageError, counted
from mambavl.extract.sampling import Task
from mambavl.terminal import out, progress, stop_on_signal

cache_app = typer.Typer(
    help="Feature stores: look into them, check and mend them, derive, import and export.",
    no_args_is_help=True,
)
StoreArgument = Annotated[Path, typer.Argument(help="A feature store.")]


@cache_app.command("info")
def cache_info(store: StoreArgument) -> None:
    """Show what made a store, what it holds and how complete it is."""
    from mambavl.cache import open_store

    opened = open_store(store, partial=True)
    counts = [
        f"{int((opened.status == code).sum()):,} {STATUS[code]}"
        for code in sorted(set(opened.status.tolist()))
    ]
    size = sum(file.stat().st_size for file in store.rglob("*") if file.is_file())
    facts = {
        "store id": opened.store_id or "not finalised",
        "rows": f"{len(opened):,}: " + ", ".join(counts),
        "row groups": f"{opened.done_groups:,} of {opened.layout.groups:,} done, "
        f"{counted(opened.layout.rows_per_group, 'row')} each",
        "size": f"{size / 1e6:,.1f} MB",
    }
    for level in opened.layout.levels:
        facts[f"level {level.name}"] = f"{level.kind} {level.shape} {level.dtype}"
    if windows := opened.spec.inputs.windows:
        facts["windows"] = f"{windows.length:g} s, one every {windows.stride:g} s"
    for key, value in opened.spec.recipe.to_dict().items():
        facts[key] = json.dumps(value)
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
    """Check a store; one line for every bad object. Exit code 1 if there is any."""
    from mambavl.cache.verify import verify

    with progress("verifying", "bytes") as update:
        faults = verify(store, deep, update)
    for fault in faults:
        print(f"{store}: {fault}")
    if faults:
        raise typer.Exit(1)
    checked = "every byte was read" if deep else "sizes and manifest; --deep reads every byte"
    print(f"{store}: sound ({checked})")


@cache_app.command("card")
def cache_card(
    store: StoreArgument,
    target: Annotated[
        Path | None,
        typer.Option("--out", help="The file to write, a new one. Default: print it.", show_default=False),
    ] = None,
    licence: LicenceOption = None,
) -> None:
    """Describe a finished store in Markdown, with what model hubs read at its head.

    What the features are, rows by split, levels, encoder, how to load and to verify them: from its metadata
    alone, without a path of this machine. `mambavl push` writes one by itself.
    """
    from mambavl.cache import fsops
    from mambavl.cache.card import store_card

    text = store_card(store, licence)
    if target is None:
        print(text, end="")
        return
    if target.exists():
        raise UsageError(f"{target}: is there already; name a new file with --out")
    fsops.write_file(target, text.encode())
    print(f"wrote the card of {store} to {target}")


@cache_app.command("repair")
def cache_repair(store: StoreArgument) -> None:
    """Delete what is damaged and re-open its row groups.

    The command that made the store then fills those again, and no others.
    """
    from mambavl.cache.finalize import finalize
    from mambavl.cache.repair import repair

    with progress("verifying", "bytes") as update:
        done = repair(store, update)
    for fault in done.faults:
        print(f"{store}: {fault}")
    if done.needs_extraction:
        lost = "what describes its rows has to be written again"
        if done.reopened:
            lost = f"{counted(len(done.reopened), 'row group')} to fill"
        print(f"{store}: {lost}; run again the command that made the store, with the same options")
    elif done.faults:
        print(f"{store}: mended, store id {finalize(store)['store_id'][:16]}")
    else:
        print(f"{store}: sound; nothing was done")


@cache_app.command("diff")
def cache_diff(
    store: StoreArgument, other: Annotated[Path, typer.Argument(help="Another feature store.")]
) -> None:
    """Say what differs between two stores: the recipes field by field, the rows, their values.

    Exit code 1 if anything does.
    """
    from mambavl.cache import open_store
    from mambavl.cache.diff import diff

    ours = open_store(store, partial=True, verify="read")
    theirs = open_store(other, partial=True, verify="read")
    with progress("comparing", "levels") as update:
        lines = list(diff(ours, theirs, update))
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
            "--every-host",
            help="Also what processes of other machines left; use it only when none of them is writing.",
        ),
    ] = False,
) -> None:
    """Delete the half-written files of killed writers."""
    from mambavl.cache.repair import gc

    deleted = gc(store, every_host=every_host)
    megabytes = sum(size for _, size in deleted) / 1e6
    print(f"{store}: deleted {len(deleted)} half-written files ({megabytes:.1f} MB)")


@cache_app.command("pool")
def cache_pool(
    store: StoreArgument,
    to: Annotated[str, typer.Option(help="clip, frame, or grid with a number of cells: grid4.")],
    target: StoreOption,
) -> None:
    """Derive a smaller level from a store, without the videos: the mean over patches, cells or frames."""
    from mambavl.cache import open_store
    from mambavl.cache.pool import pool

    parent = open_store(store, verify="read")
    with progress("pooling", "rows") as update, stop_on_signal() as should_stop:
        store_id = pool(parent, target, to, progress=update, should_stop=should_stop)
    state = "unfinished store: another writer is still at work on it"
    if store_id:
        state = f"finished store, store id {store_id[:16]}"
    print(f"wrote {len(parent):,} rows of level {to} to {target}: {state}")


@cache_app.command("selftest")
def cache_selftest(
    folder: Annotated[
        Path, typer.Argument(help="A folder on the file system to test. What is made there is deleted.")
    ],
    kills: Annotated[int, typer.Option(min=1, help="How many writers are killed.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the moments at which they are killed.")] = 0,
) -> None:
    """Test what stores rely on, on your file system: kill writers, run two at once, ask for locks.

    Exit code 1 if any test fails.
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
    """Finish a complete store: write its manifest and make its files read-only.

    Extraction does this itself.
    """
    from mambavl.cache.finalize import finalize

    manifest = finalize(store)
    failures = counted(len(manifest["failures"]), "row")
    print(f"{store}: finalised, store id {manifest['store_id'][:16]}, {failures} without features")


@cache_app.command("export")
def cache_export(
    store: StoreArgument,
    to: Annotated[
        ExportFormat,
        typer.Option(
            "--to",
            help="One HDF5 file; an npy file a video; RULSTM's LMDB of frames; Parquet of one vector a "
            "row. Of `extract dense`, a file a video, one vector a window: actionformer (also OpenTAD's), "
            "mstcn, ego4d.",
        ),
    ],
    target: Annotated[Path, typer.Option("--out", help="The file (hdf5, parquet) or folder to write.")],
    level: Annotated[
        str | None, typer.Option(help="One level. hdf5 takes all of them if it is left out.")
    ] = None,
    fps: Annotated[
        float,
        typer.Option(
            min=0.001,
            help="lmdb: frame n of a video shows second (n - 1) / fps. "
            "actionformer: window and stride are given in frames of 1 / fps seconds.",
        ),
    ] = 30.0,
) -> None:
    """Write a store in a form that others read. hdf5 and npy can be imported again, as the same store."""
    from mambavl.cache import open_store
    from mambavl.cache.interchange.export import export_store
    from mambavl.cache.interchange.per_video import PER_VIDEO, incomplete

    opened = open_store(store, verify="read")
    with progress("exporting", "rows") as update, stop_on_signal() as should_stop:
        count = export_store(
            opened, target, to, level=level, fps=fps, progress=update, should_stop=should_stop
        )
    without, which = len(opened) - count, "without features"
    if to in PER_VIDEO:
        which = "of videos that are not whole"
        for video, why in incomplete(opened).items():
            print(f"{video}: left out: {why}")
    left_out = f"; left out {counted(without, 'row')} {which}" if without else ""
    print(f"wrote the features of {counted(count, 'row')} to {target}{left_out}")


@cache_app.command("import", cls=with_settings("cache.import"))
def cache_import(
    *,
    source: Annotated[
        Path, typer.Argument(help="A file or folder of features: an export, or what others made.")
    ],
    kind: Annotated[
        ImportFormat,
        typer.Option(
            "--format",
            help="hdf5, safetensors: by narration_id, or by video where fps, window and stride are set; npy, "
            "torch: a file a video; lmdb: RULSTM's.",
        ),
    ],
    store: StoreOption,
    annotations: Annotated[
        Path | None, typer.Option(help="Folder of the lists, as for `mambavl extract`; an export needs none.")
    ] = None,
    split: SplitOption = "train,validation",
    task: Annotated[
        Task | None,
        typer.Option(
            help="recognition (the default): the action; "
            "anticipation: the window that ends sampling.tau_a before it.",
        ),
    ] = None,
    encoder: Annotated[str | None, typer.Option(help="What made the features, for the record.")] = None,
    sets: Annotated[list[str], set_option("fps=60")],
) -> None:
    """Make a feature store of an export, or of features that others made. Run it again to resume."""
    from mambavl.extract.import_job import ImportSettings, prepare

    settings = settings_of(ImportSettings, {"encoder": encoder, "sampling.task": task}, sets)
    job = prepare(source, kind, store, settings, annotations, splits_of(split))
    with stop_on_signal() as should_stop:
        with progress("reading", "bytes") as update:
            content = job.digest(update, should_stop)
        with progress("importing", "rows") as update:
            done = job.run(content, update, should_stop)
    for narration_id, status, reason in done.failures:
        print(f"{narration_id}: {STATUS[status]}: {reason}")
    if done.is_turned:
        how = "as was said" if settings.channels_first else "as the lengths of the videos tell"
        print(f"arrays of {source} are read as (D, steps), {how}")
    if done.unused:
        print(f"{done.unused:,} arrays of {source} belong to no row")
    print(f"wrote {done.rows:,} rows ({done.bytes / 1e6:.1f} MB) to {store}: {done.state}")
    if job.annotations is not None:  # an export's rows failed when they were extracted
        refuse_failures(store, len(done.failed), settings.max_failed)
