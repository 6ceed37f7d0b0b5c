"""Which moments of a video a segment is seen at, in seconds.

Recognition looks at the action itself, anticipation at the window that ends tau_a before it. A time t stands
for the frame on display at t, the last one whose presentation time is not after t; so nothing later than the
last time is ever looked at.

    T  frames of a clip        rate  frames a second of the file        end = start - tau_a

Other people's rules go by their names. Where their code counts in frames, a time is the middle of the frame
that it picks.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from mambavl.cache.rows import FLAG_BEFORE_START
from mambavl.configs import Config
from mambavl.configs.errors import DataError

# the paper: 16 frames from 64 observed ones, about 2 s at 30 per second
OBSERVED_FRAMES, OBSERVED_RATE = 64, 30.0
STRIDE = 4  # mf_dense: what most of its encoders were tested at
NOMINAL_RATE = 60.0  # frames a second that Motionformer and ORViT take most videos to have
VJEPA_RATE = 8.0  # frames a second that V-JEPA 2 is shown
RULSTM_STEP = 0.25  # seconds
# frames a second of a clip, as its rule means them: vjepa_released's encoder is told 8, too
PACE = {"vjepa": VJEPA_RATE, "vjepa_released": VJEPA_RATE, "rulstm": 1 / RULSTM_STEP}
ROUNDING = 1e-6  # of a frame: a rate is known from the times of frames, so 24 may be 23.9999999

Task = Literal["recognition", "anticipation"]
Rule = Literal[
    "segment_uniform", "mf_dense", "lavila", "avion", "strict", "vjepa", "vjepa_released", "rulstm", "inavit"
]
RULES: dict[str, tuple[Rule, ...]] = {
    "recognition": ("segment_uniform", "mf_dense", "lavila", "avion"),
    "anticipation": ("strict", "vjepa", "vjepa_released", "rulstm", "inavit"),
}
COUNT_FRAMES = ("lavila", "avion", "vjepa_released")  # rules that depend on the file's own rate
SEVERAL_VIEWS = ("segment_uniform", "mf_dense", "inavit")
FRAMES = 16  # the paper's
# V-JEPA 2: 4 s; RULSTM: of its 14 steps before the action, those that lie no later than 1 s before it
FRAMES_OF: dict[str, int] = {"vjepa": 32, "vjepa_released": 32, "rulstm": 11}


class Sampling(Config):
    """How times are chosen. Part of a store's spec: stores of different sampling never mix."""

    # recognition: moments of the action; anticipation: moments of the window that ends tau_a before it
    task: Task = "recognition"
    # recognition: segment_uniform (even over the action), mf_dense (Motionformer's dense windows), lavila or
    # avion (their middles of bins, to the frame); anticipation: strict, vjepa (V-JEPA 2's 8 frames a second),
    # vjepa_released (with its whole-frame step), rulstm (every 0.25 s), inavit (as released: it looks INTO
    # the action); absent: the first of the task
    rule: Rule | None = None
    # frames that an encoder sees of a clip; unless set, 32 under vjepa and vjepa_released, 11 under rulstm
    frames: int = Field(default=FRAMES, ge=1, le=1024)
    # mf_dense: from a frame to the next, in 1/30 s; motionformer-l was tested at 3
    stride: int = Field(default=STRIDE, ge=1, le=64)
    # clips of a segment, `frames` long each; segment_uniform, mf_dense and inavit only
    views: int = Field(default=1, ge=1, le=64)
    # anticipation: seconds between the last moment seen and the action's start
    tau_a: float = Field(default=1.0, ge=0.0)

    @property
    def ahead(self) -> float:
        """Frames, at the pace of the clip, from its end to the action that is to be anticipated. 0 of
        recognition, and of inavit, which looks into the action.
        """
        if not self.is_causal:
            return 0.0
        # strict: its frames stand for equal parts of the observed window
        pace = PACE.get(str(self.rule), self.frames * OBSERVED_RATE / OBSERVED_FRAMES)
        return self.tau_a * pace

    @property
    def is_causal(self) -> bool:
        """Is it promised that nothing after start - tau_a is seen?"""
        return self.task == "anticipation" and self.rule != "inavit"

    @model_validator(mode="after")
    def _rule_of_the_task(self) -> "Sampling":
        allowed = RULES[self.task]
        if self.rule is None:
            object.__setattr__(self, "rule", allowed[0])  # frozen, and still being made
        if self.rule not in allowed:
            raise ValueError(f"rule {self.rule} is not one of {self.task}, which has {', '.join(allowed)}")
        if "frames" not in self.model_fields_set:
            object.__setattr__(self, "frames", FRAMES_OF.get(str(self.rule), FRAMES))
        # the default says nothing, and stands in the spec of every store, whatever its rule
        if self.stride != STRIDE and self.rule != "mf_dense":
            raise ValueError(f"stride is of rule mf_dense, and the rule is {self.rule}")
        if self.views > 1 and self.rule not in SEVERAL_VIEWS:
            raise ValueError(f"rule {self.rule} looks at one window, so views = 1")
        return self


