"""A label a frame: runs of a class are rows, in seconds at the rate that is said."""

import pytest

from helpers.foreign_lists import make_frame_labels
from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.lists.frame_labels import read_frame_labels
from mambavl.extract.lists.listing import Request, checked


def read(folder, **said):
    request = Request(**{"fps": 15.0, "fold": 1, **said})
    return checked(read_frame_labels(folder, request), request)


def test_runs_of_a_class_are_rows(tmp_path):
    found = read(make_frame_labels(tmp_path / "tea"))
    assert [(row.name, row.start, row.stop, row.split, row.labels["action"]) for row in found.rows] == [
        ("S1_Tea_C1_0", 0.0, 2.0, "train", 2),
        ("S1_Tea_C1_1", 2.0, 7.0, "train", 0),
        ("S1_Tea_C1_2", 7.0, 10.0, "train", 1),
        ("S2_Tea_C1_0", 0.0, 4.0, "validation", 0),
        ("S2_Tea_C1_1", 4.0, 8.0, "validation", 2),
    ]
    assert found.is_whole


def test_rate_and_fold_are_asked_for(tmp_path):
    with pytest.raises(UsageError, match=r"(?s)--fps RATE.*--fold NUMBER"):
        read(make_frame_labels(tmp_path / "tea"), fps=None, fold=None)


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("mapping.txt", "", "lists no class"),
        ("mapping.txt", "pour 0\n", r"mapping\.txt:1: 'pour 0' is not an id of its own and a name"),
        ("splits/train.split1.bundle", "S9.txt\n", r"bundle:1: there is no .*groundTruth/S9\.txt"),
        ("groundTruth/S1_Tea_C1.txt", "pour\n\nstir\n", r"S1_Tea_C1\.txt:2: '' is not the name of a class"),
    ],
)
def test_a_damaged_file_is_named_by_line(tmp_path, file, text, said):
    folder = make_frame_labels(tmp_path / "tea")
    (folder / file).write_text(text)
    with pytest.raises(DataError, match=said):
        read(folder)


def test_a_fold_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"has no splits/train\.split7\.bundle"):
        read(make_frame_labels(tmp_path / "tea"), fold=7)
