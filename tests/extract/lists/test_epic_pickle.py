"""EPIC's rows in pickled frames: which file is which split is said, names of classes come from a list."""

import pytest

from helpers.other_lists import EPIC_FRAMES, EPIC_SPLITS, make_epic_pickle
from mambavl.cache.canonical import file_sha256
from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.lists.epic_pickle import read_epic_pickle
from mambavl.extract.lists.listing import Request, checked

pandas = pytest.importorskip("pandas", reason="it makes the miniature")


def read(folder, **changes):
    said = {"splits": EPIC_SPLITS, "classes": {"verb": folder / "verbs.txt"}}
    request = Request(**{**said, **changes})
    return checked(read_epic_pickle(folder, request), request)


def test_rows_and_classes_are_what_the_pickles_say(tmp_path):
    found = read(make_epic_pickle(tmp_path))
    assert [
        (row.name, row.participant, row.start, row.stop, row.split, row.labels) for row in found.rows
    ] == [
        ("P08_01_4", "P08", 0.5, 2.0, "train", {"verb": 0}),
        ("P08_01_5", "P08", 2.0, 9.0, "train", {"verb": 1}),
        ("P01_11_90", "P01", 1.0, 7.5, "validation", {"verb": 0}),
    ]
    assert [row.text for row in found.rows] == ["take cup", "place lid", "get pan"]
    assert found.classes["verb"].ids == {"take": 0, "put": 1, "open": 2}
    assert found.tables.sha256["D1_train.pkl"] == file_sha256(tmp_path / "D1_train.pkl")
    assert "D3_train.pkl" not in found.tables.sha256


def test_an_id_may_be_the_index_and_a_noun_may_be_there(tmp_path):
    """As EPIC-100's own pickles have it."""
    frames = {
        name: [{**row, "noun_class": 1, "narration_id": f"{row['video_id']}_{row['uid']}"} for row in rows]
        for name, rows in EPIC_FRAMES.items()
    }
    make_epic_pickle(tmp_path, frames)
    for name, rows in frames.items():
        frame = pandas.DataFrame(rows).drop(columns="uid").set_index("narration_id")
        frame.to_pickle(tmp_path / f"{name}.pkl")
    lists = {"verb": tmp_path / "verbs.txt", "noun": tmp_path / "verbs.txt"}
    found = read(tmp_path, classes=lists)
    assert [row.name for row in found.rows] == ["P08_01_4", "P08_01_5", "P01_11_90"]
    assert found.rows[0].labels == {"verb": 0, "noun": 1}
    assert found.derived == {"action": ("verb", "noun")}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"splits": {}},
            r"which of its files \(D1_train, D2_test, D3_train\) is which split: --split-as D1_t",
        ),
        ({"classes": {}}, "--classes verb=FILE"),
        (
            {"classes": {"verb": "v", "noun": "n"}},
            "--classes noun=...: not every file has a column noun_class",
        ),
    ],
)
def test_what_is_not_said_is_asked_for(tmp_path, changes, said):
    folder = make_epic_pickle(tmp_path)
    with pytest.raises(UsageError, match=said):
        read(folder, **changes)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"D9_train\.pkl: no such file"):
        read(make_epic_pickle(tmp_path), splits={"D9_train": "train"})
