"""What was taken for what, counted by hand."""

from dataclasses import replace

import numpy as np
import pytest

from mambavl.fuse.report import confusion
from mambavl.fuse.report.measured import Top

LABEL = np.array([0, 0, 0, 0, 2, 2, 5])
PREDICTED = np.array([0, 2, 2, 5, 2, 0, 7])


@pytest.fixture
def one(contest):
    ones = np.ones(len(LABEL))
    return replace(contest[0], tops={"verb": Top(LABEL, PREDICTED, ones, LABEL == PREDICTED, ones)})


def test_pairs_are_counted():
    labels, predicted, counts = confusion.counted_pairs(LABEL, PREDICTED)
    found = dict(zip(zip(labels.tolist(), predicted.tolist(), strict=True), counts.tolist(), strict=True))
    assert found == {(0, 0): 1, (0, 2): 2, (0, 5): 1, (2, 0): 1, (2, 2): 1, (5, 7): 1}


def test_the_most_confused_pairs_come_first_and_what_is_right_is_none(one, contest):
    table = confusion.most_confused([one, replace(contest[1], tops={})], "verb")
    title = one.entry.title
    assert table.texts[1:] == [
        [title, "v0", "v2", "2", "50.0"],
        [title, "v0", "v5", "1", "25.0"],
        [title, "v2", "v0", "1", "50.0"],
        [title, "v5", "v7", "1", "100.0"],
    ]


def test_each_entry_lists_so_many_and_no_more(one, monkeypatch):
    monkeypatch.setattr(confusion, "PAIRS", 1)
    table = confusion.most_confused([one, one], "verb")
    assert [row.cells[1].text for row in table.rows] == ["v0", "v0"]


def unpacked(data):
    """As the page's script does it."""
    cell, found = 0, {}
    for step, count in zip(data["cells"][::2], data["cells"][1::2], strict=True):
        cell += step
        row, column = divmod(cell, len(data["names"]))
        found[data["names"][row], data["names"][column]] = count
    return found


def test_scripts_get_every_pair_by_name(one):
    data = confusion.matrix_data(one, "verb")
    assert data["names"] == ["v0", "v2", "v5", "v7"]
    assert unpacked(data) == {
        ("v0", "v0"): 1, ("v0", "v2"): 2, ("v0", "v5"): 1, ("v2", "v0"): 1, ("v2", "v2"): 1, ("v5", "v7"): 1,
    }  # fmt: skip


def test_classes_past_the_most_frequent_are_one(one, monkeypatch):
    monkeypatch.setattr(confusion, "CLASSES", 2)
    data = confusion.matrix_data(one, "verb")
    assert data["names"] == ["v0", "v2", "other"]
    assert unpacked(data) == {
        ("v0", "v0"): 1, ("v0", "v2"): 2, ("v0", "other"): 1, ("v2", "v0"): 1, ("v2", "v2"): 1,
        ("other", "other"): 1,
    }  # fmt: skip


def test_names_stand_once_for_all_entries(one):
    turned = replace(one, tops={"verb": replace(one.tops["verb"], label=PREDICTED, predicted=LABEL)})
    found = confusion.matrices([one, turned], ["verb", "noun"])
    for made, entry in zip((one, turned), found["verb"]["entries"], strict=True):
        data = confusion.matrix_data(made, "verb")
        assert [found["verb"]["names"][place] for place in entry[0]] == data["names"]
        assert entry[1] == data["cells"]
    assert len(set(found["verb"]["names"])) == len(found["verb"]["names"])
    assert found["noun"] == {"names": [], "entries": [None, None]}
