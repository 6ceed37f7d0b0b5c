"""Any data set: EK100's files, or own lists whose targets.toml says what their rows are labelled with.

    targets.toml                        targets, derived targets, groups: `DataSet`
    TARGET_classes.csv                  id, key; and, as EK100's, instances and category
    train.csv, validation.csv, test.csv     a row a segment: ROW_COLUMNS, and a column of each target's labels
    video_info.csv                      not needed; video_id, duration, and if need be fps and resolution, as
                                        EPIC_100_video_info.csv

A single-label target has its class in the column TARGET_class, a multi-label one a list of them in
TARGET_classes; a blank cell says that the row has no label. Times are HH:MM:SS.ss, or seconds.
"""

import re
from pathlib import Path

from pydantic import Field, field_validator

from mambavl.cache.canonical import file_sha256
from mambavl.cache.classes import GROUP_COLUMNS, Classes, Derived, Kind, RowGroup, Target, name_faults
from mambavl.cache.rows import Label, Segment, label_column
from mambavl.configs import Config, read_toml, validate
from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.annotations import (
    DEFAULT_SPLITS,
    SPLITS,
    Annotations,
    RowIds,
    canonical_order,
    read_annotations,
    read_videos,
)
from mambavl.extract.class_lists import ClassList, read_classes
from mambavl.extract.tables import Row, Tables

DATA_SET = "targets.toml"
VIDEO_INFO = "video_info.csv"
ROW_COLUMNS = ("narration_id", "participant_id", "video_id", "start_timestamp", "stop_timestamp")


class TargetLists(Config):
    """What rows are classified by."""

    kind: Kind = "single"  # single: one class a row; multi: any number of them
    # file with its classes, columns id and key; empty: TARGET_classes.csv
    classes: str = ""
    # groups of its classes that are measured apart: name -> ids, such as rare = [3, 4]
    sets: dict[str, list[int]] = Field(default={})

    @field_validator("classes")
    @classmethod
    def _file_name(cls, value: str) -> str:
        if value and not re.fullmatch(r"[A-Za-z0-9_-]+\.csv", value):
            raise ValueError("expected the name of a .csv file next to targets.toml")
        return value


class DerivedLists(Config):
    """A target whose classes are combinations of others'."""

    of: list[str]  # names of single-label targets
    # combinations of their classes that a classifier would have columns for; absent: those of training rows
    pairs: list[list[int]] | None = None


class DataSet(Config):
    """targets.toml: what the rows of an own data set are labelled with."""

    targets: dict[str, TargetLists]  # name -> what rows are classified by
    derived: dict[str, DerivedLists] = Field(default={})  # name -> a combination of targets
    # groups of rows that are measured apart: name -> column -> values, such as
    # far = { participant_id = ["P3"] }
    groups: dict[str, dict[str, list[str]]] = Field(default={})

    @field_validator("groups")
    @classmethod
    def _one_column(cls, groups: dict[str, dict[str, list[str]]]) -> dict[str, dict[str, list[str]]]:
        for name, columns in groups.items():
            if len(columns) != 1 or not set(columns) <= set(GROUP_COLUMNS):
                raise ValueError(f"{name}: expected one of {', '.join(GROUP_COLUMNS)} and a list of values")
        return groups


def read_data_set(folder: Path, splits: tuple[str, ...] = DEFAULT_SPLITS) -> Annotations:
    """Read `folder`: own lists where it has a targets.toml, else EK100's files.

    Raises DataError with up to 50 problems, each with file, line, column and value; nothing is returned half
    read. Raises UsageError for a split that does not exist and for a targets.toml that cannot be meant.
    """
    folder = Path(folder)
    if not (folder / DATA_SET).is_file():
        _refuse_folder_of_neither(folder)
        return read_annotations(folder, splits)
    described = validate(read_toml(folder / DATA_SET), DataSet, str(folder / DATA_SET))
    if not described.targets:
        raise UsageError(f"{folder / DATA_SET}: there is no target; name what rows are classified by")
    tables = Tables(folder)
    tables.sha256[DATA_SET] = file_sha256(folder / DATA_SET)
    for name in described.targets:
        for fault in name_faults(name):
            raise UsageError(f"{folder / DATA_SET}: {fault}")
    lists = {}
    for name, target in described.targets.items():
        lists[name] = read_classes(tables, target.classes or f"{name}_classes.csv", ("id", "key"))
    classes = _classes(folder, described, lists)
    segments: list[Segment] = []
    ids = RowIds()
    for split in splits:
        segments += _read_rows(tables, split, classes, ids)
    has_videos = (folder / VIDEO_INFO).is_file()
    videos = read_videos(tables, VIDEO_INFO, ("video_id", "duration")) if has_videos else {}
    tables.finish()
    ordered = tuple(sorted(segments, key=canonical_order))
    return Annotations(folder, ordered, classes, lists, videos, tables.sha256)


