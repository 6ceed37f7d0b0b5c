"""Video features: decode once -> encode -> a row group.

Rows are encoded in fixed batches, and a row that cannot be decoded takes its place in the batch as zeros and
is dropped afterwards: so the others do not depend on it.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from mambavl.cache import shards
from mambavl.cache.rows import FLAG_HELD_LAST, FLAG_TIME_FROM_FRAMES, Segment
from mambavl.cache.shards import Level
from mambavl.cache.spec import BoxesRecipe, FeatureRecipe, Inputs, PixelRecipe, Spec
from mambavl.cache.writer import RowGroup, StoreWriter
from mambavl.configs.errors import DataError, Interrupted, UsageError
from mambavl.extract import job
from mambavl.extract.annotations import Annotations, fingerprint
from mambavl.extract.boxes import BoxSource, open_boxes
from mambavl.extract.encoders.levels import video_levels
from mambavl.extract.encoders.published import table
from mambavl.extract.encoders.published.orvit import crop_boxes
from mambavl.extract.job import Progress, ShouldStop, Summary
from mambavl.extract.options import VideoExtraction
from mambavl.extract.sampling import Window, window
from mambavl.extract.video import Reader, VideoError, open_video


def extract_video(
    annotations: Annotations,
    videos: Path,
    out: Path,
    options: VideoExtraction,
    *,
    shard: tuple[int, int] = (0, 1),
    progress: Progress = lambda done, total: None,
    should_stop: ShouldStop = lambda: False,
) -> Summary:
    """Run a frozen video encoder over every segment and write (or resume) the store `out`.

    shard (i, n): do every n-th row group only; whoever completes the store finalises it. Raises UsageError
    when `out` was made by another recipe, DataError when videos are missing, Interrupted when `should_stop()`
    turns true between two batches.
    """
    encoder = _build_encoder(options)
    paths = job.find_videos(annotations, Path(videos), options.allow_missing)
    boxes = _open_boxes(options, list(paths))
    spec = _video_spec(annotations, paths, encoder, options, boxes)
    writer = StoreWriter(
        out, spec, annotations.segments, annotations.classes, job.environment(options.device)
    )
    pipeline = _VideoPipeline(encoder, paths, options, writer.layout.levels, boxes)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode") as decoder:

        def encode(rows: Sequence[Segment], summary: Summary) -> RowGroup:
            return pipeline.row_group(rows, decoder, summary, should_stop)

        try:
            return job.run(writer, encode, shard, progress, should_stop)
        finally:
            pipeline.videos.close()
            if boxes:
                boxes.close()


PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class _VideoPipeline:
    """Frames of the next batch are decoded in one thread while the encoder works on this one."""

    def __init__(
        self,
        encoder: nn.Module,
        paths: dict[str, Path | None],
        options: VideoExtraction,
        levels: tuple[Level, ...],
        boxes: BoxSource | None,
    ) -> None:
        self.device = job.device_of(options.device)
        self.encoder = encoder
        self.options = options
        self.levels = levels
        self.boxes = boxes
        pixels = encoder.pixels
        shape = (1, 3, 1, 1, 1)
        self._mean = torch.tensor(pixels.mean, device=self.device).view(shape) * 255
        self._std = torch.tensor(pixels.std, device=self.device).view(shape) * 255
        # the decoding thread's
        self.videos = job.ReaderCache(paths, lambda path: open_video(path, options.decoder))

    def row_group(
        self, rows: Sequence[Segment], decoder: ThreadPoolExecutor, summary: Summary, should_stop: ShouldStop
    ) -> RowGroup:
        size = self.options.batch_rows
        batches = [rows[i : i + size] for i in range(0, len(rows), size)]
        pending = decoder.submit(self._decode_batch, batches[0])
        clips: list[_Clip] = []
        features: dict[str, list[np.ndarray]] = {level.name: [] for level in self.levels}
        for number in range(len(batches)):
            decoded, seconds = pending.result()
            summary.seconds["decode"] = summary.seconds.get("decode", 0.0) + seconds
            if should_stop():
                raise Interrupted(
                    "stopped inside a row group, which will be done again; the same command resumes"
                )
            if number + 1 < len(batches):
                pending = decoder.submit(self._decode_batch, batches[number + 1])
            since = time.perf_counter()
            views = [self._encode(decoded, view) for view in range(self.options.views)]
            for level in self.levels:
                features[level.name].append(np.stack([view[level.name] for view in views], axis=1))
            summary.timed("encode", since)
            for clip in decoded:
                clip.forget()  # a row group of pictures would be gigabytes
            clips += decoded
        joined = {name: np.concatenate(parts) for name, parts in features.items()}
        return job.dense_group(
            self.options.encoder, clips, joined, self.levels, np.stack([clip.pts for clip in clips])
        )

    @torch.inference_mode()
    def _encode(self, clips: list["_Clip"], view: int) -> dict[str, np.ndarray]:
        """One view of a batch of clips -> features by level, (B, *a view's shape)."""
        # nothing to see, as in the first second before an action
        if all(clip.status != "ok" for clip in clips):
            return {level.name: np.zeros((len(clips), *level.shape[1:]), np.float32) for level in self.levels}
        # (B, T, S, S, 3)
        pixels = torch.from_numpy(np.stack([np.stack(clip.images[view]) for clip in clips])).to(self.device)
        if self.encoder.pixels.colour == "BGR":
            pixels = pixels.flip(-1)
        video = (pixels.permute(0, 4, 1, 2, 3).float() - self._mean) / self._std
        boxes = (
            torch.from_numpy(np.stack([clip.boxes[view] for clip in clips])).to(self.device)
            if self.boxes
            else None
        )
        with torch.autocast(
            self.device.type, PRECISIONS[self.options.precision], enabled=self.options.precision != "fp32"
        ):
            found = video_levels(self.encoder, video, self.options.levels, self.options.grid, boxes)
        return {name: values.float().cpu().numpy() for name, values in found.items()}

    def _decode_batch(self, rows: Sequence[Segment]) -> tuple[list["_Clip"], float]:
        since = time.perf_counter()
        clips = []
        for video_id, segments in groupby(rows, key=lambda segment: segment.video_id):
            clips += self._decode_video(video_id, list(segments))
        return clips, time.perf_counter() - since

    def _decode_video(self, video_id: str, segments: list[Segment]) -> list["_Clip"]:
        """The clips of some segments of one video; a frame that several of them show is decoded once."""
        sampling, objects = self.options.sampling, self.encoder.config.objects if self.boxes else 0
        windows = [
            [window(s.start, s.stop, sampling, view) for view in range(sampling.views)] for s in segments
        ]
        clips = [_Clip.empty(self.options, self.encoder.pixels.image_size, objects) for _ in segments]
        for clip, segment, (seen, *_) in zip(clips, segments, windows, strict=True):
            clip.flags |= seen.flags | (FLAG_TIME_FROM_FRAMES if segment.time_from_frames else 0)
            if seen.is_empty:
                clip.fail(
                    "empty_window",
                    f"starts at {segment.start:.2f} s: nothing to observe {sampling.tau_a:g} s before it",
                )
        try:
            reader = self.videos.reader(video_id)
        except VideoError as error:
            for clip in clips:
                clip.fail(error.status, str(error))
            return clips
        # (views, T) each
        indices = [self._locate(clip, views, reader) for clip, views in zip(clips, windows, strict=True)]
        wanted = np.concatenate(
            [index.ravel() for index in indices if index is not None] or [np.empty(0, np.int64)]
        )
        frames = {index: self._fit(pixels) for index, pixels in reader.frames(wanted)} if len(wanted) else {}
        for clip, index in zip(clips, indices, strict=True):
            if index is not None:
                self._fill(
                    clip,
                    video_id,
                    [[frames[int(i)] for i in view] for view in index],
                    reader.timeline.pts[index],
                )
        if sampling.task == "anticipation":
            _assert_nothing_late(segments, clips, sampling.tau_a)
        return clips

    def _locate(self, clip: "_Clip", views: list[Window], reader: Reader) -> np.ndarray | None:
        """(views, T) numbers of the frames on display; None for a clip that has failed."""
        if clip.status != "ok":
            return None
        try:
            index, held = reader.timeline.at(np.concatenate([seen.times for seen in views]))
        except VideoError as error:
            clip.fail(error.status, str(error))
            return None
        clip.flags |= FLAG_HELD_LAST if held else 0
        return index.reshape(len(views), -1)

    def _fit(self, pixels: np.ndarray | VideoError) -> "_Frame | VideoError":
        """A decoded frame (H, W, 3) as the encoder wants it, once a crop."""
        if isinstance(pixels, VideoError):
            return pixels
        image, wanted = Image.fromarray(pixels), self.encoder.pixels
        method = Image.Resampling[wanted.interpolation.upper()]
        boxes = [None]  # the whole frame, squeezed
        if self.options.fit == "crop":
            squares = _squares(image.height, image.width, self.options.crops)
            boxes = [(left, top, left + side, top + side) for top, left, side in squares]
        crops = [np.asarray(image.resize((wanted.image_size,) * 2, method, box=box)) for box in boxes]
        return _Frame((image.height, image.width), crops)

    def _fill(
        self, clip: "_Clip", video_id: str, views: list[list["_Frame | VideoError"]], pts: np.ndarray
    ) -> None:
        """Give a clip its images, and the boxes on them. views: the frames of each; pts (views, T) seconds."""
        if error := next(
            (frame for frames in views for frame in frames if isinstance(frame, VideoError)), None
        ):
            clip.fail(error.status, str(error))
            return
        crops = self.options.crops  # views of a clip: those in time, each with its crops
        clip.images = [[frame.crops[crop] for frame in frames] for frames in views for crop in range(crops)]
        clip.pts = np.repeat(pts, crops, axis=0)
        if self.boxes:
            try:
                boxes = [self.boxes.clip(video_id, times, self.encoder.config.objects) for times in pts]
            except DataError as error:
                clip.fail("no_boxes", str(error))
                return
            seen = list(map(torch.from_numpy, boxes))
            for view in range(len(clip.images)):
                clip.boxes[view] = self._boxes_of_crop(
                    seen[view // crops], views[view // crops][0].size, view % crops
                ).numpy()

    def _boxes_of_crop(self, boxes: torch.Tensor, size: tuple[int, int], crop: int) -> torch.Tensor:
        """boxes (T, O, 4), corners in fractions of a frame of size (H, W) -> (cx, cy, w, h) in fractions of the crop."""
        image_size, transform = self.encoder.pixels.image_size, self.options.box_transform
        if self.options.fit == "squash":
            return crop_boxes(boxes, (1, 1), (0, 0, 1), image_size)
        return crop_boxes(
            boxes, size, _squares(*size, self.options.crops)[crop], image_size, box_transform=transform
        )


def _squares(height: int, width: int, crops: int) -> list[tuple[float, float, float]]:
    """(top, left, side) of the squares cut from a frame: the centre one, or three along the long side, end to
    end.
    """
    side = min(height, width)
    places = (0.5,) if crops == 1 else (0.0, 0.5, 1.0)
    return [((height - side) * place, (width - side) * place, side) for place in places]


@dataclass(frozen=True)
class _Frame:
    """A decoded frame: its size (H, W) and its crops, (S, S, 3) uint8 each."""

    size: tuple[int, int]
    crops: list[np.ndarray]


@dataclass
class _Clip(job.Clip):
    """One row on its way: T images (S, S, 3) uint8 a view, shared by views; pts (V, T) seconds; zeros and NaN
    when it failed.
    """

    images: list[list[np.ndarray]]
    pts: np.ndarray
    boxes: np.ndarray  # (V, T, O, 4), (cx, cy, w, h) in fractions of the crop; of an encoder that reads them

    @classmethod
    def empty(cls, options: VideoExtraction, size: int, objects: int) -> "_Clip":
        views, frames = options.views, options.sampling.frames
        black = np.zeros((size, size, 3), np.uint8)
        boxes = np.zeros((views, frames, objects, 4), np.float32)
        return cls([[black] * frames] * views, np.full((views, frames), np.nan), boxes)

    def forget(self) -> None:
        """Let go of what only the encoder needs."""
        self.images, self.boxes = [], np.empty(0)


def _assert_nothing_late(segments: list[Segment], clips: list[_Clip], tau_a: float) -> None:
    """The promise of anticipation, row by row: no frame after start - tau_a was looked at."""
    for segment, clip in zip(segments, clips, strict=True):
        if clip.status == "ok" and clip.pts.max() > segment.start - tau_a + 1e-5:
            raise AssertionError(
                f"{segment.narration_id}: a frame at {clip.pts.max():.3f} s lies after start - tau_a"
            )


def _video_spec(
    annotations: Annotations,
    paths: dict[str, Path | None],
    encoder: nn.Module,
    options: VideoExtraction,
    boxes: BoxSource | None,
) -> Spec:
    frames, size, views = options.sampling.frames, encoder.pixels.image_size, options.views
    steps, height, width = encoder.token_grid((frames, size, size))
    shapes = {
        "clip": ((views, encoder.width), 0),
        "cls": ((views, encoder.width), 0),
        "frame": ((views, steps, encoder.width), steps),
        "grid": ((views, steps, options.grid, options.grid, encoder.width), steps),
        "patch": ((views, steps * height * width, encoder.width), steps),
    }
    levels = tuple(
        Level(
            name,
            "dense",
            shapes[name][0],
            options.dtype,
            steps=shapes[name][1],
            compressor=options.compressor,
        )
        for name in options.levels
    )
    pixels = encoder.pixels
    recipe = FeatureRecipe(
        numerics=job.NUMERICS,
        encoder=job.encoder_identity(encoder),
        pixels=PixelRecipe(
            image_size=size,
            fit=options.fit,
            crops=options.crops,
            interpolation=pixels.interpolation,
            mean=tuple(pixels.mean),
            std=tuple(pixels.std),
            colour=pixels.colour,
        ),
        sampling=options.sampling.model_dump(),
        decoder=options.decoder,
        precision=options.precision,
        batch_rows=options.batch_rows,
        boxes=BoxesRecipe(source=options.boxes, transform=options.box_transform) if boxes else None,
    )
    inputs = Inputs(
        annotations=annotations.sha256,
        splits=options.splits,
        videos={video: fingerprint(path, options.video_hash) for video, path in sorted(paths.items())},
        boxes=boxes.fingerprint(sorted(paths)) if boxes else None,
    )
    return Spec(
        kind="video",
        recipe=recipe,
        inputs=inputs,
        levels=levels,
        frame_pts=(views, frames),
        rows_per_group=options.rows_per_group
        or shards.rows_per_group(max(level.chunk_bytes for level in levels)),
    )


def _build_encoder(options: VideoExtraction) -> nn.Module:
    given = {"image_size": options.image_size, "layer": options.layer, "boxes": options.boxes}
    sizes = {key: value for key, value in given.items() if value not in (None, "last", "h5", "hoa")}
    published = table.PUBLISHED
    unknown = [key for key in ("boxes", "layer") if key in sizes and options.encoder not in published]
    if unknown:
        raise UsageError(f"encoder {options.encoder} has no {unknown[0]}; that is for {', '.join(published)}")
    encoder = job.build_encoder(
        options.encoder, "video", options.weights, options.weights_state, options.device, **sizes
    )
    reads_boxes = getattr(getattr(encoder, "config", None), "boxes", None) == "given"
    if reads_boxes and options.boxes is None:
        raise UsageError(
            f"encoder {options.encoder} reads object boxes: `--set boxes=h5` or `boxes=hoa` with `--set boxes_path=...` says "
            "where they are; `--set boxes=none` runs it on none, which its features show"
        )
    if options.boxes in ("h5", "hoa") and not reads_boxes:
        raise UsageError(f"encoder {options.encoder} reads no boxes; leave out `boxes`")
    if "cls" in options.levels and not hasattr(encoder, "class_token"):
        raise UsageError(
            f"encoder {options.encoder} gives no class token apart; leave `cls` out of the levels"
        )
    return encoder


def _open_boxes(options: VideoExtraction, videos: list[str]) -> BoxSource | None:
    """The boxes that the settings name, if any. Raises DataError where videos have none."""
    if options.boxes in (None, "none") or options.boxes_path is None:
        return None
    source = open_boxes(options.boxes, options.boxes_path, options.video_hash)
    if missing := source.missing(videos):
        raise DataError(
            f"{options.boxes_path}: has no boxes of {len(missing):,} of {len(videos):,} videos ({job.some(missing)})"
        )
    return source
