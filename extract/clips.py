"""What rows show: decode -> fit -> fill.

    decode   the frames on display at the times of rows of one video, each frame once
    fit      a frame as the encoders want it: its crops, (S, S, 3) each, once for each distinct `Look`
    fill     a row's clip for each encoder: V views of T images, their times and the boxes on them

V = sampling.views x crops views of a row (those in time, each with its crops), T frames, S side of an image,
O boxes of a frame. Several encoders may share the work: the same frames are decoded once for all of them.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np
import torch

from mambavl.cache.rows import FLAG_HELD_LAST, FLAG_TIME_FROM_FRAMES, Segment
from mambavl.cache.spec import Windows
from mambavl.configs.errors import DataError, SystemFault
from mambavl.extract import job
from mambavl.extract.boxes import BoxSource, open_boxes
from mambavl.extract.encoders.published.orvit import BoxTransform, crop_boxes
from mambavl.extract.options import VideoExtraction, VideoReading
from mambavl.extract.pictures import Look, crop_squares, cut, own_memory, resize
from mambavl.extract.sampling import NOMINAL_RATE, Sampling, Window, window
from mambavl.extract.timeline import Reader, VideoError
from mambavl.extract.video import open_video
from mambavl.extract.video_files import Key
from mambavl.extract.video_index import VideoIndex
from mambavl.extract.watch import OPENING, At

LATE = 1e-5  # seconds that a frame's time may lie after the end of an anticipation window: rounding
UNIT_ROWS, UNIT_FRAMES = 8, 512  # that one thread reads at once, at most
# of windows that overlap: up to so many frames, counted for each row, to decode no more of them again
WINDOW_FRAMES, DECODED_AGAIN = 1024, 0.2


def unit_rows(sampling: Sampling, windows: Windows | None = None) -> int:
    """Rows that are read at once: a power of two, as batches mostly are. What a damaged file gives may depend
    on it, so it follows from the sampling and the windows alone. windows: those that the rows are, if any.
    """
    rows, frames = UNIT_ROWS, sampling.frames * sampling.views
    while rows > 1 and rows * frames > UNIT_FRAMES:
        rows //= 2
    if windows:  # frames of those that reach over the end of a unit are decoded again
        over_the_end = windows.length / windows.stride - 1
        while over_the_end > DECODED_AGAIN * rows and 2 * rows * frames <= WINDOW_FRAMES:
            rows *= 2
    return rows


@dataclass(frozen=True)
class Shown:
    """What one encoder is to be shown."""

    look: Look
    objects: int = 0  # O
    boxes: VideoExtraction | None = None  # the settings that say where they are; None: it reads none

    def open_boxes(self) -> BoxSource | None:
        if self.boxes is None or self.boxes.boxes_path is None:
            return None
        assert self.boxes.boxes is not None
        assert self.boxes.boxes != "none"
        return open_boxes(self.boxes.boxes, self.boxes.boxes_path, self.boxes.video_hash, self.boxes.retries)

    @property
    def transform(self) -> BoxTransform:
        return self.boxes.box_transform if self.boxes else "correct"


@dataclass
class Clip(job.Clip):
    """One row on its way to one encoder; black images and NaN times when it failed."""

    images: list[list[np.ndarray]]  # V views of T images, (S, S, 3) uint8, shared by views that show the same
    pts: np.ndarray  # (V, T) seconds
    boxes: np.ndarray  # (V, T, O, 4), (cx, cy, w, h) in fractions of the crop; of an encoder that reads them

    @classmethod
    def empty(cls, views: int, frames: int, size: int, objects: int) -> "Clip":
        """A clip without images. size: S; objects: O."""
        black = np.zeros((size, size, 3), np.uint8)
        boxes = np.zeros((views, frames, objects, 4), np.float32)
        return cls([[black] * frames] * views, np.full((views, frames), np.nan), boxes)

    def forget(self) -> None:
        """Let go of what only the encoder needs."""
        self.images, self.boxes = [], np.empty(0)


@dataclass(frozen=True)
class Frame:
    """A decoded frame: its size (H, W) and its crops, (S, S, 3) uint8 each, for each look."""

    size: tuple[int, int]
    crops: dict[Look, list[np.ndarray]]


@dataclass(frozen=True)
class ClipReading:
    """How clips of rows are read; what another process needs to do it, too."""

    paths: dict[str, Path | None]
    options: VideoReading
    shown: tuple[Shown, ...]  # by encoder
    keys: dict[str, Key | None]  # what each file is known by
    beside: Path  # a store: scans of files are kept beside it

    @property
    def row_bytes(self) -> int:
        """What the pictures of a row take, at most."""
        sampling, crops = self.options.sampling, self.options.crops
        pixels = sum(look.side**2 for look in {shown.look for shown in self.shown})
        return sampling.frames * sampling.views * crops * pixels * 3

    def open(self, at: At) -> "ClipReader":
        return ClipReader(self, at)

    def failed(self, rows: Sequence[Segment], status: str, reason: str) -> list[list[Clip]]:
        """The clips of rows that cannot be read, by encoder."""
        begun = [_begin(segment, self.options.sampling) for segment in rows]
        for row in begun:
            row.clip.fail(status, reason)
        return [[self.empty(row.clip, shown) for row in begun] for shown in self.shown]

    def empty(self, row: job.Clip, shown: Shown) -> Clip:
        """A clip without images of what is known of a row."""
        sampling = self.options.sampling
        clip = Clip.empty(
            sampling.views * self.options.crops, sampling.frames, shown.look.side, shown.objects
        )
        clip.status, clip.flags, clip.reason = row.status, row.flags, row.reason
        return clip


@dataclass
class _Row:
    """What is known of a row before it is shown to anybody."""

    segment: Segment
    windows: list[Window]  # by view in time
    clip: job.Clip = field(default_factory=job.Clip)
    index: np.ndarray | None = None  # (views in time, T) numbers of the frames on display


class ClipReader:
    """Clips of rows, for one thread."""

    def __init__(self, reading: ClipReading, at: At) -> None:
        self.reading, self.options, self.at = reading, reading.options, at
        self.looks = list(dict.fromkeys(shown.look for shown in reading.shown))
        self.boxes = [shown.open_boxes() for shown in reading.shown]
        index = VideoIndex.beside(reading.beside)
        self.videos = job.ReaderCache(reading.paths, lambda video, path: self._open(video, path, index))
        self.seconds: dict[str, float] = {}

    def close(self) -> None:
        self.videos.close()
        for source in self.boxes:
            if source:
                source.close()

    def _open(self, video_id: str, path: Path, index: VideoIndex) -> Reader:
        options, key = self.options, self.reading.keys[video_id]
        still = options.still_pictures
        return open_video(path, options.decoder, options.retries, index, key, still_pictures=still)

    def read(self, rows: Sequence[Segment]) -> list[list[Clip]]:
        """A clip of each row for each encoder; one that cannot be decoded says why. Raises SystemFault when a
        disk fails.
        """
        since = time.perf_counter()
        before = self.seconds.get("resize", 0.0)
        clips: list[list[Clip]] = [[] for _ in self.reading.shown]
        for video_id, segments in groupby(rows, key=lambda segment: segment.video_id):
            for found, more in zip(clips, self._of_video(video_id, list(segments)), strict=True):
                found += more
        resized = self.seconds.get("resize", 0.0) - before
        self._timed("decode", time.perf_counter() - since - resized)
        return clips

    def _timed(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def _of_video(self, video_id: str, segments: list[Segment]) -> list[list[Clip]]:
        """The clips of some segments of one video, by encoder; a frame that several of them show is decoded
        once.
        """
        sampling = self.options.sampling
        self.at.now(video_id, OPENING)
        try:
            reader = self.videos.reader(video_id)
        except VideoError as error:
            return self.reading.failed(segments, error.status, str(error))
        rows = [_begin(segment, sampling, reader.timeline.fps) for segment in segments]
        for row in rows:
            _locate(row, reader)
        frames = self._decode(video_id, reader, rows)
        clips: list[list[Clip]] = []
        for number in range(len(self.reading.shown)):
            clips.append([self._clip(row, number, frames, reader.timeline.pts) for row in rows])
            if sampling.is_causal:
                _assert_nothing_late(segments, clips[-1], sampling.tau_a)
        return clips

    def _decode(self, video_id: str, reader: Reader, rows: list[_Row]) -> dict[int, Frame | VideoError]:
        """The frames that some rows show by number, each once."""
        wanted = [row.index.ravel() for row in rows if row.index is not None]
        if not wanted:
            return {}
        frames: dict[int, Frame | VideoError] = {}
        numbers = np.unique(np.concatenate(wanted))
        crops = self.options.crops
        blocks = {look: own_memory((len(numbers), crops, look.side, look.side, 3)) for look in self.looks}
        self.at.now(video_id, f"frame {numbers[0]}")
        for number, pixels in reader.frames(numbers):
            self.at.now(video_id, f"what follows frame {number}")
            room = {look: block[len(frames)] for look, block in blocks.items()}
            frames[number] = pixels if isinstance(pixels, VideoError) else self._fit(pixels, room)
        return frames

    def _fit(self, pixels: np.ndarray, room: dict[Look, np.ndarray]) -> Frame:
        """A decoded frame (H, W, 3) as the encoders want it. room: for its crops, (crops, S, S, 3)."""
        since = time.perf_counter()
        squares = cut(pixels, None if self.options.fit == "squash" else self.options.crops)
        for look, crops in room.items():
            for crop, square in zip(crops, squares, strict=True):
                crop[:] = resize(square, look)
        self._timed("resize", time.perf_counter() - since)
        return Frame((pixels.shape[0], pixels.shape[1]), {look: list(crops) for look, crops in room.items()})

    def _clip(self, row: _Row, number: int, frames: dict[int, Frame | VideoError], pts: np.ndarray) -> Clip:
        """A row's clip for the encoder of a number, with its images and the boxes on them. pts: of all frames
        of the video, in seconds.
        """
        shown = self.reading.shown[number]
        clip = self.reading.empty(row.clip, shown)
        if row.index is None:
            return clip
        found = _frames(frames, row.index)
        if isinstance(found, VideoError):
            clip.fail(found.status, str(found))
            return clip
        crops = self.options.crops
        clip.images = []
        for view in found:
            for crop in range(crops):
                clip.images.append([frame.crops[shown.look][crop] for frame in view])
        times = pts[row.index]
        clip.pts = np.repeat(times, crops, axis=0)
        if source := self.boxes[number]:
            sizes = [view[0].size for view in found]
            self._fill_boxes(source, shown, clip, row.segment.video_id, sizes, times)
        return clip

    def _fill_boxes(
        self,
        source: BoxSource,
        shown: Shown,
        clip: Clip,
        video_id: str,
        sizes: list[tuple[int, int]],
        pts: np.ndarray,
    ) -> None:
        """Give a clip the boxes of each crop. sizes: (H, W) of the frames of each view in time."""
        try:
            boxes = [torch.from_numpy(source.clip(video_id, times, shown.objects)) for times in pts]
        except SystemFault:
            raise
        except DataError as error:
            clip.fail("no_boxes", str(error))
            return
        crops = self.options.crops
        for view in range(len(clip.images)):
            in_time, crop = divmod(view, crops)
            found = self._boxes_of_crop(boxes[in_time], shown, sizes[in_time], crop)
            clip.boxes[view] = found.numpy()

    def _boxes_of_crop(
        self, boxes: torch.Tensor, shown: Shown, size: tuple[int, int], crop: int
    ) -> torch.Tensor:
        """boxes (T, O, 4), corners in fractions of a frame (H, W) -> (cx, cy, w, h) in those of the crop."""
        side = shown.look.side
        if self.options.fit == "squash":
            return crop_boxes(boxes, (1, 1), (0, 0, 1), side)
        square = crop_squares(*size, self.options.crops)[crop]
        return crop_boxes(boxes, size, square, side, box_transform=shown.transform)


def _begin(segment: Segment, sampling: Sampling, rate: float = NOMINAL_RATE) -> _Row:
    """A row, which has failed where there is nothing to observe. rate: frames a second of its video."""
    row = _Row(segment, _windows(segment, sampling, rate))
    row.clip.flags = row.windows[0].flags
    if segment.time_from_frames:
        row.clip.flags |= FLAG_TIME_FROM_FRAMES
    if row.windows[0].is_empty:
        row.clip.fail(
            "empty_window",
            f"starts at {segment.start:.2f} s: nothing to observe {sampling.tau_a:g} s before it",
        )
    return row


def _windows(segment: Segment, sampling: Sampling, rate: float) -> list[Window]:
    """The moments of a row, by view in time. rate: frames a second of its video."""
    try:
        return [window(segment.start, segment.stop, sampling, view, rate) for view in range(sampling.views)]
    except DataError as error:
        raise DataError(f"{segment.video_id}: {error}") from None


def _frames(frames: dict[int, Frame | VideoError], index: np.ndarray) -> list[list[Frame]] | VideoError:
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


def _locate(row: _Row, reader: Reader) -> None:
    """Find the frames on display at the moments of a row, unless it has failed."""
    if row.clip.status != "ok":
        return
    try:
        index, held = reader.timeline.at(np.concatenate([seen.times for seen in row.windows]))
    except VideoError as error:
        row.clip.fail(error.status, str(error))
        return
    if held:
        row.clip.flags |= FLAG_HELD_LAST
    row.index = index.reshape(len(row.windows), -1)


def _assert_nothing_late(segments: list[Segment], clips: list[Clip], tau_a: float) -> None:
    """The promise of anticipation, row by row: no frame after start - tau_a was looked at."""
    for segment, clip in zip(segments, clips, strict=True):
        if clip.status == "ok" and clip.pts.max() > segment.start - tau_a + LATE:
            raise AssertionError(
                f"{segment.narration_id}: a frame at {clip.pts.max():.3f} s lies after start - tau_a"
            )
