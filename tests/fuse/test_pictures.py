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
    runs, measures = [("first $run$", epochs), ("not begun", [])], {"tool_top1": "tool top-1, %"}
    text = pictures.curves(runs, measures)
    assert text.startswith("<svg")
    assert text.count('id="axes_') == 2
    assert "not begun" not in text
    assert text == pictures.curves(runs, measures)
