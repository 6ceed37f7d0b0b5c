"""`hf:NAME`: a transformers model of text, images or video; its own config says which it is.

    models of video                          a video encoder: the whole clip (hf_video.py)
    other models of pixel_values             a frame encoder: each frame on its own
                                             (ViT, DINOv2, SigLIP, CLIP, ConvNeXt, ...)
    models of input_ids                      a text encoder: text.py

Of a model of several kinds of input (CLIP, X-CLIP, PE-AV, ...) the half that sees is run. Pixels come from
the processor file (processors.py).
"""

import inspect
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from mambavl.configs.errors import UsageError
from mambavl.extract.encoders import text
from mambavl.extract.encoders.base import Encoder
from mambavl.extract.encoders.hf_video import PREDICTING, VIDEO_MODELS, VideoTransformer
from mambavl.extract.encoders.image import FrameEncoder, FrameFeatures
from mambavl.extract.encoders.processors import PROCESSOR_FILES, read_pixels
from mambavl.extract.encoders.weights import (
    NO_MODEL,
    drop_pooler,
    first_line,
    refuse_lacking,
    run_details,
    transformers_weights,
    weights_sha256,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Modality = Literal["video", "image", "text", "audio"]


def transformers_model(
    model_name: str, weights: str | None, *, image_size: int | None = None, ahead: float | None = None
) -> Encoder:
    """The encoder that fits a model, by hub name or local folder; `weights` names a folder to use instead.

    weights="random" takes the config and the processor of `model_name` and no weights. image_size: pixels a
    side, for image models that take any. ahead: frames from the end of a clip to what V-JEPA 2 predicts; None
    leaves its predictor out. Raises UsageError for a model of another kind, and where a file that is needed
    is missing.
    """
    name = f"hf:{model_name}"
    source = model_name if weights is None or weights == "random" else weights
    config = read_config(name, source)
    modality = modality_of(name, config)
    if modality == "audio":
        raise UsageError(
            f"encoder {name} is a model of sound; use audio:{model_name} with `mambavl extract audio`"
        )
    if ahead is not None and config.model_type not in PREDICTING:
        raise UsageError(
            f"encoder {name}: a {config.model_type} model has no predictor; V-JEPA 2 has one, for others "
            "leave `predicted` out of the levels"
        )
    if modality == "text":
        if image_size:
            raise UsageError(f"encoder {name} is a text model and takes no image_size")
        return text.transformers_text(model_name, weights)
    lacking: list[str] = []
    if weights == "random":
        model = untrained(config)
    else:
        layout = VIDEO_MODELS.get(config.model_type)
        options = layout.load_options() if layout else {}
        model, lacking = transformers_weights(
            name, source, PROCESSOR_FILES, config=config, trust_remote_code=False, **options
        )
    pixels = read_pixels(name, source)
    if modality == "video":
        left_out = ("pooler.",) if ahead is not None else ("pooler.", "predictor.")
        refuse_lacking(name, source, [key for key in lacking if not key.startswith(left_out)])
        return VideoTransformer(name, model, pixels, image_size, ahead)
    refuse_lacking(name, source, [key for key in lacking if not key.startswith("pooler.")])
    if lacking:
        drop_pooler(model)
    pixels = replace(pixels, image_size=image_size or pixels.image_size)
    return FrameEncoder(model, _features, pixels, run_details(model), weights_sha256(model))


# --- which model


def read_config(name: str, source: str) -> Any:
    """A model's config; of a model of several kinds of input, that of its half that sees. Raises
    UsageError.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"encoder {name}: {first_line(error)} {NO_MODEL.format(besides='tokenizer or processor')}"
        ) from None
    return seeing_half(config)


def seeing_half(config: Any) -> Any:
    """The part of a config that is about video, or else about pictures; the whole where there is none."""
    if config.model_type in VIDEO_MODELS:  # PE-Video's own holds that of an image model
        return config
    half = getattr(config, "video_config", None) or getattr(config, "vision_config", None)
    return seeing_half(half) if half else config


def modality_of(name: str, config: Any) -> Modality:
    """What the model of a config takes first. Raises UsageError, saying why, for one that cannot be run."""
    from transformers import MODEL_MAPPING

    kind = config.model_type
    if kind in VIDEO_MODELS:
        return "video"
    found = MODEL_MAPPING.get(type(config), None)
    model_class = found[0] if isinstance(found, (tuple, list)) else found
    if model_class is None:
        raise UsageError(f"encoder {name}: AutoModel of transformers builds no {kind} model by itself")
    taken = _arguments(model_class)
    main = model_class.main_input_name
    if main not in taken:  # the default of all models, which not all have looked at
        main = next(iter(taken), "nothing")
    modality = _MODALITIES.get(main)
    needed = [key for key, argument in taken.items() if argument.default is argument.empty]
    if modality is None or (modality == "image" and set(needed) > {main}):
        raise UsageError(
            f"encoder {name}: nothing here knows how to run a {kind} model: it takes "
            f"{', '.join(needed or [main])}, and what there is to give is pixels, words or sound"
        )
    reads_video = "video" in model_class.input_modalities or not _OF_VIDEO.isdisjoint([*taken, *vars(config)])
    if modality == "image" and reads_video and kind not in _FRAME_BY_FRAME:
        raise UsageError(
            f"encoder {name}: a {kind} model reads video, and nothing here knows the order of its tokens"
        )
    if modality == "text" and reads_video and "pixel_values" in taken and not _has_halves(config):
        raise UsageError(f"encoder {name}: a {kind} model reads words and video together, and only together")
    return modality


_MODALITIES: dict[str, Modality] = {
    "input_ids": "text",
    "pixel_values": "image",
    "pixel_values_videos": "image",  # unless VIDEO_MODELS has it, a model that is not known yet
    "input_values": "audio",
    "input_features": "audio",
}
_OF_VIDEO = {"pixel_values_videos", "num_frames", "frames_per_clip", "tubelet_size"}
# the language models above these read video, and these no more than a frame of it
_FRAME_BY_FRAME = {"internvl_vision", "qianfan_ocr_vision"}


def _has_halves(config: Any) -> bool:
    """Could it have had a half that sees? Without one it reads words alone."""
    return hasattr(config, "vision_config")


def _arguments(model_class: Any) -> dict[str, inspect.Parameter]:
    """What the forward of a model takes by name."""
    every = inspect.signature(model_class.forward).parameters.items()
    rest = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {key: it for key, it in every if key != "self" and it.kind not in rest}


def untrained(config: Any) -> "PreTrainedModel":
    """A model of random weights, for tests and counts."""
    import transformers

    layout = VIDEO_MODELS.get(config.model_type)
    if layout and layout.model_class:
        return getattr(transformers, layout.model_class)(config)
    return transformers.AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=False)


# --- images


def _features(model: "PreTrainedModel", images: Tensor) -> FrameFeatures:
    """The last hidden state of images (N, 3, H, W): a map, or tokens behind a class token and registers."""
    options = {}
    size = getattr(model.config, "image_size", None)
    if isinstance(size, int) and size != images.shape[-1] and _takes(model, "interpolate_pos_encoding"):
        options["interpolate_pos_encoding"] = True
    states = model(images, **options).last_hidden_state
    if states.ndim == 4:
        # frames are squares, and so are maps; SAM 2's have their channels last
        return (states if states.shape[2] == states.shape[3] else states.permute(0, 3, 1, 2)), None
    side = _cells(model.config, images.shape[-1], states.shape[1])
    leading = states.shape[1] - side * side
    maps = states[:, leading:].transpose(1, 2).unflatten(2, (side, side))
    return maps, states[:, 0] if leading else None


def _takes(model: "PreTrainedModel", argument: str) -> bool:
    return argument in inspect.signature(model.forward).parameters


def _cells(config: Any, size: int, tokens: int) -> int:
    """Cells along a side of the grid that a model's tokens end with."""
    patch = getattr(config, "patch_size", None)
    side = size // patch if isinstance(patch, int) else 0
    if 0 < side * side <= tokens:
        # class token, DeiT's second one, registers
        leading = {0, 1, 2, 1 + (getattr(config, "num_register_tokens", 0) or 0)}
        if tokens - side * side in leading:
            return side
    elif round(tokens**0.5) ** 2 == tokens:  # neighbours merged on the way, as in Swin
        return round(tokens**0.5)
    raise UsageError(
        f"{config.model_type}: {tokens} tokens of a frame of "
        f"{size} px do not form a square grid behind a class token"
    )
