"""Features that last longer or shorter than their video: refused, with what would fit."""

from pathlib import Path

import numpy as np
import pytest

from mambavl.cache.interchange.clock import Clock, Extent, check_clock
from mambavl.configs.errors import DataError

SOURCE = Path("features")


def of(**videos):
    """video -> frames, seconds of the list."""
    return {video: Extent(frames, seconds, seconds) for video, (frames, seconds) in videos.items()}


@pytest.mark.parametrize("rate", [1.0, 24.0, 25.0, 29.97, 30.0, 50.0, 59.94, 60.0])
@pytest.mark.parametrize("seconds", [4.0, 60.0, 3700.0])
def test_features_at_their_own_rate_pass_with_a_padded_or_a_missing_end(rate, seconds):
    for cut in (-48, 0, 48):  # a window of 32 frames and a stride of 16
        check_clock(SOURCE, of(v=(round(seconds * rate) + cut, seconds)), rate, 48)


@pytest.mark.parametrize(
    ("made_at", "said"), [(60, 30), (30, 60), (30, 25), (25, 30), (50, 60), (60, 50), (59.94, 60), (5, 30)]
)
def test_another_rate_is_refused_and_the_right_one_named(made_at, said):
    """Half an hour, as EK100's longer videos are: 60 for 59.94 puts the last row 1.8 s too early."""
    extents = of(short=(round(12 * made_at), 12.0), long=(round(3600 * made_at), 3600.0))
    with pytest.raises(DataError) as error:
        check_clock(SOURCE, extents, said, 0)
    assert "features: the features of" in str(error.value)
    assert f"those of long last {3600 * made_at / said:.1f} s at fps = {said}" in str(error.value)
    assert f"the list says 3600.0 s; --set fps={made_at:g} would fit. If they are right" in str(error.value)


def test_videos_of_several_rates_are_said_to_be_so():
    with pytest.raises(DataError, match=r"1 video of 2 .* they would need from 50 to 50 frames a second"):
        check_clock(SOURCE, of(a=(6000, 100.0), b=(5000, 100.0)), 60, 0)
    with pytest.raises(DataError, match="they would need from 44 to 70 frames a second"):
        check_clock(SOURCE, of(a=(7000, 100.0), b=(4400, 100.0)), 60, 0)


def test_swapped_axes_are_named():
    with pytest.raises(
        DataError, match=r"the list says 10\.0 s; their other axis would fit: leave channels_first"
    ):
        check_clock(SOURCE, of(v=(36_880, 10.0)), 30, 48, turned=of(v=(304, 10.0)))


def test_a_source_without_the_frames_that_nobody_asks_for_passes():
    check_clock(SOURCE, {"v": Extent(300, 9.9, 100.0)}, 30, 0)
    with pytest.raises(DataError):
        check_clock(SOURCE, {"v": Extent(300, 11.1, 100.0)}, 30, 0)


@pytest.mark.parametrize("fps", [24.0, 29.97, 30.0, 50.0, 59.94])
@pytest.mark.parametrize(("stack", "step"), [(64, 64), (16, 8), (0, 1), (0, 30)])
def test_a_clock_is_read_from_times_that_were_rounded_to_that_of_a_file(fps, stack, step):
    """video_features: a stack of `stack` frames, `step` apart, is told by when the frame behind it begins; of
    single frames each by when it begins itself.
    """
    frames = stack + step * np.arange(200)
    for tick in (1e-6, 1.0, 3.0):  # ms
        times = np.round(frames * 1000 / fps / tick) * tick
        assert Clock.of_times(fps, times) == (fps, stack + 1, step)


@pytest.mark.parametrize("fps", [0.0, -30.0, np.nan, np.inf])
def test_a_rate_that_is_none_makes_no_clock(fps):
    with pytest.raises(ValueError, match="they are no times"):
        Clock.of_times(fps, np.arange(9.0))


@pytest.mark.parametrize("times", [[], [33.0]])
def test_one_time_makes_no_clock(times):
    with pytest.raises(ValueError, match="one step has no stride"):
        Clock.of_times(30.0, np.array(times))


def test_a_clock_knows_what_steps_cover():
    """8 steps of 32 frames, 16 apart: 7 x 16 + 32 frames; a window and a stride may be lacking at the end."""
    clock = Clock(30, 32, 16)
    assert (clock.extent(8, 5.0), clock.margin) == (Extent(144, 5.0, 5.0), 48)
    assert Extent(144, 5.0, 5.0).fits(30, 0)
    assert not Extent(144, 5.0, 5.0).fits(60, 0)
