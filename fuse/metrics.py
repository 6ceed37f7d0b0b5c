"""Measures by target: top-1, top-5 and class-mean recall@5 of single-label targets, mAP of multi-label ones;
over all rows and over groups of rows (unseen kitchens) or of classes (tail). In percent.

A derived target is ranked by the product of its parts' softmaxed scores, or by scores over given
combinations: EK100's action is a verb-noun pair. Two recalls share a name in the literature and have two
names here: `{group}_action_mean_class_recall5` is EK100's official one (the pair is among the five best
pairs), `relaxed_action_mean_class_recall5` the easier one of InAViT and of MambaVL's release (the verb among
five verbs *and* the noun among five nouns). A pair is tail when one of its parts is.

Classes of equal scores stand in no order, so a row counts with the probability that its label is among the
best k when every order of them is equally likely. Any fixed order is worse: EK100's class ids are sorted by
frequency, and a tie that goes to the smaller id goes to the likelier class.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mambavl.cache.classes import ALL, Classes, Derived, Target, verb_noun_classes
from mambavl.cache.scores import log_softmax as log_softmax
from mambavl.cache.scores import marginalize as marginalize  # lives where stage one may import it, too

K = 5
RECALL5 = "mean_class_recall5"  # the official measure of anticipation
Measures = dict[str, float | int | None]


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
) -> Measures:
    """`measure` for EK100's targets.

    verb_scores (N, verbs), noun_scores (N, nouns), labels (N,), unseen (N,) bool. action_scores (N, pairs)
    ranks the actions in place of the products; `pairs` names its columns. Keys and errors are those of
    `measure`, for group in all, unseen, tail and target in verb, noun, action; a label below 0 is an error.
    """
    classes = verb_noun_classes(
        {},
        {},
        num_verbs=verb_scores.shape[-1],
        num_nouns=noun_scores.shape[-1],
        tail_verbs=tail_verbs,
        tail_nouns=tail_nouns,
    )
    scores = {"verb": verb_scores, "noun": noun_scores}
    labels = {"verb": np.asarray(verb_labels), "noun": np.asarray(noun_labels)}
    for target, found in labels.items():
        if len(found) and found.min() < 0:
            raise ValueError(f"{target}: row {int(np.argmin(found))} has label {found.min()}")
    if action_scores is not None:
        if pairs is None or len(pairs) != action_scores.shape[1]:
            raise ValueError(
                f"action_scores has {action_scores.shape[1]} columns; `pairs` must name each of them"
            )
        scores["action"] = action_scores
        action = Derived(("verb", "noun"), tuple((int(verb), int(noun)) for verb, noun in pairs))
        classes = replace(classes, derived={"action": action})
    rows = np.zeros(len(labels["verb"]), bool) if unseen is None else np.asarray(unseen, bool)
    return measure(classes, scores, labels, {"unseen": rows})


def measure(
    classes: Classes,
    scores: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    groups: Mapping[str, np.ndarray],
) -> Measures:
    """Every measure, by name. Scores are any real numbers (logits or log-probabilities); those of
    single-label targets are normalised per row.

    scores: target -> (N, classes); of a derived target with pairs (N, pairs). labels: single-label target ->
    (N,) class, -1 where a row has none; multi-label -> (N, classes) 0 or 1, or -1 all along such a row.
    groups: group of rows -> (N,) bool. Rows without the label of a target do not count for it; a derived one
    needs those of all its parts.

    Keys, for each group (all, those of rows, those of classes) and target: `{group}_{target}_n` (rows),
    `_classes` (classes present) and, single-label, `_top1`, `_top5`, `_mean_class_recall5`; multi-label,
    `_map` (average precision, averaged over the classes that are present). `relaxed_{derived}_...` as above.
    A measure of no rows is None, and a group of classes has no keys for a target that does not name it.
    `{group}_{target}_ties`, there only where it is not 0: the rows that count as a fraction, because their
    label's score equals another and the border of the best 1 or 5 lies between the two.
    Raises ValueError for NaN and infinite scores (-inf, a probability of 0, is fine next to finite ones) and
    for labels that the scores have no column for.
    """
    counts = {name: len(labels[name]) for name in classes.targets}
    if len(set(counts.values())) > 1:
        raise ValueError(f"the targets have labels for different numbers of rows: {counts}")
    places: dict[str, Ranked] = {}
    for name, target in classes.targets.items():
        _check(name, scores[name], labels[name], target)
        if target.kind == "single":
            places[name] = ranked(name, classes, scores, labels)
    for name in classes.derived:
        places[name] = ranked(name, classes, scores, labels)
    out: Measures = {}
    for group in classes.group_names:
        for name in classes.names:
            found = {}
            if name in places:
                rows = places[name].in_group(group, groups)
                found = {} if rows is None else places[name].measures(rows)
            else:
                found = _measure_multi(classes.targets[name], scores[name], labels[name], group, groups)
            out |= {f"{group}_{name}_{key}": value for key, value in found.items()}
    for name, derived in classes.derived.items():
        out[f"relaxed_{name}_mean_class_recall5"] = _relaxed_recall(
            places[name], [places[p] for p in derived.of]
        )
    return out


def ranked_target(rank_by: str) -> str:
    """The target of a recipe's `rank_by`, which may name the measure, too: `action_mean_class_recall5`."""
    return rank_by.removesuffix(f"_{RECALL5}")


