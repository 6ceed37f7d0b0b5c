"""The job of stage one: a map over row groups. Decode once -> encode -> commit; restartable at any instant.

What a row becomes depends on its row group alone, never on timing, on failures or on how many processes share the work: rows are
encoded in fixed batches, and a row that cannot be decoded takes its place in the batch as zeros and is dropped afterwards.
"""

import hashlib
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import nn

from mambavl.cache import fsops, schema
from mambavl.cache.schema import Level, Segment
from mambavl.cache.store import RowGroup, StoreWriter
from mambavl.configs import Config
from mambavl.configs.errors import DataError, Interrupted, UsageError
from mambavl.extract import encoders
from mambavl.extract.annotations import DEFAULT_SPLITS, Annotations, find_video
from mambavl.extract.encoders import WeightsState
from mambavl.extract.encoders.text import TextLevel
from mambavl.extract.questions import QUESTION_KEYS, read_questions
from mambavl.extract.sampling import Sampling, Window, window
from mambavl.extract.video import Decoder, Reader, VideoError, open_video

NUMERICS = 1  # raised by hand whenever the same settings come to give other features


class VideoExtraction(Config):
    """Knobs of `mambavl extract video`. All of them but the last three shape the features and are part of the spec."""

    encoder: str
    weights: str | None = None  # a file; "random" for an untrained encoder; absent: the encoder's own
    weights_state: WeightsState | None = None  # what the weights were trained on; absent: the encoder's record
    image_size: int | None = Field(default=None, ge=16, le=2048)  # absent: the encoder's own
    layer: Literal["last", "penultimate"] = "last"  # of the published encoders: which tokens are stored
    boxes: Literal["none"] | None = None  # of ORViT, which reads boxes: none, said aloud, since their readers are not here yet
    fit: Literal["crop", "squash"] = "crop"  # short side to image_size and the centre, or the whole frame squeezed
    levels: tuple[encoders.Level, ...] = Field(default=("frame",), min_length=1)
    grid: int = Field(default=4, ge=1, le=64)  # cells along a side of level `grid`
    sampling: Sampling = Sampling()
    decoder: Decoder = "pyav"
    dtype: Literal["float16", "float32"] = "float16"
    compressor: Literal["none", "zstd"] = "none"  # zstd is for archives; it is decoded before training
    splits: tuple[Literal["train", "validation", "test"], ...] = Field(default=DEFAULT_SPLITS, min_length=1)
    video_hash: Literal["fast", "full"] = "fast"  # size and time of change, or sha256 of every video
    rows_per_group: int | None = Field(default=None, ge=1, le=65_536)  # absent: about 16 MiB a shard
    batch_rows: int = Field(default=8, ge=1, le=4096)  # rows encoded together
    device: str = "auto"
    allow_missing: bool = False  # go on without the videos that are not there
    max_failed: int = Field(default=0, ge=0)  # failed rows above which the command exits with 1


class TextExtraction(Config):
    """Knobs of `mambavl extract text`."""

    encoder: str
    weights: str | None = None  # a folder with config, tokenizer and model.safetensors
    weights_state: WeightsState | None = None  # what the weights were trained on; absent: the encoder's record
    levels: tuple[TextLevel, ...] = Field(default=("last_hidden",), min_length=1)
    dtype: Literal["float16", "float32"] = "float16"
    compressor: Literal["none", "zstd"] = "none"  # zstd is for archives; it is decoded before training
    splits: tuple[Literal["train", "validation", "test"], ...] = Field(default=DEFAULT_SPLITS, min_length=1)
    rows_per_group: int | None = Field(default=None, ge=1, le=65_536)
    batch_texts: int = Field(default=64, ge=1, le=4096)
    device: str = "auto"


