"""EGTEA's lists: what its files say, and where they disagree."""

import pytest

from helpers.foreign_lists import EGTEA_ROWS, make_egtea
from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.lists.egtea import read_egtea
from mambavl.extract.lists.listing import Request, checked


def read(folder, **said):
    request = Request(**(said or {"fold": 1}))
    return checked(read_egtea(folder, request), request)


def rows_of(listing):
    return [(row.name, row.video, row.start, row.stop, row.split, row.labels) for row in listing.rows]


def test_rows_and_classes_are_what_the_lists_say(tmp_path):
    """Ids are those of the idx files, which count from 1, less 1."""
    found = read(make_egtea(tmp_path / "egtea"))
    assert rows_of(found) == [
        ("P01-R01-Soup-500-2000", "P01-R01-Soup", 0.5, 2.0, "train", {"action": 1, "verb": 1, "noun": (1,)}),
        (
            "P01-R01-Soup-2500-9000",
            "P01-R01-Soup",
            2.5,
            9.0,
            "train",
            {"action": 0, "verb": 0, "noun": (1, 0)},
        ),
        (
            "P02-R01-Tea-1000-7500",
            "P02-R01-Tea",
            1.0,
            7.5,
            "validation",
            {"action": 1, "verb": 1, "noun": (1,)},
        ),
    ]
    assert found.classes["verb"].ids == {"Put": 0, "Cut": 1}
    assert [row.text for row in found.rows] == ["Cut leek", "Put leek,pot", "Cut leek"]


def test_without_idx_files_classes_stand_in_order_of_appearance(tmp_path):
    folder = make_egtea(tmp_path / "egtea")
    for target in ("action", "verb", "noun"):
        (folder / f"{target}_idx.txt").unlink()
    found = read(folder, split="train")
    assert found.classes["noun"].ids == {"leek": 0, "pot": 1}
    assert {row.split for row in found.rows} == {"train"}


def test_capitals_of_an_idx_file_do_not_matter(tmp_path):
    folder = make_egtea(tmp_path / "egtea")
    (folder / "noun_idx.txt").write_text("Pot 1\nLeek 2\n")
    assert read(folder).rows[0].labels["noun"] == (1,)


def test_clips_that_no_list_of_the_fold_names_are_counted(tmp_path):
    folder = make_egtea(tmp_path / "egtea")
    (folder / "test_split1.txt").write_text("")
    found = read(folder)
    assert len(found.rows) == 2
    assert "1 clips are in neither list of fold 1" in found.notes[0]


@pytest.mark.parametrize(
    ("said", "asked"),
    [
        ({"fps": 1.0}, r"name the fold .* --fold 1 .* --split"),
        ({"fold": 1, "split": "train"}, "give one of them"),
    ],
)
def test_the_splits_must_be_said_once(tmp_path, said, asked):
    with pytest.raises(UsageError, match=asked):
        read(make_egtea(tmp_path / "egtea"), **said)


def test_a_clip_that_a_list_names_and_the_labels_lack_is_named(tmp_path):
    folder = make_egtea(tmp_path / "egtea")
    labels = folder / "raw_annotations" / "action_labels.csv"
    labels.write_text(labels.read_text().replace(EGTEA_ROWS[2] + "\n", ""))
    with pytest.raises(DataError, match=r"has no clip P02-R01-Tea-1000-7500, which a list of fold 1 names"):
        read(folder)


def test_a_header_without_a_column_is_named(tmp_path):
    folder = make_egtea(tmp_path / "egtea")
    labels = folder / "raw_annotations" / "action_labels.csv"
    labels.write_text(labels.read_text().replace("Verb Label", "Verbs"))
    with pytest.raises(DataError, match=r"action_labels\.csv has no column Verb Label"):
        read(folder)
