"""A head and its stores -> scores of every row, every measure, and the result that names their origin."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mambavl.configs.errors import DataError, UsageError
from mambavl.fuse import checkpoint, metrics
from mambavl.fuse.data import FeatureData
from mambavl.fuse.head import Head, valid_tokens
from mambavl.fuse.missing import count_missing
from mambavl.fuse.owner import held
from mambavl.fuse.recipe import Recipe, build_head, run_targets
from mambavl.fuse.result import Metrics, Params, Result, Rows, Scored, Trained
from mambavl.fuse.run import (
    MODEL,
    Prior,
    Scores,
    as_kept,
    environment,
    read_classes,
    read_prior,
    read_recipe,
    read_result,
    read_selection,
    refuse_other_classes,
    refuse_other_features,
    refuse_without_weights,
    write_result,
    write_scores,
)
from mambavl.fuse.targets import Average, RunTargets, is_labelled, log_probabilities

ROWS_SHOWN = 5  # in a message
LOOKED_AT = 128  # rows whose features are looked at together


def score(
    head: Head,
    data: FeatureData,
    targets: RunTargets,
    rows: np.ndarray,
    prior: Prior,
    precision: str,
    batch_size: int,
    *,
    run: Path,
    average: Average = "probabilities",
) -> dict[str, np.ndarray]:
    """Log-probabilities (rows, classes) by target, float32: of the mean probabilities where rows have several
    views, or of the mean logits.

    A row without features gets the training prior. `run` is named in errors only.
    Raises DataError when the head gives anything that is not a number, naming the features at fault if any.
    """
    together = score_together({run: head}, data, targets, rows, prior, precision, batch_size, average)
    [found] = together.values()
    if isinstance(found, DataError):
        raise found
    return found


@torch.inference_mode()
def score_together(
    heads: Mapping[Path, Head],
    data: FeatureData,
    targets: RunTargets,
    rows: np.ndarray,
    prior: Prior,
    precision: str,
    batch_size: int,
    average: Average = "probabilities",
) -> dict[Path, dict[str, np.ndarray] | DataError]:
    """`score` of the heads of several runs, which read each batch together; for each what it returns, or
    raises.
    """
    device = data.device
    scores = {run: _guess(prior, len(rows)) for run in heads}
    for head in heads.values():
        head.eval()
        device = next(head.parameters()).device
    usable = np.flatnonzero(data.usable[rows])
    for first in range(0, len(usable), batch_size):
        where = usable[first : first + batch_size]
        views: dict[Path, list[dict[str, Tensor]]] = {run: [] for run in heads}
        for view in range(data.views):
            streams = data.batch(rows[where], device, view)
            with autocast(device, precision):
                for run, head in heads.items():
                    views[run].append(head(streams))
        for run, of_run in views.items():
            for name, found in log_probabilities(targets, of_run, average).items():
                scores[run][name][where] = found
    refused = {run: _refused(run, heads[run], data, targets, rows, of_run) for run, of_run in scores.items()}
    return {run: refused[run] or of_run for run, of_run in scores.items()}


def _refused(
    run: Path, head: Head, data: FeatureData, targets: RunTargets, rows: np.ndarray, scores: Scores
) -> DataError | None:
    """What to raise of scores that are not numbers."""
    finite = np.all([np.isfinite(scores[name]).all(1) for name in targets.outputs], axis=0)
    if finite.all():
        return None
    failed = rows[~finite]
    try:
        for first in range(0, len(failed), LOOKED_AT):
            refuse_broken_features(run, data, failed[first : first + LOOKED_AT], range(data.views))
    except DataError as broken_features:
        return broken_features
    return DataError(
        f"{run}: diverged: the head's scores of row {_id(data, failed[0])} are not finite; "
        f"lower {rates_of(head)}"
    )


def rates_of(head: Head) -> str:
    """The keys of the learning rates that a head is trained with."""
    return "train.lr and train.lr_ssm" if any(True for _ in head.ssm_parameters()) else "train.lr"


def _guess(prior: Prior, rows: int) -> dict[str, np.ndarray]:
    return {name: np.tile(values.astype(np.float32), (rows, 1)) for name, values in prior.items()}


def refuse_broken_features(
    run: Path, data: FeatureData, rows: np.ndarray, views: Iterable[int | np.ndarray]
) -> None:
    """Raises DataError where features of `rows` hold NaN or infinity: no learning rate mends those, so
    training and scoring look for them before they advise one. views: those to look at, as `FeatureData.batch`
    takes them.
    """
    broken: dict[int, str] = {}  # row of the batch -> where its first fault is
    for view in views:
        for name, (tokens, lengths) in data.batch(rows, "cpu", view).items():
            for row, step in _broken_steps(tokens, lengths).items():
                what = "NaN" if tokens[row, step].isnan().any() else "infinity"
                at = _named_step(step, data.sources[name].class_token)
                broken.setdefault(row, f"row {_id(data, rows[row])}, stream {name}: {what} at {at}")
    if broken:
        lines = [broken[row] for row in sorted(broken)]
        more = "\n  ..." if len(lines) > ROWS_SHOWN else ""
        listed = "\n  ".join(lines[:ROWS_SHOWN])
        raise DataError(
            f"{run}: features are not finite (steps count from 0):\n  {listed}{more}\n"
            "`mambavl cache verify STORE` says whether the store is damaged; if not, make these rows again."
        )


def _broken_steps(tokens: Tensor, lengths: Tensor) -> dict[int, int]:
    """tokens (B, L, D), lengths (B,) -> row: its first step that is not finite, of rows that have one."""
    broken = valid_tokens(tokens, lengths)[..., 0] & ~tokens.isfinite().all(-1)  # (B, L)
    rows = broken.any(1).nonzero()[:, 0]
    return dict(zip(rows.tolist(), broken[rows].int().argmax(1).tolist(), strict=True))


def _named_step(step: int, class_token: bool) -> str:
    """A step as the store counts it: the class token, where there is one, was put before the first."""
    if not class_token:
        return f"step {step}"
    return f"step {step - 1}" if step else "the class token"


def _id(data: FeatureData, row: int) -> str:
    return data.segments[row].narration_id


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """bfloat16 for matrix products where `precision` is bf16; the scan's state stays float32 either way."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def measure(data: FeatureData, targets: RunTargets, rows: np.ndarray, scores: Scores) -> Metrics:
    """Every measure of metrics.measure over the labelled rows; empty where there are none (a test list)."""
    labels = {name: data.labels[name][rows] for name in targets.classes.targets}
    if not any(is_labelled(one).any() for one in labels.values()):
        return {}
    groups = {name: mask[rows] for name, mask in data.groups.items()}
    return metrics.measure(targets.classes, scores, labels, groups)