@dataclass(frozen=True)
class Window:
    """The chosen times, or none where there is nothing to observe."""

    times: np.ndarray  # (T,) seconds, not decreasing, none below 0
    flags: int = 0

    @property
    def is_empty(self) -> bool:
        return len(self.times) == 0


def window(
    start: float, stop: float, sampling: Sampling, view: int = 0, rate: float = NOMINAL_RATE
) -> Window:
    """The moments of the action [start, stop] that an encoder is shown, in one of `sampling.views` clips.

    rate: frames a second of the file, which the rules of COUNT_FRAMES go by. Raises DataError for a rate that
    the rule has no step for.
    """
    frames, views = sampling.frames, sampling.views
    match sampling.rule:
        case "segment_uniform":
            return Window(segment_uniform(start, stop, frames, view, views))
        case "mf_dense":
            return Window(mf_dense(start, stop, frames, view, views, sampling.stride))
        case "lavila":
            return Window(lavila(start, stop, frames, rate))
        case "avion":
            return Window(avion(start, stop, frames, rate))
        case "inavit":
            return Window(inavit(start, stop, frames, view, views))
        case "vjepa":
            before = vjepa(frames, 1 / VJEPA_RATE)
        case "vjepa_released":
            before = vjepa(frames, released_step(rate))
        case "rulstm":
            before = RULSTM_STEP * np.arange(frames)[::-1]
        case _:
            before = strict(frames)
    return observed(start - sampling.tau_a, before)


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


def lavila(start: float, stop: float, frames: int, rate: float) -> np.ndarray:
    """The frames that LaViLa evaluates on: of each of `frames` bins, whose borders are rounded to frames, the
    middle one."""
    first, last = np.round(start * rate), np.ceil(stop * rate - ROUNDING)
    borders = np.round((last - first - 1) / frames * np.arange(frames + 1)) + first
    return ((borders[:-1] + borders[1:]) // 2 + 0.5) / rate


def avion(start: float, stop: float, frames: int, rate: float) -> np.ndarray:
    """The frames that AVION evaluates on: the centres of `frames` bins between the rounded ends."""
    borders = np.linspace(np.round(start * rate), np.round(stop * rate), frames + 1)
    return (np.floor((borders[:-1] + borders[1:]) / 2) + 0.5) / rate


def inavit(start: float, stop: float, frames: int, view: int = 0, views: int = 1) -> np.ndarray:
    """What InAViT's released loader, and MambaVL's after it, shows for anticipation, here in seconds.

    It is no anticipation: the window is moved back from inside the action by 1/30 s and its own length, and
    what would lie before the action is its first frame. So no view shows anything of before it.
    """
    span, tick, length = frames * STRIDE / OBSERVED_RATE, 1 / NOMINAL_RATE, stop - start
    end = max(length - span, 0.0) * view / views - 1 / OBSERVED_RATE
    times = np.linspace(max(end - span, 0.0) + tick, max(end, 0.0), frames)
    return start + np.sort(np.minimum(times, max(length - tick, 0.0)))


def strict(frames: int) -> np.ndarray:
    """(T,) seconds before the end: `frames` of the 64 frames, 1/30 s each, that are on display in the 64/30 s
    before it."""
    # from the end: a single frame is the latest
    picks = np.round(np.linspace(OBSERVED_FRAMES - 1, 0, frames))[::-1]
    return (OBSERVED_FRAMES - picks) / OBSERVED_RATE


def vjepa(frames: int, step: float) -> np.ndarray:
    """(T,) seconds before the end: a frame every `step` seconds, the last one a step before the end."""
    return step * np.arange(frames, 0, -1)


def released_step(rate: float) -> float:
    """Seconds from a frame to the next where V-JEPA 2's code means 1/8: a whole number of the file's frames,
    rounded down. At 59.94 a second it is 7 frames, and 32 of them are 3.74 s where 4 are meant.
    """
    step = np.floor(rate / VJEPA_RATE + ROUNDING)
    if step < 1:
        raise DataError(
            f"it has {rate:.4g} frames a second, and rule vjepa_released needs at least {VJEPA_RATE:g}, for "
            "it steps by whole frames; `--set sampling.rule=vjepa` does not"
        )
    return float(step / rate)


def observed(end: float, before: np.ndarray) -> Window:
    """The moments `before` (T,) seconds before the end of an anticipation window; nothing later is seen.

    Moments before the video repeat its first frame and are flagged. A window that ends at or before 0 is
    empty: 28 rows of EK100's validation list.
    """
    if end <= 0:
        return Window(np.empty(0))
    times = end - before
    return Window(np.maximum(times, 0.0), FLAG_BEFORE_START if times[0] < 0 else 0)
