"""Question files of other projects -> ours: CSV, JSONL, JSON and pickle, columns by name, placeholders made
ours.

A pickle can call any function of the machine that reads it. Here it is read by a child process of bounded
memory and time that finds no function at all (`configs.untrusted`), so that only lists, dicts, texts and
numbers can come out of it.
"""

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mambavl.configs import untrusted
from mambavl.configs.errors import DataError, UsageError, did_you_mean
from mambavl.extract import MASK
from mambavl.extract.annotations import Annotations
from mambavl.extract.questions.file import (
    PROTOCOLS,
    QUESTION_KEYS,
    Question,
    broken_protocol,
    is_text,
    unique_keys,
)
from mambavl.extract.tables import NO_VALUE, Line, csv_lines, likely

LIMITS = untrusted.Limits(seconds=300, room=4 * 2**30, times=16)  # of a pickle's reader
COLUMNS = ("narration_id", *QUESTION_KEYS)
GUESSES = {  # other names for a column, letters and digits only
    "narration_id": ("narrationid", "id", "uid", "segmentid", "clipid", "key", "index"),
    "verb_question": ("verbquestion", "questionverb", "verbq", "qverb", "questionforverb", "verb"),
    "noun_question": ("nounquestion", "questionnoun", "nounq", "qnoun", "questionfornoun", "noun"),
}
# <MASK>, [MASK], {{ mask }}, <|mask|>
_PLACEHOLDER = re.compile(r"[<\[{]+\s*\|?\s*mask(?:ed)?\s*\|?\s*[>\]}]+", re.IGNORECASE)

Row = dict[str, Any]


@dataclass(frozen=True)
class ImportedQuestions:
    """The questions of a foreign file, and how it was read."""

    questions: list[Question]  # in canonical order of the annotations
    columns: dict[str, str]  # ours -> theirs
    placeholders: int  # that were written differently from `<mask>`
    without_question: int  # rows of the annotations that the file does not have


def import_questions(
    path: Path,
    annotations: Annotations,
    protocol: str,
    *,
    columns: Mapping[str, str] | None = None,
    prompt_version: str = "unknown",
) -> ImportedQuestions:
    """Read the questions of a CSV (.csv, .tsv), JSONL (.jsonl), JSON (.json) or pickle (.pkl, .pickle) file.

    A JSON or pickle file holds a list of rows, columns of equal length, or rows by narration_id, each a dict
    or two texts (verb question, noun question). columns: ours -> theirs, where the guess is wrong. Texts stay
    as they are except for placeholders.

    Raises UsageError for an unknown column, protocol or ending, DataError for whatever is wrong with the
    file: an id that the annotations do not have or that occurs twice, a question that is not a text, a pickle
    of anything but plain containers.
    """
    path = Path(path)
    if protocol not in PROTOCOLS:
        raise UsageError(f"protocol {protocol!r} is none of {', '.join(PROTOCOLS)}")
    rows = _read(path)
    if not rows:
        raise DataError(f"{path}: holds no row")
    found = _columns(path, rows[0][1], dict(columns or {}))
    questions: dict[str, Question] = {}
    placed: dict[str, str] = {}
    known = {segment.narration_id for segment in annotations.segments}
    placeholders = 0
    for where, row in rows:
        name, *texts = [_text(where, row, found[column]) for column in COLUMNS]
        if name not in known:
            raise DataError(
                f"{where}: narration_id {name!r} is not in {annotations.folder}; see --split and --column"
            )
        if name in questions:
            raise DataError(f"{where}: narration_id {name} is already at {placed[name]}; keep one of the two")
        placeholders += sum(match != MASK for text in texts for match in _PLACEHOLDER.findall(text))
        verb, noun = (_PLACEHOLDER.sub(MASK, text) for text in texts)
        question = _question(name, verb, noun, protocol, prompt_version)
        if fault := broken_protocol(question, next(iter(questions.values()), question)):
            raise DataError(f"{where}: {fault}")
        questions[name], placed[name] = question, where
    ordered = [questions[s.narration_id] for s in annotations.segments if s.narration_id in questions]
    return ImportedQuestions(ordered, found, placeholders, len(annotations.segments) - len(ordered))


def _question(name: str, verb: str, noun: str, protocol: str, prompt_version: str) -> Question:
    return Question(
        narration_id=name,
        verb_question=verb,
        noun_question=noun,
        protocol=protocol,
        backend="import",
        prompt_version=prompt_version,
        masked={key: [] for key in QUESTION_KEYS},  # what their placeholders stand for is not known
        hint=dict.fromkeys(QUESTION_KEYS),
    )


