"""What is refused of a sweep before the first update: folders, stores, heads, and points that could not be
compared.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from mambavl.cache import canonical
from mambavl.configs.errors import DataError, UsageError
from mambavl.fuse.data import FeatureData
from mambavl.fuse.metrics import ranked_target
from mambavl.fuse.points import Point
from mambavl.fuse.recipe import Recipe, build_head, run_targets
from mambavl.fuse.run import RECIPE, refuse_other_folder, refuse_other_recipe, refuse_other_stores
from mambavl.fuse.targets import is_labelled
from mambavl.fuse.tracking import refuse_missing

DataOf = Callable[[Recipe], FeatureData]  # the streams that a recipe reads, opened


def check_points(points: list[Point], data_of: DataOf) -> None:
    """Raises UsageError or DataError where a point's folder is another run's, its stores are not there or
    other ones than it began with, or its head cannot be built for them.
    """
    for point in points:
        refuse_other_folder(point.run)
        refuse_other_recipe(point.run, point.recipe)
        if point.state == "skipped" and not point.recipe.has_stores():
            continue  # the stores have moved on, the run stands
        data = data_of(point.recipe)
        refuse_other_stores(point.run, data)
        if point.state == "waiting":
            if not (point.run / RECIPE).exists():
                data.refuse_longer_past()
            refuse_missing(point.recipe.train.trackers)
            with torch.device("meta"):
                build_head(point.recipe, data, run_targets(point.recipe, data))


def check_finals(points: list[Point]) -> None:
    """The same for runs of what will be chosen; of their stores nothing is read yet."""
    seen = set()
    for point in points:
        refuse_other_folder(point.run)
        refuse_other_recipe(point.run, point.recipe)
        key = fed_by(point.recipe)
        if key not in seen and point.recipe.has_stores():
            seen.add(key)
            # opened for what it refuses, such as an eval_split that is not there
            config = point.recipe.data.model_copy(update={"resident": "mmap"})
            FeatureData(point.recipe.sources, config)


def check_measure(points: list[Point], out: Path, data_of: DataOf) -> None:
    """Raises UsageError where points would be compared by different targets, DataError where the rows held
    out have no label of theirs.
    """
    by: dict[str, str] = {}  # target -> the first point that is compared by it
    for point in points:
        if not point.recipe.has_stores():
            continue
        data = data_of(point.recipe)
        classes = run_targets(point.recipe, data).classes
        rank_by = point.recipe.rank_by or classes.names[-1]
        by.setdefault(rank_by, point.name)
        name = ranked_target(rank_by)
        parts = classes.derived[name].of if name in classes.derived else (name,)
        labelled = np.all([is_labelled(data.labels[part])[data.evaluation] for part in parts], axis=0)
        if not labelled.any():
            raise DataError(
                f"{out}: none of the {len(labelled)} rows held out has a label of {name}, by which "
                "points are compared; hold out others, or compare by another target, with rank_by"
            )
    if len(by) > 1:
        listed = ", ".join(f"{point} by {name}" for name, point in by.items())
        raise UsageError(
            f"{out}: points are compared by their last target, which is not the same for all: "
            f"{listed}; leave use_targets out of [grid], or select_on"
        )


def fed_by(recipe: Recipe) -> str:
    """Equal for recipes that read the same streams and rows."""
    sources = {name: source.model_dump(mode="json") for name, source in recipe.sources.items()}
    return canonical.digest([sources, recipe.data.model_dump()])
