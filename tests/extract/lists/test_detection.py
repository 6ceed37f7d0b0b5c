"""The JSON of temporal action detection: what it says, and where it contradicts itself."""

import pytest

from helpers.foreign_lists import detection_entries, make_detection
from mambavl.configs.errors import DataError
from mambavl.extract.lists.detection import read_detection
from mambavl.extract.lists.listing import Request, checked


def read(path, **said):
    request = Request(**said)
    return checked(read_detection(path, request), request)


def test_rows_classes_and_durations_are_what_the_file_says(tmp_path):
    found = read(make_detection(tmp_path))
    assert [(row.name, row.start, row.stop, row.split, row.labels) for row in found.rows] == [
        ("v_a_0", 0.5, 2.0, "train", {"action": 1}),
        ("v_a_1", 2.0, 9.0, "train", {"action": 0}),
        ("v_b_0", 1.0, 7.5, "validation", {"action": 1}),
    ]
    assert found.classes["action"].ids == {"pour": 1, "stir": 0}
    assert found.durations == {"v_a": 10.0, "v_b": 8.0, "v_c": 5.0}


def test_without_ids_classes_stand_in_order_of_appearance(tmp_path):
    entries = detection_entries()
    for entry in entries.values():
        for segment in entry["annotations"]:
            del segment["label_id"], segment["segment(frames)"]
        del entry["fps"]
    found = read(make_detection(tmp_path, entries))
    assert found.classes["action"].ids == {"pour": 0, "stir": 1}


def test_subsets_are_renamed_where_it_is_said(tmp_path):
    """THUMOS is trained on its validation videos."""
    entries = detection_entries()
    entries["v_a"]["subset"], entries["v_b"]["subset"] = "Validation", "Test"
    found = read(make_detection(tmp_path, entries), splits={"Validation": "train", "Test": "validation"})
    assert [row.split for row in found.rows] == ["train", "train", "validation"]


def test_two_labels_of_one_moment_are_two_rows(tmp_path):
    entries = detection_entries()
    entries["v_b"]["annotations"].append({"segment": [1.0, 7.5], "label": "stir", "label_id": 0})
    assert len(read(make_detection(tmp_path, entries)).rows) == 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", r"rows\.json: is not JSON"),
        ("[]", r"rows\.json: is a list, and not an object with 'database'"),
        ('{"a": 1, "a": 2}', "names 'a' twice in one object"),
        ('{"database": [1]}', r"rows\.json\.database: is a list, and not an object"),
        ('{"database": {"v": {"subset": "training"}}}', r"database\.v: has no 'annotations'"),
        ('{"database": {}}', "there is no row"),
        ("[" * 100_000, r"rows\.json: is not JSON"),
    ],
)
def test_a_file_of_another_shape_is_named_by_place(tmp_path, text, said):
    path = make_detection(tmp_path)
    path.write_text(text)
    with pytest.raises(DataError, match=said):
        read(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"rows\.json: no such file"):
        read(tmp_path / "rows.json")
