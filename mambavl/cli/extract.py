"""`mambavl extract`: stage one, frozen encoders over a data set."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mambavl.cache.fill import FillResult
from mambavl.cache.rows import NOT_RETRIED, STATUS
from mambavl.cache.work import slowest
from mambavl.cli.crew import Crew
from mambavl.cli.options import (
    AnnotationsOption,
    EncoderOption,
    EncodersOption,
    EngineOption,
    GpusOption,
    RetryOption,
    ShardOption,
    SplitOption,
    StoreOption,
    StoresOption,
    TaskOption,
    VideoSets,
    VideosOption,
    WeightsOption,
    WorkersOption,
    annotations_of,
    one_each,
    refuse_shared_retry,
    set_option,
    settings_of,
    shard_of,
    splits_of,
)
from mambavl.cli.settings import with_settings
from mambavl.configs.errors import DataError, UsageError, counted
from mambavl.extract.options import Reading
from mambavl.terminal import progress, stop_on_signal

AudioSets = Annotated[list[str], set_option("steps=8")]
HistorySets = Annotated[list[str], set_option("order=shuffled")]
TextSets = Annotated[list[str], set_option("levels=pooled")]

extract_app = typer.Typer(
    help="Stage one: run a frozen encoder over a data set and fill a feature store.", no_args_is_help=True
)


@extract_app.command("video", cls=with_settings("extract.video"))
def extract_video(
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
    engine: EngineOption = "processes",
    workers: WorkersOption = None,
    retry_failed: RetryOption = False,
    sets: VideoSets,
) -> None:
    """Fill a video feature store, or several from one decode. Run it again to resume; run it elsewhere, too,
    and the work is shared.
    """
    from mambavl.extract import video_job
    from mambavl.extract.options import VideoExtraction

    flags = {"splits": splits_of(split), "sampling.task": task}
    jobs = one_each(VideoExtraction, encoders, stores, weights, flags, sets)
    part = shard_of(shard)
    refuse_shared_retry(part, retry_failed)
    read = annotations_of(annotations, split)
    crew = Crew(gpus, retry_failed, engine, workers)

    extract = partial(video_job.extract_videos, read, videos)
    print_summaries(jobs, crew.extract(jobs, part, extract))


@extract_app.command("audio", cls=with_settings("extract.audio"))
def extract_audio(
    *,
    annotations: AnnotationsOption,
    videos: VideosOption,
    encoder: Annotated[
        str, typer.Option(help="audio:NAME, a transformers model of sound: a hub name or a folder.")
    ],
    store: StoreOption,
    split: SplitOption = "train,validation",
    task: TaskOption = "recognition",
    weights: Annotated[str | None, typer.Option(help="A folder with weights, or `random`.")] = None,
    shard: ShardOption = "0/1",
    gpus: GpusOption = None,
    engine: EngineOption = "processes",
    workers: WorkersOption = None,
    retry_failed: RetryOption = False,
    sets: AudioSets,
) -> None:
    """Fill a feature store with the videos' soundtracks. Run it again to resume; run it elsewhere, too, and
    the work is shared.
    """
    from mambavl.extract import audio_job
    from mambavl.extract.options import AudioExtraction

    flags = {"encoder": encoder, "splits": splits_of(split), "sampling.task": task, "weights": weights}
    options = settings_of(AudioExtraction, flags, sets)
    part = shard_of(shard)
    refuse_shared_retry(part, retry_failed)
    read = annotations_of(annotations, split)
    crew = Crew(gpus, retry_failed, engine, workers)

    def extract(own: Sequence[tuple[Path, AudioExtraction]], **hooks: Any) -> list[FillResult]:
        ((out, settings),) = own
        return [audio_job.extract_audio(read, videos, out, settings, **hooks)]

    jobs = [(store, options)]
    print_summaries(jobs, crew.extract(jobs, part, extract))


@extract_app.command("text", cls=with_settings("extract.text"))
def extract_text(
    *,
    annotations: AnnotationsOption,
    questions: Annotated[Path, typer.Option(help="A question file of `mambavl questions generate`.")],
    encoder: EncoderOption,
    store: StoreOption,
    split: SplitOption = "train,validation",
    weights: Annotated[
        str | None, typer.Option(help="A folder with config, tokenizer and model.safetensors.")
    ] = None,
    shard: ShardOption = "0/1",
    retry_failed: RetryOption = False,
    sets: TextSets,
) -> None:
    """Fill a text feature store: both questions of every row. Run it again to resume."""
    from mambavl.extract import text_job
    from mambavl.extract.options import TextExtraction

    flags = {"encoder": encoder, "splits": splits_of(split), "weights": weights}
    options = settings_of(TextExtraction, flags, sets)
    part = shard_of(shard)
    refuse_shared_retry(part, retry_failed)
    read = annotations_of(annotations, split)
    with progress("extracting", "rows") as update, stop_on_signal() as should_stop:
        summary = text_job.extract_text(
            read,
            questions,
            store,
            options,
            shard=part,
            retry_failed=retry_failed,
            progress=update,
            should_stop=should_stop,
        )
    print_summary(summary, store)
    print_stages(summary)
    refuse_failures(store, len(summary.failed), None)


@extract_app.command("history", cls=with_settings("extract.history"))
def extract_history(
    *,
    annotations: AnnotationsOption,
    store: StoreOption,
    last: Annotated[
        int | None, typer.Option(help="How many past actions a row is told of, the last ones. Default: 8.")
    ] = None,
    tau: Annotated[
        float | None,
        typer.Option(help="Seconds before a row's start at which they had ended. Default: 1."),
    ] = None,
    encoder: Annotated[
        str, typer.Option(help="classes, or a text encoder that reads the narrations.")
    ] = "classes",
    weights: Annotated[str | None, typer.Option(help="A text encoder's folder of weights.")] = None,
    protocol: Annotated[
        Literal["oracle", "predicted"],
        typer.Option(help="Who tells of the past. oracle: its labels; predicted: a recogniser's --scores."),
    ] = "oracle",
    scores: Annotated[
        list[Path],
        typer.Option(
            default_factory=list,
            show_default=False,
            help="Of protocol predicted: a recogniser's scores of rows outside train. Repeatable.",
        ),
    ],
    train_from: Annotated[
        list[Path],
        typer.Option(
            "--train-from",
            default_factory=list,
            show_default=False,
            help="Of protocol predicted: scores of train rows, by runs that held them out. Default: their "
            "labels. Repeatable.",
        ),
    ],
    split: SplitOption = "train,validation",
    sets: HistorySets,
) -> None:
    """Fill a feature store with what was done before each row. Run it again to resume."""
    from mambavl.extract import history_job
    from mambavl.extract.options import HistoryExtraction

    if tau is not None and tau < 0:
        raise UsageError(
            f"--tau {tau:g}: a row would be told of itself, which is no anticipation, and recognition has no "
            "history; use 0 or more"
        )
    flags = {
        "encoder": encoder,
        "weights": weights,
        "splits": splits_of(split),
        "last": last,
        "tau": tau,
        "protocol": protocol,
    }
    options = settings_of(HistoryExtraction, flags, sets)
    read = annotations_of(annotations, split)
    with progress("extracting", "rows") as update, stop_on_signal() as should_stop:
        summary = history_job.extract_history(
            read,
            store,
            options,
            scores=scores,
            train_from=train_from,
            progress=update,
            should_stop=should_stop,
        )
    print(f"wrote {summary.rows:,} rows ({summary.bytes / 1e6:.1f} MB) to {store}: {summary.state}")
    print(f"{options.protocol} history; rows without a past: {summary.empty:,} (empty_window)")
    refuse_failures(store, len(summary.failed), None)


def print_summaries(jobs: Sequence[tuple[Path, Reading]], summaries: Sequence[FillResult]) -> None:
    """Of each store, which was made with the settings beside it. Raises as `refuse_failures`, when all is
    said: of rows that failed when they were tried, as while the stores are filled. A video that is missing
    got here because of allow_missing.
    """
    for (store, _), summary in zip(jobs, summaries, strict=True):
        print_summary(summary, store)
    print_stages(summaries[0])  # the stores come from one reading
    for (store, options), summary in zip(jobs, summaries, strict=True):
        failed = sum(status not in NOT_RETRIED for _, status, _ in summary.failures)
        refuse_failures(store, failed, options.max_failed)


def print_summary(summary: FillResult, store: Path) -> None:
    for narration_id, status, reason in summary.failures:
        print(f"{narration_id}: {STATUS[status]}: {reason}")
    print(f"wrote {summary.rows:,} rows ({summary.bytes / 1e6:.1f} MB) to {store}: {summary.state}")
    if summary.failures:
        print(f"rows without features: {len(summary.failures):,}")


def print_stages(summary: FillResult) -> None:
    """Where the time of a command went; nothing where it had nothing to do."""
    if summary.seconds:
        stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in summary.seconds.items())
        if summary.stalled:
            stages += f"; the encoder waited {summary.stalled:.1f} s for what is read"
        print(f"busy: {stages}; the slowest stage is {slowest(summary.seconds, summary.stalled)}")


def refuse_failures(store: Path, failed: int, max_failed: int | None) -> None:
    """Raises DataError when more rows failed than the setting max_failed allows; None: there is no such
    setting, and no row may fail.
    """
    if failed <= (max_failed or 0):
        return
    message = f"{store}: {counted(failed, 'row')} failed"
    if max_failed is not None:
        message += f", but max_failed is {max_failed:,} (--set max_failed=N allows N)"
    raise DataError(message)
