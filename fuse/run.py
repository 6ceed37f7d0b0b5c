"""The folder of a run: its files' names, what is written into it and read back, and what is refused.

recipe.toml, streams.json, classes.json, prior.json     the resolved recipe, and what it was fed
selection.json                                          what a sweep chose its recipe among, if one did
curves.jsonl, checkpoints/                              while it trains
model.safetensors, scores/SPLIT.npz, result.json        once it has finished; without weights by `train.keep`
choice.json                                             what a head that counts was chosen among
fusion.json                                             of a folder of several runs' scores as one: which
lock, failure.json                                      who trains it, why the last attempt failed (`owner`)
pruned.json                                             why a search gave it up
"""

import importlib.metadata
import io
import json
import platform
import subprocess
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mambavl.cache import canonical, fsops
from mambavl.cache.classes import Classes
from mambavl.configs import dump, read_toml, validate
from mambavl.configs.errors import DataError, UsageError, differs
from mambavl.fuse import older
from mambavl.fuse.data import FeatureData
from mambavl.fuse.optimizer import ScoreDtype
from mambavl.fuse.recipe import Recipe, what_decides
from mambavl.fuse.result import Environment, Result, Selection, selection_of
from mambavl.fuse.targets import RunTargets

RECIPE, STREAMS, CLASSES, PRIOR = "recipe.toml", "streams.json", "classes.json", "prior.json"
CURVES, CHECKPOINTS = "curves.jsonl", "checkpoints"
MODEL, SCORES, RESULT = "model.safetensors", "scores", "result.json"
SELECTION = "selection.json"
CHOICE, FUSION = "choice.json", "fusion.json"
LOCK, FAILURE, BEGUN, PRUNED = "lock", "failure.json", "begun.json", "pruned.json"
TRACKERS = "trackers"
INPUTS = {RECIPE, STREAMS, CLASSES, PRIOR, SELECTION}
OTHERS = {LOCK, FAILURE, BEGUN, PRUNED, TRACKERS}
FILES = {*INPUTS, CURVES, CHECKPOINTS, MODEL, SCORES, RESULT, CHOICE, *OTHERS}

Scores = Mapping[str, np.ndarray]  # target -> log-probabilities (rows, classes)
Prior = Mapping[str, np.ndarray]  # target -> log-probabilities (classes,) of the training labels

# A line of curves.jsonl: epoch (from 1), loss (mean over its batches), lr (of the last update, on the scale
# of `train.lr`), seconds (that updates took since training began, also before a resumed run was interrupted;
# scoring and saving are no part of them); and, where it was scored, TARGET_top1 or TARGET_map in percent.
CurveLine = dict[str, Any]


# --- what a run was fed


def write_inputs(run: Path, recipe: Recipe, data: FeatureData, targets: RunTargets, prior: Prior) -> None:
    """What evaluation and the report need of the recipe and the stores, so that a run stands on its own."""
    fsops.make_folder(run)
    fsops.write_file(run / STREAMS, canonical.pretty_json(_provenance(data)))
    fsops.write_file(run / CLASSES, targets.classes.to_json())
    priors = {name: values.tolist() for name, values in prior.items()}
    fsops.write_file(run / PRIOR, canonical.pretty_json(priors))
    fsops.write_file(run / RECIPE, dump(recipe).encode())


def read_recipe(run: Path) -> Recipe:
    """The resolved recipe of a run. Raises DataError when the folder is not a run."""
    return validate(older.recipe(_raw_recipe(run)), Recipe, str(run / RECIPE), recorded=True)


def read_prior(run: Path) -> Prior:
    return {name: np.array(values) for name, values in json.loads((run / PRIOR).read_bytes()).items()}


def read_classes(run: Path) -> Classes:
    return Classes.from_json((run / CLASSES).read_bytes())


def _raw_recipe(run: Path) -> dict[str, Any]:
    if (run / FUSION).is_file():
        raise DataError(f"{run}: holds scores of several runs as one, and no head; {FUSION} names the runs")
    if not (run / RECIPE).is_file():
        runs = sorted(path.parent for path in run.glob(f"*/{RECIPE}"))
        hint = f"`mambavl train RECIPE --out {run}` makes one"
        if runs:
            hint = f"it holds runs: name one, such as {runs[0]}, or for a report {run}/*"
        raise DataError(f"{run}: is not a run: it has no {RECIPE}; {hint}")
    return read_toml(run / RECIPE)


def _provenance(data: FeatureData) -> dict[str, dict[str, Any]]:
    return {name: stream.to_dict() for name, stream in data.provenance.items()}


# --- what is refused


