"""Weights: loaded without running code, and named by a hash that does not depend on how the file was packed."""

import hashlib
import pickle
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from mambavl.configs.errors import UsageError

WeightsState = Literal["pretrained", "ek100-finetuned", "random"]  # what they were trained on


def weights_sha256(module: nn.Module) -> str:
    """sha256 over every tensor of a state dict (name, dtype, shape, bytes): the same however the file was packed."""
    total = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return total.hexdigest()


def load_weights(module: nn.Module, path: Path) -> None:
    """Load a state dict strictly, without running code from the file (safetensors, or torch's weights_only reader)."""
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
        module.load_state_dict(state)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such weights file") from None
    except IsADirectoryError:
        raise UsageError(f"{path}: is a folder; name the weights file in it") from None
    except pickle.UnpicklingError:
        raise UsageError(
            f"{path}: holds more than tensors, and reading it could run code; convert it to safetensors first"
        ) from None
    except (SafetensorError, RuntimeError, ValueError, EOFError, TypeError) as error:
        raise UsageError(f"{path}: is no plain weights file for {type(module).__name__}: {str(error).strip()[:300]}") from None
