"""Which axis of a video's features is time: (steps, D) as most programs write them, or (D, steps) as MS-TCN.

Nothing in an array says it. How long the video lasts does, or how many times stand beside its features; where
neither is known, (steps, D) is what is documented.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

from mambavl.cache.interchange.arrays import Arrays
from mambavl.cache.interchange.clock import Clock
from mambavl.configs.errors import UsageError


def steps_first(
    arrays: Arrays,
    source: Path,
    videos: Collection[str],
    durations: Mapping[str, float],
    clock: Clock | None,
    channels_first: bool | None,
) -> tuple[Arrays, bool]:
    """The arrays as (steps, D), and whether they were (D, steps).

    durations: seconds by video. clock: None where files beside the features are. channels_first: None, to be
    told by the videos of which either is known; all must then say the same.

    Raises UsageError where either axis could be time in all of them.
    """
    if channels_first is None:
        fits = [
            (
                _fits(shape[0], video, arrays, durations, clock),
                _fits(shape[1], video, arrays, durations, clock),
            )
            for video in videos
            if video in arrays.names
            and len(shape := arrays.describe(video)[0]) == 2
            and (video in durations if clock else arrays.times(video) is not None)
        ]
        first, last = (bool(fits) and all(fit[axis] for fit in fits) for axis in (0, 1))
        if first and last:
            raise UsageError(
                f"{source}: either axis of its arrays could be time, for both fit how long the videos last; "
                "say whether they are (D, steps): --set channels_first=true, or (steps, D): "
                "--set channels_first=false"
            )
        channels_first = last
    return (_turned(arrays), True) if channels_first else (arrays, False)


def _fits(
    steps: int, video: str, arrays: Arrays, durations: Mapping[str, float], clock: Clock | None
) -> bool:
    if clock is None:
        times = arrays.times(video)
        return times is not None and len(times) == steps
    return not steps or clock.extent(steps, durations[video]).fits(clock.fps, clock.margin)


def _turned(arrays: Arrays) -> Arrays:
    def describe(name: str) -> tuple[tuple[int, ...], str]:
        shape, dtype = arrays.describe(name)
        return shape[::-1] if len(shape) == 2 else shape, dtype

    return arrays._replace(describe=describe, read=lambda name: arrays.read(name).T)
