"""A question file: JSONL, one line for each row, all made in the same way; read strictly, written whole or
not at all.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from mambavl.cache import fsops
from mambavl.configs.errors import DataError, UsageError

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
    hint: dict[str, str | None]  # by question: what it says about the answer


QUESTION_KEYS = ("verb_question", "noun_question")
FIELDS = tuple(field.name for field in fields(Question))
TEXT_FIELDS = FIELDS[:6]  # the others hold something for each question


def write_questions(path: Path, questions: Iterable[Question]) -> int:
    """Write one JSON line for each question and return their number; the file appears whole or not at all.

    Raises UsageError when the path is a folder.
    """
    path = Path(path)
    fsops.make_folder(path.parent)
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; name the file to write, such as {path / 'questions.jsonl'}")
    count = 0
    with (
        fsops.written_aside(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="\n") as file,
    ):
        for question in questions:
            file.write(json.dumps(asdict(question), ensure_ascii=False) + "\n")
            count += 1
    return count


def read_questions(path: Path) -> dict[str, Question]:
    """The questions of a JSONL file by narration_id, in file order. A file has one protocol, backend and
    prompt version.

    Raises DataError, naming the line, for a file that cannot be read or a line that is not a question.
    """
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
                f"{where}: narration_id {question.narration_id} is already on line "
                f"{lines[question.narration_id]}; keep one of the two"
            )
        if fault := _difference(question, first) or broken_protocol(question, first):
            raise DataError(f"{where}: {fault}")
        questions[question.narration_id], lines[question.narration_id] = question, number
    return questions


def _difference(question: Question, first: Question) -> str:
    """How a question was made differently from the first of its file; "" if it was not."""
    for field in ("protocol", "backend", "prompt_version"):
        here, there = getattr(question, field), getattr(first, field)
        if here != there:
            return (
                f"{field} {here!r}, but line 1 says {there!r}; keep questions that were made differently in "
                "files of their own"
            )
    return ""


def broken_protocol(question: Question, first: Question) -> str | None:
    """How a question breaks its protocol, None if it does not: `none` is empty, `generic` repeats the texts
    of the file's first question.
    """
    texts = [getattr(question, key) for key in QUESTION_KEYS]
    if question.protocol == "none" and any(texts):
        return (
            f"{question.narration_id} asks {next(filter(None, texts))!r}, but protocol none has empty texts"
        )
    if question.protocol == "generic" and texts != [getattr(first, key) for key in QUESTION_KEYS]:
        return (
            f"{question.narration_id} differs from {first.narration_id}, but protocol generic is one fixed "
            "pair"
        )
    return None


def _parse(where: str, line: str) -> Question:
    again = "mend the line, or make the file again with `mambavl questions generate`"
    try:
        row = json.loads(line, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: is not valid JSON ({error}); {again}") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: is not a JSON object; {again}")
    if fault := _fault(row):
        raise DataError(f"{where}: {fault}; {again}")
    return Question(**row)


def _fault(row: dict[str, Any]) -> str:
    """What is wrong with the keys and values of a line; "" for nothing."""
    missing = [key for key in FIELDS if key not in row]
    unknown = [key for key in row if key not in FIELDS]
    faults = []
    if missing:
        faults.append(f"has no {', '.join(missing)}")
    if unknown:
        faults.append(f"has unknown {', '.join(unknown)}")
    if faults:
        return f"{' and '.join(faults)}; the keys are {', '.join(FIELDS)}"
    for key in TEXT_FIELDS:
        if not isinstance(row[key], str):
            return f"{key} is {row[key]!r}, not a text"
        if not is_text(row[key]):
            return f"{key} holds half a character (a lone surrogate)"
    if not row["narration_id"]:
        return "narration_id is empty"
    if row["protocol"] not in PROTOCOLS:
        return f"protocol {row['protocol']!r} is none of {', '.join(PROTOCOLS)}"
    both = " and ".join(QUESTION_KEYS)
    if not _are_by_question(row["masked"], _is_list_of_words):
        return f"masked is {row['masked']!r}; it holds {both}, each a list of words"
    if not _are_by_question(row["hint"], _is_text_or_null):
        return f"hint is {row['hint']!r}; it holds {both}, each a text or null"
    return ""


def _are_by_question(value: Any, is_right: Callable[[Any], bool]) -> bool:
    """Whether a value holds one right entry for each of the two questions."""
    return isinstance(value, dict) and set(value) == set(QUESTION_KEYS) and all(map(is_right, value.values()))


def _is_list_of_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def _is_text_or_null(value: Any) -> bool:
    return value is None or isinstance(value, str)


def is_text(text: str) -> bool:
    """Whether a text can be written as UTF-8: JSON's escapes and pickles can hold halves of characters."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as `object_pairs_hook` gets it. Raises ValueError when a key occurs twice."""
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("a key occurs twice")
    return row