def mean_class_recall5(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Of scores (N, columns) and labels (N,), columns: `measure`'s for one target, in percent; None of no
    rows.
    """
    return class_mean(_places(scores, labels).among_best(K), labels)


def ranked(
    name: str, classes: Classes, scores: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray]
) -> "Ranked":
    """How the labels of one target are ranked, row by row; of one that has one label a row."""
    if name in classes.derived:
        return _rank_derived(name, classes, scores, labels)
    return _rank_single(classes.targets[name], scores[name], labels[name])


@dataclass(frozen=True)
class Ranked:
    """The n labelled rows of a single-label or derived target, and how well their labels are ranked."""

    rows: np.ndarray  # (n,) of all rows
    label: np.ndarray  # (n,) a number for each class
    best1: np.ndarray  # (n,) Places.among_best(1)
    best5: np.ndarray
    sets: Mapping[str, np.ndarray]  # group of classes -> (n,) bool

    def in_group(self, group: str, groups: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """(n,) bool; None where the group does not concern this target."""
        if group == ALL:
            return np.ones(len(self.rows), bool)
        if group in groups:
            return np.asarray(groups[group], bool)[self.rows]
        return self.sets.get(group)

    def measures(self, mask: np.ndarray) -> Measures:
        top1, top5, label = self.best1[mask], self.best5[mask], self.label[mask]
        found: Measures = {
            "top1": _percent(top1),
            "top5": _percent(top5),
            "mean_class_recall5": class_mean(top5, label),
            "n": int(mask.sum()),
            "classes": len(np.unique(label)),
        }
        ties = int((_is_fraction(top1) | _is_fraction(top5)).sum())
        return found | ({"ties": ties} if ties else {})


def _rank_single(target: Target, scores: np.ndarray, labels: np.ndarray) -> Ranked:
    rows = np.flatnonzero(labels >= 0)
    places = _places(scores[rows], labels[rows])
    sets = {name: np.isin(labels[rows], list(ids)) for name, ids in target.sets.items()}
    return Ranked(rows, labels[rows], places.among_best(1), places.among_best(K), sets)


def _rank_derived(
    name: str, classes: Classes, scores: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray]
) -> Ranked:
    """By its scores over pairs, if it has any; else by the products of its parts'."""
    derived = classes.derived[name]
    rows = np.flatnonzero(np.all([labels[part] >= 0 for part in derived.of], axis=0))
    parts = [labels[part][rows].astype(np.int64) for part in derived.of]
    if name not in scores:
        places = _product_places([log_softmax(scores[part][rows]) for part in derived.of], parts)
    else:
        places = _pair_places(name, scores[name][rows], derived.pairs or (), parts)
    number = np.zeros(len(rows), np.int64)
    sets: dict[str, np.ndarray] = {}
    for part, label in zip(derived.of, parts, strict=True):
        number = number * classes.targets[part].count + label
        for group, ids in classes.targets[part].sets.items():
            sets[group] = sets.get(group, False) | np.isin(label, list(ids))
    return Ranked(rows, number, places.among_best(1), places.among_best(K), sets)


def _relaxed_recall(derived: Ranked, parts: list[Ranked]) -> float | None:
    """Each part among its own best: their ranks tie independently of each other."""
    hits = np.ones(len(derived.rows))
    for part in parts:
        hits = hits * part.best5[np.searchsorted(part.rows, derived.rows)]
    return class_mean(hits, derived.label)


def _measure_multi(
    target: Target,
    scores: np.ndarray,
    labels: np.ndarray,
    group: str,
    groups: Mapping[str, np.ndarray],
) -> Measures:
    """Of a multi-label target; empty where the group does not concern it."""
    rows, columns = labels[:, 0] >= 0, np.arange(target.count)
    if group in groups:
        rows = rows & np.asarray(groups[group], bool)
    elif group in target.sets:
        columns = np.array(sorted(target.sets[group]), np.int64)
    elif group != ALL:
        return {}
    known, found = labels[rows][:, columns] > 0, scores[rows][:, columns]
    present = np.flatnonzero(known.any(0))
    precisions = [average_precision(found[:, column], known[:, column]) for column in present]
    return {
        "map": 100.0 * float(np.mean(precisions)) if precisions else None,
        "n": int(rows.sum()),
        "classes": len(present),
    }


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """(N,), (N,) bool with at least one True -> the area under the steps of precision over recall, from 0 to
    1. Rows of equal scores are one step, so their order does not count.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # last row of each score
    hits = np.cumsum(labels[order])[ends]
    gained = np.diff(hits, prepend=0)
    return float((gained * hits / (ends + 1)).sum() / hits[-1])


def _check(name: str, scores: np.ndarray, labels: np.ndarray, target: Target) -> None:
    is_single = target.kind == "single"
    if scores.ndim != 2 or len(scores) != len(labels) or labels.ndim != (1 if is_single else 2):
        raise ValueError(
            f"{name}: scores of shape {scores.shape} and labels of shape {labels.shape} do not belong "
            "together"
        )
    if is_single and len(labels) and labels.max() >= scores.shape[1]:
        raise ValueError(f"{name}: labels reach {labels.max()}, the scores have {scores.shape[1]} columns")
    if not is_single and labels.shape != scores.shape:
        raise ValueError(f"{name}: the scores have {scores.shape[1]} columns, the labels {labels.shape[1]}")
    usable = (scores < np.inf).all(1) & (scores > -np.inf).any(1)  # False for NaN; -inf is a probability of 0
    if not usable.all():
        raise ValueError(
            f"{name}: row {int(np.argmin(usable))} of the scores holds NaN, infinity or nothing but -infinity"
        )


def _places(scores: np.ndarray, labels: np.ndarray) -> Places:
    """The places of the labels (N,) among their rows' scores (N, classes)."""
    own = np.take_along_axis(scores, labels[:, None].astype(np.int64), 1)
    return Places((scores > own).sum(1), (scores == own).sum(1))


def _product_places(logs: list[np.ndarray], labels: list[np.ndarray]) -> Places:
    """The places of the labels' combinations among all combinations, from log-probabilities (N, classes) and
    labels (N,) of each part; exact where fewer than K combinations are above.

    i * j pairs are at least as good as that of the i-th best verb and the j-th best noun. So whichever pairs
    reach some score, the K + 1 best verbs x K + 1 best nouns hold all of them, or more than K. Rows with
    fewer than K pairs above the label's and more than K at least as good have a tie across the border: for
    those alone every pair is looked at.
    """
    parts = zip(logs, labels, strict=True)
    own = functools.reduce(np.add, [_of_labels(scores, label) for scores, label in parts])[:, None]
    best = functools.reduce(_every_sum, [_best(scores, K + 1) for scores in logs])
    above, at_least = (best > own).sum(1), (best >= own).sum(1)
    for row in np.flatnonzero((above < K) & (at_least > K)):
        every = functools.reduce(np.add.outer, [scores[row] for scores in logs])
        at_least[row] = (every >= own[row]).sum()
    return Places(above, np.maximum(at_least - above, 1))


def _every_sum(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(N, A), (N, B) -> (N, A * B)."""
    return (one[:, :, None] + other[:, None, :]).reshape(len(one), one.shape[1] * other.shape[1])


def _pair_places(
    name: str, scores: np.ndarray, pairs: Sequence[tuple[int, ...]], labels: list[np.ndarray]
) -> Places:
    """The places of the labels' combinations among the columns; past the K best where they have none."""
    if len(pairs) != scores.shape[1]:
        raise ValueError(f"{name}: the scores have {scores.shape[1]} columns, {len(pairs)} pairs are named")
    if not np.isfinite(scores).all():
        raise ValueError(f"{name}: the scores hold values that are not finite")
    column = {pair: i for i, pair in enumerate(pairs)}
    rows = zip(*(label.tolist() for label in labels), strict=True)
    found = np.array([column.get(row, -1) for row in rows], np.int64)
    places = _places(scores, np.maximum(found, 0))
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


def class_mean(hits: np.ndarray, labels: np.ndarray) -> float | None:
    """The share of hits (N,) within each class that is present, averaged over those classes."""
    if not len(labels):
        return None
    _, index = np.unique(labels, return_inverse=True)
    return 100.0 * float((np.bincount(index, hits) / np.bincount(index)).mean())
