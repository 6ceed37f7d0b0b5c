"""Published checkpoints (.pth, .pt, .pyth), read without running what is in them.

A pickle names functions and has them called. Here every name but those that put a tensor together stands for
an inert object: a Namespace, an optimiser, a logger is read over and left out, and a hostile function is
never found, so never called. It happens in a child process with bounded memory and time
(`configs.untrusted`), which hands back one safetensors file.
"""

import pickle
import tempfile
import types
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mambavl.cache import fsops
from mambavl.cache.canonical import file_sha256
from mambavl.configs import untrusted
from mambavl.configs.errors import UsageError
from mambavl.extract.encoders.published.keys import without_module

# where published checkpoints keep their weights
STATES = ("model_state", "state_dict", "model", "module", "net")
LIMITS = untrusted.Limits(seconds=900, room=8 * 2**30, times=4)


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The weights of a checkpoint under their own names, and what else was in the file.

    Raises UsageError, one line that names the file, for whatever is not a checkpoint, is cut short, or tries
    to run something.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such checkpoint")
    if path.suffix == ".safetensors":
        try:
            return load_file(path), []
        # safetensors raises its own kind and a few of Python's; each means that it cannot be read
        except Exception as error:
            raise UsageError(f"{path}: cannot be read ({error})") from None
    _look_before(path)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "weights.safetensors"
        try:
            answer = untrusted.convert(path, out, __name__, LIMITS)
        except untrusted.Refused as refused:
            raise UsageError(f"{path}: {refused}") from None
        return load_file(out), answer["left_out"]


def _look_before(path: Path) -> None:
    """What can be known of an archive from its list: a bomb, a program."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError) as error:
        raise UsageError(f"{path}: is a damaged archive ({error})") from None
    packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    if packed or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise UsageError(
            f"{path}: holds compressed entries, which no checkpoint of PyTorch does; it is not unpacked"
        )
    if any(Path(entry.filename).name == "constants.pkl" for entry in entries):
        raise UsageError(f"{path}: is a TorchScript program, not a checkpoint; it is not run")


# --- in the child


class Inert:
    """Stands for any object of a pickle that is not a tensor. It takes whatever is done to it, and does
    nothing.
    """

    def __new__(cls, *_: Any, **__: Any) -> "Inert":
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass

    def __setitem__(self, _: Any, __: Any) -> None:
        pass

    def append(self, _: Any) -> None:
        pass

    def extend(self, _: Any) -> None:
        pass


class Unpickler(pickle.Unpickler):
    """Finds the functions that rebuild tensors; all other names are Inert."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in untrusted.TENSORS:
            return super().find_class(module, name)
        return type(name.rpartition(".")[2], (Inert,), {})


def _pickle_module() -> types.ModuleType:
    """What torch.load takes in place of the module `pickle`."""
    module = types.ModuleType("inert_pickle")
    vars(module).update(Unpickler=Unpickler, load=_load, UnpicklingError=pickle.UnpicklingError)
    return module


def _load(file: Any, **options: Any) -> Any:
    return Unpickler(file, **options).load()


def _weights(loaded: Any) -> tuple[dict[str, Tensor], list[str]]:
    """The state dict in a checkpoint, and the names of what else it holds."""
    left_out: list[str] = []
    while isinstance(loaded, dict) and not any(isinstance(value, Tensor) for value in loaded.values()):
        inner = next((key for key in STATES if isinstance(loaded.get(key), dict)), None)
        if inner is None:
            raise ValueError(
                f"holds no weights under {', '.join(STATES)}; it has "
                f"{', '.join(map(str, list(loaded)[:8])) or 'nothing'}"
            )
        left_out += [str(key) for key in loaded if key != inner]
        loaded = loaded[inner]
    if not isinstance(loaded, dict):
        raise ValueError(f"holds a {type(loaded).__name__}, not weights by name")
    weights = {}
    for key, value in loaded.items():
        if isinstance(key, str) and isinstance(value, Tensor) and value.layout == torch.strided:
            weights[key] = value.detach().clone(memory_format=torch.contiguous_format)  # no two share memory
        else:
            left_out.append(str(key))
    return weights, left_out


def read_untrusted(source: str, target: str) -> dict[str, Any]:
    """In the child of `untrusted.convert`: a checkpoint's weights, written as safetensors."""
    loaded = torch.load(source, map_location="cpu", weights_only=False, pickle_module=_pickle_module())
    try:
        weights, left_out = _weights(loaded)
    except ValueError as error:
        return {"fault": str(error)}
    save_file(weights, target)
    return {"left_out": left_out}


def convert_checkpoint(
    file: Path, out: Path, ours_of: Callable[[Mapping[str, Tensor]], tuple[dict[str, str], dict[str, Tensor]]]
) -> dict[str, Any]:
    """Write a published checkpoint as safetensors under our names; say what was in it.

    ours_of: its tensors -> what the new file says of itself, and the tensors under our names; raises
    UsageError for those of another model. The file is read without running what is in it. Raises UsageError,
    and writes nothing, where it is damaged or holds NaN or infinity.
    """
    if out.suffix != ".safetensors":
        raise UsageError(f"{out}: a converted file is named *.safetensors")
    if out.exists():
        raise UsageError(f"{out}: exists already; name another file, or delete it first")
    state, left_out = read_checkpoint(file)
    state = without_module(state)
    try:
        metadata, ours = ours_of(state)
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from None
    broken = [
        name
        for name, tensor in ours.items()
        if tensor.is_floating_point() and not torch.isfinite(tensor).all()
    ]
    if broken:
        raise UsageError(f"{file}: NaN or infinity in {len(broken)} tensors ({', '.join(broken[:5])})")
    source = file_sha256(file)
    fsops.make_folder(out.parent)
    with fsops.written_aside(out) as unfinished:
        contiguous = {name: tensor.contiguous() for name, tensor in ours.items()}
        save_file(contiguous, unfinished, {**metadata, "source_sha256": source})
    return {
        "tensors": len(ours),
        "parameters": sum(tensor.numel() for tensor in ours.values()),
        "source_sha256": source,
        "left_out": left_out,
        "tensors_left_out": len(state) - len(ours),
    }
