"""Trained probes: how often the classes of a row are guessed from the texts of its two questions alone.

A probe is a logistic regression over features of both questions, learnt on train rows and scored on the
others. Features: tf-idf of words and pairs of words, or the mean hidden states of a text encoder. The action
is the pair of the best verb and the best noun; for tf-idf also by a regression over pairs.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mambavl.configs.errors import UsageError, to_install
from mambavl.extract import MASK
from mambavl.extract.encoders.base import TextEncoder
from mambavl.extract.questions.audit_rows import TARGETS, Rows, pair_up, share, top1
from mambavl.extract.questions.file import QUESTION_KEYS

MAX_ITERATIONS, TOLERANCE, INVERSE_PENALTY = 300, 1e-3, 10.0  # of the logistic regressions
# of more than MANY classes, those with LEAST_ROWS rows in the sample are fitted: 600 classes take half a
# minute
MANY, LEAST_ROWS = 1000, 5
TOKEN = rf"{MASK}|\w+"
ENCODED_AT_ONCE = 64  # texts

Step = Callable[[str], None]  # is given what is about to be done


def require_scikit_learn() -> None:
    """Raises UsageError when the package is missing."""
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise UsageError(
            f"the probes need scikit-learn: {to_install('audit')}; --forms-only goes without"
        ) from None


def probe(
    path: Path, train: Rows, test: Rows, encoder: TextEncoder | None, train_rows: int, seed: int, step: Step
) -> dict[str, dict[str, Any]]:
    """By name of the features, what the probes of a question file came to.

    encoder: a text encoder of mambavl.extract.encoders, or None. train_rows: probes learn from so many rows,
    drawn with `seed`; 0 for all of them. path: the file, named to `step`.
    """
    train = _sample(train, train_rows, seed)
    step(f"{path}: tf-idf features")
    found = {"tf-idf": _probe_features(path, train, test, "tf-idf", _tf_idf(train, test), TARGETS, step)}
    if encoder is not None:
        step(f"{path}: encoder features")
        # no regression over pairs: minutes of dense products, for what tf-idf tells in seconds
        features = _encoded(train, test, encoder)
        found[encoder.name] = _probe_features(path, train, test, "encoder", features, ("verb", "noun"), step)
    return found


def _sample(train: Rows, count: int, seed: int) -> Rows:
    if not count or count >= len(train):
        return train
    chosen = np.random.default_rng(seed).choice(len(train), count, replace=False)
    return train.take(sorted(chosen.tolist()))


def _probe_features(
    path: Path,
    train: Rows,
    test: Rows,
    name: str,
    features: tuple[Any, Any],
    targets: tuple[str, ...],
    step: Step,
) -> dict[str, Any]:
    """Fit a regression for each target to features of the train rows, and score it on the test rows."""
    train_features, test_features = features
    guesses: dict[str, np.ndarray] = {}
    fits: dict[str, dict[str, Any]] = {}
    for target in targets:
        step(f"{path}: {name} probe, {target}")
        labels = train.labels(target)
        kept = np.ones(len(labels), bool)
        if len(np.unique(labels)) > MANY:
            kept = _frequent(labels, LEAST_ROWS)
        guesses[target], fits[target] = _fit(train_features[kept], labels[kept], test_features)
        covered = np.isin(test.labels(target), labels[kept])
        fits[target]["classes_cover_percent"] = 100 * float(covered.mean())
    pairs = pair_up(guesses["verb"], guesses["noun"])
    scored = top1(test, {"verb": guesses["verb"], "noun": guesses["noun"], "action": pairs})
    if "action" in guesses:
        scored["action_direct"] = share(guesses["action"] == test.labels("action"), test)
    return {"top1": scored, "train_rows": len(train), "features": train_features.shape[1], "fits": fits}


def _tf_idf(train: Rows, test: Rows) -> tuple[Any, Any]:
    """Words and pairs of neighbouring words of each question that stand in at least two train rows.

    (train rows, features) and (test rows, features), sparse; one column of zeros where no question has a
    text.
    """
    import scipy.sparse
    from sklearn.feature_extraction.text import TfidfVectorizer

    of_train, of_test = [], []
    for key in QUESTION_KEYS:
        if not any(train.texts(key)):
            continue  # protocol none
        vectors = TfidfVectorizer(
            token_pattern=TOKEN,
            ngram_range=(1, 2),
            min_df=min(2, len(train)),
            sublinear_tf=True,
            dtype=np.float32,
        )
        of_train.append(vectors.fit_transform(train.texts(key)))
        of_test.append(vectors.transform(test.texts(key)))
    if not of_train:
        return np.zeros((len(train), 1), np.float32), np.zeros((len(test), 1), np.float32)
    return scipy.sparse.hstack(of_train).tocsr(), scipy.sparse.hstack(of_test).tocsr()


def _encoded(train: Rows, test: Rows, encoder: TextEncoder) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the encoder's last hidden states over the tokens, of both questions, standardised by the train
    rows.

    (train rows, 2 width) and (test rows, 2 width) float32.
    """
    texts: set[str] = set()
    for rows in (train, test):
        for key in QUESTION_KEYS:
            texts.update(rows.texts(key))
    in_order = sorted(texts)
    place = {text: row for row, text in enumerate(in_order)}
    means = _mean_states(in_order, encoder)

    def features(rows: Rows) -> np.ndarray:
        return np.hstack([means[[place[text] for text in rows.texts(key)]] for key in QUESTION_KEYS])

    of_train, of_test = features(train), features(test)
    scale = of_train.std(0)
    scale[scale == 0] = 1
    centre = of_train.mean(0)
    return (of_train - centre) / scale, (of_test - centre) / scale


def _mean_states(texts: list[str], encoder: TextEncoder) -> np.ndarray:
    """(texts, width) float32; zeros for a text without tokens."""
    ids = [encoder.tokenize(text) for text in texts]
    means = np.zeros((len(texts), encoder.width), np.float32)
    filled = [row for row in range(len(ids)) if ids[row]]
    order = sorted(filled, key=lambda row: len(ids[row]))  # of like length: little padding
    for first in range(0, len(order), ENCODED_AT_ONCE):
        part = order[first : first + ENCODED_AT_ONCE]
        encoded = encoder.encode([ids[row] for row in part], ("last_hidden",))["last_hidden"]
        for row, states in zip(part, encoded, strict=True):
            means[row] = states.mean(0).numpy()
    return means


def _fit(train: Any, labels: np.ndarray, test: Any) -> tuple[np.ndarray, dict[str, Any]]:
    """(test rows,) guesses, and how the fit ended."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    classes = np.unique(labels)
    if len(classes) == 1:
        return np.full(test.shape[0], classes[0]), {"classes": 1, "iterations": 0, "converged": True}
    model = LogisticRegression(C=INVERSE_PENALTY, max_iter=MAX_ITERATIONS, tol=TOLERANCE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # stated in the result instead
        # pairs: half of them have one row
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        model.fit(train, labels)
    iterations = int(model.n_iter_.max())
    return model.predict(test), {
        "classes": len(classes),
        "iterations": iterations,
        "converged": iterations < MAX_ITERATIONS,
    }


def _frequent(labels: np.ndarray, least: int) -> np.ndarray:
    """(rows,) bool: rows of classes that have at least `least` rows; all rows where no class has."""
    _, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    kept = counts[index] >= least
    return kept if kept.any() else np.ones(len(labels), bool)
