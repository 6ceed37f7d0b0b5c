"""Trying again, how long between two tries, and when it is given up."""

import pytest

from mambavl.configs.errors import DataError
from mambavl.configs.secrets import Secret
from mambavl.hub.faults import LONGEST_WAIT, SAID, TRIES, Passing, fault_of, in_rounds, say


def rounds(*outcomes):
    """Work that ends so in its rounds: a fault, `gain` and then a fault, or a value."""
    left = list(outcomes)

    def work(gained):
        outcome = left.pop(0)
        if outcome == "gain":
            gained()
            raise Passing("x")
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return work


def test_it_is_tried_again_at_growing_distances_or_when_the_server_says(waits):
    assert in_rounds(rounds(Passing("a"), Passing("b"), Passing("c", 9.0), "done")) == "done"
    assert waits == [2.0, 4.0, 9.0]


def test_no_server_makes_us_wait_for_ever(waits):
    in_rounds(rounds(Passing("a", 1e6), "done"))
    assert waits == [LONGEST_WAIT]


def test_it_is_given_up_after_rounds_without_gain():
    with pytest.raises(DataError, match=rf"x\. It was tried {TRIES} times; run the same command") as found:
        in_rounds(rounds(*[Passing("x")] * TRIES, "never"))
    assert not isinstance(found.value, Passing)
    assert in_rounds(rounds(*[Passing("x")] * (TRIES - 1), "done")) == "done"


def test_a_gain_counts_the_rounds_anew():
    assert in_rounds(rounds(*["gain"] * 50, "done")) == "done"


def test_what_does_not_pass_is_raised_at_once(waits):
    with pytest.raises(DataError, match="for good"):
        in_rounds(rounds(DataError("for good"), "never"))
    assert waits == []


def test_words_of_a_server_are_one_line_cut_and_harmless():
    assert say(Secret("hf_0123456789"), "a\n b\x1b[31m hf_0123456789") == "a b�[31m [key]"
    assert len(say(Secret(""), "x" * 10_000)) == SAID


def test_faults_of_the_disk_keep_their_words():
    error = OSError(28, "No space left on device", "/data/x")
    found = fault_of(error, "r could not be fetched", Secret(""), has_token=True)
    assert str(found).startswith("/data/x: the disk is full")
    assert not isinstance(found, Passing)
