"""Where a row's features are: by name, by time in those of its video, or nowhere, with a reason."""

from pathlib import Path

import numpy as np
import pytest

from helpers.tiny import make_segments
from mambavl.cache.interchange.arrays import Arrays
from mambavl.cache.interchange.clock import Clock
from mambavl.cache.interchange.lookup import Fault, SamplingTimes, by_name, by_time
from mambavl.configs.errors import DataError, UsageError

SOURCE = Path("features")
SEGMENTS = make_segments(3)  # of P01_101, two seconds apart
RECOGNITION = {"task": "recognition"}


def arrays_of(values):
    def describe(name):
        return values[name].shape, values[name].dtype.name

    return Arrays(set(values), describe, values.__getitem__)


def steps(count):
    """Step i of a video, (steps, D): its number."""
    return arrays_of({"P01_101": np.arange(count, dtype=np.float32).repeat(2).reshape(count, 2)})


def test_a_row_has_the_array_of_its_name_and_the_longest_sets_the_shape():
    values = {s.narration_id: np.full((2 + i, 4), i, np.float16) for i, s in enumerate(SEGMENTS)}
    found = by_name(arrays_of(values | {"stranger": np.ones(3)}), SOURCE, SEGMENTS)
    assert (found.shape, found.is_half, found.unused, found.steps) == ((4, 4), True, 1, 4)
    assert found.read(1)[0].tolist() == values[SEGMENTS[1].narration_id].tolist()
    level = found.level(None)
    assert (level.name, level.shape, level.dtype) == ("frame", (1, 4, 4), "float16")
    assert found.level("float32").dtype == "float32"


def test_a_row_without_an_array_says_so():
    found = by_name(arrays_of({SEGMENTS[0].narration_id: np.ones((2, 4))}), SOURCE, SEGMENTS)
    with pytest.raises(Fault, match="no features for it in features") as caught:
        found.read(2)
    assert caught.value.status == "missing_video"


def test_arrays_of_two_widths_are_refused():
    values = {SEGMENTS[0].narration_id: np.ones((2, 4)), SEGMENTS[1].narration_id: np.ones((2, 5))}
    with pytest.raises(DataError, match="all must have one form and one width"):
        by_name(arrays_of(values), SOURCE, SEGMENTS)


def test_arrays_of_videos_are_no_arrays_of_rows():
    with pytest.raises(
        DataError, match=r"named after videos \(P01_101\), and it is read by row .*: --set fps=N --set st"
    ):
        by_name(steps(3), SOURCE, SEGMENTS)


CLOCK = Clock(30, 32, 16)


@pytest.mark.parametrize(
    ("shape", "clock", "said"),
    [
        ((37, 4), CLOCK, "--set fps=60 would fit"),  # of 10 s at 60
        ((18, 4), (60, 32, 16), "--set fps=30 would fit"),
    ],
)
def test_steps_that_do_not_last_as_long_as_the_video_are_refused(shape, clock, said):
    arrays = arrays_of({"P01_101": np.zeros(shape, np.float32)})
    times = np.zeros((3, 1))
    assert by_time(arrays, SOURCE, SEGMENTS, SamplingTimes(RECOGNITION, times), Clock(*clock)).steps == 1
    moments = SamplingTimes(RECOGNITION, times, durations={"P01_101": 10.0, "P09_01": 1.0})
    with pytest.raises(DataError, match=rf"1 video of 1 .*{said}"):
        by_time(arrays, SOURCE, SEGMENTS, moments, Clock(*clock))


def test_steps_that_lie_in_the_other_axis_are_read_there():
    """(D, steps) of MS-TCN, told by the 10 s of the video; who says (steps, D) all the same is refused."""
    values = {"P01_101": np.arange(18, dtype=np.float32)[None].repeat(2304, 0)}
    moments = SamplingTimes(RECOGNITION, np.full((3, 1), 5.0), durations={"P01_101": 10.0})
    found = by_time(arrays_of(values), SOURCE, SEGMENTS, moments, CLOCK)
    assert (found.shape, found.is_turned) == ((1, 2304), True)
    assert set(found.read(0)[0][0].tolist()) == {8.0}  # [8 x 16, 8 x 16 + 32) has its centre at 4.8 s
    with pytest.raises(DataError, match="their other axis would fit: leave channels_first out"):
        by_time(arrays_of(values), SOURCE, SEGMENTS, moments, CLOCK, channels_first=False)


