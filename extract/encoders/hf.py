"""`hf:NAME`: a transformers model of text, images or video; its own config says which it is.

    videomae, timesformer, vivit, vjepa2     a video encoder: the whole clip
    other models of pixel_values             a frame encoder: each frame on its own
                                             (ViT, DINOv2, SigLIP, CLIP, ConvNeXt, ...)
    models of input_ids                      a text encoder: text.py

Sizes come from the config, pixels from the processor file (processors.py).
B clips, T frames, T' steps, h x w grid, D channels.
"""

import inspect
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from mambavl.configs.errors import UsageError
from mambavl.extract.encoders import text
from mambavl.extract.encoders.base import Encoder, Pixels, Shape, VideoEncoder
from mambavl.extract.encoders.image import FrameEncoder
from mambavl.extract.encoders.processors import PROCESSOR_FILES, read_pixels
from mambavl.extract.encoders.weights import (
    NO_MODEL,
    drop_pooler,
    first_line,
    refuse_lacking,
    transformers_weights,
    weights_sha256,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Modality = Literal["video", "image", "text", "audio"]


def transformers_model(model_name: str, weights: str | None, *, image_size: int | None = None) -> Encoder:
    """The encoder that fits a model, by hub name or local folder; `weights` names a folder to use instead.

    weights="random" takes the config and the processor of `model_name` and no weights. image_size: pixels a
    side, for image models that take any. Raises UsageError for a model of another kind, and where a file that
    is needed is missing.
    """
    name = f"hf:{model_name}"
    source = model_name if weights is None or weights == "random" else weights
    config = read_config(name, source)
    modality = modality_of(name, config)
    if modality == "audio":
        raise UsageError(
            f"encoder {name} is a model of sound; use audio:{model_name} with `mambavl extract audio`"
        )
    if modality == "text":
        if image_size:
            raise UsageError(f"encoder {name} is a text model and takes no image_size")
        return text.transformers_text(model_name, weights)
    lacking: list[str] = []
    if weights == "random":
        model = untrained(config)
    else:
        model, lacking = transformers_weights(
            name, source, PROCESSOR_FILES, config=config, trust_remote_code=False
        )
    pixels = read_pixels(name, source)
    if modality == "video":
        refuse_lacking(
            name, source, [key for key in lacking if not key.startswith(("pooler.", "predictor."))]
        )
        return VideoTransformer(name, model, pixels, image_size)
    refuse_lacking(name, source, [key for key in lacking if not key.startswith("pooler.")])
    if lacking:
        drop_pooler(model)
    pixels = replace(pixels, image_size=image_size or pixels.image_size)
    return FrameEncoder(model, _feature_map, pixels, run_details(model), weights_sha256(model))


# --- which model


def read_config(name: str, source: str) -> Any:
    """A model's config; of a model of pictures and words, that of the half that sees. Raises UsageError."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"encoder {name}: {first_line(error)} {NO_MODEL.format(besides='tokenizer or processor')}"
        ) from None
    return getattr(config, "vision_config", None) or config


def modality_of(name: str, config: Any) -> Modality:
    """What the base model of a config takes first. Raises UsageError for anything else."""
    from transformers import MODEL_MAPPING

    if config.model_type in VIDEO_MODELS:
        return "video"
    found = MODEL_MAPPING.get(type(config), None)
    model_class = found[0] if isinstance(found, (tuple, list)) else found
    taken = getattr(model_class, "main_input_name", None)
    if taken not in _MODALITIES:
        raise UsageError(
            f"encoder {name}: nothing here knows how to run a {config.model_type} model (it takes {taken})"
        )
    return _MODALITIES[taken]


_MODALITIES: dict[str | None, Modality] = {
    "input_ids": "text",
    "pixel_values": "image",
    "input_values": "audio",
    "input_features": "audio",
}


def untrained(config: Any) -> "PreTrainedModel":
    """A model of random weights, for tests and counts."""
    from transformers import AutoModel

    return AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=False)


def run_details(model: "PreTrainedModel") -> dict[str, Any]:
    """How the weights are run: the same ones under another config give other features."""
    config = {key: getattr(model.config, key) for key in _RUN_BY if hasattr(model.config, key)}
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


# --- images


def _feature_map(model: "PreTrainedModel", images: Tensor) -> Tensor:
    """images (N, 3, H, W) -> (N, D, h, w) of the last hidden state; leading tokens are left out."""
    options = {}
    size = getattr(model.config, "image_size", None)
    if isinstance(size, int) and size != images.shape[-1] and _takes(model, "interpolate_pos_encoding"):
        options["interpolate_pos_encoding"] = True
    states = model(images, **options).last_hidden_state
    if states.ndim == 4:
        return states
    side = _cells(model.config, images.shape[-1], states.shape[1])
    return states[:, states.shape[1] - side * side :].transpose(1, 2).unflatten(2, (side, side))


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


# --- video


@dataclass(frozen=True)
class _Layout:
    """How a video model is laid out; its sizes are in its config."""

    prefix_tokens: int
    any_frames: bool = False  # places by rotation: no table fixes the number of frames
    # order of its tokens; TimeSformer's go through all times of a place, then to the next place
    time_first: bool = True


VIDEO_MODELS = {
    "timesformer": _Layout(prefix_tokens=1, time_first=False),
    "videomae": _Layout(prefix_tokens=0),
    "vivit": _Layout(prefix_tokens=1),
    "vjepa2": _Layout(prefix_tokens=0, any_frames=True),
}


class VideoTransformer(VideoEncoder):
    """VideoMAE, TimeSformer, ViViT or the encoder of V-JEPA 2: the model's last hidden state, put in our
    order.

    `frames` is what the model was made for, the only number that all but V-JEPA 2 take. What a classifier of
    VideoMAE or V-JEPA 2 adds (a norm, attentive pooling) is left out.
    """

    def __init__(self, name: str, model: "PreTrainedModel", pixels: Pixels, image_size: int | None) -> None:
        super().__init__()
        config = model.config
        self._layout = VIDEO_MODELS[config.model_type]
        if getattr(config, "attention_type", None) == "space_only":
            raise UsageError(
                f"encoder {name}: a TimeSformer without attention over time has no tokens of a clip"
            )
        self.details = run_details(model)
        self.backbone = _token_model(model).eval()
        self.sha256 = weights_sha256(self.backbone)
        self.prefix_tokens = self._layout.prefix_tokens
        self.has_class_token = self.prefix_tokens > 0
        self.width = config.hidden_size
        self._made_for, self._tubelet, self._side = _sizes(config)
        self.frames = self._made_for
        size = config.crop_size if config.model_type == "vjepa2" else config.image_size
        for wanted in (image_size or size, pixels.image_size):
            if wanted != size:
                raise UsageError(
                    f"encoder {name} takes frames of {size} px, not {wanted}; "
                    "its table of places has no others"
                )
        self.pixels = pixels

    def token_grid(self, video_shape: Shape) -> Shape:
        """(T', h, w) of the tokens of a video (T, H, W). Raises UsageError for a clip that the model cannot
        take.
        """
        frames, height, width = video_shape
        if not self._layout.any_frames and frames != self._made_for:
            raise UsageError(
                f"the encoder takes {self._made_for} frames, the clip has {frames}; "
                f"--set sampling.frames={self._made_for}"
            )
        if frames % self._tubelet:
            raise UsageError(
                f"the encoder takes frames by {self._tubelet}, the clip has {frames}; "
                f"--set sampling.frames={self._made_for}"
            )
        size = self.pixels.image_size
        if (height, width) != (size, size):
            raise UsageError(f"the encoder takes {size} x {size} pixels, not {height} x {width}")
        return frames // self._tubelet, self._side, self._side

    def tokens(self, video: Tensor) -> Tensor:
        """video (B, 3, T, H, W), normalised -> (B, P + T' h w, D), ordered time, row, column."""
        steps, height, width = self.grid_of(video)
        states = self.backbone(video.transpose(1, 2)).last_hidden_state  # they take (B, T, 3, H, W)
        if self._layout.time_first:
            return states
        prefix, patches = states[:, : self.prefix_tokens], states[:, self.prefix_tokens :]
        patches = patches.unflatten(1, (height * width, steps)).transpose(1, 2).flatten(1, 2)
        return torch.cat([prefix, patches], dim=1)

    def pool(self, tokens: Tensor) -> Tensor:
        """(B, P + T' h w, D) -> (B, D): the class token, which classifiers of TimeSformer and ViViT read, or
        the mean.
        """
        return self.class_token(tokens) if self.has_class_token else tokens.mean(dim=1)


def _token_model(model: "PreTrainedModel") -> nn.Module:
    """The part of a model that its tokens come from."""
    if model.config.model_type == "vjepa2":
        return model.get_submodule("encoder")  # the predictor is for its training
    if getattr(model, "pooler", None) is not None:
        drop_pooler(model)  # classifiers are published without
    return model


def _sizes(config: Any) -> tuple[int, int, int]:
    """(frames, frames of a step, cells along a side) of a video model."""
    if config.model_type == "vivit":
        step, patch, _ = config.tubelet_size
        return config.num_frames, step, config.image_size // patch
    if config.model_type == "vjepa2":
        return config.frames_per_clip, config.tubelet_size, config.crop_size // config.patch_size
    return config.num_frames, getattr(config, "tubelet_size", 1), config.image_size // config.patch_size
