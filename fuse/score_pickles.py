"""Scores that somebody pickled, or saved by torch: read in a child, which knows arrays, tensors, lists,
dicts, texts and numbers, and refuses whatever else a file asks for before it is made.

Forms: a dict of arrays; a list of dicts, one a row, as EK100's recognition program takes them; a dict of such
dicts, by id.
"""

import pickle
import types
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mambavl.configs.untrusted import TENSORS

IDS = "narration_id"
PLAIN = "biufUS"  # kinds of numpy's dtypes that are numbers and texts
WAY_OUT = "save the scores as arrays: `numpy.savez(FILE, narration_id=..., verb=..., noun=...)`"


def read_untrusted(source: str, target: str) -> dict[str, Any]:
    """In the child of `untrusted.convert`: the arrays of a file, as npz."""
    arrays = _arrays(_loaded(source))
    with open(target, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    return {}


def _loaded(source: str) -> Any:
    if zipfile.is_zipfile(source):
        return torch.load(source, map_location="cpu", weights_only=False, pickle_module=_pickle_module())
    with open(source, "rb") as file:
        return _Unpickler(file).load()


def _pickle_module() -> types.ModuleType:
    """What torch.load takes in place of the module `pickle`."""
    module = types.ModuleType("scores_pickle")
    load = lambda file, **options: _Unpickler(file, **options).load()
    vars(module).update(Unpickler=_Unpickler, load=load, UnpicklingError=pickle.UnpicklingError)
    return module


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in TENSORS:
            return super().find_class(module, name)
        if module.partition(".")[0] in ("numpy", "_codecs", "builtins", "__builtin__") and name in NAMES:
            return NAMES[name]
        raise pickle.UnpicklingError(f"asks for {module}.{name}, which is no part of scores; {WAY_OUT}")


def _encoded(text: str, encoding: str = "latin1") -> bytes:
    """How pickles of protocol 2 write bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"writes bytes in {encoding!r}")
    return text.encode("latin-1")


def _reconstruct(kind: Any, shape: Any, code: Any) -> np.ndarray:
    """An empty array, whose content and shape the file sets next."""
    return np.ndarray.__new__(np.ndarray, (0,), "b")


def _from_buffer(data: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    return np.frombuffer(data, dtype=_plain(dtype)).reshape(shape, order="F" if order == "F" else "C")


def _scalar(dtype: Any, data: bytes) -> Any:
    return np.frombuffer(data, dtype=_plain(dtype))[0]


def _plain(dtype: np.dtype) -> np.dtype:
    if dtype.kind not in PLAIN:
        raise pickle.UnpicklingError(f"holds values of the kind {dtype}; {WAY_OUT}")
    return dtype


NAMES: dict[str, Callable[..., Any]] = {
    "ndarray": np.ndarray,
    "dtype": np.dtype,
    "_reconstruct": _reconstruct,
    "_frombuffer": _from_buffer,
    "scalar": _scalar,
    "encode": _encoded,
    "bytes": lambda: b"",  # how protocol 2 writes no bytes
}


def _arrays(loaded: Any) -> dict[str, np.ndarray]:
    if isinstance(loaded, dict) and loaded and all(isinstance(one, dict) for one in loaded.values()):
        loaded = [{IDS: name, **row} for name, row in loaded.items()]
    if isinstance(loaded, list) and loaded and all(isinstance(one, dict) for one in loaded):
        keys = set(loaded[0])
        if other := next((number for number, row in enumerate(loaded) if set(row) != keys), None):
            raise pickle.UnpicklingError(f"row {other} has other keys than row 0; {WAY_OUT}")
        loaded = {key: [row[key] for row in loaded] for key in loaded[0]}
    if not isinstance(loaded, dict) or not loaded:
        raise pickle.UnpicklingError(f"holds a {type(loaded).__name__} and no arrays by name; {WAY_OUT}")
    return {str(key): _array(str(key), value) for key, value in loaded.items()}


def _array(key: str, value: Any) -> np.ndarray:
    try:
        found = _number_array(value)
    except ValueError:  # rows of several lengths
        raise pickle.UnpicklingError(f"rows of {key} are of several lengths") from None
    if found.dtype.kind not in PLAIN:
        raise pickle.UnpicklingError(f"{key} holds neither numbers nor texts; {WAY_OUT}")
    return found


def _number_array(value: Any) -> np.ndarray:
    if isinstance(value, Tensor):
        return value.detach().to(torch.float32 if value.dtype == torch.bfloat16 else value.dtype).numpy()
    if isinstance(value, list | tuple) and any(isinstance(one, Tensor) for one in value):
        return np.stack([_number_array(one) for one in value])
    found = np.asarray(value)
    return np.array(found.tolist()) if found.dtype == object else found  # texts are often kept so
