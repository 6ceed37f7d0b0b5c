"""What questions give away, measured without a frame: `mambavl questions audit`.

    survivors   rows in which a form of the own verb or noun class still stands, by a reader that shares nothing with the masking
    probes      top-1 of verb, noun and action from the two texts alone, learnt on train rows, scored on validation rows
    reader      top-1 of the most frequent train class among those that hint, mask count and remaining words allow
    masks       how many placeholders a question holds; hints: how much they tell, in bits

The reader, exactly. For a row and a kind, with `question` that kind's own: a class is *compatible* when some train row of it has
the same hint, some train row of it has the same number of placeholders, and it is not named in the question. Where most train
questions of the file name their own class (questions that were never masked), it must be named instead. A condition that no class
meets together with those before it is left out. The guess is the compatible class with the most train rows; for the action, the
most frequent train pair of two compatible classes, or the two guesses where there is none. A probe may beat it.

Intervals: 95 %, from 1,000 bootstrap samples of the validation videos (rows of a video resemble each other).
"""

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.annotations import Annotations, Segment
from mambavl.extract.questions.file import MASK, QUESTION_KEYS, Question, read_questions
from mambavl.extract.questions.leaks import Checker, Leak

TARGETS = ("verb", "noun", "action")
SAMPLES = 1000  # of the bootstrap
MAX_ITERATIONS, TOLERANCE, INVERSE_PENALTY = 300, 1e-3, 10.0  # of the logistic regressions
MANY, LEAST_ROWS = 1000, 5  # of more pairs than that, those with so many rows in the sample: 600 classes take half a minute
EXAMPLES = 20  # leaking rows that are shown
TOKEN = rf"{MASK}|\w+"
Step = Callable[[str], None]


@dataclass(frozen=True)
class _Rows:
    """The labelled rows that a question file covers."""

    segments: list[Segment]
    questions: list[Question]

    def __len__(self) -> int:
        return len(self.segments)

    def labels(self, target: str) -> np.ndarray:
        """(rows,) int64; an action is a verb and a noun in one number."""
        verb = np.array([s.verb_class for s in self.segments], np.int64)
        noun = np.array([s.noun_class for s in self.segments], np.int64)
        return {"verb": verb, "noun": noun, "action": verb * 100_000 + noun}[target]

    def texts(self, key: str) -> list[str]:
        return [getattr(question, key) for question in self.questions]

    def half(self, is_train: bool) -> "_Rows":
        return self.take([i for i, segment in enumerate(self.segments) if (segment.split == "train") == is_train])

    def take(self, index: Sequence[int]) -> "_Rows":
        return _Rows([self.segments[i] for i in index], [self.questions[i] for i in index])


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
    """Measure one or several question files over the labelled rows of the same annotations; plain data, as written to JSON.

    encoder: a text encoder of mambavl.extract.encoders, for a second probe. train_rows: probes learn from so many train rows,
    drawn with `seed`, the same for all files of the same rows; 0 for all of them. forms_only: survivors, masks and hints alone,
    which needs neither train rows nor scikit-learn.

    Raises DataError for a row that the annotations do not have and for a file without train or validation rows, UsageError when
    scikit-learn is not installed.
    """
    if not forms_only:
        _sklearn()
    checker = Checker(annotations)
    labelled = {s.narration_id: s for s in annotations.segments if s.verb_class is not None and s.noun_class is not None}
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
        "sample": {"train_rows": train_rows, "seed": seed, "bootstrap_samples": SAMPLES, "bootstrap_over": "videos"},
        "files": files,
    }


def write_page(found: dict[str, Any], target: Path) -> None:
    """One self-contained HTML page of what `audit` found."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    template = resources.files("mambavl.extract.questions").joinpath("audit.html.j2").read_text(encoding="utf-8")
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


def guessers(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Who guessed from which questions, one entry each: path, protocol, kind (prior, reader, probe), name, top1."""
    rows = []
    for file in found["files"]:
        if "prior" not in file:
            continue
        scores = [("prior", "prior", file["prior"]), ("reader", "reader", file["reader"]["top1"])]
        scores += [("probe", f"{name} probe", probe["top1"]) for name, probe in file["probes"].items()]
        told = {"path": file["path"], "protocol": file["protocol"]}
        rows += [{**told, "kind": kind, "name": name, "top1": top1} for kind, name, top1 in scores]
    return rows


