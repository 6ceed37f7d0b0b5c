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
        (lambda row: row.integer("a", 0, 9), "1.0", "is not a whole number"),
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
