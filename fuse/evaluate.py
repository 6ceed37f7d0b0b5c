"""A head and its stores -> scores per row, every measure, result.json, which names protocol, encoders and stores."""

import importlib.metadata
import io
import json
import math
import os
import platform
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import mambavl
from mambavl.cache import canonical, fsops
from mambavl.configs.errors import DataError, UsageError
from mambavl.fuse import checkpoint, metrics
from mambavl.fuse.data import FeatureData
from mambavl.fuse.recipe import MODEL, PRIOR, RECIPE, STREAMS, Recipe, build_head, run_recipe

RESULT, SCORES = "result.json", "scores"
REQUIRED = {"metrics", "prior_metrics", "split", "streams", "recipe", "seed"}

Prior = tuple[np.ndarray, np.ndarray]  # log-probabilities (verbs,), (nouns,) of the training labels


@torch.inference_mode()
def score(
    head: nn.Module, data: FeatureData, rows: np.ndarray, prior: Prior, precision: str, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities (rows, verbs), (rows, nouns), float32: of the mean probabilities where rows have several views.

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
        verb[where], noun[where] = (_mean_probability([out[target] for out in views]) for target in ("verb", "noun"))
    finite = np.isfinite(verb).all(1) & np.isfinite(noun).all(1)
    if not finite.all():
        row = data.segments[rows[int(np.argmin(finite))]].narration_id
        raise DataError(f"diverged: the head's scores of row {row} are not finite; lower train.lr and train.lr_ssm")
    return verb, noun


def _mean_probability(logits: list[Tensor]) -> np.ndarray:
    """Views of logits (B, C) -> the logarithm of their mean probability (B, C)."""
    found = torch.stack([one.float().log_softmax(-1) for one in logits])
    return (found.logsumexp(0) - math.log(len(logits))).cpu().numpy()


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """bfloat16 for matrix products where `precision` is bf16; the scan keeps its state in float32 either way."""
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
    head: nn.Module,
    data: FeatureData,
    recipe: Recipe,
    run: Path,
    prior: Prior,
    extra: dict[str, Any],
    *,
    keep_result: bool = False,
) -> dict[str, Any]:
    """Score the evaluation split, write scores/SPLIT.npz and (unless `keep_result`) result.json, return the result."""
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
        "scan_backend": getattr(head, "scan_backend", None),
        "seed": recipe.train.seed,
        "epochs": recipe.train.epochs,
        "recipe": recipe.model_dump(mode="json", exclude_none=True),
        "environment": environment(next(head.parameters()).device),
        **extra,
    }
    if not keep_result:
        fsops.write_file(run / RESULT, canonical.pretty_json(result))
    return result


def evaluate_run(run: Path, *, split: str | None = None, streams: dict[str, Path] | None = None) -> dict[str, Any]:
    """Score a finished run again: another split, or the same features in stores that have moved (`streams`: name -> store).

    Writes scores/SPLIT.npz; result.json is written anew for the run's own split only. Raises DataError when the stores were not
    made by the recipe that the head was trained on.
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
    _refuse_other_features(run, data)
    head = build_head(recipe, data)
    try:
        head.load_state_dict(weights)
    except RuntimeError as error:
        raise DataError(f"{run / MODEL}: does not fit the run's recipe: {error}") from None
    try:
        old = read_result(run)
    except DataError:
        old = {}  # gone or damaged: it is made anew
    extra = {"precision": "fp32"} | {k: old[k] for k in ("train_rows", "train_seconds", "precision", "processes") if k in old}
    stored = json.loads((run / PRIOR).read_bytes())
    prior = (np.array(stored["verb"]), np.array(stored["noun"]))
    device = "cuda" if torch.cuda.is_available() and not os.environ.get("ACCELERATE_USE_CPU") else "cpu"
    return evaluate_head(head.to(device), data, recipe, run, prior, extra, keep_result=recipe.data.scored != own_split)


def _refuse_other_features(run: Path, data: FeatureData) -> None:
    # The stores and their ids may differ: the features may have moved, or be those of another split.
    faults = differences_from_run(run, data, apart_from=("stores", "store_ids"))
    if faults:
        raise DataError(
            f"{run}: its head was trained on other features. What differs (trained on -> given):\n  " + "\n  ".join(faults[:20])
        )


def differences_from_run(run: Path, data: FeatureData, apart_from: tuple[str, ...]) -> list[str]:
    """The fields of provenance in which `data` is not what the run was fed."""

    def kept(provenance: dict[str, Any]) -> dict[str, Any]:
        return {name: {k: v for k, v in entry.items() if k not in apart_from} for name, entry in provenance.items()}

    return canonical.differences(kept(json.loads((run / STREAMS).read_bytes())), kept(data.provenance))


def write_scores(run: Path, split: str, data: FeatureData, rows: np.ndarray, verb: np.ndarray, noun: np.ndarray) -> None:
    """scores/SPLIT.npz: narration_id, verb, noun (log-probabilities), and the labels they were measured against."""
    packed = io.BytesIO()
    np.savez(
        packed,
        narration_id=np.array([data.segments[row].narration_id for row in rows]),
        verb=verb,
        noun=noun,
        verb_label=data.verb[rows],
        noun_label=data.noun[rows],
    )
    fsops.make_folder(run / SCORES)
    fsops.write_file(run / SCORES / f"{split}.npz", packed.getvalue())


def read_scores(run: Path, split: str) -> dict[str, np.ndarray]:
    """Raises DataError when the run has no scores."""
    path = run / SCORES / f"{split}.npz"
    try:
        with np.load(path, allow_pickle=False) as scores:
            return dict(scores)
    except FileNotFoundError:
        raise DataError(f"{run}: has no scores ({path} is not there); `mambavl evaluate {run}` makes them") from None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read ({error}); `mambavl evaluate {run}` makes it anew") from None


def read_result(run: Path) -> dict[str, Any]:
    """Raises DataError when there is none."""
    path = Path(run) / RESULT
    try:
        result = json.loads(path.read_bytes())
        if not isinstance(result, dict) or not result.keys() >= REQUIRED:
            raise ValueError("it holds no result")
        return result
    except (FileNotFoundError, NotADirectoryError):
        if (Path(run) / RECIPE).exists():
            raise DataError(f"{run}: has no {RESULT}: it has not finished; run the same `mambavl train` again") from None
        raise DataError(f"{run}: is no run: it has neither {RESULT} nor {RECIPE}") from None
    except ValueError as error:
        raise DataError(f"{path}: is damaged ({error}); `mambavl evaluate {run}` makes it anew") from None


def environment(device: torch.device) -> dict[str, str | None]:
    """What ran: recorded, never compared."""
    return {
        "mambavl": mambavl.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "accelerate": importlib.metadata.version("accelerate"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }


def _commit() -> str | None:
    """The commit of the checkout this package runs from, `-dirty` with uncommitted changes; None where git does not track it."""
    git = ["git", "-C", str(Path(mambavl.__file__).resolve().parent)]
    try:
        tracked = subprocess.run(
            [*git, "ls-files", "--error-unmatch", "__init__.py"], capture_output=True, timeout=10, check=False
        )
        if tracked.returncode:
            return None
        describe = [*git, "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
        return subprocess.run(describe, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None  # no git here: the version alone has to do
