"""The video job: settings -> encoders, boxes and specs -> what `clips` are read and encoded for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from mambavl.cache.fill import FillResult
from mambavl.cache.shards import Level
from mambavl.cache.spec import BoxesRecipe, FeatureRecipe, Inputs, PixelRecipe, Spec
from mambavl.cache.writer import StoreWriter
from mambavl.configs.errors import DataError, UsageError, some
from mambavl.configs.progress import Progress, ShouldStop, never, unseen
from mambavl.extract import job
from mambavl.extract.annotations import Annotations
from mambavl.extract.clip_encoder import ClipEncoder
from mambavl.extract.clips import Clip, ClipReading, Shown, unit_rows
from mambavl.extract.encoders.base import Pixels, VideoEncoder
from mambavl.extract.encoders.published import table
from mambavl.extract.options import VideoExtraction, VideoReading
from mambavl.extract.pictures import Look
from mambavl.extract.pipeline import Target, run_pipeline
from mambavl.extract.video_files import Key
from mambavl.extract.video_folder import Roots, find_videos


def extract_video(
    annotations: Annotations,
    videos: Roots | Mapping[str, Path | None],
    out: Path,
    options: VideoExtraction,
    *,
    shard: tuple[int, int] = (0, 1),
    retry_failed: bool = False,
    like: FeatureRecipe | None = None,
    progress: Progress = unseen,
    should_stop: ShouldStop = never,
) -> FillResult:
    """As `extract_videos`, of one encoder."""
    (result,) = extract_videos(
        annotations,
        videos,
        [(out, options)],
        shard=shard,
        retry_failed=retry_failed,
        like=like,
        progress=progress,
        should_stop=should_stop,
    )
    return result


def extract_videos(
    annotations: Annotations,
    videos: Roots | Mapping[str, Path | None],
    jobs: Sequence[tuple[Path, VideoExtraction]],
    *,
    shard: tuple[int, int] = (0, 1),
    retry_failed: bool = False,
    like: FeatureRecipe | None = None,
    progress: Progress = unseen,
    should_stop: ShouldStop = never,
) -> list[FillResult]:
    """Run frozen video encoders over every segment and write (or resume) a store for each. Every frame is
    decoded once for all of them, and each store is what the encoder's job alone would give.

    jobs: the store and the settings of each encoder; they share what `VideoReading` holds. shard (i, n): do
    every n-th row group only; whoever completes a store finalises it. retry_failed: try rows again that
    failed, also in a finished store. Raises UsageError when a store was made by another recipe, DataError
    when videos are missing and when more rows fail than `max_failed`, SystemFault when a file cannot be read,
    Interrupted when `should_stop()` turns true between two batches.
    """
    refuse_different_readings(jobs)
    reading = jobs[0][1]
    encoders = [build_encoder(options) for _, options in jobs]
    paths = find_videos(annotations, videos, reading.allow_missing)
    shown = tuple(shown_to(encoder, options) for encoder, (_, options) in zip(encoders, jobs, strict=True))
    specs: list[Spec] = []
    for (out, options), encoder, seen in zip(jobs, encoders, shown, strict=True):
        boxes = _box_inputs(seen, list(paths), out)
        inputs = job.video_inputs(options, options.splits, annotations, paths, out, boxes)
        specs.append(spec_of(encoder, options, seen, inputs))
    writers: list[StoreWriter] = []
    try:
        for (out, options), spec in zip(jobs, specs, strict=True):
            writers.append(
                job.open_writer(out, spec, annotations, options.device, retry_failed=retry_failed, like=like)
            )
        targets: list[Target[Clip]] = []
        for writer, encoder, (_, options), seen in zip(writers, encoders, jobs, shown, strict=True):
            has_boxes = seen.boxes is not None
            layout = writer.layout
            coder = ClipEncoder(encoder, options, layout.levels, has_boxes=has_boxes)
            targets.append(Target(layout, options.batch_rows, coder))
        keys = cast("dict[str, Key | None]", specs[0].inputs.videos)  # from `job.video_inputs`
        clips = ClipReading(paths, reading, shown, keys, Path(jobs[0][0]))
        return run_pipeline(
            annotations.segments,
            writers,
            targets,
            clips,
            reading,
            unit_rows=unit_rows(reading.sampling, annotations.windows),
            row_bytes=clips.row_bytes,
            shard=shard,
            progress=progress,
            should_stop=should_stop,
        )
    finally:
        for writer in writers:
            writer.close()


def refuse_different_readings(jobs: Sequence[tuple[Path, VideoExtraction]]) -> None:
    """Raises UsageError where the settings of several encoders ask for different pictures, or name a store
    twice.
    """
    outs = [Path(out).absolute() for out, _ in jobs]
    if len(set(outs)) < len(outs):
        raise UsageError(f"{outs[0]}: each encoder needs a store of its own; give --out once for each")
    first = jobs[0][1]
    for _, options in jobs[1:]:
        for key in ("splits", *VideoReading.model_fields):
            one, other = getattr(first, key), getattr(options, key)
            if one != other:
                raise UsageError(
                    f"encoders that share one decode share {key}: {first.encoder} has {one}, "
                    f"{options.encoder} has {other}; run them one by one"
                )


def shown_to(encoder: VideoEncoder, options: VideoExtraction) -> Shown:
    """What the settings have an encoder see."""
    pixels = encoder.pixels
    reads_boxes = options.boxes in ("h5", "hoa")
    look = Look(pixels.image_size, pixels.interpolation)
    return Shown(look, encoder.box_slots, options if reads_boxes else None)


def _box_inputs(shown: Shown, videos: list[str], out: Path) -> dict[str, Any] | None:
    """What the spec of the store `out` says of the boxes. Raises DataError where videos have none."""
    source = shown.open_boxes()
    if source is None or shown.boxes is None:
        return None
    try:
        if missing := source.missing(videos):
            raise DataError(
                f"{shown.boxes.boxes_path}: {len(missing):,} of {len(videos):,} videos have no boxes there "
                f"({some(missing)})"
            )
        return source.fingerprint(sorted(videos), out)
    finally:
        source.close()


def spec_of(encoder: VideoEncoder, options: VideoExtraction, shown: Shown, inputs: Inputs) -> Spec:
    """The spec of an encoder's store, but for what the rows say."""
    levels = _levels(encoder, options)
    recipe = FeatureRecipe(
        numerics=job.NUMERICS,
        encoder=job.encoder_identity(encoder),
        pixels=_pixel_recipe(encoder.pixels, options),
        sampling=options.sampling.model_dump(),
        decoder=options.decoder,
        still_pictures=options.still_pictures or None,
        precision=options.precision,
        batch_rows=options.batch_rows,
        boxes=BoxesRecipe(source=str(options.boxes), transform=options.box_transform)
        if shown.boxes
        else None,
    )
    return Spec(
        kind="video",
        recipe=recipe,
        inputs=inputs,
        levels=levels,
        frame_pts=(options.views, options.sampling.frames),
        rows_per_group=job.rows_per_group(options, levels),
    )


