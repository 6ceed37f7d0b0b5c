"""What questions give away, measured without a frame: `mambavl questions audit`.

    survivors   rows in which a form of the own verb or noun class still stands, by a checker (leaks.py) that
                shares nothing with the masking
    prior       top-1 of the most frequent train class of verb, noun and action
    reader      top-1 of a fixed rule that reads class names, hints and mask counts (audit_reader.py)
    probes      top-1 from the two texts alone, learnt on train rows, scored on validation rows (probes.py);
                a probe may beat the reader
    masks       how many placeholders a question holds
    hints       how much they tell, in bits

Intervals: 95 %, from 1,000 bootstrap samples of the validation videos (rows of a video resemble each other).
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mambavl.cache.rows import Segment
from mambavl.configs.errors import DataError, UsageError, some
from mambavl.extract import MASK
from mambavl.extract.annotations import Annotations
from mambavl.extract.encoders.base import Encoder, TextEncoder
from mambavl.extract.questions import audit_reader
from mambavl.extract.questions.audit_rows import SAMPLES, Rows, most_frequent, top1
from mambavl.extract.questions.file import QUESTION_KEYS, Question, read_questions
from mambavl.extract.questions.forms import KINDS
from mambavl.extract.questions.labels import is_labelled
from mambavl.extract.questions.leaks import Checker, Leak
from mambavl.extract.questions.probes import Step, probe, require_scikit_learn

EXAMPLES = 20  # leaking rows that are shown
MANY_MASKS = 4  # this many or more are counted together


def audit(
    paths: Sequence[Path],
    annotations: Annotations,
    *,
    encoder: Encoder | None = None,
    train_rows: int = 20_000,
    seed: int = 0,
    forms_only: bool = False,
    step: Step = lambda what: None,
) -> dict[str, Any]:
    """Measure one or several question files over the labelled rows of the same annotations; plain data, as
    written to JSON.

    encoder: a text encoder of mambavl.extract.encoders, for a second probe. train_rows: probes learn from so
    many train rows, drawn with `seed`, the same for all files of the same rows; 0 for all of them.
    forms_only: survivors, masks and hints alone, which needs neither train rows nor scikit-learn.

    Raises DataError for a row that the annotations do not have and for a file without train or validation
    rows, UsageError when scikit-learn is not installed or the encoder reads no text.
    """
    if not forms_only:
        require_scikit_learn()
    if encoder is not None and not isinstance(encoder, TextEncoder):
        raise UsageError(f"encoder {encoder.name} reads no text; name a text encoder, such as minilm")
    checker = Checker(annotations)
    labelled = _labelled(annotations)
    if len(set(map(str, paths))) < len(paths):
        raise UsageError("a question file is named twice")
    files = []
    for path in map(Path, paths):
        step(f"{path}: forms")
        rows = _covered(path, annotations, labelled)
        found = _describe(path, rows, len(labelled)) | {
            "survivors": _survivors(checker, rows, annotations),
            "masks": _masks(rows),
            "hints": _hints(rows),
        }
        if not forms_only:
            found |= _guessed(path, rows, checker, encoder, train_rows, seed, step)
        files.append(found)
    return {
        "annotations": {"folder": str(annotations.folder), "sha256": annotations.sha256},
        "rows": len(labelled),
        "splits": sorted({segment.split for segment in labelled.values()}),
        "sample": {
            "train_rows": train_rows,
            "seed": seed,
            "bootstrap_samples": SAMPLES,
            "bootstrap_over": "videos",
        },
        "files": files,
    }


def check_forms(questions: Sequence[Question], annotations: Annotations) -> list[Leak]:
    """Every place where a form of a row's own class stands in its questions. Rows without labels are passed
    over.
    """
    checker = Checker(annotations)
    segments = _labelled(annotations)
    leaks: list[Leak] = []
    for question in questions:
        if question.narration_id in segments:
            leaks += checker.leaks(segments[question.narration_id], question)
    return leaks


def guessers(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Who guessed from which questions, one entry each: path, protocol, kind (prior, reader, probe), name,
    top1.
    """
    rows = []
    for file in found["files"]:
        if "prior" not in file:
            continue
        scores = [("prior", "prior", file["prior"]), ("reader", "reader", file["reader"]["top1"])]
        scores += [("probe", f"{name} probe", probe["top1"]) for name, probe in file["probes"].items()]
        source = {"path": file["path"], "protocol": file["protocol"]}
        rows += [{**source, "kind": kind, "name": name, "top1": top1} for kind, name, top1 in scores]
    return rows


def _labelled(annotations: Annotations) -> dict[str, Segment]:
    return {segment.narration_id: segment for segment in annotations.segments if is_labelled(segment)}


