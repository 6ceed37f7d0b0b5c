"""Strict CSV: a cell is what was asked for, or a problem with its place."""

import hashlib

import pytest

from mambavl.configs.errors import DataError
from mambavl.extract.tables import MAX_PROBLEMS, Tables


def rows(folder, text, required=("a",)):
    (folder / "t.csv").write_text(text)
    tables = Tables(folder)
    return tables, list(tables.rows("t.csv", required))


def test_cells_and_digests_of_a_file(tmp_path):
    tables, (row,) = rows(tmp_path, "a,b,c,d\n 12 ,01:02:03.5,\"['x', 'y']\",\"[1, 2]\"\n")
    assert row["a"] == " 12 "
    assert row.integer("a", 0, 99) == 12
    assert row.seconds("b") == 3723.5
    assert row.words("c") == ["x", "y"]
    assert row.numbers("d") == [1, 2]
    assert row.where == f"{tmp_path / 't.csv'}:2"
    assert tables.sha256 == {"t.csv": hashlib.sha256((tmp_path / "t.csv").read_bytes()).hexdigest()}
    tables.finish()


@pytest.mark.parametrize(
    ("read", "cell", "said"),
    [
        (lambda row: row.integer("a", 0, 9), "10", "a '10' is not a whole number from 0 to 9"),
        (
            lambda row: row.integer("a", 0, 9),
            "1.0",
            "a '1.0' is not a whole number from 0 to 9; it looks like",
        ),
        (lambda row: row.integer("a", 0, 9), "1.0", "a float made by pandas"),
        (lambda row: row.integer("a", 0, 9), "1.0", "write 1"),
        (
            lambda row: row.integer("a", 0, 9),
            "nan",
            "it looks like a blank cell that pandas turned into text",
        ),
        (lambda row: row.seconds("a"), "nan", "expected HH:MM:SS.ss; it looks like a blank cell"),
        (lambda row: row.words("a"), "['nan']", "'nan' says nothing; it looks like a blank cell"),
        (lambda row: row.words("a"), "[nan]", "is not a list of words"),
        (lambda row: row.words("a"), "['x' 'y']", "an array printed by numpy; put commas between its items"),
        (lambda row: row.words("a"), "['x', ('y')]", "is not a list of words"),
        (lambda row: row.words("a"), "['x', ['y']]", "is not a list of words"),
        (lambda row: row.numbers("a"), "[1 2]", "an array printed by numpy; put commas between its items"),
        (lambda row: row.numbers("a"), "[1.0, 2.0]", "look like floats made by pandas or numpy"),
        (lambda row: row.seconds("a"), "1:2:3", "a '1:2:3' is not a time"),
        (lambda row: row.words("a"), "[1]", "a '[1]' is not a list of words"),
        (lambda row: row.words("a"), "x", "is not a list of words"),
        (lambda row: row.numbers("a"), "[True]", "a '[True]' is not a list of numbers"),
        (lambda row: row.numbers("a"), "[[1]]", "is not a list of numbers"),
        (lambda row: row.numbers("a"), "[1", "is not a list of numbers"),
        (lambda row: row.numbers("a"), "[" + "1 " * 10 + "]", "is not a list of numbers"),
    ],
)
def test_a_cell_that_is_something_else_is_a_problem_with_its_place(tmp_path, read, cell, said):
    tables, (row,) = rows(tmp_path, f'a\n"{cell}"\n')
    assert read(row) is None
    with pytest.raises(DataError) as error:
        tables.finish()
    assert "t.csv:2: " in str(error.value)
    assert said in str(error.value)


@pytest.mark.parametrize(
    "words", [["onion (red)"], ["a [b]", "{c}"], ["it's", 'say "x"', "a\\b", "é, ü"], ["x"] * 500, []]
)
def test_every_list_of_words_that_python_prints_is_read(tmp_path, words):
    printed = repr(words).replace('"', '""')
    _, (row,) = rows(tmp_path, f'a\n"{printed}"\n')
    assert row.words("a") == words


@pytest.mark.parametrize(
    "cell",
    ["[" + " " * 90_000 + "x", "['" + "a" * 90_000, "[1" + ", 1" * 30_000, "[1" + " 1" * 40_000 + "!]"],
)
def test_a_long_cell_that_is_no_list_is_refused_without_much_ado(tmp_path, cell):
    tables, (row,) = rows(tmp_path, f'a\n"{cell}"\n')
    assert row.words("a") is None  # takes hours where a pattern tries every way to split the cell
    assert len(tables.problems[0]) < 300


@pytest.mark.parametrize("blank", ["nan", " NaN", "NaT", "<NA>", "None"])
def test_what_pandas_makes_of_a_blank_cell_is_no_word(tmp_path, blank):
    tables, (row,) = rows(tmp_path, f"a,b\n{blank},naan\n")
    assert row.text("b") == "naan"
    assert tables.problems == []
    row.text("a")
    assert f"t.csv:2: a {blank.strip()!r} says nothing; it looks like a blank cell" in tables.problems[0]


def test_a_row_is_named_by_the_line_where_it_begins(tmp_path):
    """Blank lines count, and a cell may hold a line break."""
    _, found = rows(tmp_path, 'a,b\n\n1,"two\nlines"\n2,x\n')
    assert [row.where.rpartition(":")[2] for row in found] == ["3", "5"]


@pytest.mark.parametrize(
    ("after", "said"),
    [
        ("3,c\n" * 50, r"t\.csv:3: the row from here on is not valid CSV \(line 53"),  # nothing closes it
        ('3,c\n"4",d\n', r"t\.csv:3: the row from here on is not valid CSV \(line 5"),  # another quote does
    ],
)
def test_a_quote_that_is_not_closed_is_reported_where_it_opens(tmp_path, after, said):
    with pytest.raises(DataError, match=said):
        rows(tmp_path, 'a,b\n1,a\n2,"b\n' + after)


def test_a_quote_that_takes_rows_along_and_leaves_too_few_fields_is_reported_where_it_opens(tmp_path):
    tables, found = rows(tmp_path, 'a,b\n1,a\n"2,b\n3,c"\n4,d\n')
    assert [row["a"] for row in found] == ["1", "4"]
    assert tables.problems == [
        f"{tmp_path / 't.csv'}:3: has fewer fields than the header; it goes on to line 4: "
        "is a quote not closed?"
    ]


def test_problems_stop_at_a_number(tmp_path):
    with pytest.raises(DataError) as error:
        rows(tmp_path, "a\n" + "1,2\n" * 100)
    assert len(str(error.value).splitlines()) == MAX_PROBLEMS + 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty; expected a header with a"),
        ("b\n1\n", "has no column a; its columns are b"),
        ("a,a\n1,1\n", "names the column a twice"),
        ("a\n1\0\n", "holds a NUL character"),
        ('a\n"1\n', "is not valid CSV"),
    ],
)
def test_what_is_not_such_a_table_is_refused(tmp_path, text, said):
    with pytest.raises(DataError, match=said):
        rows(tmp_path, text)
