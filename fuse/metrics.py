"""EK100's measures: top-1 and top-5 accuracy, class-mean recall@5; over all rows, unseen kitchens, tail
classes. In percent.

Actions are verb-noun pairs, ranked by the product of the row's softmaxed verb and noun scores (or by scores
over given pairs). Two recalls share a name in the literature and have two names here:
`{group}_action_mean_class_recall5` is EK100's official one (the pair is among the five best pairs),
`relaxed_action_mean_class_recall5` the easier one of InAViT and of MambaVL's release (the verb among five
verbs *and* the noun among five nouns). An action is tail when its verb or its noun is.
"""

from collections.abc import Sequence

import numpy as np

from mambavl.cache.scores import log_softmax as log_softmax
from mambavl.cache.scores import marginalize as marginalize  # lives where stage one may import it, too

K = 5
GROUPS = ("all", "unseen", "tail")
TARGETS = ("verb", "noun", "action")


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
    and `relaxed_action_mean_class_recall5`. A measure of no rows is None. Equal scores rank by class id.
    Raises ValueError for NaN and infinite scores (-inf, a probability of 0, is fine next to finite ones) and
    for labels that the scores have no column for.
    """
    verb_labels, noun_labels = np.asarray(verb_labels), np.asarray(noun_labels)
    rows = len(verb_labels)
    _check("verb", verb_scores, verb_labels, rows)
    _check("noun", noun_scores, noun_labels, rows)
    verb_rank, noun_rank = _rank(verb_scores, verb_labels), _rank(noun_scores, noun_labels)
    if action_scores is None:
        action_rank = _product_rank(
            log_softmax(verb_scores), log_softmax(noun_scores), verb_labels, noun_labels
        )
    else:
        action_rank = _pair_rank(action_scores, pairs, verb_labels, noun_labels)
    stride = int(max(noun_labels.max(initial=0), noun_scores.shape[1] - 1)) + 1
    action_labels = verb_labels.astype(np.int64) * stride + noun_labels
    is_tail = {"verb": np.isin(verb_labels, list(tail_verbs)), "noun": np.isin(noun_labels, list(tail_nouns))}
    is_tail["action"] = is_tail["verb"] | is_tail["noun"]
    ranks = {"verb": verb_rank, "noun": noun_rank, "action": action_rank}
    labels = {"verb": verb_labels, "noun": noun_labels, "action": action_labels}
    everything = np.ones(rows, bool)
    unseen = np.zeros(rows, bool) if unseen is None else np.asarray(unseen, bool)
    out: dict[str, float | int | None] = {}
    for group in GROUPS:
        for target in TARGETS:
            mask = {"all": everything, "unseen": unseen, "tail": is_tail[target]}[group]
            rank, label = ranks[target][mask], labels[target][mask]
            out[f"{group}_{target}_top1"] = _percent(rank < 1)
            out[f"{group}_{target}_top5"] = _percent(rank < K)
            out[f"{group}_{target}_mean_class_recall5"] = _class_mean(rank < K, label)
            out[f"{group}_{target}_n"] = int(mask.sum())
            out[f"{group}_{target}_classes"] = len(np.unique(label))
    out["relaxed_action_mean_class_recall5"] = _class_mean((verb_rank < K) & (noun_rank < K), action_labels)
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


def _rank(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N,) place of the label among its row's scores, 0 = best; equal scores stand in order of class id."""
    own = np.take_along_axis(scores, labels[:, None].astype(np.int64), 1)
    before = np.arange(scores.shape[1]) < labels[:, None]
    return ((scores > own) | ((scores == own) & before)).sum(1)


def _product_rank(
    verbs: np.ndarray, nouns: np.ndarray, verb_labels: np.ndarray, noun_labels: np.ndarray
) -> np.ndarray:
    """(N,) place of the label's pair among all pairs, exact up to K: those lie within the K best verbs x K
    best nouns.
    """
    rows = np.arange(len(verbs))[:, None]
    best_verbs = np.argsort(-verbs, axis=1, kind="stable")[:, :K]
    best_nouns = np.argsort(-nouns, axis=1, kind="stable")[:, :K]
    scores = (verbs[rows, best_verbs][:, :, None] + nouns[rows, best_nouns][:, None, :]).reshape(
        len(verbs), -1
    )
    pair_verbs = np.repeat(best_verbs, best_nouns.shape[1], axis=1)
    pair_nouns = np.tile(best_nouns, (1, best_verbs.shape[1]))
    order = np.lexsort((pair_nouns, pair_verbs, -scores), axis=1)[:, :K]
    hits = (pair_verbs[rows, order] == verb_labels[:, None]) & (
        pair_nouns[rows, order] == noun_labels[:, None]
    )
    return np.where(hits.any(1), hits.argmax(1), K)


def _pair_rank(
    action_scores: np.ndarray,
    pairs: Sequence[tuple[int, int]] | None,
    verb_labels: np.ndarray,
    noun_labels: np.ndarray,
) -> np.ndarray:
    """(N,) place of the label's pair among the columns; past the last one where the label has no column."""
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
    rank = _rank(action_scores, np.maximum(found, 0))
    return np.where(found >= 0, rank, action_scores.shape[1])


def _percent(hits: np.ndarray) -> float | None:
    return 100.0 * float(hits.mean()) if len(hits) else None


def _class_mean(hits: np.ndarray, labels: np.ndarray) -> float | None:
    """The share of hits within each class that is present, averaged over those classes."""
    if not len(labels):
        return None
    _, index = np.unique(labels, return_inverse=True)
    return 100.0 * float((np.bincount(index, hits) / np.bincount(index)).mean())
