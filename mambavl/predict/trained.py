"""A finished run, ready to be asked about a video: its head, and how the features that it was trained on were
made.

The run's own files hold the head, its classes and its recipe; how the features were made stands whole in the
specs of its stores only, of which spec.json, manifest.json, classes.json and segments.csv are read.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mambavl.cache import canonical, open_store
from mambavl.cache.classes import Classes
from mambavl.cache.reader import FeatureStore
from mambavl.cache.shards import Level
from mambavl.configs.errors import DataError, UsageError, did_you_mean, differs
from mambavl.fuse import checkpoint
from mambavl.fuse.head import Head, StreamShape, modality_of
from mambavl.fuse.recipe import Recipe, make_head
from mambavl.fuse.result import RECIPE_PARTS, Result
from mambavl.fuse.run import MODEL, read_classes, read_recipe, read_result, refuse_without_weights
from mambavl.fuse.sources import StreamSource
from mambavl.fuse.targets import RunTargets, choose


@dataclass(frozen=True)
class Stream:
    """What a stream was when the head was trained."""

    name: str
    source: StreamSource
    store: FeatureStore  # the first of its stores
    level: Level

    @property
    def shape(self) -> StreamShape:
        return StreamShape(width=self.level.width, modality=self.source.modality or modality_of(self.name))

    @property
    def is_text(self) -> bool:
        return self.store.spec.kind == "text"


@dataclass(frozen=True)
class Trained:
    """A finished run."""

    run: Path
    recipe: Recipe
    result: Result
    targets: RunTargets
    classes: Classes  # all that the rows of its stores have labels of
    streams: Mapping[str, Stream]
    head: Head  # in evaluation mode, where it is to compute
    model_sha256: str  # of the file of its weights

    @property
    def device(self) -> torch.device:
        return next(self.head.parameters()).device

    @property
    def views(self) -> int:
        return max(stream.level.views for stream in self.streams.values())

    def refuse_unknown_streams(self, option: str, named: Mapping[str, Any]) -> None:
        """Raises UsageError for a stream named with an option that the head does not read."""
        for name in named:
            if name not in self.streams:
                hint = did_you_mean(name, list(self.streams))
                raise UsageError(f"{option} {name}=...: {self.run} has no stream {name!r}{hint}")


def open_trained(run: Path, moved: Mapping[str, Path]) -> Trained:
    """The head of a finished run. moved: stream -> where its store lies now.

    Raises DataError where the folder is no finished run, is damaged, or a store is not there or not the one
    that the head was trained on; UsageError for a stream that the run does not have.
    """
    run = Path(run)
    result, recipe = read_result(run), read_recipe(run)
    refuse_without_weights(run, recipe)
    streams = {}
    for name, source in recipe.sources.items():
        store = _open_store(run, name, moved.get(name, source.stores[0]), result)
        try:
            level = store.level(source.level)
        except UsageError as error:
            raise DataError(f"stream {name}: {error}") from None
        streams[name] = Stream(name, source, store, level)
    classes = next(iter(streams.values())).store.classes
    chosen = read_classes(run)
    pairs = {name: derived.pairs for name, derived in chosen.derived.items() if derived.pairs}
    targets = choose(chosen, recipe.use_targets, recipe.targets, pairs)
    # a question about a target that was left out of training reaches no other classifier
    targets = replace(targets, known=tuple(classes.targets))
    head = make_head(recipe, {name: stream.shape for name, stream in streams.items()}, targets)
    try:
        head.load_state_dict(checkpoint.load_weights(run / MODEL))
    except RuntimeError as error:
        raise DataError(f"{run / MODEL}: does not fit the run's recipe: {error}") from None
    device = "cuda" if torch.cuda.is_available() and not os.environ.get("ACCELERATE_USE_CPU") else "cpu"
    trained = Trained(
        run=run,
        recipe=recipe,
        result=result,
        targets=targets,
        classes=classes,
        streams=streams,
        head=head.to(device).eval(),
        model_sha256=canonical.file_sha256(run / MODEL),
    )
    trained.refuse_unknown_streams("--moved", moved)
    return trained


def _open_store(run: Path, name: str, path: Path, result: Result) -> FeatureStore:
    """What there is of a stream's training store. Raises DataError where it is not there, or another one."""
    try:
        store = open_store(path, verify="none")
    except DataError as error:
        raise DataError(
            f"{run}: how the features of stream {name} were made stands in their store, and it cannot be "
            f"read ({error}). If it has moved, say where it is: --moved {name}=PATH"
        ) from None
    recipe = store.spec.recipe.to_dict()
    here = {key: recipe[key] for key in RECIPE_PARTS if key in recipe}
    if faults := canonical.differences(result.streams[name].recipe.to_dict(), here):
        raise DataError(
            f"{path}: is not the store that {run} was trained on, as stream {name}. "
            f"{differs(faults, 'trained on -> there')}\nSay where that one is: --moved {name}=PATH"
        )
    return store
