"""The rows of a store: segments with their labels, class names, statuses and flags; segments.csv."""

import csv
import functools
import gc
import io
import itertools
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

from mambavl.cache.canonical import pretty_json

STATUS = {
    0: "never written",
    1: "ok",
    2: "empty_window",  # anticipation: nothing to observe before start - tau_a
    3: "missing_video",
    4: "unreadable_video",
    5: "short_video",
    6: "damaged_frame",
    7: "nonfinite_features",
    8: "no_soundtrack",
    9: "damaged_sound",
    10: "no_boxes",
}


OK, EMPTY_WINDOW = 1, 2


STATUS_CODE = {name: code for code, name in STATUS.items()}


FLAGS = {
    1: "window starts before the video: its first frame repeats",
    2: "time from frame numbers",
    4: "held last frame",
    8: "window partly outside the soundtrack: silence there",
}


FLAG_BEFORE_START, FLAG_TIME_FROM_FRAMES, FLAG_HELD_LAST, FLAG_SILENCE = FLAGS


@dataclass(frozen=True, slots=True)
class Segment:
    """One annotated action, a row of a store. Classes are None where the data set gives no labels (EK100's
    test list).
    """

    narration_id: str
    participant_id: str
    video_id: str
    narration_timestamp: str  # as written; may be blank
    start: float  # seconds from the first frame of the video
    stop: float
    start_frame: int  # as written: the image number in the released tars, not a decoder's frame
    stop_frame: int
    split: str
    narration: str = ""
    verb: str = ""
    verb_class: int | None = None
    noun: str = ""
    noun_class: int | None = None
    all_nouns: tuple[str, ...] = ()
    all_noun_classes: tuple[int, ...] = ()
    time_from_frames: bool = False  # no timestamp in the file: start_frame / 60 or 50 was used
    words_from_classes: bool = False  # no narration in the file: the class keys stand in for the words


@dataclass(frozen=True)
class Classes:
    """Names of the verb and noun classes and the groups that EK100 reports apart."""

    verbs: dict[int, str]
    nouns: dict[int, str]
    num_verbs: int
    num_nouns: int
    tail_verbs: tuple[int, ...]
    tail_nouns: tuple[int, ...]
    unseen_participants: tuple[str, ...]

    def to_json(self) -> bytes:
        return pretty_json(asdict(self))

    @classmethod
    def from_json(cls, data: bytes) -> "Classes":
        """What `to_json` wrote: JSON has no keys but texts, and no tuples."""
        raw = json.loads(data)
        for kind in ("verbs", "nouns"):
            raw[kind] = {int(key): name for key, name in raw[kind].items()}
        for group in ("tail_verbs", "tail_nouns", "unseen_participants"):
            raw[group] = tuple(raw[group])
        return cls(**raw)


def write_segments(segments: tuple[Segment, ...]) -> bytes:
    """segments.csv: every column of the data set in seconds and classes, lists as JSON."""
    text = io.StringIO(newline="")
    # a bare carriage return would end the row
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow([f.name for f in fields(Segment)])
    for segment in segments:
        writer.writerow([_cell(getattr(segment, f.name)) for f in fields(Segment)])
    return text.getvalue().encode()


@functools.lru_cache(maxsize=2)  # a second of work, and the stores of a run have the same list
def read_segments(data: bytes) -> tuple[Segment, ...]:
    """What `write_segments` wrote; column by column, since EK100 has 90,000 rows."""
    rows = csv.reader(io.StringIO(data.decode(), newline=""))
    names = next(rows)
    columns = dict(zip(names, list(zip(*rows, strict=True)) or [()] * len(names), strict=True))
    values = (map(_READ.get(f.name, _as_it_is), columns[f.name]) for f in fields(Segment))
    was_on = gc.isenabled()
    # a million small objects, none of them garbage: the collector would take a third of the time
    gc.disable()
    try:
        return tuple(itertools.starmap(Segment, zip(*values, strict=True)))
    finally:
        if was_on:
            gc.enable()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return json.dumps(value, ensure_ascii=False)
    return repr(value) if isinstance(value, float) else str(value)


def _class_or_none(text: str) -> int | None:
    return int(text) if text else None


@functools.lru_cache(maxsize=4096)
def _list(text: str) -> tuple:
    return tuple(json.loads(text))


def _truth(text: str) -> bool:
    return text == "True"


def _as_it_is(text: str) -> str:
    return text


_READ: dict[str, Callable[[str], Any]] = {
    "start": float,
    "stop": float,
    "start_frame": int,
    "stop_frame": int,
    "verb_class": _class_or_none,
    "noun_class": _class_or_none,
    "all_nouns": _list,
    "all_noun_classes": _list,
    "time_from_frames": _truth,
    "words_from_classes": _truth,
}
