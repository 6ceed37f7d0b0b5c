"""Which moments of a video a segment is seen at, in seconds.

Recognition looks at the action itself, anticipation at the window that ends tau_a before it. A time t stands for the frame on
display at t, the last one whose presentation time is not after t; so nothing later than the last time is ever looked at.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field

from mambavl.cache.schema import FLAG_BEFORE_START
from mambavl.configs import Config

OBSERVED_FRAMES, OBSERVED_RATE = 64, 30.0  # the paper: 16 frames from 64 observed ones, about 2 s at 30 per second


class Sampling(Config):
    """How times are chosen. Part of a store's spec: stores of different sampling never mix."""

    task: Literal["recognition", "anticipation"] = "recognition"
    frames: int = Field(default=16, ge=1, le=1024)
    tau_a: float = Field(default=1.0, ge=0.0)  # seconds between the last observed moment and the action's start

    @property
    def rule(self) -> str:
        return "segment_uniform" if self.task == "recognition" else "strict"


@dataclass(frozen=True)
class Window:
    """The chosen times, or none where there is nothing to observe."""

    times: np.ndarray  # (T,) seconds, not decreasing, none below 0
    flags: int = 0

    @property
    def is_empty(self) -> bool:
        return len(self.times) == 0


def window(start: float, stop: float, sampling: Sampling) -> Window:
    """The moments of the action [start, stop] that an encoder is shown."""
    if sampling.task == "recognition":
        return Window(segment_uniform(start, stop, sampling.frames))
    return strict_anticipation(start, sampling.frames, sampling.tau_a)


def segment_uniform(start: float, stop: float, frames: int) -> np.ndarray:
    """The centres of `frames` equal bins of the segment, as LaViLa and AVION evaluate."""
    return start + (np.arange(frames) + 0.5) / frames * (stop - start)


def strict_anticipation(start: float, frames: int, tau_a: float) -> Window:
    """`frames` of the 64 frames, 1/30 s each, that are shown in [start - tau_a - 64/30, start - tau_a]; nothing later is seen.

    Moments before the video repeat its first frame and are flagged. A window that ends at or before 0 is empty: 28 rows of
    EK100's validation list.
    """
    end = start - tau_a
    if end <= 0:
        return Window(np.empty(0))
    picks = np.round(np.linspace(OBSERVED_FRAMES - 1, 0, frames))[::-1]  # from the end: a single frame is the latest
    times = end - (OBSERVED_FRAMES - picks) / OBSERVED_RATE
    return Window(np.maximum(times, 0.0), FLAG_BEFORE_START if times[0] < 0 else 0)