def refuse_other_folder(run: Path) -> None:
    """Raises UsageError where the folder holds something else: nothing is written into it then."""
    if run.exists() and not run.is_dir():
        raise UsageError(f"{run}: is a file; name a folder for the run with --out")
    names = [entry.name for entry in run.glob("*")]
    foreign = [name for name in names if name not in FILES and not name.startswith(fsops.TEMPORARY)]
    if foreign and not (run / RECIPE).exists():
        raise UsageError(f"{run}: is not a run and not empty ({foreign[0]}); use another --out")


def refuse_other_recipe(run: Path, recipe: Recipe) -> None:
    """Raises UsageError where the folder belongs to a run whose recipe gives other weights: keys that the run
    is older than have their defaults, and keys that change no weight may differ.
    """
    if not (run / RECIPE).exists():
        return
    try:
        begun_with = read_recipe(run)
    except UsageError as error:
        raise UsageError(f"{run}: has a recipe that cannot be compared; use another --out\n{error}") from None
    faults = canonical.differences(what_decides(begun_with), what_decides(recipe))
    if faults:
        what = differs(faults, "there -> asked for")
        raise UsageError(f"{run}: belongs to another recipe. {what}\nUse another --out.")


def refuse_other_stores(run: Path, data: FeatureData) -> None:
    """Raises UsageError where an interrupted run would go on with other features than it began with."""
    faults = _differences_from_run(run, data, ("stores",)) if (run / STREAMS).exists() else []
    if faults:
        what = differs(faults, "begun with -> given")
        raise UsageError(f"{run}: was begun with other stores. {what}\nUse another --out.")


def refuse_other_features(run: Path, data: FeatureData) -> None:
    """Raises DataError where a trained head would be scored on features of another recipe.

    The stores and their ids may differ: the features may have moved, or be those of another split.
    """
    faults = _differences_from_run(run, data, ("stores", "store_ids"))
    if faults:
        what = differs(faults, "trained on -> given")
        raise DataError(f"{run}: its head was trained on other features. {what}")


def refuse_other_classes(run: Path, classes: Classes) -> None:
    """Raises DataError where stores name the classes of the run's targets otherwise than those that its head
    was trained on. Groups may differ: another split has other rows in them.
    """
    before = read_classes(run)
    faults = []
    for name, target in before.targets.items():
        found = classes.targets.get(name)
        if found is None:
            faults.append(f"{name}: a target -> none; the stores have {', '.join(classes.targets)}")
            continue
        meant, given = (
            {"kind": one.kind, "count": one.count, "classes": {str(i): key for i, key in one.classes.items()}}
            for one in (target, found)
        )
        faults += canonical.differences(meant, given, name)
    for name, derived in before.derived.items():
        other = classes.derived.get(name)
        if other is None or other.of != derived.of:
            faults.append(f"{name}: {derived.of} -> {other.of if other else None}")
    if faults:
        what = differs(faults, "trained on -> given")
        raise DataError(f"{run}: its head was trained on other classes. {what}")


