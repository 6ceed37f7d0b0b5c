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