def _refuse_folder_of_neither(folder: Path) -> None:
    """Raises DataError for a folder with some other .toml and none of EK100's lists: a slip of the name."""
    others = sorted(path.name for path in folder.glob("*.toml"))
    if others and not any(folder.glob("EPIC_100_*.csv")):
        raise DataError(
            f"{folder}: has neither a {DATA_SET} nor EK100's EPIC_100_*.csv, but {', '.join(others)}; own "
            f"lists are described in {DATA_SET}"
        )


def _classes(folder: Path, described: DataSet, lists: dict[str, ClassList]) -> Classes:
    targets = {}
    for name, target in described.targets.items():
        sets = {group: tuple(sorted(ids)) for group, ids in target.sets.items()}
        targets[name] = Target(dict(lists[name].keys), lists[name].size, target.kind, sets)
    derived = {}
    for name, one in described.derived.items():
        pairs = None if one.pairs is None else tuple(tuple(pair) for pair in one.pairs)
        derived[name] = Derived(tuple(one.of), pairs)
    groups = {}
    for name, columns in described.groups.items():
        ((column, values),) = columns.items()
        groups[name] = RowGroup(column, tuple(sorted(values)))
    try:
        return Classes(targets, derived, groups)
    except ValueError as error:
        raise UsageError(f"{folder / DATA_SET}: {error}") from None


def _read_rows(tables: Tables, split: str, classes: Classes, ids: RowIds) -> list[Segment]:
    if split not in SPLITS:
        raise UsageError(f"there is no split {split!r}; the splits are {', '.join(SPLITS)}")
    columns = {name: label_column(name, target.kind == "multi") for name, target in classes.targets.items()}
    required = ROW_COLUMNS if split == "test" else (*ROW_COLUMNS, *columns.values())
    found: list[Segment] = []
    for row in tables.rows(f"{split}.csv", required):
        ids.check(row)
        start, stop = row.time("start_timestamp"), row.time("stop_timestamp")
        if start is None or stop is None:
            continue
        if stop <= start:
            row.problem(f"ends at {stop:.2f} s, not after its start at {start:.2f} s")
        found.append(_segment(row, split, start, stop, _labels(row, columns, classes)))
    if not found and not tables.problems:
        raise DataError(f"{tables.folder / split}.csv: has a header and no row")
    return found


def _segment(row: Row, split: str, start: float, stop: float, labels: dict[str, Label]) -> Segment:
    return Segment(
        narration_id=row["narration_id"],
        participant_id=row["participant_id"],
        video_id=row["video_id"],
        start=start,
        stop=stop,
        start_frame=0,  # of EK100's tars alone
        stop_frame=0,
        split=split,
        narration_timestamp=row.get("narration_timestamp"),
        narration=row.text("narration"),
        verb=row.text("verb"),
        noun=row.text("noun"),
        labels=labels,
    )


def _labels(row: Row, columns: dict[str, str], classes: Classes) -> dict[str, Label]:
    """The labels of a row; a class that its list does not have is a problem."""
    found: dict[str, Label] = {}
    for name, column in columns.items():
        if not row.get(column).strip():
            continue
        target = classes.targets[name]
        label = row.integer(column, 0, 10**6) if target.kind == "single" else row.numbers(column)
        several = [label] if isinstance(label, int) else label or []
        unknown = [one for one in several if one not in target.classes]
        if unknown:
            row.problem(f"{column} {unknown[0]} is not in the class file (0 to {target.count - 1})")
        elif len(set(several)) < len(several):
            row.problem(f"{column} names a class twice: {row[column].strip()}")
        elif label is not None:
            found[name] = label if isinstance(label, int) else tuple(label)
    return found
