"""The video models of transformers: which of their numbers is which token of a clip.

    VideoMAE, ViViT, V-JEPA 2      tokens ordered time, row, column
    TimeSformer                    all times of a place, then the next place: put in our order
    VideoPrism                     the encoder under its video-text model, too
    X-CLIP                         a frame at a time, and a message between frames; tokens of every frame
    PE-Video, PE-AV's video half   one token a frame: a grid of 1 x 1
    VidEoMT                        a frame at a time, and queries that go from frame to frame

Sizes come from a model's config. X-CLIP has a class token in every frame; their mean is the clip's. Heads
are left out: text towers, masks, and what a classifier adds (a norm, attentive pooling).
B clips, T frames, T' steps, h x w grid, P leading tokens, D channels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mambavl.configs.errors import UsageError
from mambavl.extract.encoders.base import Pixels, Shape, VideoEncoder
from mambavl.extract.encoders.weights import drop_pooler, run_details, weights_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedModel


PREDICTING = ("vjepa2",)
ROUNDING = 1e-6  # of a step


@dataclass(frozen=True)
class Sizes:
    """What a model's config says of its clips."""

    frames: int | None  # it was made for; None: any number
    step: int  # frames of a time step
    pixels: int | None  # a side; None: its image model says
    cells: int  # along a side of the grid


@dataclass(frozen=True)
class Layout:
    """How a video model is laid out."""

    # (model, frames (B, T, 3, H, W), grid) -> tokens (B, P + T' h w, D), ordered time, row, column
    run: Callable[[Any, Tensor, Shape], Tensor]
    sizes: Callable[[Any], Sizes]
    has_class_token: bool = False
    any_frames: bool = False  # places by rotation, or none: no table fixes the number of frames
    model_class: str | None = None  # where AutoModel builds none
    inside: str | None = None  # what names of its tensors begin with in a checkpoint of more than it
    run_by: tuple[str, ...] = ()  # keys of its config that no tensor tells, besides those of every model

    def load_options(self) -> dict[str, Any]:
        """What `weights.transformers_weights` needs to know of it."""
        options: dict[str, Any] = {"model_class": self.model_class} if self.model_class else {}
        if self.inside:
            options["key_mapping"] = {f"^{self.inside}": ""}
        return options


class VideoTransformer(VideoEncoder):
    """A video model of transformers: its last hidden state, put in our order.

    `frames` is what the model was made for, and where a table holds its times the only number that it takes.
    ahead: frames from the end of a clip to what V-JEPA 2 predicts.
    """

    def __init__(
        self,
        name: str,
        model: "PreTrainedModel",
        pixels: Pixels,
        image_size: int | None,
        ahead: float | None = None,
    ) -> None:
        super().__init__()
        config = model.config
        self._layout = VIDEO_MODELS[config.model_type]
        if getattr(config, "attention_type", None) == "space_only":
            raise UsageError(
                f"encoder {name}: a TimeSformer without attention over time has no tokens of a clip"
            )
        self.details = run_details(model, self._layout.run_by)
        self.backbone = _token_model(model).eval()
        self.sha256 = weights_sha256(self.backbone)
        self.has_class_token = self._layout.has_class_token
        self.prefix_tokens = int(self.has_class_token)
        self.width = config.hidden_size
        self._sizes = self._layout.sizes(config)
        self.frames = self._sizes.frames
        size = self._sizes.pixels or _frame_size(model)
        for wanted in (image_size or size, pixels.image_size):
            if wanted != size:
                raise UsageError(
                    f"encoder {name} takes frames of {size} px, not {wanted}; "
                    "its table of places has no others"
                )
        self.pixels = pixels
        self.has_predictor = ahead is not None
        if ahead is not None:
            self._steps_ahead = int(ahead / self._sizes.step + ROUNDING)
            self.predictor = model.get_submodule("predictor").eval()
            self.details["predictor"] = {
                "sha256": weights_sha256(self.predictor),
                "steps_ahead": self._steps_ahead,
                "num_attention_heads": config.pred_num_attention_heads,
            }

    def token_grid(self, video_shape: Shape) -> Shape:
        """(T', h, w) of the tokens of a video (T, H, W). Raises UsageError for a clip that the model cannot
        take.
        """
        frames, height, width = video_shape
        made_for, step = self._sizes.frames, self._sizes.step
        if not self._layout.any_frames and frames != made_for:
            raise UsageError(
                f"the encoder takes {made_for} frames, the clip has {frames}; "
                f"--set sampling.frames={made_for}"
            )
        if frames % step:
            raise UsageError(
                f"the encoder takes frames by {step}, the clip has {frames}; --set sampling.frames={made_for}"
            )
        size = self.pixels.image_size
        if (height, width) != (size, size):
            raise UsageError(f"the encoder takes {size} x {size} pixels, not {height} x {width}")
        return frames // step, self._sizes.cells, self._sizes.cells

    def tokens(self, video: Tensor) -> Tensor:
        """video (B, 3, T, H, W), normalised -> (B, P + T' h w, D), ordered time, row, column."""
        return self._layout.run(self.backbone, video.transpose(1, 2), self.grid_of(video))

    def pool(self, tokens: Tensor) -> Tensor:
        """(B, P + T' h w, D) -> (B, D): the class token, which classifiers of TimeSformer and ViViT read, or
        the mean.
        """
        return self.class_token(tokens) if self.has_class_token else tokens.mean(dim=1)

    def predicted(self, tokens: Tensor) -> Tensor:
        """(B, T' h w, D) -> (B, h w, D): the tokens of one time step, `steps_ahead` steps after the step that
        follows the clip, predicted from all of the clip, as V-JEPA 2's anticipation probes read them.
        """
        if not self.has_predictor:
            return super().predicted(tokens)
        batch, seen, _ = tokens.shape
        cells = self._sizes.cells**2
        places = torch.arange(seen + (self._steps_ahead + 1) * cells, device=tokens.device).expand(batch, -1)
        return self.predictor(tokens, [places[:, :seen]], [places[:, -cells:]]).last_hidden_state


