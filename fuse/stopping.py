"""`train.stop_after`: training ends where a measure on held-out rows has stopped getting better.

What decides are the lines of curves.jsonl, which a resumed run has cut to what its checkpoint has behind it:
it stops where it would have stopped by itself.
"""

from collections.abc import Iterable

import numpy as np

from mambavl.configs.errors import DataError
from mambavl.fuse.data import FeatureData
from mambavl.fuse.run import CurveLine
from mambavl.fuse.targets import RunTargets, is_labelled


def refuse_unmeasured(target: str, targets: RunTargets, data: FeatureData) -> None:
    """Raises DataError where no row that is scored has a label of a target: there is nothing to watch."""
    derived = targets.classes.derived
    parts = derived[target].of if target in derived else (target,)
    labelled = np.all([is_labelled(data.labels[part][data.evaluation]) for part in parts], axis=0)
    if not labelled.any():
        raise DataError(
            f"train.stop_after watches {target}, and none of the {len(labelled)} held-out rows has a label "
            "of it; hold out others with data.hold_out, or name another target with rank_by"
        )


def measured(line: CurveLine, rank_by: str) -> float | None:
    """What runs are ranked by, after an epoch; None where it was not scored then."""
    return line.get(rank_by, line.get(f"{rank_by}_map", line.get(f"{rank_by}_top1")))


def has_stalled(curves: Iterable[CurveLine], rank_by: str, epochs: int) -> bool:
    """Whether a target's top-1, its mAP where rows may have several classes, or the measure that `rank_by`
    names, was not better than ever before in any scoring of so many epochs.
    """
    best, since = -1.0, 0
    for line in curves:
        measure = measured(line, rank_by)
        if measure is None:
            continue
        if measure > best:
            best, since = measure, line["epoch"]
        elif line["epoch"] - since >= epochs:
            return True
    return False
