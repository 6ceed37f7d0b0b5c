"""Features that others made, or an export of ours -> a feature store whose rows are those of the annotations.

Features that are kept by time, a file a video, are looked up at the moments that extraction would have shown
an encoder, so an imported store and an extracted one agree on what belongs to a row.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from mambavl.cache.fill import FillResult
from mambavl.cache.interchange.exported import import_export, is_export
from mambavl.cache.interchange.foreign import (
    Format,
    check_options,
    check_source,
    import_features,
    is_by_time,
    source_sha256,
)
from mambavl.cache.interchange.lookup import SamplingTimes
from mambavl.cache.rows import FLAG_TIME_FROM_FRAMES, Segment
from mambavl.configs import Config
from mambavl.configs.errors import UsageError
from mambavl.configs.progress import Progress, ShouldStop
from mambavl.extract.annotations import Annotations
from mambavl.extract.data_set import read_data_set
from mambavl.extract.sampling import COUNT_FRAMES, Sampling, window


class ImportSettings(Config):
    """Knobs of `mambavl cache import`. An export of ours brings its own, and takes `max_failed` alone."""

    encoder: str | None = None  # what made the features, for the record; default: unknown
    # which array of an HDF5 or npz file, or tensor of a dict; needed where a file holds several
    dataset: str | None = None
    # by time: frames a second of the videos; default: as files beside the features say, and 30 for lmdb
    fps: float | None = None
    window: int | None = None  # by time: how many frames a step saw; default: as for fps
    stride: int | None = None  # by time: frames from the start of a step to the start of the next; as for fps
    # by time: arrays are (D, steps), as MS-TCN's; default: told by how long the videos last, else (steps, D)
    channels_first: bool | None = None
    # what is stored; default: float16 where all of the source is, else float32
    dtype: Literal["float16", "float32"] | None = None
    # by time: take features that last longer or shorter than the video does by the list
    any_length: bool = False
    sampling: Sampling = Sampling()  # by time: which moments of a video a row's features are looked up at
    # rows that may have no features, empty windows apart; one more stops the command, with exit code 1
    max_failed: int = Field(default=0, ge=0)


@dataclass(frozen=True)
class ImportJob:
    """An import whose source, settings and rows are known to fit together; nothing has been written yet."""

    source: Path
    format: Format
    out: Path
    settings: ImportSettings
    annotations: Annotations | None  # None: the source is an export of ours, which brings its rows
    times: SamplingTimes | None = None  # when the rows are looked at; None as above

    def digest(self, progress: Progress, should_stop: ShouldStop) -> str:
        """The sha256 of the source's content, which the store records. progress: bytes."""
        return source_sha256(self.source, self.format, progress, should_stop)

    def run(self, content_sha256: str, progress: Progress, should_stop: ShouldStop) -> FillResult:
        """Write (or resume) the store. progress: rows. Raises as `import_export` and `import_features`."""
        if self.annotations is None or self.times is None:
            return import_export(
                self.source,
                "npy" if self.format == "npy" else "hdf5",  # `is_export` says yes to no other
                self.out,
                content_sha256=content_sha256,
                progress=progress,
                should_stop=should_stop,
            )
        settings = self.settings
        return import_features(
            self.source,
            self.format,
            self.out,
            self.annotations.segments,
            self.annotations.classes,
            self.times,
            encoder=settings.encoder or "unknown",
            dtype=settings.dtype,
            dataset=settings.dataset,
            fps=settings.fps,
            window=settings.window,
            stride=settings.stride,
            channels_first=settings.channels_first,
            content_sha256=content_sha256,
            max_failed=settings.max_failed,
            progress=progress,
            should_stop=should_stop,
        )


def prepare(
    source: Path,
    format: Format,
    out: Path,
    settings: ImportSettings,
    annotations: Path | None,
    splits: tuple[str, ...],
) -> ImportJob:
    """Check that the settings fit the source, read the annotations that its features belong to, and check
    that what is kept by time can be of these videos.

    Raises UsageError for settings that an export or a format has no use for, and for missing annotations;
    DataError as `check_source`.
    """
    if is_export(source, format):
        given = [key for key in sorted(settings.model_fields_set) if key != "max_failed"]
        if annotations is not None:
            given.insert(0, "annotations")
        if given:
            raise UsageError(
                f"{source}: is an export and brings rows, labels and recipe with it; leave out {given[0]}"
            )
        return ImportJob(source, format, out, settings, None)
    if annotations is None:
        raise UsageError(
            f"{source}: is not an export of mambavl; say with --annotations DIR which rows its features "
            "belong to"
        )
    options = check_options(
        format,
        settings.dataset,
        settings.fps,
        settings.window,
        settings.stride,
        settings.channels_first,
    )
    chosen, by_time = sorted(settings.sampling.model_fields_set - {"task"}), is_by_time(format, options)
    if chosen and not by_time:
        raise UsageError(
            f"sampling.{chosen[0]}: the moments of {format} features were chosen when they were made"
        )
    if settings.sampling.rule in COUNT_FRAMES:
        raise UsageError(
            f"sampling.rule = {settings.sampling.rule} counts the frames of a video file, and features "
            "kept by time have none; choose a rule in seconds"
        )
    read = read_data_set(annotations, splits)
    if not by_time:
        return ImportJob(source, format, out, settings, read, SamplingTimes({"task": settings.sampling.task}))
    times = sampling_times(read.segments, settings.sampling)
    if not settings.any_length:
        times = replace(times, durations={video: info.duration for video, info in read.videos.items()})
    check_source(source, format, read.segments, times, options)  # before a long read
    return ImportJob(source, format, out, settings, read, times)


def sampling_times(segments: tuple[Segment, ...], sampling: Sampling) -> SamplingTimes:
    """The moments of each row, (rows, T) seconds, NaN where there is nothing to observe; and its flags."""
    times = np.full((len(segments), sampling.frames), np.nan)
    flags = np.zeros(len(segments), np.uint8)
    for row, segment in enumerate(segments):
        seen = window(segment.start, segment.stop, sampling)
        flags[row] = seen.flags | (FLAG_TIME_FROM_FRAMES if segment.time_from_frames else 0)
        if not seen.is_empty:
            times[row] = seen.times
    return SamplingTimes(sampling.model_dump(), times, flags)