@pytest.mark.parametrize("count", [0, 17, 18, 19])
def test_steps_of_the_whole_video_pass(count):
    moments = SamplingTimes(RECOGNITION, np.zeros((3, 1)), durations={"P01_101": 10.0})
    by_time(steps(count), SOURCE, SEGMENTS, moments, CLOCK)


def test_where_no_length_is_known_the_other_axis_is_asked_about():
    """MS-TCN's, of two videos: as (steps, D) they have two widths."""
    values = {"P01_101": np.zeros((64, 150), np.float32), "P01_102": np.zeros((64, 300), np.float32)}
    moments = SamplingTimes(RECOGNITION, np.ones((12, 1)))
    with pytest.raises(DataError, match=r"if they are \(D, steps\): --set channels_first=true"):
        by_time(arrays_of(values), SOURCE, make_segments(12), moments, CLOCK)
    found = by_time(arrays_of(values), SOURCE, make_segments(12), moments, CLOCK, channels_first=True)
    assert (found.shape, found.is_turned) == ((1, 64), True)


def test_a_rate_that_stands_beside_the_features_is_not_overruled():
    arrays = steps(18)._replace(rate=lambda name: 30.0)
    moments = SamplingTimes(RECOGNITION, np.zeros((3, 1)), durations={"P01_101": 10.0})
    by_time(arrays, SOURCE, SEGMENTS, moments, CLOCK)
    with pytest.raises(
        DataError, match="P01_101_fps says 30 frames a second, and fps = 25; --set fps=30 would"
    ):
        by_time(arrays, SOURCE, SEGMENTS, moments, Clock(25, 32, 16))


def test_recognition_takes_the_step_whose_centre_is_nearest():
    """Steps of 10 frames at 10 a second, one after another: their centres are at 0.5, 1.5, 2.5 s."""
    times = np.array([[0.4, 1.6], [2.4, 0.9], [1.0, 2.0]])  # of two at the same distance the earlier
    found = by_time(steps(3), SOURCE, SEGMENTS, SamplingTimes(RECOGNITION, times), Clock(10, 10, 10))
    assert [found.read(row)[0][:, 0].tolist() for row in range(3)] == [[0, 1], [2, 0], [0, 1]]
    np.testing.assert_allclose(found.read(0)[1], [0.5, 1.5])


def test_anticipation_takes_the_last_step_that_has_ended():
    times = np.array([[0.99, 1.0], [1.99, 2.01], [2.99, 3.0]])
    sampling = {"task": "anticipation", "tau_a": 0.5}
    found = by_time(steps(3), SOURCE, SEGMENTS[1:], SamplingTimes(sampling, times[1:]), Clock(10, 10, 10))
    assert [found.read(row)[0][:, 0].tolist() for row in range(2)] == [[0, 1], [1, 2]]


@pytest.mark.parametrize(
    ("seconds", "status"), [(np.nan, "empty_window"), (9.0, "short_video")], ids=["nothing", "beyond"]
)
def test_a_moment_that_no_step_shows_is_a_fault(seconds, status):
    times = np.full((3, 2), seconds)
    found = by_time(steps(3), SOURCE, SEGMENTS, SamplingTimes(RECOGNITION, times), Clock(10, 10, 10))
    with pytest.raises(Fault) as caught:
        found.read(0)
    assert caught.value.status == status


def test_times_of_other_rows_are_refused():
    with pytest.raises(ValueError, match="2 rows of times for 3 segments"):
        SamplingTimes(RECOGNITION, np.zeros((2, 1))).by_row(3)
    with pytest.raises(ValueError, match="no rows of times for 3 segments"):
        SamplingTimes(RECOGNITION).by_row(3)


