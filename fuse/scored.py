"""A file of scores measured against a list of rows, without the run that wrote it and without a store.

scores file -> ScoresFile     what stands in scores/SPLIT.npz of a run, or in others' files (`score_files`)
ScoresFile, list -> Covered   every measure, and how much of the list it is of
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mambavl.cache.classes import Classes, Target
from mambavl.cache.rows import Segment
from mambavl.cache.scores import checked_ids, checked_scores, log_softmax, sums_over_pairs
from mambavl.configs.errors import DataError
from mambavl.fuse import metrics
from mambavl.fuse.data import in_group
from mambavl.fuse.result import Metrics
from mambavl.fuse.score_files import IDS, Arrays, read_arrays
from mambavl.fuse.targets import Average, Pairs, is_labelled, read_labels

PairsOf = Callable[[str], Pairs]  # name of a derived target -> its combinations, as `pairs_by_text`

LABEL = "_label"


@dataclass(frozen=True, kw_only=True)
class ScoresFile:
    """Scores of N rows by target, and what their columns are."""

    path: Path
    sha256: str
    ids: tuple[str, ...]  # narration_id of each row, each once
    classes: Classes  # of the targets that are there; a derived one with scores of its own lists its pairs
    scores: Mapping[str, np.ndarray]  # target -> (N, classes), of a derived one (N, pairs)
    labels: Mapping[str, np.ndarray]  # target -> what the file says its labels are; often nothing
    unused: tuple[str, ...]  # arrays that are of no target of the list
    views: int = 1  # that were averaged
    supposed: tuple[str, ...] = ()  # derived targets whose columns the file does not name: `pairs_by_text`


@dataclass(frozen=True, kw_only=True)
class Covered:
    """The measures of a file of scores over a list, and how much of the list they are of."""

    scores: Path
    sha256: str
    split: str
    listed: int  # rows of the list
    scored: int  # of these, in the file
    missing: tuple[str, ...]  # rows of the list that the file lacks: they are not measured
    unlisted: tuple[str, ...]  # rows of the file that the list lacks: they are not measured either
    relabelled: Mapping[str, tuple[str, ...]]  # target -> rows whose labels the file has otherwise
    unused: tuple[str, ...]  # arrays of the file that are of no target
    views: int  # of each row, that were averaged
    supposed: tuple[str, ...]  # derived targets whose columns were taken for those of `pairs_by_text`
    targets: tuple[str, ...]
    groups: tuple[str, ...]  # groups of rows or classes that are measured apart, `all` first
    metrics: Metrics

    def to_dict(self) -> dict[str, Any]:
        return {
            "scores": str(self.scores),
            "sha256": self.sha256,
            "split": self.split,
            "rows": {"listed": self.listed, "scored": self.scored},
            "missing": list(self.missing),
            "unlisted": list(self.unlisted),
            "relabelled": {name: list(rows) for name, rows in self.relabelled.items()},
            "unused": list(self.unused),
            "views": self.views,
            "supposed": list(self.supposed),
            "targets": list(self.targets),
            "metrics": self.metrics,
        }


def read_scores_file(
    path: Path,
    classes: Classes,
    *,
    pairs_of: PairsOf | None = None,
    average: Average = "probabilities",
) -> ScoresFile:
    """Read what a run wrote, or somebody else. classes: those of the list that it is to be measured against.

    A derived target has scores of its own with `pairs` (TARGET_pairs but for action), or where those are not
    there, as many columns as `pairs_of` gives it pairs; its parts are then sums over them where they
    have no scores themselves. Scores (N, V, C) are of V views, whose probabilities are averaged, or their
    scores as they are. Raises DataError, naming array and row, for a file that cannot be read, holds no
    target of the list, columns for another number of classes, NaN, infinity, or an id twice.
    """
    path = Path(path)
    sha256, arrays = read_arrays(path)
    if IDS not in arrays:
        raise DataError(f"{path}: holds {', '.join(arrays) or 'nothing'}, and no {IDS} to tell rows by")
    ids = checked_ids(path, arrays[IDS])
    arrays, views = _averaged(path, arrays, classes, ids, average)
    scores, pairs, supposed = {}, {}, []
    for name, target in classes.targets.items():
        if name in arrays:
            scores[name] = checked_scores(path, name, arrays[name], ids, target.count)
    for name, one in classes.derived.items():
        key = "pairs" if name == "action" else f"{name}_pairs"
        if name in arrays:
            if key in arrays:
                pairs[name] = _pairs(path, key, arrays[key], [classes.targets[part] for part in one.of])
            else:
                pairs[name] = _pairs_by_number(path, name, key, arrays[name].shape[-1], pairs_of)
                supposed.append(name)
            scores[name] = checked_scores(path, name, arrays[name], ids, len(pairs[name]))
            if not np.isfinite(scores[name]).all():
                raise DataError(
                    f"{path}: {name} holds -infinity; a combination without a chance has no column"
                )
            scores |= _parts(scores, name, pairs[name], one.of, classes)
    targets = {name: target for name, target in classes.targets.items() if name in scores}
    derived = {
        name: replace(one, pairs=pairs.get(name))
        for name, one in classes.derived.items()
        if all(part in targets for part in one.of)
    }
    if not targets:
        raise DataError(
            f"{path}: holds {', '.join(arrays)}, and scores of none of the list's targets: "
            f"{', '.join(classes.names)}"
        )
    known = {IDS, *scores, *(f"{name}{LABEL}" for name in targets), "pairs"}
    known |= {f"{name}_pairs" for name in derived}
    return ScoresFile(
        path=path,
        sha256=sha256,
        ids=ids,
        classes=replace(classes, targets=targets, derived=derived),
        scores=scores,
        labels={name: arrays[f"{name}{LABEL}"] for name in targets if f"{name}{LABEL}" in arrays},
        unused=tuple(key for key in arrays if key not in known),
        views=views,
        supposed=tuple(supposed),
    )


def pairs_by_text(segments: Iterable[Segment], parts: Sequence[str]) -> Pairs:
    """The combinations that some rows have, in the order of "verb:noun" as a text: the columns of LaViLa's,
    AVION's and RULSTM's 3,806 actions, from the rows of EK100's train and validation lists.
    """
    found = set[tuple[int, ...]]()
    for row in segments:
        labels = [row.labels.get(part) for part in parts]
        numbers = tuple(label for label in labels if isinstance(label, int))
        if len(numbers) == len(parts):
            found.add(numbers)
    return tuple(sorted(found, key=lambda pair: ":".join(map(str, pair))))


def measure_scores(file: ScoresFile, segments: Sequence[Segment], split: str) -> Covered:
    """Every measure over the rows of `segments`, the list of a split, that the file has, in the list's order.

    Raises DataError where the list has no labels, and where the file has none of its rows.
    """
    place = {name: number for number, name in enumerate(file.ids)}
    there = tuple(segment for segment in segments if segment.narration_id in place)
    if not there:
        raise DataError(
            f"{file.path}: has {len(file.ids):,} rows ({file.ids[0] if file.ids else 'none'}, ...) and none "
            f"of the {len(segments):,} rows of {split}; --split says which list they are of"
        )
    labels = read_labels(there, file.classes)
    if not any(is_labelled(one).any() for one in labels.values()):
        raise DataError(f"the list of {split} has no labels, so nothing can be measured against it")
    listed = {segment.narration_id for segment in segments}
    rows = np.array([place[segment.narration_id] for segment in there])
    relabelled = {}
    for name, own in file.labels.items():
        differs = _differs(own[rows], labels[name]) if len(own) == len(file.ids) else np.ones(len(rows), bool)
        if differs.any():
            relabelled[name] = tuple(there[row].narration_id for row in np.flatnonzero(differs))
    groups = {name: in_group(there, group) for name, group in file.classes.groups.items()}
    measured = metrics.measure(
        file.classes, {name: one[rows] for name, one in file.scores.items()}, labels, groups
    )
    return Covered(
        scores=file.path,
        sha256=file.sha256,
        split=split,
        listed=len(segments),
        scored=len(there),
        missing=tuple(one.narration_id for one in segments if one.narration_id not in place),
        unlisted=tuple(name for name in file.ids if name not in listed),
        relabelled=relabelled,
        unused=file.unused,
        views=file.views,
        supposed=file.supposed,
        targets=file.classes.names,
        groups=file.classes.group_names,
        metrics=measured,
    )


def _differs(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(rows,) bool; the labels of a row are a class, or 0 or 1 for each class."""
    if one.shape != other.shape:
        return np.ones(len(other), bool)
    return (one != other).reshape(len(other), -1).any(1)