def check_forms(questions: Sequence[Question], annotations: Annotations) -> list[Leak]:
    """Every place where a form of a row's own class stands in its questions. Rows without labels are passed over."""
    checker = Checker(annotations)
    segments = {s.narration_id: s for s in annotations.segments if s.verb_class is not None and s.noun_class is not None}
    known = [q for q in questions if q.narration_id in segments]
    return [leak for q in known for leak in checker.leaks(segments[q.narration_id], q)]


def _covered(path: Path, annotations: Annotations, labelled: dict[str, Segment]) -> _Rows:
    questions = read_questions(path)
    known = {segment.narration_id for segment in annotations.segments}
    unknown = [name for name in questions if name not in known]
    if unknown:
        raise DataError(f"{path}: {len(unknown):,} rows are not in {annotations.folder} ({', '.join(unknown[:5])}); see --split")
    covered = [name for name in labelled if name in questions]
    if not covered:
        raise DataError(f"{path}: has no question for any labelled row of {annotations.folder}")
    return _Rows([labelled[name] for name in covered], [questions[name] for name in covered])


def _describe(path: Path, rows: _Rows, of: int) -> dict[str, Any]:
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


# --- (a) what stands that must not


def _survivors(checker: Checker, rows: _Rows, annotations: Annotations) -> dict[str, Any]:
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
            f"{key} says the {kind}": len({x.narration_id for x in leaks if (x.question, x.kind) == (key, kind)})
            for key in QUESTION_KEYS
            for kind in ("verb", "noun")
        },
        "part_rows": len({leak.narration_id for leak in parts}),
        "by_class": by_class,
        "examples": [
            {"narration_id": x.narration_id, "question": x.question, "kind": x.kind, "words": x.words} for x in leaks[:EXAMPLES]
        ],
    }


# --- (b) what a classifier reads out of the texts


def _probes(
    path: Path, train: _Rows, test: _Rows, encoder: Any, train_rows: int, seed: int, step: Step
) -> dict[str, dict[str, Any]]:
    """By features: verb and noun by logistic regression; the action as the pair of the two, and by a regression over pairs."""
    if train_rows and train_rows < len(train):
        chosen = np.random.default_rng(seed).choice(len(train), train_rows, replace=False)
        train = train.take(sorted(chosen.tolist()))
    found = {}
    for name, features in (("tf-idf", _tf_idf), ("encoder", _encoded)):
        if name == "encoder" and encoder is None:
            continue
        step(f"{path}: {name} features")
        learn, ask = features(train, test, encoder)
        best, fits = {}, {}
        for target in TARGETS:
            if target == "action" and name == "encoder":
                continue  # minutes of dense products, for what tf-idf tells in seconds
            step(f"{path}: {name} probe, {target}")
            labels = train.labels(target)
            kept = _frequent(labels, LEAST_ROWS) if len(np.unique(labels)) > MANY else np.ones(len(labels), bool)
            best[target], fits[target] = _fit(learn[kept], labels[kept], ask)
            fits[target]["classes_cover_percent"] = 100 * float(np.isin(test.labels(target), labels[kept]).mean())
        guesses = {"verb": best["verb"], "noun": best["noun"], "action": best["verb"] * 100_000 + best["noun"]}
        scored = _score(test, guesses)
        if "action" in best:
            scored["action_direct"] = _share(best["action"] == test.labels("action"), test)
        label = name if name == "tf-idf" else encoder.name
        found[label] = {"top1": scored, "train_rows": len(train), "features": learn.shape[1], "fits": fits}
    return found


