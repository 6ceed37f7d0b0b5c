"""What the video transformers of AVION and LaViLa have in common: CLIP's ViT, given several frames and a
table of their order.

    token         patch of one frame + its place (row, column) + its frame
    class token   + row 0 of the places, no frame
    then a norm, then the blocks; order: class token, then time, row, column

B clips, T frames, h x w patches per frame, N = h w, P pixels a side of a patch, D channels, H attention
heads.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mambavl.configs.errors import UsageError
from mambavl.extract.encoders.base import Pixels, Shape, VideoEncoder

# the published classifiers, by their number of heads
CLASSIFIERS = {0: (), 1: ("action",), 3: ("verb", "noun", "action")}


@dataclass(frozen=True)
class VitConfig:
    """The sizes of a video tower. Raises UsageError for sizes that do not go together."""

    width: int = 768  # D
    depth: int = 12
    heads: int = 12
    patch_size: int = 16
    image_size: int = 224
    frames: int = 16
    mlp_ratio: int = 4
    num_classes: tuple[int, ...] = ()  # of each classifier, in the order of CLASSIFIERS; none: features only
    projection: int | None = None  # channels of the space shared with text; only pre-trained files have one
    layer: Literal["last", "penultimate"] = "last"  # which tokens `tokens` gives

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise UsageError(f"a width of {self.width} does not divide into {self.heads} heads")
        if self.image_size % self.patch_size:
            raise UsageError(f"{self.image_size} px do not divide into patches of {self.patch_size}")
        if self.layer not in ("last", "penultimate"):
            raise UsageError(f"there is no layer {self.layer!r}; use last or penultimate")
        if len(self.num_classes) not in CLASSIFIERS:
            raise UsageError(f"num_classes {self.num_classes}: give none, (action,) or (verb, noun, action)")

    @property
    def side(self) -> int:
        """Patches along one side of a frame."""
        return self.image_size // self.patch_size

    def fitted(
        self,
        patch: Tensor,
        blocks: set[str],
        places: int,
        frames: int,
        num_classes: tuple[int, ...],
        projection: int | None,
    ) -> Self:
        """With what a file's own tensors tell. patch: its patch embedding; blocks: the numbers in its keys;
        places: rows of its position table, the class token's among them. Heads are 64 channels wide, as in
        all published ones."""
        width, side, pixels = len(patch), math.isqrt(places - 1), patch[0].numel() // 3
        if side * side != places - 1:
            raise UsageError(f"a position table of {places} rows is not a square grid and a class token")
        return replace(
            self,
            width=width,
            depth=len(blocks),
            heads=self.heads if width == self.width else max(1, width // 64),
            patch_size=math.isqrt(pixels),
            image_size=side * math.isqrt(pixels),
            frames=frames,
            num_classes=num_classes,
            projection=projection,
        )


class VideoTower(VideoEncoder):
    """What is around the blocks. A model adds `blocks`, `tokens` and `pool`, and says where the final norm
    belongs.
    """

    prefix_tokens = 1
    has_class_token = True
    blocks: nn.ModuleList

    def __init__(self, config: VitConfig, first_norm_eps: float) -> None:
        super().__init__()
        self.config = config
        self.width = config.width
        self.frames = config.frames
        self.pixels = clip_pixels(config.image_size)
        self.embed = VideoEmbedding(config, first_norm_eps)
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.classifiers = nn.ModuleList(nn.Linear(config.width, classes) for classes in config.num_classes)
        self.projection = (
            nn.Parameter(torch.empty(config.width, config.projection)) if config.projection else None
        )

    def token_grid(self, video_shape: Shape) -> Shape:
        """(T, h, w) of the tokens of a video (T, H, W). Raises UsageError for more frames than its
        table has.
        """
        frames, height, width = video_shape
        if frames > self.config.frames:
            raise UsageError(
                f"the encoder has times for {self.config.frames} frames, the clip has {frames}; "
                f"--set sampling.frames={self.config.frames}"
            )
        return frames, height // self.config.patch_size, width // self.config.patch_size

    def classify(self, features: Tensor) -> dict[str, Tensor]:
        """Scores before the softmax, by classifier: `action`, or `verb`, `noun` and `action`; nothing without
        `num_classes`.
        """
        names = CLASSIFIERS[len(self.classifiers)]
        return {name: head(features) for name, head in zip(names, self.classifiers, strict=True)}

    def project(self, features: Tensor) -> Tensor:
        """(B, D) -> the space shared with text, (B, config.projection), which is not stored. Raises
        UsageError where the model has none.
        """
        if self.projection is None:
            raise UsageError("this model has no projection; set `projection` in its config")
        return features @ self.projection

    @property
    def blocks_used(self) -> nn.ModuleList:
        """The blocks that `tokens` runs."""
        return self.blocks if self.config.layer == "last" else self.blocks[:-1]


class VideoEmbedding(nn.Module):
    """Pixels to tokens: (B, 3, T, H, W) -> (B, 1 + T N, D)."""

    def __init__(self, config: VitConfig, norm_eps: float) -> None:
        super().__init__()
        self.config = config
        # a patch is read channel, row, column
        self.patch = nn.Linear(3 * config.patch_size**2, config.width, bias=False)
        self.class_token = nn.Parameter(torch.empty(config.width))
        self.position = nn.Parameter(torch.empty(1 + config.side**2, config.width))
        self.time = nn.Parameter(torch.empty(config.frames, config.width))
        self.norm = nn.LayerNorm(config.width, eps=norm_eps)

    def forward(self, video: Tensor) -> Tensor:
        frames = self._frames(video)
        patches = self.patch(cut_patches(video, self.config.patch_size))  # (B, T, N, D)
        # fewer frames than the table has: its first rows
        patches = patches + self.position[1:] + self.time[:frames, None]
        first = (self.class_token + self.position[0]).expand(len(video), 1, -1)
        return self.norm(torch.cat([first, patches.flatten(1, 2)], dim=1))

    def _frames(self, video: Tensor) -> int:
        size, frames = self.config.image_size, self.config.frames
        _, channels, given, height, width = video.shape
        if (channels, height, width) != (3, size, size):
            raise UsageError(
                f"the encoder takes 3 x {size} x {size} pixels, "
                f"not {channels} x {height} x {width}; see refit()"
            )
        if given > frames:
            raise UsageError(
                f"the encoder has times for {frames} frames, the clip has {given}; "
                f"--set sampling.frames={frames}"
            )
        return given


def cut_patches(video: Tensor, size: int) -> Tensor:
    """(B, C, T, H, W) -> (B, T, h w, C P P)"""
    grid = video.unflatten(4, (-1, size)).unflatten(3, (-1, size))  # (B, C, T, h, P, w, P)
    return grid.permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(2, 3)


class Attention(nn.Module):
    """The projections of an attention. Rows of `qkv`: q, k, v, and within each one head after the other."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, L, D) -> q, k and v, each (B, H, L, D / H)."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

    def join(self, heads: Tensor) -> Tensor:
        """(B, H, L, D / H) -> (B, L, D)."""
        return self.out(heads.transpose(1, 2).flatten(2))


