"""Labels in the cells of a table: the classes of its targets, and what a row is labelled with.

Names of classes come from a list that is given, from a second column, or from the cells themselves in the
order in which they first appear; numbers without names are refused.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mambavl.cache.rows import Label
from mambavl.configs.errors import DataError, UsageError, some
from mambavl.extract.class_lists import ClassList, read_classes
from mambavl.extract.lists.listing import Names, Request, text_lines, whole
from mambavl.extract.tables import Row, Tables

PRINTED = "[]"  # the separator that stands for a cell like ['a', 'b']


class File(NamedTuple):
    """A table with a row an action."""

    name: str  # in its folder
    delimiter: str
    header: list[str]
    split: str | None = None  # of all its rows; None: as its rows say

    def has_labels(self, request: Request) -> bool:
        """A test list may come without; of others all columns are asked for."""
        columns = {*request.single.values(), *request.multi.values()}
        return self.split != "test" or bool(columns & {*self.header})


def targets_of(tables: Tables, files: Sequence[File], request: Request) -> dict[str, Names]:
    """Target -> its classes, single ones first. Raises DataError, UsageError for numbers without names."""
    labelled = [file for file in files if file.has_labels(request)]
    found = _given(request) | _named_beside(tables, labelled, request)
    found = {target: found[target] for target in (*request.single, *request.multi)}
    _refuse_ids_without_names(tables, labelled, found, request)
    return found


def _rows(tables: Tables, files: Sequence[File], columns: Iterable[str]) -> Iterator[Row]:
    """Looked at before they are read; what is wrong with them is said then."""
    for file in files:
        yield from Tables(tables.folder).rows(file.name, tuple(columns), file.delimiter)


def _given(request: Request) -> dict[str, Names]:
    given = {name: class_list(path) for name, path in request.classes.items()}
    single = {name: Names("single", given.get(name)) for name in request.single}
    return {**single, **{name: Names("multi", given.get(name)) for name in request.multi}}


def _named_beside(tables: Tables, files: Sequence[File], request: Request) -> dict[str, Names]:
    """The targets whose classes have their names in a second column. An id of two names, and a name of two
    ids, are problems.
    """
    keys: dict[str, dict[int, str]] = {target: {} for target in request.names}
    ids: dict[str, dict[str, int]] = {target: {} for target in request.names}
    columns = [(target, request.single[target], column) for target, column in request.names.items()]
    for row in _rows(tables, files, dict.fromkeys(name for _, *both in columns for name in both)):
        for target, column, beside in columns:
            key, class_id = row[beside].strip(), whole(row[column].strip())
            if not key and not row[column].strip():
                continue
            if class_id is None or not key:
                tables.problem(
                    f"{row.where}: {column} {row[column]!r} and {beside} {key!r} are not an id and its name"
                )
            elif keys[target].setdefault(class_id, key) != key:
                tables.problem(
                    f"{row.where}: {column} {class_id} is {key!r}, and {keys[target][class_id]!r} before"
                )
            elif ids[target].setdefault(key, class_id) != class_id:
                tables.problem(f"{row.where}: {key!r} is {column} {class_id}, and {ids[target][key]} before")
    tables.finish()
    return {target: Names("single", ClassList.of(found)) for target, found in keys.items()}


def class_list(path: Path) -> ClassList:
    """Of a CSV file with the columns id and key, or of a text file with a name a line, from 0."""
    tables = Tables(path.parent)
    if path.suffix.lower() == ".csv":
        return read_classes(tables, path.name, ("id", "key"))
    keys = dict(enumerate(line for _, line in text_lines(tables, path.name)))
    if not keys or not all(keys.values()):
        raise DataError(f"{path}: holds no name, or a blank line; expected the name of a class in each")
    return ClassList.of(keys)


def _refuse_ids_without_names(
    tables: Tables, files: Sequence[File], classes: Mapping[str, Names], request: Request
) -> None:
    """Numbers are ids of classes that have names elsewhere; in order of appearance they would be others."""
    columns = {**request.single, **request.multi}
    open_ones = {target: column for target, column in columns.items() if classes[target].given is None}
    cells: dict[str, set[str]] = {target: set() for target in open_ones}
    for row in _rows(tables, files, open_ones.values()):
        for target, column in open_ones.items():
            cells[target].add(row[column].strip())
    for target, column in open_ones.items():
        filled = cells[target] - {""}
        if filled and all(whole(cell) is not None for cell in filled):
            raise UsageError(
                f"{tables.folder}: column {column} holds numbers ({some(sorted(filled))}); name their "
                f"classes with --classes {target}=FILE (a CSV with the columns id and key, or a name a "
                f"line), or with --names {target}=COLUMN"
            )


def labels_of(row: Row, classes: Mapping[str, Names], request: Request) -> dict[str, Label] | None:
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
