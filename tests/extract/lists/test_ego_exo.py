"""Ego-Exo4D's keysteps: the ids of the vocabulary, which has gaps; a video is a take."""

import pytest

from helpers.other_lists import KEYSTEPS, TAKES, make_ego_exo
from mambavl.configs.errors import DataError
from mambavl.extract.data_set import read_data_set
from mambavl.extract.lists.ego_exo import read_ego_exo
from mambavl.extract.lists.layouts import make
from mambavl.extract.lists.listing import Request, checked


def test_rows_and_classes_are_what_the_lists_say(tmp_path):
    found = checked(read_ego_exo(make_ego_exo(tmp_path), Request()), Request())
    assert [(row.name, row.video, row.start, row.stop, row.split, row.labels) for row in found.rows] == [
        ("lab_covid_07_6_0", "lab_covid_07_6", 0.5, 3.25, "train", {"keystep": 843}),
        ("lab_covid_07_6_1", "lab_covid_07_6", 3.25, 9.0, "train", {"keystep": 818}),
        ("lab_covid_08_2_0", "lab_covid_08_2", 1.0, 7.5, "validation", {"keystep": 818}),
    ]
    assert found.rows[0].text == "does 843"
    assert found.classes["keystep"].ids == {
        "Check the date": 818,
        "Locate the tube": 819,
        "Unbox package": 843,
    }


def test_ids_keep_their_gaps(tmp_path):
    """A classifier has a column for each id up to the largest, as the challenge counts them."""
    make(make_ego_exo(tmp_path / "theirs"), "ego-exo4d", Request(), tmp_path / "ours", durations=TAKES)
    read = read_data_set(tmp_path / "ours", ("train", "validation"))
    assert read.classes.targets["keystep"].count == 844
    assert sorted(read.classes.targets["keystep"].classes) == [818, 819, 843]


def test_one_list_alone_will_do(tmp_path):
    made = make_ego_exo(tmp_path, {"keystep_val.json": KEYSTEPS["keystep_val.json"]})
    assert [row.split for row in read_ego_exo(made, Request()).rows] == ["validation"]
    with pytest.raises(DataError, match=r"has no keystep_train\.json and no keystep_val\.json"):
        read_ego_exo(tmp_path.parent, Request())


def test_keysteps_of_one_name_keep_their_ids(tmp_path):
    """Ids are what rows are labelled with; a name that two have is told apart by them."""
    make_ego_exo(tmp_path)
    for path in tmp_path.glob("*.json"):
        path.write_text(path.read_text().replace("Locate the tube", "Unbox package"))
    found = read_ego_exo(tmp_path, Request())
    assert found.classes["keystep"].ids == {
        "Check the date": 818,
        "Unbox package [819]": 819,
        "Unbox package [843]": 843,
    }
    assert [row.labels["keystep"] for row in found.rows] == [843, 818, 818]
