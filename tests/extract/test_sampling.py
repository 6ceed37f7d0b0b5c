"""Which moments are seen: bins of the action, or the window before it; and other people's rules, each beside
a twin that counts frames as their code does.
"""

import math

import numpy as np
import pytest

from mambavl.cache.rows import FLAG_BEFORE_START
from mambavl.configs.errors import DataError
from mambavl.extract.sampling import (
    COUNT_FRAMES,
    RULES,
    Sampling,
    avion,
    lavila,
    mf_dense,
    segment_uniform,
    window,
)

NTSC = 60_000 / 1001  # frames a second of most of EK100
RATES = (NTSC, 50.0, 30.0, 24.0, 90.0, 47.95)


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
        {"rule": "lavila", "views": 2},
    ):
        with pytest.raises(ValueError, match=r"is not one of|views = 1"):
            Sampling(**wrong)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(rule="mf_dense", stride=3, views=2),
        Sampling(task="anticipation", tau_a=0.5),
        Sampling(task="anticipation", rule="vjepa"),
        Sampling(task="anticipation", rule="inavit", views=10),
        Sampling(task="anticipation", rule="rulstm", frames=16),
    ],
)
def test_what_a_store_keeps_of_its_sampling_is_read_back(sampling):
    assert Sampling.model_validate(sampling.model_dump()) == sampling


def test_a_rule_brings_its_own_number_of_frames_unless_one_is_given():
    frames = {rule: Sampling(task=task, rule=rule).frames for task, rules in RULES.items() for rule in rules}
    own = {"vjepa": 32, "vjepa_released": 32, "rulstm": 11}
    assert frames == dict.fromkeys(frames, 16) | own
    assert Sampling(task="anticipation", rule="vjepa", frames=16).frames == 16


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


def by(rule: str, start: float, stop: float, rate: float = NTSC, view: int = 0, **more) -> np.ndarray:
    task = "recognition" if rule in RULES["recognition"] else "anticipation"
    return window(start, stop, Sampling(task=task, rule=rule, **more), view, rate).times


@pytest.mark.parametrize("rule", sorted({*RULES["anticipation"]} - {"inavit"}))
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("tau_a", [0.0, 0.25, 1.0])
def test_no_rule_of_anticipation_sees_anything_after_start_minus_tau(rule, rate, tau_a):
    sampling = Sampling(task="anticipation", rule=rule, tau_a=tau_a)
    assert sampling.is_causal
    for start in np.concatenate([np.linspace(0.01, 5.0, 41), [61.37, 3_707.9]]).tolist():
        seen = window(start, start + 2.0, sampling, rate=rate)
        end = start - tau_a
        assert seen.is_empty == (end <= 0)
        if seen.is_empty:
            continue
        assert seen.times.max() <= end
        assert seen.times.min() >= 0
        assert len(seen.times) == sampling.frames
        assert (np.diff(seen.times) >= 0).all()
        assert seen.flags == (FLAG_BEFORE_START if seen.times[0] == 0 and end < 4 else 0)


def test_vjepa_sees_eight_frames_a_second_for_four_seconds():
    times = by("vjepa", 10.0, 12.0)
    np.testing.assert_allclose(times, 5.0 + np.arange(32) / 8)  # 5.000 to 8.875, each on display for 1/8 s
    np.testing.assert_array_equal(times, by("vjepa", 10.0, 12.0, rate=30.0))


@pytest.mark.parametrize(
    ("rate", "step", "seconds"),
    [
        (NTSC, 7, 3.737),
        (50.0, 6, 3.84),
        (30.0, 3, 3.2),
        (24.0, 3, 4.0),
        (23.999999999, 3, 4.0),
        (8.0, 1, 4.0),
    ],
)
def test_the_released_vjepa_steps_by_whole_frames_and_sees_less_than_it_says(rate, step, seconds):
    times = by("vjepa_released", 10.0, 12.0, rate)
    np.testing.assert_allclose(np.diff(times), step / rate)
    assert 9.0 - times[0] == pytest.approx(seconds, abs=5e-4)


@pytest.mark.parametrize("start", [2.0, 4.87, 61.37])
@pytest.mark.parametrize("rate", RATES)
def test_the_released_vjepa_is_its_own_arithmetic_of_frames(start, rate):
    """With the action's start as its point, and frame numbers that are of the file."""
    step = int(rate / 8)
    end = int(start * rate) - int(1.0 * rate)
    picked = [max(frame, 0) for frame in range(end - 32 * step, end, step)]
    shown = np.floor(by("vjepa_released", start, start + 2.0, rate) * rate + 1e-6)
    assert np.abs(shown - picked).max() <= 1


def test_a_file_slower_than_the_released_vjepas_step_is_refused():
    with pytest.raises(DataError, match=r"it has 7\.5 frames a second, .* at least 8, .*rule=vjepa`"):
        by("vjepa_released", 10.0, 12.0, rate=7.5)
    assert len(by("vjepa", 10.0, 12.0, rate=7.5)) == 32


