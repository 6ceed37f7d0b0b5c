"""The video job: settings -> encoder, boxes and spec -> the row groups of `clips`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mambavl.cache.fill import FillResult, fill
from mambavl.cache.shards import Level
from mambavl.cache.spec import BoxesRecipe, FeatureRecipe, PixelRecipe, Spec
from mambavl.cache.writer import RowGroup
from mambavl.configs.errors import DataError, UsageError, some
from mambavl.configs.progress import Progress, ShouldStop, never, unseen
from mambavl.extract import job
from mambavl.extract.annotations import Annotations
from mambavl.extract.boxes import BoxSource, open_boxes
from mambavl.extract.clips import ClipEncoder, ClipReader
from mambavl.extract.encoders.base import Pixels, VideoEncoder
from mambavl.extract.encoders.published import table
from mambavl.extract.options import VideoExtraction
from mambavl.extract.video_folder import find_videos


def extract_video(
    annotations: Annotations,
    videos: Path | Mapping[str, Path | None],
    out: Path,
    options: VideoExtraction,
    *,
    shard: tuple[int, int] = (0, 1),
    retry_failed: bool = False,
    like: FeatureRecipe | None = None,
    progress: Progress = unseen,
    should_stop: ShouldStop = never,
) -> FillResult:
    """Run a frozen video encoder over every segment and write (or resume) the store `out`.

    shard (i, n): do every n-th row group only; whoever completes the store finalises it. retry_failed: try
    rows again that failed, also in a finished store. Raises UsageError when `out` was made by another recipe,
    DataError when videos are missing and when more rows fail than `max_failed`, SystemFault when a file
    cannot be read, Interrupted when `should_stop()` turns true between two batches.
    """
    encoder = _build_encoder(options)
    paths = find_videos(annotations, videos, options.allow_missing)
    boxes = _open_boxes(options, list(paths))
    spec = _video_spec(annotations, paths, out, encoder, options, boxes)
    writer = job.open_writer(out, spec, annotations, options.device, retry_failed=retry_failed, like=like)
    clips = ClipReader(encoder, paths, options, boxes)
    pipeline = ClipEncoder(encoder, clips, options, writer.layout.levels)

    def encode(rows: range, result: FillResult) -> RowGroup:
        return pipeline.row_group(annotations.segments[rows.start : rows.stop], result, should_stop)

    try:
        return fill(
            writer,
            encode,
            shard=shard,
            max_failed=options.max_failed,
            progress=progress,
            should_stop=should_stop,
        )
    finally:
        pipeline.close()


def _video_spec(
    annotations: Annotations,
    paths: dict[str, Path | None],
    out: Path,
    encoder: VideoEncoder,
    options: VideoExtraction,
    boxes: BoxSource | None,
) -> Spec:
    levels = _levels(encoder, options)
    recipe = FeatureRecipe(
        numerics=job.NUMERICS,
        encoder=job.encoder_identity(encoder),
        pixels=_pixel_recipe(encoder.pixels, options),
        sampling=options.sampling.model_dump(),
        decoder=options.decoder,
        precision=options.precision,
        batch_rows=options.batch_rows,
        boxes=BoxesRecipe(source=str(options.boxes), transform=options.box_transform) if boxes else None,
    )
    found = boxes.fingerprint(sorted(paths), out) if boxes else None
    return Spec(
        kind="video",
        recipe=recipe,
        inputs=job.video_inputs(options, annotations, paths, out, found),
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


def _build_encoder(options: VideoExtraction) -> VideoEncoder:
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
    for key in ("boxes", "layer"):
        if key in sizes and options.encoder not in table.PUBLISHED:
            known = ", ".join(table.PUBLISHED)
            raise UsageError(f"encoder {options.encoder} has no {key}; that is for {known}")
    return sizes


def _open_boxes(options: VideoExtraction, videos: list[str]) -> BoxSource | None:
    """The boxes that the settings name, if any. Raises DataError where videos have none."""
    if options.boxes is None or options.boxes == "none" or options.boxes_path is None:
        return None
    source = open_boxes(options.boxes, options.boxes_path, options.video_hash, options.retries)
    if missing := source.missing(videos):
        raise DataError(
            f"{options.boxes_path}: {len(missing):,} of {len(videos):,} videos have no boxes there "
            f"({some(missing)})"
        )
    return source
