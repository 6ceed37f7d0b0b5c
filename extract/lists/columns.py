"""CSV or TSV with a row an action, whatever its columns are called: one file, or one a split.

Nothing is guessed from a column's name or its numbers: what is not said is asked for.
"""

import csv
from collections.abc import Callable
from pathlib import Path

from mambavl.cache.classes import name_faults
from mambavl.configs.errors import DataError, UsageError, did_you_mean, some
from mambavl.extract.annotations import SPLITS
from mambavl.extract.lists.class_columns import PRINTED, File, labels_of, targets_of
from mambavl.extract.lists.listing import (
    NOBODY,
    Listed,
    Listing,
    Request,
    split_named,
    split_of_all,
)
from mambavl.extract.tables import Row, Tables
from mambavl.extract.video_parts import SUFFIXES

TIMES, FRAMES = ("start", "stop"), ("start_frame", "stop_frame")
# what a column can be said to hold
HOLDS = ("video", *TIMES, *FRAMES, "fps", "id", "participant", "split", "text")
DELIMITERS = {".csv": ",", ".tsv": "\t"}
FRAME_SLACK = 2  # frames by which times and frame numbers of a row may differ: rounded up, down, from 1


def read_columns(source: Path, request: Request) -> Listing:
    """`source`: the file, or a folder whose files `--split-as NAME=train` names without their endings.

    Raises UsageError for what the call leaves open, DataError for what a file does not hold.
    """
    tables = Tables(source if source.is_dir() else source.parent)
    files = _of_folder(tables, request) if source.is_dir() else [_file(tables, source, request)]
    _refuse_unclear(source, files, request)
    listing = Listing(tables, targets_of(tables, files, request))
    rates: dict[str, tuple[str, str]] = {}  # video -> frames a second, and who says so
    for file in files:
        _read_file(listing, file, rates, request)
    return listing


def _of_folder(tables: Tables, request: Request) -> list[File]:
    """Raises UsageError where no file is named, DataError for one that is not there."""
    there = sorted(path for path in tables.folder.iterdir() if path.suffix.lower() in DELIMITERS)
    if not request.splits:
        raise UsageError(
            f"{tables.folder}: is a folder; say which of its files "
            f"({some([path.stem for path in there]) or 'none'}) is which split: --split-as NAME=train (or "
            f"{', '.join(SPLITS[1:])})"
        )
    found = []
    for name, split in request.splits.items():
        named = [path for path in there if path.stem == name]
        if len(named) != 1:
            raise DataError(
                f"{tables.folder}: has {len(named)} files {name}.csv or {name}.tsv; there are "
                f"{some([path.name for path in there]) or 'none'}"
            )
        found.append(_file(tables, named[0], request)._replace(split=split))
    return found


def _file(tables: Tables, path: Path, request: Request) -> File:
    """Raises DataError for a file without a header, UsageError where its delimiter is not known."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    delimiter = request.delimiter or DELIMITERS.get(path.suffix.lower())
    if delimiter is None:
        raise UsageError(f"{path}: say what stands between its cells, such as --delimiter ';'")
    first = tables.text(path.name).partition("\n")[0].rstrip("\r")
    header = next(csv.reader([first], delimiter=delimiter), [])
    if not header:
        raise DataError(f"{path}: is empty, or begins with a blank line; expected the names of its columns")
    _refuse_delimiter(path, header, delimiter)
    return File(path.name, delimiter, header)


def _read_file(listing: Listing, file: File, rates: dict[str, tuple[str, str]], request: Request) -> None:
    has_labels = file.has_labels(request)
    labels_in = (*request.single.values(), *request.multi.values()) if has_labels else ()
    required = dict.fromkeys((*request.columns.values(), *labels_in))
    for row in listing.tables.rows(file.name, tuple(required), file.delimiter):
        times, split = _times(row, request), file.split or _split(row, request)
        labels = labels_of(row, listing.classes, request) if has_labels else {}
        video = _video(_cell(row, request, "video"))
        rate, where = rates.setdefault(video, (_cell(row, request, "fps"), row.where))
        if rate != _cell(row, request, "fps"):
            row.problem(
                f"video {video} has {_cell(row, request, 'fps')} frames a second, and {rate} in {where}"
            )
        elif times is not None and labels is not None and split is not None:
            listing.rows.append(
                Listed(
                    row.where,
                    video,
                    *times,
                    split,
                    labels,
                    name=_cell(row, request, "id"),
                    participant=_cell(row, request, "participant") or NOBODY,
                    text=_cell(row, request, "text"),
                )
            )


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


def _refuse_unclear(source: Path, files: list[File], request: Request) -> None:
    """Raises UsageError with all that is not said, what to type for it, and the columns that there are."""
    columns, header = request.columns, files[0].header
    say_split = all(file.split for file in files)
    if say_split and ("split" in columns or request.split is not None):
        raise UsageError("--column split=... and --split: of a folder --split-as says the split of each file")
    if unknown := [what for what in columns if what not in HOLDS]:
        raise UsageError(f"--column {unknown[0]}=...: a column holds one of {', '.join(HOLDS)}")
    used = [
        ("--column", columns),
        ("--target", request.single),
        ("--multi", request.multi),
        ("--names", request.names),
    ]
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
    if "start_frame" in columns and request.fps is None and "fps" not in columns:
        asked.append("--fps RATE (at which its frames are counted), or --column fps=COLUMN")
    if not say_split and "split" not in columns and request.split is None:
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
    if request.fps is not None and "fps" in columns:
        raise UsageError("--fps and --column fps=...: give one of them")
    if "start_frame" not in columns and (request.fps is not None or "fps" in columns):
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
    for name in request.names:
        if name not in request.single or name in request.classes:
            raise UsageError(
                f"--names {name}=...: needs --target {name}=COLUMN with ids, and no --classes {name}"
            )
    for what in (*request.single, *request.multi):
        for fault in name_faults(what):
            raise UsageError(f"--target {what}: {fault}")


# --- times and splits


def _times(row: Row, request: Request) -> tuple[float, float] | None:
    """Start and stop in seconds; None where a cell is a problem."""
    by_time = [_READ[request.unit](row, request.columns[what]) for what in TIMES if request.unit]
    rate = _rate(row, request)
    if rate is None:
        return None
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


def _rate(row: Row, request: Request) -> float | None:
    """Frames a second; 0 where the list has no frames, None where a cell is a problem."""
    if "fps" not in request.columns:
        return request.fps or 0.0
    rate = _number(row, request.columns["fps"], "clock", "frames a second")
    if rate is not None and not 0 < rate <= 1000:
        row.problem(f"{request.columns['fps']} {rate:g} is no rate of frames a second")
        return None
    return rate


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
