"""Sound features, a third modality: cut a window out of each row's soundtrack -> encode -> a row group.

Rows are encoded in fixed batches, and one that cannot be heard takes its place as silence of the same length
and is dropped afterwards: so the others do not depend on it.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mambavl.cache.fill import FillResult
from mambavl.cache.rows import FLAG_SILENCE, FLAG_TIME_FROM_FRAMES, Segment
from mambavl.cache.shards import Level
from mambavl.cache.spec import FeatureRecipe, SoundRecipe, Spec
from mambavl.cache.writer import RowGroup
from mambavl.configs.progress import Progress, ShouldStop, never, unseen
from mambavl.extract import job
from mambavl.extract.annotations import Annotations
from mambavl.extract.encoders.audio import audio_levels
from mambavl.extract.encoders.base import AudioEncoder
from mambavl.extract.options import AudioExtraction
from mambavl.extract.pipeline import Target, run_pipeline
from mambavl.extract.sound import SEAM, SoundReader
from mambavl.extract.timeline import VideoError
from mambavl.extract.video_folder import Roots, find_videos
from mambavl.extract.watch import At


def extract_audio(
    annotations: Annotations,
    videos: Roots | Mapping[str, Path | None],
    out: Path,
    options: AudioExtraction,
    *,
    shard: tuple[int, int] = (0, 1),
    retry_failed: bool = False,
    like: FeatureRecipe | None = None,
    progress: Progress = unseen,
    should_stop: ShouldStop = never,
) -> FillResult:
    """Run a frozen audio encoder over the soundtrack of every segment and write (or resume) the store `out`.

    shard, errors and interrupts: as `video_job.extract_video`.
    """
    encoder = job.build_encoder(options, AudioEncoder)
    paths = find_videos(annotations, videos, options.allow_missing)
    spec = _audio_spec(annotations, paths, out, encoder, options)
    writer = job.open_writer(out, spec, annotations, options.device, retry_failed=retry_failed, like=like)
    target = Target(writer.layout, options.batch_rows, _SoundEncoder(encoder, options, writer.layout.levels))

    sounds = _SoundReading(paths, options, encoder.rate, encoder.shortest)
    longest = max(segment.stop - segment.start for segment in annotations.segments)
    if options.sampling.task == "anticipation":
        longest = options.sampling.seconds
    try:
        (result,) = run_pipeline(
            annotations.segments,
            [writer],
            [target],
            sounds,
            options,
            unit_rows=UNIT_ROWS,
            row_bytes=max(round(longest * encoder.rate), encoder.shortest) * 4,
            shard=shard,
            progress=progress,
            should_stop=should_stop,
        )
    finally:
        writer.close()
    return result


UNIT_ROWS = 8  # that one thread reads at once


@dataclass
class _Clip(job.Clip):
    """One row on its way: its sound (n,) float32, silent when it failed."""

    samples: np.ndarray


class _SoundEncoder:
    """Encodes batches of sounds."""

    def __init__(self, encoder: AudioEncoder, options: AudioExtraction, levels: tuple[Level, ...]) -> None:
        self.encoder = encoder
        self.options = options
        self.levels = levels

    def start(self, clips: Sequence[_Clip]) -> Callable[[], dict[str, np.ndarray]]:
        """Encode a batch: what it returns has the features by level."""
        features: dict[str, list[np.ndarray]] = {level.name: [] for level in self.levels}
        for states in self.encoder.encode([clip.samples for clip in clips]):
            for name, values in audio_levels(states, self.options.levels, self.options.steps).items():
                features[name].append(values.numpy())
        for clip in clips:
            clip.samples = np.empty(0, np.float32)  # the encoder was all that needs them
        return lambda: {name: np.stack(values) for name, values in features.items()}

    def row_group(self, clips: Sequence[_Clip], features: dict[str, np.ndarray]) -> RowGroup:
        return job.dense_group(self.options.encoder, clips, features, self.levels)


@dataclass(frozen=True)
class _SoundReading:
    """How the sound of rows is read; what another process needs to do it, too."""

    paths: dict[str, Path | None]
    options: AudioExtraction
    rate: int  # samples a second
    shortest: int  # samples of the shortest sound that the encoder takes

    def open(self, at: At) -> "_SoundClips":
        return _SoundClips(self, at)

    def failed(self, rows: Sequence[Segment], status: str, reason: str) -> list[list[_Clip]]:
        clips = [self.silence(segment) for segment in rows]
        for clip in clips:
            clip.fail(status, reason)
        return [clips]

    def window(self, segment: Segment) -> tuple[float, int]:
        """When a row's sound stops, in seconds, and how many samples it has."""
        sampling = self.options.sampling
        stop, seconds = segment.stop, segment.stop - segment.start
        if sampling.task == "anticipation":
            stop, seconds = segment.start - sampling.tau_a, sampling.seconds
        return stop, round(seconds * self.rate)

    def silence(self, segment: Segment) -> _Clip:
        """A row's clip before it is read, which has failed where there is nothing to hear."""
        stop, samples = self.window(segment)
        clip = _Clip(np.zeros(max(samples, self.shortest), np.float32))
        if segment.time_from_frames:
            clip.flags |= FLAG_TIME_FROM_FRAMES
        if stop <= 0:
            tau_a = self.options.sampling.tau_a
            clip.fail(
                "empty_window",
                f"starts at {segment.start:.2f} s: nothing to hear {tau_a:g} s before it",
            )
        return clip


