"""A question file comes back as it went, appears whole or not at all, and names its bad line."""

import json

import pytest

from helpers.toyclasses import annotations, ask, segment
from mambavl.configs.errors import DataError
from mambavl.extract.questions import QUESTION_KEYS, generate, read_questions, write_questions


def test_jsonl_comes_back_as_it_went(tmp_path):
    rows = [
        segment("put plate on tablé\u2028", "put", "plate", name=f"P01_01_{number}") for number in range(3)
    ]
    questions = list(generate(annotations(), "oracle", rows))
    path = tmp_path / "new" / "questions.jsonl"
    assert write_questions(path, iter(questions)) == 3
    assert [*read_questions(path).values()] == questions
    assert [p.name for p in path.parent.iterdir()] == ["questions.jsonl"]
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3
    assert list(json.loads(lines[0])) == [
        "narration_id",
        "verb_question",
        "noun_question",
        "protocol",
        "backend",
        "prompt_version",
        "masked",
        "hint",
    ]
    assert "tablé" in lines[0]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text("old")

    def broken():
        yield ask(segment("take plate", "take", "plate"))
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError):
        write_questions(path, broken())
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def line(**changes) -> str:
    row = {
        "narration_id": "P01_01_0",
        "verb_question": "",
        "noun_question": "",
        "protocol": "none",
        "backend": "template",
        "prompt_version": "template-2",
        "masked": {"verb_question": [], "noun_question": []},
        "hint": {"verb_question": None, "noun_question": None},
    } | changes
    return json.dumps({key: value for key, value in row.items() if value != "gone"})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", "is not valid JSON"),
        ("", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ('{"backend": 1, "backend": 2}', "a key occurs twice"),
        ("[]", "is not a JSON object"),
        (line(hint="gone", backend="gone"), "has no backend, hint; the keys are narration_id"),
        (line(hints=1), "has unknown hints"),
        (line(), "narration_id P01_01_0 is already on line 1"),
        (line(narration_id="b", protocol="generic"), "protocol 'generic', but line 1 says 'none'"),
        (line(narration_id="b", protocol="magic"), "protocol 'magic' is none of oracle"),
        (line(narration_id=7), "narration_id is 7, not a text"),
        (line(narration_id=""), "narration_id is empty"),
        (line(narration_id="b", verb_question=None), "verb_question is None, not a text"),
        (line(narration_id="b", masked={"verb_question": []}), "masked is .* each a list of words"),
        (line(narration_id="b", masked={"verb_question": [1], "noun_question": []}), "each a list of words"),
        (line(narration_id="b", hint=None), "hint is None; .* each a text or null"),
    ],
)
def test_a_bad_line_is_named_by_file_and_line(tmp_path, bad, message):
    path = tmp_path / "questions.jsonl"
    path.write_text(f"{line()}\n{bad}\n", encoding="utf-8")
    with pytest.raises(DataError, match=rf"questions\.jsonl:2: .*{message}"):
        read_questions(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": "none", "verb_question": "Which?"}, "protocol none has empty texts"),
        ({"protocol": "generic", "verb_question": "Other?"}, "protocol generic is one fixed pair"),
        ({"verb_question": "half \ud83d"}, "half a character"),
    ],
)
def test_questions_that_their_protocol_does_not_allow_are_refused(tmp_path, changes, message):
    protocol = changes.get("protocol", "oracle")
    text = "" if protocol == "none" else "Which?"
    rows = [
        {"narration_id": f"P01_01_{n}", "verb_question": text, "noun_question": text, "protocol": protocol,
         "backend": "x", "prompt_version": "x", "masked": {key: [] for key in QUESTION_KEYS},
         "hint": dict.fromkeys(QUESTION_KEYS)}
        for n in range(2)
    ]  # fmt: skip
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(read_questions(path)) == 2
    path.write_text("".join(json.dumps(row) + "\n" for row in (rows[0], rows[1] | changes)))
    with pytest.raises(DataError, match=message):
        read_questions(path)


def test_a_file_that_is_missing_empty_or_not_utf8_is_one_clear_line(tmp_path):
    path = tmp_path / "questions.jsonl"
    with pytest.raises(DataError, match=r"cannot be read .*; `mambavl questions generate` makes it"):
        read_questions(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"questions\.jsonl:1: is not valid JSON"):
        read_questions(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="byte 0 is not UTF-8"):
        read_questions(path)
