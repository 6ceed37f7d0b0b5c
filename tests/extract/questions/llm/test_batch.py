"""Batches: submitted once whatever happens before their id is noted, collected once, paid for within the
budget.
"""

import json

import pytest

from helpers.llm_runs import PRICES, ROWS, TWICE, run
from helpers.llm_server import Running
from helpers.toyclasses import annotations
from mambavl.cache import journal
from mambavl.configs.errors import DataError, Interrupted
from mambavl.extract.questions.llm.batch_server import BatchServer
from mambavl.extract.questions.llm.generate import Outcome, generate_with_llm, plan_with_llm
from mambavl.extract.questions.llm.ledger import Ledger
from mambavl.extract.questions.llm.options import LLMSettings

pytest.importorskip("openai", reason="needs the `llm` extra: pip install -e '.[llm]'")


class Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it."""


def batched(server: Running, cache, model: str = "good", rows=TWICE, **more) -> Outcome:
    return run(server, cache, model, rows, mode="batch", **more)


def test_each_stage_is_one_batch_and_a_second_run_submits_none(server, tmp_path):
    found = batched(server, tmp_path / "cache")
    assert not found.written.failures
    assert len(found.written.questions) == 12
    assert len(server.lines("batch")) == 2
    assert set(server.accepted("batch line").values()) == {1}
    assert found.tally.cost > 0
    assert found.ledger.spent == pytest.approx(found.tally.cost)
    assert not found.ledger.batches
    assert batched(server, tmp_path / "cache").tally.calls == 0
    live = generate_with_llm(
        annotations(),
        TWICE,
        LLMSettings(model="good", base_url=server.url, key_variable=""),
        tmp_path / "cache",
    )
    assert live.tally.calls == 0  # the way a request went is no part of its key
    assert live.written == found.written


def test_a_batch_has_no_more_requests_than_it_may(server, tmp_path):
    assert not batched(server, tmp_path / "cache", batch_requests=4).written.failures
    assert len(server.lines("batch")) == 4


@pytest.mark.parametrize("fault", ["500", "malformed", "refused"])
def test_what_failed_in_a_batch_goes_into_the_next_one(server, tmp_path, fault):
    found = batched(server, tmp_path / "cache", f"once:{fault}")
    assert not found.written.failures
    assert len(server.lines("batch")) == 4
    assert len(server.lines("batch line")) == 24


@pytest.mark.parametrize(
    ("fault", "reason"), [("500", "no reply in 3 batches"), ("refused", "2 replies rejected")]
)
def test_rows_that_no_batch_answers_are_named(server, tmp_path, fault, reason):
    found = batched(server, tmp_path / "cache", f"always:{fault}", attempts=2, retries=2)
    assert not found.written.questions
    assert len(found.written.failures) == 12
    assert all(reason in text for text in found.written.failures.values())


def test_seeded_faults_in_batches_end_with_every_row_answered_or_named(server, tmp_path):
    good = bad = 0
    for seed in range(4):
        found = batched(server, tmp_path / str(seed), f"faulty:{seed}:0.7", retries=2)
        assert len(found.written.questions) + len(found.written.failures) == 12
        good, bad = good + len(found.written.questions), bad + len(found.written.failures)
    assert set(server.accepted("batch line").values()) == {1}
    assert good > bad > 0


def test_a_batch_whose_id_never_arrived_is_found_by_its_token(server, tmp_path):
    """The server creates it and drops the connection."""
    assert not batched(server, tmp_path / "cache", "once:lost").written.failures
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
                batched(server, cache, f"good:{number}")
        found = batched(server, cache, f"good:{number}")
        assert not found.written.failures
        assert len(server.lines("batch")) == 2 * number
        assert set(server.accepted("batch line").values()) == {1}
        assert found.ledger.spent == pytest.approx(found.ledger.settled)
        replies = [
            r for path in cache.glob("*.journal") for r in journal.read(path) if r["event"] == "batch reply"
        ]
        assert len(replies) == 12


def test_where_batches_are_not_listed_a_lost_one_is_not_submitted_again_unasked(
    server, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "batch_id", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            batched(server, tmp_path / "cache")
    server.trouble("list-404")
    with pytest.raises(DataError, match=r"does not list its batches .* --set resubmit=true"):
        batched(server, tmp_path / "cache")
    assert len(server.lines("batch")) == 1
    found = batched(server, tmp_path / "cache", resubmit=True)
    assert not found.written.failures
    assert len(server.lines("batch")) == 3
    # the lost one is in the books with all that it may have cost
    assert found.ledger.spent == pytest.approx(found.tally.cost)


def test_the_budget_holds_for_batches(server, tmp_path):
    whole = batched(server, tmp_path / "free").ledger.spent
    found = batched(server, tmp_path / "paid", "good:b", budget=whole * 1.2)
    assert 0 < found.ledger.spent <= whole * 1.2
    assert any("could exceed the budget" in reason for reason in found.written.failures.values())
    assert not batched(server, tmp_path / "paid", "good:b", budget=whole * 5).written.failures


def test_a_signal_leaves_the_batch_to_the_server_and_the_next_run_collects_it(server, tmp_path):
    calls = []
    options = LLMSettings(model="good", base_url=server.url, mode="batch", key_variable="", batch_poll=0.2)
    with pytest.raises(Interrupted, match="the same command collects them"):
        generate_with_llm(
            annotations(),
            ROWS,
            options,
            tmp_path / "cache",
            should_stop=lambda: calls.append(1) or len(calls) > 0,
        )
    assert len(server.lines("batch")) == 1
    assert len(Ledger(tmp_path / "cache").batches) == 1
    assert not batched(server, tmp_path / "cache", rows=ROWS).written.failures
    assert len(server.lines("batch")) == 2


def test_lines_of_an_output_file_that_are_damaged_or_strange_are_no_answers(server, tmp_path, monkeypatch):
    real, broken = BatchServer.download, []

    async def damaged(self, file_id):
        content = await real(self, file_id)
        if broken:
            return content
        broken.append(1)
        first, _, rest = content.partition(b"\n")
        strange = json.dumps({"custom_id": "of another", "response": None}).encode()
        return b"\n".join([strange, first[: len(first) // 2], rest])

    monkeypatch.setattr(BatchServer, "download", damaged)
    found = batched(server, tmp_path / "cache")
    assert not found.written.failures
    assert found.tally.calls == 13


def cheapest(ledger: Ledger) -> float:
    """What the server charges at least for a reply."""
    knobs = LLMSettings(model="m", prices=PRICES)
    return min(knobs.cost(r.tokens_in, r.tokens_out) for replies in ledger.replies.values() for r in replies)


def test_a_batch_of_unknown_fate_is_not_created_again_by_the_run_that_made_it(server, tmp_path):
    """It was created, its id was lost, and the server lists it late."""
    server.trouble("create-lost", "list-none")
    for paid in (1, 2):  # the second run finds none, counts it in full, and meets the same once more
        with pytest.raises(
            DataError, match=r"nobody knows whether the server took the batch .* run the same command again"
        ):
            batched(server, tmp_path / "cache")
        assert len(server.lines("batch")) == paid
        assert len(Ledger(tmp_path / "cache").batches) == 1
    lost = Ledger(tmp_path / "cache").settled
    assert lost > 0
    server.trouble()
    found = batched(server, tmp_path / "cache")  # listed by now
    assert not found.written.failures
    assert len(server.lines("batch")) == 3
    assert found.ledger.spent == pytest.approx(lost + found.tally.cost)
    assert found.ledger.spent > len(server.lines("batch line")) * cheapest(found.ledger)


def submitted(server, cache) -> None:
    """Leave a batch with the six descriptions open."""
    options = LLMSettings(
        model="good", base_url=server.url, mode="batch", key_variable="", batch_poll=0.01, prices=PRICES
    )
    with pytest.raises(Interrupted):
        generate_with_llm(annotations(), ROWS, options, cache, should_stop=lambda: True)
    assert len(Ledger(cache).batches) == 1


def test_live_pays_for_nothing_that_waits_in_a_batch(server, tmp_path):
    submitted(server, tmp_path)
    live = LLMSettings(model="good", base_url=server.url, key_variable="", prices=PRICES)
    with pytest.raises(
        DataError, match=r"6 of these requests wait in a batch .*batch-0.*; add --set mode=batch"
    ):
        generate_with_llm(annotations(), ROWS, live, tmp_path)
    assert not server.lines()
    waiting = plan_with_llm(annotations(), ROWS, live, tmp_path)
    assert (waiting.waiting, waiting.calls) == ((6, 1), (0, 6))
    assert not generate_with_llm(
        annotations(), ROWS, live.model_copy(update={"model": "good@0"}), tmp_path
    ).written.failures  # other requests
    assert not batched(server, tmp_path, rows=ROWS).written.failures
    assert plan_with_llm(annotations(), ROWS, live, tmp_path).waiting == (0, 0)
    assert not generate_with_llm(annotations(), ROWS, live, tmp_path).written.failures


@pytest.mark.parametrize("gone", ["retrieve-404", "content-404"])
def test_a_batch_that_the_server_no_longer_knows_is_let_go_when_asked(server, tmp_path, gone):
    submitted(server, tmp_path)
    reserved = Ledger(tmp_path).spent
    server.trouble(gone)
    for _ in range(2):
        with pytest.raises(
            DataError, match=r"no longer knows batch batch-0 .*HTTP 404.* --set resubmit=true"
        ):
            batched(server, tmp_path, rows=ROWS)
    # one that this run submitted is not let go by it
    with pytest.raises(DataError, match="no longer knows batch batch-1"):
        batched(server, tmp_path, rows=ROWS, resubmit=True)
    assert len(server.lines("batch")) == 2
    server.trouble()
    found = batched(server, tmp_path, rows=ROWS)
    assert not found.written.failures
    assert len(server.lines("batch")) == 3
    assert found.ledger.spent == pytest.approx(reserved + found.tally.cost)


def test_resubmit_lets_go_of_nothing_that_the_server_still_lists(server, tmp_path):
    server.trouble("create-lost", "list-none")
    with pytest.raises(DataError, match="nobody knows"):
        batched(server, tmp_path)
    server.trouble()
    assert not batched(server, tmp_path, resubmit=True).written.failures
    assert len(server.lines("batch")) == 2


def test_a_batch_elsewhere_is_named_with_its_address(server, tmp_path):
    submitted(server, tmp_path)
    other = LLMSettings(model="good", base_url="http://127.0.0.1:9/v1", mode="batch", key_variable="")
    with pytest.raises(
        DataError, match=f"wait in a batch at {server.url}; add --base-url {server.url} to collect"
    ):
        generate_with_llm(annotations(), ROWS, other, tmp_path)


def test_batches_of_other_requests_are_not_waited_for(server, tmp_path):
    assert not batched(server, tmp_path, "good:a", rows=ROWS).written.failures
    submitted(server, tmp_path)
    server.trouble("retrieve-404", "list-404")
    assert batched(server, tmp_path, "good:a", rows=ROWS).tally.calls == 0
    assert len(Ledger(tmp_path).batches) == 1


def test_a_state_that_nobody_knows_is_reported(server, tmp_path):
    server.trouble("status-paused")
    with pytest.raises(
        DataError, match="batch batch-0 is 'paused', and this program does not know what that means"
    ):
        batched(server, tmp_path)


def test_answers_in_damaged_lines_are_in_the_books(server, tmp_path):
    server.trouble("lines-bad")
    found = batched(server, tmp_path, rows=ROWS)
    paid = len(server.lines("batch line"))
    assert paid > 12
    assert found.ledger.spent >= paid * cheapest(found.ledger)


def test_an_error_that_is_a_text_is_the_reason(server, tmp_path):
    server.trouble("lines-errors")
    found = batched(server, tmp_path, rows=ROWS, retries=0)
    assert all("out of luck" in reason for reason in found.written.failures.values())
    assert found.ledger.spent == 0.0
