"""A question file: JSONL, a line a row, all of one making; read strictly, written whole or not at all."""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, get_args

from mambavl.configs.errors import DataError, UsageError
from mambavl.extract import MASK as MASK

Protocol = Literal["oracle", "predicted", "generic", "none"]  # predicted text needs a recogniser first
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)


@dataclass(frozen=True)
class Question:
    """The two questions of one segment, and how they were made. The fields are the keys of a JSONL line, in
    order.
    """

    narration_id: str
    verb_question: str
    noun_question: str
    protocol: str
    backend: str
    prompt_version: str
    masked: dict[str, list[str]]  # by question: the words that `<mask>` stands for, in reading order
    hint: dict[str, str | None]  # by question: what was told of the answer


QUESTION_KEYS = ("verb_question", "noun_question")
FIELDS = tuple(field.name for field in fields(Question))


def write_questions(path: Path, questions: Iterable[Question]) -> int:
    """Write one JSON line a question and return their number; the file appears whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; name the file to write, such as {path / 'questions.jsonl'}")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    count = 0
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            for question in questions:
                file.write(json.dumps(asdict(question), ensure_ascii=False) + "\n")
                count += 1
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def read_questions(path: Path) -> dict[str, Question]:
    """The questions of a JSONL file by narration_id, in file order; one protocol a file."""
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); `mambavl questions generate` makes it"
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    questions: dict[str, Question] = {}
    lines: dict[str, int] = {}
    # splitlines() would cut at U+2028 too
    for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
        where = f"{path}:{number}"
        question = _parse(where, line)
        first = next(iter(questions.values()), question)
        if question.narration_id in questions:
            raise DataError(
                f"{where}: narration_id {question.narration_id} is already on line {lines[question.narration_id]}; "
                "keep one of the two"
            )
        for field in ("protocol", "backend", "prompt_version"):
            if getattr(question, field) != getattr(first, field):
                raise DataError(
                    f"{where}: {field} {getattr(question, field)!r}, but line 1 says {getattr(first, field)!r}; "
                    "keep questions of one making in a file of their own"
                )
        if fault := broken_protocol(question, first):
            raise DataError(f"{where}: {fault}")
        questions[question.narration_id], lines[question.narration_id] = question, number
    return questions


def broken_protocol(question: Question, first: Question) -> str | None:
    """What a question says against its protocol, beside the first of its file: `none` is empty, `generic` one
    pair.
    """
    texts = [getattr(question, key) for key in QUESTION_KEYS]
    if question.protocol == "none" and any(texts):
        return (
            f"{question.narration_id} asks {next(filter(None, texts))!r}, but protocol none has empty texts"
        )
    if question.protocol == "generic" and texts != [getattr(first, key) for key in QUESTION_KEYS]:
        return f"{question.narration_id} asks otherwise than {first.narration_id}, but protocol generic is one fixed pair"
    return None


def _parse(where: str, line: str) -> Question:
    again = "mend the line, or make the file again with `mambavl questions generate`"
    try:
        row = json.loads(line, object_pairs_hook=_no_twice)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: is not valid JSON ({error}); {again}") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: is not a JSON object; {again}")
    missing = [key for key in FIELDS if key not in row]
    unknown = [key for key in row if key not in FIELDS]
    if missing or unknown:
        faults = [f"has no {', '.join(missing)}"] * bool(missing) + [
            f"has unknown {', '.join(unknown)}"
        ] * bool(unknown)
        raise DataError(f"{where}: {' and '.join(faults)}; the keys are {', '.join(FIELDS)}; {again}")
    for key in FIELDS[:6]:
        if not isinstance(row[key], str):
            raise DataError(f"{where}: {key} is {row[key]!r}, not a text; {again}")
        if not is_text(row[key]):
            raise DataError(f"{where}: {key} holds half a character (a lone surrogate); {again}")
    if not row["narration_id"]:
        raise DataError(f"{where}: narration_id is empty; {again}")
    if row["protocol"] not in PROTOCOLS:
        raise DataError(f"{where}: protocol {row['protocol']!r} is none of {', '.join(PROTOCOLS)}; {again}")
    for key, is_right, right in (
        ("masked", lambda v: isinstance(v, list) and all(isinstance(w, str) for w in v), "a list of words"),
        ("hint", lambda v: v is None or isinstance(v, str), "a text or null"),
    ):
        value = row[key]
        if (
            not isinstance(value, dict)
            or set(value) != set(QUESTION_KEYS)
            or not all(map(is_right, value.values()))
        ):
            raise DataError(
                f"{where}: {key} is {value!r}; it holds {' and '.join(QUESTION_KEYS)}, each {right}; {again}"
            )
    return Question(**row)


def is_text(text: str) -> bool:
    """Whether it can be written as UTF-8: JSON's escapes and pickles can hold halves of characters."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _no_twice(pairs: list[tuple[str, object]]) -> dict[str, object]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("a key occurs twice")
    return row
