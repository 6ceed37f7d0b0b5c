"""Scores of moments: log-probabilities by target, and the best classes of each."""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mambavl.cache.classes import Target
from mambavl.configs.errors import DataError, UsageError
from mambavl.fuse.evaluate import autocast
from mambavl.fuse.targets import RunTargets, log_probabilities
from mambavl.predict.features import Features
from mambavl.predict.trained import Trained

BATCH = 64  # moments that the head reads at a time
BEST = 5  # classes that are named of a target

Scores = Mapping[str, np.ndarray]  # target -> log-probabilities (columns,), of one moment


@dataclass(frozen=True)
class Guess:
    """A class and its probability. Of a derived target `ids` has the class of each part."""

    ids: tuple[int, ...]
    name: str
    probability: float


@torch.inference_mode()
def scores(trained: Trained, features: Features) -> Iterator[tuple[int, Scores | None]]:
    """(moment, its scores), in order; None of one without features.

    Raises DataError where a score is not a number.
    """
    for first in range(0, len(features.usable), BATCH):
        moments = np.arange(first, min(first + BATCH, len(features.usable)))
        usable = moments[features.usable[moments]]
        found: dict[str, np.ndarray] = {}
        if len(usable):
            views = []
            for view in range(trained.views):
                with autocast(trained.device, trained.result.trained.precision):
                    views.append(trained.head(features.batch(usable, view)))
            found = log_probabilities(trained.targets, views)
        place = {moment: number for number, moment in enumerate(usable.tolist())}
        for moment in moments.tolist():
            if moment not in place:
                yield moment, None
                continue
            one = {name: values[place[moment]] for name, values in found.items()}
            refuse_broken(trained, moment, one)
            yield moment, one


@torch.inference_mode()
def scores_of_stream(trained: Trained, features: Features) -> Iterator[tuple[int, Scores | None]]:
    """As `scores`, where the head reads the windows of all moments so far, one after another: what it keeps
    of them is carried on, so that a moment costs no more than the one before it.

    A moment without features adds nothing. The head is one that can (`refuse_no_stream`).
    """
    states: list[Any] = [None] * trained.views
    for moment in range(len(features.usable)):
        if not features.usable[moment]:
            yield moment, None
            continue
        logits = []
        for view, state in enumerate(states):
            streams = features.batch(np.array([moment]), view)
            if state is not None:
                streams |= {name: _no_more(*streams[name]) for name in features.constant}
            with autocast(trained.device, trained.result.trained.precision):
                found, states[view] = trained.head.step(streams, state)
            logits.append(found)
        one = {name: values[0] for name, values in log_probabilities(trained.targets, logits).items()}
        refuse_broken(trained, moment, one)
        yield moment, one


def refuse_no_stream(trained: Trained) -> None:
    """Raises UsageError for a head that has to look at all of the past at each step."""
    if why := trained.head.cannot_step:
        raise UsageError(
            f"--stream: the head of {trained.run} ({trained.result.head}) cannot: {why}. Without "
            "--stream each answer looks at its own window"
        )


def _no_more(tokens: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of a question that was read before: no further token."""
    return tokens[:, :0], lengths.clamp(max=0)


def refuse_broken(trained: Trained, moment: int, found: Scores) -> None:
    """Raises DataError where a score is NaN."""
    for name, values in found.items():
        if np.isnan(values).any():
            raise DataError(
                f"{trained.run}: the head's scores of {name} at moment {moment} (counted from 0) are not "
                "finite; `mambavl evaluate` says whether features or head are at fault"
            )


def best(targets: RunTargets, found: Scores) -> dict[str, list[Guess]]:
    """Target -> its most probable classes, the best first; derived targets are ranked as in a result."""
    guesses: dict[str, list[Guess]] = {}
    classes = targets.classes
    for name, target in classes.targets.items():
        # a column without a class is an id that the list does not use
        known = sorted(target.ids)
        ranked = sorted(known, key=lambda one: (-found[name][one], one))[:BEST]
        guesses[name] = [_guess((one,), (target,), found[name][one]) for one in ranked]
    for name, derived in classes.derived.items():
        parts = tuple(classes.targets[part] for part in derived.of)
        if derived.pairs:
            ranked = sorted(range(len(derived.pairs)), key=lambda one: (-found[name][one], one))[:BEST]
            guesses[name] = [_guess(derived.pairs[one], parts, found[name][one]) for one in ranked]
            continue
        # the best of all products are among those of the best of each part
        products = [_product(pair) for pair in itertools.product(*(guesses[part] for part in derived.of))]
        guesses[name] = sorted(products, key=lambda guess: -guess.probability)[:BEST]
    return guesses


def _guess(ids: tuple[int, ...], parts: tuple[Target, ...], log_probability: float) -> Guess:
    names = [part.classes.get(one, str(one)) for one, part in zip(ids, parts, strict=True)]
    return Guess(ids, " ".join(names), float(np.exp(log_probability)))


def _product(pair: tuple[Guess, ...]) -> Guess:
    """A class of each part, taken together."""
    return Guess(
        tuple(guess.ids[0] for guess in pair),
        " ".join(guess.name for guess in pair),
        math.prod(guess.probability for guess in pair),
    )