def _columns(path: Path, row: Row, given: dict[str, str]) -> dict[str, str]:
    """ours -> theirs: as given, else the same name, else the first other name that the file has."""
    theirs = [str(name) for name in row]
    for column, name in given.items():
        if column not in COLUMNS:
            raise UsageError(
                f"--column {column}={name}: there is no column {column}{did_you_mean(column, list(COLUMNS))}"
            )
        if name not in theirs:
            raise UsageError(f"--column {column}={name}: {path} has no {name}{did_you_mean(name, theirs)}")
    plain = {re.sub(r"[^a-z0-9]", "", name.casefold()): name for name in reversed(theirs)}
    found = {}
    for column in COLUMNS:
        guess = next((plain[other] for other in GUESSES[column] if other in plain), None)
        found[column] = given.get(column) or guess or ""
        if not found[column]:
            raise UsageError(
                f"{path}: which column is {column}? Add --column {column}=NAME; there are {', '.join(theirs)}"
            )
    if len(set(found.values())) < len(found):
        pairs = ", ".join(f"{ours} = {name}" for ours, name in found.items())
        raise UsageError(f"{path}: one column cannot serve twice: {pairs}; see --column")
    return found


def _text(where: str, row: Row, column: str) -> str:
    value = row.get(column)
    if not isinstance(value, str):
        raise DataError(f"{where}: {column} is {str(value)[:60]!r}, not a text")
    if value.strip() in NO_VALUE:
        raise DataError(f"{where}: {column} {value!r} says nothing{likely(value)}")
    if not is_text(value):
        raise DataError(f"{where}: {column} holds half a character (a lone surrogate)")
    return value


# --- rows, each with the place that an error names


def _read(path: Path) -> list[tuple[str, Row]]:
    ending = path.suffix.lower()
    try:
        if ending in (".pkl", ".pickle"):
            return _rows_of(path, _read_pickle(path))
        if ending not in (".csv", ".tsv", ".jsonl", ".json"):
            raise UsageError(
                f"{path}: ends in {ending or 'nothing'}; .csv, .tsv, .jsonl, .json, .pkl and .pickle can be "
                "read"
            )
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    if ending in (".csv", ".tsv"):
        return _read_csv(path, text, "," if ending == ".csv" else "\t")
    if ending == ".json":
        return _rows_of(path, _json(str(path), text))
    lines = enumerate(text.removesuffix("\n").split("\n"), start=1)
    rows = [(f"{path}:{number}", _json(f"{path}:{number}", line)) for number, line in lines]
    for where, row in rows:
        if not isinstance(row, dict):
            raise DataError(f"{where}: is not a JSON object")
    return rows


def _read_csv(path: Path, text: str, delimiter: str) -> list[tuple[str, Row]]:
    lines = csv_lines(path, text, delimiter)
    names = next(lines, Line("", [], "")).cells
    if len(set(names)) < len(names):
        raise DataError(f"{path}: names a column twice: {', '.join(names)}")
    rows: list[tuple[str, Row]] = []
    for where, cells, note in lines:
        if len(cells) != len(names):
            amount = "more" if len(cells) > len(names) else "fewer"
            raise DataError(f"{where}: has {amount} fields than the header{note}")
        rows.append((where, dict(zip(names, cells, strict=True))))
    return rows


def _json(where: str, text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: is not valid JSON ({error})") from None


def _rows_of(path: Path, data: Any) -> list[tuple[str, Row]]:
    """Rows of a list of rows, of columns, or of a dict by narration_id."""
    if isinstance(data, list) and all(isinstance(row, dict) for row in data):
        return [(f"{path}: row {number}", row) for number, row in enumerate(data)]
    if isinstance(data, dict) and data and all(isinstance(column, list) for column in data.values()):
        if set(map(len, data.values())) == {2} and len(data) > 3 and all(map(_are_texts, data.values())):
            return [(f"{path}: {name}", _from_two(name, texts)) for name, texts in data.items()]
        if len(set(map(len, data.values()))) > 1:
            lengths = ", ".join(f"{name} {len(column):,}" for name, column in data.items())
            raise DataError(f"{path}: its columns differ in length: {lengths}"[:400])
        rows = zip(*data.values(), strict=True)
        return [
            (f"{path}: row {number}", dict(zip(data, row, strict=True))) for number, row in enumerate(rows)
        ]
    if isinstance(data, dict) and data and all(isinstance(row, dict) for row in data.values()):
        return [(f"{path}: {name}", {"narration_id": name, **row}) for name, row in data.items()]
    raise DataError(
        f"{path}: holds a {type(data).__name__}, expected a list of rows, columns of equal length, or rows "
        "by narration_id"
    )


def _are_texts(values: list[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def _from_two(name: str, texts: list[str]) -> Row:
    return {"narration_id": name, "verb_question": texts[0], "noun_question": texts[1]}


# --- pickles


def _read_pickle(path: Path) -> Any:
    """The plain containers of a pickle. Raises DataError, one line that names the file, for anything else."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        try:
            untrusted.convert(path, out, untrusted.PLAIN_PICKLE, LIMITS)
        except untrusted.Refused as refused:
            raise DataError(f"{path}: {refused}") from None
        return json.loads(out.read_bytes())
