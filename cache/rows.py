"""The rows of a store: segments with their labels, statuses and flags; segments.csv."""

import csv
import functools
import gc
import io
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

Label = int | tuple[int, ...]  # a class; or, where a target may have several, all of them

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


OK, EMPTY_WINDOW, MISSING_VIDEO = 1, 2, 3
# known before any work: these do not count against max_failed while a store is filled, nor are they retried
NOT_RETRIED = (OK, EMPTY_WINDOW, MISSING_VIDEO)


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
    """One annotated action, a row of a store. EK100's words have fields of their own; what a row is
    classified by is in `labels`, which lacks a target where the data set gives none (EK100's test list).
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
    noun: str = ""
    all_nouns: tuple[str, ...] = ()
    all_noun_classes: tuple[int, ...] = ()
    time_from_frames: bool = False  # no timestamp in the file: start_frame / 60 or 50 was used
    words_from_classes: bool = False  # no narration in the file: the class keys stand in for the words
    labels: Mapping[str, Label] = field(default_factory=dict)  # target -> its class, or its classes

    @property
    def verb_class(self) -> int | None:
        return self._class_of("verb")

    @property
    def noun_class(self) -> int | None:
        return self._class_of("noun")

    def labelled(self, **labels: Label | None) -> "Segment":
        """The segment with some labels changed; None takes one away."""
        changed = {**self.labels, **labels}
        return replace(self, labels={name: label for name, label in changed.items() if label is not None})

    def _class_of(self, target: str) -> int | None:
        label = self.labels.get(target)
        return label if isinstance(label, int) else None


FIELDS = tuple(part.name for part in fields(Segment) if part.name != "labels")  # columns of segments.csv


def write_segments(segments: tuple[Segment, ...]) -> bytes:
    """segments.csv: every column of the data set in seconds and classes, lists as JSON. A target's label
    stands in `TARGET_class`, or as a list in `TARGET_classes`, next to the words of that name if there are.
    """
    columns = _columns(segments)
    text = io.StringIO(newline="")
    # a bare carriage return would end the row
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(columns)
    cells = [_cells(segments, name, target) for name, target in columns.items()]
    writer.writerows(zip(*cells, strict=True))
    return text.getvalue().encode()


def _columns(segments: tuple[Segment, ...]) -> dict[str, str | None]:
    """Column -> the target whose labels it has; None for a column that is a field."""
    several = {"verb": False, "noun": False}  # EK100's columns are there whatever is labelled
    for segment in segments:
        for target, label in segment.labels.items():
            several[target] = several.get(target, False) or not isinstance(label, int)
    label_columns = {target: label_column(target, many) for target, many in several.items()}
    found: dict[str, str | None] = {}
    for name in FIELDS:
        found[name] = None
        if name in label_columns:
            found[label_columns.pop(name)] = name
    return found | {column: target for target, column in label_columns.items()}


def label_column(target: str, several: bool) -> str:
    """The column of segments.csv, and of annotation files, that holds a target's labels."""
    return f"{target}_classes" if several else f"{target}_class"


def _cells(segments: tuple[Segment, ...], column: str, target: str | None) -> Iterator[str]:
    if target is None:
        return (_cell(getattr(segment, column)) for segment in segments)
    return (_cell(segment.labels.get(target)) for segment in segments)


@functools.lru_cache(maxsize=2)  # a second of work, and the stores of a run have the same list
def read_segments(data: bytes) -> tuple[Segment, ...]:
    """What `write_segments` wrote; column by column, since EK100 has 90,000 rows."""
    rows = csv.reader(io.StringIO(data.decode(), newline=""))
    names = next(rows)
    columns = dict(zip(names, list(zip(*rows, strict=True)) or [()] * len(names), strict=True))
    label_columns = [name for name in names if name not in FIELDS]
    was_on = gc.isenabled()
    # a million small objects, none of them garbage: the collector would take a third of the time
    gc.disable()
    try:
        values = [map(_READ.get(name, _as_it_is), columns[name]) for name in FIELDS]
        labels = map(
            _label_reader(label_columns), zip(*(columns[name] for name in label_columns), strict=True)
        )
        return tuple(itertools.starmap(Segment, zip(*values, labels, strict=True)))
    finally:
        if was_on:
            gc.enable()


def _label_reader(columns: list[str]) -> Callable[[tuple[str, ...]], Mapping[str, Label]]:
    """Cells of the label columns -> labels. Rows of the same labels share one mapping."""
    targets = [column.removesuffix("_classes").removesuffix("_class") for column in columns]

    @functools.cache
    def read(cells: tuple[str, ...]) -> Mapping[str, Label]:
        found: dict[str, Label] = {}
        for column, target, cell in zip(columns, targets, cells, strict=True):
            if cell:
                found[target] = _list(cell) if column.endswith("_classes") else int(cell)
        return found

    return read


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return json.dumps(value, ensure_ascii=False)
    return repr(value) if isinstance(value, float) else str(value)


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
    "all_nouns": _list,
    "all_noun_classes": _list,
    "time_from_frames": _truth,
    "words_from_classes": _truth,
}
