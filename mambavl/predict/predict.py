"""A run and a video -> an answer for each moment, and all of them as one JSON document."""

import contextlib
import importlib.metadata
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mambavl.cache import open_store
from mambavl.cache.rows import Segment
from mambavl.configs.errors import DataError, Interrupted, UsageError
from mambavl.configs.progress import Progress, ShouldStop, never, unseen
from mambavl.extract.annotations import Annotations
from mambavl.extract.timeline import VideoError
from mambavl.extract.video import open_video
from mambavl.predict.answers import Guess, best, refuse_no_stream, scores, scores_of_stream
from mambavl.predict.asked import Asked, asked
from mambavl.predict.features import Features, StreamRows, look_up, refuse_later_frames, rows_of
from mambavl.predict.making import Making, make, refuse_what_cannot_be_made
from mambavl.predict.moments import Moment, Question, moments, moments_of, question_of
from mambavl.predict.trained import Stream, Trained, open_trained

EVERY = 1.0  # seconds


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked. Times in seconds; the mappings are by stream."""

    run: Path
    video: Path  # as stage one takes them; where features come from stores, the id of a video will do
    task: str | None = None  # what the user takes the run's task for
    every: float | None = None
    start: float | None = None
    stop: float | None = None
    window: float | None = None
    stream: bool = False  # an answer is about all windows so far; they adjoin unless `every` says otherwise
    questions: Sequence[str] = ()
    stores: Mapping[str, Path] = field(default_factory=dict)  # whose rows of the video are used
    moved: Mapping[str, Path] = field(default_factory=dict)  # where a store of the run lies now
    weights: Mapping[str, str] = field(default_factory=dict)
    trusted: Mapping[str, str] = field(default_factory=dict)  # own encoders that may be run
    device: str = "auto"


@dataclass(frozen=True)
class Answer:
    """What the head says at a moment."""

    moment: Moment
    best: Mapping[str, list[Guess]] | None  # target -> its best classes; None without features
    status: str = "ok"
    reason: str = ""


@dataclass(frozen=True)
class Predicted:
    """All answers, and what they must be read with."""

    answers: list[Answer]
    document: dict[str, Any]


def predict(
    request: Request,
    *,
    progress: Progress = unseen,
    should_stop: ShouldStop = never,
    on_answer: Callable[[Answer], None] = lambda answer: None,
) -> Predicted:
    """What the run's head says of the video. on_answer: called with each answer as it comes.

    Raises UsageError for what cannot be asked of this run, DataError where run, stores or video are not
    right or no moment has features, Interrupted when `should_stop()` turns true.
    """
    trained = open_trained(request.run, request.moved)
    named = {"--store": request.stores, "--weights": request.weights, "--encoder": request.trusted}
    for option, streams in named.items():
        trained.refuse_unknown_streams(option, streams)
    if request.stores:
        _refuse_own_times(request)
    if request.stream:
        refuse_no_stream(trained)
    question = question_of(trained, request.task, request.window)
    texts = [name for name, stream in trained.streams.items() if stream.is_text]
    if request.stream and any(name in request.stores for name in texts):
        raise UsageError("--stream: questions are read once, so they cannot be those of a store's rows")
    are_asked = not texts or any(name not in request.stores for name in texts)
    if request.questions and not are_asked:
        raise UsageError("--questions: the stores that are given hold the questions of their rows")
    questions = asked(trained, request.questions) if are_asked else None
    with _scratch() as scratch:
        how = Making(
            folder=scratch,
            weights=request.weights,
            trusted=request.trusted,
            device=request.device,
            progress=progress,
            should_stop=should_stop,
        )
        if request.stores:
            found, rows = _cached(request, trained, question, questions, how)
        else:
            found, rows = _live(request, trained, question, questions, how)
        ends = np.array([moment.time for moment in found])
        for stream in rows.values():
            if not stream.stream.is_text:
                refuse_later_frames(stream, ends)
        features = Features(trained, rows)
        if not features.usable.any():
            status, reason = features.fault(0)
            raise DataError(f"{request.video}: no moment of it has features ({status}: {reason})")
        answers = []
        said = scores_of_stream if request.stream else scores
        for number, given in said(trained, features):
            if given is None:
                answer = Answer(found[number], None, *features.fault(number))
            else:
                answer = Answer(found[number], best(trained.targets, given))
            answers.append(answer)
            on_answer(answer)
        return Predicted(answers, _document(request, trained, question, questions, rows, answers))


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for stores that nobody needs afterwards. Raises Interrupted in words that are true of it."""
    try:
        with tempfile.TemporaryDirectory(prefix="mambavl-predict-") as folder:
            yield Path(folder)
    except Interrupted:
        raise Interrupted("stopped; nothing is kept, and the same command begins again") from None