def evaluate_head(
    head: Head,
    data: FeatureData,
    targets: RunTargets,
    recipe: Recipe,
    run: Path,
    prior: Prior,
    trained: Trained,
    *,
    scores: Scores | None = None,
    keep_result: bool = False,
    average: Average = "probabilities",
) -> Result:
    """Score the evaluation split, write its scores (`scores_name`) and (unless `keep_result`) result.json,
    return the result, which is of the scores as they are written. scores: where it has been scored already.
    """
    rows, train = data.evaluation, recipe.train
    if scores is None:
        of = (prior, trained.precision, train.batch_size)
        scores = score(head, data, targets, rows, *of, run=run, average=average)
    scores = as_kept(scores, train.score_dtype)
    write_scores(run, scores_name(recipe.data.scored, average), data, targets, rows, scores)
    guessed = {name: np.tile(values, (len(rows), 1)) for name, values in prior.items()}
    result = Result(
        title=recipe.title or run.name,
        head=recipe.head.name,
        split=recipe.data.scored,
        text_protocol=data.text_protocol,
        history_protocol=data.history_protocol,
        notice=data.notice,
        streams=data.provenance,
        targets=targets.classes.names,
        metrics=measure(data, targets, rows, scores),
        prior_metrics=measure(data, targets, rows, guessed),
        rows=Rows(
            scored=len(rows),
            scored_by_prior=int((~data.usable[rows]).sum()),
            failed=data.failed,
            missing=count_missing(data.has, rows),
        ),
        params=Params(total=head.num_params(), without_classifiers=head.num_params(heads=False)),
        seed=recipe.train.seed,
        epochs=recipe.train.epochs,
        recipe=recipe.model_dump(mode="json", exclude_none=True),
        trained=trained,
        scored=Scored(
            environment=environment(next(head.parameters()).device),
            scan_backend=head.scan_backend,
            precision=trained.precision,
        ),
        selection=read_selection(run),
    )
    if not keep_result:
        write_result(run, result)
    return result


