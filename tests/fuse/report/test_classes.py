"""What each class reaches, counted by hand."""

from dataclasses import replace

import numpy as np
import pytest

from mambavl.fuse.report import classes


@pytest.fixture
def one(contest):
    """Six rows of verbs 3, 3, 3, 6, 1, 1; one seed is right on the first two and the last, one on none, and
    both have the fourth among five.
    """
    label = np.array([3, 3, 3, 6, 1, 1])
    right = np.array([[1, 1, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0]], float)
    five = np.array([[1, 1, 1, 1, 0, 1], [0, 1, 0, 1, 0, 0]], float)
    base = contest[0]
    seen = []
    for best1, best5, found in zip(right, five, base.seen, strict=True):
        verb = replace(
            found.ranked["verb"],
            rows=np.arange(6),
            label=label,
            best1=best1,
            best5=best5,
            sets={"tail": np.isin(label, (6, 7))},
        )
        seen.append(replace(found, ids=tuple("abcdef"), ranked={"verb": verb}))
    return replace(base, seen=tuple(seen))


def test_classes_stand_by_their_rows_with_recalls_over_seeds(one):
    found = classes.of_classes(one, "verb")
    assert found.names == ("v3", "v1", "v6")
    assert found.rows.tolist() == [3, 2, 1]
    assert found.is_tail.tolist() == [False, False, True]
    np.testing.assert_allclose(found.recall1, [100 / 3, 25, 0])
    np.testing.assert_allclose(found.recall5, [100 * 4 / 6, 25, 100])


def test_the_table_marks_the_tail_and_draws_bars(one):
    table = classes.classes_table(one, "verb", "here")
    assert table.name == "here"
    assert table.texts[1] == ["v3", "3", "head", "33.3", "66.7"]
    tail = table.rows[2].cells
    assert (tail[2].text, tail[2].kind) == ("tail", "tail")
    assert [cell.bar for cell in tail[3:]] == [0, 1]
    assert "verb: 3 classes that rows have" in table.caption


def test_rare_classes_are_left_out_and_the_caption_says_so(one, monkeypatch):
    monkeypatch.setattr(classes, "MOST", 2)
    table = classes.classes_table(one, "verb", "here")
    assert [row.cells[0].text for row in table.rows] == ["v3", "v1"]
    assert "verb: the 2 most frequent of 3 classes" in table.caption


def test_scripts_get_what_the_table_says(one, contest):
    bare = replace(contest[1], tops={})
    data = classes.classes_data([one, bare, one], ["verb"])["verb"]
    table = classes.classes_table(one, "verb", "here")
    assert data["lists"] == [[["v3", "v1", "v6"], [3, 2, 1], [0, 0, 1]]]
    entry = [table.caption, 0, [33.3, 25.0, 0.0], [66.7, 25.0, 100.0]]
    assert data["entries"] == [entry, None, entry]