def video_id_of(video: Path) -> str:
    """The name of a file as rows are named."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", video.stem)


def length_of(video: Path) -> float:
    """Seconds. Raises DataError for a file that is not there or no video."""
    if not video.exists():
        raise DataError(f"{video}: no such video file")
    try:
        reader = open_video(video)
    except VideoError as error:
        raise DataError(str(error)) from None
    try:
        return reader.timeline.end
    finally:
        reader.close()


def _live(
    request: Request, trained: Trained, question: Question, questions: Asked | None, how: Making
) -> tuple[tuple[Moment, ...], dict[str, StreamRows]]:
    """Moments at even times, and features made of them."""
    for stream in trained.streams.values():
        refuse_what_cannot_be_made(stream)
    end, video_id, every = length_of(request.video), video_id_of(request.video), request.every
    if every is None:
        every = question.seconds if request.stream else EVERY
    found = moments(video_id, end, question, every, request.start, request.stop)
    segments = [moment.segment for moment in found]
    return found, _made(list(trained.streams.values()), request.video, segments, trained, questions, how)


def _refuse_own_times(request: Request) -> None:
    """Raises UsageError for times that rows of a store have themselves."""
    for option, value in (("--every", request.every), ("--window", request.window)):
        if value is not None:
            raise UsageError(f"{option}: with --store the moments are the rows of the store")


def _cached(
    request: Request, trained: Trained, question: Question, questions: Asked | None, how: Making
) -> tuple[tuple[Moment, ...], dict[str, StreamRows]]:
    """The moments that rows of stores are, and their features; questions are made if no store has them."""
    seen = [stream for stream in trained.streams.values() if not stream.is_text]
    if lacking := [stream.name for stream in seen if stream.name not in request.stores]:
        raise UsageError(
            f"--store: the rows of one store are the moments of all, so give one for {lacking[0]} as well: "
            f"--store {lacking[0]}=PATH"
        )
    stores = {name: open_store(path) for name, path in request.stores.items()}
    first = stores[seen[0].name]
    video_id = video_id_of(request.video) if request.video.exists() else str(request.video)
    segments = [first.segments[row] for row in rows_of(seen[0], first, video_id)]
    start, stop = request.start or 0.0, np.inf if request.stop is None else request.stop
    found = tuple(one for one in moments_of(segments, question) if start <= one.time <= stop)
    if not found:
        raise UsageError(f"--start, --stop: none of {len(segments)} rows of {video_id} ends between them")
    segments = [moment.segment for moment in found]
    rows = {name: look_up(trained.streams[name], store, segments) for name, store in stores.items()}
    others = [stream for name, stream in trained.streams.items() if name not in stores]
    return found, rows | _made(others, request.video, segments, trained, questions, how)


def _made(
    streams: Sequence[Stream],
    video: Path,
    segments: Sequence[Segment],
    trained: Trained,
    questions: Asked | None,
    how: Making,
) -> dict[str, StreamRows]:
    """Features of some streams; those of one training store are made together."""
    groups: dict[Path, list[Stream]] = {}
    for stream in sorted(streams, key=lambda stream: not stream.is_text):  # what takes no time may fail first
        groups.setdefault(stream.store.path, []).append(stream)
    rows = Annotations(folder=video, segments=tuple(segments), classes=trained.classes, lists={}, videos={})
    found = {}
    for group in groups.values():
        store = make(group, rows, video, questions, how)
        # a question is the same at every moment
        of_moments = np.zeros(len(segments), np.int64) if group[0].is_text else np.arange(len(segments))
        for stream in group:
            found[stream.name] = StreamRows(stream, store, of_moments)
    return found


# --- as JSON


def _document(
    request: Request,
    trained: Trained,
    question: Question,
    questions: Asked | None,
    rows: Mapping[str, StreamRows],
    answers: Sequence[Answer],
) -> dict[str, Any]:
    return {
        "made_by": f"mambavl {importlib.metadata.version('mambavl')}",
        "video": str(request.video),
        "run": {
            "path": str(trained.run),
            "title": trained.result.title,
            "head": trained.result.head,
            "model_sha256": trained.model_sha256,
        },
        "task": question.task,
        "tau_a": question.tau_a,
        "stream": request.stream,
        "text": _text(trained, questions, rows),
        "notice": trained.result.notice,
        "streams": {name: _stream(one, name in request.stores) for name, one in rows.items()},
        "predictions": [_record(answer) for answer in answers],
    }


def _text(trained: Trained, questions: Asked | None, rows: Mapping[str, StreamRows]) -> dict[str, Any] | None:
    texts = [one for one in rows.values() if one.stream.is_text]
    if not texts:
        return None
    made = texts[0].store.spec.recipe.questions
    return {
        "protocol": made.protocol if made else "unknown",
        "trained_on": trained.result.text_protocol,
        "questions": questions.texts if questions else None,  # None: each row of the store has its own
    }


def _stream(one: StreamRows, is_cached: bool) -> dict[str, Any]:
    encoder = one.store.spec.recipe.encoder
    return {
        "encoder": encoder.name if encoder else "unknown",
        "weights_state": encoder.state if encoder else None,
        "weights_sha256": encoder.sha256 if encoder else None,
        "level": one.stream.source.level,
        "store": str(one.store.path) if is_cached else None,  # None: made for this video
    }


def _record(answer: Answer) -> dict[str, Any]:
    moment = answer.moment
    record: dict[str, Any] = {
        "time": moment.time,
        "about": moment.about,
        "window": [moment.begins, moment.time],
        "narration_id": moment.segment.narration_id,
        "status": answer.status,
    }
    if answer.best is None:
        return record | {"reason": answer.reason, "best": None}
    found = {}
    for target, guesses in answer.best.items():
        found[target] = [
            {
                "id": guess.ids[0] if len(guess.ids) == 1 else list(guess.ids),
                "name": guess.name,
                "probability": guess.probability,
            }
            for guess in guesses
        ]
    return record | {"best": found}
