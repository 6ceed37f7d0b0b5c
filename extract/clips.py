"""Row groups of a video store: decode -> fit -> fill -> encode.

    decode   the frames on display at the times of rows of one video, each frame once
    fit      a frame as the encoder wants it: its crops, (S, S, 3) each
    fill     a row's clip: V views of T images, their times and the boxes on them
    encode   the clips of a batch: features by level, (B, V, ...)

B rows of a batch, V = sampling.views x crops views of a row (those in time, each with its crops), T frames,
S side of an image, O boxes of a frame.

Rows are encoded in fixed batches, and a row that cannot be decoded takes its place in the batch as zeros and
is dropped afterwards: so the others do not depend on it.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mambavl.cache.fill import FillResult
from mambavl.cache.rows import FLAG_HELD_LAST, FLAG_TIME_FROM_FRAMES, Segment
from mambavl.cache.shards import Level
from mambavl.cache.writer import RowGroup
from mambavl.configs.errors import DataError, Interrupted, SystemFault
from mambavl.configs.progress import ShouldStop
from mambavl.extract import job
from mambavl.extract.boxes import BoxSource
from mambavl.extract.encoders.base import Pixels, VideoEncoder
from mambavl.extract.encoders.levels import video_levels
from mambavl.extract.encoders.published.orvit import crop_boxes
from mambavl.extract.options import VideoExtraction
from mambavl.extract.sampling import NOMINAL_RATE, Sampling, Window, window
from mambavl.extract.timeline import Reader, VideoError
from mambavl.extract.video import open_video

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LATE = 1e-5  # seconds that a frame's time may lie after the end of an anticipation window: rounding


class ClipEncoder:
    """Encodes rows; one thread decodes the next batch while the encoder works on this one."""

    def __init__(
        self, encoder: VideoEncoder, clips: "ClipReader", options: VideoExtraction, levels: tuple[Level, ...]
    ) -> None:
        self.encoder = encoder
        self.clips = clips  # the decoding thread's
        self.options = options
        self.levels = levels
        self.device = job.device_of(options.device)
        shape = (1, 3, 1, 1, 1)
        self._mean = torch.tensor(encoder.pixels.mean, device=self.device).view(shape) * 255
        self._std = torch.tensor(encoder.pixels.std, device=self.device).view(shape) * 255
        self._decoder = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode")

    def close(self) -> None:
        self._decoder.shutdown()
        self.clips.close()

    def row_group(self, rows: Sequence[Segment], result: FillResult, should_stop: ShouldStop) -> RowGroup:
        """Decode and encode the rows of a row group.

        Raises Interrupted when `should_stop()` turns true between two batches, DataError when a disk fails.
        """
        clips: list[Clip] = []
        features: dict[str, list[np.ndarray]] = {level.name: [] for level in self.levels}
        for batch in self._batches(rows, result, should_stop):
            since = time.perf_counter()
            for name, values in self._encode(batch).items():
                features[name].append(values)
            result.timed("encode", since)
            for clip in batch:
                clip.forget()  # a row group of pictures would be gigabytes
            clips += batch
        joined = {name: np.concatenate(parts) for name, parts in features.items()}
        pts = np.stack([clip.pts for clip in clips])
        return job.dense_group(self.options.encoder, clips, joined, self.levels, pts)

    def _batches(
        self, rows: Sequence[Segment], result: FillResult, should_stop: ShouldStop
    ) -> Iterator[list["Clip"]]:
        """Clips of `batch_rows` rows after another; while a batch is used, the next is decoded."""
        size = self.options.batch_rows
        batches = [rows[first : first + size] for first in range(0, len(rows), size)]
        pending = self._decoder.submit(self._timed_read, batches[0])
        for following in [*batches[1:], None]:
            clips, seconds = pending.result()
            result.seconds["decode"] = result.seconds.get("decode", 0.0) + seconds
            if should_stop():
                raise Interrupted(
                    "stopped inside a row group, which will be done again; the same command resumes"
                )
            if following is not None:
                pending = self._decoder.submit(self._timed_read, following)
            yield clips

    def _timed_read(self, rows: Sequence[Segment]) -> tuple[list["Clip"], float]:
        since = time.perf_counter()
        clips = self.clips.read(rows)
        return clips, time.perf_counter() - since

    def _encode(self, clips: list["Clip"]) -> dict[str, np.ndarray]:
        """A batch of clips -> features by level, (B, V, *a view's shape)."""
        views = [self._encode_view(clips, view) for view in range(self.options.views)]
        found: dict[str, np.ndarray] = {}
        for level in self.levels:
            found[level.name] = np.stack([view[level.name] for view in views], axis=1)
        return found

    @torch.inference_mode()
    def _encode_view(self, clips: list["Clip"], view: int) -> dict[str, np.ndarray]:
        """One view of a batch of clips -> features by level, (B, *a view's shape)."""
        # nothing to see, as in the first second before an action
        if all(clip.status != "ok" for clip in clips):
            return {level.name: np.zeros((len(clips), *level.shape[1:]), np.float32) for level in self.levels}
        options = self.options
        boxes = self._boxes(clips, view) if self.clips.boxes else None
        with torch.autocast(
            self.device.type, PRECISIONS[options.precision], enabled=options.precision != "fp32"
        ):
            found = video_levels(self.encoder, self._video(clips, view), options.levels, options.grid, boxes)
        return {name: values.float().cpu().numpy() for name, values in found.items()}

    def _video(self, clips: list["Clip"], view: int) -> torch.Tensor:
        """One view of a batch of clips as the encoder takes it: (B, 3, T, S, S), normalised."""
        images = np.stack([np.stack(clip.images[view]) for clip in clips])  # (B, T, S, S, 3)
        pixels = torch.from_numpy(images).to(self.device)
        if self.encoder.pixels.colour == "BGR":
            pixels = pixels.flip(-1)
        return (pixels.permute(0, 4, 1, 2, 3).float() - self._mean) / self._std

    def _boxes(self, clips: list["Clip"], view: int) -> torch.Tensor:
        """(B, T, O, 4)."""
        return torch.from_numpy(np.stack([clip.boxes[view] for clip in clips])).to(self.device)


@dataclass
class Clip(job.Clip):
    """One row on its way; black images and NaN times when it failed."""

    images: list[list[np.ndarray]]  # V views of T images, (S, S, 3) uint8, shared by views that show the same
    pts: np.ndarray  # (V, T) seconds
    boxes: np.ndarray  # (V, T, O, 4), (cx, cy, w, h) in fractions of the crop; of an encoder that reads them

    @classmethod
    def empty(cls, options: VideoExtraction, size: int, objects: int) -> "Clip":
        """A clip without images. size: S; objects: O."""
        views, frames = options.views, options.sampling.frames
        black = np.zeros((size, size, 3), np.uint8)
        boxes = np.zeros((views, frames, objects, 4), np.float32)
        return cls([[black] * frames] * views, np.full((views, frames), np.nan), boxes)

    def forget(self) -> None:
        """Let go of what only the encoder needs."""
        self.images, self.boxes = [], np.empty(0)


@dataclass(frozen=True)
class Frame:
    """A decoded frame: its size (H, W) and its crops, (S, S, 3) uint8 each."""

    size: tuple[int, int]
    crops: list[np.ndarray]


class ClipReader:
    """Clips of rows, for one thread."""

    def __init__(
        self,
        encoder: VideoEncoder,
        paths: dict[str, Path | None],
        options: VideoExtraction,
        boxes: BoxSource | None,
    ) -> None:
        self.pixels: Pixels = encoder.pixels
        self.objects = encoder.box_slots  # O
        self.options = options
        self.boxes = boxes
        self.videos = job.ReaderCache(paths, lambda path: open_video(path, options.decoder, options.retries))

    def close(self) -> None:
        self.videos.close()
        if self.boxes:
            self.boxes.close()

    def read(self, rows: Sequence[Segment]) -> list[Clip]:
        """A clip for each row; one that cannot be decoded says why. Raises DataError when a disk fails."""
        clips: list[Clip] = []
        for video_id, segments in groupby(rows, key=lambda segment: segment.video_id):
            clips += self._of_video(video_id, list(segments))
        return clips

    def _of_video(self, video_id: str, segments: list[Segment]) -> list[Clip]:
        """The clips of some segments of one video; a frame that several of them show is decoded once."""
        sampling = self.options.sampling
        try:
            reader = self.videos.reader(video_id)
        except VideoError as error:
            return [self._begin(segment, _windows(segment, sampling)[0], error) for segment in segments]
        windows = [_windows(segment, sampling, reader.timeline.fps) for segment in segments]
        clips = [self._begin(segment, views[0]) for segment, views in zip(segments, windows, strict=True)]
        places = [_locate(clip, views, reader) for clip, views in zip(clips, windows, strict=True)]
        frames = self._decode(reader, places)
        for clip, index in zip(clips, places, strict=True):
            if index is not None:
                self._fill(clip, video_id, _shown(frames, index), reader.timeline.pts[index])
        if sampling.is_causal:
            _assert_nothing_late(segments, clips, sampling.tau_a)
        return clips

    def _begin(self, segment: Segment, seen: Window, error: VideoError | None = None) -> Clip:
        """A clip without images; failed by `error`, or where nothing is observed. seen: its first view."""
        clip = Clip.empty(self.options, self.pixels.image_size, self.objects)
        clip.flags = seen.flags
        if segment.time_from_frames:
            clip.flags |= FLAG_TIME_FROM_FRAMES
        if seen.is_empty:
            tau_a = self.options.sampling.tau_a
            clip.fail(
                "empty_window",
                f"starts at {segment.start:.2f} s: nothing to observe {tau_a:g} s before it",
            )
        if error:
            clip.fail(error.status, str(error))
        return clip

    def _decode(self, reader: Reader, places: list[np.ndarray | None]) -> dict[int, Frame | VideoError]:
        """The frames of some clips by number, each once. places: (views, T) numbers of each, or None."""
        wanted = [index.ravel() for index in places if index is not None]
        if not wanted:
            return {}
        return {number: self._fit(pixels) for number, pixels in reader.frames(np.concatenate(wanted))}

    def _fit(self, pixels: np.ndarray | VideoError) -> Frame | VideoError:
        """A decoded frame (H, W, 3) as the encoder wants it, once a crop."""
        if isinstance(pixels, VideoError):
            return pixels
        image = Image.fromarray(pixels)
        size = (self.pixels.image_size, self.pixels.image_size)
        method = Image.Resampling[self.pixels.interpolation.upper()]
        crops = [
            np.asarray(image.resize(size, method, box=box)) for box in self._cuts(image.height, image.width)
        ]
        return Frame((image.height, image.width), crops)

    def _cuts(self, height: int, width: int) -> list[tuple[float, float, float, float] | None]:
        """(left, top, right, bottom) of each crop; None for the whole frame, squeezed."""
        if self.options.fit == "squash":
            return [None]
        squares = crop_squares(height, width, self.options.crops)
        return [(left, top, left + side, top + side) for top, left, side in squares]

    def _fill(
        self, clip: Clip, video_id: str, shown: list[list[Frame]] | VideoError, pts: np.ndarray
    ) -> None:
        """Give a clip its images, and the boxes on them. shown: by view in time; pts (views, T) seconds."""
        if isinstance(shown, VideoError):
            clip.fail(shown.status, str(shown))
            return
        crops = self.options.crops
        clip.images = []
        for frames in shown:
            for crop in range(crops):
                clip.images.append([frame.crops[crop] for frame in frames])
        clip.pts = np.repeat(pts, crops, axis=0)
        if self.boxes:
            self._fill_boxes(self.boxes, clip, video_id, [frames[0].size for frames in shown], pts)

    def _fill_boxes(
        self, source: BoxSource, clip: Clip, video_id: str, sizes: list[tuple[int, int]], pts: np.ndarray
    ) -> None:
        """Give a clip the boxes of each crop. sizes: (H, W) of the frames of each view in time."""
        try:
            boxes = [torch.from_numpy(source.clip(video_id, times, self.objects)) for times in pts]
        except SystemFault:
            raise
        except DataError as error:
            clip.fail("no_boxes", str(error))
            return
        crops = self.options.crops
        for view in range(len(clip.images)):
            in_time, crop = divmod(view, crops)
            clip.boxes[view] = self._boxes_of_crop(boxes[in_time], sizes[in_time], crop).numpy()

    def _boxes_of_crop(self, boxes: torch.Tensor, size: tuple[int, int], crop: int) -> torch.Tensor:
        """boxes (T, O, 4), corners in fractions of a frame (H, W) -> (cx, cy, w, h) in those of the crop."""
        image_size, transform = self.pixels.image_size, self.options.box_transform
        if self.options.fit == "squash":
            return crop_boxes(boxes, (1, 1), (0, 0, 1), image_size)
        square = crop_squares(*size, self.options.crops)[crop]
        return crop_boxes(boxes, size, square, image_size, box_transform=transform)


def crop_squares(height: int, width: int, crops: int) -> list[tuple[float, float, float]]:
    """(top, left, side) of the squares cut from a frame: in the centre, or three along the long side."""
    side = min(height, width)
    places = (0.5,) if crops == 1 else (0.0, 0.5, 1.0)
    return [((height - side) * place, (width - side) * place, side) for place in places]


def _windows(segment: Segment, sampling: Sampling, rate: float = NOMINAL_RATE) -> list[Window]:
    """The moments of a row, by view in time. rate: frames a second of its video."""
    try:
        return [window(segment.start, segment.stop, sampling, view, rate) for view in range(sampling.views)]
    except DataError as error:
        raise DataError(f"{segment.video_id}: {error}") from None


def _shown(frames: dict[int, Frame | VideoError], index: np.ndarray) -> list[list[Frame]] | VideoError:
    """The frames numbered index (views, T), by view; or what is wrong with the first that is not there."""
    shown: list[list[Frame]] = []
    for view in index.tolist():
        found: list[Frame] = []
        for number in view:
            frame = frames[number]
            if isinstance(frame, VideoError):
                return frame
            found.append(frame)
        shown.append(found)
    return shown


def _locate(clip: Clip, views: list[Window], reader: Reader) -> np.ndarray | None:
    """(views, T) numbers of the frames on display; None for a clip that has failed."""
    if clip.status != "ok":
        return None
    try:
        index, held = reader.timeline.at(np.concatenate([seen.times for seen in views]))
    except VideoError as error:
        clip.fail(error.status, str(error))
        return None
    if held:
        clip.flags |= FLAG_HELD_LAST
    return index.reshape(len(views), -1)


def _assert_nothing_late(segments: list[Segment], clips: list[Clip], tau_a: float) -> None:
    """The promise of anticipation, row by row: no frame after start - tau_a was looked at."""
    for segment, clip in zip(segments, clips, strict=True):
        if clip.status == "ok" and clip.pts.max() > segment.start - tau_a + LATE:
            raise AssertionError(
                f"{segment.narration_id}: a frame at {clip.pts.max():.3f} s lies after start - tau_a"
            )
