"""Sound features, a third modality: cut a window out of each row's soundtrack -> encode -> a row group.

Rows are encoded in fixed batches, and one that cannot be heard takes its place as silence of the same length
and is dropped afterwards: so the others do not depend on it.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mambavl.cache import shards
from mambavl.cache.fill import FillResult, fill
from mambavl.cache.rows import FLAG_SILENCE, FLAG_TIME_FROM_FRAMES, Segment
from mambavl.cache.shards import Level
from mambavl.cache.spec import FeatureRecipe, Inputs, SoundRecipe, Spec
from mambavl.cache.writer import RowGroup, StoreWriter
from mambavl.configs.errors import Interrupted
from mambavl.configs.progress import Progress, ShouldStop, never, unseen
from mambavl.extract import job
from mambavl.extract.annotations import Annotations
from mambavl.extract.encoders.audio import audio_levels
from mambavl.extract.encoders.base import AudioEncoder
from mambavl.extract.options import AudioExtraction
from mambavl.extract.sound import SEAM, SoundReader
from mambavl.extract.video import VideoError
from mambavl.extract.video_files import fingerprint


def extract_audio(
    annotations: Annotations,
    videos: Path,
    out: Path,
    options: AudioExtraction,
    *,
    shard: tuple[int, int] = (0, 1),
    progress: Progress = unseen,
    should_stop: ShouldStop = never,
) -> FillResult:
    """Run a frozen audio encoder over the soundtrack of every segment and write (or resume) the store `out`.

    shard, errors and interrupts: as `video_job.extract_video`.
    """
    encoder = job.build_encoder(
        options.encoder, AudioEncoder, options.weights, options.weights_state, options.device
    )
    paths = job.find_videos(annotations, Path(videos), options.allow_missing)
    spec = _audio_spec(annotations, paths, encoder, options)
    writer = StoreWriter(
        out, spec, annotations.segments, annotations.classes, job.environment(options.device)
    )
    pipeline = _AudioPipeline(encoder, paths, options, writer.layout.levels)

    def encode(rows: range, result: FillResult) -> RowGroup:
        return pipeline.row_group(annotations.segments[rows.start : rows.stop], result, should_stop)

    try:
        return fill(writer, encode, shard=shard, progress=progress, should_stop=should_stop)
    finally:
        pipeline.videos.close()


@dataclass
class _Clip(job.Clip):
    """One row on its way: its sound (n,) float32, silent when it failed."""

    samples: np.ndarray


class _AudioPipeline:
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
        self.videos = job.ReaderCache(paths, SoundReader)

    def row_group(self, rows: Sequence[Segment], result: FillResult, should_stop: ShouldStop) -> RowGroup:
        clips: list[_Clip] = []
        found: dict[str, list[np.ndarray]] = {level.name: [] for level in self.levels}
        for first in range(0, len(rows), self.options.batch_rows):
            if should_stop():
                raise Interrupted(
                    "stopped inside a row group, which will be done again; the same command resumes"
                )
            since = time.perf_counter()
            batch = [self._hear(segment) for segment in rows[first : first + self.options.batch_rows]]
            result.timed("decode", since)
            since = time.perf_counter()
            for states in self.encoder.encode([clip.samples for clip in batch]):
                for name, values in audio_levels(states, self.options.levels, self.options.steps).items():
                    found[name].append(values.numpy())
            result.timed("encode", since)
            for clip in batch:
                clip.samples = np.empty(0, np.float32)  # the encoder was all that needs them
            clips += batch
        features = {name: np.stack(values) for name, values in found.items()}
        return job.dense_group(self.options.encoder, clips, features, self.levels)

    def _hear(self, segment: Segment) -> _Clip:
        """The sound of a row. One shorter than the encoder's least, as only an action can be, is heard on to
        that.
        """
        hearing, rate = self.options.sampling, self.encoder.rate
        stop, seconds = segment.stop, segment.stop - segment.start
        if hearing.task == "anticipation":
            stop, seconds = segment.start - hearing.tau_a, hearing.seconds
        count = round(seconds * rate)
        start = stop - count / rate
        clip = _Clip(np.zeros(max(count, self.encoder.shortest), np.float32))
        clip.flags = FLAG_TIME_FROM_FRAMES if segment.time_from_frames else 0
        if stop <= 0:
            clip.fail(
                "empty_window",
                f"starts at {segment.start:.2f} s: nothing to hear {hearing.tau_a:g} s before it",
            )
            return clip
        try:
            heard = self.videos.reader(segment.video_id).window(start, len(clip.samples), rate)
        except VideoError as error:
            clip.fail(error.status, str(error))
            return clip
        if hearing.task == "anticipation" and heard.last > stop + SEAM:  # a container's clock is no finer
            raise AssertionError(
                f"{segment.narration_id}: sound at {heard.last:.4f} s lies after start - tau_a"
            )
        clip.samples = heard.samples
        clip.flags |= FLAG_SILENCE if heard.is_partial else 0
        return clip


def _audio_spec(
    annotations: Annotations, paths: dict[str, Path | None], encoder: AudioEncoder, options: AudioExtraction
) -> Spec:
    shapes = {"clip": ((1, encoder.width), 0), "frame": ((1, options.steps, encoder.width), options.steps)}
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
    recipe = FeatureRecipe(
        numerics=job.NUMERICS,
        encoder=job.encoder_identity(encoder),
        sound=SoundRecipe(rate=encoder.rate, channels="mean"),
        sampling=options.sampling.model_dump(),
        batch_rows=options.batch_rows,
    )
    inputs = Inputs(
        annotations=annotations.sha256,
        splits=options.splits,
        videos={video: fingerprint(path, options.video_hash) for video, path in sorted(paths.items())},
    )
    return Spec(
        kind="audio",
        recipe=recipe,
        inputs=inputs,
        levels=levels,
        rows_per_group=options.rows_per_group
        or shards.rows_per_group(max(level.chunk_bytes for level in levels)),
    )
