"""EK100's measures: top-1 and top-5 accuracy, class-mean recall@5; over all rows, unseen kitchens, tail
classes. In percent.

Actions are verb-noun pairs, ranked by the product of the row's softmaxed verb and noun scores (or by scores
over given pairs). Two recalls share a name in the literature and have two names here:
`{group}_action_mean_class_recall5` is EK100's official one (the pair is among the five best pairs),
`relaxed_action_mean_class_recall5` the easier one of InAViT and of MambaVL's release (the verb among five
verbs *and* the noun among five nouns). An action is tail when its verb or its noun is.

Classes of equal scores stand in no order, so a row counts with the probability that its label is among the
best k when every order of them is equally likely. Any fixed order is worse: EK100's class ids are sorted by
frequency, and a tie that goes to the smaller id goes to the likelier class.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mambavl.cache.scores import log_softmax as log_softmax
from mambavl.cache.scores import marginalize as marginalize  # lives where stage one may import it, too

K = 5
GROUPS = ("all", "unseen", "tail")
TARGETS = ("verb", "noun", "action")


@dataclass(frozen=True)
class Places:
    """Where the labels of N rows stand among their rows' scores."""

    above: np.ndarray  # (N,) classes with a higher score
    tied: np.ndarray  # (N,) classes with the label's score, the label among them

    def among_best(self, k: int) -> np.ndarray:
        """(N,) float64: the probability that the label is among the best k, when classes of equal scores are
        ordered at random. Exactly 0 or 1 unless a tie runs across the border.
        """
        return np.clip((k - self.above) / self.tied, 0.0, 1.0)


def evaluate(
    verb_scores: np.ndarray,
    noun_scores: np.ndarray,
    verb_labels: np.ndarray,
    noun_labels: np.ndarray,
    *,
    unseen: np.ndarray | None = None,
    tail_verbs: Sequence[int] = (),
    tail_nouns: Sequence[int] = (),
    action_scores: np.ndarray | None = None,
    pairs: Sequence[tuple[int, int]] | None = None,
) -> dict[str, float | int | None]:
    """Every measure, by name. Scores are any real numbers (logits or log-probabilities), normalised per row.

    verb_scores (N, verbs), noun_scores (N, nouns), labels (N,), unseen (N,) bool. action_scores (N, pairs)
    ranks the actions in place of the products; `pairs` names its columns. Keys: `{group}_{target}_top1`,
    `_top5`, `_mean_class_recall5`, `_n` (rows), `_classes` (classes present), for group in all, unseen, tail;
    and `relaxed_action_mean_class_recall5`. A measure of no rows is None. `{group}_{target}_ties`, there only
    where it is not 0: the rows that count as a fraction, because their label's score equals another and the
    border of the best 1 or 5 lies between the two.
    Raises ValueError for NaN and infinite scores (-inf, a probability of 0, is fine next to finite ones) and
    for labels that the scores have no column for.
    """
    verb_labels, noun_labels = np.asarray(verb_labels), np.asarray(noun_labels)
    rows = len(verb_labels)
    _check("verb", verb_scores, verb_labels, rows)
    _check("noun", noun_scores, noun_labels, rows)
    places = {"verb": _places(verb_scores, verb_labels), "noun": _places(noun_scores, noun_labels)}
    if action_scores is None:
        places["action"] = _product_places(
            log_softmax(verb_scores), log_softmax(noun_scores), verb_labels, noun_labels
        )
    else:
        places["action"] = _pair_places(action_scores, pairs, verb_labels, noun_labels)
    stride = int(max(noun_labels.max(initial=0), noun_scores.shape[1] - 1)) + 1
    action_labels = verb_labels.astype(np.int64) * stride + noun_labels
    is_tail = {"verb": np.isin(verb_labels, list(tail_verbs)), "noun": np.isin(noun_labels, list(tail_nouns))}
    is_tail["action"] = is_tail["verb"] | is_tail["noun"]
    best1 = {target: places[target].among_best(1) for target in TARGETS}
    best5 = {target: places[target].among_best(K) for target in TARGETS}
    labels = {"verb": verb_labels, "noun": noun_labels, "action": action_labels}
    everything = np.ones(rows, bool)
    unseen = np.zeros(rows, bool) if unseen is None else np.asarray(unseen, bool)
    out: dict[str, float | int | None] = {}
    for group in GROUPS:
        for target in TARGETS:
            mask = {"all": everything, "unseen": unseen, "tail": is_tail[target]}[group]
            top1, top5, label = best1[target][mask], best5[target][mask], labels[target][mask]
            out[f"{group}_{target}_top1"] = _percent(top1)
            out[f"{group}_{target}_top5"] = _percent(top5)
            out[f"{group}_{target}_mean_class_recall5"] = _class_mean(top5, label)
            out[f"{group}_{target}_n"] = int(mask.sum())
            out[f"{group}_{target}_classes"] = len(np.unique(label))
            ties = int((_is_fraction(top1) | _is_fraction(top5)).sum())
            if ties:
                out[f"{group}_{target}_ties"] = ties
    # verbs and nouns tie independently of each other
    out["relaxed_action_mean_class_recall5"] = _class_mean(best5["verb"] * best5["noun"], action_labels)
    return out


