"""Scores of several runs as one: the arithmetic, on arrays.

    loglinear    score(c) = sum_i w_i (log p_i(c) - e log prior_i(c)),   w_i >= 0, sum_i w_i = 1
    mean         score(c) = log sum_i w_i p_i(c)
    confidence   score(c) = log sum_i w_i m_i p_i(c),   m_i = max_c p_i(c), of the row
    rrf          score(c) = log sum_i w_i / (60 + rank_i(c)), rank 1 the best: reciprocal rank fusion of
                 Cormack, Clarke and Buettcher (SIGIR 2009), with their 60

less, but for `mean`, a number for each row, so that its probabilities sum to 1. p_i(c) is what run i thinks
of class c of some row, prior_i(c) the share of c among the labels that run i was trained on. Runs that were
trained on the same rows have one prior, and the first line is then sum_i w_i log p_i - e log prior. An
exponent e above 0 favours rare classes, as class-mean recall does. w and e are each target's own; `choose`
tries them all on rows that no run was trained on. All rules are weighted sums of what each run says by
itself, its `votes`.

N rows, C columns of a target. Arrays of log-probabilities are float32, as files of scores hold them, and -inf
is a probability of 0.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mambavl.cache.scores import log_softmax
from mambavl.fuse.metrics import K, Places, class_mean

Rule = Literal["loglinear", "mean", "confidence", "rrf"]

STEPS = 10  # weights are tenths
EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of loglinear
RANKS = 60  # k of reciprocal rank fusion: how much less the second place is worth than the first
AT_ONCE = 128  # rows: 3,806 columns of them, 2 MB, stay in a core's cache while all candidates are tried


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was chosen for a target, and by what."""

    weights: tuple[float, ...]  # of the runs, in their order
    exponent: float
    recall5: float  # class-mean recall@5 on the rows it was chosen on, in percent
    among: int  # candidates
    equal: int  # candidates with that recall, itself among them; it is the first of them
    rows: int  # with a label of the target


def simplex(runs: int, steps: int = STEPS) -> list[tuple[float, ...]]:
    """All weights of some runs that are multiples of 1 / steps and sum to 1: the larger the first run's, the
    earlier, then by the second's.
    """
    return [tuple(share / steps for share in shares) for shares in _shares(runs, steps)]


def _shares(runs: int, whole: int) -> Iterator[tuple[int, ...]]:
    if runs == 1:
        yield (whole,)
        return
    for first in range(whole, -1, -1):
        for rest in _shares(runs - 1, whole - first):
            yield (first, *rest)


def loglinear(
    logs: Sequence[np.ndarray], priors: Sequence[np.ndarray], weights: Sequence[float], exponent: float
) -> np.ndarray:
    """The mixture of several runs as log-probabilities (N, C): softmax of `score`.

    logs: (N, C) of each run; priors: (C,) logarithms, of each run.
    """
    found = np.empty_like(logs[0], np.float32)
    prior = weighted(priors, weights)
    for part in _parts(len(found)):
        found[part] = log_softmax(weighted([one[part] for one in logs], weights) - exponent * prior)
    return found


def mean(logs: Sequence[np.ndarray], weights: Sequence[float] | None = None) -> np.ndarray:
    """Logarithms (N, C) of the mean of several runs' probabilities; without weights of each run alike."""
    weights = weights or [1 / len(logs)] * len(logs)
    found = np.empty_like(logs[0], np.float32)
    with np.errstate(divide="ignore"):  # a run of weight 0 has no say
        shares = [np.log(weight) for weight in weights]
    for part in _parts(len(found)):
        each = (one[part].astype(np.float64) + share for one, share in zip(logs, shares, strict=True))
        found[part] = functools.reduce(np.logaddexp, each)
    return found


def summed(logs: Sequence[np.ndarray], rule: Rule, weights: Sequence[float]) -> np.ndarray:
    """The mixture by `confidence` or `rrf`, as log-probabilities (N, C) of classes of which a row has one."""
    found = np.empty_like(logs[0], np.float32)
    for part in _parts(len(found)):
        said = weighted([votes(rule, one[part].astype(np.float64)) for one in logs], weights)
        with np.errstate(divide="ignore"):  # the logarithm of a probability of 0
            found[part] = np.log(said / said.sum(1, keepdims=True))
    return found


