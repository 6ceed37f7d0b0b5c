"""Calibration, counted by hand."""

from dataclasses import replace

import numpy as np
import pytest

from mambavl.fuse.report import calibration
from mambavl.fuse.report.measured import Top

# two rows below 0.1, one of them right; three from 0.5 to 0.6, two right; one at the very top, right by half
TOP = Top(
    label=np.zeros(6, int),
    predicted=np.zeros(6, int),
    confidence=np.array([0.02, 0.08, 0.5, 0.55, 0.57, 1.0]),
    right=np.array([1, 0, 1, 1, 0, 0.5]),
    among5=np.ones(6),
)


def test_bins_hold_their_rows_and_the_error_is_their_mean_distance():
    found = calibration.reliability(TOP)
    assert found.rows.tolist() == [2, 0, 0, 0, 0, 3, 0, 0, 0, 1]
    np.testing.assert_allclose(found.confidence[[0, 5, 9]], [5, 54, 100])
    np.testing.assert_allclose(found.right[[0, 5, 9]], [50, 200 / 3, 50])
    assert np.isnan(found.confidence[1])
    assert found.ece == pytest.approx((2 * 45 + 3 * (200 / 3 - 54) + 1 * 50) / 6)


def test_a_head_that_is_as_often_right_as_it_is_sure_has_no_error():
    sure = replace(TOP, confidence=np.full(6, 0.5), right=np.array([1, 0, 1, 0, 1, 0]))
    assert calibration.reliability(sure).ece == 0


def test_tables_say_so_for_each_entry(contest):
    one, other = replace(contest[0], tops={"verb": TOP}), replace(contest[1], tops={})
    table = calibration.calibration_table([one, other], ["verb", "noun"])
    assert table.texts[1:] == [[one.entry.title, "verb", "58.3", "45.3", "29.7"]]
    bins = calibration.bins_table([one, other], "verb")
    assert [row[1:] for row in bins.texts[1:]] == [
        ["0.0 to 0.1", "2", "5.0", "50.0"],
        ["0.5 to 0.6", "3", "54.0", "66.7"],
        ["0.9 to 1.0", "1", "100.0", "50.0"],
    ]
