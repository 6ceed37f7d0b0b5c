"""Which moments are seen: bins of the action, or the strict window before it."""

import numpy as np
import pytest

from mambavl.cache.schema import FLAG_BEFORE_START
from mambavl.extract.sampling import Sampling, segment_uniform, window


def test_recognition_takes_the_centres_of_equal_bins():
    np.testing.assert_allclose(segment_uniform(2.0, 6.0, 4), [2.5, 3.5, 4.5, 5.5])


@pytest.mark.parametrize("start", [3.2, 10.0, 61.37])
def test_anticipation_sees_64_moments_that_end_tau_before_the_action(start):
    seen = window(start, start + 2, Sampling(task="anticipation", frames=16))
    assert seen.times[-1] == pytest.approx(start - 1.0 - 1 / 30)  # on display until start - tau_a
    assert seen.times[0] == pytest.approx(start - 1.0 - 64 / 30)
    assert len(seen.times) == 16
    assert (np.diff(seen.times) > 0).all()
    assert seen.flags == 0


def test_a_window_that_starts_before_the_video_repeats_its_first_frame_and_is_flagged():
    seen = window(2.0, 3.0, Sampling(task="anticipation", frames=16))
    assert seen.flags == FLAG_BEFORE_START
    assert seen.times[0] == 0
    assert (seen.times >= 0).all()
    assert seen.times[-1] == pytest.approx(1.0 - 1 / 30)
    assert window(2.0, 3.0, Sampling(task="anticipation", frames=1)).times == pytest.approx([1.0 - 1 / 30])  # the latest


@pytest.mark.parametrize("start", [0.0, 0.4, 1.0])
def test_nothing_to_observe_gives_an_empty_window(start):
    assert window(start, start + 2, Sampling(task="anticipation")).is_empty


def test_the_stop_of_the_action_plays_no_part_in_anticipation():
    sampling = Sampling(task="anticipation", tau_a=0.5)
    np.testing.assert_array_equal(window(9.0, 10.0, sampling).times, window(9.0, 90.0, sampling).times)


@pytest.mark.shared
def test_the_known_counts_of_the_real_validation_list(shared):
    """EK100 facts: 129 windows begin before the video, 28 of them have nothing to observe."""
    from mambavl.extract.annotations import read_annotations

    sampling = Sampling(task="anticipation", frames=64)
    rows = read_annotations(shared / "data" / "ek100", ("validation",)).segments
    windows = [window(s.start, s.stop, sampling) for s in rows]
    assert sum(seen.is_empty for seen in windows) == 28
    assert sum(seen.is_empty or seen.flags == FLAG_BEFORE_START for seen in windows) == 129
    for segment, seen in zip(rows, windows, strict=True):
        assert seen.is_empty or seen.times.max() <= segment.start - 1.0 + 1e-9
