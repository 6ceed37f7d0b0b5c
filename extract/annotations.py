"""EPIC-KITCHENS-100's annotation files -> Segment records, class lists, tail and unseen lists, video facts.

Seconds are the only unit here. The CSVs' frame columns count the images of the released tars (floor(seconds x
60 or 50)), not the frames a decoder yields, so they serve one purpose: the time of a row whose timestamp is
blank. Any data set written in the same columns reads the same way.
"""

import ast
import csv
import hashlib
import io
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from mambavl.cache.rows import Classes, Segment
from mambavl.configs.errors import DataError, UsageError

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
DEFAULT_SPLITS: tuple[Split, ...] = ("train", "validation")
MAX_PROBLEMS = 50

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

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")  # ids become file names: no dots, no separators
_TIME = re.compile(r"(\d{1,3}):([0-5]\d):([0-5]\d(?:\.\d{1,9})?)")
_FLAT_LIST = re.compile(r"\[[^\[\]{}()]*\]")


@dataclass(frozen=True)
class ClassList:
    """The classes of one kind. Ids may have gaps; `size` is what a head needs: the largest id plus one."""

    keys: dict[int, str]
    instances: dict[int, tuple[str, ...]]
    categories: dict[int, str]

    @property
    def size(self) -> int:
        return max(self.keys) + 1

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Every key and instance of every class."""
        return tuple(
            name for class_id in self.keys for name in (self.keys[class_id], *self.instances[class_id])
        )

    def words(self, class_id: int) -> str:
        """The key as a person would say it: `turn-on` -> `turn on`, `board:chopping` -> `chopping board`."""
        return spoken(self.keys[class_id])


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What the data set says of a video; the file's own word is checked against it."""

    duration: float  # seconds
    fps: float
    width: int
    height: int


@dataclass(frozen=True)
class Annotations:
    """All that stage one needs to know of a data set. `segments` are in canonical order (video, start, id)."""

    folder: Path
    segments: tuple[Segment, ...]
    verbs: ClassList
    nouns: ClassList
    tail_verbs: frozenset[int]
    tail_nouns: frozenset[int]
    unseen_participants: frozenset[str]
    videos: dict[str, VideoInfo]
    sha256: dict[str, str] = field(default_factory=dict)  # file name -> digest, for every file that was read

    @property
    def classes(self) -> Classes:
        """What a store keeps of the class files, so that stage two needs no annotation file."""
        return Classes(
            verbs=self.verbs.keys,
            nouns=self.nouns.keys,
            num_verbs=self.verbs.size,
            num_nouns=self.nouns.size,
            tail_verbs=tuple(sorted(self.tail_verbs)),
            tail_nouns=tuple(sorted(self.tail_nouns)),
            unseen_participants=tuple(sorted(self.unseen_participants)),
        )


def spoken(key: str) -> str:
    """A class key or instance in speaking order: nouns are stored head first (`bottle:water`), verbs with
    hyphens.
    """
    return " ".join(reversed(key.split(":"))).replace("-", " ")


def canonical_order(segment: Segment) -> tuple[str, float, str]:
    return (segment.video_id, segment.start, segment.narration_id)


