"""One CSV or TSV file with a row an action, whatever its columns are called.

Nothing is guessed from a column's name or its numbers: what is not said is asked for.
"""

import csv
from collections.abc import Callable, Mapping
from pathlib import Path

from mambavl.cache.classes import name_faults
from mambavl.cache.rows import Label
from mambavl.configs.errors import DataError, UsageError, did_you_mean, some
from mambavl.extract.annotations import SPLITS
from mambavl.extract.class_lists import ClassList, read_classes
from mambavl.extract.lists.listing import (
    NOBODY,
    Listed,
    Listing,
    Names,
    Request,
    split_named,
    split_of_all,
    text_lines,
    whole,
)
from mambavl.extract.tables import Row, Tables
from mambavl.extract.video_parts import SUFFIXES

TIMES, FRAMES = ("start", "stop"), ("start_frame", "stop_frame")
HOLDS = ("video", *TIMES, *FRAMES, "id", "participant", "split", "text")  # what a column can be said to hold
DELIMITERS = {".csv": ",", ".tsv": "\t"}
PRINTED = "[]"  # the separator that stands for a cell like ['a', 'b']
FRAME_SLACK = 2  # frames by which times and frame numbers of a row may differ: rounded up, down, from 1


def read_columns(source: Path, request: Request) -> Listing:
    """Raises UsageError for what the call leaves open, DataError for what the file does not hold."""
    if not source.is_file():
        raise DataError(f"{source}: no such file")
    delimiter = request.delimiter or DELIMITERS.get(source.suffix.lower())
    if delimiter is None:
        raise UsageError(f"{source}: say what stands between its cells, such as --delimiter ';'")
    tables = Tables(source.parent)
    header = next(
        csv.reader([tables.text(source.name).partition("\n")[0].rstrip("\r")], delimiter=delimiter), []
    )
    _refuse_delimiter(source, header, delimiter)
    _refuse_unclear(source, header, request)
    listing = Listing(tables, _targets(request))
    required = (*request.columns.values(), *request.single.values(), *request.multi.values())
    _refuse_ids_without_names(tables, source.name, delimiter, listing.classes, request)
    for row in tables.rows(source.name, tuple(dict.fromkeys(required)), delimiter):
        times, labels, split = (
            _times(row, request),
            _labels(row, listing.classes, request),
            _split(row, request),
        )
        if times is not None and labels is not None and split is not None:
            listing.rows.append(
                Listed(
                    row.where,
                    _video(_cell(row, request, "video")),
                    *times,
                    split,
                    labels,
                    name=_cell(row, request, "id"),
                    participant=_cell(row, request, "participant") or NOBODY,
                    text=_cell(row, request, "text"),
                )
            )
    return listing


def _cell(row: Row, request: Request, what: str) -> str:
    return row[request.columns[what]].strip() if what in request.columns else ""


def _video(cell: str) -> str:
    """A video's id is its file's name without the ending."""
    stem, dot, ending = cell.rpartition(".")
    return stem if dot and f".{ending.lower()}" in SUFFIXES else cell


# --- what the call must say


def _refuse_delimiter(source: Path, header: list[str], delimiter: str) -> None:
    if len(header) == 1:
        for other, typed in ((";", "';'"), ("\t", "$'\\t'"), (",", "','"), ("|", "'|'")):
            if other in header[0] and other != delimiter:
                raise UsageError(f"{source}: its header is one cell; try --delimiter {typed}")