class _SoundClips:
    """The sound of rows, for one thread: each row's window is cut out of its video's soundtrack."""

    def __init__(self, reading: _SoundReading, at: At) -> None:
        self.reading, self.at = reading, at
        retries = reading.options.retries
        self.videos = job.ReaderCache(reading.paths, lambda _, path: SoundReader(path, retries))
        self.seconds: dict[str, float] = {}

    def close(self) -> None:
        self.videos.close()

    def read(self, rows: Sequence[Segment]) -> list[list[_Clip]]:
        """A clip of each row, for the one encoder that there is."""
        since = time.perf_counter()
        clips = [self._cut(segment) for segment in rows]
        self.seconds["decode"] = self.seconds.get("decode", 0.0) + time.perf_counter() - since
        return [clips]

    def _cut(self, segment: Segment) -> _Clip:
        """The sound of a row. An action shorter than the encoder's least is heard on past its end."""
        rate, (stop, samples) = self.reading.rate, self.reading.window(segment)
        clip = self.reading.silence(segment)
        if clip.status != "ok":
            return clip
        self.at.now(segment.video_id, f"sound from {stop - samples / rate:.2f} s on")
        try:
            reader = self.videos.reader(segment.video_id)
            sound = reader.window(stop - samples / rate, len(clip.samples), rate)
        except VideoError as error:
            clip.fail(error.status, str(error))
            return clip
        is_causal = self.reading.options.sampling.task == "anticipation"
        if is_causal and sound.last > stop + SEAM:  # a container's clock is no finer
            raise AssertionError(
                f"{segment.narration_id}: sound at {sound.last:.4f} s lies after start - tau_a"
            )
        clip.samples = sound.samples
        if sound.is_partial:
            clip.flags |= FLAG_SILENCE
        return clip


def _audio_spec(
    annotations: Annotations,
    paths: dict[str, Path | None],
    out: Path,
    encoder: AudioEncoder,
    options: AudioExtraction,
) -> Spec:
    shapes = {"clip": (1, encoder.width), "frame": (1, options.steps, encoder.width)}
    levels = job.dense_levels(options, shapes, options.steps)
    recipe = FeatureRecipe(
        numerics=job.NUMERICS,
        encoder=job.encoder_identity(encoder),
        sound=SoundRecipe(rate=encoder.rate, channels="mean"),
        sampling=options.sampling.model_dump(),
        batch_rows=options.batch_rows,
    )
    return Spec(
        kind="audio",
        recipe=recipe,
        inputs=job.video_inputs(options, options.splits, annotations, paths, out),
        levels=levels,
        rows_per_group=job.rows_per_group(options, levels),
    )