class JointAttention(Attention):
    """Every token attends to every token."""

    def forward(self, x: Tensor) -> Tensor:  # (B, L, D)
        q, k, v = self.split(x)
        return self.join(F.scaled_dot_product_attention(q, k, v))  # L x L scores are never held at once


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x)))


def clip_pixels(image_size: int) -> Pixels:
    """Both were trained on 0-255 numbers; ours are scaled to [0, 1] first. The red mean is theirs: CLIP's own
    is 122.771.
    """
    mean = (108.3272985 / 255, 116.7460125 / 255, 104.09373615 / 255)
    std = (68.5005327 / 255, 66.6321579 / 255, 70.32316305 / 255)
    return Pixels(image_size, mean, std, interpolation="bilinear")  # how the originals resize is not recorded


def init_weights(model: nn.Module) -> None:
    """Untrained weights, for tests and benchmarks: small enough to be stable, and nothing is zero that order
    depends on.
    """
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.ndim > 1 or name == "embed.class_token":
            nn.init.normal_(parameter, std=0.02)


def refit(
    state: dict[str, Tensor], config: VitConfig, time: Literal["bilinear", "interp"] = "bilinear"
) -> dict[str, Tensor]:
    """Our state dict for another image size or clip length: `config` says which, all else is left as it is.

    More frames: `bilinear` interpolates along time, `interp` repeats rows; fewer: the first rows, whatever
    the mode.
    """
    position = resize_position(state["embed.position"], config.side)
    return state | {
        "embed.position": position,
        "embed.time": resize_time(state["embed.time"], config.frames, time),
    }


def resize_time(table: Tensor, frames: int, mode: Literal["bilinear", "interp"]) -> Tensor:
    """(T, D) -> (frames, D), as AVION and LaViLa stretch their 4-frame tables for fine-tuning."""
    if mode not in ("bilinear", "interp"):
        raise UsageError(f"there is no way {mode!r} to stretch a table of times; use bilinear or interp")
    if frames <= len(table):
        return table[:frames]
    if mode == "interp":
        return table[torch.arange(frames, device=table.device) * len(table) // frames]
    # linear along time; as a picture of T x D numbers it gives the originals' bits, as a line it differs in
    # the last one
    return F.interpolate(
        table[None, None], size=(frames, table.shape[1]), mode="bilinear", align_corners=False
    )[0, 0]


def resize_position(table: Tensor, side: int) -> Tensor:
    """(1 + N, D) -> (1 + side side, D), bicubic, the class token's row kept. How the originals
    do it is not recorded.
    """
    old = math.isqrt(len(table) - 1)
    if old == side:
        return table
    grid = table[1:].unflatten(0, (old, old)).permute(2, 0, 1)[None]  # (1, D, old, old)
    grid = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)[0]
    return torch.cat([table[:1], grid.flatten(1).T])
