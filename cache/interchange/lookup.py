"""Where a row's features are in what others made: under its own name, or by time in those of its video.

    by name   one array a row: (D,), (T, D) or (T, g, g, D)
    by time   (steps, D) a video, or (D, steps): step i saw the frames [i stride, i stride + window) at `fps`
              a second

An array (1, steps, D) is taken for one (steps, D).

Times are seconds. A row that cannot be served raises Fault with the status and the reason that the store
keeps; it never gets the features of another moment.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from mambavl.cache.interchange.arrays import Arrays
from mambavl.cache.interchange.axes import steps_first
from mambavl.cache.interchange.clock import Clock, Extent, check_clock
from mambavl.cache.rows import Segment
from mambavl.cache.shards import Level
from mambavl.configs.errors import DataError, UsageError, some

LEVEL_OF = {1: "clip", 2: "frame", 4: "grid"}  # by the number of axes
AXES = {1: "(D,)", 2: "(steps, D)", 4: "(steps, g, g, D)"}
FLOATS = ("float16", "bfloat16", "float32", "float64")
NEAR = 1e-6  # of a frame or a step: what rounding may move


@dataclass(frozen=True)
class SamplingTimes:
    """When each row is looked at. What is found by name knows its own moments; of this it needs
    `sampling["task"]` alone.
    """

    sampling: Mapping[str, Any]  # the rule, for the spec
    times: np.ndarray | None = None  # (rows, T) seconds, NaN where there is nothing to observe
    flags: np.ndarray | None = None  # (rows,) uint8
    # video_id -> seconds that it lasts, of those whose features are to last as long
    durations: Mapping[str, float] = field(default_factory=dict)

    def by_row(self, rows: int) -> np.ndarray:
        """(rows, T) seconds. Raises ValueError where there are none, or not those of so many rows."""
        if self.times is None or len(self.times) != rows:
            found = "no" if self.times is None else len(self.times)
            raise ValueError(f"{found} rows of times for {rows} segments")
        return self.times


class Fault(Exception):
    """Why a row cannot be served."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.status, str(self))


class Found(NamedTuple):
    """What a source has for the rows."""

    shape: tuple[int, ...]  # of a row: (D,), (T, D) or (T, g, g, D), T the longest
    is_half: bool  # all of it is float16
    # row -> values, and the seconds of its steps; raises Fault
    read: Callable[[int], tuple[np.ndarray, np.ndarray | float]]
    unused: int = 0
    is_turned: bool = False  # the source has (D, steps)

    @property
    def steps(self) -> int:
        return self.shape[0] if len(self.shape) > 1 else 1

    def level(self, dtype: Literal["float16", "float32"] | None) -> Level:
        """The level that holds these rows; dtype: absent, float16 if all of the source is, else float32."""
        name, steps = LEVEL_OF[len(self.shape)], self.steps if len(self.shape) > 1 else 0
        return Level(
            name, "dense", (1, *self.shape), dtype or ("float16" if self.is_half else "float32"), steps=steps
        )


def _common_shape(
    arrays: Arrays, source: Path, names: list[str], axes: tuple[int, ...]
) -> tuple[tuple[int, ...], bool]:
    """The shape of all arrays with these names, the first axis that of the longest; and whether all are
    float16.
    """
    present = {name: arrays.describe(name) for name in dict.fromkeys(names) if name in arrays.names}
    if not present:
        found = ", ".join(sorted(arrays.names)[:3]) or "nothing"
        raise DataError(
            f"{source}: has nothing for any row; expected names such as {names[0]}, found {found}"
        )
    model, (first, _) = next(iter(present.items()))
    for name, (shape, dtype) in present.items():
        if dtype not in FLOATS or len(shape) not in axes or 0 in (shape[1:] or shape):
            expected = " or ".join(AXES[n] for n in axes)
            raise DataError(
                f"{source}: {name} is {dtype} {shape}; expected floating-point numbers {expected}"
            )
        if len(shape) != len(first) or shape[1:] != first[1:] or (len(shape) == 1 and shape != first):
            turned = "; if they are (D, steps): --set channels_first=true" if axes == (2,) else ""
            raise DataError(
                f"{source}: {name} is {shape}, {model} is {first}; all must have one form and one "
                f"width{turned}"
            )
    longest = max(shape[0] for shape, _ in present.values())
    return (max(longest, 1), *first[1:]), all(dtype == "float16" for _, dtype in present.values())


# --- by name


def by_name(arrays: Arrays, source: Path, segments: tuple[Segment, ...]) -> Found:
    """An array named after each row's narration_id."""
    arrays = arrays.squeezed()
    names = [segment.narration_id for segment in segments]
    videos = sorted({segment.video_id for segment in segments} & arrays.names)
    if videos and not arrays.names & set(names):
        raise DataError(
            f"{source}: its arrays are named after videos ({some(videos, 3)}), and it is read by row "
            f"({names[0]}); to read it by time, say which frames a step saw: --set fps=N --set stride=N "
            "--set window=N"
        )
    shape, is_half = _common_shape(arrays, source, names, (1, 2, 4))

    def read(row: int) -> tuple[np.ndarray, float]:
        if names[row] not in arrays.names:
            raise Fault("missing_video", f"no features for it in {source.name}")
        array = arrays.read(names[row])
        if not len(array):
            raise Fault("short_video", f"no step of it in {source.name}")
        return array, math.nan

    return Found(shape, is_half, read, len(arrays.names - set(names)))


