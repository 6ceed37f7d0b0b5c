"""Whether features that are kept by time can be of the videos that the lists describe.

A rate that is not theirs, or an axis that is not time, puts every row at a wrong place without any other
sign: the features then last longer or shorter than the video does.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mambavl.configs.errors import DataError, counted

NEAR_FRAMES = 1.0  # by which a time may be off that a program took of a file, rounded to its clock
SLACK = 1.0  # seconds; copies in another container or at another rate differ by less
# frames a second that features are usually made at
RATES = (60.0, 59.94, 50.0, 30.0, 29.97, 25.0, 24.0, 15.0, 12.0, 10.0, 8.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0)


class Clock(NamedTuple):
    """Step i saw the frames [i stride, i stride + window) at `fps` a second."""

    fps: float
    window: int
    stride: int

    @property
    def margin(self) -> int:
        """Frames that may be lacking or padded at the end: behind its last step a video has less than a
        stride, and some tools pad the last window.
        """
        return self.window + self.stride

    def extent(self, steps: int, seconds: float) -> "Extent":
        """What so many steps of a video of so many seconds cover."""
        return Extent((steps - 1) * self.stride + self.window, seconds, seconds)

    @classmethod
    def of_times(cls, fps: float, times: np.ndarray) -> "Clock":
        """What video_features writes beside its features: the rate, and for each step when the last frame
        begins that it may have seen, in ms. (Features of single frames and I3D's of flow saw it; I3D's of
        pictures end just before.)

        Raises ValueError where they are not a whole number of frames apart, always the same.
        """
        if not (np.isfinite(fps) and fps > 0 and times.ndim == 1 and np.isfinite(times).all()):
            raise ValueError("they are no times")
        frames = times * fps / 1000
        if len(times) < 2:
            raise ValueError("one step has no stride")
        window, stride = round(float(frames[0])) + 1, round(float(frames[-1] - frames[0]) / (len(frames) - 1))
        even = frames[0] + stride * np.arange(len(frames))
        if window < 1 or stride < 1 or np.abs(frames - even).max() > NEAR_FRAMES:
            raise ValueError(f"they are not even at {fps:g} frames a second")
        return cls(fps, window, stride)


class Extent(NamedTuple):
    """What the features of a video cover, and what they can."""

    frames: int  # from the start of the first to the end of the last
    shortest: float  # seconds that they must last
    longest: float  # seconds that they can last

    def fits(self, fps: float, margin: float) -> bool:
        """Whether they last as long as the video at `fps`, where `margin` frames may be lacking or padded."""
        most, fewest = self.frames + margin, self.frames - margin
        return self.shortest - SLACK <= most / fps and fewest / fps <= self.longest + SLACK


def check_clock(
    source: Path,
    extents: Mapping[str, Extent],
    fps: float,
    margin: float,
    turned: Mapping[str, Extent] | None = None,
) -> None:
    """Raises DataError where features at `fps` a second last longer or shorter than their videos can.

    extents: by video_id. margin: frames that may be lacking or padded at the end. turned: extents if the two
    axes of the arrays were swapped.
    """
    off = [video for video, extent in extents.items() if not extent.fits(fps, margin)]
    if not off:
        return
    video = max(off, key=lambda name: extents[name].longest)  # where a rate shows best
    frames, _, seconds = extents[video]
    fitting = [rate for rate in RATES if all(one.fits(rate, margin) for one in extents.values())]
    if turned and all(extent.fits(fps, margin) for extent in turned.values()):
        advice = "their other axis would fit: leave channels_first out, and it is told by that"
    elif fitting:
        nearest = min(fitting, key=lambda rate: abs(rate - frames / seconds))
        advice = f"--set fps={nearest:g} would fit"
    else:
        needed = [extents[name].frames / extents[name].longest for name in off]
        advice = f"they would need from {min(needed):.4g} to {max(needed):.4g} frames a second"
    raise DataError(
        f"{source}: the features of {counted(len(off), 'video')} of {len(extents):,} do not last as long as "
        f"the videos: those of {video} last {frames / fps:.1f} s at fps = {fps:g}, and the list says "
        f"{seconds:.1f} s; {advice}. If they are right, --set any_length=true imports them as they are"
    )
