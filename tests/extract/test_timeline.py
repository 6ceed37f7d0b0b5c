"""What is on display at a time, or why nothing is."""

import numpy as np
import pytest

from mambavl.extract.timeline import Timeline, VideoError, first_line


def test_a_frame_stands_for_its_own_time_and_a_little_more():
    timeline = Timeline(pts=np.array([0.0, 0.1, 0.2, 0.6, 0.7]), end=0.8, longest=np.full(5, 0.25))
    assert timeline.at(np.array([0.19, 0.44, 0.65]))[0].tolist() == [1, 2, 3]
    with pytest.raises(VideoError, match=r"no frame for 0\.50 s") as error:
        timeline.at(np.array([0.1, 0.5]))
    assert error.value.status == "damaged_frame"


def test_an_error_is_one_line_without_numbers_of_ffmpeg():
    assert first_line(ValueError("[Errno 5] Invalid data\nand more")) == "Invalid data"
    assert first_line(KeyError()) == "KeyError"