def _token_model(model: "PreTrainedModel") -> nn.Module:
    """The part of a model that its tokens come from."""
    if model.config.model_type == "vjepa2":
        return model.get_submodule("encoder")  # the predictor is for its training
    if getattr(model, "pooler", None) is not None:
        drop_pooler(model)  # classifiers are published without
    return model


def _frame_size(model: Any) -> int:
    """Pixels a side of PE-Video's frames, which the timm model in it says."""
    return model.embedder.vision_model.timm_model.patch_embed.img_size[0]


# --- how each is run: frames (B, T, 3, H, W) -> tokens (B, P + T' h w, D)


def _in_order(model: Any, frames: Tensor, grid: Shape) -> Tensor:
    return model(frames).last_hidden_state


def _places_first(model: Any, frames: Tensor, grid: Shape) -> Tensor:
    """TimeSformer, behind one class token."""
    states = model(frames).last_hidden_state
    steps, height, width = grid
    patches = states[:, 1:].unflatten(1, (height * width, steps)).transpose(1, 2).flatten(1, 2)
    return torch.cat([states[:, :1], patches], dim=1)


def _messages(model: Any, frames: Tensor, grid: Shape) -> Tensor:
    """X-CLIP: a batch of frames. Its class tokens pass a last norm, as on the way to its video embedding."""
    found = model(frames.flatten(0, 1))
    class_tokens = found.pooler_output.unflatten(0, frames.shape[:2])
    patches = found.last_hidden_state[:, 1:].unflatten(0, frames.shape[:2])
    return torch.cat([class_tokens.mean(dim=1, keepdim=True), patches.flatten(1, 2)], dim=1)


def _queries(model: Any, frames: Tensor, grid: Shape) -> Tensor:
    """VidEoMT: the first frames of all clips, then all second ones, ...; of a frame the patches come last,
    behind queries, a class token that nothing reads, and registers.
    """
    states = model(frames).last_hidden_state[:, -grid[1] * grid[2] :]
    return states.unflatten(0, (frames.shape[1], frames.shape[0])).transpose(0, 1).flatten(1, 2)


def _pooled_first(model: Any, frames: Tensor, grid: Shape) -> Tensor:
    """PE-Video gives its class token apart."""
    found = model(frames.contiguous())
    return torch.cat([found.pooler_output[:, None], found.last_hidden_state], dim=1)


# --- their sizes


def _flat(config: Any) -> Sizes:
    step = getattr(config, "tubelet_size", 1)
    size = _side(config.image_size)
    return Sizes(config.num_frames, step, size, size // _side(config.patch_size))


def _tubelets(config: Any) -> Sizes:
    step, patch, _ = config.tubelet_size
    size = _side(config.image_size)
    return Sizes(config.num_frames, step, size, size // patch)


def _vjepa2(config: Any) -> Sizes:
    size = config.crop_size
    return Sizes(config.frames_per_clip, config.tubelet_size, size, size // config.patch_size)


def _any_frames(config: Any) -> Sizes:
    size = _side(config.image_size)
    return Sizes(None, 1, size, size // _side(config.patch_size))


def _frame_tokens(config: Any) -> Sizes:
    return Sizes(None, 1, None, 1)


def _side(size: Any) -> int:
    """Of a square, which a config may write as a pair. Raises UsageError for any other shape."""
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) > 1:
        raise UsageError(f"a video model of frames or patches of {size} pixels, and clips are squares here")
    return sides.pop()


VIDEO_MODELS = {
    "timesformer": Layout(_places_first, _flat, has_class_token=True),
    "videomae": Layout(_in_order, _flat),
    "vivit": Layout(_in_order, _tubelets, has_class_token=True),
    "vjepa2": Layout(_in_order, _vjepa2, any_frames=True),
    "videoprism_vision_model": Layout(
        _in_order,
        _tubelets,
        inside=r"video_model\.vision_model\.",
        run_by=("attn_logit_softcapping",),
    ),
    "xclip_vision_model": Layout(
        _messages, _flat, has_class_token=True, model_class="XCLIPVisionModel", inside=r"vision_model\."
    ),
    "pe_video_encoder": Layout(
        _pooled_first,
        _frame_tokens,
        has_class_token=True,
        any_frames=True,
        inside=r"(?:audio_video_encoder\.embedder\.|video_model\.)?video_encoder\.",
        run_by=(
            "rms_norm_eps",
            "rope_parameters",
            "head_dim",
            "vision_config.architecture",
            "vision_config.model_args",
        ),
    ),
    "videomt": Layout(
        _queries,
        _any_frames,
        any_frames=True,
        model_class="VideomtForUniversalSegmentation",
        run_by=("num_queries", "num_blocks"),
    ),
}
