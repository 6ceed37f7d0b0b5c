"""The paper's video encoders: models written from scratch, weights published elsewhere and converted once.

mambavl encoders convert FILE --encoder NAME --out OUT     a checkpoint, under our names, with its config
build(NAME, weights=OUT)                                   the encoder
from_published(NAME, state_dict)                           the same, from tensors under the originals' names
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from mambavl.configs.errors import UsageError
from mambavl.extract.encoders.published import avion, lavila, motionformer, orvit, vit
from mambavl.extract.encoders.published.checkpoints import convert_checkpoint
from mambavl.extract.encoders.published.keys import without_module
from mambavl.extract.encoders.weights import weights_sha256

MADE_BY = "mambavl_encoder"  # in a converted file's metadata: the encoder's name
# verbs and nouns, actions, or all: what a file fine-tuned on EK100 has
EK100_CLASSES = ((97, 300), (3806,), (97, 300, 3806))


PublishedEncoder = avion.Avion | lavila.TimeSformer | motionformer.Motionformer  # ORViT is a Motionformer


@dataclass(frozen=True)
class Family:
    """A model that others trained, as written here, and how its published weights are read."""

    model: Callable[[Any], PublishedEncoder]  # config -> the untrained model
    ours: Callable[[Mapping[str, Tensor], Any], dict[str, Tensor]]  # their state dict, config -> ours, strict
    # config -> the same with the sizes that a state dict's shapes tell
    fitted: Callable[[Any, Mapping[str, Tensor]], Any]


@dataclass(frozen=True)
class Published:
    """An encoder that others trained: its family, its size, and where its weights are."""

    family: Family
    config: Any  # of its best known published file: what `family.model` takes
    licence: str
    file: str  # where to get it


_MOTIONFORMER = Family(motionformer.Motionformer, motionformer.ours, motionformer.fitted)
_ORVIT = Family(orvit.ORViT, orvit.ours, orvit.fitted)
_AVION = Family(avion.Avion, avion.ours, avion.fitted)
_LAVILA = Family(lavila.TimeSformer, lavila.ours, lavila.fitted)
_BOX = "https://utexas.box.com/shared/static/"
_DRIVE = "https://drive.google.com/file/d/"
_FAIR = "https://dl.fbaipublicfiles.com/"
_EK_MOTIONFORMER = f"{_FAIR}motionformer/ek_motionformer_"
_EK100_CLS = f"{_FAIR}lavila/checkpoints/dual_encoders/ek100_cls/clip_openai_timesformer_"

NON_COMMERCIAL = "non-commercial (CC BY-NC 4.0 by its README)"
PUBLISHED = {
    "orvit": Published(
        _ORVIT,
        orvit.CONFIGS["orvit"],
        NON_COMMERCIAL,
        f"{_DRIVE}1hDyPwBnif0ud3hQY8615bIzyR5vH5uJk (SSv2; none at 224 for EK100)",
    ),
    "orvit-hr": Published(
        _ORVIT, orvit.CONFIGS["orvit-hr"], NON_COMMERCIAL, f"{_DRIVE}13PSMc-iboyt2S_w-sRXAZduzknLmvZ8j"
    ),
    "motionformer": Published(
        _MOTIONFORMER,
        motionformer.CONFIGS["motionformer"],
        NON_COMMERCIAL,
        f"{_EK_MOTIONFORMER}224_16x4.pyth",
    ),
    "motionformer-hr": Published(
        _MOTIONFORMER,
        motionformer.CONFIGS["motionformer-hr"],
        NON_COMMERCIAL,
        f"{_EK_MOTIONFORMER}336_16x4.pyth",
    ),
    "motionformer-l": Published(
        _MOTIONFORMER,
        motionformer.CONFIGS["motionformer-l"],
        NON_COMMERCIAL,
        f"{_EK_MOTIONFORMER}224_32x3.pyth",
    ),
    "avion-vit-b": Published(
        _AVION, avion.CONFIGS["avion-vit-b"], "MIT", f"{_BOX}8iokob6ahb94gp1bqbmauhpeunqwx79j.pt"
    ),
    "avion-vit-l": Published(
        _AVION, avion.CONFIGS["avion-vit-l"], "MIT", f"{_BOX}crnqo9bu0owtfz4yc1yqf8hz6g0ze39b.pt"
    ),
    "lavila-tsf-b": Published(
        _LAVILA,
        lavila.CONFIGS["lavila-tsf-b"],
        "MIT for most of it",
        f"{_EK100_CLS}base.ft_ek100_cls.ep_0100.md5sum_4e3575.pth",
    ),
    "lavila-tsf-l": Published(
        _LAVILA,
        lavila.CONFIGS["lavila-tsf-l"],
        "MIT for most of it",
        f"{_EK100_CLS}large.ft_ek100_cls.ep_0090.md5sum_4a2509.pth",
    ),
}


def build(name: str, weights: str | None, **sizes: Any) -> PublishedEncoder:
    """The encoder `name` from a converted file, or with `weights="random"` untrained and of any size.

    sizes: fields of its config: image_size, patch_size, frames, width, depth, heads, layer, ... With a file
    only those that do not change the shapes of its weights, and image_size or frames, whose tables are
    resized as the originals do. Raises UsageError where the weights are missing or another encoder's, and
    for a size that the encoder does not have.
    """
    known = PUBLISHED[name]
    if weights is None:
        raise UsageError(
            f"encoder {name}: its weights ({known.licence}) are not part of this package. Get {known.file}, "
            f"then run `mambavl encoders convert FILE --encoder {name} --out {name}.safetensors` "
            f"and give --weights {name}.safetensors"
        )
    if weights == "random":
        return _finished(name, known.family.model(sized(name, known.config, sizes)), {})
    state, metadata = _read_converted(name, Path(weights))
    config = _made_with(name, Path(weights), json.loads(metadata["config"]))
    return _loaded(name, state, config, sizes, {"converted_from": metadata["source_sha256"]})


def from_published(name: str, state: Mapping[str, Tensor], **sizes: Any) -> PublishedEncoder:
    """The encoder `name` from a state dict under the originals' keys, its sizes read from the shapes.

    sizes: as in `build`. Raises UsageError unless keys and shapes fit exactly.
    """
    known = PUBLISHED[name]
    state = without_module(state)
    # image_size and frames resize a table; the others say what the file's own tensors are
    given = {key: value for key, value in sizes.items() if key not in ("image_size", "frames")}
    config = known.family.fitted(sized(name, known.config, given), state)
    return _loaded(name, known.family.ours(state, config), config, sizes, {})


def convert(file: Path, name: str, out: Path) -> dict[str, Any]:
    """Write a published checkpoint as safetensors under our names, with its config; say what was in it.

    The file is read without running what is in it. Raises UsageError, and writes nothing, where the file is
    damaged, another encoder's, or holds NaN or infinity.
    """
    if name not in PUBLISHED:
        raise UsageError(
            f"encoder {name} has no published checkpoint to convert; those that do: {', '.join(PUBLISHED)}"
        )
    known = PUBLISHED[name]

    def ours_of(state: Mapping[str, Tensor]) -> tuple[dict[str, str], dict[str, Tensor]]:
        config = known.family.fitted(known.config, state)
        metadata = {MADE_BY: name, "config": json.dumps(dataclasses.asdict(config))}
        return metadata, known.family.ours(state, config)

    return convert_checkpoint(file, out, ours_of)


def sized(name: str, config: Any, sizes: Mapping[str, Any]) -> Any:
    """`config` with these fields changed. Raises UsageError for one that it does not have."""
    fields = [field.name for field in dataclasses.fields(config)]
    if unknown := [key for key in sizes if key not in fields]:
        raise UsageError(f"encoder {name} has no size {', '.join(unknown)}; it has {', '.join(fields)}")
    for key, value in sizes.items():
        default = getattr(config, key)
        if type(default) is int and (type(value) is not int or value < 1):
            raise UsageError(f"encoder {name}: {key} = {value!r} is not a positive whole number")
        if isinstance(default, tuple) != isinstance(value, tuple | list):
            raise UsageError(f"encoder {name}: {key} = {value!r} is not like {default!r}")
    return replace(config, **_untupled(sizes))


def _loaded(
    name: str, state: dict[str, Tensor], config: Any, sizes: Mapping[str, Any], details: dict[str, Any]
) -> PublishedEncoder:
    wanted = sized(name, config, sizes)
    is_resized = (wanted.image_size, wanted.frames) != (config.image_size, config.frames)
    if is_resized and isinstance(wanted, vit.VitConfig):
        state = vit.refit(state, wanted)
    model = PUBLISHED[name].family.model(wanted)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise UsageError(
            f"encoder {name}: these weights do not fit {wanted}: {str(error).strip()[:300]}"
        ) from None
    return _finished(name, model, details)


def _finished(name: str, model: PublishedEncoder, details: dict[str, Any]) -> PublishedEncoder:
    """The model, saying of itself what a store's spec names."""
    model.name = name
    model.sha256 = weights_sha256(model)
    model.state = "ek100-finetuned" if model.config.num_classes in EK100_CLASSES else "pretrained"
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
        raise UsageError(f"{path}: is not a converted weights file ({str(error)[:200]}); {how}") from None
    made_by = metadata.get(MADE_BY)
    if made_by is None:
        raise UsageError(f"{path}: was not converted; {how}")
    if made_by != name:
        raise UsageError(f"{path}: holds the weights of {made_by}, not of {name}")
    return state, metadata


def _made_with(name: str, path: Path, fields: dict[str, Any]) -> Any:
    kind = type(PUBLISHED[name].config)
    if unknown := fields.keys() - {field.name for field in dataclasses.fields(kind)}:
        raise UsageError(
            f"{path}: was converted by another version ({', '.join(sorted(unknown))} is new); "
            "convert it again"
        )
    return kind(**_untupled(fields))


def _untupled(fields: Mapping[str, Any]) -> dict[str, Any]:
    """JSON's lists as the tuples that they were."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
