"""Asking a server for questions: faults, kills, budgets, and what is never paid for twice. A real server
process on loopback.
"""

import asyncio
import dataclasses
import hashlib
import io
import json
import os
import random
import subprocess
import sys
import traceback
from collections import Counter
from email.utils import formatdate
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.asking import NARRATIONS, PRICES, ROWS, TWICE, asked, options
from helpers.clips import read_barcode
from helpers.dataset import make_dataset
from helpers.llm_server import BAD, FAULTS, ODD, SOUND, Running, running
from helpers.paths import TESTS
from helpers.toyclasses import annotations, segment
from mambavl.cache import fsops, journal
from mambavl.cli import app
from mambavl.configs.errors import DataError, Interrupted, MambaVLError, UsageError
from mambavl.extract.annotations import read_annotations
from mambavl.extract.questions import read_questions
from mambavl.extract.questions.llm.attempts import Task
from mambavl.extract.questions.llm.frames import ClipFrames
from mambavl.extract.questions.llm.generate import generate_with_llm, plan_with_llm, write_outcome
from mambavl.extract.questions.llm.ledger import Ledger, open_ledger
from mambavl.extract.questions.llm.live import LiveClient, Pace, backoff
from mambavl.extract.questions.llm.options import LLMSettings
from mambavl.extract.questions.llm.replies import Description, QuestionPair, Rejected, judge_description
from mambavl.extract.questions.llm.requests import Fault, Prompt, Reply, Request, load_prompt
from mambavl.extract.questions.llm.server import Endpoint, retry_after

pytest.importorskip("openai", reason="needs the `llm` extra: pip install 'mambavl[llm]'")


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    with running(tmp_path_factory.mktemp("server")) as server:
        # a client's first calls in a process are slow
        asked(server, tmp_path_factory.mktemp("first"), timeout=30.0)
        yield server


@pytest.fixture
def server(process) -> Running:
    process.forget()
    return process


def test_each_distinct_narration_is_asked_once_and_serves_all_its_rows(server, tmp_path):
    found = asked(server, tmp_path, rows=TWICE)
    assert not found.written.failures
    assert [q.narration_id for q in found.written.questions] == [row.narration_id for row in TWICE]
    assert len(server.lines()) == found.tally.calls == 12  # 6 descriptions, 6 pairs
    write_outcome(tmp_path / "q.jsonl", found.written, options(server))
    questions = read_questions(tmp_path / "q.jsonl")
    one, other = questions["P01_01_0"], questions["P01_02_0"]
    assert one.verb_question == other.verb_question
    assert (one.protocol, one.backend, one.prompt_version) == ("oracle", "llm:good", "describe-1+ask-1")
    assert one.hint == {"verb_question": None, "noun_question": None}
    assert 'model = "good"' in (tmp_path / "q.jsonl.toml").read_text()


def test_what_is_in_the_cache_is_not_asked_again_whatever_the_output(server, tmp_path):
    asked(server, tmp_path)
    again = asked(server, tmp_path, rows=TWICE[::-1])
    assert (again.tally.calls, again.tally.from_cache, len(server.lines())) == (0, 12, 12)
    assert len(again.written.questions) == 12
    more = asked(server, tmp_path, rows=[*ROWS, segment("took plates", "take", "plate", name="new")])
    # its description comes out as that of `take plate`, so its questions are known
    assert more.tally.calls == 1


def test_a_change_of_anything_that_shapes_an_answer_is_another_request(server, tmp_path):
    base = Request("m", Prompt("p-1", "text"), {"a": "b"}, Description, {"seed": 0})
    changed = [
        dataclasses.replace(base, model="n"),
        dataclasses.replace(base, prompt=Prompt("p-2", "text")),
        dataclasses.replace(base, prompt=Prompt("p-1", "texts")),
        dataclasses.replace(base, inputs={"a": "c"}),
        dataclasses.replace(base, reply=QuestionPair),
        dataclasses.replace(base, parameters={"seed": 1}),
        dataclasses.replace(base, pictures={"frames": 1}),
    ]
    assert len({request.key for request in (base, *changed)}) == 1 + len(changed)
    assert dataclasses.replace(base).key == base.key
    asked(server, tmp_path)
    for more in ({"model": "good@0"}, {"seed": 1}, {"temperature": 0.1}, {"max_tokens": 100}):
        assert asked(server, tmp_path, **more).tally.calls == 12
    kept = {"concurrency": 1, "attempts": 9, "retries": 1, "timeout": 1.0, "budget": 9.0}
    # what does not shape the answer is no part of the key
    assert asked(server, tmp_path, **kept).tally.calls == 0


