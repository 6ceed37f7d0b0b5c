"""Sound features, a third modality: cut a window out of each row's soundtrack -> encode -> a row group.

Rows are encoded in fixed batches, and one that cannot be heard takes its place as silence of the same length
and is dropped afterwards: so the others do not depend on it.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mambavl.cache.fill import FillResult, fill
from mambavl.cache.rows import FLAG_SILENCE, FLAG_TIME_FROM_FRAMES, Segment
from mambavl.cache.shards import Level
from mambavl.cache.spec import FeatureRecipe, SoundRecipe, Spec
from mambavl.cache.writer import RowGroup
from mambavl.configs.errors import Interrupted
from mambavl.configs.progress import Progress, ShouldStop, never, unseen
from mambavl.extract import job
from mambavl.extract.annotations import Annotations
from mambavl.extract.encoders.audio import audio_levels
from mambavl.extract.encoders.base import AudioEncoder
from mambavl.extract.options import AudioExtraction
from mambavl.extract.sound import SEAM, SoundReader
from mambavl.extract.timeline import VideoError
from mambavl.extract.video_folder import find_videos


def extract_audio(
    annotations: Annotations,
    videos: Path | Mapping[str, Path],
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
    pipeline = _SoundClips(encoder, paths, options, writer.layout.levels)

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
        pipeline.videos.close()


@dataclass
class _Clip(job.Clip):
    """One row on its way: its sound (n,) float32, silent when it failed."""

    samples: np.ndarray


class _SoundClips:
    """Row groups of sound: each row's window is cut, then a batch of them is encoded."""

    def __init__(
        self,
        encoder: AudioEncoder,
        paths: dict[str, Path | None],
        options: AudioExtraction,
        levels: tuple[Level, ...],
    ) -> None:
        self.encoder = encoder
        self.options = options
        self.levels = levels
        self.videos = job.ReaderCache(paths, lambda path: SoundReader(path, options.retries))

    def row_group(self, rows: Sequence[Segment], result: FillResult, should_stop: ShouldStop) -> RowGroup:
        """Raises Interrupted when `should_stop()` turns true between two batches."""
        clips: list[_Clip] = []
        features: dict[str, list[np.ndarray]] = {level.name: [] for level in self.levels}
        for first in range(0, len(rows), self.options.batch_rows):
            if should_stop():
                raise Interrupted(
                    "stopped inside a row group, which will be done again; the same command resumes"
                )
            since = time.perf_counter()
            batch = [self._cut(segment) for segment in rows[first : first + self.options.batch_rows]]
            result.timed("decode", since)
            since = time.perf_counter()
            for states in self.encoder.encode([clip.samples for clip in batch]):
                for name, values in audio_levels(states, self.options.levels, self.options.steps).items():
                    features[name].append(values.numpy())
            result.timed("encode", since)
            for clip in batch:
                clip.samples = np.empty(0, np.float32)  # the encoder was all that needs them
            clips += batch
        joined = {name: np.stack(values) for name, values in features.items()}
        return job.dense_group(self.options.encoder, clips, joined, self.levels)

    def _cut(self, segment: Segment) -> _Clip:
        """The sound of a row. An action shorter than the encoder's least is heard on past its end."""
        sampling, rate = self.options.sampling, self.encoder.rate
        stop, seconds = segment.stop, segment.stop - segment.start
        if sampling.task == "anticipation":
            stop, seconds = segment.start - sampling.tau_a, sampling.seconds
        count = round(seconds * rate)
        clip = _Clip(np.zeros(max(count, self.encoder.shortest), np.float32))
        if segment.time_from_frames:
            clip.flags |= FLAG_TIME_FROM_FRAMES
        if stop <= 0:
            clip.fail(
                "empty_window",
                f"starts at {segment.start:.2f} s: nothing to hear {sampling.tau_a:g} s before it",
            )
            return clip
        try:
            sound = self.videos.reader(segment.video_id).window(stop - count / rate, len(clip.samples), rate)
        except VideoError as error:
            clip.fail(error.status, str(error))
            return clip
        if sampling.task == "anticipation" and sound.last > stop + SEAM:  # a container's clock is no finer
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
        inputs=job.video_inputs(options, annotations, paths, out),
        levels=levels,
        rows_per_group=job.rows_per_group(options, levels),
    )
