"""`mambavl extract dense`: windows over whole videos, for what has no list of actions."""

from pathlib import Path
from typing import Annotated

import typer

from mambavl.cli.extract import print_summary
from mambavl.cli.options import (
    RetryOption,
    ShardOption,
    annotations_of,
    refuse_shared_retry,
    set_option,
    settings_of,
    shard_of,
    splits_of,
)
from mambavl.configs.errors import UsageError, counted
from mambavl.terminal import progress, stop_on_signal


def extract_dense(
    *,
    videos: Annotated[
        list[Path], typer.Option("--videos", help="A video, or a folder with all its videos. Repeatable.")
    ],
    encoders: Annotated[
        list[str],
        typer.Option(
            "--encoder", help="A name that `mambavl encoders list` knows. Repeatable: each has an --out."
        ),
    ],
    stores: Annotated[
        list[Path], typer.Option("--out", help="The feature store to write or resume, one for each encoder.")
    ],
    window: Annotated[str, typer.Option(help="Length of a window in seconds: 2s, 0.5s, 32/30s.")],
    stride: Annotated[str, typer.Option(help="Seconds from the start of a window to that of the next.")],
    annotations: Annotated[
        Path | None, typer.Option(help="Take the videos that these lists have rows of, and no others.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="With --annotations: the lists. Default: train,validation."),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(help="A file or folder of weights, or `random`; once, or one for each encoder."),
    ] = None,
    shard: ShardOption = "0/1",
    retry_failed: RetryOption = False,
    sets: Annotated[list[str], set_option("sampling.frames=8")],
) -> None:
    """Fill feature stores with windows of whole videos, one every so often. Run it again to resume.

    Window k of a video is [k x stride, k x stride + window) seconds; the last one lies wholly in the video.
    """
    from mambavl.extract import dense
    from mambavl.extract.options import VideoExtraction

    if annotations is None and split is not None:
        raise UsageError("--split chooses among the lists of --annotations, and there are none; leave it out")
    windows = dense.Windows(dense.seconds("--window", window), dense.seconds("--stride", stride))
    jobs = []
    for encoder, store, own in zip(*_one_each(encoders, stores, weights), strict=True):
        flags = {"encoder": encoder, "splits": splits_of(split or "train,validation"), "weights": own}
        jobs.append((store, settings_of(VideoExtraction, flags, sets)))
    part = shard_of(shard)
    refuse_shared_retry(part, retry_failed)
    read = annotations_of(annotations, split or "train,validation") if annotations else None
    with stop_on_signal() as should_stop:
        with progress("measuring", "videos") as update:
            planned = dense.plan(videos, windows, *jobs[0], read, progress=update, should_stop=should_stop)
        for video, end in planned.short.items():
            print(f"{video}: lasts {end:.2f} s, less than a window: no rows")
        with progress("extracting", "rows") as update:
            done = dense.extract_dense(
                planned,
                jobs,
                shard=part,
                retry_failed=retry_failed,
                progress=update,
                should_stop=should_stop,
            )
    for (store, options), summary in zip(jobs, done, strict=True):
        print_summary(summary, store, options.max_failed)


def _one_each(
    encoders: list[str], stores: list[Path], weights: list[str] | None
) -> tuple[list[str], list[Path], list[str | None]]:
    """Encoders, their stores and their weights, as many of each. Raises UsageError where they do not pair."""
    if len(stores) != len(encoders) or len(set(stores)) < len(stores):
        raise UsageError(
            f"{counted(len(encoders), 'encoder')} and {counted(len(set(stores)), 'store')}: "
            "give each --encoder an --out of its own, in the same order"
        )
    given: list[str | None] = list(weights or ())
    if not given:
        given = [None]
    if len(given) == 1:
        given *= len(encoders)
    if len(given) != len(encoders):
        raise UsageError(
            f"--weights is given {len(given)} times for {counted(len(encoders), 'encoder')}: "
            "give it once, or once for each"
        )
    return encoders, stores, given
