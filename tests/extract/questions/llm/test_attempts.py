"""Replies that are accepted, sent for again or given up, and answers that are known already."""

from collections import Counter

import pytest

from helpers.llm_runs import ROWS, TWICE, run
from helpers.llm_server import BAD, ODD
from helpers.toyclasses import segment


def test_what_is_in_the_cache_is_not_asked_again_whatever_the_output(server, tmp_path):
    run(server, tmp_path)
    again = run(server, tmp_path, rows=TWICE[::-1])
    assert (again.tally.calls, again.tally.from_cache, len(server.lines())) == (0, 12, 12)
    assert len(again.written.questions) == 12
    more = run(server, tmp_path, rows=[*ROWS, segment("took plates", "take", "plate", name="new")])
    # its description comes out as that of `take plate`, so its questions are known
    assert more.tally.calls == 1


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_reply_is_asked_for_again_with_another_seed_and_paid(server, tmp_path, fault):
    found = run(server, tmp_path, f"once:{fault}")
    assert not found.written.failures
    assert sum(found.tally.rejected.values()) == 12
    assert found.tally.calls == 24
    seeds = Counter((line["seed"], line["temperature"]) for line in server.lines())
    assert seeds == {(0, 0.7): 12, (1, 1.0): 12}
    again = run(server, tmp_path, f"once:{fault}")
    assert again.tally.calls == 0


@pytest.mark.parametrize("fault", ODD)
def test_an_odd_reply_is_accepted(server, tmp_path, fault):
    found = run(server, tmp_path, f"always:{fault}")
    assert not found.written.failures
    assert found.tally.calls == 12
    assert found.tally.fenced == 12 * (fault == "fenced")


def test_rows_that_cannot_be_answered_are_named_with_a_reason_and_nothing_takes_their_place(server, tmp_path):
    found = run(server, tmp_path, "always:refused", rows=TWICE)
    assert not found.written.questions
    assert set(found.written.failures) == {row.narration_id for row in TWICE}
    assert set(found.written.failures.values()) == {
        "description: 3 replies rejected, the last one as refused: I will not do that."
    }
    # three were paid for, and a fourth was not asked for
    assert run(server, tmp_path, "always:refused").tally.calls == 0
    assert run(server, tmp_path, "always:refused", attempts=4).tally.calls == 6
