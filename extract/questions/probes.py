"""How often the classes of a row are guessed from its questions alone: a reader of class names and hints, and
trained probes.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mambavl.configs.errors import UsageError
from mambavl.extract.annotations import Segment
from mambavl.extract.questions.file import MASK, QUESTION_KEYS, Question
from mambavl.extract.questions.leaks import Checker

TARGETS = ("verb", "noun", "action")
SAMPLES = 1000  # of the bootstrap
TOKEN = rf"{MASK}|\w+"
Step = Callable[[str], None]


@dataclass(frozen=True)
class Rows:
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

    def half(self, is_train: bool) -> "Rows":
        return self.take(
            [i for i, segment in enumerate(self.segments) if (segment.split == "train") == is_train]
        )

    def take(self, index: Sequence[int]) -> "Rows":
        return Rows([self.segments[i] for i in index], [self.questions[i] for i in index])


MAX_ITERATIONS, TOLERANCE, INVERSE_PENALTY = 300, 1e-3, 10.0  # of the logistic regressions


# of more pairs than that, those with so many rows in the sample: 600 classes take half a minute
MANY, LEAST_ROWS = 1000, 5


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
        told = {"path": file["path"], "protocol": file["protocol"]}
        rows += [{**told, "kind": kind, "name": name, "top1": top1} for kind, name, top1 in scores]
    return rows


def _probes(
    path: Path, train: Rows, test: Rows, encoder: Any, train_rows: int, seed: int, step: Step
) -> dict[str, dict[str, Any]]:
    """By features: verb and noun by logistic regression; the action as the pair of the two, and by a
    regression over pairs.
    """
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
            kept = (
                _frequent(labels, LEAST_ROWS) if len(np.unique(labels)) > MANY else np.ones(len(labels), bool)
            )
            best[target], fits[target] = _fit(learn[kept], labels[kept], ask)
            fits[target]["classes_cover_percent"] = 100 * float(
                np.isin(test.labels(target), labels[kept]).mean()
            )
        guesses = {
            "verb": best["verb"],
            "noun": best["noun"],
            "action": best["verb"] * 100_000 + best["noun"],
        }
        scored = _score(test, guesses)
        if "action" in best:
            scored["action_direct"] = _share(best["action"] == test.labels("action"), test)
        label = name if name == "tf-idf" else encoder.name
        found[label] = {"top1": scored, "train_rows": len(train), "features": learn.shape[1], "fits": fits}
    return found


def _tf_idf(train: Rows, test: Rows, _: Any) -> tuple[Any, Any]:
    """Words and pairs of neighbouring words of each question, seen in at least two train rows."""
    import scipy.sparse
    from sklearn.feature_extraction.text import TfidfVectorizer

    learn, ask = [], []
    for key in QUESTION_KEYS:
        seen = Counter(text for text in train.texts(key))
        if max(map(len, seen)) == 0:
            continue  # protocol none
        vectors = TfidfVectorizer(
            token_pattern=TOKEN,
            ngram_range=(1, 2),
            min_df=min(2, len(train)),
            sublinear_tf=True,
            dtype=np.float32,
        )
        learn.append(vectors.fit_transform(train.texts(key)))
        ask.append(vectors.transform(test.texts(key)))
    if not learn:
        return np.zeros((len(train), 1), np.float32), np.zeros((len(test), 1), np.float32)
    return scipy.sparse.hstack(learn).tocsr(), scipy.sparse.hstack(ask).tocsr()


def _encoded(train: Rows, test: Rows, encoder: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the encoder's last hidden states over the tokens, for both questions side by side,
    standardised.
    """
    texts = sorted({text for rows in (train, test) for key in QUESTION_KEYS for text in rows.texts(key)})
    ids = [encoder.tokenize(text) for text in texts]
    means = np.zeros((len(texts), encoder.width), np.float32)
    # of like length: little padding
    order = sorted((i for i in range(len(ids)) if ids[i]), key=lambda i: len(ids[i]))
    for first in range(0, len(order), 64):
        part = order[first : first + 64]
        for i, states in zip(
            part, encoder.encode([ids[i] for i in part], ("last_hidden",))["last_hidden"], strict=True
        ):
            means[i] = states.mean(0).numpy()
    place = {text: i for i, text in enumerate(texts)}
    learn, ask = (
        np.hstack([means[[place[text] for text in rows.texts(key)]] for key in QUESTION_KEYS])
        for rows in (train, test)
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
        # pairs: half of them have one row
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
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


def _prior(train: Rows) -> dict[str, int]:
    """The most frequent train class of each target; the smallest of equals."""
    return {target: _most(Counter(train.labels(target).tolist())) for target in TARGETS}


def _most(counts: Counter) -> int:
    return min(counts, key=lambda c: (-counts[c], c))


def _reader(checker: Checker, train: Rows, test: Rows) -> dict[str, Any]:
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
            best_pair[verbs, nouns] = next(
                (pair for pair in by_rows if pair[0] in verbs and pair[1] in nouns), None
            )
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

    def __init__(self, checker: Checker, kind: str, train: Rows) -> None:
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


def _masks(rows: Rows) -> dict[str, dict[str, float]]:
    """By question: the share of rows with 0, 1, 2, 3, 4 or more placeholders, in percent."""
    shares = {}
    for key in QUESTION_KEYS:
        counts = Counter(min(text.count(MASK), 4) for text in rows.texts(key))
        shares[key] = {("4+" if n == 4 else str(n)): 100 * counts[n] / len(rows) for n in range(5)}
    return shares


def _hints(rows: Rows) -> dict[str, dict[str, Any]]:
    """By question: how many rows are told something, and the entropy of what they are told in bits; no hint
    counts as a value.
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


def _score(test: Rows, guesses: dict[str, Any]) -> dict[str, dict[str, float]]:
    return {target: _share(guesses[target] == test.labels(target), test) for target in TARGETS}


def _share(hits: np.ndarray, rows: Rows) -> dict[str, float]:
    """Percent of hits, with its interval."""
    low, high = interval(hits, [segment.video_id for segment in rows.segments])
    return {"percent": 100 * float(hits.mean()), "low": low, "high": high}


def interval(hits: np.ndarray, groups: Sequence[str], seed: int = 0) -> tuple[float, float]:
    """95 % interval of a share in percent, by the bootstrap over groups: whole groups are drawn, each with
    its rows.
    """
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
