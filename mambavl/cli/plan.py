"""`mambavl extract plan`: what an extraction would do, and how long it would take."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from mambavl.cli.options import (
    AnnotationsOption,
    EncodersOption,
    GpusOption,
    RetryOption,
    ShardOption,
    SplitOption,
    StoresOption,
    TaskOption,
    VideoSets,
    VideosOption,
    WeightsOption,
    annotations_of,
    gpus_of,
    one_each,
    refuse_shared_retry,
    shard_of,
    splits_of,
)
from mambavl.configs.errors import counted, some
from mambavl.terminal import duration

if TYPE_CHECKING:  # they import torch
    from mambavl.extract.plan import Plan, StorePlan
    from mambavl.extract.trial import Estimate, Rates


def extract_plan(
    *,
    annotations: AnnotationsOption,
    videos: VideosOption,
    encoders: EncodersOption,
    stores: StoresOption,
    split: SplitOption = "train,validation",
    task: TaskOption = "recognition",
    weights: WeightsOption = None,
    shard: ShardOption = "0/1",
    gpus: GpusOption = None,
    retry_failed: RetryOption = False,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.1, help="How long the trial takes, about.")
    ] = 20.0,
    sets: VideoSets,
) -> None:
    """Say what `extract video` with these options would do: rows, bytes, what is missing, how long.

    The time is from a trial on up to three of the videos. Nothing is written. Exit code 1 where the
    extraction would be refused: videos are missing, or the disk has no room.
    """
    from mambavl.extract.options import VideoExtraction
    from mambavl.extract.plan import plan as plan_of
    from mambavl.extract.trial import estimate, here, trial

    flags = {"splits": splits_of(split), "sampling.task": task}
    jobs = one_each(VideoExtraction, encoders, stores, weights, flags, sets)
    options, processes = jobs[0][1], gpus_of(gpus)
    part = shard_of(shard)
    refuse_shared_retry(part, retry_failed)
    read = annotations_of(annotations, split)
    plan = plan_of(read, videos, jobs, part, retry_failed=retry_failed)
    for line in (*_counts(plan), *(line for each in plan.stores for line in _bytes(each))):
        print(line)
    if plan.to_read:
        rates, faults = trial(plan, seconds)
        for video, fault in faults.items():
            print(f"{video}: {fault}")
        if rates:
            for line in _times(plan, rates, estimate(plan, rates, **here(options, processes))):
                print(line)
        else:
            print("no estimate: none of the videos that were tried can be read")
    refused = list(_refused(plan, allow_missing=options.allow_missing))
    for line in refused:
        print(line)
    if refused:
        raise typer.Exit(1)


def _counts(plan: "Plan") -> Iterator[str]:
    rows, videos = len(plan.segments), len(plan.paths)
    yield f"rows: {rows:,} of {counted(videos, 'video')}"
    if plan.missing:
        yield (
            f"missing: {counted(len(plan.missing), 'video')} ({some(plan.missing)}), with "
            f"{counted(plan.rows_missing, 'row')}"
        )


def _bytes(store: "StorePlan") -> Iterator[str]:
    layout = store.layout
    groups = counted(layout.groups, "row group")
    yield (
        f"{store.path} ({store.options.encoder}): {store.done:,} of {counted(layout.rows, 'row')} done, "
        f"{store.rows:,} to do; {groups} of {counted(layout.rows_per_group, 'row')}"
    )
    is_compressed = store.options.compressor != "none"
    before = " before compression" if is_compressed else ""
    for name, size in store.sizes.items():
        yield f"  {name}: {_size(size)}"
    yield f"  in all: {_size(sum(store.sizes.values()))}{before}, {_size(store.to_write)} to be written"


def _times(plan: "Plan", rates: "Rates", found: "Estimate") -> Iterator[str]:
    yield (
        f"trial: {counted(rates.rows, 'row')} of {', '.join(rates.videos)}, each stage alone, on this "
        "machine as it is now"
    )
    yield f"  opening a video: {rates.opening:.2f} s"
    yield f"  decode: {_rate(rates.decode)} a thread"
    yield f"  resize: {_rate(rates.resize)} a thread"
    for store, each in zip(plan.stores, rates.encode, strict=True):
        yield f"  encode ({store.options.encoder}): {_rate(each)}"
    readers = counted(found.readers, "reader")
    if found.processes > 1:
        readers = f"{found.processes} processes of {readers}"
    per_second = sum(store.to_write for store in plan.stores) / found.seconds
    yield (
        f"estimate: {duration(found.seconds)} for {counted(len(plan.to_read), 'row')} with "
        f"{readers} on {counted(found.cores, 'core')}, writing {_size(per_second)}/s; "
        "others that use this machine, or share the work, change it"
    )
    yield f"slowest: {found.slowest}. {advice(found)}"


def advice(found: "Estimate") -> str:
    """What would change the time."""
    wanted = counted(found.readers_wanted, "reader") + (" in each process" if found.processes > 1 else "")
    if found.slowest == "encode":
        return f"{wanted} would keep up with it; more change nothing"
    if found.slowest == "the processor":
        return (
            "Reading and encoding share its cores, so more readers change nothing; more cores do, a GPU for "
            "the encoder, or the same command on another machine, too"
        )
    is_enough = found.readers_wanted * found.processes <= found.cores
    cores = "" if is_enough else f", and as many cores: there are {found.cores}"
    return f"The encoder waits for it; {wanted} would keep up (--set readers={found.readers_wanted}{cores})"


def _refused(plan: "Plan", *, allow_missing: bool) -> Iterator[str]:
    """Why the extraction would not start."""
    if plan.missing and not allow_missing:
        yield (
            f"extract video would be refused, since videos are missing ({len(plan.missing):,}); "
            "--set allow_missing=true goes on without"
        )
    for path, (needed, free) in plan.lacking().items():
        yield (
            f"extract video would be refused: {path}: {_size(needed)} are to be written and {_size(free)} "
            "are free; make room, store a smaller level, or use another --out"
        )


def _rate(seconds: float) -> str:
    return f"{1 / seconds:,.2f} rows/s" if seconds > 0 else "no time"


def _size(size: float) -> str:
    """Such as `5.9 GB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"