def _differences_from_run(run: Path, data: FeatureData, apart_from: tuple[str, ...]) -> list[str]:
    """The fields of provenance in which `data` is not what the run was fed."""

    def kept(provenance: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        found = {}
        for name, stream in provenance.items():
            found[name] = {key: value for key, value in stream.items() if key not in apart_from}
        return found

    before = json.loads((run / STREAMS).read_bytes())
    return canonical.differences(kept(before), kept(_provenance(data)))


def refuse_without_weights(run: Path, recipe: Recipe) -> None:
    """Raises DataError for a finished run that kept its scores alone: it has no head to score with."""
    if recipe.train.keep == "scores" and (run / RESULT).exists() and not (run / MODEL).exists():
        raise DataError(
            f"{run}: kept its scores and no weights (train.keep = scores), so it has no head to score with; "
            f"`mambavl train {run / RECIPE} --set train.keep=weights --out {run}-weights` trains it again"
        )


# --- what a run gives


def read_curves(run: Path) -> list[CurveLine]:
    """The lines of curves.jsonl, one per epoch; none without the file. Raises DataError if it is damaged."""
    path = run / CURVES
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise DataError(f"{path}: is damaged ({error}); remove it to show the run without curves") from None


def as_kept(scores: Scores, dtype: ScoreDtype) -> Scores:
    """Scores in the number format that `train.score_dtype` names. One that is too low for float16 becomes
    the lowest that is not -inf.
    """
    lowest = np.finfo(dtype).min
    return {
        name: np.where(np.isneginf(found), found, np.maximum(found, lowest)).astype(dtype)
        for name, found in scores.items()
    }


def write_scores(
    run: Path, split: str, data: FeatureData, targets: RunTargets, rows: np.ndarray, scores: Scores
) -> None:
    """scores/SPLIT.npz of `rows` (N,): narration_id; by target TARGET (N, classes), log-probabilities, and
    TARGET_label, the labels that they were measured against, as `Labels`; of a derived target with a
    classifier TARGET (N, pairs), and what its columns are: TARGET_pairs (pairs, parts), for actions `pairs`.
    """
    ids = [data.segments[row].narration_id for row in rows]
    labels = {name: data.labels[name][rows] for name in targets.classes.targets}
    write_arrays(run, split, ids, targets.classes, scores, labels)


def write_arrays(
    run: Path, split: str, ids: Sequence[str], classes: Classes, scores: Scores, labels: Scores
) -> None:
    """`write_scores`, of rows that are told by their ids."""
    arrays: dict[str, Any] = {"narration_id": np.array(ids), **scores}
    for name in scores:
        if name not in classes.derived:
            arrays[f"{name}_label"] = labels[name]
        elif pairs := classes.derived[name].pairs:
            arrays["pairs" if name == "action" else f"{name}_pairs"] = np.array(pairs)
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    fsops.make_folder(run / SCORES)
    fsops.write_file(scores_file(run, split), packed.getvalue())


def scores_file(run: Path, split: str) -> Path:
    return Path(run) / SCORES / f"{split}.npz"


def read_scores(run: Path, split: str) -> dict[str, np.ndarray]:
    """The arrays of `write_scores`, by name, float16 ones as float32. Raises DataError when there are none,
    or they are damaged.
    """
    path = scores_file(run, split)
    try:
        with np.load(path, allow_pickle=False) as scores:
            found = dict(scores)
        return {
            name: array.astype(np.float32) if array.dtype == np.float16 else array
            for name, array in found.items()
        }
    except FileNotFoundError:
        raise DataError(
            f"{run}: has no scores ({path} is missing); `mambavl evaluate {run} --split {split}` makes them"
        ) from None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); `mambavl evaluate {run} --split {split}` makes it again"
        ) from None


def write_pruning(run: Path, epoch: int, why: str) -> None:
    fsops.write_file(run / PRUNED, canonical.pretty_json({"epoch": epoch, "why": why}))


def why_pruned(run: Path) -> str | None:
    """Such as `after epoch 3 of 10, ...`; None where no search gave the run up, or it went on since."""
    try:
        return str(json.loads((run / PRUNED).read_bytes())["why"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{run / PRUNED}: is damaged ({error}); remove it to train the run again") from None


def write_selection(run: Path, selection: Selection) -> None:
    fsops.write_file(run / SELECTION, canonical.pretty_json(asdict(selection)))


def read_selection(run: Path) -> Selection | None:
    """None where no sweep chose the run's recipe. Raises DataError when the file is damaged."""
    path = run / SELECTION
    try:
        return selection_of(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: is damaged ({error}); remove it and run the sweep again") from None


def write_result(run: Path, result: Result) -> None:
    fsops.write_file(run / RESULT, canonical.pretty_json(result.to_dict()))


def read_result(run: Path) -> Result:
    """Raises DataError when the run has no result, or one that is damaged."""
    path = Path(run) / RESULT
    try:
        raw = json.loads(path.read_bytes())
        if not isinstance(raw, dict):
            raise ValueError("it is not an object")
        return Result.from_dict(older.result(raw))
    except (FileNotFoundError, NotADirectoryError):
        _raw_recipe(Path(run))  # says so where it is no run at all
        raise DataError(
            f"{run}: has no {RESULT}: it has not finished; run the same `mambavl train` again"
        ) from None
    except ValueError as error:
        raise DataError(f"{path}: is damaged ({error}); `mambavl evaluate {run}` makes it again") from None


def environment(device: torch.device) -> Environment:
    """What runs here."""
    return Environment(
        mambavl=importlib.metadata.version("mambavl"),
        commit=_commit(),
        python=platform.python_version(),
        torch=torch.__version__,
        accelerate=importlib.metadata.version("accelerate"),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    )


def _commit() -> str | None:
    """The commit of the checkout this package runs from, `-dirty` with uncommitted changes; None where git
    does not track it.
    """
    here = Path(__file__).resolve()
    git = ["git", "-C", str(here.parent)]
    tracked_file = [*git, "ls-files", "--error-unmatch", here.name]
    describe = [*git, "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        if subprocess.run(tracked_file, capture_output=True, timeout=10, check=False).returncode:
            return None
        return subprocess.run(describe, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None  # no git here: the version alone has to do
