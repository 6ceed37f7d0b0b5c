"""The folder of a run: its files' names, what is written into it and read back, and what is refused."""

import importlib.metadata
import io
import json
import platform
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mambavl
from mambavl.cache import canonical, fsops
from mambavl.configs import dump, read_toml, validate
from mambavl.configs.errors import DataError, UsageError, differs
from mambavl.fuse.data import FeatureData
from mambavl.fuse.recipe import Recipe

# Files of a run: the resolved recipe, what it was fed, class names, the training prior, the head.
RECIPE, STREAMS, CLASSES, PRIOR, MODEL = (
    "recipe.toml",
    "streams.json",
    "classes.json",
    "prior.json",
    "model.safetensors",
)


def read_run_recipe(run: Path) -> dict[str, Any]:
    """The resolved recipe of a run, as data. Raises DataError when the folder is no run."""
    if not (run / RECIPE).is_file():
        raise DataError(f"{run}: is no run: it has no {RECIPE}; `mambavl train RECIPE --out {run}` makes one")
    return read_toml(run / RECIPE)


def run_recipe(run: Path) -> Recipe:
    """The resolved recipe of a run, checked."""
    return validate(read_run_recipe(run), Recipe, str(run / RECIPE))


CURVES, CHECKPOINTS = "curves.jsonl", "checkpoints"


def write_inputs(run: Path, recipe: Recipe, data: FeatureData) -> None:
    """What evaluation and the report need of the recipe and the stores, so that a run stands on its own."""
    prior = {
        target: values.tolist() for target, values in zip(("verb", "noun"), data.log_prior(), strict=True)
    }
    fsops.make_folder(run)
    fsops.write_file(run / STREAMS, canonical.pretty_json(data.provenance))
    fsops.write_file(run / CLASSES, data.classes.to_json())
    fsops.write_file(run / PRIOR, canonical.pretty_json(prior))
    fsops.write_file(run / RECIPE, dump(recipe).encode())


def refuse_other_folder(run: Path) -> None:
    """Nothing is written into a folder that holds something else."""
    ours = {RECIPE, STREAMS, CLASSES, PRIOR, CURVES, CHECKPOINTS, MODEL, RESULT, SCORES}
    if run.exists() and not run.is_dir():
        raise UsageError(f"{run}: is a file; name a folder for the run with --out")
    foreign = [
        entry.name
        for entry in run.glob("*")
        if entry.name not in ours and not entry.name.startswith(fsops.TEMPORARY)
    ]
    if foreign and not (run / RECIPE).exists():
        raise UsageError(f"{run}: is no run and not empty ({foreign[0]}); use another --out")


def refuse_other_recipe(run: Path, recipe: Recipe) -> None:
    if not (run / RECIPE).exists():
        return
    existing = read_run_recipe(run)
    wanted = recipe.model_dump(mode="json", exclude_none=True)
    faults = canonical.differences(existing, wanted)
    if faults:
        raise UsageError(
            f"{run}: belongs to another recipe. {differs(faults, 'there -> asked for')}\nUse another --out."
        )


def refuse_other_stores(run: Path, data: FeatureData) -> None:
    """A run that was interrupted goes on with the very features that it began with."""
    faults = differences_from_run(run, data, apart_from=("stores",)) if (run / STREAMS).exists() else []
    if faults:
        raise UsageError(
            f"{run}: was begun with other stores. {differs(faults, 'begun with -> given')}\nUse another --out."
        )


RESULT, SCORES = "result.json", "scores"


REQUIRED = {"metrics", "prior_metrics", "split", "streams", "recipe", "seed"}


def refuse_other_features(run: Path, data: FeatureData) -> None:
    # The stores and their ids may differ: the features may have moved, or be those of another split.
    faults = differences_from_run(run, data, apart_from=("stores", "store_ids"))
    if faults:
        raise DataError(
            f"{run}: its head was trained on other features. {differs(faults, 'trained on -> given')}"
        )


def differences_from_run(run: Path, data: FeatureData, apart_from: tuple[str, ...]) -> list[str]:
    """The fields of provenance in which `data` is not what the run was fed."""

    def kept(provenance: dict[str, Any]) -> dict[str, Any]:
        return {
            name: {k: v for k, v in entry.items() if k not in apart_from}
            for name, entry in provenance.items()
        }

    return canonical.differences(kept(json.loads((run / STREAMS).read_bytes())), kept(data.provenance))


def write_scores(
    run: Path, split: str, data: FeatureData, rows: np.ndarray, verb: np.ndarray, noun: np.ndarray
) -> None:
    """scores/SPLIT.npz: narration_id, verb, noun (log-probabilities), and the labels they were measured
    against.
    """
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
        raise DataError(
            f"{run}: has no scores ({path} is not there); `mambavl evaluate {run}` makes them"
        ) from None
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
            raise DataError(
                f"{run}: has no {RESULT}: it has not finished; run the same `mambavl train` again"
            ) from None
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
    """The commit of the checkout this package runs from, `-dirty` with uncommitted changes; None where git
    does not track it.
    """
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
