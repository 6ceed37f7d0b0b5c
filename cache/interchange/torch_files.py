"""Named arrays in files of torch: a folder of NAME.pt, each a tensor or a dict of them.

Such a file is a program. It is loaded with `weights_only`, which runs nothing but what makes tensors.
"""

import pickle
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from mambavl.cache.interchange.arrays import (
    TORCH_SUFFIXES,
    Arrays,
    files_by_stem,
    named_files,
    readable,
)
from mambavl.configs.errors import DataError, UsageError, some


def torch_arrays(source: Path, dataset: str | None, videos: Collection[str] = ()) -> Arrays:
    """A folder of NAME.pt or NAME.pth; `dataset` says which tensor of a dict. Names as for `npy_arrays`."""
    named = named_files(files_by_stem(source, TORCH_SUFFIXES), dataset, videos)

    def describe(name: str) -> tuple[tuple[int, ...], str]:
        tensor = _tensor(*named[name])
        return tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")

    def read(name: str) -> np.ndarray:
        import torch

        tensor = _tensor(*named[name])
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()

    return Arrays(set(named), describe, read)


def _tensor(path: Path, dataset: str | None) -> Any:
    """The tensor in a file; where torch can, its values are read when they are asked for."""
    import torch

    with readable(path, RuntimeError, pickle.UnpicklingError):
        is_zip = zipfile.is_zipfile(path)  # the older kind can only be read whole
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    if isinstance(found, dict):
        tensors = {str(key): value for key, value in found.items() if isinstance(value, torch.Tensor)}
        names = [dataset] if dataset else list(tensors)
        if len(names) != 1 or names[0] not in tensors:
            asked = f"has no tensor {dataset!r}" if dataset else "is a dict; name one with --set dataset=NAME"
            raise UsageError(f"{path}: {asked}; it holds {some(list(tensors)) or 'no tensor'}")
        found = tensors[names[0]]
    if not isinstance(found, torch.Tensor):
        raise DataError(f"{path}: holds no tensor but a {type(found).__name__}; save one, (steps, D)")
    if found.layout != torch.strided:
        raise DataError(f"{path}: holds a sparse tensor; save it as a dense one, (steps, D)")
    return found.detach()
