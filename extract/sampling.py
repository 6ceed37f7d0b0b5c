"""Which moments of a video a segment is seen at, in seconds.

Recognition looks at the action itself, anticipation at the window that ends tau_a before it. A time t stands
for the frame on display at t, the last one whose presentation time is not after t; so nothing later than the
last time is ever looked at.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from mambavl.cache.rows import FLAG_BEFORE_START
from mambavl.configs import Config

# the paper: 16 frames from 64 observed ones, about 2 s at 30 per second
OBSERVED_FRAMES, OBSERVED_RATE = 64, 30.0
STRIDE = 4  # mf_dense: what most of its encoders were tested at
NOMINAL_RATE = 60.0  # frames a second that Motionformer and ORViT take most videos to have
Task = Literal["recognition", "anticipation"]
Rule = Literal["segment_uniform", "mf_dense", "strict"]
RULES: dict[str, tuple[Rule, ...]] = {
    "recognition": ("segment_uniform", "mf_dense"),
    "anticipation": ("strict",),
}


class Sampling(Config):
    """How times are chosen. Part of a store's spec: stores of different sampling never mix."""

    # recognition: moments of the action; anticipation: moments of the window that ends tau_a before it
    task: Task = "recognition"
    # recognition: segment_uniform (even over the action) or mf_dense (Motionformer's dense windows);
    # anticipation: strict; absent: the first of the task
    rule: Rule | None = None
    frames: int = Field(default=16, ge=1, le=1024)  # frames that an encoder sees of a clip
    # mf_dense: from a frame to the next, in 1/30 s; motionformer-l was tested at 3
    stride: int = Field(default=STRIDE, ge=1, le=64)
    views: int = Field(default=1, ge=1, le=64)  # clips of a segment, `frames` long each; recognition only
    # anticipation: seconds between the last moment seen and the action's start
    tau_a: float = Field(default=1.0, ge=0.0)

    @model_validator(mode="after")
    def _rule_of_the_task(self) -> "Sampling":
        allowed = RULES[self.task]
        if self.rule is None:
            object.__setattr__(self, "rule", allowed[0])  # frozen, and still being made
        if self.rule not in allowed:
            raise ValueError(f"rule {self.rule} is not one of {self.task}, which has {', '.join(allowed)}")
        # the default says nothing, and stands in the spec of every store, whatever its rule
        if self.stride != STRIDE and self.rule != "mf_dense":
            raise ValueError(f"stride is of rule mf_dense, and the rule is {self.rule}")
        if self.task == "anticipation" and self.views > 1:
            raise ValueError("anticipation looks at one window, so views = 1")
        return self


@dataclass(frozen=True)
class Window:
    """The chosen times, or none where there is nothing to observe."""

    times: np.ndarray  # (T,) seconds, not decreasing, none below 0
    flags: int = 0

    @property
    def is_empty(self) -> bool:
        return len(self.times) == 0


def window(start: float, stop: float, sampling: Sampling, view: int = 0) -> Window:
    """The moments of the action [start, stop] that an encoder is shown, in one of `sampling.views` clips."""
    if sampling.rule == "segment_uniform":
        return Window(segment_uniform(start, stop, sampling.frames, view, sampling.views))
    if sampling.rule == "mf_dense":
        return Window(mf_dense(start, stop, sampling.frames, view, sampling.views, sampling.stride))
    return strict_anticipation(start, sampling.frames, sampling.tau_a)


def segment_uniform(start: float, stop: float, frames: int, view: int = 0, views: int = 1) -> np.ndarray:
    """One moment in each of `frames` equal bins of the segment: the centre, as LaViLa and AVION evaluate;
    with several views the centres of a bin's equal parts."""
    return start + (np.arange(frames) + (view + 0.5) / views) / frames * (stop - start)


def mf_dense(
    start: float, stop: float, frames: int, view: int = 0, views: int = 1, stride: int = STRIDE
) -> np.ndarray:
    """A window of frames x stride at 30 per second (16 x 4: 2.13 s), as Motionformer and ORViT evaluate, here
    in seconds.

    View k of n begins at k/n of what the segment is longer than the window, so the last view never reaches
    the end; where the segment is shorter, its last moment is repeated, as their clamping does.
    """
    span, tick = frames * stride / OBSERVED_RATE, 1 / NOMINAL_RATE
    offset = max(stop - start - span, 0.0) * view / views
    times = offset + np.linspace(tick, span, frames)
    return start + np.minimum(times, max(stop - start - tick, 0.0))


def strict_anticipation(start: float, frames: int, tau_a: float) -> Window:
    """`frames` of the 64 frames, 1/30 s each, that are shown in [start - tau_a - 64/30, start - tau_a];
    nothing later is seen.

    Moments before the video repeat its first frame and are flagged. A window that ends at or before 0 is
    empty: 28 rows of EK100's validation list.
    """
    end = start - tau_a
    if end <= 0:
        return Window(np.empty(0))
    # from the end: a single frame is the latest
    picks = np.round(np.linspace(OBSERVED_FRAMES - 1, 0, frames))[::-1]
    times = end - (OBSERVED_FRAMES - picks) / OBSERVED_RATE
    return Window(np.maximum(times, 0.0), FLAG_BEFORE_START if times[0] < 0 else 0)
