"""Where a thread is, and since when; time of a disk does not count."""

import pytest

from mambavl.extract import watch
from mambavl.extract.watch import At, Stopped


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

    monkeypatch.setattr(watch.time, "monotonic", lambda: Clock.now)
    return Clock


def test_a_thread_is_silent_since_it_said_where_it_is(clock):
    at = At()
    at.now("P01_01", "frame 3")
    assert (at.video, at.place) == ("P01_01", "frame 3")
    clock.now += 7
    assert at.silent_for() == 7
    at.now("P01_01", "frame 4")
    assert at.silent_for() == 0


def test_a_thread_that_goes_on_is_not_silent(clock):
    at = At()
    watch.begin(at)
    at.now("P01_01", "frame 3")
    clock.now += 50
    watch.alive()
    clock.now += 3
    assert at.silent_for() == 3
    assert at.place == "frame 3"


def test_nobody_reads_on_for_a_job_that_is_over():
    at = At()
    at.is_over = True
    with pytest.raises(Stopped):
        at.now("P01_01", "frame 3")


def test_the_time_of_a_disk_is_not_the_decoders(clock):
    at = At()
    watch.begin(at)
    at.now("P01_01", "frame 3")
    clock.now += 2
    with watch.disk():
        clock.now += 50
        assert at.silent_for() == 0
    assert at.silent_for() == 2
    clock.now += 1

    def fail():
        with watch.disk():
            clock.now += 50
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        fail()
    assert at.silent_for() == 3


def test_a_thread_that_nobody_watches_reads_as_well():
    watch.begin(None)
    watch.alive()
    with watch.disk():
        pass
