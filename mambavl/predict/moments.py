"""When something is said of a video, and what is looked at for it.

At a time t a window is seen that ends at t; nothing later is looked at. In recognition the answer is about
that window, in anticipation about what begins at t + tau_a.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mambavl.cache.rows import Segment
from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.encoders.audio import SHORTEST
from mambavl.extract.sampling import Sampling, Task, window
from mambavl.predict.trained import Trained

SPLIT = "predict"  # of the rows that are made for a video
FAR = 1e5  # seconds; a window there begins at no edge of a video
ROUNDING = 1e-6  # seconds


@dataclass(frozen=True)
class Question:
    """What the run's head answers."""

    task: Task
    tau_a: float  # seconds from the end of a window to what is foretold; 0 in recognition
    # seconds of a window; of recognition by default that of the rows that the head was trained on, the median
    seconds: float


@dataclass(frozen=True)
class Moment:
    """A time at which something is said, and the window that is seen for it, in seconds."""

    time: float
    begins: float
    about: float  # the time that the answer is about
    segment: Segment  # the row that it is in the stores


def question_of(trained: Trained, task: str | None, seconds: float | None) -> Question:
    """What the run's head answers. task: what the user takes it for; seconds: of a window of recognition.

    Raises UsageError for another task than the run's, for a window that cannot be, and for a run that looks
    at nothing.
    """
    asked = {
        name: _question_of(trained, name) for name, stream in trained.streams.items() if not stream.is_text
    }
    found = {name: question for name, question in asked.items() if question}
    if not found:
        raise UsageError(
            f"{trained.run}: reads {', '.join(trained.streams)}, none of them made from video or sound by "
            "`mambavl extract`, so no moment of a video is a row of it"
        )
    (first, question), *others = found.items()
    for name, other in others:
        if (other.task, other.tau_a) != (question.task, question.tau_a):
            raise DataError(
                f"{trained.run}: stream {first} is for {question.task} (tau_a {question.tau_a:g} s), stream "
                f"{name} for {other.task} (tau_a {other.tau_a:g} s); no moment is a row of both"
            )
    if task not in (None, question.task):
        raise UsageError(f"--task {task}: {trained.run} was trained for {question.task}")
    if seconds is None:
        return question
    if question.task == "anticipation":
        raise UsageError(
            f"--window: in anticipation the rule of the features says what is seen, {question.seconds:g} s"
        )
    if seconds < SHORTEST:
        raise UsageError(f"--window {seconds:g}: a window lasts at least {SHORTEST:g} s")
    return Question(question.task, question.tau_a, seconds)


def _question_of(trained: Trained, name: str) -> Question | None:
    """What one stream is about; None where its store does not say."""
    store = trained.streams[name].store
    sampling: dict[str, Any] = dict(store.spec.recipe.sampling or {})
    if not sampling:
        return None
    if sampling["task"] == "recognition":
        lengths = [segment.stop - segment.start for segment in store.segments]
        return Question("recognition", 0.0, max(round(float(np.median(lengths)), 2), SHORTEST))
    tau_a = float(sampling["tau_a"])
    if store.spec.kind == "audio":
        return Question("anticipation", tau_a, float(sampling["seconds"]))
    rule = Sampling.model_validate(sampling)
    if not rule.is_causal:
        raise UsageError(
            f"{trained.run}: the features of stream {name} look into the action that is to be foretold (rule "
            f"{rule.rule}), and of a video nobody knows what comes next; train on features of another rule"
        )
    begins = window(FAR, FAR + 1, rule).times.min()
    return Question("anticipation", tau_a, round(FAR - tau_a - float(begins), 3))


def moments(
    video_id: str, end: float, question: Question, every: float, start: float | None, stop: float | None
) -> tuple[Moment, ...]:
    """The moments of a video that ends at `end` seconds: from `start` to `stop`, `every` seconds.

    The first one by default: in recognition where a whole window has passed, in anticipation after `every`.
    Raises UsageError for times that the video does not have.
    """
    if every <= 0:
        raise UsageError(f"--every {every:g}: is a number of seconds above 0")
    earliest = question.seconds if question.task == "recognition" else 0.0
    first = start if start is not None else earliest or every
    last = end if stop is None else stop
    if first < earliest - ROUNDING or first <= 0:
        raise UsageError(
            f"--start {first:g}: a window of {question.seconds:g} s that ends there begins before the video; "
            f"the first one ends at {earliest or every:g} s"
        )
    if last > end + ROUNDING:
        raise UsageError(f"--stop {last:g}: the video ends at {end:.2f} s")
    if first > last + ROUNDING:
        raise UsageError(
            f"there is no moment from {first:g} s to {last:.2f} s, where the video ends or --stop is; "
            "ask for an earlier --start" + (", or a shorter --window" if earliest else "")
        )
    count = 1 + math.floor((last - first + ROUNDING) / every)
    times = [round(first + number * every, 6) for number in range(count)]
    return tuple(
        _moment(f"{video_id}_{number}", video_id, time, question) for number, time in enumerate(times)
    )


def _moment(name: str, video_id: str, time: float, question: Question) -> Moment:
    begins, about = max(time - question.seconds, 0.0), time + question.tau_a
    # of an action yet to come only its start is ever used; it is given a length because rows have one
    spans = (begins, time) if question.task == "recognition" else (about, about + 1.0)
    segment = Segment(
        narration_id=name,
        participant_id=video_id,
        video_id=video_id,
        narration_timestamp="",
        start=spans[0],
        stop=spans[1],
        start_frame=0,
        stop_frame=0,
        split=SPLIT,
    )
    return Moment(time, begins, about, segment)


def moments_of(segments: Iterable[Segment], question: Question) -> tuple[Moment, ...]:
    """The moments that rows of a store are: a window ends where its action does, or tau_a before it."""
    found = []
    for segment in segments:
        if question.task == "recognition":
            found.append(Moment(segment.stop, segment.start, segment.stop, segment))
        else:
            time = segment.start - question.tau_a
            found.append(Moment(time, max(time - question.seconds, 0.0), segment.start, segment))
    return tuple(found)