def _refuse_unclear(source: Path, header: list[str], request: Request) -> None:
    """Raises UsageError with all that is not said, what to type for it, and the columns that there are."""
    columns = request.columns
    if unknown := [what for what in columns if what not in HOLDS]:
        raise UsageError(f"--column {unknown[0]}=...: a column holds one of {', '.join(HOLDS)}")
    used = [("--column", columns), ("--target", request.single), ("--multi", request.multi)]
    for option, named in used:
        for what, column in named.items():
            if column not in header:
                raise UsageError(
                    f"{option} {what}={column}: {source} has no such column{did_you_mean(column, header)}"
                )
    asked = [f"--column {what}=COLUMN" for what in ("video",) if what not in columns]
    if not any(what in columns for what in (*TIMES, *FRAMES)):
        asked.append("--column start=COLUMN --column stop=COLUMN (or start_frame and stop_frame)")
    for pair in (TIMES, FRAMES):
        missing = [what for what in pair if what not in columns]
        asked += [f"--column {what}=COLUMN" for what in missing if len(missing) == 1]
    if "start" in columns and request.unit is None:
        asked.append("--unit seconds|milliseconds|clock (of frames: --column start_frame=... and --fps)")
    if "start_frame" in columns and request.fps is None:
        asked.append("--fps RATE (at which its frames are counted)")
    if "split" not in columns and request.split is None:
        asked.append("--column split=COLUMN, or --split NAME for all rows")
    if not (request.single or request.multi):
        asked.append("--target NAME=COLUMN (one label a row) or --multi NAME=COLUMN (several)")
    if request.multi and request.separator is None:
        asked.append(
            f"--separator TEXT (between the labels of a cell; '{PRINTED}' for cells like ['a', 'b'])"
        )
    if asked:
        raise UsageError("\n  ".join([f"{source}: say", *asked, f"its columns are {', '.join(header)}"]))
    if "start" not in columns and request.unit is not None:
        raise UsageError("--unit is of times, and no column is said to hold any: --column start=COLUMN")
    if "start_frame" not in columns and request.fps is not None:
        raise UsageError("--fps is of frames, and no column is said to hold any: --column start_frame=COLUMN")
    holders = list(columns.values())
    if double := [column for column in holders if holders.count(column) > 1]:
        raise UsageError(f"--column: {double[0]} is said to hold two things")
    if twice := sorted(request.single.keys() & request.multi.keys()):
        raise UsageError(f"--target {twice[0]} and --multi {twice[0]}: a target has one column")
    if loose := sorted(request.classes.keys() - request.single.keys() - request.multi.keys()):
        raise UsageError(
            f"--classes {loose[0]}=...: there is no target {loose[0]}; add --target {loose[0]}=COLUMN"
        )
    for what in (*request.single, *request.multi):
        for fault in name_faults(what):
            raise UsageError(f"--target {what}: {fault}")


# --- classes


def _targets(request: Request) -> dict[str, Names]:
    given = {name: class_list(path) for name, path in request.classes.items()}
    single = {name: Names("single", given.get(name)) for name in request.single}
    return {**single, **{name: Names("multi", given.get(name)) for name in request.multi}}


def class_list(path: Path) -> ClassList:
    """Of a CSV file with the columns id and key, or of a text file with a name a line, from 0."""
    tables = Tables(path.parent)
    if path.suffix.lower() == ".csv":
        return read_classes(tables, path.name, ("id", "key"))
    keys = dict(enumerate(line for _, line in text_lines(tables, path.name)))
    if not keys or not all(keys.values()):
        raise DataError(f"{path}: holds no name, or a blank line; expected the name of a class in each")
    return ClassList(keys, {number: (key,) for number, key in keys.items()}, dict.fromkeys(keys, ""))


def _refuse_ids_without_names(
    tables: Tables, name: str, delimiter: str, classes: Mapping[str, Names], request: Request
) -> None:
    """Numbers are ids of classes that have names elsewhere; in order of appearance they would be others."""
    columns = {**request.single, **request.multi}
    open_ones = {target: column for target, column in columns.items() if classes[target].given is None}
    cells: dict[str, set[str]] = {target: set() for target in open_ones}
    for row in Tables(tables.folder).rows(name, tuple(open_ones.values()), delimiter):
        for target, column in open_ones.items():
            cells[target].add(row[column].strip())
    for target, column in open_ones.items():
        filled = cells[target] - {""}
        if filled and all(whole(cell) is not None for cell in filled):
            raise UsageError(
                f"{tables.folder / name}: column {column} holds numbers ({some(sorted(filled))}); name their "
                f"classes with --classes {target}=FILE (a CSV with the columns id and key, or a name a line)"
            )


