"""Lists of classes: gaps, other words, what is refused by file and line."""

import pytest

from mambavl.configs.errors import DataError
from mambavl.extract.class_lists import known_class, read_classes, spoken
from mambavl.extract.tables import Tables


def test_keys_are_spoken_in_speaking_order():
    assert spoken("board:chopping") == "chopping board"
    assert spoken("turn-on") == "turn on"


def read(tmp_path, text, required=("id", "key")):
    (tmp_path / "c.csv").write_text(text)
    return read_classes(Tables(tmp_path), "c.csv", required)


def test_a_list_needs_ids_and_keys_only(tmp_path):
    found = read(tmp_path, "id,key\n4,fork\n0,knife\n")
    assert found.keys == {4: "fork", 0: "knife"}
    assert found.size == 5  # the largest id plus one, gaps or not
    assert found.instances == {4: ("fork",), 0: ("knife",)}
    assert found.categories == {4: "", 0: ""}
    assert found.names == ("fork", "fork", "knife", "knife")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,key\n1,a\n1,b\n", r"c\.csv:3: class 1 occurs twice, first in \S+c\.csv:2"),
        ("id,key\nx,a\n", r"c\.csv:2: id 'x' is not a whole number"),
        ("id,key\n1,nan\n", r"c\.csv:2: key 'nan' says nothing; it looks like a blank cell"),
        ("id,key\n1, \n", r"c\.csv:2: key is blank"),
        ("id,key\n1.0,a\n", r"c\.csv:2: id '1\.0' is not a whole number .* made by pandas"),
        ("id,key\n", "lists no class"),
        ("id\n1\n", "has no column key"),
        ("id,key,instances\n1,a,b\n", "instances 'b' is not a list of words"),
    ],
)
def test_a_damaged_list_is_named_by_line(tmp_path, text, said):
    with pytest.raises(DataError, match=said):
        read(tmp_path, text)


def test_a_class_that_the_list_lacks_is_a_problem(tmp_path):
    found = read(tmp_path, "id,key\n0,a\n2,b\n")
    (tmp_path / "r.csv").write_text("tool\n2\n1\n")
    tables = Tables(tmp_path)
    assert [known_class(row, "tool", found) for row in tables.rows("r.csv", ("tool",))] == [2, None]
    assert tables.problems == [f"{tmp_path / 'r.csv'}:3: tool 1 is not in the class file (0 to 2)"]
