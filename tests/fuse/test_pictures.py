"""The report's pictures."""

import numpy as np

from mambavl.fuse import pictures


def test_a_confusion_matrix_counts_by_hand():
    matrix, names = pictures.confusion(np.array([0, 0, 2, 2]), np.array([0, 2, 2, 7]), {0: "cut", 2: "open"})
    assert names == ["cut", "open", "other"]
    np.testing.assert_allclose(matrix[:2], [[0.5, 0.5, 0], [0, 0.5, 0.5]])


def test_classes_beyond_the_most_frequent_ones_are_one_row():
    labels = np.repeat(np.arange(30), np.arange(30, 0, -1))
    matrix, names = pictures.confusion(labels, labels, {number: f"c{number}" for number in range(30)})
    assert names == [*(f"c{number}" for number in range(pictures.CLASSES_SHOWN)), "other"]
    np.testing.assert_allclose(matrix, np.eye(pictures.CLASSES_SHOWN + 1))


def test_a_curve_has_a_panel_for_each_measure_and_a_line_for_each_run():
    epochs = [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0, "tool_top1": 50.0}]
    runs, measures = [epochs, [], epochs], {"tool_top1": "tool top-1, %"}
    text = pictures.curves(runs, measures)
    assert text.startswith("<svg")
    assert text.count('id="axes_') == 2
    assert ">tool top-1, %<" in text  # as text, not as outlines
    drawn = [pictures.style(number)[0] in text for number in range(4)]
    assert drawn == [True, False, True, False]
    assert text == pictures.curves(runs, measures)


def test_pictures_of_the_page_take_its_ink_and_no_others_do():
    page = pictures.reliabilities({"verb": {0: (np.array([15.0, np.nan]), np.array([10.0, np.nan]))}})
    assert "currentColor" in page
    assert pictures.INK not in page
    assert "currentColor" not in pictures.intervals({"a": {"b": (1.0, 0.0, 2.0)}}, "c")


def test_lines_can_be_told_apart():
    assert len({pictures.style(number) for number in range(20)}) == 20


def test_a_matrix_escapes_its_names_and_fills_what_was_found():
    text = pictures.matrix(np.array([[0.25, 0.75], [0, 1]]), ["<b>", "cup" * 20], 'a "title"')
    assert "<b>" not in text
    assert text.count("<rect") == 3
    assert 'fill-opacity="0.75"><title>&lt;b&gt;: 75 % cupcup' in text
    assert f">{'cup' * 8}…</text>" in text
