"""Questions from the shell, by templates; what a language model does is tested where its client is."""

import pytest

from helpers.cli import call
from mambavl.extract.questions import read_questions


def generate(road, out, *words):
    return call("questions", "generate", "--annotations", road / "annotations", "--out", out, *words)


@pytest.mark.parametrize("protocol", ["oracle", "generic", "none"])
def test_a_file_of_every_protocol_that_templates_have(road, tmp_path, capsys, protocol):
    assert generate(road, tmp_path / "q.jsonl", "--protocol", protocol) == 0
    assert f"wrote 40 question pairs ({protocol} protocol, template backend)" in capsys.readouterr().out
    questions = read_questions(tmp_path / "q.jsonl")
    assert {question.protocol for question in questions.values()} == {protocol}


def test_hints_and_answers_can_be_left_out_or_in(road, tmp_path):
    assert generate(road, tmp_path / "bare.jsonl", "--no-hints") == 0
    bare = read_questions(tmp_path / "bare.jsonl").values()
    assert {value for question in bare for value in question.hint.values()} == {None}
    assert generate(road, tmp_path / "open.jsonl", "--unmasked") == 0
    answers = read_questions(tmp_path / "open.jsonl").values()
    assert {question.backend for question in answers} == {"template-unmasked"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--unmasked", "--protocol", "generic"), "--unmasked is for"),
        (("--unmasked", "--backend", "llm", "--model", "m"), "--unmasked is for"),
        (("--no-hints", "--protocol", "none"), "--no-hints is for"),
        (("--model", "m"), "--model: the templates use no model"),
        (("--budget", 3, "--set", "frames=2"), "--budget, --set: the templates use no model"),
        (("--backend", "local"), "--backend local needs --model"),
        (("--scores", "s.npz"), "are for --protocol predicted, not oracle"),
        (("--train-from", "f.npz"), "are for --protocol predicted, not oracle"),
        (("--protocol", "predicted", "--train-from", "labels", "--train-from", "f"), "not both"),
        (("--protocol", "prophetic"), "prophetic"),
    ],
)
def test_options_that_do_not_go_together_are_refused(road, tmp_path, capsys, words, says):
    assert generate(road, tmp_path / "q.jsonl", *words) == 2
    assert says in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "q.jsonl").exists()


def test_a_plan_needs_a_model(road, tmp_path, capsys):
    where = ("--annotations", road / "annotations", "--out", tmp_path / "q.jsonl")
    assert call("questions", "plan", *where) == 2
    assert "--backend llm needs --model" in capsys.readouterr().err
    assert call("questions", "plan", *where, "--model", "m") == 0
    said = capsys.readouterr().out
    assert "unknown: no prices are set" in said
    assert not (tmp_path / "q.jsonl").exists()
