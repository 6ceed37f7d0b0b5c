"""What a reader makes of other people's lists: rows in seconds, the classes of their targets; and the checks
that every layout shares.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from mambavl.cache.classes import Kind
from mambavl.cache.rows import Label
from mambavl.configs.errors import DataError, UsageError, counted, did_you_mean, some
from mambavl.extract.annotations import ID, SPLITS
from mambavl.extract.class_lists import ClassList
from mambavl.extract.tables import NO_VALUE, Tables

Unit = Literal["seconds", "milliseconds", "clock"]  # of times; frames are columns of their own
NOBODY = "unknown"  # participant of rows whose list names none
LONGEST = 86_400.0  # seconds; no video of any of these data sets lasts for a day


@dataclass(frozen=True)
class Request:
    """What the command line says of a list; a reader takes what its layout leaves open."""

    columns: Mapping[str, str] = field(default_factory=dict)  # what it holds -> column
    single: Mapping[str, str] = field(default_factory=dict)  # target -> column, one class a row
    multi: Mapping[str, str] = field(default_factory=dict)  # target -> column, any number of classes
    separator: str | None = None  # between the labels of a cell
    delimiter: str | None = None  # between the cells of a line
    unit: Unit | None = None
    fps: float | None = None  # at which frames are counted, the first at 0 s
    classes: Mapping[str, Path] = field(default_factory=dict)  # target -> file with its classes
    names: Mapping[str, str] = field(default_factory=dict)  # target -> column with the names of its ids
    split: str | None = None  # of all rows
    splits: Mapping[str, str] = field(default_factory=dict)  # what the list calls a split -> ours
    fold: int | None = None
    without: frozenset[str] = frozenset()  # videos and rows that are left out


@dataclass(frozen=True)
class Listed:
    """A row, and its place in the source. Labels are ids of classes."""

    where: str
    video: str
    start: float  # seconds
    stop: float
    split: str
    labels: Mapping[str, Label] = field(default_factory=dict)
    name: str = ""  # empty: made of the video and its place among the video's rows
    participant: str = NOBODY
    text: str = ""

    @property
    def content(self) -> tuple[object, ...]:
        """What two rows that are one row have in common, whatever they are called."""
        return (self.video, self.start, self.stop, self.text, tuple(sorted(self.labels.items())))


class Names:
    """The classes of a target: a list that is given, or names in the order in which they first appear."""

    def __init__(self, kind: Kind = "single", given: ClassList | None = None) -> None:
        self.kind: Kind = kind
        self.given = given
        keys = {} if given is None else given.keys
        self.ids = {key: class_id for class_id, key in keys.items()}
        self._any_case = {key.casefold(): key for key in self.ids} if given is not None else {}
        if len(self.ids) < len(keys):
            twice = sorted({key for class_id, key in keys.items() if self.ids[key] != class_id})
            raise DataError(f"a class list names {some(twice)} twice; a name is of one class")

    def id_of(self, name: str) -> int:
        """Capitals do not matter where a list is given. Raises ValueError for a name that it does not have,
        and for what is none.
        """
        if not name or name in NO_VALUE:
            raise ValueError(f"{name!r} is not the name of a class")
        if name not in self.ids and len(self._any_case) == len(self.ids):
            name = self._any_case.get(name.casefold(), name)
        if self.given is not None and name not in self.ids:
            raise ValueError(f"{name!r} is not in the class list{did_you_mean(name, list(self.ids))}")
        return self.ids.setdefault(name, len(self.ids))

    def known(self, class_id: int) -> int:
        """Raises ValueError for an id that the given list does not have."""
        if class_id in self.ids.values():
            return class_id
        ids = sorted(self.ids.values())
        hint = "; is the list counted from 1?" if ids and class_id == ids[-1] + 1 else ""
        listed = f"{ids[0]} to {ids[-1]}" if ids else "no class"
        raise ValueError(f"{class_id} is not in the class list ({listed}){hint}")


@dataclass
class Listing:
    """What a source says."""

    tables: Tables  # problems, and the digests of what was read
    classes: dict[str, Names]
    rows: list[Listed] = field(default_factory=list)
    derived: dict[str, tuple[str, ...]] = field(default_factory=dict)
    durations: dict[str, float] = field(default_factory=dict)  # seconds, where the source states them
    notes: list[str] = field(default_factory=list)
    is_whole: bool = False  # rows cover their whole videos


def split_named(text: str, known: Mapping[str, str], request: Request) -> str:
    """Our name of a split. Raises ValueError for one that neither the layout nor `--split-as` knows."""
    if text in request.splits:
        return request.splits[text]
    if text in known:
        return known[text]
    raise ValueError(
        f"split {text!r} is unknown; say which it is: --split-as '{text}=train' (or validation, test)"
    )


def split_of_all(request: Request, what: str) -> str:
    """Raises UsageError where no `--split` says it, or an unknown one."""
    if request.split is None:
        raise UsageError(f"{what}; say which split all rows are of: --split {'|'.join(SPLITS)}")
    return request.split


def checked(listing: Listing, request: Request) -> Listing:
    """The rows that are kept, each with a name. Raises DataError with all problems, also those that the
    reader has met.
    """
    tables, all_rows = listing.tables, _named(listing.rows)
    there = {word for row in all_rows for word in (row.video, row.name)}
    if unknown := sorted(request.without - there):
        raise UsageError(f"--without {unknown[0]}: there is no video and no row of this name")
    listing.rows = [row for row in all_rows if not {row.video, row.name} & request.without]
    if listing.rows and all(row.stop < row.start for row in listing.rows):
        where = listing.rows[0].where
        raise DataError(f"{where}: every row ends before it starts; are start and stop swapped?")
    for row in listing.rows:
        for problem in _faults(row):
            tables.problem(f"{row.where}: {problem}")
    for problem in _twice(listing.rows):
        tables.problem(problem)
    tables.finish()
    if not listing.rows:
        raise DataError(f"{tables.folder}: there is no row")
    if not any(row.split == "train" for row in listing.rows):
        found = ", ".join(sorted({row.split for row in listing.rows}))
        listing.notes.append(f"no row is for training, all are of {found}")
    return listing


def _named(rows: list[Listed]) -> list[Listed]:
    counts: dict[str, int] = {}
    found = []
    for row in rows:
        place = counts[row.video] = counts.get(row.video, -1) + 1
        found.append(row if row.name else replace(row, name=f"{row.video}_{place}"))
    return found


def _twice(rows: list[Listed]) -> Iterator[str]:
    """Names, rows and videos that stand for two things, or things that are there twice."""
    names: dict[str, Listed] = {}
    contents: dict[tuple[object, ...], Listed] = {}
    videos: dict[str, Listed] = {}
    for row in rows:
        if (first := names.setdefault(row.name, row)) is not row:
            yield f"{row.where}: row {row.name} occurs twice, first in {first.where}"
        elif (same := contents.setdefault(row.content, row)) is not row:
            other = "" if same.split == row.split else f", there as {same.split}, here as {row.split}"
            yield f"{row.where}: is the same row as {same.where}{other}; delete one of them"
        known = videos.setdefault(row.video, row)
        if known.participant != row.participant:
            yield (
                f"{row.where}: video {row.video} belongs to {row.participant}, but to {known.participant} "
                f"in {known.where}"
            )


def _faults(row: Listed) -> Iterator[str]:
    for what, name in (("row", row.name), ("video", row.video), ("participant", row.participant)):
        if name in NO_VALUE or not ID.fullmatch(name):
            yield f"{what} {name!r} is not an id (letters, digits, _ and - only, 100 at most)"
    if row.text in NO_VALUE:
        yield f"the text {row.text!r} says nothing; leave the cell empty"
    if row.start < 0:
        yield f"starts at {row.start:.2f} s, before its video"
    if row.stop <= row.start:
        yield f"ends at {row.stop:.2f} s, not after its start at {row.start:.2f} s"
    if row.stop > LONGEST:
        yield (
            f"ends at {row.stop:,.0f} s, {row.stop / LONGEST:.1f} days into the video; are its times "
            "milliseconds, or frames?"
        )


def file_in(folder: Path, *names: str) -> str:
    """The first of some files that lies in a folder, as a name in it. Raises DataError for none."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    for name in names:
        if (folder / name).is_file():
            return name
    there = sorted(path.name for path in folder.iterdir())
    raise DataError(f"{folder}: has no {' and no '.join(names)}; there are {some(there) or 'no files'}")


def text_lines(tables: Tables, name: str) -> Iterator[tuple[str, str]]:
    """The lines of a text file, each with its place (file:line); blank ones are left out at the end only."""
    lines = tables.text(name).splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    for number, line in enumerate(lines, 1):
        yield f"{tables.folder / name}:{number}", line.strip()


def agreement(said: str, right: int, all: int) -> None:
    """Raises DataError where less than half of the words that a list gives for its ids are of that class."""
    if all and right < all / 2:
        raise DataError(
            f"{said}: of {counted(all, 'label')} only {right} name the class that their id has in the class "
            "list; is it another list, or are ids counted from 1?"
        )


def whole(text: str) -> int | None:
    """A number without sign and point."""
    return int(text) if re.fullmatch(r"\d{1,10}", text) else None
