"""The targets of a run: what the rows are labelled with, and what the recipe trains of it.

    stores' classes, recipe -> RunTargets: classifiers (target -> columns), labels, losses, measures

A derived target (action = verb x noun) has no classifier and no loss unless the recipe ranks it by `pairs`:
then it has a column for each combination that training rows show, and parts that have no classifier
themselves are sums over their pairs.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mambavl.cache.classes import Classes
from mambavl.cache.rows import Segment
from mambavl.cache.scores import sums_over_pairs
from mambavl.configs import Config
from mambavl.configs.errors import DataError, UsageError, did_you_mean

Labels = Mapping[str, np.ndarray]  # target -> (rows,) classes, or (rows, classes) 0 or 1; -1: no label
Average = Literal["probabilities", "logits"]  # of several views: what their mean is taken of
Pairs = tuple[tuple[int, ...], ...]  # combinations of classes of a derived target's parts
UNLABELLED = -1


class TargetConfig(Config):
    """How one target is trained; without a section of its own, it is trained with these defaults."""

    weight: float = Field(default=1.0, gt=0)  # of its loss in the sum over targets
    # cross_entropy: binary and for each class where a row may have several; focal: the same, with less weight
    # on what the head is right about already
    loss: Literal["cross_entropy", "focal"] = "cross_entropy"
    gamma: float = Field(default=2.0, ge=0)  # of the focal loss; 0 is cross-entropy
    # names of the streams that reach its classifier; absent: all but the questions about other targets
    streams: list[str] | None = None
    # of a target derived from others, such as action. product: of its parts' probabilities, as EK100 ranks
    # actions; pairs: by a classifier of its own, over the combinations of the training rows
    ranked_by: Literal["product", "pairs"] = "product"


@dataclass(frozen=True)
class RunTargets:
    """What a run trains and measures."""

    classes: Classes  # what is measured; a derived target with a classifier lists its pairs
    outputs: Mapping[str, int]  # target -> columns of its classifier, in the order in which they are drawn
    weights: Mapping[str, float]  # target -> weight of its loss
    known: tuple[str, ...]  # targets of the stores, trained or not; a question may be about any
    # target -> gamma of its focal loss; the others have cross-entropies
    focal: Mapping[str, float] = field(default_factory=dict)

    @property
    def scored(self) -> tuple[str, ...]:
        """The targets that have scores of their own: all but derived ones that are ranked by products."""
        return (*self.classes.targets, *(name for name in self.outputs if name in self.classes.derived))

    def labels(self, of: Labels, name: str) -> np.ndarray:
        """(rows,) columns of the classifier of a target, or (rows, columns) 0 or 1; -1 where it has none."""
        if name not in self.classes.derived:
            return of[name]
        derived = self.classes.derived[name]
        column = {pair: number for number, pair in enumerate(derived.pairs or ())}
        rows = zip(*(of[part].tolist() for part in derived.of), strict=True)
        return np.array([column.get(row, UNLABELLED) for row in rows], np.int64)

    def columns(self, name: str) -> int:
        """Of the scores of a target."""
        return self.outputs[name] if name in self.outputs else self.classes.targets[name].count

    def is_single(self, name: str) -> bool:
        return name in self.classes.derived or self.classes.targets[name].kind == "single"


def read_labels(segments: tuple[Segment, ...], classes: Classes) -> dict[str, np.ndarray]:
    """The labels of all targets, see `Labels`. Raises DataError for one that the list of classes lacks."""
    found = {}
    for name, target in classes.targets.items():
        is_single = target.kind == "single"
        given = np.full((len(segments), 1 if is_single else target.count), UNLABELLED, np.int64)
        for row, segment in enumerate(segments):
            label = segment.labels.get(name)
            if label is None:
                continue
            several = (label,) if isinstance(label, int) else label
            if is_single != isinstance(label, int) or not all(one in target.ids for one in several):
                what = f"one of {target.count} classes" if is_single else f"a list of {target.count} classes"
                raise DataError(f"row {segment.narration_id}: its {name} is {label!r}, expected {what}")
            if is_single:
                given[row] = label
            else:
                given[row] = 0
                given[row, list(several)] = 1
        found[name] = given[:, 0] if is_single else given.astype(np.int8)
    return found


def is_labelled(labels: np.ndarray) -> np.ndarray:
    """(rows,) bool: which rows have a label of a target."""
    return (labels if labels.ndim == 1 else labels[:, 0]) >= 0


def choose(
    classes: Classes,
    used: list[str] | None,
    configs: Mapping[str, TargetConfig],
    pairs: Mapping[str, Pairs],
) -> RunTargets:
    """What a recipe trains of the stores' targets. used: their names; all if None. pairs: derived target ->
    columns of a classifier of its own.

    Raises UsageError for names that the stores do not have, and for a choice that leaves nothing to train.
    """
    for name in (*(used or ()), *configs):
        if name not in classes.names:
            hint = did_you_mean(name, list(classes.names))
            raise UsageError(f"the stores have no target {name!r}{hint}")
    wanted = [name for name in classes.names if used is None or name in used]
    derived = {}
    for name in classes.derived:
        if name in wanted:
            by_pairs = configs.get(name, TargetConfig()).ranked_by == "pairs"
            if by_pairs and not pairs[name]:
                raise UsageError(f"targets.{name}.ranked_by: no training row shows a combination to rank")
            derived[name] = replace(classes.derived[name], pairs=pairs[name] if by_pairs else None)
    for name, one in derived.items():
        left_out = [part for part in one.of if part not in wanted]
        if left_out and not one.pairs:
            raise UsageError(
                f"{name} is ranked by the product of {' and '.join(one.of)}, and use_targets leaves out "
                f'{left_out[0]}; name it there, or set targets.{name}.ranked_by = "pairs"'
            )
    parts = {part for one in derived.values() for part in one.of}
    targets = {name: one for name, one in classes.targets.items() if name in wanted or name in parts}
    outputs = {name: target.count for name, target in targets.items() if name in wanted}
    outputs |= {name: len(one.pairs) for name, one in derived.items() if one.pairs}
    if not classes.targets:
        raise UsageError("the stores' rows have no labels, so there is nothing to train")
    if not outputs:
        raise UsageError("use_targets leaves no target to train")
    for name, config in configs.items():
        if name in classes.targets and config.ranked_by == "pairs":
            raise UsageError(f"targets.{name}.ranked_by: {name} is not derived from others; leave it out")
        if name not in outputs and config != TargetConfig():
            raise UsageError(f"targets.{name} changes nothing: {name} has no classifier of its own here")
    weights = {name: configs.get(name, TargetConfig()).weight for name in outputs}
    focal = {
        name: configs[name].gamma for name in outputs if name in configs and configs[name].loss == "focal"
    }
    chosen = replace(classes, targets=targets, derived=derived)
    return RunTargets(chosen, outputs, weights, tuple(classes.targets), focal)


def pairs_of(classes: Classes, labels: Labels, rows: np.ndarray) -> dict[str, Pairs]:
    """Derived target -> the combinations that its classifier has columns for: those that the stores list,
    else those that some rows are labelled with, in order.
    """
    found = {}
    for name, derived in classes.derived.items():
        together = np.stack([labels[part][rows] for part in derived.of], 1)
        shown = np.unique(together[(together >= 0).all(1)], axis=0)
        found[name] = derived.pairs or tuple(tuple(pair) for pair in shown.tolist())
    return found


def refuse_unlabelled(targets: RunTargets, labels: Labels, rows: np.ndarray) -> None:
    """Raises DataError for a target that none of the training rows has a label of."""
    derived = targets.classes.derived
    for name in targets.outputs:
        if is_labelled(targets.labels(labels, name)[rows]).any():
            continue
        made_of_it = {whole for whole, one in derived.items() if name in one.of}
        others = [f'"{other}"' for other in targets.classes.names if other not in {name, *made_of_it}]
        raise DataError(
            f"none of the {len(rows)} training rows has a label of {name}, so nothing can be learnt of it; "
            f"leave it out with --set 'use_targets=[{', '.join(others)}]'"
        )


def log_prior(targets: RunTargets, labels: Labels, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Target -> log-probabilities (columns,) of its labels in some rows, float64; counts are plus 1."""
    found = {}
    for name in targets.scored:
        own = targets.labels(labels, name)[rows]
        own = own[is_labelled(own)]
        if targets.is_single(name):
            columns = targets.columns(name)
            counts = np.bincount(own, minlength=columns) + 1.0
            found[name] = np.log(counts / counts.sum())
        else:
            found[name] = np.log((own.sum(0) + 1.0) / (len(own) + 2.0))
    return found