def test_rulstm_sees_the_last_frame_at_each_quarter_of_a_second():
    times = by("rulstm", 10.0, 12.0)
    np.testing.assert_allclose(times, [6.5, 6.75, 7.0, 7.25, 7.5, 7.75, 8.0, 8.25, 8.5, 8.75, 9.0])
    for start in (4.87, 10.0, 61.37):
        # its images of 30 a second at its 14 steps, of which the last three are later than 1 s before; images
        # are named from 1, so that its loader looks a frame further back than it may
        images = [math.floor((start - 0.25 * step) * 30) for step in range(14, 0, -1)][:11]
        on_display = np.floor(by("rulstm", start, start + 2.0) * 30 + 1e-6)
        assert (on_display == images).all()


def test_lavila_and_avion_take_the_middles_of_bins_counted_in_frames():
    frames = (lavila(1.0, 3.0, 4, 30.0) * 30).astype(int)
    assert frames.tolist() == [37, 52, 67, 81]  # of the borders 30, 45, 60, 74, 89
    frames = (avion(1.0, 3.0, 4, 30.0) * 30).astype(int)
    assert frames.tolist() == [37, 52, 67, 82]  # of the borders 30, 45, 60, 75, 90
    np.testing.assert_allclose(lavila(1.0, 3.0, 4, 30 + 1e-9), lavila(1.0, 3.0, 4, 30.0))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("segment", [(1.37, 3.0), (61.3, 61.83), (300.5, 447.5)])
def test_lavila_and_avion_are_their_own_arithmetic_of_frames(segment, rate):
    start, stop = segment
    first, last = round(start * rate), math.ceil(stop * rate - 1e-6)
    size = (last - first - 1) / 16
    middles = [
        (int(np.round(size * k) + first) + int(np.round(size * (k + 1)) + first)) // 2 for k in range(16)
    ]
    assert np.floor(by("lavila", start, stop, rate) * rate).tolist() == middles
    first, last = round(start * rate), round(stop * rate)
    centres = [int(first + (last - first) * (2 * k + 1) / 32 + 1e-9) for k in range(16)]
    assert np.floor(by("avion", start, stop, rate) * rate).tolist() == centres
    # both mean what segment_uniform says
    for rule in COUNT_FRAMES[:2]:
        off = by(rule, start, stop, rate) - segment_uniform(start, stop, 16)
        assert np.abs(off).max() <= 1.6 / rate


def test_inavit_shows_the_action_itself_and_nothing_of_before_it():
    assert not Sampling(task="anticipation", rule="inavit").is_causal
    first = by("inavit", 10.0, 11.0)  # one window: the first two frames of the action, at any length
    assert (first >= 10.0).all()
    assert (first <= 10.0 + 1 / 60).all()
    np.testing.assert_array_equal(first, by("inavit", 10.0, 30.0))
    last = by("inavit", 10.0, 20.0, view=9, views=10)
    end = (10.0 - 64 / 30) * 0.9 - 1 / 30
    np.testing.assert_allclose(last[[0, -1]], [10.0 + end - 64 / 30 + 1 / 60, 10.0 + end])


def test_the_known_counts_of_inavits_windows_on_the_real_validation_list(ek100_validation):
    """Of ten views, in frames of 60 or 50 a second: none begins before the action, 62 % show two frames or
    fewer, and the last frame lies 0.90 s after the action's start on average, 130 s at most.
    """
    distinct, last = [], []
    for segment in ek100_validation.segments:
        rate = 60 if len(segment.video_id) == len("P01_01") else 50
        for view in range(10):
            times = by("inavit", segment.start, segment.stop, view=view, views=10) - segment.start
            distinct.append(len(set(np.floor(times * rate + 1e-6))))
            last.append(times[-1])
            assert times.min() >= 0
    assert np.mean(np.array(distinct) <= 2) == pytest.approx(0.62, abs=0.01)
    assert np.mean(last) == pytest.approx(0.90, abs=0.005)
    assert np.max(last) == pytest.approx(130, abs=0.5)


@pytest.mark.parametrize(
    ("settings", "ahead"),
    [
        ({"rule": "vjepa"}, 8.0),
        ({"rule": "vjepa", "tau_a": 0.25, "frames": 64}, 2.0),
        ({"rule": "vjepa_released"}, 8.0),  # its encoder is told 8 a second, whatever is shown
        ({"rule": "rulstm"}, 4.0),
        ({"rule": "strict"}, 7.5),
        ({"rule": "strict", "frames": 32, "tau_a": 2.0}, 30.0),
        ({"rule": "inavit"}, 0.0),
        ({"task": "recognition"}, 0.0),
    ],
)
def test_how_many_frames_lie_between_a_clip_and_the_action_goes_by_the_pace_of_its_rule(settings, ahead):
    assert Sampling(**{"task": "anticipation", **settings}).ahead == pytest.approx(ahead)
