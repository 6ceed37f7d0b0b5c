"""Features that last longer or shorter than their video: refused, with what would fit."""

from pathlib import Path

import pytest

from mambavl.cache.interchange.clock import Extent, check_clock
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
        DataError, match=r"the list says 10\.0 s; their other axis would fit: if they are \(D, st"
    ):
        check_clock(SOURCE, of(v=(36_880, 10.0)), 30, 48, turned=of(v=(304, 10.0)))


def test_a_source_without_the_frames_that_nobody_asks_for_passes():
    check_clock(SOURCE, {"v": Extent(300, 9.9, 100.0)}, 30, 0)
    with pytest.raises(DataError):
        check_clock(SOURCE, {"v": Extent(300, 11.1, 100.0)}, 30, 0)