def log_probabilities(
    targets: RunTargets, logits: list[dict[str, Tensor]], average: Average = "probabilities"
) -> dict[str, np.ndarray]:
    """Logits (B, columns) by target, of each view -> logarithms of their mean probabilities (B, columns)
    float32, of every scored target: parts without a classifier are sums over their pairs. average: `logits`
    takes the probabilities of the mean logits instead.
    """
    found: dict[str, np.ndarray] = {}
    for name in targets.outputs:
        per_view = torch.stack([view[name].float() for view in logits])
        if average == "logits":
            per_view = per_view.mean(0, keepdim=True)
        logs = per_view.log_softmax(-1) if targets.is_single(name) else F.logsigmoid(per_view)
        found[name] = (logs.logsumexp(0) - math.log(len(logs))).cpu().numpy()
    for name, derived in targets.classes.derived.items():
        missing = [part for part in derived.of if part not in found]
        if missing and derived.pairs:
            counts = [targets.classes.targets[part].count for part in derived.of]
            sums = sums_over_pairs(found[name], derived.pairs, counts)
            with np.errstate(divide="ignore"):  # a class without a pair has probability 0
                by_part = dict(zip(derived.of, (np.log(one).astype(np.float32) for one in sums), strict=True))
            found |= {part: by_part[part] for part in missing}
    return {name: found[name] for name in targets.scored}