@dataclass
class Summary:
    """What a run of the job did."""

    rows: int = 0  # rows written by this run
    bytes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)  # busy time by stage; stages overlap
    finalized: bool = False
    failures: list[list[Any]] = field(default_factory=list)  # [narration_id, status, reason] of the whole store

    @property
    def failed(self) -> list[list[Any]]:
        """Failures that are the data's fault; an anticipation window with nothing to observe is not."""
        return [failure for failure in self.failures if failure[1] != schema.EMPTY_WINDOW]

    def timed(self, stage: str, since: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - since


Progress = Callable[[int, int], None]  # rows done of all rows of this run
ShouldStop = Callable[[], bool]


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

    shard (i, n): do every n-th row group only; whoever completes the store finalises it. Raises UsageError when `out` was made
    by another recipe, DataError when videos are missing, Interrupted when `should_stop()` turns true between two batches.
    """
    encoder = _build_encoder(options, "video")
    segments = annotations.segments
    paths = _find_videos(annotations, Path(videos), options.allow_missing)
    spec = _video_spec(annotations, paths, encoder, options)
    writer = StoreWriter(out, spec, segments, annotations.classes, _environment(options.device))
    pipeline = _VideoPipeline(encoder, paths, options, writer.layout.levels)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode") as decoder:

        def encode(rows: Sequence[Segment], summary: Summary) -> RowGroup:
            return pipeline.row_group(rows, decoder, summary, should_stop)

        return _run(writer, encode, shard, progress, should_stop)


def extract_text(
    annotations: Annotations,
    questions: Path,
    out: Path,
    options: TextExtraction,
    *,
    shard: tuple[int, int] = (0, 1),
    progress: Progress = lambda done, total: None,
    should_stop: ShouldStop = lambda: False,
) -> Summary:
    """Encode both questions of every segment and write (or resume) the store `out`.

    Raises DataError naming the rows without a question; else as `extract_video`.
    """
    encoder = _build_encoder(options, "text")
    asked = read_questions(questions)
    missing = [s.narration_id for s in annotations.segments if s.narration_id not in asked]
    if missing:
        raise DataError(
            f"{questions}: has no question for {len(missing):,} of {len(annotations.segments):,} rows ({_some(missing)}); "
            "generate it for the same splits"
        )
    segments = annotations.segments
    tokens = {q: [encoder.tokenize(getattr(asked[segment.narration_id], q)) for segment in segments] for q in QUESTION_KEYS}
    first = asked[segments[0].narration_id]
    provenance = {"protocol": first.protocol, "backend": first.backend, "prompt_version": first.prompt_version}
    spec = _text_spec(annotations, questions, provenance, encoder, options, tokens)
    writer = StoreWriter(out, spec, segments, annotations.classes, _environment(options.device))
    row_of = {segment.narration_id: row for row, segment in enumerate(segments)}

    def encode(rows: Sequence[Segment], summary: Summary) -> RowGroup:
        index = [row_of[segment.narration_id] for segment in rows]
        ids = {q: [tokens[q][row] for row in index] for q in QUESTION_KEYS}
        return _text_group(encoder, ids, options, summary)

    return _run(writer, encode, shard, progress, should_stop)


def _run(
    writer: StoreWriter,
    encode: Callable[[Sequence[Segment], Summary], RowGroup],
    shard: tuple[int, int],
    progress: Progress,
    should_stop: ShouldStop,
) -> Summary:
    summary, layout = Summary(), writer.layout
    try:
        mine = [group for group in writer.pending() if group % shard[1] == shard[0]]
        _refuse_full_disk(writer, mine)
        total = sum(len(layout.rows_of(group)) for group in mine)
        progress(0, total)
        for group in mine:
            if should_stop():
                raise Interrupted(f"{writer.path}: stopped after {summary.rows:,} rows; the same command resumes")
            index = layout.rows_of(group)
            rows = encode(writer.segments[index.start : index.stop], summary)
            since = time.perf_counter()
            summary.bytes += writer.commit(group, rows)
            summary.timed("write", since)
            summary.rows += len(index)
            progress(summary.rows, total)
        if manifest := writer.finish():  # else others have a part of it still to do
            summary.finalized, summary.failures = True, manifest["failures"]
    finally:
        writer.close()
    return summary


def _refuse_full_disk(writer: StoreWriter, groups: list[int]) -> None:
    """Before hours of work: is there room for what it will write? (Compressed shards: up to; they are not asked for.)"""
    needed = sum(size or 0 for group in groups for size in writer.layout.file_sizes(group).values())
    free = fsops.free_bytes(writer.path)
    if needed > free:
        raise DataError(
            f"{writer.path}: {needed:,} bytes are still to be written and {free:,} are free; make room, use a smaller level "
            "(--set levels=...) or another --out"
        )


# --- video


class _VideoPipeline:
    """Frames of the next batch are decoded in one thread while the encoder works on this one."""

    def __init__(
        self, encoder: nn.Module, paths: dict[str, Path | None], options: VideoExtraction, levels: tuple[Level, ...]
    ) -> None:
        self.device = _device(options.device)
        self.encoder = encoder
        self.paths = paths
        self.options = options
        self.levels = levels
        pixels = encoder.pixels
        shape = (1, 3, 1, 1, 1)
        self._mean = torch.tensor(pixels.mean, device=self.device).view(shape) * 255
        self._std = torch.tensor(pixels.std, device=self.device).view(shape) * 255
        self._open: tuple[str, Reader | VideoError] | None = None  # the decoding thread's current video

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
                raise Interrupted("stopped inside a row group, which will be done again; the same command resumes")
            if number + 1 < len(batches):
                pending = decoder.submit(self._decode_batch, batches[number + 1])
            since = time.perf_counter()
            for name, values in self._encode(decoded).items():
                features[name].append(values)
            summary.timed("encode", since)
            clips += decoded
        return self._assemble(clips, {name: np.concatenate(parts) for name, parts in features.items()})

    @torch.inference_mode()
    def _encode(self, clips: list["_Clip"]) -> dict[str, np.ndarray]:
        if all(clip.status != "ok" for clip in clips):  # nothing to see, as in the first second before an action
            return {level.name: np.zeros((len(clips), *level.shape[1:]), np.float32) for level in self.levels}
        pixels = torch.from_numpy(np.stack([clip.pixels for clip in clips])).to(self.device)  # (B, T, S, S, 3)
        if self.encoder.pixels.colour == "BGR":
            pixels = pixels.flip(-1)
        video = (pixels.permute(0, 4, 1, 2, 3).float() - self._mean) / self._std
        found = encoders.video_levels(self.encoder, video, self.options.levels, self.options.grid)
        return {name: values.float().cpu().numpy() for name, values in found.items()}

    def _assemble(self, clips: list["_Clip"], features: dict[str, np.ndarray]) -> RowGroup:
        levels = {}
        with np.errstate(over="ignore"):  # a value past float16's range becomes infinite and is refused below
            for level in self.levels:
                levels[level.name] = features[level.name].reshape(len(clips), *level.shape).astype(level.dtype)
        for row, clip in enumerate(clips):
            broken = [name for name, values in levels.items() if not np.isfinite(values[row]).all()]
            if clip.status == "ok" and broken:
                clip.fail("nonfinite_features", f"{self.options.encoder}: level {broken[0]} holds NaN or infinity")
        ok = np.array([clip.status == "ok" for clip in clips])
        for values in levels.values():
            values[~ok] = np.nan
        steps = next((level.steps for level in self.levels if level.steps), 1)
        return RowGroup(
            levels=levels,
            lengths={"length": np.where(ok, steps, 0)},
            status=np.array([schema.STATUS_CODE[clip.status] for clip in clips], np.uint8),
            flags=np.array([clip.flags for clip in clips], np.uint8),
            frame_pts=np.stack([clip.pts for clip in clips])[:, None],
            reasons={row: clip.reason for row, clip in enumerate(clips) if clip.reason},
        )

    def _decode_batch(self, rows: Sequence[Segment]) -> tuple[list["_Clip"], float]:
        since = time.perf_counter()
        clips = []
        for video_id, segments in groupby(rows, key=lambda segment: segment.video_id):
            clips += self._decode_video(video_id, list(segments))
        return clips, time.perf_counter() - since

    def _decode_video(self, video_id: str, segments: list[Segment]) -> list["_Clip"]:
        """The clips of some segments of one video; a frame that several of them show is decoded once."""
        sampling = self.options.sampling
        windows = [window(segment.start, segment.stop, sampling) for segment in segments]
        clips = [_Clip.empty(sampling.frames, self.encoder.pixels.image_size) for _ in segments]
        for clip, segment, seen in zip(clips, segments, windows, strict=True):
            clip.flags |= seen.flags | (schema.FLAG_TIME_FROM_FRAMES if segment.time_from_frames else 0)
            if seen.is_empty:
                clip.fail(
                    "empty_window",
                    f"starts at {segment.start:.2f} s: nothing to observe {sampling.tau_a:g} s before it",
                )
        try:
            reader = self._reader(video_id)
        except VideoError as error:
            for clip in clips:
                clip.fail(error.status, str(error))
            return clips
        indices = [self._locate(clip, seen, reader) for clip, seen in zip(clips, windows, strict=True)]
        wanted = np.concatenate([index for index in indices if index is not None] or [np.empty(0, np.int64)])
        images = {index: self._fit(pixels) for index, pixels in reader.frames(wanted)} if len(wanted) else {}
        for clip, index in zip(clips, indices, strict=True):
            if index is not None:
                clip.fill([images[int(i)] for i in index], reader.timeline.pts[index])
        if sampling.task == "anticipation":
            _assert_nothing_late(segments, clips, sampling.tau_a)
        return clips

    def _reader(self, video_id: str) -> Reader:
        """The video's reader; the last one is kept open, since rows of a video follow one another."""
        if self._open is None or self._open[0] != video_id:
            if self._open and not isinstance(self._open[1], VideoError):
                self._open[1].close()
            path = self.paths[video_id]
            try:
                if path is None:
                    raise VideoError("missing_video", f"{video_id}: no such video file")
                self._open = (video_id, open_video(path, self.options.decoder))
            except VideoError as error:
                self._open = (video_id, error)
        if isinstance(self._open[1], VideoError):
            raise self._open[1]
        return self._open[1]

    def _locate(self, clip: "_Clip", seen: Window, reader: Reader) -> np.ndarray | None:
        if clip.status != "ok":
            return None
        try:
            index, held = reader.timeline.at(seen.times)
        except VideoError as error:
            clip.fail(error.status, str(error))
            return None
        clip.flags |= schema.FLAG_HELD_LAST if held else 0
        return index

    def _fit(self, pixels: np.ndarray | VideoError) -> np.ndarray | VideoError:
        if isinstance(pixels, VideoError):
            return pixels
        encoder_pixels, image = self.encoder.pixels, Image.fromarray(pixels)
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        box = (left, top, left + side, top + side) if self.options.fit == "crop" else None
        method = Image.Resampling[encoder_pixels.interpolation.upper()]
        return np.asarray(image.resize((encoder_pixels.image_size,) * 2, method, box=box))


@dataclass
class _Clip:
    """One row on its way: pixels (T, S, S, 3) uint8, pts (T,) seconds; zeros and NaN when it failed."""

    pixels: np.ndarray
    pts: np.ndarray
    status: str = "ok"
    flags: int = 0
    reason: str = ""

    @classmethod
    def empty(cls, frames: int, size: int) -> "_Clip":
        return cls(np.zeros((frames, size, size, 3), np.uint8), np.full(frames, np.nan))

    def fail(self, status: str, reason: str) -> None:
        if self.status == "ok":
            self.status, self.reason = status, reason

    def fill(self, images: list[np.ndarray | VideoError], pts: np.ndarray) -> None:
        for error in images:
            if isinstance(error, VideoError):
                self.fail(error.status, str(error))
                return
        self.pixels, self.pts = np.stack(images), pts


def _assert_nothing_late(segments: list[Segment], clips: list[_Clip], tau_a: float) -> None:
    """The promise of anticipation, row by row: no frame after start - tau_a was looked at."""
    for segment, clip in zip(segments, clips, strict=True):
        if clip.status == "ok" and clip.pts.max() > segment.start - tau_a + 1e-5:
            raise AssertionError(f"{segment.narration_id}: a frame at {clip.pts.max():.3f} s lies after start - tau_a")


def _find_videos(annotations: Annotations, root: Path, allow_missing: bool) -> dict[str, Path | None]:
    participants = {segment.video_id: segment.participant_id for segment in annotations.segments}
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; --videos wants the one that holds P01/videos/P01_01.MP4")
    paths = {video: find_video(root, participant, video) for video, participant in participants.items()}
    missing = [video for video, path in paths.items() if path is None]
    if missing and not allow_missing:
        raise DataError(
            f"{root}: {len(missing):,} of {len(paths):,} videos are not there ({_some(missing)}); "
            "`mambavl data check` lists them, --set allow_missing=true goes on without"
        )
    return paths


def _video_spec(
    annotations: Annotations, paths: dict[str, Path | None], encoder: nn.Module, options: VideoExtraction
) -> dict[str, Any]:
    frames, size = options.sampling.frames, encoder.pixels.image_size
    steps, height, width = encoder.token_grid((frames, size, size))
    shapes = {
        "clip": ((1, encoder.width), 0),
        "frame": ((1, steps, encoder.width), steps),
        "grid": ((1, steps, options.grid, options.grid, encoder.width), steps),
        "patch": ((1, steps * height * width, encoder.width), steps),
    }
    levels = [
        Level(name, "dense", shapes[name][0], options.dtype, steps=shapes[name][1], compressor=options.compressor)
        for name in options.levels
    ]
    pixels = encoder.pixels
    return {
        "kind": "video",
        "recipe": {
            "numerics": NUMERICS,
            "encoder": _encoder_spec(encoder),
            "pixels": {
                "image_size": size,
                "fit": options.fit,
                "interpolation": pixels.interpolation,
                "mean": list(pixels.mean),
                "std": list(pixels.std),
                "colour": pixels.colour,
            },
            "sampling": {**options.sampling.model_dump(), "rule": options.sampling.rule},
            "decoder": options.decoder,
            "batch_rows": options.batch_rows,
        },
        "inputs": {
            **_annotation_inputs(annotations, options.splits),
            "videos": {video: _fingerprint(path, options.video_hash) for video, path in sorted(paths.items())},
        },
        "levels": [level.to_dict() for level in levels],
        "frame_pts": [1, frames],
        "rows_per_group": options.rows_per_group or schema.rows_per_group(max(level.chunk_bytes for level in levels)),
    }


def _fingerprint(path: Path | None, method: str) -> list[Any] | None:
    if path is None:
        return None
    stat = path.stat()
    if method == "fast":
        return [stat.st_size, stat.st_mtime_ns]
    with open(path, "rb") as file:
        return [stat.st_size, hashlib.file_digest(file, "sha256").hexdigest()]


# --- text


def _text_group(encoder: nn.Module, ids: dict[str, list[list[int]]], options: TextExtraction, summary: Summary) -> RowGroup:
    since = time.perf_counter()
    distinct = list({tuple(tokens): None for q in QUESTION_KEYS for tokens in ids[q]})  # each text once, in order
    place = {tokens: i for i, tokens in enumerate(distinct)}
    features: dict[str, list[np.ndarray]] = {level: [] for level in options.levels}
    for batch in _chunks(distinct, options.batch_texts):
        for level, values in encoder.encode([list(tokens) for tokens in batch], options.levels).items():
            features[level] += [value.numpy() for value in values]
    levels, lengths, reasons = {}, {}, {}
    for question in QUESTION_KEYS:
        order = [place[tuple(tokens)] for tokens in ids[question]]
        for level in options.levels:
            with np.errstate(over="ignore"):  # a value past float16's range becomes infinite and is refused here
                found = [features[level][i].astype(options.dtype) for i in order]
            for row, value in enumerate(found):
                if not np.isfinite(value).all():
                    reasons.setdefault(row, f"{options.encoder}: {question} at level {level} holds NaN or infinity")
            levels[f"{question}/{level}"] = found
        lengths[f"{question}/length"] = np.array([len(tokens) for tokens in ids[question]])
    bad = np.isin(np.arange(len(order)), list(reasons))
    for name in lengths:
        lengths[name] = np.where(bad, 0, lengths[name])
    for name, found in levels.items():
        kept = [value[:0] if row in reasons else value for row, value in enumerate(found)]
        levels[name] = np.stack([_one_vector(v) for v in kept]) if name.endswith("/pooled") else np.concatenate(kept)
    summary.timed("encode", since)
    status = np.where(bad, schema.STATUS_CODE["nonfinite_features"], schema.OK).astype(np.uint8)
    return RowGroup(levels=levels, lengths=lengths, status=status, flags=np.zeros(len(order), np.uint8), reasons=reasons)


def _one_vector(value: np.ndarray) -> np.ndarray:
    """(1, D); zeros for an empty or failed text, whose length of 0 says that it does not count."""
    return value if len(value) else np.zeros((1, value.shape[1]), value.dtype)


def _text_spec(
    annotations: Annotations,
    questions: Path,
    provenance: dict[str, str],
    encoder: nn.Module,
    options: TextExtraction,
    tokens: dict[str, list[list[int]]],
) -> dict[str, Any]:
    lengths = {q: np.array([len(ids) for ids in tokens[q]]) for q in QUESTION_KEYS}
    row_bytes = max(lengths[q].mean() for q in QUESTION_KEYS) * encoder.width * np.dtype(options.dtype).itemsize
    group_rows = options.rows_per_group or schema.rows_per_group(row_bytes)
    levels = []
    for question in QUESTION_KEYS:
        largest = max(int(lengths[question][i : i + group_rows].sum()) for i in range(0, len(lengths[question]), group_rows))
        capacity = max(1, -(-largest // schema.TOKEN_CHUNK)) * schema.TOKEN_CHUNK
        for level in options.levels:
            name = f"{question}/{level}"
            if level == "pooled":
                levels.append(Level(name, "dense", (1, encoder.width), options.dtype, compressor=options.compressor))
            else:
                level = Level(name, "ragged", (encoder.width,), options.dtype, capacity=capacity, compressor=options.compressor)
                levels.append(level)
    return {
        "kind": "text",
        "recipe": {
            "numerics": NUMERICS,
            "encoder": _encoder_spec(encoder),
            "questions": provenance,
            "batch_texts": options.batch_texts,
        },
        "inputs": {
            **_annotation_inputs(annotations, options.splits),
            "questions_sha256": hashlib.sha256(Path(questions).read_bytes()).hexdigest(),
        },
        "levels": [level.to_dict() for level in levels],
        "frame_pts": [],
        "rows_per_group": group_rows,
    }


def _chunks(items: list, size: int) -> Iterator[list]:
    for i in range(0, len(items), size):
        yield items[i : i + size]


# --- both


def _build_encoder(options: VideoExtraction | TextExtraction, kind: str) -> nn.Module:
    if encoders.kind_of(options.encoder) not in (kind, None):
        other = "text" if kind == "video" else "video"
        raise UsageError(f"{options.encoder} is a {other} encoder; use `mambavl extract {other}`")
    sizes = {}
    if kind == "video":
        given = {"image_size": options.image_size, "boxes": options.boxes, "layer": options.layer}
        sizes = {key: value for key, value in given.items() if value not in (None, "last")}
        unknown = [key for key in ("boxes", "layer") if key in sizes and options.encoder not in encoders.published.PUBLISHED]
        if unknown:
            raise UsageError(
                f"encoder {options.encoder} has no {unknown[0]}; that is for {', '.join(encoders.published.PUBLISHED)}"
            )
    encoder = encoders.build(options.encoder, weights=options.weights, **sizes)
    if getattr(getattr(encoder, "config", None), "boxes", None) == "given":
        raise UsageError(
            f"encoder {options.encoder} reads object boxes, and there is no reader of them here yet; `--set boxes=none` runs it "
            "on none, which its features show"
        )
    encoder.state = options.weights_state or encoder.state
    return encoder.to(_device(options.device))


def _encoder_spec(encoder: nn.Module) -> dict[str, Any]:
    return {
        "name": encoder.name,
        "state": encoder.state,
        "sha256": encoder.sha256,
        "width": encoder.width,
        "details": encoder.details,
    }


def _annotation_inputs(annotations: Annotations, splits: tuple[str, ...]) -> dict[str, Any]:
    return {"annotations": annotations.sha256, "splits": list(splits)}


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.zeros(1, device=name).device
        if device.type == "meta":
            raise RuntimeError("it computes nothing")
        return device
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {name!r} cannot be used here: {str(error).splitlines()[0]}") from None


def _some(names: list[str]) -> str:
    """The first five of a list."""
    return ", ".join(names[:5]) + (", ..." if names[5:] else "")


def _environment(device: str) -> dict[str, str]:
    """Recorded beside the features, not part of the spec."""
    import av
    import transformers

    import mambavl

    return {
        "mambavl": mambavl.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "av": av.__version__,
        "device": str(_device(device)),
    }