def test_the_prompts_of_these_versions_are_these_texts():
    """A prompt that is changed needs a version of its own: files name it."""
    texts = {version: load_prompt(version).sha256[:16] for version in ("describe-1", "ask-1")}
    assert texts == {"describe-1": "a36a2f226c24236e", "ask-1": "ae2aa0173dd79205"}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_overcome_by_asking_again(server, tmp_path, fault):
    found = asked(server, tmp_path, f"once:{fault}", concurrency=6)
    assert not found.written.failures
    assert found.tally.faults == 12
    assert set(server.accepted().values()) == {1}
    # the server may have done the work, so the books hold the most it can charge
    may_cost = fault in ("hang", "cut", "html")
    assert (found.tally.cost > 12 * options(server).cost(0, 400)) is may_cost
    assert found.ledger.spent == pytest.approx(found.tally.cost)


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_reply_is_asked_for_again_with_another_seed_and_paid(server, tmp_path, fault):
    found = asked(server, tmp_path, f"once:{fault}")
    assert not found.written.failures
    assert sum(found.tally.rejected.values()) == 12
    assert found.tally.calls == 24
    seeds = Counter((line["seed"], line["temperature"]) for line in server.lines())
    assert seeds == {(0, 0.7): 12, (1, 1.0): 12}
    again = asked(server, tmp_path, f"once:{fault}")
    assert again.tally.calls == 0


@pytest.mark.parametrize("fault", ODD)
def test_an_odd_reply_is_accepted(server, tmp_path, fault):
    found = asked(server, tmp_path, f"always:{fault}")
    assert not found.written.failures
    assert found.tally.calls == 12
    assert found.tally.fenced == 12 * (fault == "fenced")


def test_rows_that_cannot_be_answered_are_named_with_a_reason_and_nothing_takes_their_place(server, tmp_path):
    found = asked(server, tmp_path, "always:refused", rows=TWICE)
    assert not found.written.questions
    assert set(found.written.failures) == {row.narration_id for row in TWICE}
    assert set(found.written.failures.values()) == {
        "description: 3 replies rejected, the last one as refused: I will not do that."
    }
    # three were paid for, and a fourth was not asked for
    assert asked(server, tmp_path, "always:refused").tally.calls == 0
    assert asked(server, tmp_path, "always:refused", attempts=4).tally.calls == 6


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("500", r"no reply in 3 calls, the last one: HTTP 500"),
        ("hang", r"no reply in 0.05 s"),
        ("cut", "the connection failed"),
    ],
)
def test_a_server_that_gives_no_reply_is_asked_some_times_and_then_left_alone(
    server, tmp_path, fault, reason
):
    patience = 0.05 if fault == "hang" else 20.0
    found = asked(
        server, tmp_path, f"always:{fault}", retries=2, timeout=patience, give_up_after=2, concurrency=1
    )
    reasons = list(found.written.failures.values())
    assert len(reasons) == 6
    assert reason in reasons[0]
    assert len(server.lines()) == 6  # two requests, three calls each
    assert "not asked: 2 requests in a row got no reply" in reasons[-1]


@pytest.mark.parametrize(("fault", "most"), [("401", 3), ("quota", 3), ("400", 2 + 3)])
def test_what_no_request_can_overcome_ends_the_run(server, tmp_path, fault, most):
    with pytest.raises(DataError, match=r"HTTP \d+: .* what was answered is in "):
        asked(server, tmp_path, f"always:{fault}", give_up_after=2)
    assert len(server.lines()) <= most  # with those that were under way