def read_annotations(folder: Path, splits: tuple[str, ...] = DEFAULT_SPLITS) -> Annotations:
    """Read the `EPIC_100_*.csv` files of `folder`.

    Raises DataError with up to 50 problems, each with file, line, column and value; nothing is returned half
    read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such folder; --annotations wants the one that holds EPIC_100_train.csv"
        )
    reader = _Reader(folder)
    verbs, nouns = reader.class_list("verb"), reader.class_list("noun")
    segments: list[Segment] = []
    for split in splits:
        segments += reader.segments(split, verbs, nouns)
    seen: dict[str, str] = {}
    cooks: dict[str, str] = {}
    for segment in segments:
        if cooks.setdefault(segment.video_id, segment.participant_id) != segment.participant_id:
            reader.problem(
                f"video {segment.video_id} belongs to {cooks[segment.video_id]} and to {segment.participant_id}"
            )
        if segment.narration_id in seen:
            reader.problem(
                f"narration_id {segment.narration_id} occurs twice ({seen[segment.narration_id]} and {segment.split}); "
                "a segment must have one id and one split"
            )
        seen[segment.narration_id] = segment.split
    unseen = [reader.participants(name) for name in _unseen_lists(folder, splits)]
    annotations = Annotations(
        folder=folder,
        segments=tuple(sorted(segments, key=canonical_order)),
        verbs=verbs,
        nouns=nouns,
        tail_verbs=frozenset(reader.id_list("EPIC_100_tail_verbs.csv", "verb", verbs)),
        tail_nouns=frozenset(reader.id_list("EPIC_100_tail_nouns.csv", "noun", nouns)),
        unseen_participants=frozenset(participant for found in unseen for participant in found),
        videos=reader.video_info(),
        sha256=reader.sha256,
    )
    reader.finish()
    return annotations


def _unseen_lists(folder: Path, splits: tuple[str, ...]) -> list[str]:
    """The lists of unseen participants that belong to some splits: validation's, and the test list's where
    there is one.
    """
    test = "EPIC_100_unseen_participant_ids_test.csv"
    names = (
        ["EPIC_100_unseen_participant_ids_validation.csv"]
        if set(splits) != {"test"} or not (folder / test).is_file()
        else []
    )
    return names + ([test] if "test" in splits and (folder / test).is_file() else [])


class _Reader:
    """Reads the files of one folder, remembers every problem, and reports them together."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sha256: dict[str, str] = {}
        self.problems: list[str] = []

    def problem(self, text: str) -> None:
        self.problems.append(text)
        if len(self.problems) >= MAX_PROBLEMS:
            self.problems.append(f"... and perhaps more; stopped after {MAX_PROBLEMS}")
            self.finish()

    def finish(self) -> None:
        if self.problems:
            raise DataError("\n".join(self.problems))

    def rows(self, name: str, required: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
        path = self.folder / name
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise DataError(
                f"{path}: cannot be read ({error.strerror}); EK100's annotation repository has it"
            ) from None
        self.sha256[name] = hashlib.sha256(raw).hexdigest()
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
        if "\0" in text:
            raise DataError(f"{path}: holds a NUL character, so it is no CSV (a damaged download?)")
        table = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        try:
            columns = table.fieldnames
            if not columns:
                raise DataError(f"{path}: is empty; expected a header with {', '.join(required)}")
            twice = sorted({column for column in columns if columns.count(column) > 1})
            if twice:
                raise DataError(f"{path}: names the column {', '.join(twice)} twice")
            missing = [column for column in required if column not in columns]
            if missing:
                raise DataError(
                    f"{path}: has no column {', '.join(missing)}; its columns are {', '.join(columns)}"
                )
            for row in table:
                if None in row:
                    self.problem(f"{path}:{table.line_num}: has more fields than the header")
                elif None in row.values():
                    self.problem(f"{path}:{table.line_num}: has fewer fields than the header")
                else:
                    yield table.line_num, row
        except csv.Error as error:
            raise DataError(f"{path}:{table.line_num}: is not valid CSV ({error})") from None

    def class_list(self, kind: str) -> ClassList:
        name = f"EPIC_100_{kind}_classes.csv"
        keys, instances, categories = {}, {}, {}
        for line, row in self.rows(name, ("id", "key", "instances", "category")):
            where = f"{self.folder / name}:{line}"
            class_id = self.integer(where, row, "id", 0, 99_999)
            words = self.text_list(where, row, "instances")
            if class_id is None or words is None:
                continue
            if class_id in keys:
                self.problem(f"{where}: class {class_id} occurs twice")
            keys[class_id], instances[class_id], categories[class_id] = (
                row["key"],
                tuple(words),
                row["category"],
            )
        self.finish()
        if not keys:
            raise DataError(f"{self.folder / name}: lists no class")
        return ClassList(keys, instances, categories)

    def segments(self, split: str, verbs: ClassList, nouns: ClassList) -> list[Segment]:
        name = self._split_file(split)
        labelled = split != "test"
        required = TIME_COLUMNS + (LABEL_COLUMNS if labelled else ())
        found = [
            segment
            for line, row in self.rows(name, required)
            if (segment := self._segment(f"{self.folder / name}:{line}", row, split, labelled, verbs, nouns))
        ]
        if not found and not self.problems:
            raise DataError(f"{self.folder / name}: has a header and no row")
        return found

    def _split_file(self, split: str) -> str:
        if split not in SPLITS:
            raise UsageError(f"there is no split {split!r}; the splits are {', '.join(SPLITS)}")
        names = ["EPIC_100_test_timestamps.csv"] if split == "test" else [f"EPIC_100_{split}.csv"]
        names.append(f"EPIC_100_{split}.rebuilt.csv")  # a list rebuilt from public parts, with gaps
        for name in names:
            if (self.folder / name).is_file():
                return name
        raise DataError(f"{self.folder}: has no {names[0]}, which lists the {split} split")

    def _segment(
        self, where: str, row: dict[str, str], split: str, labelled: bool, verbs: ClassList, nouns: ClassList
    ) -> Segment | None:
        before = len(self.problems)
        for column in ("narration_id", "participant_id", "video_id"):
            if not _ID.fullmatch(row[column]):
                self.problem(f"{where}: {column} {row[column]!r} is no id (letters, digits, _ and - only)")
        start_frame = self.integer(where, row, "start_frame", 0, 10**9)
        stop_frame = self.integer(where, row, "stop_frame", 0, 10**9)
        from_frames = not row["start_timestamp"].strip() or not row["stop_timestamp"].strip()
        if from_frames:
            rate = nominal_rate(row["video_id"])
            start = None if start_frame is None else start_frame / rate
            stop = None if stop_frame is None else stop_frame / rate
        else:
            start, stop = (
                self.seconds(where, row, "start_timestamp"),
                self.seconds(where, row, "stop_timestamp"),
            )
        if start is not None and stop is not None and stop <= start:
            self.problem(f"{where}: ends at {stop:.2f} s, not after its start at {start:.2f} s")
        labels = self._labels(where, row, verbs, nouns) if labelled else {}
        if len(self.problems) > before:
            return None
        return Segment(
            narration_id=row["narration_id"],
            participant_id=row["participant_id"],
            video_id=row["video_id"],
            narration_timestamp=row["narration_timestamp"],
            start=start,
            stop=stop,
            start_frame=start_frame,
            stop_frame=stop_frame,
            split=split,
            time_from_frames=from_frames,
            **labels,
        )

    def _labels(self, where: str, row: dict[str, str], verbs: ClassList, nouns: ClassList) -> dict:
        verb_class = self.known_class(where, row, "verb_class", verbs)
        noun_class = self.known_class(where, row, "noun_class", nouns)
        if verb_class is None or noun_class is None:
            return {}
        words = {column: row[column].strip() for column in ("narration", "verb", "noun")}
        blank = not all(words.values())
        words["verb"] = words["verb"] or verbs.keys[verb_class]
        words["noun"] = words["noun"] or nouns.keys[noun_class]
        words["narration"] = words["narration"] or f"{verbs.words(verb_class)} {nouns.words(noun_class)}"
        all_nouns = self.text_list(where, row, "all_nouns") if row["all_nouns"].strip() else [words["noun"]]
        all_classes = (
            self.int_list(where, row, "all_noun_classes") if row["all_noun_classes"].strip() else [noun_class]
        )
        if all_nouns is None or all_classes is None:
            return {}
        return {
            **words,
            "verb_class": verb_class,
            "noun_class": noun_class,
            "all_nouns": tuple(all_nouns),
            "all_noun_classes": tuple(all_classes),
            "words_from_classes": blank,
        }

    def known_class(self, where: str, row: dict[str, str], column: str, classes: ClassList) -> int | None:
        value = self.integer(where, row, column, 0, 10**6)
        if value is not None and value not in classes.keys:
            self.problem(f"{where}: {column} {value} is not in the class file (0 to {classes.size - 1})")
            return None
        return value

    def id_list(self, name: str, column: str, classes: ClassList) -> list[int]:
        rows = self.rows(name, (column,))
        ids = [self.known_class(f"{self.folder / name}:{line}", row, column, classes) for line, row in rows]
        return [class_id for class_id in ids if class_id is not None]

    def participants(self, name: str) -> list[str]:
        found = []
        for line, row in self.rows(name, ("participant_id",)):
            found.append(row["participant_id"].strip())
            if not _ID.fullmatch(found[-1]):
                self.problem(
                    f"{self.folder / name}:{line}: participant_id {row['participant_id']!r} is no id"
                )
        return found

    def video_info(self) -> dict[str, VideoInfo]:
        name, videos = "EPIC_100_video_info.csv", {}
        for line, row in self.rows(name, ("video_id", "duration", "fps", "resolution")):
            where = f"{self.folder / name}:{line}"
            try:
                width, height = (int(side) for side in row["resolution"].split("x"))
                info = VideoInfo(float(row["duration"]), float(row["fps"]), width, height)
                if not (math.isfinite(info.duration) and math.isfinite(info.fps)):
                    raise ValueError
            except ValueError:
                self.problem(f"{where}: duration, fps or resolution is no number: {row}")
                continue
            if not _ID.fullmatch(row["video_id"]):
                self.problem(
                    f"{where}: video_id {row['video_id']!r} is no id (letters, digits, _ and - only)"
                )
            videos[row["video_id"]] = info
        return videos

    def integer(self, where: str, row: dict[str, str], column: str, low: int, high: int) -> int | None:
        text = row[column].strip()
        if not re.fullmatch(r"\d{1,10}", text) or not low <= int(text) <= high:
            self.problem(f"{where}: {column} {row[column]!r} is not a whole number from {low} to {high}")
            return None
        return int(text)

    def seconds(self, where: str, row: dict[str, str], column: str) -> float | None:
        match = _TIME.fullmatch(row[column].strip())
        if not match:
            self.problem(f"{where}: {column} {row[column]!r} is no time; expected HH:MM:SS.ss")
            return None
        hours, minutes, seconds = match.groups()
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)

    def text_list(self, where: str, row: dict[str, str], column: str) -> list[str] | None:
        return self._list(where, row, column, str)

    def int_list(self, where: str, row: dict[str, str], column: str) -> list[int] | None:
        return self._list(where, row, column, int)

    def _list(self, where: str, row: dict[str, str], column: str, kind: type) -> list | None:
        """A Python list printed as text. Only a flat list of literals gets as far as the literal parser."""
        text = row[column].strip()
        try:
            value = ast.literal_eval(text) if len(text) < 100_000 and _FLAT_LIST.fullmatch(text) else None
        except (ValueError, SyntaxError):
            value = None
        if not isinstance(value, list) or not all(type(item) is kind for item in value):
            self.problem(
                f"{where}: {column} {text[:60]!r} is not a list of {'words' if kind is str else 'numbers'}"
            )
            return None
        return value


