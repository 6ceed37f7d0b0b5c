"""HD-EPIC's narrations, as pickle and as CSV: all verbs and nouns, and those of the main action."""

import pytest

from helpers.foreign_lists import HD_EPIC_ROWS, make_hd_epic
from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.lists.hd_epic import read_hd_epic
from mambavl.extract.lists.listing import Request, checked

pandas = pytest.importorskip("pandas", reason="it makes the miniature")


def read(folder, split="validation"):
    request = Request(split=split)
    return checked(read_hd_epic(folder, request), request)


def rows_of(listing):
    return [(row.name, row.participant, row.video, row.start, row.stop, row.labels) for row in listing.rows]


ROWS = [
    (
        "P01-20240101-101010-1",
        "P01",
        "P01-20240101-101010",
        0.5,
        2.0,
        {"verbs": (1, 2), "nouns": (0, 1), "verb": 1, "noun": 0},
    ),
    # two main actions: no single verb and noun; a verb that is named twice counts once
    ("P01-20240101-101010-2", "P01", "P01-20240101-101010", 2.5, 9.0, {"verbs": (0,), "nouns": (1, 0)}),
    (
        "P02-20240202-090909-1",
        "P02",
        "P02-20240202-090909",
        1.0,
        7.25,
        {"verbs": (0,), "nouns": (0,), "verb": 0, "noun": 0},
    ),
]


def test_rows_and_classes_are_what_the_pickle_says(tmp_path):
    found = read(make_hd_epic(tmp_path))
    assert rows_of(found) == ROWS
    assert [names.kind for names in found.classes.values()] == ["single", "single", "multi", "multi"]
    assert found.classes["verb"].ids == {"take": 0, "open": 1, "hold": 2}
    assert found.derived == {"action": ("verb", "noun")}
    assert found.rows[0].text == "Open the tin, holding its lid"


def test_a_csv_of_the_same_frame_says_the_same(tmp_path):
    make_hd_epic(tmp_path)
    (tmp_path / "HD_EPIC_Narrations.pkl").unlink()
    pandas.DataFrame(HD_EPIC_ROWS).to_csv(tmp_path / "HD_EPIC_Narrations.csv")
    assert rows_of(read(tmp_path)) == ROWS


def test_the_split_is_asked_for(tmp_path):
    with pytest.raises(
        UsageError, match="HD-EPIC has no splits of its own; say which split all rows are of: --split"
    ):
        read(make_hd_epic(tmp_path), split=None)


def test_a_frame_without_a_column_is_named(tmp_path):
    rows = [{key: value for key, value in row.items() if key != "verb_classes"} for row in HD_EPIC_ROWS]
    with pytest.raises(DataError, match="has no column verb_classes; its columns are unique_narration_id"):
        read(make_hd_epic(tmp_path, rows))


def ek100(folder, text="id,key,instances\n0,take,\"['take', 'get']\"\n1,open,\"['open']\"\n"):
    (folder / "EPIC_100_verb_classes.csv").write_text(text)
    return folder / "EPIC_100_verb_classes.csv"


def test_a_shorter_list_of_the_same_ids_is_that_of_the_main_action(tmp_path):
    """Of EK100's classes, so that its heads are scored; what they do not know has no label."""
    rows = [dict(row) for row in HD_EPIC_ROWS]
    rows[2]["main_action_classes"] = [(2, 0)]
    request = Request(split="test", classes={"verb": ek100(tmp_path)})
    found = checked(read_hd_epic(make_hd_epic(tmp_path / "hd", rows), request), request)
    assert [row.labels.get("verb") for row in found.rows] == [1, None, None]
    assert [row.labels.get("noun") for row in found.rows] == [0, None, 0]
    assert found.classes["verb"].ids == {"take": 0, "open": 1}
    assert len(found.classes["noun"].ids) == 2
    assert len(found.classes["verbs"].ids) == 3  # all that the narration names keep theirs
    assert found.rows[0].labels["verbs"] == (1, 2)
    said = f"1 row of 3 have a verb that {request.classes['verb']} does not list, and no label of it"
    assert found.notes[0] == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,key\n0,open\n1,hold\n2,put\n", "of 3 labels only 0 name the class that their id has"),
        ("id,key\n0,take\n7,fly\n", r"class 7 \(fly\) is not in HD-EPIC's list"),
    ],
)
def test_a_list_whose_ids_mean_other_things_is_refused(tmp_path, text, said):
    request = Request(split="test", classes={"verb": ek100(tmp_path, text)})
    with pytest.raises(DataError, match=said):
        read_hd_epic(make_hd_epic(tmp_path / "hd"), request)
    request = Request(split="test", classes={"verbs": ek100(tmp_path, text)})
    with pytest.raises(UsageError, match=r"--classes verbs=.*verb and noun may have another list"):
        read_hd_epic(make_hd_epic(tmp_path / "hd2"), request)
