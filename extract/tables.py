"""CSV files, read strictly: every problem is remembered with its file, line, column and value, and they are
reported together.
"""

import ast
import csv
import hashlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mambavl.configs.errors import DataError

MAX_PROBLEMS = 50

_TIME = re.compile(r"(\d{1,3}):([0-5]\d):([0-5]\d(?:\.\d{1,9})?)")
_ITEM = r"""(?:u?'(?:[^'\\]|\\.)*'|u?"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d*)?|[A-Za-z]+)"""
# brackets in words are theirs; each branch begins with another character, so that no text takes long
_FLAT_LIST = re.compile(rf"\[\s*(?:{_ITEM}\s*(?:,\s*{_ITEM}\s*)*(?:,\s*)?)?\]")
_PRINTED_ARRAY = re.compile(rf"\[\s*{_ITEM}(?:\s+{_ITEM})+\s*\]")
_LONGEST_LIST = 100_000  # characters
NO_VALUE = ("nan", "NaN", "NaT", "<NA>", "None")  # what pandas makes of a blank cell that becomes text


class Line(NamedTuple):
    """A row of a CSV file as it stands there."""

    where: str  # file:line, the line where it begins: there an open quote opens, which takes others along
    cells: list[str]
    note: str  # what to add where its cells are wrong; empty for a row of one line


def csv_lines(path: Path, text: str, delimiter: str = ",") -> Iterator[Line]:
    """The rows of a CSV file that are not blank, the header among them. Raises DataError for other text."""
    table, first = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), 1
    try:
        for cells in table:
            last = table.line_num
            note = f"; it goes on to line {last}: is a quote not closed?" if last > first else ""
            where, first = f"{path}:{first}", last + 1
            if cells:
                yield Line(where, cells, note)
    except csv.Error as error:
        raise DataError(
            f"{path}:{first}: the row from here on is not valid CSV (line {table.line_num}: {error}); "
            "is a quote not closed?"
        ) from None