@dataclass(frozen=True)
class Opened:
    """A finished run with what it takes to score it."""

    recipe: Recipe  # with the stores and the split that were asked for
    targets: RunTargets
    data: FeatureData
    head: Head  # trained, where it is to compute
    trained: Trained
    own_split: str  # what the run was scored on


def scores_name(split: str, average: Average) -> str:
    """The file of a split's scores: those of its own average are the run's, by whose name all know them."""
    return split if average == "probabilities" else f"{split}-{average}"


def evaluate_run(
    run: Path,
    *,
    split: str | None = None,
    streams: dict[str, Path] | None = None,
    average: Average = "probabilities",
) -> Result:
    """Score a finished run again: another split, or the same features in stores that have moved.

    split, streams: as `open_run` takes them. Writes the split's scores; result.json is written again for the
    run's own split and probabilities only, and what it says of training stays. Raises as `open_run` does, and
    UsageError for an average of logits where rows have one view.
    """
    with open_run(run, split=split, streams=streams) as opened:
        if average != "probabilities" and opened.data.views == 1:
            raise UsageError(f"{run}: its rows have one view, so there is nothing to average; leave it out")
        return evaluate_head(
            opened.head,
            opened.data,
            opened.targets,
            opened.recipe,
            run,
            read_prior(run),
            opened.trained,
            keep_result=opened.recipe.data.scored != opened.own_split or average != "probabilities",
            average=average,
        )


@contextlib.contextmanager
def open_run(
    run: Path, *, split: str | None = None, streams: dict[str, Path] | None = None
) -> Iterator[Opened]:
    """A finished run, to be scored; nobody else works on it meanwhile.

    streams: name -> store, where a store has moved; split: another one to score. Raises DataError when the
    stores were not made by the recipe that the head was trained on, or the run is damaged; UsageError for a
    stream that the run does not have; RunHeld while another process works on it.
    """
    run = Path(run)
    recipe = read_recipe(run)
    with held(run):
        yield _open(run, recipe, split, streams or {})


def _open(run: Path, recipe: Recipe, split: str | None, streams: dict[str, Path]) -> Opened:
    refuse_without_weights(run, recipe)
    weights = checkpoint.load_weights(run / MODEL)
    own_split = recipe.data.scored
    recipe = _changed(recipe, run, split, streams)
    data = FeatureData(recipe.sources, recipe.data, training=False)
    refuse_other_features(run, data)
    refuse_other_classes(run, data.classes)
    targets = run_targets(recipe, data, read_classes(run))
    head = build_head(recipe, data, targets)
    try:
        head.load_state_dict(weights)
    except RuntimeError as error:
        raise DataError(f"{run / MODEL}: does not fit the run's recipe: {error}") from None
    try:
        trained = read_result(run).trained
    except DataError:
        trained = Trained(precision="fp32")  # the result is gone or damaged, and made again now
    device = "cuda" if torch.cuda.is_available() and not os.environ.get("ACCELERATE_USE_CPU") else "cpu"
    return Opened(recipe, targets, data, head.to(device), trained, own_split)


def _changed(recipe: Recipe, run: Path, split: str | None, streams: dict[str, Path]) -> Recipe:
    """The recipe with other stores of some streams, and another split to score."""
    for name, store in streams.items():
        if name not in recipe.streams:
            raise UsageError(f"{run}: has no stream {name!r}; its streams are {', '.join(recipe.streams)}")
        source = recipe.streams[name].model_copy(update={"store": store})
        recipe = recipe.model_copy(update={"streams": {**recipe.streams, name: source}})
    if split and split != recipe.data.scored:
        data = recipe.data.model_copy(update={"eval_split": split, "hold_out": None})
        recipe = recipe.model_copy(update={"data": data})
    return recipe
