"""Requests and their keys: what shapes an answer makes another request; no text exceeds its bound."""

import dataclasses

from helpers.llm_runs import run
from mambavl.extract.questions.llm.replies import Description, QuestionPair
from mambavl.extract.questions.llm.requests import Prompt, Request, load_prompt


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
    run(server, tmp_path)
    for more in ({"model": "good@0"}, {"seed": 1}, {"temperature": 0.1}, {"max_tokens": 100}):
        assert run(server, tmp_path, **more).tally.calls == 12
    kept = {"concurrency": 1, "attempts": 9, "retries": 1, "timeout": 1.0, "budget": 9.0}
    # what does not shape the answer is no part of the key
    assert run(server, tmp_path, **kept).tally.calls == 0


def test_the_prompts_of_these_versions_are_these_texts():
    """A prompt that is changed needs a version of its own: files name it."""
    texts = {version: load_prompt(version).sha256[:16] for version in ("describe-1", "ask-1")}
    assert texts == {"describe-1": "a36a2f226c24236e", "ask-1": "ae2aa0173dd79205"}


def test_the_bound_holds_for_any_text():
    prompt = load_prompt("ask-1")
    for text in ("plate", "é" * 50, "鍋を洗う", "🍳" * 20):
        request = Request("m", prompt, {"narration": text}, Description, {})
        assert request.token_bound(0) > len((prompt.text + text).encode())
    pictured = dataclasses.replace(request, pictures={"frames": 3})
    assert pictured.token_bound(1_000) == request.token_bound(1_000) + 3_000
