"""The live client: faults, refusals, waits, limits, budgets and signals."""

import asyncio
import random
from pathlib import Path

import pytest

from helpers.llm_runs import NARRATIONS, ROWS, TWICE, run, settings
from helpers.llm_server import FAULTS, Running
from helpers.toyclasses import annotations
from mambavl.configs.errors import DataError, Interrupted
from mambavl.extract.questions.llm.attempts import Task
from mambavl.extract.questions.llm.generate import generate_with_llm
from mambavl.extract.questions.llm.ledger import Ledger, open_ledger
from mambavl.extract.questions.llm.live import LiveClient
from mambavl.extract.questions.llm.options import LLMSettings
from mambavl.extract.questions.llm.replies import Description, judge_description
from mambavl.extract.questions.llm.requests import Fault, Reply, Request, load_prompt

pytest.importorskip("openai", reason="needs the `llm` extra: pip install -e '.[llm]'")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_overcome_by_asking_again(server, tmp_path, fault):
    found = run(server, tmp_path, f"once:{fault}", concurrency=6)
    assert not found.written.failures
    assert found.tally.faults == 12
    assert set(server.accepted().values()) == {1}
    # the server may have done the work, so the books hold the most it can charge
    may_cost = fault in ("hang", "cut", "html")
    assert (found.tally.cost > 12 * settings(server).cost(0, 400)) is may_cost
    assert found.ledger.spent == pytest.approx(found.tally.cost)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("500", r"no reply in 3 calls, the last one: HTTP 500"),
        ("hang", r"no reply in 60 s"),
        ("cut", "the connection failed"),
    ],
)
def test_a_server_that_gives_no_reply_is_asked_some_times_and_then_left_alone(
    server, tmp_path, fault, reason
):
    found = run(server, tmp_path, f"always:{fault}", retries=2, give_up_after=2, concurrency=1)
    reasons = list(found.written.failures.values())
    assert len(reasons) == 6
    assert reason in reasons[0]
    assert len(server.lines()) == 6  # two requests, three calls each
    assert "not sent: 2 requests in a row got no reply" in reasons[-1]


@pytest.mark.parametrize(("fault", "most"), [("401", 3), ("quota", 3), ("400", 2 + 3)])
def test_what_no_request_can_overcome_ends_the_run(server, tmp_path, fault, most):
    with pytest.raises(DataError, match=r"HTTP \d+: .* all answers so far are in "):
        run(server, tmp_path, f"always:{fault}", give_up_after=2)
    assert len(server.lines()) <= most  # with those that were under way


@pytest.mark.parametrize("row", [0, 3])
def test_a_request_that_the_server_refuses_stops_nobody_else(server, tmp_path, row):
    found = run(server, tmp_path, f"poison:{NARRATIONS[row][0]}", concurrency=1, give_up_after=2)
    assert list(found.written.failures) == [f"P01_01_{row}"]
    assert "HTTP 400" in found.written.failures[f"P01_01_{row}"]
    assert len(found.written.questions) == 5
    again = run(server, tmp_path, f"poison:{NARRATIONS[row][0]}", concurrency=1, give_up_after=1)
    assert again.tally.calls == 1  # the others' answers show that the server takes such requests


def test_a_filter_refuses_its_own_row_only(server, tmp_path):
    found = run(server, tmp_path, "once:filter")
    assert all("HTTP 400" in reason for reason in found.written.failures.values())
    assert len(server.lines()) == 6
    assert all(
        "questions: HTTP 400" in reason
        for reason in run(server, tmp_path, "once:filter").written.failures.values()
    )
    assert not run(server, tmp_path, "once:filter").written.failures


def test_no_server_at_all_is_a_reason_too(tmp_path):
    gone = Running("http://127.0.0.1:9/v1", tmp_path / "log")
    found = run(gone, tmp_path, retries=1)
    assert "the connection failed" in found.written.failures["P01_01_0"]


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


class Scripted:
    """A Completer whose outcomes are a list; when each call was made is remembered."""

    model, backend = "scripted", "llm:scripted"

    def __init__(self, clock: Clock, outcomes: list) -> None:
        self.clock, self.outcomes, self.times = clock, outcomes, []

    async def complete(self, request: Request, attempt: int) -> Reply | Fault:
        self.times.append(self.clock.now)
        return self.outcomes.pop(0)


GOOD = Reply('{"description": "The cook cuts a potato."}', "stop", None, 100, 20)


