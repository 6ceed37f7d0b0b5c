"""A table of the report: one definition for the page, for CSV and for LaTeX.

Table -> table.html.j2      what the page shows; its script makes CSV and LaTeX of the cells, by these rules
Table -> to_csv, to_tex     the same, written by `mambavl report --tables`
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mambavl.cache import fsops

DASH = "–"  # not measured
NUMBER = re.compile(r"[-+]?\d+(\.\d+)?")  # what a spreadsheet may read as it stands
FORMULA = tuple("=+-@")  # how a cell begins that a spreadsheet may run
HIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
TEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%",
    "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "±": r"$\pm$", "×": r"$\times$", "−": "$-$", "–": "--",
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """What stands in a row."""

    text: str
    value: float | None = None  # by which it is sorted; None: by its text, after all that have one
    kind: str = ""  # a class of style.css, such as `oracle`
    bar: float | None = None  # 0 to 1, drawn behind the number


@dataclass(frozen=True)
class Column:
    """The first names the row."""

    label: str
    is_text: bool = False
    note: str = ""  # what it means, where the label cannot say it


@dataclass(frozen=True)
class Row:
    cells: tuple[Cell, ...]
    kind: str = ""  # a class of style.css, such as `prior`


@dataclass(frozen=True)
class Table:
    """name: of its file, and of its place on the page."""

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    def __post_init__(self) -> None:
        """Raises ValueError for a row of another length."""
        for row in self.rows:
            if len(row.cells) != len(self.columns):
                raise ValueError(
                    f"table {self.name}: a row of {len(row.cells)} cells, {len(self.columns)} columns"
                )

    @property
    def texts(self) -> list[list[str]]:
        """Its header, then its rows."""
        header = [plain(column.label) for column in self.columns]
        return [header, *([plain(cell.text) for cell in row.cells] for row in self.rows)]

    def to_csv(self) -> str:
        """RFC 4180, with line feeds. A cell that a spreadsheet would run gets an apostrophe in front."""
        return "".join(",".join(map(_csv, line)) + "\n" for line in self.texts)

    def to_tex(self) -> str:
        """A tabular with the rules of `booktabs`."""
        columns = "".join("l" if column.is_text else "r" for column in self.columns)
        header, *rows = (" & ".join(map(_tex, line)) + r" \\" for line in self.texts)
        lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", header, r"\midrule", *rows]
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def plain(text: str) -> str:
    """What people read of a text of others: in one line, without what turns the direction of all that
    follows, and without control characters.
    """
    return HIDDEN.sub("", re.sub(r"[ \t\r\n]+", " ", text))


def _csv(text: str) -> str:
    if text.startswith(FORMULA) and not NUMBER.fullmatch(text):
        text = f"'{text}"
    return '"' + text.replace('"', '""') + '"' if any(one in text for one in ',"') else text


def _tex(text: str) -> str:
    """Without characters that show nothing: LaTeX knows none of them."""
    return "".join(TEX.get(one, one) for one in text if unicodedata.category(one) != "Cf")


def number(value: float | None, form: str = ".1f") -> Cell:
    """A dash for None."""
    return Cell(DASH) if value is None else Cell(f"{value:{form}}", value)


def named(text: str) -> Cell:
    return Cell(text)


def table(name: str, caption: str, columns: Sequence[Column], rows: Iterable[Sequence[Cell] | Row]) -> Table:
    found = tuple(row if isinstance(row, Row) else Row(tuple(row)) for row in rows)
    return Table(name, caption, tuple(columns), found)


def write_tables(tables: Iterable[Table], folder: Path) -> list[Path]:
    """NAME.csv and NAME.tex of each."""
    fsops.make_folder(folder)
    written = []
    for one in tables:
        for ending, text in (("csv", one.to_csv()), ("tex", one.to_tex())):
            path = folder / f"{one.name}.{ending}"
            fsops.write_file(path, text.encode())
            written.append(path)
    return written