def _tf_idf(train: _Rows, test: _Rows, _: Any) -> tuple[Any, Any]:
    """Words and pairs of neighbouring words of each question, seen in at least two train rows."""
    import scipy.sparse
    from sklearn.feature_extraction.text import TfidfVectorizer

    learn, ask = [], []
    for key in QUESTION_KEYS:
        seen = Counter(text for text in train.texts(key))
        if max(map(len, seen)) == 0:
            continue  # protocol none
        vectors = TfidfVectorizer(
            token_pattern=TOKEN, ngram_range=(1, 2), min_df=min(2, len(train)), sublinear_tf=True, dtype=np.float32
        )
        learn.append(vectors.fit_transform(train.texts(key)))
        ask.append(vectors.transform(test.texts(key)))
    if not learn:
        return np.zeros((len(train), 1), np.float32), np.zeros((len(test), 1), np.float32)
    return scipy.sparse.hstack(learn).tocsr(), scipy.sparse.hstack(ask).tocsr()


def _encoded(train: _Rows, test: _Rows, encoder: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the encoder's last hidden states over the tokens, for both questions side by side, standardised."""
    texts = sorted({text for rows in (train, test) for key in QUESTION_KEYS for text in rows.texts(key)})
    ids = [encoder.tokenize(text) for text in texts]
    means = np.zeros((len(texts), encoder.width), np.float32)
    order = sorted((i for i in range(len(ids)) if ids[i]), key=lambda i: len(ids[i]))  # of like length: little padding
    for first in range(0, len(order), 64):
        part = order[first : first + 64]
        for i, states in zip(part, encoder.encode([ids[i] for i in part], ("last_hidden",))["last_hidden"], strict=True):
            means[i] = states.mean(0).numpy()
    place = {text: i for i, text in enumerate(texts)}
    learn, ask = (
        np.hstack([means[[place[text] for text in rows.texts(key)]] for key in QUESTION_KEYS]) for rows in (train, test)
    )
    scale = learn.std(0)
    scale[scale == 0] = 1
    return (learn - learn.mean(0)) / scale, (ask - learn.mean(0)) / scale


def _fit(learn: Any, labels: np.ndarray, ask: Any) -> tuple[np.ndarray, dict[str, Any]]:
    """(rows,) guesses for `ask`, and how the fit ended."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    classes = np.unique(labels)
    if len(classes) == 1:
        return np.full(ask.shape[0], classes[0]), {"classes": 1, "iterations": 0, "converged": True}
    model = LogisticRegression(C=INVERSE_PENALTY, max_iter=MAX_ITERATIONS, tol=TOLERANCE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # stated in the result instead
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)  # pairs: half of them have one row
        model.fit(learn, labels)
    iterations = int(model.n_iter_.max())
    return model.predict(ask), {
        "classes": len(classes),
        "iterations": iterations,
        "converged": iterations < MAX_ITERATIONS,
    }


def _frequent(labels: np.ndarray, least: int) -> np.ndarray:
    """(rows,) bool: rows of classes that have at least `least` rows; all rows where no class has."""
    _, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    kept = counts[index] >= least
    return kept if kept.any() else np.ones(len(labels), bool)


def _prior(train: _Rows) -> dict[str, int]:
    """The most frequent train class of each target; the smallest of equals."""
    return {target: _most(Counter(train.labels(target).tolist())) for target in TARGETS}


def _most(counts: Counter) -> int:
    return min(counts, key=lambda c: (-counts[c], c))


# --- (c) what a reader of class names could do


def _reader(checker: Checker, train: _Rows, test: _Rows) -> dict[str, Any]:
    guesses: dict[str, list[int]] = {target: [] for target in TARGETS}
    sizes: dict[str, list[int]] = {"verb": [], "noun": []}
    allowed = {kind: _Compatible(checker, kind, train) for kind in ("verb", "noun")}
    pairs = Counter(zip(train.labels("verb").tolist(), train.labels("noun").tolist(), strict=True))
    by_rows = sorted(pairs, key=lambda pair: (-pairs[pair], pair))
    best_pair: dict[tuple[frozenset[int], frozenset[int]], tuple[int, int] | None] = {}
    for question in test.questions:
        verbs, nouns = (allowed[kind].classes(question) for kind in ("verb", "noun"))
        verb = max(verbs, key=lambda c: (allowed["verb"].count[c], -c))
        noun = max(nouns, key=lambda c: (allowed["noun"].count[c], -c))
        if (verbs, nouns) not in best_pair:
            best_pair[verbs, nouns] = next((pair for pair in by_rows if pair[0] in verbs and pair[1] in nouns), None)
        pair = best_pair[verbs, nouns] or (verb, noun)
        guesses["verb"].append(verb)
        guesses["noun"].append(noun)
        guesses["action"].append(pair[0] * 100_000 + pair[1])
        sizes["verb"].append(len(verbs))
        sizes["noun"].append(len(nouns))
    return {
        "top1": _score(test, {target: np.array(values) for target, values in guesses.items()}),
        "mean_compatible": {kind: float(np.mean(values)) for kind, values in sizes.items()},
        "train_classes": {kind: len(allowed[kind].count) for kind in sizes},
        "own_class_is_named": {kind: allowed[kind].named_share for kind in sizes},
    }


class _Compatible:
    """Which train classes of a kind a question allows; the rule is at the top of this file."""

    def __init__(self, checker: Checker, kind: str, train: _Rows) -> None:
        self.kind, self.key = kind, f"{kind}_question"
        self.names = checker.verbs if kind == "verb" else checker.nouns
        labels = train.labels(kind).tolist()
        self.count = Counter(labels)
        self.by_hint: dict[str | None, set[int]] = {}
        self.by_masks: dict[int, set[int]] = {}
        named = 0
        for label, question in zip(labels, train.questions, strict=True):
            self.by_hint.setdefault(question.hint[self.key], set()).add(label)
            self.by_masks.setdefault(getattr(question, self.key).count(MASK), set()).add(label)
            named += label in self.names.find(getattr(question, self.key))
        self.named_share = named / len(labels)
        self._known: dict[tuple[str, str | None], frozenset[int]] = {}

    def classes(self, question: Question) -> frozenset[int]:
        text, hint = getattr(question, self.key), question.hint[self.key]
        if (text, hint) not in self._known:
            named = self.names.find(text).keys() & self.count.keys()
            conditions = (
                self.by_hint.get(hint, set()),
                self.by_masks.get(text.count(MASK), set()),
                named if self.named_share > 0.5 else self.count.keys() - named,
            )
            left = set(self.count)
            for condition in conditions:
                left = left & condition or left
            self._known[text, hint] = frozenset(left)
        return self._known[text, hint]


# --- (d) masks and hints


def _masks(rows: _Rows) -> dict[str, dict[str, float]]:
    """By question: the share of rows with 0, 1, 2, 3, 4 or more placeholders, in percent."""
    shares = {}
    for key in QUESTION_KEYS:
        counts = Counter(min(text.count(MASK), 4) for text in rows.texts(key))
        shares[key] = {("4+" if n == 4 else str(n)): 100 * counts[n] / len(rows) for n in range(5)}
    return shares


def _hints(rows: _Rows) -> dict[str, dict[str, Any]]:
    """By question: how many rows are told something, and the entropy of what they are told in bits; no hint counts as a value."""
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


# --- shares and their intervals


def _score(test: _Rows, guesses: dict[str, Any]) -> dict[str, dict[str, float]]:
    return {target: _share(guesses[target] == test.labels(target), test) for target in TARGETS}


def _share(hits: np.ndarray, rows: _Rows) -> dict[str, float]:
    """Percent of hits, with its interval."""
    low, high = interval(hits, [segment.video_id for segment in rows.segments])
    return {"percent": 100 * float(hits.mean()), "low": low, "high": high}


def interval(hits: np.ndarray, groups: Sequence[str], seed: int = 0) -> tuple[float, float]:
    """95 % interval of a share in percent, by the bootstrap over groups: whole groups are drawn, each with its rows."""
    _, index = np.unique(np.asarray(groups), return_inverse=True)
    sizes, good = np.bincount(index), np.bincount(index, hits)
    drawn = np.random.default_rng(seed).multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), SAMPLES)
    low, high = np.percentile(100 * (drawn @ good) / (drawn @ sizes), (2.5, 97.5))
    return float(low), float(high)


def _sklearn() -> None:
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise UsageError(
            "the probes need scikit-learn; `pip install 'mambavl[audit]'` brings it, --forms-only goes without"
        ) from None