def _labels(row: Row, classes: Mapping[str, Names], request: Request) -> dict[str, Label] | None:
    """None where a cell is a problem. A blank cell is no label."""
    found: dict[str, Label] = {}
    try:
        for target, column in request.single.items():
            if cell := row[column].strip():
                found[target] = _class(classes[target], column, cell)
        for target, column in request.multi.items():
            if row[column].strip():
                cells = _cells(row, column, request.separator or PRINTED)
                several = tuple(_class(classes[target], column, cell) for cell in cells)
                if len(set(several)) < len(several):
                    raise ValueError(f"{column} names a class twice: {row[column].strip()}")
                found[target] = several
    except ValueError as error:
        row.problem(str(error))
        return None
    return found


def _cells(row: Row, column: str, separator: str) -> list[str]:
    """Raises ValueError for a cell that is no such list."""
    if separator != PRINTED:
        return [cell.strip() for cell in row[column].split(separator)]
    before = len(row.tables.problems)
    is_of_words = "'" in row[column] or '"' in row[column]
    items = row.words(column) if is_of_words else row.numbers(column)
    if items is None:
        raise ValueError(row.tables.problems.pop(before).partition(": ")[2])
    return [str(item) for item in items]


def _class(names: Names, column: str, cell: str) -> int:
    """By name; by id where a list gives the names, of which none is a number. Raises ValueError."""
    by_id = names.given is not None and all(whole(key) is None for key in names.ids)
    number = whole(cell) if by_id else None
    try:
        return names.id_of(cell) if number is None else names.known(number)
    except ValueError as error:
        raise ValueError(f"{column} {error}") from None


# --- times and splits


def _times(row: Row, request: Request) -> tuple[float, float] | None:
    """Start and stop in seconds; None where a cell is a problem."""
    by_time = [_READ[request.unit](row, request.columns[what]) for what in TIMES if request.unit]
    rate = request.fps or 0.0
    frames = [row.integer(request.columns[what], 0, 10**9) for what in FRAMES if rate]
    by_frame = [None if frame is None else frame / rate for frame in frames]
    for what, time, other in zip(TIMES, by_time, by_frame, strict=False):
        if time is not None and other is not None and abs(time - other) * rate > FRAME_SLACK:
            row.problem(
                f"its {what} is {time:.2f} s, and {other:.2f} s by its frame at {rate:g} a second; are "
                "--unit and --fps right?"
            )
            return None
    start, stop = by_time or by_frame
    return None if start is None or stop is None else (start, stop)


def _seconds(row: Row, column: str) -> float | None:
    return _number(row, column, "clock", "seconds")


def _milliseconds(row: Row, column: str) -> float | None:
    number = _number(row, column, "clock", "milliseconds")
    return None if number is None else number / 1000


def _number(row: Row, column: str, other: str, unit: str) -> float | None:
    text = row[column].strip()
    try:
        if ":" in text:
            raise ValueError
        return float(text) if text.lower() not in ("nan", "inf", "infinity", "-inf") else float("x")
    except ValueError:
        hint = f"; it looks like a time of day: --unit {other}" if ":" in text else ""
        row.problem(f"{column} {text!r} is not a number of {unit}{hint}")
        return None


def _of_clock(row: Row, column: str) -> float | None:
    text = row[column].strip()
    if text.replace(".", "", 1).isdigit():
        row.problem(f"{column} {text!r} is a number, not HH:MM:SS; --unit seconds, or milliseconds?")
        return None
    return row.seconds(column, "HH:MM:SS or HH:MM:SS.ss")


_READ: dict[str, Callable[[Row, str], float | None]] = {
    "seconds": _seconds,
    "milliseconds": _milliseconds,
    "clock": _of_clock,
}


def _split(row: Row, request: Request) -> str | None:
    if "split" not in request.columns:
        return split_of_all(request, "no column holds the split")
    try:
        return split_named(_cell(row, request, "split"), {name: name for name in SPLITS}, request)
    except ValueError as error:
        row.problem(str(error))
        return None
