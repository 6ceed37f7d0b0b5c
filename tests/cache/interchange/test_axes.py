"""Which axis is time: told by durations and by times beside, never by the shape alone."""

from pathlib import Path

import numpy as np
import pytest

from mambavl.cache.interchange.arrays import Arrays
from mambavl.cache.interchange.axes import steps_first
from mambavl.cache.interchange.clock import Clock
from mambavl.configs.errors import UsageError

CLOCK = Clock(15, 1, 1)  # a step a frame, as MS-TCN's: 10 s are 150 steps
SOURCE = Path("features")


def arrays_of(**shapes):
    values = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    return Arrays(
        set(values), lambda name: (values[name].shape, "float32"), values.__getitem__, lambda _: 15.0
    )


def turned(arrays, durations, clock=CLOCK, channels_first=None):
    found, is_turned = steps_first(arrays, SOURCE, sorted(arrays.names), durations, clock, channels_first)
    for name in arrays.names:
        shape = arrays.describe(name)[0]
        assert found.describe(name)[0] == found.read(name).shape == (shape[::-1] if is_turned else shape)
    return is_turned


def test_the_axis_that_lasts_as_long_as_the_video_is_time():
    durations = {"a": 10.0, "b": 20.0}
    assert turned(arrays_of(a=(2048, 150), b=(2048, 300)), durations)
    assert not turned(arrays_of(a=(150, 2048), b=(300, 2048)), durations)
    assert turned(arrays_of(a=(2048, 150), b=(2048, 9)), {"a": 10.0})  # of b nothing is known
    assert not turned(arrays_of(a=(2048, 150)), {})
    assert not turned(arrays_of(a=(2048, 150), b=(300, 2048)), durations)  # refused by the clock
    assert not turned(arrays_of(a=(2048, 400)), durations)


def test_one_video_may_be_as_long_as_features_are_wide_but_not_all():
    assert turned(arrays_of(a=(150, 150), b=(150, 300)), {"a": 10.0, "b": 20.0})
    assert not turned(arrays_of(a=(150, 150), b=(300, 150)), {"a": 10.0, "b": 20.0})
    with pytest.raises(UsageError, match=r"either axis .*channels_first=true.*channels_first=false"):
        turned(arrays_of(a=(150, 151), b=(150, 150)), {"a": 10.0, "b": 10.0})


def test_what_is_said_is_done():
    durations = {"a": 10.0}
    assert turned(arrays_of(a=(150, 2048)), durations, channels_first=True)
    assert not turned(arrays_of(a=(2048, 150)), durations, channels_first=False)
    assert turned(arrays_of(a=(150, 150)), durations, channels_first=True)


def test_times_beside_the_features_are_counted():
    arrays = arrays_of(a=(8, 30))._replace(times=lambda _: np.arange(30.0))
    assert turned(arrays, {}, clock=None)
    assert not turned(arrays_of(a=(30, 8))._replace(times=lambda _: np.arange(30.0)), {}, clock=None)
    assert not turned(arrays_of(a=(30, 8)), {"a": 10.0}, clock=None)  # no times at all: refused elsewhere