@pytest.mark.parametrize("row", [0, 3])
def test_a_request_that_the_server_refuses_stops_nobody_else(server, tmp_path, row):
    found = asked(server, tmp_path, f"poison:{NARRATIONS[row][0]}", concurrency=1, give_up_after=2)
    assert list(found.written.failures) == [f"P01_01_{row}"]
    assert "HTTP 400" in found.written.failures[f"P01_01_{row}"]
    assert len(found.written.questions) == 5
    again = asked(server, tmp_path, f"poison:{NARRATIONS[row][0]}", concurrency=1, give_up_after=1)
    assert again.tally.calls == 1  # the others' answers show that the server takes such requests


@pytest.mark.parametrize("usage", ["usage-empty", "usage-null", "usage-huge", "usage-text"])
def test_a_reply_whose_tokens_are_not_counted_is_kept_at_the_bound(server, tmp_path, usage):
    found = asked(server, tmp_path, f"always:{usage}")
    assert not found.written.failures
    assert found.tally.calls == 12
    assert found.ledger.spent >= 12 * options(server).cost(0, 400)


def test_what_somebody_between_gave_up_waiting_for_may_have_been_paid(server, tmp_path):
    found = asked(server, tmp_path, "once:504")
    assert not found.written.failures
    assert found.ledger.spent > 12 * options(server).cost(0, 400)


def test_of_an_enormous_reply_only_the_beginning_is_kept(server, tmp_path):
    found = asked(server, tmp_path, "always:enormous", rows=ROWS[:1], attempts=2, timeout=10.0)
    assert "rejected, the last one as length" in found.written.failures["P01_01_0"]
    assert sum(path.stat().st_size for path in tmp_path.glob("*.journal")) < 50_000
    (replies,) = found.ledger.replies.values()
    digest = hashlib.sha256(b"x" * 3_000_000).hexdigest()
    assert replies[0].text.endswith(f"[cut: 3,000,000 characters, sha256 {digest}]")


def test_a_filter_refuses_its_own_row_only(server, tmp_path):
    found = asked(server, tmp_path, "once:filter")
    assert all("HTTP 400" in reason for reason in found.written.failures.values())
    assert len(server.lines()) == 6
    assert all(
        "questions: HTTP 400" in reason
        for reason in asked(server, tmp_path, "once:filter").written.failures.values()
    )
    assert not asked(server, tmp_path, "once:filter").written.failures


def test_no_server_at_all_is_a_reason_too(tmp_path):
    gone = Running("http://127.0.0.1:9/v1", tmp_path / "log")
    found = asked(gone, tmp_path, retries=1)
    assert "the connection failed" in found.written.failures["P01_01_0"]


def test_retry_after_is_read_in_all_its_forms():
    now = 1_700_000_000.0
    for headers, expected in (
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": formatdate(now + 90, usegmt=True)}, 90.0),
        ({"retry-after": formatdate(now - 90, usegmt=True)}, 0.0),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({}, None),
    ):
        assert retry_after(headers, now) == expected, headers
    assert retry_after({"retry-after": "inf"}, now) == float("inf")  # cut to max_wait


def test_waits_grow_are_spread_and_honour_the_server_up_to_a_limit():
    knobs, dice = LLMSettings(model="m", backoff=1.0, max_wait=20.0), random.Random(0)
    waits = [[backoff(knobs, call, None, dice) for _ in range(200)] for call in range(8)]
    for call, drawn in enumerate(waits):
        most = min(20.0, 2.0**call)
        assert most / 2 <= min(drawn) < max(drawn) <= most
        assert max(drawn) - min(drawn) > most / 4
    asked_for = [backoff(knobs, 0, 7.0, dice) for _ in range(200)]
    assert 7.0 <= min(asked_for) < max(asked_for) <= 8.0
    assert max(backoff(knobs, 0, float("inf"), dice) for _ in range(200)) <= 21.0


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
    asks = [
        Task(Request("m", prompt, {"n": str(i)}, Description, {}), judge_description) for i in range(count)
    ]
    with open_ledger(tmp_path / "cache") as ledger:
        live = LiveClient(completer, ledger, LLMSettings(model="m", **knobs), sleep=clock.sleep, clock=clock)
        return completer, asyncio.run(live.ask_all(asks)), ledger


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
    pace = Pace(1_000, lambda: 0.0)
    assert [pace.delay(500) for _ in range(4)] == [0.0, 30.0, 60.0, 90.0]
    assert Pace(None, lambda: 0.0).delay(1e9) == 0.0


