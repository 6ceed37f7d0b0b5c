"""Which moments are seen: bins of the action, or the strict window before it."""

import numpy as np
import pytest

from mambavl.cache.rows import FLAG_BEFORE_START
from mambavl.extract.sampling import Sampling, mf_dense, segment_uniform, window


def test_recognition_takes_the_centres_of_equal_bins():
    np.testing.assert_allclose(segment_uniform(2.0, 6.0, 4), [2.5, 3.5, 4.5, 5.5])


def test_several_views_share_the_bins_between_them():
    views = [segment_uniform(2.0, 6.0, 4, view, 2) for view in range(2)]
    np.testing.assert_allclose(np.sort(np.concatenate(views)), segment_uniform(2.0, 6.0, 8))


def test_dense_windows_are_two_seconds_and_begin_at_tenths_of_what_the_segment_is_longer():
    views = np.stack([mf_dense(5.0, 11.0, 16, view, 10) for view in range(10)])
    np.testing.assert_allclose(views[:, -1] - views[:, 0], 64 / 30 - 1 / 60)
    np.testing.assert_allclose(views[:, 0], 5.0 + 1 / 60 + (6.0 - 64 / 30) * np.arange(10) / 10)
    np.testing.assert_allclose(np.ptp(mf_dense(0.0, 9.0, 32, stride=3)), 96 / 30 - 1 / 60)  # motionformer-l
    assert views.max() < 11.0 - 0.3  # the last view never reaches the end


def test_a_dense_window_longer_than_the_segment_repeats_its_last_moment():
    for view in (0, 9):
        times = mf_dense(5.0, 6.0, 16, view, 10)
        assert times.max() == pytest.approx(6.0 - 1 / 60)
        assert len(np.unique(times)) < 16  # EK100: 51 % of the validation clips
        np.testing.assert_array_equal(times, mf_dense(5.0, 6.0, 16))


def test_rules_belong_to_tasks_and_views_to_recognition():
    assert Sampling().rule == "segment_uniform"
    assert Sampling(task="anticipation").rule == "strict"
    assert Sampling(rule="mf_dense", views=10).rule == "mf_dense"
    for wrong in (
        {"rule": "strict"},
        {"task": "anticipation", "rule": "mf_dense"},
        {"task": "anticipation", "views": 2},
    ):
        with pytest.raises(ValueError, match=r"is not one of|views = 1"):
            Sampling(**wrong)


@pytest.mark.parametrize(
    "sampling",
    [Sampling(), Sampling(rule="mf_dense", stride=3, views=2), Sampling(task="anticipation", tau_a=0.5)],
)
def test_what_a_store_keeps_of_its_sampling_is_read_back(sampling):
    assert Sampling.model_validate(sampling.model_dump()) == sampling


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
    # the latest
    assert window(2.0, 3.0, Sampling(task="anticipation", frames=1)).times == pytest.approx([1.0 - 1 / 30])


@pytest.mark.parametrize("start", [0.0, 0.4, 1.0])
def test_nothing_to_observe_gives_an_empty_window(start):
    assert window(start, start + 2, Sampling(task="anticipation")).is_empty


def test_the_stop_of_the_action_plays_no_part_in_anticipation():
    sampling = Sampling(task="anticipation", tau_a=0.5)
    np.testing.assert_array_equal(window(9.0, 10.0, sampling).times, window(9.0, 90.0, sampling).times)


def test_the_known_counts_of_the_real_validation_list(ek100_validation):
    """EK100 facts: 129 windows begin before the video, 28 of them have nothing to observe."""
    sampling = Sampling(task="anticipation", frames=64)
    rows = ek100_validation.segments
    windows = [window(s.start, s.stop, sampling) for s in rows]
    assert sum(seen.is_empty for seen in windows) == 28
    assert sum(seen.is_empty or seen.flags == FLAG_BEFORE_START for seen in windows) == 129
    for segment, seen in zip(rows, windows, strict=True):
        assert seen.is_empty or seen.times.max() <= segment.start - 1.0 + 1e-9