def nominal_rate(video_id: str) -> int:
    """The rate behind EK100's frame columns: 50 for the extension (three digits after the underscore), 60
    before it.
    """
    return 50 if len(video_id.rpartition("_")[2]) == 3 else 60


def find_video(root: Path, participant_id: str, video_id: str) -> Path | None:
    """The video's file under `root`, in the first known disk layout that has it; None when none has."""
    for layout in LAYOUTS:
        path = layout(root, participant_id, video_id)
        if path.is_file():
            return path
    return None


def epic_layout(root: Path, participant_id: str, video_id: str) -> Path:
    """What EPIC's downloader makes: P01/videos/P01_01.MP4."""
    return root / participant_id / "videos" / f"{video_id}.MP4"


def flat_layout(root: Path, participant_id: str, video_id: str) -> Path:
    """P01/P01_01.MP4, as LaViLa's users keep their resized copies."""
    return root / participant_id / f"{video_id}.MP4"


LAYOUTS = (epic_layout, flat_layout)


def fingerprint(path: Path | None, method: Literal["fast", "full"]) -> list[int | str] | None:
    """What stands for an input file in a store's spec: its size, and its time of change (fast) or its sha256
    (full).
    """
    if path is None:
        return None
    stat = path.stat()
    if method == "fast":
        return [stat.st_size, stat.st_mtime_ns]
    with open(path, "rb") as file:
        return [stat.st_size, hashlib.file_digest(file, "sha256").hexdigest()]