def beside(values, times, fps=30.0):
    """Arrays with what video_features writes beside them."""
    return arrays_of(values)._replace(rate=lambda name: fps, times=lambda name: np.asarray(times, np.float64))


def test_the_files_beside_features_are_their_clock():
    """Stacks of 10 frames every 5, at 10 a second: the frame that begins at 1.0, 1.5, ... s is the last."""
    values = {"P01_101": np.arange(8, dtype=np.float32).reshape(8, 1)}
    arrays = beside(values, 1000 + 500.0 * np.arange(8), fps=10.0)
    times = np.array([[1.05], [1.1], [2.7]])
    for task, expected in (("recognition", [1, 1, 4]), ("anticipation", [0, 0, 3])):
        moments = SamplingTimes({"task": task, "tau_a": -9.0}, times)
        found = by_time(arrays, SOURCE, SEGMENTS, moments, None)
        assert [found.read(row)[0].item() for row in range(3)] == expected
    given = by_time(arrays, SOURCE, SEGMENTS, SamplingTimes(RECOGNITION, times), Clock(10, 10, 10))
    assert given.read(2)[0].item() == 2  # whoever says a clock is believed


@pytest.mark.parametrize(
    ("times", "said"),
    [
        (500.0 * np.arange(7), r"there are 7 for 8 steps"),
        (np.r_[500.0 * np.arange(7), 9000.0], r"they are not even at 30 frames a second"),
        (np.zeros(8), r"they are not even"),
        (np.full(8, np.nan), r"they are no times"),
    ],
)
def test_times_beside_features_that_are_no_clock_are_refused(times, said):
    arrays = beside({"P01_101": np.zeros((8, 1), np.float32)}, times)
    with pytest.raises(DataError, match=rf"P01_101_timestamps_ms does not say .*: {said}.*--set fps=N"):
        by_time(arrays, SOURCE, SEGMENTS, SamplingTimes(RECOGNITION, np.zeros((3, 1))), None)


def test_without_a_clock_nothing_is_read_by_time():
    with pytest.raises(
        UsageError, match=r"nothing beside the features of P01_101 says when .*--set fps=N --s"
    ):
        by_time(steps(8), SOURCE, SEGMENTS, SamplingTimes(RECOGNITION, np.zeros((3, 1))), None)


def test_videos_of_two_rates_are_each_held_against_their_own():
    segments = make_segments(12)  # of P01_101 and P01_102
    values = {"P01_101": np.zeros((600, 1), np.float32), "P01_102": np.zeros((500, 1), np.float32)}
    fps = {"P01_101": 60.0, "P01_102": 50.0}
    arrays = arrays_of(values)._replace(
        rate=fps.get, times=lambda name: np.arange(len(values[name])) * 1000 / fps[name]
    )
    moments = SamplingTimes(RECOGNITION, np.full((12, 1), 9.5), durations=dict.fromkeys(fps, 10.0))
    assert by_time(arrays, SOURCE, segments, moments, None).read(11)[1] == pytest.approx(9.51, abs=0.02)
    long = SamplingTimes(RECOGNITION, np.zeros((12, 1)), durations={"P01_101": 10.0, "P01_102": 20.0})
    with pytest.raises(
        DataError, match=r"those of P01_102 last 10\.0 s at fps = 50, and the list says 20\.0"
    ):
        by_time(arrays, SOURCE, segments, long, None)


def test_a_batch_of_one_is_no_axis():
    values = {SEGMENTS[0].narration_id: np.arange(8, dtype=np.float32).reshape(1, 2, 4)}
    found = by_name(arrays_of(values), SOURCE, SEGMENTS)
    assert found.shape == (2, 4)
    assert found.read(0)[0].tolist() == values[SEGMENTS[0].narration_id][0].tolist()
    video = {"P01_101": np.arange(18, dtype=np.float32).reshape(1, 18, 1)}
    found = by_time(arrays_of(video), SOURCE, SEGMENTS, SamplingTimes(RECOGNITION, np.ones((3, 1))), CLOCK)
    assert found.read(0)[0].tolist() == [[1.0]]
