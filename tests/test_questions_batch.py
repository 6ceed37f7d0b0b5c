"""Batches: submitted once whatever happens before their id is noted, collected once, paid for within the budget."""

import json

import pytest
from llm_server import Running, running
from test_questions_asking import PRICES, ROWS, TWICE

from mambavl.cache import journal
from mambavl.configs.errors import DataError, Interrupted
from mambavl.extract.questions.asking import Asked, ask
from mambavl.extract.questions.batch import Batches
from mambavl.extract.questions.endpoint import Endpoint
from mambavl.extract.questions.exchange import Fault
from mambavl.extract.questions.ledger import Ledger
from mambavl.extract.questions.llm import Asking
from toyclasses import annotations

pytest.importorskip("openai", reason="needs the `llm` extra: pip install 'mambavl[llm]'")


class Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it."""


@pytest.fixture
def server(tmp_path):
    with running(tmp_path) as server:
        yield server


def asked(server: Running, cache, model: str = "good", rows=TWICE, **more) -> Asked:
    knobs = {"concurrency": 3, "backoff": 0.002, "max_wait": 0.02, "key_variable": "", "batch_poll": 0.01, "prices": PRICES}
    options = Asking(model=model, base_url=server.url, mode="batch", **(knobs | more))
    return ask(annotations(), rows, options, cache)


def test_each_stage_is_one_batch_and_a_second_run_submits_none(server, tmp_path):
    found = asked(server, tmp_path / "cache")
    assert not found.written.failures
    assert len(found.written.questions) == 12
    assert len(server.lines("batch")) == 2
    assert set(server.accepted("batch line").values()) == {1}
    assert found.tally.cost > 0
    assert found.ledger.spent == pytest.approx(found.tally.cost)
    assert not found.ledger.batches
    assert asked(server, tmp_path / "cache").tally.calls == 0
    live = ask(annotations(), TWICE, Asking(model="good", base_url=server.url, key_variable=""), tmp_path / "cache")
    assert live.tally.calls == 0  # the way a request went is no part of its key
    assert live.written == found.written


def test_a_batch_has_no_more_requests_than_it_may(server, tmp_path):
    assert not asked(server, tmp_path / "cache", batch_requests=4).written.failures
    assert len(server.lines("batch")) == 4


@pytest.mark.parametrize("fault", ["500", "malformed", "refused"])
def test_what_failed_in_a_batch_goes_into_the_next_one(server, tmp_path, fault):
    found = asked(server, tmp_path / "cache", f"once:{fault}")
    assert not found.written.failures
    assert len(server.lines("batch")) == 4
    assert len(server.lines("batch line")) == 24


@pytest.mark.parametrize(("fault", "reason"), [("500", "no reply in 3 batches"), ("refused", "2 replies rejected")])
def test_rows_that_no_batch_answers_are_named(server, tmp_path, fault, reason):
    found = asked(server, tmp_path / "cache", f"always:{fault}", attempts=2, retries=2)
    assert not found.written.questions
    assert len(found.written.failures) == 12
    assert all(reason in text for text in found.written.failures.values())


def test_seeded_faults_in_batches_end_with_every_row_answered_or_named(server, tmp_path):
    good = bad = 0
    for seed in range(4):
        found = asked(server, tmp_path / str(seed), f"faulty:{seed}:0.7", retries=2)
        assert len(found.written.questions) + len(found.written.failures) == 12
        good, bad = good + len(found.written.questions), bad + len(found.written.failures)
    assert set(server.accepted("batch line").values()) == {1}
    assert good > bad > 0


def test_a_batch_whose_id_never_arrived_is_found_by_its_token(server, tmp_path):
    """The server creates it and drops the connection."""
    assert not asked(server, tmp_path / "cache", "once:lost").written.failures
    assert len(server.lines("batch")) == 2


@pytest.mark.parametrize("moment", ["batch", "batch_id", "batch_reply", "batch_end"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_around_any_record_submits_no_batch_twice(server, tmp_path, monkeypatch, moment, when):
    """A kill before or after the n-th record of each kind, for the first and the second of them."""
    for number in (1, 2):
        real, seen, cache = getattr(Ledger, moment), [], tmp_path / f"{number}"

        def killed(self, *arguments, real=real, seen=seen, number=number):
            seen.append(1)
            if len(seen) == number and when == "before":
                raise Killed
            real(self, *arguments)
            if len(seen) == number:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(Ledger, moment, killed)
            with pytest.raises(Killed):
                asked(server, cache, f"good:{number}")
        found = asked(server, cache, f"good:{number}")
        assert not found.written.failures
        assert len(server.lines("batch")) == 2 * number
        assert set(server.accepted("batch line").values()) == {1}
        assert found.ledger.spent == pytest.approx(found.ledger.settled)
        replies = [r for path in cache.glob("*.journal") for r in journal.read(path) if r["event"] == "batch reply"]
        assert len(replies) == 12


def test_where_batches_are_not_listed_a_lost_one_is_not_submitted_again_unasked(server, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "batch_id", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            asked(server, tmp_path / "cache")

    async def unlisted(self, make, patience=1.0):
        return Fault("HTTP 404: no such page", again=False) if make.__name__ == "search" else await call(self, make, patience)

    call = Endpoint.call
    monkeypatch.setattr(Endpoint, "call", unlisted)
    with pytest.raises(DataError, match=r"does not list its batches .* --set resubmit=true"):
        asked(server, tmp_path / "cache")
    assert len(server.lines("batch")) == 1
    assert not asked(server, tmp_path / "cache", resubmit=True).written.failures
    assert len(server.lines("batch")) == 3


def test_the_budget_holds_for_batches(server, tmp_path):
    whole = asked(server, tmp_path / "free").ledger.spent
    found = asked(server, tmp_path / "paid", "good:b", budget=whole * 1.2)
    assert 0 < found.ledger.spent <= whole * 1.2
    assert any("could exceed the budget" in reason for reason in found.written.failures.values())
    assert not asked(server, tmp_path / "paid", "good:b", budget=whole * 5).written.failures


def test_a_signal_leaves_the_batch_to_the_server_and_the_next_run_collects_it(server, tmp_path):
    calls = []
    options = Asking(model="good", base_url=server.url, mode="batch", key_variable="", batch_poll=0.2)
    with pytest.raises(Interrupted, match="the same command collects them"):
        ask(annotations(), ROWS, options, tmp_path / "cache", should_stop=lambda: calls.append(1) or len(calls) > 0)
    assert len(server.lines("batch")) == 1
    assert len(Ledger(tmp_path / "cache").batches) == 1
    assert not asked(server, tmp_path / "cache", rows=ROWS).written.failures
    assert len(server.lines("batch")) == 2


def test_lines_of_an_output_file_that_are_damaged_or_strange_are_no_answers(server, tmp_path, monkeypatch):
    take, broken = Batches._take_line, []

    def damaged(self, batch, data):
        if not broken:
            broken.append(1)
            take(self, batch, json.dumps({"custom_id": "of another", "response": None}).encode())
            return take(self, batch, data[: len(data) // 2])
        return take(self, batch, data)

    monkeypatch.setattr(Batches, "_take_line", damaged)
    found = asked(server, tmp_path / "cache")
    assert not found.written.failures
    assert found.tally.calls == 13