def votes(rule: Rule, logs: np.ndarray) -> np.ndarray:
    """What a run says of each class by itself, (N, C); the mixture goes by the weighted sum of it."""
    if rule == "loglinear":
        return logs
    if rule == "rrf":
        return 1 / (RANKS + ranks(logs))
    p = np.exp(logs)
    return p * p.max(1, keepdims=True) if rule == "confidence" else p


def ranks(scores: np.ndarray) -> np.ndarray:
    """(N, C) place of each column in its row, 1 the highest; equal ones share the mean of their places."""
    ordered = np.sort(scores, 1)
    sides = [
        np.stack([np.searchsorted(row, own, side) for row, own in zip(ordered, scores, strict=True)])
        for side in ("left", "right")
    ]
    return scores.shape[1] - (sides[0] + sides[1] - 1) / 2


def weighted(values: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """sum_i w_i values_i. A run of weight 0 has no say, not even where its probability is 0: 0 log 0 = 0."""
    return functools.reduce(
        np.add, [np.float32(w) * one for w, one in zip(weights, values, strict=True) if w]
    )


def without_exponent(
    scores: np.ndarray, prior: np.ndarray, exponent: float, by_prior: np.ndarray
) -> np.ndarray:
    """log p (N, C) of scores (N, C) that are log p - exponent log prior, less a number for each row.

    prior: (C,) logarithms. by_prior: (N,) bool, rows without features, whose scores are the prior itself; no
    exponent has touched them, and they are it in full, whatever number format they were kept in.
    """
    found = scores.astype(np.float32)
    found[by_prior] = prior
    if not exponent:
        return found
    for part in _parts(len(found)):
        rows = np.flatnonzero(~by_prior[part]) + part.start
        found[rows] = log_softmax(found[rows] + exponent * prior)
    return found


def choose(
    logs: Sequence[np.ndarray],
    priors: Sequence[np.ndarray],
    columns: np.ndarray,
    classes: np.ndarray,
    rule: Rule = "loglinear",
) -> Choice:
    """The weights and, of loglinear, the exponent with the best class-mean recall@5; of equals the first, by
    `simplex` and then by `EXPONENTS`, so that the first run alone wins where nothing is better.

    logs, priors: as of `loglinear`. columns: (N,) the column of each row's label, -1 where none has it;
    classes: (N,) a number for each class, whether it has a column or not. N is above 0.
    """
    weights = simplex(len(logs))
    exponents = EXPONENTS if rule == "loglinear" else (0.0,)
    found = recalls(logs, priors, columns, classes, weights, exponents, rule)
    best, power = np.unravel_index(np.argmax(found), found.shape)
    return Choice(
        weights=weights[best],
        exponent=exponents[power],
        recall5=float(found[best, power]),
        among=found.size,
        equal=int((found == found[best, power]).sum()),
        rows=len(columns),
    )


def recalls(
    logs: Sequence[np.ndarray],
    priors: Sequence[np.ndarray],
    columns: np.ndarray,
    classes: np.ndarray,
    weights: Sequence[Sequence[float]],
    exponents: Sequence[float],
    rule: Rule = "loglinear",
) -> np.ndarray:
    """Class-mean recall@5 in percent, (weights, exponents), of every mixture; see `choose`.

    Nothing is sorted: of each row it is counted how many columns lie above its label's, and how many tie.
    """
    above = np.empty((len(weights), len(exponents), len(columns)), np.int32)
    tied = np.empty_like(above)
    for part in _parts(len(columns)):
        blocks, labels = [votes(rule, one[part]) for one in logs], np.maximum(columns[part], 0)[:, None]
        for w, shares in enumerate(weights):
            mixed, prior = weighted(blocks, shares), weighted(priors, shares)
            for e, exponent in enumerate(exponents):
                scores = mixed - np.float32(exponent) * prior
                own = np.take_along_axis(scores, labels, 1)
                above[w, e, part] = np.count_nonzero(scores > own, axis=1)
                tied[w, e, part] = np.count_nonzero(scores == own, axis=1)
    found = np.empty(above.shape[:2])
    for at in np.ndindex(found.shape):
        hits = np.where(columns >= 0, Places(above[at], tied[at]).among_best(K), 0.0)
        found[at] = class_mean(hits, classes)
    return found


def _parts(rows: int) -> Iterator[slice]:
    for first in range(0, rows, AT_ONCE):
        yield slice(first, min(first + AT_ONCE, rows))
