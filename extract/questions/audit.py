"""What questions give away, measured without a frame: `mambavl questions audit`.

    survivors   rows in which a form of the own verb or noun class still stands, by a reader that shares nothing with the masking
    probes      top-1 of verb, noun and action from the two texts alone, learnt on train rows, scored on validation rows
    reader      top-1 of the most frequent train class among those that hint, mask count and remaining words allow
    masks       how many placeholders a question holds; hints: how much they tell, in bits

The reader, exactly. For a row and a kind, with `question` that kind's own: a class is *compatible* when some
train row of it has the same hint, some train row of it has the same number of placeholders, and it is not
named in the question. Where most train questions of the file name their own class (questions that were never
masked), it must be named instead. A condition that no class meets together with those before it is left out.
The guess is the compatible class with the most train rows; for the action, the most frequent train pair of
two compatible classes, or the two guesses where there is none. A probe may beat it.

Intervals: 95 %, from 1,000 bootstrap samples of the validation videos (rows of a video resemble each other).
"""

from collections import Counter
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.annotations import Annotations, Segment
from mambavl.extract.questions.file import QUESTION_KEYS, Question, read_questions
from mambavl.extract.questions.leaks import Checker, Leak
from mambavl.extract.questions.probes import (
    LEAST_ROWS,
    MANY,
    SAMPLES,
    TARGETS,
    Rows,
    Step,
    _hints,
    _masks,
    _prior,
    _probes,
    _reader,
    _score,
    _sklearn,
    guessers,
)

EXAMPLES = 20  # leaking rows that are shown


def audit(
    paths: Sequence[Path],
    annotations: Annotations,
    *,
    encoder: Any = None,
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
    rows, UsageError when scikit-learn is not installed.
    """
    if not forms_only:
        _sklearn()
    checker = Checker(annotations)
    labelled = {
        s.narration_id: s
        for s in annotations.segments
        if s.verb_class is not None and s.noun_class is not None
    }
    if len(set(map(str, paths))) < len(paths):
        raise UsageError("a question file is named twice")
    files = []
    for path in paths:
        step(f"{path}: forms")
        rows = _covered(Path(path), annotations, labelled)
        found = _describe(Path(path), rows, len(labelled)) | {
            "survivors": _survivors(checker, rows, annotations),
            "masks": _masks(rows),
            "hints": _hints(rows),
        }
        if not forms_only:
            train, test = rows.half(True), rows.half(False)
            if not len(train) or not len(test):
                raise DataError(
                    f"{path}: covers {len(train):,} train and {len(test):,} other rows, and a probe needs both; "
                    "audit the questions of both splits, or the forms alone with --forms-only"
                )
            step(f"{path}: reader")
            found["scored_rows"], found["train_rows"] = len(test), len(train)
            found["prior"] = _score(test, _prior(train))
            found["reader"] = _reader(checker, train, test)
            found["probes"] = _probes(Path(path), train, test, encoder, train_rows, seed, step)
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


def write_page(found: dict[str, Any], target: Path) -> None:
    """One self-contained HTML page of what `audit` found."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    template = (
        resources.files("mambavl.extract.questions").joinpath("audit.html.j2").read_text(encoding="utf-8")
    )
    rows = guessers(found)
    charts = {target: _bars(rows, target) for target in TARGETS}
    page = environment.from_string(template).render(
        found=found, rows=rows, charts=charts if rows else {}, targets=TARGETS, least=LEAST_ROWS, many=MANY
    )
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    Path(target).write_text(page, encoding="utf-8")


def _bars(rows: list[dict[str, Any]], target: str) -> list[tuple[str, str, dict[str, float]]]:
    """(name, kind, share) of a chart's bars; a prior that several files share stands there once."""
    bars = []
    for row in rows:
        share = row["top1"][target]
        if row["kind"] != "prior":
            bars.append((f"{Path(row['path']).stem[:16]}: {row['name']}", row["kind"], share))
        elif ("prior", "prior", share) not in bars:
            bars.append(("prior", "prior", share))
    return bars


def check_forms(questions: Sequence[Question], annotations: Annotations) -> list[Leak]:
    """Every place where a form of a row's own class stands in its questions. Rows without labels are passed
    over.
    """
    checker = Checker(annotations)
    segments = {
        s.narration_id: s
        for s in annotations.segments
        if s.verb_class is not None and s.noun_class is not None
    }
    known = [q for q in questions if q.narration_id in segments]
    return [leak for q in known for leak in checker.leaks(segments[q.narration_id], q)]


def _covered(path: Path, annotations: Annotations, labelled: dict[str, Segment]) -> Rows:
    questions = read_questions(path)
    known = {segment.narration_id for segment in annotations.segments}
    unknown = [name for name in questions if name not in known]
    if unknown:
        raise DataError(
            f"{path}: {len(unknown):,} rows are not in {annotations.folder} ({', '.join(unknown[:5])}); see --split"
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
    leaks = [leak for s, q in zip(rows.segments, rows.questions, strict=True) for leak in checker.leaks(s, q)]
    parts = [leak for s, q in zip(rows.segments, rows.questions, strict=True) for leak in checker.parts(s, q)]
    told = {kind: {leak.narration_id for leak in leaks if leak.kind == kind} for kind in ("verb", "noun")}
    by_class = {}
    for kind, keys in (("verb", annotations.verbs.keys), ("noun", annotations.nouns.keys)):
        own = rows.labels(kind).tolist()
        total = Counter(own)
        bad = Counter(c for c, s in zip(own, rows.segments, strict=True) if s.narration_id in told[kind])
        by_class[kind] = {keys[c]: {"rows": total[c], "leaking": bad[c]} for c in sorted(total)}
    return {
        "rows": len({leak.narration_id for leak in leaks}),
        "verb_rows": len(told["verb"]),
        "noun_rows": len(told["noun"]),
        "by_question": {
            f"{key} says the {kind}": len(
                {x.narration_id for x in leaks if (x.question, x.kind) == (key, kind)}
            )
            for key in QUESTION_KEYS
            for kind in ("verb", "noun")
        },
        "part_rows": len({leak.narration_id for leak in parts}),
        "by_class": by_class,
        "examples": [
            {"narration_id": x.narration_id, "question": x.question, "kind": x.kind, "words": x.words}
            for x in leaks[:EXAMPLES]
        ],
    }
