"""The paper's video encoders: models written anew, weights published elsewhere and converted once.

mambavl encoders convert FILE --encoder NAME --out NAME.safetensors      a checkpoint, under our names, with its config
build(NAME, weights="NAME.safetensors")                                  the encoder
from_published(NAME, state_dict)                                         the same, from tensors under the originals' names
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mambavl.configs.errors import UsageError
from mambavl.extract.encoders.published import avion, lavila, motionformer, orvit, vit
from mambavl.extract.encoders.published.checkpoints import read_checkpoint
from mambavl.extract.encoders.published.keys import without_module
from mambavl.extract.encoders.weights import weights_sha256

MADE_BY = "mambavl_encoder"  # in a converted file's metadata: the encoder's name
# verbs and nouns, actions, or all: what a file fine-tuned on EK100 has
EK100_CLASSES = ((97, 300), (3806,), (97, 300, 3806))


@dataclass(frozen=True)
class Published:
    """An encoder that others trained: our model of it, and where its weights are."""

    model: type[nn.Module]
    config: Any  # of the best known published file
    ours: Callable[[Mapping[str, Tensor], Any], dict[str, Tensor]]  # their state dict -> ours, strict
    # config -> with the sizes that a state dict's shapes tell
    fitted: Callable[[Any, Mapping[str, Tensor]], Any]
    files: tuple[str, ...]  # where to get them
    licence: str


_MOTIONFORMER = (motionformer.Motionformer, motionformer.ours, motionformer.fitted)
_ORVIT = (orvit.ORViT, orvit.ours, orvit.fitted)
_AVION = (avion.Avion, avion.ours, avion.fitted)
_LAVILA = (lavila.TimeSformer, lavila.ours, lavila.fitted)
_FAIR, _BOX, _DRIVE = (
    "https://dl.fbaipublicfiles.com/",
    "https://utexas.box.com/shared/static/",
    "https://drive.google.com/file/d/",
)
_EK_MOTIONFORMER = f"{_FAIR}motionformer/ek_motionformer_"
_EK100_CLS = f"{_FAIR}lavila/checkpoints/dual_encoders/ek100_cls/clip_openai_timesformer_"


def _published(family: tuple, config: Any, licence: str, *files: str) -> Published:
    model, ours, fitted = family
    return Published(model, config, ours, fitted, files, licence)


NON_COMMERCIAL = "non-commercial (CC BY-NC 4.0 by its README)"
PUBLISHED = {
    "orvit": _published(
        _ORVIT, orvit.CONFIGS["orvit"], NON_COMMERCIAL, f"{_DRIVE}1hDyPwBnif0ud3hQY8615bIzyR5vH5uJk (SSv2; none at 224 for EK100)"
    ),
    "orvit-hr": _published(_ORVIT, orvit.CONFIGS["orvit-hr"], NON_COMMERCIAL, f"{_DRIVE}13PSMc-iboyt2S_w-sRXAZduzknLmvZ8j"),
    "motionformer": _published(
        _MOTIONFORMER, motionformer.CONFIGS["motionformer"], NON_COMMERCIAL, f"{_EK_MOTIONFORMER}224_16x4.pyth"
    ),
    "motionformer-hr": _published(
        _MOTIONFORMER, motionformer.CONFIGS["motionformer-hr"], NON_COMMERCIAL, f"{_EK_MOTIONFORMER}336_16x4.pyth"
    ),
    "motionformer-l": _published(
        _MOTIONFORMER, motionformer.CONFIGS["motionformer-l"], NON_COMMERCIAL, f"{_EK_MOTIONFORMER}224_32x3.pyth"
    ),
    "avion-vit-b": _published(_AVION, avion.CONFIGS["avion-vit-b"], "MIT", f"{_BOX}8iokob6ahb94gp1bqbmauhpeunqwx79j.pt"),
    "avion-vit-l": _published(_AVION, avion.CONFIGS["avion-vit-l"], "MIT", f"{_BOX}crnqo9bu0owtfz4yc1yqf8hz6g0ze39b.pt"),
    "lavila-tsf-b": _published(
        _LAVILA, lavila.CONFIGS["lavila-tsf-b"], "MIT for most of it", f"{_EK100_CLS}base.ft_ek100_cls.ep_0100.md5sum_4e3575.pth"
    ),
    "lavila-tsf-l": _published(
        _LAVILA, lavila.CONFIGS["lavila-tsf-l"], "MIT for most of it", f"{_EK100_CLS}large.ft_ek100_cls.ep_0090.md5sum_4a2509.pth"
    ),
}  # fmt: skip


def build(name: str, weights: str | None, **sizes: Any) -> nn.Module:
    """The encoder `name` from a converted file, or with `weights="random"` untrained and of any size.

    sizes: fields of its config: image_size, patch_size, frames, width, depth, heads, layer, ... Of a file
    only what does not change its weights' shapes, and image_size or frames, whose tables are resized as the
    originals do. Raises UsageError where the weights are not there, not of this encoder, or a size is not one
    of it.
    """
    known = PUBLISHED[name]
    if weights is None:
        raise UsageError(
            f"encoder {name}: its weights ({known.licence}) are not part of this package. Get {known.files[0]}, then run "
            f"`mambavl encoders convert FILE --encoder {name} --out {name}.safetensors` and give --weights {name}.safetensors"
        )
    if weights == "random":
        return _finished(known.model(sized(name, known.config, sizes)), {})
    state, metadata = _read_converted(name, Path(weights))
    config = _made_with(name, Path(weights), json.loads(metadata["config"]))
    return _loaded(name, state, config, sizes, {"converted_from": metadata["source_sha256"]})


def from_published(name: str, state: Mapping[str, Tensor], **sizes: Any) -> nn.Module:
    """The encoder `name` from a state dict under the originals' keys, its sizes read from the shapes. Strict:
    UsageError.
    """
    known = PUBLISHED[name]
    state = without_module(state)
    resized = ("image_size", "frames")  # these change a table, the others say what the file's own tensors are
    config = known.fitted(
        sized(name, known.config, {k: v for k, v in sizes.items() if k not in resized}), state
    )
    return _loaded(name, known.ours(state, config), config, sizes, {})


def convert(file: Path, name: str, out: Path) -> dict[str, Any]:
    """Write a published checkpoint as safetensors under our names, with its config; say what was in it.

    The file is read without running what is in it. Raises UsageError, and writes nothing, where it is not
    whole, not this encoder's, or holds a number that is none.
    """
    if name not in PUBLISHED:
        raise UsageError(
            f"encoder {name} has no published checkpoint to convert; those that do: {', '.join(PUBLISHED)}"
        )
    if out.suffix != ".safetensors":
        raise UsageError(f"{out}: a converted file is named *.safetensors")
    if out.exists():
        raise UsageError(f"{out}: exists already; name another file, or delete it first")
    known = PUBLISHED[name]
    state, left_out = read_checkpoint(file)
    state = without_module(state)
    try:
        config = known.fitted(known.config, state)
        ours = known.ours(state, config)
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from None
    broken = [
        key for key, tensor in ours.items() if tensor.is_floating_point() and not torch.isfinite(tensor).all()
    ]
    if broken:
        raise UsageError(f"{file}: NaN or infinity in {len(broken)} tensors ({', '.join(broken[:5])})")
    with open(file, "rb") as opened:
        source = hashlib.file_digest(opened, "sha256").hexdigest()
    metadata = {MADE_BY: name, "config": json.dumps(dataclasses.asdict(config)), "source_sha256": source}
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        save_file({key: tensor.contiguous() for key, tensor in ours.items()}, unfinished, metadata)
        os.replace(unfinished, out)
    finally:
        unfinished.unlink(missing_ok=True)
    return {
        "tensors": len(ours), "parameters": sum(t.numel() for t in ours.values()), "source_sha256": source,
        "left_out": left_out, "tensors_left_out": len(state) - len(ours),
    }  # fmt: skip


def sized(name: str, config: Any, sizes: Mapping[str, Any]) -> Any:
    """`config` with these fields changed. Raises UsageError for one that it does not have."""
    fields = [field.name for field in dataclasses.fields(config)]
    if unknown := [key for key in sizes if key not in fields]:
        raise UsageError(f"encoder {name} has no size {', '.join(unknown)}; it has {', '.join(fields)}")
    for key, value in sizes.items():
        default = getattr(config, key)
        if type(default) is int and (type(value) is not int or value < 1):
            raise UsageError(f"encoder {name}: {key} = {value!r} is no whole number from 1 on")
        if isinstance(default, tuple) != isinstance(value, tuple | list):
            raise UsageError(f"encoder {name}: {key} = {value!r} is not like {default!r}")
    return replace(config, **_untupled(sizes))


def _loaded(
    name: str, state: dict[str, Tensor], config: Any, sizes: Mapping[str, Any], details: dict[str, Any]
) -> nn.Module:
    wanted = sized(name, config, sizes)
    if isinstance(wanted, vit.VitConfig) and (wanted.image_size, wanted.frames) != (
        config.image_size,
        config.frames,
    ):
        state = vit.refit(state, wanted)
    model = PUBLISHED[name].model(wanted)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise UsageError(
            f"encoder {name}: these weights do not fit {wanted}: {str(error).strip()[:300]}"
        ) from None
    return _finished(model, details)


def _finished(model: nn.Module, details: dict[str, Any]) -> nn.Module:
    """With what a store's spec wants to know."""
    model.sha256 = weights_sha256(model)
    model.weights_state = "ek100-finetuned" if model.config.num_classes in EK100_CLASSES else "pretrained"
    model.details = {"config": json.loads(json.dumps(dataclasses.asdict(model.config))), **details}
    return model


def _read_converted(name: str, path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    how = f"`mambavl encoders convert FILE --encoder {name} --out {name}.safetensors` makes one"
    if not path.is_file():
        raise UsageError(f"{path}: no such weights file; {how}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 not a dict
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path}: is no converted weights file ({str(error)[:200]}); {how}") from None
    if metadata.get(MADE_BY) != name:
        of = metadata.get(MADE_BY)
        raise UsageError(
            f"{path}: " + (f"holds the weights of {of}, not of {name}" if of else f"was not converted; {how}")
        )
    return state, metadata


def _made_with(name: str, path: Path, fields: dict[str, Any]) -> Any:
    kind = type(PUBLISHED[name].config)
    if unknown := fields.keys() - {field.name for field in dataclasses.fields(kind)}:
        raise UsageError(
            f"{path}: was converted by another version ({', '.join(sorted(unknown))} is new); convert it again"
        )
    return kind(**_untupled(fields))


def _untupled(fields: Mapping[str, Any]) -> dict[str, Any]:
    """JSON's lists as the tuples that they were."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
