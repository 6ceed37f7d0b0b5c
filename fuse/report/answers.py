"""What a run says of each row: the best classes of each target, and how probable it takes them to be.

A class of a derived target is a number that stands for one class of each of its parts, the last part counting
fastest: of EK100's actions 300 * verb + noun.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mambavl.cache.classes import Classes, Derived
from mambavl.cache.scores import log_softmax

MOST = 5  # classes of a row


@dataclass(frozen=True)
class Answers:
    """Of N rows and one target, K of its classes."""

    classes: np.ndarray  # (N, K) best first; of equal scores the smaller class
    probabilities: np.ndarray  # (N, K) from 0 to 1
    labels: Sequence[tuple[int, ...]]  # (N,) of a row without a label nothing
    of_label: np.ndarray  # (N,) the probability of the label, of several the lowest; 0 of no label
    # (N, K), of a combination ranked by its parts' product: which of the best classes of each part it is made
    # of, as one number, the last part counting fastest; None of any other target
    ranks: np.ndarray | None = None

    @property
    def is_right(self) -> np.ndarray:
        """(N,) bool: whether the first class is a label."""
        first = self.classes[:, 0].tolist()
        return np.array([one in labels for one, labels in zip(first, self.labels, strict=True)], bool)


def answers_of(name: str, classes: Classes, scores: Mapping[str, np.ndarray]) -> Answers:
    """Of one target. scores: arrays of a run, see `run.write_scores`."""
    if name in classes.derived:
        return _of_derived(name, classes, scores)
    given, rows = scores[f"{name}_label"], np.arange(len(scores[name]))
    labels: list[tuple[int, ...]]
    if classes.targets[name].kind == "single":
        found = np.exp(log_softmax(scores[name]))
        labels = [(label,) if label >= 0 else () for label in given.tolist()]
        of_label = np.where(given >= 0, found[rows, np.maximum(given, 0)], 0.0)
    else:
        found = np.exp(scores[name].astype(np.float64))
        labels = [tuple(np.flatnonzero(row > 0).tolist()) for row in given]
        of_label = np.array([found[row, list(own)].min() if own else 0.0 for row, own in enumerate(labels)])
    columns = best(scores[name])
    return Answers(columns, found[rows[:, None], columns], labels, of_label)


def best(scores: np.ndarray, most: int = MOST) -> np.ndarray:
    """(N, C) -> (N, K) columns of the highest values, K at most `most`; of equal ones the first column."""
    left, rows = np.maximum(scores, np.finfo(scores.dtype).min), np.arange(len(scores))
    found = []
    for _ in range(min(most, scores.shape[1])):
        found.append(left.argmax(1))
        left[rows, found[-1]] = -np.inf
    return np.stack(found, axis=1)


def number_of(parts: list[np.ndarray], counts: list[int]) -> np.ndarray:
    """Classes of each part -> the class of a derived target, see above."""
    return functools.reduce(
        lambda number, one: number * one[0] + one[1],
        zip(counts, parts, strict=True),
        np.zeros_like(parts[0], np.int64),
    )


def parts_of(number: int, derived: Derived, classes: Classes) -> tuple[int, ...]:
    """The class of each part that `number_of` was made of."""
    found = []
    for part in reversed(derived.of):
        number, one = divmod(number, classes.targets[part].count)
        found.append(one)
    return tuple(reversed(found))


def _of_derived(name: str, classes: Classes, scores: Mapping[str, np.ndarray]) -> Answers:
    """By its scores over pairs, if it has any; else by the products of its parts'."""
    derived = classes.derived[name]
    counts = [classes.targets[part].count for part in derived.of]
    given = [scores[f"{part}_label"].astype(np.int64) for part in derived.of]
    has_label = np.all([label >= 0 for label in given], axis=0)
    number = number_of([np.maximum(label, 0) for label in given], counts)
    if name in scores:
        pairs = np.array(derived.pairs)
        every, logs = number_of(list(pairs.T), counts), log_softmax(scores[name])
        columns = best(logs)
        column = {one: place for place, one in enumerate(every.tolist())}
        place = np.array([column.get(one, -1) for one in number.tolist()], np.int64)
        of_label = np.where(place >= 0, np.exp(logs[np.arange(len(logs)), place]), 0.0)
        found, top, ranks = every[columns], np.take_along_axis(logs, columns, 1), None
    else:
        logs_of = [log_softmax(scores[part]) for part in derived.of]
        found, top, ranks = _of_products(logs_of, counts)
        rows = np.arange(len(number))
        of_label = np.exp(
            sum(logs[rows, np.maximum(own, 0)] for logs, own in zip(logs_of, given, strict=True))
        )
    labels = [(one,) if has else () for one, has in zip(number.tolist(), has_label.tolist(), strict=True)]
    return Answers(found, np.exp(top), labels, np.where(has_label, of_label, 0.0), ranks)


def _of_products(logs: list[np.ndarray], counts: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Classes, log-probabilities and `ranks` (N, K) of the best combinations. The K best of each part are
    enough: i * j pairs are at least as good as that of the i-th best verb and the j-th best noun.
    """
    rows = len(logs[0])
    sums, numbers = np.zeros((rows, 1)), np.zeros((rows, 1), np.int64)
    for own, count in zip(logs, counts, strict=True):
        columns = best(own)
        kept = np.take_along_axis(own, columns, 1)
        sums = (sums[:, :, None] + kept[:, None, :]).reshape(rows, -1)
        numbers = (numbers[:, :, None] * count + columns[:, None, :]).reshape(rows, -1)
    order = best(sums)
    return np.take_along_axis(numbers, order, 1), np.take_along_axis(sums, order, 1), order
