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

from mambavl.configs.errors import DataError

MAX_PROBLEMS = 50

_TIME = re.compile(r"(\d{1,3}):([0-5]\d):([0-5]\d(?:\.\d{1,9})?)")
_FLAT_LIST = re.compile(r"\[[^\[\]{}()]*\]")
_LONGEST_LIST = 100_000  # characters


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

    def rows(self, name: str, required: tuple[str, ...]) -> Iterator["Row"]:
        """The rows of a file. Raises DataError for what is not CSV with the required columns."""
        path = self.folder / name
        table = csv.DictReader(io.StringIO(self._text(name), newline=""), strict=True)
        try:
            _check_header(path, list(table.fieldnames or []), required)
            for cells in table:
                where = f"{path}:{table.line_num}"
                if None in cells:
                    self.problem(f"{where}: has more fields than the header")
                elif None in cells.values():
                    self.problem(f"{where}: has fewer fields than the header")
                else:
                    yield Row(self, where, cells)
        except csv.Error as error:
            raise DataError(f"{path}:{table.line_num}: is not valid CSV ({error})") from None

    def _text(self, name: str) -> str:
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

    def integer(self, column: str, low: int, high: int) -> int | None:
        text = self[column].strip()
        if not re.fullmatch(r"\d{1,10}", text) or not low <= int(text) <= high:
            self.problem(f"{column} {self[column]!r} is not a whole number from {low} to {high}")
            return None
        return int(text)

    def time(self, column: str) -> float | None:
        """Seconds, of a number of seconds or a time HH:MM:SS.ss."""
        text = self[column].strip()
        return float(text) if re.fullmatch(r"\d{1,7}(\.\d{1,9})?", text) else self.seconds(column)

    def seconds(self, column: str) -> float | None:
        """Of a time HH:MM:SS.ss."""
        match = _TIME.fullmatch(self[column].strip())
        if not match:
            self.problem(f"{column} {self[column]!r} is not a time; expected HH:MM:SS.ss")
            return None
        hours, minutes, seconds = match.groups()
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)

    def words(self, column: str) -> list[str] | None:
        """Of a Python list of strings, printed as text."""
        items = self._items(column)
        words = [item for item in items or () if isinstance(item, str)]
        if items is None or len(words) < len(items):
            self.problem(f"{column} {self[column].strip()[:60]!r} is not a list of words")
            return None
        return words

    def numbers(self, column: str) -> list[int] | None:
        """Of a Python list of integers, printed as text."""
        items = self._items(column)
        numbers = [item for item in items or () if isinstance(item, int) and not isinstance(item, bool)]
        if items is None or len(numbers) < len(items):
            self.problem(f"{column} {self[column].strip()[:60]!r} is not a list of numbers")
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