def _levels(encoder: VideoEncoder, options: VideoExtraction) -> tuple[Level, ...]:
    """The stored levels: V views, T' steps of time, h x w patches, D channels."""
    size = encoder.pixels.image_size
    steps, height, width = encoder.token_grid((options.sampling.frames, size, size))
    views, grid, channels = options.views, options.grid, encoder.width
    shapes = {
        "clip": (views, channels),
        "cls": (views, channels),
        "frame": (views, steps, channels),
        "grid": (views, steps, grid, grid, channels),
        "patch": (views, steps * height * width, channels),
        "predicted": (views, height * width, channels),
    }
    return job.dense_levels(options, shapes, steps)


def _pixel_recipe(pixels: Pixels, options: VideoExtraction) -> PixelRecipe:
    return PixelRecipe(
        image_size=pixels.image_size,
        fit=options.fit,
        crops=options.crops,
        interpolation=pixels.interpolation,
        mean=tuple(pixels.mean),
        std=tuple(pixels.std),
        colour=pixels.colour,
    )


def build_encoder(options: VideoExtraction) -> VideoEncoder:
    """The encoder that the settings name.

    Raises UsageError where it lacks what they ask of it, or reads boxes and they name none.
    """
    name = options.encoder
    encoder = job.build_encoder(options, VideoEncoder, **_sizes(options))
    reads_boxes = encoder.box_slots > 0
    if reads_boxes and options.boxes is None:
        raise UsageError(
            f"encoder {name} reads object boxes: `--set boxes=h5` or `boxes=hoa` with `--set boxes_path=...` "
            "says where they are; `--set boxes=none` runs it on none, which its features show"
        )
    if options.boxes in ("h5", "hoa") and not reads_boxes:
        raise UsageError(f"encoder {name} reads no boxes; leave out `boxes`")
    if "cls" in options.levels and not encoder.has_class_token:
        raise UsageError(f"encoder {name} has no class token of its own; leave `cls` out of the levels")
    return encoder


def _sizes(options: VideoExtraction) -> dict[str, Any]:
    """What the settings change of the encoder. Raises UsageError for what only published encoders have."""
    sizes: dict[str, Any] = {}
    if options.image_size is not None:
        sizes["image_size"] = options.image_size
    if options.layer != "last":
        sizes["layer"] = options.layer
    if options.boxes == "none":  # boxes that are read are the encoder's default
        sizes["boxes"] = options.boxes
    if "predicted" in options.levels:
        if not options.encoder.startswith("hf:"):
            raise UsageError(
                f"encoder {options.encoder} has no predictor, and level `predicted` is what a V-JEPA 2 "
                "(--encoder hf:NAME) predicts; leave it out of the levels"
            )
        sizes["ahead"] = options.sampling.ahead
    for key in ("boxes", "layer"):
        if key in sizes and options.encoder not in table.PUBLISHED:
            known = ", ".join(table.PUBLISHED)
            raise UsageError(f"encoder {options.encoder} has no {key}; that is for {known}")
    return sizes
