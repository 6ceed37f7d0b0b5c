"""What a run would cost is known before anything is sent."""

import pytest

from helpers.llm_runs import PRICES, ROWS, TWICE, settings
from helpers.toyclasses import annotations
from mambavl.extract.questions.llm.generate import generate_with_llm, plan_with_llm
from mambavl.extract.questions.llm.options import LLMSettings


def test_a_plan_needs_no_key_sends_nothing_and_tells_what_is_left(server, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    knobs = settings(server)
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
