"""Weights: loaded without running code, and named by a hash that does not depend on their file."""

import hashlib
import pickle
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from mambavl.configs.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def weights_sha256(module: nn.Module) -> str:
    """sha256 over every tensor of a module's state dict (name, dtype, shape, bytes), however its file was
    packed.
    """
    total = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return total.hexdigest()


def is_sha256(text: str) -> bool:
    """Is it written as a sha256, in 64 hex digits?"""
    return len(text) == 64 and not set(text) - set("0123456789abcdef")


def load_weights(module: nn.Module, path: Path) -> None:
    """Load a state dict strictly, without running code from the file (safetensors, or torch's weights_only
    reader). Raises UsageError for a file that is missing, of another model, or holds more than tensors.
    """
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
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
        raise UsageError(
            f"{path}: cannot be loaded into {type(module).__name__}: {str(error).strip()[:300]}"
        ) from None


NO_MODEL = (
    "Without a network, give --weights FOLDER with what the model was published with: "
    "config, model.safetensors, and {besides}."
)


def transformers_weights(
    name: str, source: str, besides: str, *, model_class: str = "AutoModel", **options: Any
) -> tuple["PreTrainedModel", list[str]]:
    """A transformers base model from a folder or the hub, in float32 and from safetensors alone, and the
    names of the tensors that are missing there.

    besides: what else the folder must hold, for the error. options: of transformers' `from_pretrained`.
    Raises UsageError, naming the encoder `name`, where the model cannot be read.
    """
    import transformers
    from transformers.utils import logging

    logging.disable_progress_bar()  # one bar is enough, and it is ours
    loudness = logging.get_verbosity()
    # it would report heads that a checkpoint has and its base model does not; the caller checks what is
    # missing
    logging.set_verbosity_error()
    try:
        model, found = getattr(transformers, model_class).from_pretrained(
            source, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **options
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        said = first_line(error).rstrip(".")
        raise UsageError(f"encoder {name}: {said}. {NO_MODEL.format(besides=besides)}") from None
    finally:
        logging.set_verbosity(loudness)
    return model, sorted(found["missing_keys"])


def refuse_lacking(name: str, source: str, lacking: list[str]) -> None:
    """Raises UsageError where a checkpoint lacks tensors: they would be random."""
    if lacking:
        raise UsageError(
            f"encoder {name}: {source} lacks {len(lacking)} of the model's tensors ({lacking[0]}, ...)"
        )


def drop_pooler(model: "PreTrainedModel") -> None:
    """A pooler that no checkpoint filled would be random; no token depends on it."""
    model.register_module("pooler", None)


def first_line(error: Exception) -> str:
    """The first line of what an exception says, or its type."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def run_details(model: "PreTrainedModel", more: tuple[str, ...] = ()) -> dict[str, Any]:
    """How weights are run: the same ones under another config give other features. more: keys of the config,
    `part.key` for one of a part, that matter to this kind of model besides the usual ones.
    """
    config = {key: getattr(model.config, key) for key in _RUN_BY if hasattr(model.config, key)}
    config |= {key: attrgetter(key)(model.config) for key in more}
    return {
        "transformers": type(model).__name__,
        "attention": model.config._attn_implementation,
        "config": config,
    }


_RUN_BY = (  # what the names and shapes of tensors do not tell
    "attention_type",
    "hidden_act",
    "activation_function",
    "layer_norm_eps",
    "num_attention_heads",
    "encoder_attention_heads",
)
