"""The settings: rules of the record, and messages that show no value."""

import pytest

from helpers.cli import call
from helpers.llm_runs import CANARY
from mambavl.extract.questions.llm.options import LLMSettings
from mambavl.extract.questions.llm.replies import Description
from mambavl.extract.questions.llm.requests import Reply, Request, load_prompt


def test_a_key_where_its_name_belongs_is_refused_without_being_said(tmp_path, capsys):
    where = ("--annotations", tmp_path, "--out", tmp_path / "q.jsonl", "--model", "m")
    assert call("questions", "plan", *where, "--set", f"key_variable={CANARY}") == 2
    said = capsys.readouterr()
    assert "expected the NAME of an environment variable" in said.err
    assert CANARY not in said.out + said.err
    with pytest.raises(ValueError, match="expected the NAME") as refused:
        LLMSettings(model="m", key_variable=CANARY)
    assert CANARY not in str(refused.value)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://user:secret@127.0.0.1/v1", "holds a name, a password or a query"),
        ("https://127.0.0.1/v1?key=secret", "holds a name, a password or a query"),
        ("127.0.0.1:8000", "expected an address such as"),
    ],
)
def test_an_address_that_cannot_be_is_refused_without_being_said(tmp_path, capsys, address, message):
    with pytest.raises(ValueError, match=message) as refused:
        LLMSettings(model="m", base_url=address)
    assert "secret" not in str(refused.value)
    where = ("--annotations", tmp_path, "--out", tmp_path / "q.jsonl", "--model", "m", "--base-url", address)
    assert call("questions", "plan", *where) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert "secret" not in said.out + said.err


def test_a_budget_needs_prices():
    with pytest.raises(ValueError, match="a budget needs prices"):
        LLMSettings(model="m", budget=1.0)


def test_costs_by_hand():
    knobs = LLMSettings(model="m", prices={"input": 2.0, "output": 10.0}, max_tokens=100)
    assert knobs.cost(1_000_000, 500_000) == 7.0
    assert knobs.counted_cost(Reply("{}", "stop", None, 500_000, 0)) == 1.0
    assert knobs.counted_cost(Reply("{}", "stop", None, 500_000, None)) is None
    request = Request("m", load_prompt("describe-1"), {"narration": "cut potato"}, Description, {})
    assert knobs.bound(request) == knobs.cost(request.token_bound(3_000), 100)
    assert LLMSettings(model="m").cost(10**9, 10**9) == 0.0


def test_later_attempts_are_warmer_but_no_warmer_than_the_first_asks_for():
    def temperatures(temperature):
        knobs = LLMSettings(model="m", temperature=temperature)
        return [knobs.attempt_temperature(attempt) for attempt in range(4)]

    assert temperatures(0.0) == pytest.approx([0.0, 0.3, 0.6, 0.9])
    assert temperatures(0.7) == pytest.approx([0.7, 1.0, 1.0, 1.0])
    assert temperatures(1.5) == [1.5] * 4
    assert temperatures("server") == [None] * 4