def test_the_budget_is_never_exceeded_and_counts_over_runs(server, tmp_path):
    full = asked(server, tmp_path / "free").tally.cost
    spent = 0.0
    for budget in (0.0, full / 3, full / 2, full):
        found = asked(server, tmp_path / "paid", budget=budget)
        assert spent <= found.ledger.spent <= budget
        spent = found.ledger.spent
        failed = found.written.failures
        assert not found.written.questions or len(found.written.questions) + len(failed) == 6
        assert failed
        assert all("could exceed the budget" in reason for reason in failed.values())
    found = asked(server, tmp_path / "paid", budget=full * 4)
    assert not found.written.failures
    assert found.ledger.spent == pytest.approx(full)  # stopped and resumed, at the price of one run
    assert Ledger(tmp_path / "paid").spent == pytest.approx(full)
    with pytest.raises(ValueError, match="a budget needs prices"):
        LLMSettings(model="m", budget=1.0)


def test_a_call_that_a_kill_left_open_counts_with_its_bound(server, tmp_path):
    with open_ledger(tmp_path) as ledger:
        ledger.send("key", 0.75)
    assert Ledger(tmp_path).spent == 0.75
    found = asked(server, tmp_path, budget=0.7)
    assert found.tally.calls == 0
    assert len(found.written.failures) == 6


def test_the_bound_holds_for_any_text():
    prompt = load_prompt("ask-1")
    for text in ("plate", "é" * 50, "鍋を洗う", "🍳" * 20):
        request = Request("m", prompt, {"narration": text}, Description, {})
        assert request.token_bound(0) > len((prompt.text + text).encode())
    pictured = dataclasses.replace(request, pictures={"frames": 3})
    assert pictured.token_bound(1_000) == request.token_bound(1_000) + 3_000


