"""EPIC-KITCHENS-100's annotation files -> Segment records, class lists, tail and unseen lists, video facts.

Seconds are the only unit here. The CSVs' frame columns count the images of the released tars (floor(seconds x
60 or 50)), not the frames a decoder yields, so they serve one purpose: the time of a row whose timestamp is
blank. Any data set written in the same columns reads the same way.
"""

import math
import re
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mambavl.cache.classes import Classes, verb_noun_classes
from mambavl.cache.rows import Segment
from mambavl.cache.spec import Windows
from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.class_lists import ClassList, known_class, read_classes
from mambavl.extract.tables import Row, Tables

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
DEFAULT_SPLITS: tuple[Split, ...] = ("train", "validation")

TIME_COLUMNS = (
    "narration_id",
    "participant_id",
    "video_id",
    "narration_timestamp",
    "start_timestamp",
    "stop_timestamp",
    "start_frame",
    "stop_frame",
)
LABEL_COLUMNS = ("narration", "verb", "verb_class", "noun", "noun_class", "all_nouns", "all_noun_classes")

# ids become file names: no dots, no separators
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What the data set says of a video; the file's own word is checked against it."""

    duration: float  # seconds
    fps: float | None = None  # None, as are the sides: it does not say
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True)
class Annotations:
    """All that stage one needs to know of a data set."""

    folder: Path
    segments: tuple[Segment, ...]  # in canonical order: video, start, id
    classes: Classes  # what a store keeps of the class files, so that stage two needs no annotation file
    lists: dict[str, ClassList]  # target -> its classes with all their words
    videos: dict[str, VideoInfo]
    sha256: dict[str, str] = field(default_factory=dict)  # file name -> digest, for every file that was read
    windows: Windows | None = None  # where the segments are windows over whole videos

    @property
    def verbs(self) -> ClassList:
        """Raises UsageError where the data set has no such target: questions are of a verb and a noun."""
        return self._list("verb")

    @property
    def nouns(self) -> ClassList:
        """As `verbs`."""
        return self._list("noun")

    def _list(self, target: str) -> ClassList:
        if target not in self.lists:
            raise UsageError(
                f"{self.folder}: has no target `{target}` (its targets are {', '.join(self.lists)}), and "
                "questions are about verbs and nouns; leave text out, or name the targets so"
            )
        return self.lists[target]


def canonical_order(segment: Segment) -> tuple[str, float, str]:
    """The key by which a store's rows are sorted."""
    return (segment.video_id, segment.start, segment.narration_id)


