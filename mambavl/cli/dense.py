"""`mambavl extract dense`: windows over whole videos, for what has no list of actions."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from mambavl.cli.crew import Crew
from mambavl.cli.extract import print_summaries
from mambavl.cli.options import (
    EncodersOption,
    EngineOption,
    GpusOption,
    RetryOption,
    ShardOption,
    StoresOption,
    VideoSets,
    WeightsOption,
    WorkersOption,
    annotations_of,
    one_each,
    refuse_shared_retry,
    shard_of,
    splits_of,
)
from mambavl.configs.errors import UsageError
from mambavl.terminal import progress, stop_on_signal


def extract_dense(
    *,
    videos: Annotated[
        list[Path], typer.Option("--videos", help="A video, or a folder with all its videos. Repeatable.")
    ],
    encoders: EncodersOption,
    stores: StoresOption,
    window: Annotated[str, typer.Option(help="Length of a window in seconds: 2s, 0.5s, 32/30s.")],
    stride: Annotated[str, typer.Option(help="Seconds from the start of a window to that of the next.")],
    annotations: Annotated[
        Path | None, typer.Option(help="Take the videos that these lists have rows of, and no others.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="With --annotations: the lists. Default: train,validation."),
    ] = None,
    weights: WeightsOption = None,
    shard: ShardOption = "0/1",
    gpus: GpusOption = None,
    engine: EngineOption = "processes",
    workers: WorkersOption = None,
    retry_failed: RetryOption = False,
    sets: VideoSets,
) -> None:
    """Fill feature stores with windows of whole videos, one every so often. Run it again to resume.

    Window k of a video is [k x stride, k x stride + window) seconds; the last one lies wholly in the video.
    """
    from mambavl.extract import dense
    from mambavl.extract.options import VideoExtraction

    if annotations is None and split is not None:
        raise UsageError("--split chooses among the lists of --annotations, and there are none; leave it out")
    windows = dense.Windows(dense.seconds("--window", window), dense.seconds("--stride", stride))
    flags = {"splits": splits_of(split or "train,validation")}
    jobs = one_each(VideoExtraction, encoders, stores, weights, flags, sets)
    part = shard_of(shard)
    refuse_shared_retry(part, retry_failed)
    read = annotations_of(annotations, split or "train,validation") if annotations else None
    crew = Crew(gpus, retry_failed, engine, workers)
    with stop_on_signal() as should_stop, progress("measuring", "videos") as update:
        planned = dense.plan(videos, windows, *jobs[0], read, progress=update, should_stop=should_stop)
    for video, end in planned.short.items():
        print(f"{video}: lasts {end:.2f} s, less than a window: no rows")

    print_summaries(jobs, crew.extract(jobs, part, partial(dense.extract_dense, planned)))