def test_a_plan_needs_no_key_sends_nothing_and_tells_what_is_left(server, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    knobs = options(server)
    before = plan_with_llm(annotations(), TWICE, LLMSettings(model="good", prices=PRICES), tmp_path)
    assert (before.rows, before.groups, before.calls, before.cached, before.spent) == (
        12,
        6,
        (6, 6),
        (0, 0),
        0.0,
    )
    assert not server.lines()
    found = generate_with_llm(annotations(), TWICE, knobs, tmp_path)
    assert before.cost / 2 < found.tally.cost < before.most
    assert before.tokens_in / 2 < found.tally.tokens_in < before.tokens_in * 2
    after = plan_with_llm(annotations(), TWICE, knobs, tmp_path)
    assert (after.calls, after.cached, after.cost) == ((0, 0), (6, 6), 0.0)
    assert after.spent == pytest.approx(found.tally.cost)
    assert plan_with_llm(annotations(), ROWS, LLMSettings(model="good"), tmp_path / "none").cost is None


def test_a_second_process_on_one_cache_is_refused(server, tmp_path):
    with (
        open_ledger(tmp_path),
        pytest.raises(DataError, match="another process asks questions with this cache"),
    ):
        asked(server, tmp_path)
    assert not server.lines()
    assert not asked(server, tmp_path).written.failures


def test_a_stray_file_in_the_cache_is_named(server, tmp_path):
    (tmp_path / "foo.journal").write_bytes(b"")
    with pytest.raises(DataError, match=r"foo\.journal: is no journal of a cache of replies"):
        asked(server, tmp_path)


def test_a_torn_journal_loses_its_last_record_only_and_is_named(server, tmp_path):
    asked(server, tmp_path, rows=ROWS[:3])
    (first,) = tmp_path.glob("*.journal")
    whole = first.read_bytes()
    first.write_bytes(whole[:-5])
    found = asked(server, tmp_path)
    assert found.tally.calls == 7  # 6 for three new rows, and the reply that was torn
    assert list(found.ledger.torn) == [first.name]
    assert first.read_bytes() == whole[:-5]  # what was paid for is never cut
    assert len(list(tmp_path.glob("*.journal"))) == 2


def test_a_full_disk_ends_the_run_before_anything_else_is_paid(server, tmp_path, monkeypatch):
    sent = []

    class Full(fsops.Calls):
        def write(self, descriptor, data):
            sent.append(1)
            if len(sent) > 4:
                raise OSError(28, "No space left on device")
            return super().write(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr(fsops, "calls", Full())
        with pytest.raises(DataError, match="the disk is full"):
            asked(server, tmp_path, concurrency=1)
    assert len(server.lines()) == 2
    assert asked(server, tmp_path).tally.calls == 12 - 2


def test_a_signal_stops_between_calls_and_the_same_command_goes_on(server, tmp_path):
    calls = []
    with pytest.raises(Interrupted, match=r"stopped with \d of 6 requests answered"):
        generate_with_llm(
            annotations(),
            ROWS,
            options(server, concurrency=1),
            tmp_path,
            should_stop=lambda: len(calls) > 2,
            progress=lambda *_: calls.append(1),
        )
    assert len(server.lines()) == 3
    assert asked(server, tmp_path).tally.calls == 9


@pytest.mark.parametrize(
    ("structured", "expected"),
    [("json_schema", "json_schema"), ("json_object", "json_object"), ("none", None)],
)
def test_the_server_is_held_to_a_schema_as_far_as_it_can_be(server, tmp_path, structured, expected):
    assert not asked(server, tmp_path, structured=structured, token_limit_name="max_tokens").written.failures
    for line in server.lines():
        assert (line["response_format"] or {}).get("type") == expected
        assert line["max_completion_tokens"] is None
    if structured == "json_schema":
        schema = server.lines()[0]["response_format"]["json_schema"]
        assert schema["strict"] is True
        assert schema["schema"]["required"] == ["description"]
        assert schema["schema"]["additionalProperties"] is False


def test_rows_without_labels_and_other_protocols_are_refused(server, tmp_path):
    bare = dataclasses.replace(ROWS[0], verb_class=None)
    with pytest.raises(DataError, match="P01_01_0: has no verb and noun class"):
        asked(server, tmp_path, rows=[bare])
    with pytest.raises(UsageError, match="makes no 'generic' questions"):
        generate_with_llm(annotations(), ROWS, options(server), tmp_path, protocol="generic")


CANARY = "sk-canary-0123456789abcdefghij"


@pytest.fixture
def canary(monkeypatch):
    monkeypatch.setenv("KITCHEN_KEY", CANARY)
    return CANARY


def chain(error: BaseException | None) -> str:
    text = ""
    while error is not None:
        text += f"{error} {error!r} {vars(error)} {''.join(traceback.format_exception(error))}"
        error = error.__cause__ or error.__context__
    return text


@pytest.mark.parametrize(
    "model",
    [
        "good",
        "always:500",
        "always:401",
        "always:400",
        "always:cut",
        "always:hang",
        "once:429",
        "once:malformed",
        "always:echo",
    ],
)
def test_the_key_is_sent_and_stands_nowhere_else(server, tmp_path, canary, model, capfd):
    """The server says the Authorization header back in each of its errors, and as `echo` in its replies."""
    knobs = options(server, model, key_variable="KITCHEN_KEY", retries=1)
    told = ""
    try:
        found = generate_with_llm(annotations(), ROWS, knobs, tmp_path / "cache")
        told += repr(found) + str(found.written.failures)
        write_outcome(tmp_path / "q.jsonl", found.written, knobs)
    except MambaVLError as error:
        told += chain(error)
    sent = {line["authorization"] for line in server.lines()}
    assert sent == {hashlib.sha256(f"Bearer {CANARY}".encode()).hexdigest()}
    assert CANARY not in told + repr(knobs)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.suffix == ".journal" for path in files)
    assert not [path for path in files if CANARY.encode() in path.read_bytes()]
    said = capfd.readouterr()
    assert CANARY not in said.out + said.err


@pytest.mark.parametrize(("model", "code"), [("good", 0), ("always:401", 1)])
def test_the_command_tells_nobody_the_key_even_when_the_client_logs_all(server, tmp_path, model, code):
    folder = make_dataset(tmp_path / "data", videos=2)
    environment = {**os.environ, "OPENAI_API_KEY": CANARY, "OPENAI_LOG": "debug", "PYTHONFAULTHANDLER": "1"}
    words = [
        "questions",
        "generate",
        "--annotations",
        folder / "annotations",
        "--backend",
        "llm",
        "--model",
        model,
    ]
    words += [
        "--base-url",
        server.url,
        "--out",
        tmp_path / "q.jsonl",
        "--set",
        "backoff=0.001",
        "--set",
        "retries=1",
    ]
    words += ["--set", "key_variable=OPENAI_API_KEY"]
    command = [sys.executable, "-m", "mambavl", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert CANARY not in done.stdout + done.stderr
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and CANARY.encode() in p.read_bytes()]
    assert (tmp_path / "q.jsonl").exists() is (code == 0)
    assert {line["authorization"] for line in server.lines()} == {
        hashlib.sha256(f"Bearer {CANARY}".encode()).hexdigest()
    }


@pytest.mark.parametrize("model", ["always:400-pieces", "always:401-pieces", "always:500-pieces"])
def test_no_piece_of_the_key_is_told_in_either_case(server, tmp_path, canary, model):
    knobs = options(server, model, key_variable="KITCHEN_KEY", retries=0)
    told = ""
    try:
        told += str(generate_with_llm(annotations(), ROWS, knobs, tmp_path / "cache").written.failures)
    except MambaVLError as error:
        told += chain(error)
    assert "HTTP" in told
    told += "".join(path.read_bytes().decode(errors="replace") for path in tmp_path.rglob("*.journal"))
    pieces = {canary[start : start + 8] for start in range(len(canary) - 7)}
    assert not [piece for piece in pieces if piece in told.lower()]


def test_a_short_key_is_cut_out_as_it_is_only(monkeypatch):
    """What local servers are told, such as EMPTY, is a word of replies too."""
    monkeypatch.setenv("KITCHEN_KEY", "EMPTY")
    endpoint = Endpoint(LLMSettings(model="m", base_url="http://127.0.0.1:9/v1", key_variable="KITCHEN_KEY"))
    assert endpoint.redact("EMPTY the empty bowl") == "[key] the empty bowl"


def test_a_server_cannot_write_to_the_terminal(server, tmp_path):
    told = list(asked(server, tmp_path, "always:400-escape").written.failures.values())
    assert all("red" in text and text.isprintable() for text in told)
    reply = Reply("\x1b]0;title\x07 \ud800", "stop", refusal="I \x1b[31mwill not")
    for given in (
        reply,
        dataclasses.replace(reply, refusal=None),
        dataclasses.replace(reply, finish_reason="\x1b"),
    ):
        with pytest.raises(Rejected) as rejected:
            judge_description(given)
        assert str(rejected.value).isprintable()


def test_openais_key_goes_to_no_other_server_unless_it_is_named(server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    bare = LLMSettings(model="always:401", base_url=server.url)
    with pytest.raises(
        DataError,
        match=r"a call without a key; to send it the key of OPENAI_API_KEY, add --set key_variable=",
    ):
        generate_with_llm(annotations(), ROWS, bare, tmp_path)
    nothing = hashlib.sha256(b"Bearer none").hexdigest()
    assert {line["authorization"] for line in server.lines()} == {nothing}
    assert Endpoint(LLMSettings(model="m")).client.api_key == CANARY
    assert (
        Endpoint(LLMSettings(model="m", base_url=server.url, key_variable="OPENAI_API_KEY")).client.api_key
        == CANARY
    )
    with pytest.raises(DataError, match="the server refuses the key of the variable OPENAI_API_KEY"):
        generate_with_llm(
            annotations(),
            ROWS,
            LLMSettings(model="always:401", base_url=server.url, key_variable="OPENAI_API_KEY"),
            tmp_path,
        )


def test_a_key_where_its_name_belongs_is_refused_without_being_said(tmp_path, capsys):
    where = ("--annotations", tmp_path, "--out", tmp_path / "q.jsonl", "--model", "m")
    assert call("questions", "plan", *where, "--set", f"key_variable={CANARY}") == 2
    said = capsys.readouterr()
    assert "expected the NAME of an environment variable" in said.err
    assert CANARY not in said.out + said.err
    with pytest.raises(ValueError, match="expected the NAME") as refused:
        LLMSettings(model="m", key_variable=CANARY)
    assert CANARY not in str(refused.value)


def test_keys_that_cannot_be_are_refused_without_being_said(server, monkeypatch):
    for value in (f"{CANARY}\nX-Evil: 1", f"{CANARY} b", f"{CANARY}é"):
        monkeypatch.setenv("KITCHEN_KEY", value)
        with pytest.raises(UsageError, match="KITCHEN_KEY holds characters that no key has") as refused:
            Endpoint(options(server, key_variable="KITCHEN_KEY"))
        assert CANARY not in chain(refused.value)
    monkeypatch.setenv("KITCHEN_KEY", CANARY)
    for url, message in (
        ("http://example.org/v1", "unencrypted to example.org"),
        ("http://user:secret@127.0.0.1/v1", "holds a name, a password or a query"),
        ("https://127.0.0.1/v1?key=secret", "holds a name, a password or a query"),
        ("127.0.0.1:8000", "expected an address such as"),
    ):
        with pytest.raises(UsageError, match=message) as refused:
            Endpoint(options(Running(url, Path()), key_variable="KITCHEN_KEY"))
        assert CANARY not in chain(refused.value)
        assert "secret" not in str(refused.value)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UsageError, match="variable OPENAI_API_KEY holds no key"):
        Endpoint(LLMSettings(model="m"))


def check_schedule(server: Running, cache: Path, seed: int) -> tuple[int, int]:
    """One run under faults: every row is valid or named, and no request is paid for after an accepted reply
    came.
    """
    rate = random.Random(seed).choice([0.1, 0.3, 0.5, 0.8, 0.95])
    model, before = f"faulty:{seed}:{rate}", len(server.lines())
    knobs = {"timeout": 0.5, "retries": 4, "max_wait": 0.004, "backoff": 0.001, "concurrency": 6}
    found = asked(server, cache, model, rows=TWICE, **knobs)
    good = {question.narration_id for question in found.written.questions}
    assert good | set(found.written.failures) == {row.narration_id for row in TWICE}
    assert not good & set(found.written.failures)
    for question in found.written.questions:
        for text in (question.verb_question, question.noun_question):
            assert text.endswith("?")
            assert len(text.split()) >= 3
    assert all(": " in reason for reason in found.written.failures.values())
    lines = server.lines()[before:]
    sound = Counter(line["key"] for line in lines if line["what"] in SOUND)
    faults = [
        r["reason"] for path in cache.glob("*.journal") for r in journal.read(path) if r["event"] == "fault"
    ]
    late = sum("no reply in" in reason for reason in faults) - sum(line["what"] == "hang" for line in lines)
    # a busy machine may let a sound reply come after the client's patience
    assert sum(sound.values()) - len(sound) <= late
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


def run_kills(server: Running, folder: Path, kills: int, seed: int, count) -> None:
    command = [
        sys.executable,
        "-m",
        "helpers.llm_kills",
        server.url,
        str(server.log),
        str(folder),
        str(kills),
        str(seed),
    ]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["killed"] >= kills
    assert not found["wrong"], found["wrong"]
    count("kills of a process that asks for questions", found["killed"])


def test_killed_runs_resume_and_repay_at_most_what_was_under_way(server, tmp_path, count):
    run_kills(server, tmp_path, 8, 0, count)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_two_hundred_kills(server, tmp_path, count):
    run_kills(server, tmp_path, 200, 1, count)


def test_frames_of_the_clip_are_attached_row_by_row_and_only_when_asked(server, tmp_path):
    folder = make_dataset(tmp_path / "data", videos=2)
    read = read_annotations(folder / "annotations")
    knobs = options(server, frames=3, frame_side=64, structured="none")
    found = generate_with_llm(read, read.segments, knobs, tmp_path / "cache", videos=folder / "videos")
    assert not found.written.failures
    pictured = [line for line in server.lines() if line["images"]]
    assert len(pictured) == len(read.segments) == 10
    assert {line["images"] for line in pictured} == {3}
    (folder / "videos").rename(folder / "elsewhere")  # what is answered needs no video any more
    (folder / "videos").mkdir()
    again = generate_with_llm(read, read.segments, knobs, tmp_path / "cache", videos=folder / "videos")
    assert (again.tally.calls, len(again.written.questions)) == (0, 10)
    lost = generate_with_llm(
        read, read.segments, options(server, frames=2), tmp_path / "cache", videos=folder / "videos"
    )
    assert all("no frames: P01_10" in reason for reason in lost.written.failures.values())
    assert lost.ledger.spent == pytest.approx(found.ledger.spent)
    with pytest.raises(UsageError, match="frames go with videos"):
        generate_with_llm(read, read.segments, options(server, frames=2), tmp_path / "cache")


def test_the_frames_are_those_of_the_action_in_order(tmp_path):
    folder = make_dataset(tmp_path / "data", videos=1)
    (row, *_) = read_annotations(folder / "annotations", ("validation",)).segments[1:]
    clip = ClipFrames(folder / "videos", 4, 160)
    jpegs = clip.jpegs(row)
    seen = [read_barcode(np.asarray(Image.open(io.BytesIO(jpeg)))) for jpeg in jpegs]
    times = clip.identity(row)["times"]
    assert seen == [int(time * 10 + 1e-6) for time in times]
    assert row.start < times[0] < times[-1] < row.stop
    small = Image.open(io.BytesIO(ClipFrames(folder / "videos", 1, 80).jpegs(row)[0]))
    assert small.size == (80, 24)


def call(*words: object) -> int:
    before = sys.argv
    sys.argv = ["mambavl", *map(str, words)]
    try:
        return app.run()
    finally:
        sys.argv = before


def test_the_commands_plan_generate_fail_and_resume(server, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    folder = make_dataset(tmp_path / "data", videos=2)
    out = tmp_path / "q.jsonl"
    where = ("--annotations", folder / "annotations", "--out", out, "--base-url", server.url)
    where += ("--set", "prices.input=2.5", "--set", "prices.output=10", "--set", "backoff=0.001")
    assert call("questions", "plan", *where, "--model", "good") == 0
    assert "4 for descriptions, 4 for questions" in capsys.readouterr().out
    generate = ("questions", "generate", *where, "--backend", "llm")
    assert call(*generate, "--model", "always:refused") == 1
    said = capsys.readouterr()
    assert said.out.count(": failed: description: 3 replies rejected") == 10
    assert "10 of 10 rows failed" in said.err
    assert not out.exists()
    assert call(*generate, "--model", "good", "--budget", "0.001") == 1
    assert "could exceed the budget of 0.001" in capsys.readouterr().out
    assert call(*generate, "--model", "good", "--budget", "5") == 0
    assert "wrote 10 question pairs (oracle protocol, llm backend, good)" in capsys.readouterr().out
    assert len(read_questions(out)) == 10
    assert CANARY not in (tmp_path / "q.jsonl.toml").read_text()
    assert (tmp_path / "q.jsonl.cache").is_dir()
    for words, message in (
        (("--backend", "llm"), "--backend llm needs --model"),
        (("--model", "good"), "the templates ask no model"),
        (("--backend", "llm", "--model", "good", "--protocol", "none"), "makes no 'none' questions"),
        (("--backend", "llm", "--model", "good", "--set", "bugdet=2"), "did you mean `budget`"),
        (("--backend", "local", "--model", tmp_path), "holds no *.safetensors"),
        (
            ("--backend", "llm", "--model", "good", "--videos", tmp_path / "none", "--set", "frames=2"),
            "no such folder",
        ),
    ):
        template = (
            "questions",
            "generate",
            "--annotations",
            folder / "annotations",
            "--out",
            tmp_path / "x.jsonl",
        )
        assert (
            call(*(template if "--backend" not in words else (*template, "--base-url", server.url)), *words)
            == 2
        )
        assert message in capsys.readouterr().err, message