def read_annotations(folder: Path, splits: tuple[str, ...] = DEFAULT_SPLITS) -> Annotations:
    """Read the `EPIC_100_*.csv` files of `folder`.

    Raises DataError with up to 50 problems, each with file, line, column and value; nothing is returned half
    read. Raises UsageError for a split that does not exist.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such folder; --annotations takes the folder that holds EPIC_100_train.csv"
        )
    tables = Tables(folder)
    verbs, nouns = (
        read_classes(tables, f"EPIC_100_{kind}_classes.csv", ("id", "key", "instances", "category"))
        for kind in ("verb", "noun")
    )
    segments: list[Segment] = []
    ids = RowIds()
    for split in splits:
        segments += _read_segments(tables, split, verbs, nouns, ids)
    unseen: set[str] = set()
    for name in _unseen_lists(folder, splits):
        unseen |= set(_read_participants(tables, name))
    annotations = Annotations(
        folder=folder,
        segments=tuple(sorted(segments, key=canonical_order)),
        classes=verb_noun_classes(
            verbs.keys,
            nouns.keys,
            tail_verbs=set(_read_class_ids(tables, "EPIC_100_tail_verbs.csv", "verb", verbs)),
            tail_nouns=set(_read_class_ids(tables, "EPIC_100_tail_nouns.csv", "noun", nouns)),
            unseen_participants=unseen,
        ),
        lists={"verb": verbs, "noun": nouns},
        videos=read_videos(tables, "EPIC_100_video_info.csv"),
        sha256=tables.sha256,
    )
    tables.finish()
    return annotations


@dataclass
class RowIds:
    """The ids of the rows of a data set, over all of its files, each with its first place (file:line)."""

    places: dict[str, str] = field(default_factory=dict)  # narration_id -> place
    # video_id -> participant_id, place
    participants: dict[str, tuple[str, str]] = field(default_factory=dict)

    def check(self, row: Row) -> None:
        """A row has ids that can name files, one of its own, and a video one participant."""
        for column in ("narration_id", "participant_id", "video_id"):
            _check_id(row, column, row[column])
        name, video, participant = row["narration_id"], row["video_id"], row["participant_id"]
        if (first := self.places.setdefault(name, row.where)) != row.where:
            row.problem(
                f"narration_id {name} occurs twice, first in {first}; a segment has one id and one split"
            )
        known, place = self.participants.setdefault(video, (participant, row.where))
        if known != participant:
            row.problem(f"video {video} belongs to {participant}, but to {known} in {place}")


def _unseen_lists(folder: Path, splits: tuple[str, ...]) -> list[str]:
    """The lists of unseen participants that belong to some splits: validation's, and the test list's where
    there is one.
    """
    validation = "EPIC_100_unseen_participant_ids_validation.csv"
    test = "EPIC_100_unseen_participant_ids_test.csv"
    if "test" not in splits or not (folder / test).is_file():
        return [validation]
    return [test] if set(splits) == {"test"} else [validation, test]


def _read_segments(
    tables: Tables, split: str, verbs: ClassList, nouns: ClassList, ids: RowIds
) -> list[Segment]:
    name = _split_file(tables.folder, split)
    is_labelled = split != "test"
    segments: list[Segment] = []
    for row in tables.rows(name, TIME_COLUMNS + (LABEL_COLUMNS if is_labelled else ())):
        before = len(tables.problems)
        ids.check(row)
        times = _times(row)
        labels = _labels(row, verbs, nouns) if is_labelled else {}
        if times is None or len(tables.problems) > before:
            continue
        segments.append(_segment(row, split, times, labels))
    if not segments and not tables.problems:
        raise DataError(f"{tables.folder / name}: has a header and no row")
    return segments


def _split_file(folder: Path, split: str) -> str:
    if split not in SPLITS:
        raise UsageError(f"there is no split {split!r}; the splits are {', '.join(SPLITS)}")
    published = "EPIC_100_test_timestamps.csv" if split == "test" else f"EPIC_100_{split}.csv"
    rebuilt = f"EPIC_100_{split}.rebuilt.csv"  # a list rebuilt from public parts, with gaps
    for name in (published, rebuilt):
        if (folder / name).is_file():
            return name
    raise DataError(f"{folder}: has no {published}, which lists the {split} split")


def _segment(row: Row, split: str, times: "_Times", labels: dict[str, Any]) -> Segment:
    return Segment(
        narration_id=row["narration_id"],
        participant_id=row["participant_id"],
        video_id=row["video_id"],
        narration_timestamp=row["narration_timestamp"],
        start=times.start,
        stop=times.stop,
        start_frame=times.start_frame,
        stop_frame=times.stop_frame,
        split=split,
        time_from_frames=times.from_frames,
        **labels,
    )


def _check_id(row: Row, column: str, name: str) -> None:
    row.text(column)  # "nan" would be an id
    if not ID.fullmatch(name):
        row.problem(f"{column} {row[column]!r} is not an id (letters, digits, _ and - only)")


class _Times(NamedTuple):
    """When a segment is: seconds, and images of the released tar."""

    start: float
    stop: float
    start_frame: int
    stop_frame: int
    from_frames: bool  # the seconds were blank


def _times(row: Row) -> _Times | None:
    start_frame = row.integer("start_frame", 0, 10**9)
    stop_frame = row.integer("stop_frame", 0, 10**9)
    from_frames = not row["start_timestamp"].strip() or not row["stop_timestamp"].strip()
    start: float | None = None
    stop: float | None = None
    if not from_frames:
        start, stop = row.seconds("start_timestamp"), row.seconds("stop_timestamp")
    elif start_frame is not None and stop_frame is not None:
        rate = nominal_rate(row["video_id"])
        start, stop = start_frame / rate, stop_frame / rate
    if start is not None and stop is not None and stop <= start:
        row.problem(f"ends at {stop:.2f} s, not after its start at {start:.2f} s")
    if start is None or stop is None or start_frame is None or stop_frame is None:
        return None
    return _Times(start, stop, start_frame, stop_frame, from_frames)


def _labels(row: Row, verbs: ClassList, nouns: ClassList) -> dict[str, Any]:
    """The fields of a Segment that say what is done; of blank words, the classes' own."""
    verb_class = known_class(row, "verb_class", verbs)
    noun_class = known_class(row, "noun_class", nouns)
    if verb_class is None or noun_class is None:
        return {}
    narration, verb, noun = (row.text(column) for column in ("narration", "verb", "noun"))
    is_blank = not (narration and verb and noun)
    noun = noun or nouns.keys[noun_class]
    all_nouns = row.words("all_nouns") if row["all_nouns"].strip() else [noun]
    all_classes = row.numbers("all_noun_classes") if row["all_noun_classes"].strip() else [noun_class]
    if all_nouns is None or all_classes is None:
        return {}
    return {
        "narration": narration or f"{verbs.words(verb_class)} {nouns.words(noun_class)}",
        "verb": verb or verbs.keys[verb_class],
        "noun": noun,
        "labels": {"verb": verb_class, "noun": noun_class},
        "all_nouns": tuple(all_nouns),
        "all_noun_classes": tuple(all_classes),
        "words_from_classes": is_blank,
    }


