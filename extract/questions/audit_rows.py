"""The labelled rows of a question file, and how often guesses of their classes are right.

Shares are percent of rows, each with a 95 % interval from bootstrap samples of the videos: rows of one video
resemble each other.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mambavl.cache.rows import Segment
from mambavl.extract.questions.file import Question

TARGETS = ("verb", "noun", "action")
SAMPLES = 1000  # of the bootstrap
VERB_STEP = 100_000  # an action is verb * VERB_STEP + noun

Share = dict[str, float]  # percent, low, high


@dataclass(frozen=True)
class Rows:
    """The labelled rows that a question file covers, each with its question."""

    segments: list[Segment]
    questions: list[Question]

    def __len__(self) -> int:
        return len(self.segments)

    def labels(self, target: str) -> np.ndarray:
        """(rows,) int64; an action is a verb and a noun in one number."""
        verb = np.array([segment.verb_class for segment in self.segments], np.int64)
        noun = np.array([segment.noun_class for segment in self.segments], np.int64)
        return {"verb": verb, "noun": noun, "action": pair_up(verb, noun)}[target]

    def texts(self, key: str) -> list[str]:
        """One question of every row: `verb_question` or `noun_question`."""
        return [getattr(question, key) for question in self.questions]

    def half(self, is_train: bool) -> "Rows":
        """The train rows, or all others."""
        chosen = [row for row, segment in enumerate(self.segments) if (segment.split == "train") == is_train]
        return self.take(chosen)

    def take(self, index: Sequence[int]) -> "Rows":
        """Some rows, in the order of `index`."""
        return Rows([self.segments[row] for row in index], [self.questions[row] for row in index])


def pair_up(verb: np.ndarray, noun: np.ndarray) -> np.ndarray:
    """(rows,) int64: verb and noun classes as actions."""
    return verb * VERB_STEP + noun


def most_frequent(train: Rows) -> dict[str, int]:
    """The most frequent train class of each target; the smallest of equals."""
    found = {}
    for target in TARGETS:
        counts = Counter(train.labels(target).tolist())
        found[target] = min(counts, key=lambda label: (-counts[label], label))
    return found


def top1(test: Rows, guesses: Mapping[str, np.ndarray | int]) -> dict[str, Share]:
    """By target: how many of the guesses, (rows,) or one for all rows, are right."""
    return {target: share(np.equal(guesses[target], test.labels(target)), test) for target in TARGETS}


def share(hits: np.ndarray, rows: Rows) -> Share:
    """Percent of hits, (rows,) bool, with its interval."""
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
