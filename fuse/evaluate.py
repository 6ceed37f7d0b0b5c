"""A head and its stores -> scores per row, every measure, result.json, which names protocol, encoders and stores."""

import io
import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import mambavl
from mambavl.cache import fsops, schema
from mambavl.configs.errors import DataError, UsageError
from mambavl.fuse import checkpoint, metrics
from mambavl.fuse.data import FeatureData
from mambavl.fuse.recipe import MODEL, STREAMS, Recipe, build_head, run_recipe

RESULT, SCORES = "result.json", "scores"
BATCH = 256


@torch.inference_mode()
def score(head: nn.Module, data: FeatureData, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities (rows, verbs), (rows, nouns), float32. A row without features gets the training prior."""
    head.eval()
    device = next(head.parameters()).device
    prior = data.log_prior()
    verb = np.tile(prior[0].astype(np.float32), (len(rows), 1))
    noun = np.tile(prior[1].astype(np.float32), (len(rows), 1))
    usable = np.flatnonzero(data.usable[rows])
    for first in range(0, len(usable), BATCH):
        where = usable[first : first + BATCH]
        out = head(data.batch(rows[where], device))
        verb[where] = out["verb"].float().log_softmax(-1).cpu().numpy()
        noun[where] = out["noun"].float().log_softmax(-1).cpu().numpy()
    return verb, noun


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
    head: nn.Module, data: FeatureData, recipe: Recipe, run: Path, extra: dict[str, Any], *, keep_result: bool = False
) -> dict[str, Any]:
    """Score the evaluation split, write scores/SPLIT.npz and (unless `keep_result`) result.json, return the result."""
    rows = data.evaluation
    verb, noun = score(head, data, rows)
    write_scores(run, recipe.data.eval_split, data, rows, verb, noun)
    prior = [np.tile(p, (len(rows), 1)) for p in data.log_prior()]
    result = {
        "title": recipe.title or run.name,
        "head": recipe.head,
        "split": recipe.data.eval_split,
        "text_protocol": data.text_protocol,
        "streams": data.provenance,
        "metrics": measure(data, rows, verb, noun),
        "prior_metrics": measure(data, rows, *prior),
        "rows": {
            "train": len(data.train),
            "scored": len(rows),
            "scored_by_prior": int((~data.usable[rows]).sum()),
            "failed": data.failed,
        },
        "params": {"total": head.num_params(), "without_classifiers": head.num_params(heads=False)},
        "scan_backend": getattr(head, "scan_backend", None),
        "seed": recipe.train.seed,
        "epochs": recipe.train.epochs,
        "recipe": recipe.model_dump(mode="json", exclude_none=True),
        "environment": environment(),
        **extra,
    }
    if not keep_result:
        fsops.write_file(run / RESULT, schema.pretty_json(result))
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
    own_split = recipe.data.eval_split
    if split:
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"eval_split": split})})
    data = FeatureData(recipe.streams, recipe.data)
    _refuse_other_features(run, data)
    head = build_head(recipe, data)
    try:
        head.load_state_dict(weights)
    except RuntimeError as error:
        raise DataError(f"{run / MODEL}: does not fit the run's recipe: {error}") from None
    old = json.loads((run / RESULT).read_bytes()) if (run / RESULT).exists() else {}
    extra = {key: old[key] for key in ("train_seconds", "precision", "processes") if key in old}
    return evaluate_head(head, data, recipe, run, extra, keep_result=recipe.data.eval_split != own_split)


def _refuse_other_features(run: Path, data: FeatureData) -> None:
    trained = json.loads((run / STREAMS).read_bytes())
    where = ("stores", "store_ids")  # may differ: the features may have moved, or be those of another split

    def recipes(provenance: dict[str, Any]) -> dict[str, Any]:
        return {name: {k: v for k, v in entry.items() if k not in where} for name, entry in provenance.items()}

    faults = schema.differences(recipes(trained), recipes(data.provenance))
    if faults:
        raise DataError(
            f"{run}: its head was trained on other features. What differs (trained on -> given):\n  " + "\n  ".join(faults[:20])
        )


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
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path}: cannot be read ({error}); `mambavl evaluate {run}` makes it anew") from None


def read_result(run: Path) -> dict[str, Any]:
    """Raises DataError when there is none."""
    path = Path(run) / RESULT
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        if (Path(run) / "recipe.toml").exists():
            raise DataError(f"{run}: has no {RESULT}: it has not finished; run the same `mambavl train` again") from None
        raise DataError(f"{run}: is no run: it has neither {RESULT} nor recipe.toml") from None
    except ValueError as error:
        raise DataError(f"{path}: is damaged ({error}); `mambavl evaluate {run}` makes it anew") from None


def environment() -> dict[str, str | None]:
    """What ran: recorded, never compared."""
    import accelerate

    return {
        "mambavl": mambavl.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "accelerate": accelerate.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def _commit() -> str | None:
    """The commit of the checkout this package is installed from; None for a wheel."""
    folder = Path(mambavl.__file__).resolve().parent
    command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