def _read_class_ids(tables: Tables, name: str, column: str, classes: ClassList) -> list[int]:
    found = [known_class(row, column, classes) for row in tables.rows(name, (column,))]
    return [class_id for class_id in found if class_id is not None]


def _read_participants(tables: Tables, name: str) -> list[str]:
    found = []
    for row in tables.rows(name, ("participant_id",)):
        participant = row["participant_id"].strip()
        _check_id(row, "participant_id", participant)
        found.append(participant)
    return found


VIDEO_COLUMNS = ("video_id", "duration", "fps", "resolution")


def read_videos(tables: Tables, name: str, required: tuple[str, ...] = VIDEO_COLUMNS) -> dict[str, VideoInfo]:
    """What a file says of each video, in VIDEO_COLUMNS; those that are not required may be absent."""
    videos: dict[str, VideoInfo] = {}
    places: dict[str, str] = {}
    for row in tables.rows(name, required):
        try:
            info = _video_info(row)
        except ValueError:
            row.problem(f"duration, fps or resolution is not a number above 0: {row.cells}")
            continue
        _check_id(row, "video_id", row["video_id"])
        if (first := places.setdefault(row["video_id"], row.where)) != row.where:
            row.problem(f"video {row['video_id']} occurs twice, first in {first}")
        videos[row["video_id"]] = info
    return videos


def _video_info(row: Row) -> VideoInfo:
    """Raises ValueError."""
    rate = float(row["fps"]) if "fps" in row.cells else None
    width = height = None
    if "resolution" in row.cells:
        width, height = (int(side) for side in row["resolution"].split("x"))
    info = VideoInfo(float(row["duration"]), rate, width, height)
    if not all(0 < value < math.inf for value in astuple(info) if value is not None):
        raise ValueError
    return info


def nominal_rate(video_id: str) -> int:
    """The rate behind EK100's frame columns: 50 for the extension (three digits after the underscore), 60
    before it.
    """
    return 50 if len(video_id.rpartition("_")[2]) == 3 else 60