class Tables:
    """The CSV files of one folder. `sha256` has the digest of each that was read, by file name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sha256: dict[str, str] = {}
        self.problems: list[str] = []

    def problem(self, text: str) -> None:
        """Remember a problem. Raises DataError with all of them when there are MAX_PROBLEMS."""
        self.problems.append(text)
        if len(self.problems) >= MAX_PROBLEMS:
            self.problems.append(f"... and perhaps more; stopped after {MAX_PROBLEMS}")
            self.finish()

    def finish(self) -> None:
        """Raises DataError with the problems, a line each, if there are any."""
        if self.problems:
            raise DataError("\n".join(self.problems))

    def rows(self, name: str, required: tuple[str, ...], delimiter: str = ",") -> Iterator["Row"]:
        """The rows of a file. Raises DataError for what is not CSV with the required columns."""
        path = self.folder / name
        lines = csv_lines(path, self.text(name), delimiter)
        columns = next(lines, Line("", [], "")).cells
        _check_header(path, columns, required)
        for where, cells, note in lines:
            if len(cells) != len(columns):
                amount = "more" if len(cells) > len(columns) else "fewer"
                self.problem(f"{where}: has {amount} fields than the header{note}")
            else:
                yield Row(self, where, dict(zip(columns, cells, strict=True)))

    def text(self, name: str) -> str:
        """What stands in a file. Raises DataError for what cannot be read, or is not text in UTF-8."""
        path = self.folder / name
        try:
            raw = path.read_bytes()
        except OSError as error:
            hint = "; EK100's annotation repository has it" if name.startswith("EPIC_100") else ""
            raise DataError(f"{path}: cannot be read ({error.strerror}){hint}") from None
        self.sha256[name] = hashlib.sha256(raw).hexdigest()
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
        if "\0" in text:
            raise DataError(f"{path}: holds a NUL character, so it is not CSV (a damaged download?)")
        return text


def _check_header(path: Path, columns: list[str], required: tuple[str, ...]) -> None:
    if not columns:
        raise DataError(f"{path}: is empty; expected a header with {', '.join(required)}")
    repeated = sorted({column for column in columns if columns.count(column) > 1})
    if repeated:
        raise DataError(f"{path}: names the column {', '.join(repeated)} twice")
    missing = [column for column in required if column not in columns]
    if missing:
        raise DataError(f"{path}: has no column {', '.join(missing)}; its columns are {', '.join(columns)}")


@dataclass(frozen=True)
class Row:
    """A row and its place. What a cell does not hold as asked becomes a problem of the tables, and None."""

    tables: Tables
    where: str  # file:line
    cells: dict[str, str]

    def __getitem__(self, column: str) -> str:
        return self.cells[column]

    def get(self, column: str) -> str:
        """Its cell; empty where the file has no such column."""
        return self.cells.get(column, "")

    def problem(self, text: str) -> None:
        self.tables.problem(f"{self.where}: {text}")

    def text(self, column: str) -> str:
        """Without blanks around it; a word that stands for a blank cell is a problem."""
        text = self.get(column).strip()
        if text in NO_VALUE:
            self.problem(f"{column} {text!r} says nothing{likely(text)}")
        return text

    def integer(self, column: str, low: int, high: int) -> int | None:
        text = self[column].strip()
        if not re.fullmatch(r"\d{1,10}", text) or not low <= int(text) <= high:
            self.problem(
                f"{column} {self[column]!r} is not a whole number from {low} to {high}{likely(text)}"
            )
            return None
        return int(text)

    def time(self, column: str) -> float | None:
        """Seconds, of a number of seconds or a time HH:MM:SS.ss."""
        text = self[column].strip()
        if re.fullmatch(r"\d{1,7}(\.\d{1,20})?", text):
            return float(text)
        return self.seconds(column, "seconds or HH:MM:SS.ss")

    def seconds(self, column: str, expected: str = "HH:MM:SS.ss") -> float | None:
        """Of a time HH:MM:SS.ss."""
        match = _TIME.fullmatch(self[column].strip())
        if not match:
            said = f"{column} {self[column]!r} is not a time; expected {expected}{likely(self[column])}"
            self.problem(said)
            return None
        hours, minutes, seconds = match.groups()
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)

    def words(self, column: str) -> list[str] | None:
        """Of a Python list of strings, printed as text."""
        items = self._items(column)
        words = [item for item in items or () if isinstance(item, str)]
        if items is None or len(words) < len(items):
            self.problem(
                f"{column} {self[column].strip()[:60]!r} is not a list of words{likely(self[column])}"
            )
            return None
        if blank := [word for word in words if word.strip() in NO_VALUE]:
            self.problem(
                f"{column} {self[column].strip()[:60]!r}: {blank[0]!r} says nothing{likely(blank[0])}"
            )
            return None
        return words

    def numbers(self, column: str) -> list[int] | None:
        """Of a Python list of integers, printed as text."""
        items = self._items(column)
        numbers = [item for item in items or () if isinstance(item, int) and not isinstance(item, bool)]
        if items is None or len(numbers) < len(items):
            self.problem(
                f"{column} {self[column].strip()[:60]!r} is not a list of numbers{likely(self[column])}"
            )
            return None
        return numbers

    def _items(self, column: str) -> list[object] | None:
        """Only a flat list of literals gets as far as the literal parser."""
        text = self[column].strip()
        if len(text) >= _LONGEST_LIST or not _FLAT_LIST.fullmatch(text):
            return None
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return None
        return value if isinstance(value, list) else None


def likely(cell: str) -> str:
    """What a cell that cannot be read looks like: how pandas and numpy spoil a column, and what to write."""
    text = cell.strip()
    if text in NO_VALUE:
        return (
            "; it looks like a blank cell that pandas turned into text; leave the cell empty, or write what "
            "belongs there"
        )
    if re.fullmatch(r"-?\d+\.0*", text):
        whole = text.partition(".")[0]
        return (
            "; it looks like a float made by pandas, which has no whole numbers in a column with blank cells "
            f"unless its dtype is Int64; write {whole}"
        )
    if re.search(r"\d\.0*[,\]\s]", text) and text.startswith("["):
        return "; its items look like floats made by pandas or numpy; write whole numbers"
    if len(text) < _LONGEST_LIST and _PRINTED_ARRAY.fullmatch(text):
        return "; it looks like an array printed by numpy; put commas between its items"
    return ""
