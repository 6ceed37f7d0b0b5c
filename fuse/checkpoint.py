"""Checkpoints that a kill cannot spoil: a folder is written under a temporary name, synced, marked complete,
then renamed.

The mark (COMPLETE.json) holds every file's sha256; a checkpoint without it, or one that does not match it, is
never loaded. One older checkpoint is kept until the next one is safe. Tensors go to safetensors, the rest to
JSON: loading runs no code.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from mambavl.cache import fsops
from mambavl.configs.errors import DataError

COMPLETE = "COMPLETE.json"
MODEL, AVERAGE = "model.safetensors", "average.safetensors"
KEPT = 2


class Checkpoint(NamedTuple):
    """What a checkpoint holds."""

    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    state: dict[str, Any]
    average: dict[str, Tensor] | None  # moving averages of the weights, where they are taken
    complaints: list[str]  # damaged checkpoints that were passed over


def save_checkpoint(
    folder: Path,
    step: int,
    model: dict[str, Tensor],
    optimizer: dict[str, Any],
    state: dict[str, Any],
    average: dict[str, Tensor] | None = None,
) -> None:
    """Write `folder/step-N` whole or not at all, then remove all but the newest two."""
    final = folder / f"step-{step:08d}"
    temporary = fsops.temporary_name(final)
    # saved before; the same step of the same run is the same checkpoint
    if final.is_dir() and _read(final)[1] is None:
        fsops.make_folder(folder)
        fsops.sync_folder(folder)  # a process killed right after its rename has not synced it
        return
    tensors, scalars = _split_optimizer(optimizer)
    files = {
        MODEL: _packed(model),
        "optimizer.safetensors": save(tensors),
        "state.json": json.dumps({**state, "step": step, "optimizer": scalars}, sort_keys=True).encode(),
    }
    if average is not None:
        files[AVERAGE] = _packed(average)
    _sweep_temporaries(folder)
    fsops.make_folder(temporary)
    for name, data in files.items():
        fsops.write_file(temporary / name, data)
    mark = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    fsops.write_file(temporary / COMPLETE, json.dumps(mark, sort_keys=True).encode())
    fsops.remove_folder(final)
    fsops.rename(temporary, final)
    for old in _steps(folder)[:-KEPT]:
        fsops.remove_folder(old)


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest sound checkpoint; None when there is none at all. Raises DataError when all are damaged:
    training never silently starts over.
    """
    complaints = []
    for path in reversed(_steps(folder)):
        files, fault = _read(path)
        if fault:
            complaints.append(fault)
            continue
        state = json.loads(files["state.json"])
        optimizer = _join_optimizer(load(files["optimizer.safetensors"]), state.pop("optimizer"))
        average = load(files[AVERAGE]) if AVERAGE in files else None
        return Checkpoint(load(files[MODEL]), optimizer, state, average, complaints)
    if complaints:
        raise DataError(
            "no checkpoint can be loaded:\n" + "\n".join(complaints) + "\nremove the folder to start over"
        )
    return None


def _sweep_temporaries(folder: Path) -> None:
    """Remove what killed processes of this machine left between write and rename."""
    for path, is_dead in list(fsops.temporaries(folder)):
        if is_dead and path.is_dir():
            fsops.remove_folder(path)


def _steps(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*")) if folder.is_dir() else []


def _read(path: Path) -> tuple[dict[str, bytes], str | None]:
    try:
        mark = json.loads((path / COMPLETE).read_bytes())
        files = {name: (path / name).read_bytes() for name in mark}
    except (OSError, ValueError) as error:
        return {}, f"{path}: is not complete ({error})"
    for name, data in files.items():
        if hashlib.sha256(data).hexdigest() != mark[name]:
            return {}, f"{path / name}: is damaged; its sha256 is not the one in {COMPLETE}"
    return files, None


def _split_optimizer(optimizer: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state dict as tensors (key `parameter.name`) and plain numbers, which JSON holds."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, float] = {}
    for parameter, values in optimizer["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{parameter}.{name}"] = value.detach().cpu().contiguous()
            else:
                numbers[f"{parameter}.{name}"] = value
    return tensors, {"numbers": numbers, "param_groups": optimizer["param_groups"]}


def _join_optimizer(tensors: dict[str, Tensor], scalars: dict[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **scalars["numbers"]}.items():
        parameter, _, name = key.partition(".")
        state.setdefault(int(parameter), {})[name] = value
    return {"state": state, "param_groups": scalars["param_groups"]}


def save_weights(path: Path, model: dict[str, Tensor]) -> None:
    """The finished head's weights as one safetensors file."""
    fsops.write_file(path, _packed(model))


def _packed(model: dict[str, Tensor]) -> bytes:
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in model.items()})


def load_weights(path: Path) -> dict[str, Tensor]:
    """What `save_weights` wrote. Raises DataError where the file is missing or damaged."""
    try:
        return load(path.read_bytes())
    except FileNotFoundError:
        raise DataError(
            f"{path}: is not there; the run has not finished (run `mambavl train` with the same --out)"
        ) from None
    except SafetensorError as error:
        raise DataError(f"{path}: is damaged ({error}); train the run again") from None