def _check(name: str, scores: np.ndarray, labels: np.ndarray, rows: int) -> None:
    if scores.ndim != 2 or len(scores) != rows or len(labels) != rows:
        raise ValueError(
            f"{name}: scores of shape {scores.shape} and {len(labels)} labels do not belong together"
        )
    if rows and not (labels.min() >= 0 and labels.max() < scores.shape[1]):
        raise ValueError(f"{name}: labels reach {labels.max()}, the scores have {scores.shape[1]} columns")
    usable = (scores < np.inf).all(1) & (scores > -np.inf).any(1)  # False for NaN; -inf is a probability of 0
    if not usable.all():
        raise ValueError(
            f"{name}: row {int(np.argmin(usable))} of the scores holds NaN, infinity or nothing but -infinity"
        )


def _places(scores: np.ndarray, labels: np.ndarray) -> Places:
    """The places of the labels (N,) among their rows' scores (N, classes)."""
    own = np.take_along_axis(scores, labels[:, None].astype(np.int64), 1)
    return Places((scores > own).sum(1), (scores == own).sum(1))


def _product_places(
    verbs: np.ndarray, nouns: np.ndarray, verb_labels: np.ndarray, noun_labels: np.ndarray
) -> Places:
    """The places of the labels' pairs among all pairs, from log-probabilities; exact where fewer than K pairs
    are above.

    i * j pairs are at least as good as that of the i-th best verb and the j-th best noun. So whichever pairs
    reach some score, the K + 1 best verbs x K + 1 best nouns hold all of them, or more than K. Rows with
    fewer than K pairs above the label's and more than K at least as good have a tie across the border: for
    those alone every pair is looked at.
    """
    own = (_of_labels(verbs, verb_labels) + _of_labels(nouns, noun_labels))[:, None]
    best = (_best(verbs, K + 1)[:, :, None] + _best(nouns, K + 1)[:, None, :]).reshape(len(verbs), -1)
    above, at_least = (best > own).sum(1), (best >= own).sum(1)
    for row in np.flatnonzero((above < K) & (at_least > K)):
        at_least[row] = (verbs[row][:, None] + nouns[row] >= own[row]).sum()
    return Places(above, np.maximum(at_least - above, 1))


def _pair_places(
    action_scores: np.ndarray,
    pairs: Sequence[tuple[int, int]] | None,
    verb_labels: np.ndarray,
    noun_labels: np.ndarray,
) -> Places:
    """The places of the labels' pairs among the columns; past the K best where the label has no column."""
    if pairs is None or len(pairs) != action_scores.shape[1]:
        raise ValueError(
            f"action_scores has {action_scores.shape[1]} columns; `pairs` must name each of them"
        )
    if not np.isfinite(action_scores).all():
        raise ValueError("action_scores holds values that are not finite")
    column = {(int(verb), int(noun)): i for i, (verb, noun) in enumerate(pairs)}
    found = np.array(
        [column.get((int(v), int(n)), -1) for v, n in zip(verb_labels, noun_labels, strict=True)]
    )
    places = _places(action_scores, np.maximum(found, 0))
    return Places(np.where(found >= 0, places.above, K), places.tied)


def _of_labels(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N, classes), (N,) -> (N,): the score of each row's label."""
    return scores[np.arange(len(scores)), labels]


def _best(scores: np.ndarray, count: int) -> np.ndarray:
    """The `count` highest scores of each row, or all of them where there are fewer."""
    return np.sort(scores, axis=1)[:, -count:]


def _is_fraction(hits: np.ndarray) -> np.ndarray:
    return (hits > 0) & (hits < 1)


def _percent(hits: np.ndarray) -> float | None:
    return 100.0 * float(hits.mean()) if len(hits) else None


def _class_mean(hits: np.ndarray, labels: np.ndarray) -> float | None:
    """The share of hits (N,) within each class that is present, averaged over those classes."""
    if not len(labels):
        return None
    _, index = np.unique(labels, return_inverse=True)
    return 100.0 * float((np.bincount(index, hits) / np.bincount(index)).mean())
