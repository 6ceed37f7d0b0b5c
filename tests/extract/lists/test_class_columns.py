"""Labels in cells: names and ids of classes, lists of them, names in a second column."""

import pytest

from helpers.foreign_lists import TABLE, make_table, table_request
from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.lists.class_columns import File, class_list, targets_of
from mambavl.extract.lists.columns import read_columns
from mambavl.extract.lists.listing import checked
from mambavl.extract.tables import Tables


def read(folder, text=TABLE, **changes):
    make_table(folder)
    (folder / "rows.csv").write_text(text)
    request = table_request(**changes)
    return checked(read_columns(folder / "rows.csv", request), request)


def test_classes_stand_in_the_order_of_the_targets(tmp_path):
    make_table(tmp_path)
    file = File("rows.csv", ";", TABLE.partition("\n")[0].split(";"))
    found = targets_of(Tables(tmp_path), [file], table_request())
    assert [(name, names.kind) for name, names in found.items()] == [("tool", "single"), ("thing", "multi")]


def test_classes_of_a_list_have_its_ids_by_name_or_by_id(tmp_path):
    (tmp_path / "tools.csv").write_text("id,key\n7,fork\n3,knife\n")
    found = read(tmp_path, classes={"tool": tmp_path / "tools.csv"})
    assert [row.labels["tool"] for row in found.rows] == [3, 7, 3]
    by_id = read(
        tmp_path, TABLE.replace("knife", "3").replace("fork", "7"), classes={"tool": tmp_path / "tools.csv"}
    )
    assert [row.labels["tool"] for row in by_id.rows] == [3, 7, 3]


def test_a_text_file_lists_a_class_a_line_from_0(tmp_path):
    (tmp_path / "tools.txt").write_text("fork\nknife\n")
    assert class_list(tmp_path / "tools.txt").keys == {0: "fork", 1: "knife"}
    (tmp_path / "tools.txt").write_text("fork\n\nknife\n")
    with pytest.raises(DataError, match="a blank line"):
        class_list(tmp_path / "tools.txt")


def test_ids_without_names_are_asked_about(tmp_path):
    """In order of appearance, 5 would be class 0."""
    with pytest.raises(UsageError, match=r"column tool holds numbers \(2, 5\); name .* --classes tool=FILE"):
        read(tmp_path, TABLE.replace("knife", "5").replace("fork", "2"))


NAMED = TABLE.replace("knife", "5;knife").replace("fork", "2;fork").replace(";tool;", ";tool_id;tool;")
BESIDE = {"single": {"tool": "tool_id"}, "names": {"tool": "tool"}}


def test_ids_have_their_names_from_a_second_column(tmp_path):
    """From 1 or with gaps, as they are: nothing is numbered anew."""
    found = read(tmp_path, NAMED, **BESIDE)
    assert found.classes["tool"].ids == {"fork": 2, "knife": 5}
    assert [row.labels["tool"] for row in found.rows] == [5, 2, 5]
    found = read(tmp_path, NAMED.replace("2;fork", ";"), **BESIDE)
    assert [row.labels.get("tool") for row in found.rows] == [5, None, 5]  # blank in both: no label


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("2;fork", "2;knife", r"rows\.csv:3: 'knife' is tool_id 2, and 5 before"),
        ("2;fork", "5;fork", r"rows\.csv:3: tool_id 5 is 'fork', and 'knife' before"),
        ("2;fork", ";fork", "tool_id '' and tool 'fork' are not an id and its name"),
        ("2;fork", "2;", "tool_id '2' and tool '' are not an id and its name"),
        ("2;fork", "2.0;fork", r"tool_id '2\.0' and tool 'fork' are not"),
        ("2;fork", "fork;2", "tool_id 'fork' and tool '2' are not"),
        ("2;fork", "-2;fork", "tool_id '-2' and tool 'fork' are not"),
    ],
)
def test_ids_and_names_that_do_not_go_together_are_refused(tmp_path, old, new, said):
    with pytest.raises(DataError, match=said):
        read(tmp_path, NAMED.replace(old, new), **BESIDE)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"names": {"thing": "tool"}}, "--names thing=...: needs --target thing=COLUMN with ids"),
        ({**BESIDE, "classes": {"tool": "x"}}, "needs --target tool=COLUMN with ids, and no --classes tool"),
        ({**BESIDE, "names": {"tool": "tol"}}, "--names tool=tol: .* no such column; did you mean `tool`"),
    ],
)
def test_names_beside_need_ids(tmp_path, changes, said):
    if "classes" in changes:
        (tmp_path / "x").write_text("a\n")
        changes = {**changes, "classes": {"tool": tmp_path / "x"}}
    with pytest.raises(UsageError, match=said):
        read(tmp_path, NAMED, **changes)