def scripted(tmp_path: Path, outcomes: list, count: int = 1, **knobs) -> tuple[Scripted, dict, Ledger]:
    clock = Clock()
    completer = Scripted(clock, outcomes)
    prompt = load_prompt("describe-1")
    tasks = [
        Task(Request("m", prompt, {"n": str(i)}, Description, {}), judge_description) for i in range(count)
    ]
    with open_ledger(tmp_path / "cache") as ledger:
        live = LiveClient(completer, ledger, LLMSettings(model="m", **knobs), sleep=clock.sleep, clock=clock)
        return completer, asyncio.run(live.run(tasks)), ledger


def test_a_retry_after_is_waited_for(tmp_path):
    completer, answers, _ = scripted(
        tmp_path, [Fault("HTTP 429", wait=30.0), Fault("HTTP 429", wait=9e9), GOOD], max_wait=60.0
    )
    assert list(answers.values()) == ["The cook cuts a potato."]
    first, second = completer.times[1] - completer.times[0], completer.times[2] - completer.times[1]
    assert 30.0 <= first <= 31.0
    assert 60.0 <= second <= 62.0


def test_limits_of_requests_and_tokens_a_minute_hold(tmp_path):
    completer, _, _ = scripted(tmp_path, [GOOD] * 40, 40, requests_per_minute=60, concurrency=8)
    assert all(b - a >= 0.999 for a, b in zip(completer.times, completer.times[1:], strict=False))
    assert completer.times[-1] < 60


def test_the_budget_is_never_exceeded_and_counts_over_runs(server, tmp_path):
    full = run(server, tmp_path / "free").tally.cost
    spent = 0.0
    for budget in (0.0, full / 3, full / 2, full):
        found = run(server, tmp_path / "paid", budget=budget)
        assert spent <= found.ledger.spent <= budget
        spent = found.ledger.spent
        failed = found.written.failures
        assert not found.written.questions or len(found.written.questions) + len(failed) == 6
        assert failed
        assert all("could exceed the budget" in reason for reason in failed.values())
    found = run(server, tmp_path / "paid", budget=full * 4)
    assert not found.written.failures
    assert found.ledger.spent == pytest.approx(full)  # stopped and resumed, at the price of one run
    assert Ledger(tmp_path / "paid").spent == pytest.approx(full)


def test_a_signal_stops_between_calls_and_the_same_command_goes_on(server, tmp_path):
    calls = []
    with pytest.raises(Interrupted, match=r"stopped with \d of 6 requests answered"):
        generate_with_llm(
            annotations(),
            ROWS,
            settings(server, concurrency=1),
            tmp_path,
            should_stop=lambda: len(calls) > 2,
            progress=lambda *_: calls.append(1),
        )
    assert len(server.lines()) == 3
    assert run(server, tmp_path).tally.calls == 9


def check_schedule(server: Running, cache: Path, seed: int) -> tuple[int, int]:
    """One run under faults: every row is valid or named, and no request is paid for after an accepted reply
    came.
    """
    rate = random.Random(seed).choice([0.1, 0.3, 0.5, 0.8, 0.95])
    knobs = {"retries": 4, "max_wait": 0.004, "backoff": 0.001, "concurrency": 6}
    found = run(server, cache, f"faulty:{seed}:{rate}", rows=TWICE, **knobs)
    good = {question.narration_id for question in found.written.questions}
    assert good | set(found.written.failures) == {row.narration_id for row in TWICE}
    assert not good & set(found.written.failures)
    for question in found.written.questions:
        for text in (question.verb_question, question.noun_question):
            assert text.endswith("?")
            assert len(text.split()) >= 3
    assert all(": " in reason for reason in found.written.failures.values())
    assert set(server.accepted().values()) <= {1}
    return len(good), len(found.written.failures)


def run_schedules(server: Running, folder: Path, seeds: range, count) -> None:
    good = bad = faults = 0
    for seed in seeds:
        server.forget()
        one, other = check_schedule(server, folder / str(seed), seed)
        good, bad = good + one, bad + other
        faults += sum(line["what"] != "good" for line in server.lines())
    assert good > bad > 0
    count("fault schedules of a question server", len(seeds))
    count("faults a question server made", faults)


def test_seeded_fault_schedules_end_with_every_row_answered_or_named(server, tmp_path, count):
    run_schedules(server, tmp_path, range(20), count)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_thousand_fault_schedules(server, tmp_path, count):
    run_schedules(server, tmp_path, range(1_000), count)