def _averaged(
    path: Path, arrays: Arrays, classes: Classes, ids: tuple[str, ...], average: Average
) -> tuple[Arrays, int]:
    """With the scores of several views as one, and how many views there were."""
    found, views = dict(arrays), {}
    for name in (*classes.targets, *classes.derived):
        if name not in arrays or arrays[name].ndim != 3:
            continue
        rows, views[name], columns = arrays[name].shape
        if name in classes.targets and classes.targets[name].kind != "single":
            raise DataError(
                f"{path}: {name}: views of targets of several classes a row are not averaged here"
            )
        flat = (rows * views[name], columns)
        each = checked_scores(
            path, name, arrays[name].reshape(flat), tuple(np.repeat(ids, views[name])), columns
        )
        if average == "probabilities":
            each = np.exp(log_softmax(each))
        mean = each.reshape(arrays[name].shape).mean(1)
        with np.errstate(divide="ignore"):  # a probability of 0
            found[name] = np.log(mean) if average == "probabilities" else mean
    if len(set(views.values())) > 1:
        raise DataError(f"{path}: targets have other numbers of views: {views}")
    return found, next(iter(views.values()), 1)


def _pairs_by_number(path: Path, name: str, key: str, columns: int, pairs_of: PairsOf | None) -> Pairs:
    known = pairs_of(name) if pairs_of else ()
    if not known or len(known) != columns:
        other = f", nor are they the {len(known):,} of the lists" if known else ""
        raise DataError(
            f"{path}: {name} has {columns:,} columns and no `{key}` that says what they are{other}; add it, "
            "(columns, parts) classes"
        )
    return known


