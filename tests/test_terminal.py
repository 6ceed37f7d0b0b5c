"""What people see while work goes on, and how a signal stops it."""

import os
import signal

import pytest

from mambavl import terminal


def test_a_log_gets_a_line_at_the_end_and_none_for_each_step(capsys):
    with terminal.progress("reading", "rows") as update:
        for done in range(1, 1_001):
            update(done, 1_000)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("reading: 1,000 of 1,000 rows, ")
    assert len(lines) < 100  # one every ten seconds, however slow the machine is


def test_the_last_line_of_a_log_comes_once(capsys):
    with terminal.progress("reading", "rows") as update:
        for done in (9, 9, 9):  # as who looks again and again says it
            update(done, 9)
        update(10, 12)  # more were found
        update(12, 12)
    assert [line[:16] for line in capsys.readouterr().err.splitlines()] == [
        "reading: 9 of 9 ",
        "reading: 12 of 1",
    ]


def test_a_log_gets_a_line_when_ten_seconds_have_passed(capsys, monkeypatch):
    now = 0.0
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now)
    with terminal.progress("reading", "rows") as update:
        for now, done in ((0.0, 1), (4.0, 1), (10.0, 2), (12.0, 3), (20.0, 5)):  # noqa: B007  # the clock reads it
            update(done, 9, "2 failed" if done > 2 else "")
    assert capsys.readouterr().err.splitlines() == [
        "reading: 2 of 9 rows, 10 s, 0.10 rows/s, 70 s left",  # a row was there before
        "reading: 5 of 9 rows, 20 s, 0.20 rows/s, 20 s left, 2 failed",
    ]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 s"),
        (89, "89 s"),
        (91, "2 min"),
        (3570, "1 h 0 min"),
        (9000, "2 h 30 min"),
        (187_200, "2 days 4 h"),
    ],
)
def test_times_are_said_as_people_do(seconds, said):
    assert terminal.duration(seconds) == said


def test_nothing_is_said_before_the_total_is_known(capsys):
    with terminal.progress("reading", "rows") as update:
        update(0, 0)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_first_signal_asks_for_a_stop_and_gives_the_second_its_usual_meaning(capsys, number):
    before = signal.getsignal(number)
    with terminal.stop_on_signal() as should_stop:
        assert not should_stop()
        assert signal.getsignal(number) is not before
        os.kill(os.getpid(), number)
        assert should_stop()
        assert signal.getsignal(number) is before
    assert "once more to stop at once" in capsys.readouterr().err
    assert signal.getsignal(number) is before


def test_handlers_come_back_when_no_signal_came():
    before = signal.getsignal(signal.SIGTERM)
    with terminal.stop_on_signal():
        pass
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("rank", "is_first"), [(None, True), ("0", True), ("1", False), ("12", False)])
def test_the_first_of_several_processes_speaks(monkeypatch, rank, is_first):
    monkeypatch.delenv(terminal.RANK, raising=False)
    if rank is not None:
        monkeypatch.setenv(terminal.RANK, rank)
    assert terminal.is_first() == is_first
