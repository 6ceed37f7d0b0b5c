"""Which rows get pictures: counted by hand."""

from dataclasses import replace

import numpy as np

from helpers.tiny import make_segments
from mambavl.fuse.report.clips import APART, CONFIDENT, DRAWN, choose, moments, said


def test_confident_mistakes_disagreements_and_a_draw_share_the_pictures():
    """Of six rows and two runs: row 4 is wrong with 0.9 under both, row 1 with 0.8 under one (0.4 on
    average), row 0 under one with 0.2; rows 1, 2 and 3 are disagreed about, 2 with most confidence.
    """
    first = np.array([[5, 1, 1, 1, 3, 7], [5, 2, 2, 2, 3, 7]])
    sure = np.array([[0.2, 0.8, 0.9, 0.1, 0.9, 1.0], [0.2, 0.1, 0.9, 0.1, 0.9, 1.0]])
    right = np.array([[False, False, True, True, False, True], [True, True, True, True, False, True]])
    labelled = np.array([True] * 6)
    found = choose(first, sure, right, labelled, 3)
    assert list(found.items())[:2] == [(4, CONFIDENT), (2, APART)]
    assert list(found.values()) == [CONFIDENT, APART, DRAWN]
    assert choose(first, sure, right, labelled, 3) == found
    six = choose(first, sure, right, labelled, 6)
    assert [row for row, why in six.items() if why == CONFIDENT] == [4, 1]
    assert [row for row, why in six.items() if why == APART] == [2, 3]
    assert sorted(six) == list(range(6))
    assert choose(first, sure, right, labelled, 100) == six


def test_a_row_without_a_label_is_no_mistake():
    """Row 0 is answered with all confidence, but nobody knows whether it is right."""
    first, sure = np.zeros((1, 3), int), np.array([[1.0, 0.3, 0.2]])
    found = choose(first, sure, np.zeros((1, 3), bool), np.array([False, True, True]), 3)
    assert [row for row, why in found.items() if why == CONFIDENT] == [1]
    assert found[0] == DRAWN


def test_a_run_that_lacks_a_row_says_nothing_of_it():
    """Row 0 has one answer, which is right; row 1 two; row 2 is wrong under the only run that has it, and so
    with more confidence than row 3, which one of two is wrong about.
    """
    first = np.array([[1, 1, 1, 1], [-1, 2, -1, 1]])
    sure = np.array([[1.0, 0.4, 1.0, 1.0], [0.0, 0.4, 0.0, 1.0]])
    right = np.array([[True, True, False, False], [False, True, False, True]])
    found = choose(first, sure, right, np.ones(4, bool), 4)
    assert list(found.items())[:2] == [(2, CONFIDENT), (1, APART)]
    assert {found[0], found[3]} == {DRAWN}


def test_a_single_run_leaves_the_rest_to_chance_and_the_draw_is_not_the_first_rows():
    rows = 300
    found = choose(
        np.zeros((1, rows), int), np.ones((1, rows)), np.ones((1, rows), bool), np.ones(rows, bool), 30
    )
    assert set(found.values()) == {DRAWN}
    assert len(found) == 30
    assert 100 < np.mean(list(found)) < 200


def test_an_action_is_shown_at_the_middles_of_its_quarters():
    [segment] = make_segments(1)
    segment = replace(segment, start=10.0, stop=14.0)
    assert moments(segment, None) == ([10.5, 11.5, 12.5, 13.5], 0)


def test_who_anticipates_is_shown_what_lay_before_and_then_the_action():
    [segment] = make_segments(1)
    segment = replace(segment, start=10.0, stop=14.0)
    times, before = moments(segment, 1.0)
    assert before == 3
    window = 64 / 30
    expected = [9 - window + window * part for part in (1 / 6, 3 / 6, 5 / 6)]
    np.testing.assert_allclose(times, [*expected, 12.0])
    assert moments(replace(segment, start=1.0, stop=2.0), 1.0)[1] == 0  # nothing to see before it
    early, _ = moments(replace(segment, start=1.5, stop=2.0), 1.0)
    np.testing.assert_allclose(early[:3], [0.5 / 6, 0.25, 2.5 / 6])


def test_words_count_what_there_is():
    assert said([CONFIDENT, CONFIDENT, DRAWN]).startswith("2 that the runs are wrong about")
    assert "1 drawn at random" in said([CONFIDENT, DRAWN])
    assert "disagree" not in said([CONFIDENT, DRAWN])