# --- by time


def by_time(
    arrays: Arrays,
    source: Path,
    segments: tuple[Segment, ...],
    moments: SamplingTimes,
    clock: Clock | None,
    channels_first: bool | None = None,
) -> Found:
    """Steps of a row's video.

    Recognition: the step whose centre is nearest. Anticipation: the last step that has *ended* at that time;
    where none has, the first, if it ends by start - tau_a, else the row is an empty window.

    clock: of all videos; None: as the files beside each one's features say. channels_first: whether arrays
    are (D, steps); None: as `axes.steps_first` tells.
    """
    videos = list(dict.fromkeys(segment.video_id for segment in segments))
    arrays, is_turned = steps_first(
        arrays.squeezed(), source, videos, moments.durations, clock, channels_first
    )
    shape, is_half = _common_shape(arrays, source, videos, (2,))
    times = moments.by_row(len(segments))
    clocks = {
        video: clock or _clock_beside(arrays, source, video) for video in videos if video in arrays.names
    }
    _check_extents(arrays, source, moments.durations, clocks)
    steps_of = lru_cache(maxsize=2)(arrays.read)  # the rows of a video follow one another

    def read(row: int) -> tuple[np.ndarray, np.ndarray]:
        segment = segments[row]
        seconds = observed(times[row], segment)
        if segment.video_id not in arrays.names:
            raise Fault("missing_video", f"no features of {segment.video_id} in {source.name}")
        steps, (fps, window, stride) = steps_of(segment.video_id), clocks[segment.video_id]
        # behind its last step a video has less than a stride
        seen = (len(steps) * stride + window) / fps if len(steps) else 0.0
        if seconds.max() > seen:
            raise Fault(
                "short_video", f"{seconds.max():.2f} s is beyond the {len(steps)} steps of {segment.video_id}"
            )
        if moments.sampling["task"] == "anticipation":
            picks = np.floor((seconds * fps - window) / stride + NEAR)
            if picks.min() < 0 and window / fps > segment.start - moments.sampling["tau_a"] + NEAR:
                raise Fault(
                    "empty_window",
                    f"starts at {segment.start:.2f} s: no step of {window} frames has ended in time",
                )
        else:
            # of two at the same distance the earlier
            picks = np.ceil((seconds * fps - window / 2) / stride - 0.5)
        picks = np.clip(picks, 0, len(steps) - 1).astype(np.int64)
        return steps[picks], (picks * stride + window / 2) / fps

    unused = len(arrays.names - set(videos))
    return Found((times.shape[1], shape[1]), is_half, read, unused, is_turned)


def _clock_beside(arrays: Arrays, source: Path, video: str) -> Clock:
    """What the files beside a video's features say. Raises UsageError where there are none, DataError where
    they say no such thing.
    """
    said = "say which frames a step saw, [i stride, i stride + window) at fps a second"
    wanted = "--set fps=N --set stride=N --set window=N"
    rate, times = arrays.rate(video), arrays.times(video)
    if rate is None or times is None:
        raise UsageError(
            f"{source}: nothing beside the features of {video} says when its steps are "
            f"({video}_fps.npy and {video}_timestamps_ms.npy would); {said}: {wanted}"
        )
    steps = arrays.describe(video)[0][0]
    try:
        if len(times) != steps:
            raise ValueError(f"there are {len(times):,} for {steps:,} steps")
        return Clock.of_times(rate, times)
    except ValueError as error:
        raise DataError(
            f"{source}: {video}_timestamps_ms does not say when the steps are: {error}; {said}: {wanted}"
        ) from None


def _check_extents(
    arrays: Arrays, source: Path, durations: Mapping[str, float], clocks: Mapping[str, Clock]
) -> None:
    """Raises DataError where the clock of a video's features cannot be the one that is said."""
    for clock in dict.fromkeys(clocks.values()):
        extents: dict[str, Extent] = {}
        turned: dict[str, Extent] = {}
        for video in sorted(clocks.keys() & durations.keys()):
            if clocks[video] != clock:
                continue
            seconds = durations[video]
            if (rate := arrays.rate(video)) is not None and abs(rate - clock.fps) > 0.01 * clock.fps:
                raise DataError(
                    f"{source}: {video}_fps says {rate:g} frames a second, and fps = {clock.fps:g}; --set "
                    f"fps={rate:g} would fit. If it is wrong, --set any_length=true imports the features as "
                    "they are"
                )
            steps, width = arrays.describe(video)[0]
            for found, count in ((extents, steps), (turned, width)):
                if steps:  # one that has none serves no row
                    found[video] = clock.extent(count, seconds)
        check_clock(source, extents, clock.fps, clock.margin, turned)


def observed(seconds: np.ndarray, segment: Segment) -> np.ndarray:
    """(T,) seconds; a fault where there is nothing to observe."""
    if np.isnan(seconds).any():
        raise Fault("empty_window", f"starts at {segment.start:.2f} s: nothing to observe before it in time")
    return seconds