def _pairs(path: Path, key: str, pairs: np.ndarray, parts: list[Target]) -> Pairs:
    if pairs.dtype.kind not in "iu" or pairs.ndim != 2 or pairs.shape[1] != len(parts) or not len(pairs):
        raise DataError(
            f"{path}: {key} is {pairs.dtype} of shape {pairs.shape}; it is {len(parts)} classes a column"
        )
    found = tuple(tuple(pair) for pair in pairs.tolist())
    for pair in found:
        if not all(number in part.ids for number, part in zip(pair, parts, strict=True)):
            raise DataError(f"{path}: {key} names {list(pair)}, which are no classes of the list")
    if len(set(found)) < len(found):
        raise DataError(f"{path}: {key} names a combination twice")
    return found


def _parts(
    scores: Mapping[str, np.ndarray],
    name: str,
    pairs: Pairs,
    parts: Sequence[str],
    classes: Classes,
) -> dict[str, np.ndarray]:
    """The parts of a derived target that have no scores, as sums over its pairs."""
    missing = [part for part in parts if part not in scores]
    if not missing:
        return {}
    sums = sums_over_pairs(scores[name], pairs, [classes.targets[part].count for part in parts])
    with np.errstate(divide="ignore"):  # a class without a pair has probability 0
        return {
            part: np.log(one).astype(np.float32)
            for part, one in zip(parts, sums, strict=True)
            if part in missing
        }
