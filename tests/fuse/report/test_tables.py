"""One definition of a table, for the page, CSV and LaTeX."""

import csv
import io

import pytest

from helpers.pages import tables_of
from mambavl.fuse.report.page import templates
from mambavl.fuse.report.tables import DASH, Cell, Column, number, plain, table, write_tables

COLUMNS = (Column("entry", is_text=True), Column("top-1, %"), Column("what", is_text=True))
NASTY = ('a "b", c', "=HYPERLINK(1)", "@x", "+1.5 (0.1 to 2.9)", "-2.5", "–", "50 % of $3 & #1_2 {~^\\}")


def nasty():
    return table("nasty", "A caption", COLUMNS, [[Cell(text), number(1.25), Cell("x")] for text in NASTY])


def test_csv_is_read_back_and_runs_nothing_in_a_spreadsheet():
    read = list(csv.reader(io.StringIO(nasty().to_csv())))
    assert read[0] == ["entry", "top-1, %", "what"]
    assert [row[0] for row in read[1:]] == [
        'a "b", c', "'=HYPERLINK(1)", "'@x", "'+1.5 (0.1 to 2.9)", "-2.5", "–", "50 % of $3 & #1_2 {~^\\}",
    ]  # fmt: skip
    assert {row[1] for row in read[1:]} == {"1.2"}


def test_latex_is_a_tabular_in_which_nothing_is_a_command():
    lines = nasty().to_tex().splitlines()
    assert lines[:4] == [r"\begin{tabular}{lrl}", r"\toprule", r"entry & top-1, \% & what \\", r"\midrule"]
    assert lines[-2:] == [r"\bottomrule", r"\end{tabular}"]
    assert lines[-3] == (
        r"50 \% of \$3 \& \#1\_2 \{\textasciitilde{}\textasciicircum{}\textbackslash{}\} & 1.2 & x \\"
    )
    assert lines[-4] == r"-- & 1.2 & x \\"
    assert table("t", "", COLUMNS[:1], [[Cell("2 ± 1 × 3\u200d")]]).to_tex().splitlines()[4] == (
        r"2 $\pm$ 1 $\times$ 3 \\"
    )


def test_what_turns_the_direction_of_reading_is_taken_out():
    assert plain("ab\u202ecd\u2066\u200f\x00 e\r\n\tf") == "abcd e f"
    assert plain("עברית é 漢") == "עברית é 漢"


def test_the_page_shows_what_csv_says():
    shown = (
        templates().from_string('{% from "table.html.j2" import show %}{{ show(one) }}').render(one=nasty())
    )
    assert tables_of(shown) == {"nasty": nasty().texts}
    assert "<caption>A caption</caption>" in shown
    assert '<td data-value="1.25">1.2</td>' in shown


def test_a_row_has_a_cell_for_each_column():
    with pytest.raises(ValueError, match=r"table t: a row of 1 cells, 3 columns"):
        table("t", "", COLUMNS, [[Cell("a")]])


def test_what_was_not_measured_is_a_dash():
    assert number(None) == Cell(DASH)
    assert number(0.0) == Cell("0.0", 0.0)


def test_each_table_becomes_two_files(tmp_path):
    written = write_tables([nasty()], tmp_path / "new")
    assert [path.name for path in written] == ["nasty.csv", "nasty.tex"]
    assert [path.read_text() for path in written] == [nasty().to_csv(), nasty().to_tex()]