def _guessed(
    path: Path,
    rows: Rows,
    checker: Checker,
    encoder: TextEncoder | None,
    train_rows: int,
    seed: int,
    step: Step,
) -> dict[str, Any]:
    """What prior, reader and probes guess. Raises DataError without train rows or without others."""
    train, test = rows.half(True), rows.half(False)
    if not len(train) or not len(test):
        raise DataError(
            f"{path}: covers {len(train):,} train and {len(test):,} other rows, and a probe needs both; "
            "audit the questions of both splits, or the forms alone with --forms-only"
        )
    step(f"{path}: reader")
    return {
        "scored_rows": len(test),
        "train_rows": len(train),
        "prior": top1(test, most_frequent(train)),
        "reader": audit_reader.read(checker, train, test),
        "probes": probe(path, train, test, encoder, train_rows, seed, step),
    }


def _covered(path: Path, annotations: Annotations, labelled: dict[str, Segment]) -> Rows:
    questions = read_questions(path)
    known = {segment.narration_id for segment in annotations.segments}
    unknown = [name for name in questions if name not in known]
    if unknown:
        raise DataError(
            f"{path}: {len(unknown):,} rows are not in {annotations.folder} ({some(unknown)}); see --split"
        )
    covered = [name for name in labelled if name in questions]
    if not covered:
        raise DataError(f"{path}: has no question for any labelled row of {annotations.folder}")
    return Rows([labelled[name] for name in covered], [questions[name] for name in covered])


def _describe(path: Path, rows: Rows, of: int) -> dict[str, Any]:
    first = rows.questions[0]
    return {
        "path": str(path),
        "protocol": first.protocol,
        "backend": first.backend,
        "prompt_version": first.prompt_version,
        "rows": len(rows),
        "rows_without_question": of - len(rows),
        "distinct_texts": {key: len(set(rows.texts(key))) for key in QUESTION_KEYS},
    }


def _survivors(checker: Checker, rows: Rows, annotations: Annotations) -> dict[str, Any]:
    leaks: list[Leak] = []
    parts: list[Leak] = []
    for segment, question in zip(rows.segments, rows.questions, strict=True):
        leaks += checker.leaks(segment, question)
        parts += checker.parts(segment, question)
    leaking = {kind: {leak.narration_id for leak in leaks if leak.kind == kind} for kind in KINDS}
    return {
        "rows": len({leak.narration_id for leak in leaks}),
        "verb_rows": len(leaking["verb"]),
        "noun_rows": len(leaking["noun"]),
        "by_question": _by_question(leaks),
        "part_rows": len({leak.narration_id for leak in parts}),
        "by_class": {
            "verb": _by_class(rows, "verb", annotations.verbs.keys, leaking["verb"]),
            "noun": _by_class(rows, "noun", annotations.nouns.keys, leaking["noun"]),
        },
        "examples": [
            {
                "narration_id": leak.narration_id,
                "question": leak.question,
                "kind": leak.kind,
                "words": leak.words,
            }
            for leak in leaks[:EXAMPLES]
        ],
    }


def _by_question(leaks: Sequence[Leak]) -> dict[str, int]:
    """Rows by which of their questions says which of their classes."""
    found = {}
    for key in QUESTION_KEYS:
        for kind in KINDS:
            rows = {leak.narration_id for leak in leaks if (leak.question, leak.kind) == (key, kind)}
            found[f"{key} says the {kind}"] = len(rows)
    return found


def _by_class(rows: Rows, kind: str, keys: dict[int, str], leaking: set[str]) -> dict[str, dict[str, int]]:
    """By class key: how many rows it has, and in how many of them a form of it still stands."""
    own = rows.labels(kind).tolist()
    total = Counter(own)
    bad = Counter(
        label for label, segment in zip(own, rows.segments, strict=True) if segment.narration_id in leaking
    )
    return {keys[label]: {"rows": total[label], "leaking": bad[label]} for label in sorted(total)}


def _masks(rows: Rows) -> dict[str, dict[str, float]]:
    """By question: the share of rows with 0, 1, 2, 3, 4 or more placeholders, in percent."""
    shares: dict[str, dict[str, float]] = {}
    for key in QUESTION_KEYS:
        counts = Counter(min(text.count(MASK), MANY_MASKS) for text in rows.texts(key))
        shares[key] = {}
        for number in range(MANY_MASKS + 1):
            name = f"{number}+" if number == MANY_MASKS else str(number)
            shares[key][name] = 100 * counts[number] / len(rows)
    return shares


def _hints(rows: Rows) -> dict[str, dict[str, Any]]:
    """By question: how many rows have a hint, and the entropy of the hints in bits; no hint counts as a
    value.
    """
    found = {}
    for key in QUESTION_KEYS:
        counts = Counter(question.hint[key] for question in rows.questions)
        shares = np.array(list(counts.values())) / len(rows)
        found[key] = {
            "rows_with_hint": len(rows) - counts[None],
            "distinct": len(counts) - (None in counts),
            "entropy_bits": float(max(0.0, -(shares * np.log2(shares)).sum())),
        }
    return found
