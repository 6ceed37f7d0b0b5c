"""A head and its stores -> scores of every row, every measure, and the result that names their origin."""

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mambavl.cache import canonical, fsops
from mambavl.configs.errors import DataError, UsageError
from mambavl.fuse import checkpoint, metrics
from mambavl.fuse.data import FeatureData
from mambavl.fuse.head import Head
from mambavl.fuse.recipe import Recipe, build_head
from mambavl.fuse.run import (
    MODEL,
    PRIOR,
    RESULT,
    environment,
    read_result,
    refuse_other_features,
    run_recipe,
    write_scores,
)

Prior = tuple[np.ndarray, np.ndarray]  # log-probabilities (verbs,), (nouns,) of the training labels


@torch.inference_mode()
def score(
    head: Head, data: FeatureData, rows: np.ndarray, prior: Prior, precision: str, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities (rows, verbs), (rows, nouns), float32: of the mean probabilities where rows have
    several views.

    A row without features gets the training prior.
    Raises DataError when the head gives anything that is not a number.
    """
    head.eval()
    device = next(head.parameters()).device
    verb, noun = (np.tile(values.astype(np.float32), (len(rows), 1)) for values in prior)
    usable = np.flatnonzero(data.usable[rows])
    for first in range(0, len(usable), batch_size):
        where = usable[first : first + batch_size]
        views = []
        for view in range(data.views):
            with autocast(device, precision):
                views.append(head(data.batch(rows[where], device, view)))
        verb[where], noun[where] = (
            _mean_probability([out[target] for out in views]) for target in ("verb", "noun")
        )
    finite = np.isfinite(verb).all(1) & np.isfinite(noun).all(1)
    if not finite.all():
        row = data.segments[rows[int(np.argmin(finite))]].narration_id
        raise DataError(
            f"diverged: the head's scores of row {row} are not finite; lower train.lr and train.lr_ssm"
        )
    return verb, noun


def _mean_probability(logits: list[Tensor]) -> np.ndarray:
    """Views of logits (B, C) -> the logarithm of their mean probability (B, C)."""
    found = torch.stack([one.float().log_softmax(-1) for one in logits])
    return (found.logsumexp(0) - math.log(len(logits))).cpu().numpy()


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """bfloat16 for matrix products where `precision` is bf16; the scan's state stays float32 either way."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def measure(data: FeatureData, rows: np.ndarray, verb: np.ndarray, noun: np.ndarray) -> dict[str, Any]:
    """Every measure of metrics.evaluate over the labelled rows; empty where there are none (a test list)."""
    labelled = (data.verb[rows] >= 0) & (data.noun[rows] >= 0)
    if not labelled.any():
        return {}
    return metrics.evaluate(
        verb[labelled],
        noun[labelled],
        data.verb[rows][labelled],
        data.noun[rows][labelled],
        unseen=data.unseen[rows][labelled],
        tail_verbs=data.classes.tail_verbs,
        tail_nouns=data.classes.tail_nouns,
    )


def evaluate_head(
    head: Head,
    data: FeatureData,
    recipe: Recipe,
    run: Path,
    prior: Prior,
    extra: dict[str, Any],
    *,
    keep_result: bool = False,
) -> dict[str, Any]:
    """Score the evaluation split, write scores/SPLIT.npz and (unless `keep_result`) result.json, return the
    result.
    """
    rows = data.evaluation
    verb, noun = score(head, data, rows, prior, extra["precision"], recipe.train.batch_size)
    write_scores(run, recipe.data.scored, data, rows, verb, noun)
    guesses = [np.tile(values, (len(rows), 1)) for values in prior]
    result = {
        "title": recipe.title or run.name,
        "head": recipe.head,
        "split": recipe.data.scored,
        "text_protocol": data.text_protocol,
        "notice": data.notice,
        "streams": data.provenance,
        "metrics": measure(data, rows, verb, noun),
        "prior_metrics": measure(data, rows, *guesses),
        "rows": {
            "scored": len(rows),
            "scored_by_prior": int((~data.usable[rows]).sum()),
            "failed": data.failed,
        },
        "params": {"total": head.num_params(), "without_classifiers": head.num_params(heads=False)},
        "scan_backend": head.scan_backend,
        "seed": recipe.train.seed,
        "epochs": recipe.train.epochs,
        "recipe": recipe.model_dump(mode="json", exclude_none=True),
        "environment": environment(next(head.parameters()).device),
        **extra,
    }
    if not keep_result:
        fsops.write_file(run / RESULT, canonical.pretty_json(result))
    return result


def evaluate_run(
    run: Path, *, split: str | None = None, streams: dict[str, Path] | None = None
) -> dict[str, Any]:
    """Score a finished run again: another split, or the same features in stores that have moved.

    streams: name -> store, where a store has moved.
    Writes scores/SPLIT.npz; result.json is written anew for the run's own split only. Raises DataError when
    the stores were not made by the recipe that the head was trained on.
    """
    run = Path(run)
    recipe = run_recipe(run)
    weights = checkpoint.load_weights(run / MODEL)
    for name, store in (streams or {}).items():
        if name not in recipe.streams:
            raise UsageError(f"{run}: has no stream {name!r}; its streams are {', '.join(recipe.streams)}")
        source = recipe.streams[name].model_copy(update={"store": store})
        recipe = recipe.model_copy(update={"streams": {**recipe.streams, name: source}})
    own_split = recipe.data.scored
    if split and split != own_split:
        other = recipe.data.model_copy(update={"eval_split": split, "hold_out": None})
        recipe = recipe.model_copy(update={"data": other})
    data = FeatureData(recipe.sources, recipe.data, training=False)
    refuse_other_features(run, data)
    head = build_head(recipe, data)
    try:
        head.load_state_dict(weights)
    except RuntimeError as error:
        raise DataError(f"{run / MODEL}: does not fit the run's recipe: {error}") from None
    try:
        old = read_result(run)
    except DataError:
        old = {}  # gone or damaged: it is made anew
    extra = {"precision": "fp32"} | {
        k: old[k] for k in ("train_rows", "train_seconds", "precision", "processes") if k in old
    }
    stored = json.loads((run / PRIOR).read_bytes())
    prior = (np.array(stored["verb"]), np.array(stored["noun"]))
    device = "cuda" if torch.cuda.is_available() and not os.environ.get("ACCELERATE_USE_CPU") else "cpu"
    return evaluate_head(
        head.to(device), data, recipe, run, prior, extra, keep_result=recipe.data.scored != own_split
    )
