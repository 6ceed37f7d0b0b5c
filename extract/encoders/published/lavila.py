"""LaViLa's visual tower (Zhao et al., 2023): TimeSformer's divided attention, the residual of Frozen in Time.

    y = x + TimeAttention(norm(x));  x = x + SpaceAttention(norm(y));  x = x + Mlp(norm(x))
    features: norm(class token)

Written from scratch; github.com/facebookresearch/LaViLa has the original and the weights, and parity is
tested against it.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mambavl.configs.errors import UsageError
from mambavl.extract.encoders.published.keys import (
    Pairs,
    pairs,
    to_ours,
    to_theirs,
    without_module,
    without_parts,
)
from mambavl.extract.encoders.published.vit import Attention, Mlp, VideoTower, VitConfig, init_weights

# as fine-tuned on EPIC-KITCHENS-100: 97 verbs, 300 nouns, 3,806 actions (one TSF-B file has actions alone)
CONFIGS = {
    "lavila-tsf-b": VitConfig(768, 12, 12, patch_size=16, image_size=224, num_classes=(97, 300, 3806)),
    "lavila-tsf-l": VitConfig(1024, 24, 16, patch_size=14, image_size=224, num_classes=(97, 300, 3806)),
}


class TimeSformer(VideoTower):
    """The visual tower, with classifiers or a projection if the config says so."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__(config, first_norm_eps=1e-5)  # this norm alone; the others have 1e-6
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        init_weights(self)

    def tokens(self, video: Tensor) -> Tensor:
        """video (B, 3, T, H, W), normalised -> (B, 1 + T h w, D), class token first, then time, row, column.

        After the final norm; with `layer="penultimate"`, after the block before the last and without that
        norm.
        """
        x = self.embed(video)
        for block in self.blocks_used:
            x = block(x, frames=video.shape[2])
        return self.norm(x) if self.config.layer == "last" else x

    def pool(self, tokens: Tensor) -> Tensor:
        """tokens (B, 1 + T h w, D) -> (B, D): the class token, which is what the classifiers see.

        Penultimate tokens go through the last block first.
        """
        if self.config.layer == "penultimate":
            tokens = self.norm(self.blocks[-1](tokens, frames=(tokens.shape[1] - 1) // self.config.side**2))
        return tokens[:, 0]


class Block(nn.Module):
    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.time_norm = nn.LayerNorm(config.width, eps=1e-6)
        self.time_attention = GroupAttention(config.width, config.heads, along="time")
        self.space_norm = nn.LayerNorm(config.width, eps=1e-6)
        self.space_attention = GroupAttention(config.width, config.heads, along="space")
        self.mlp_norm = nn.LayerNorm(config.width, eps=1e-6)
        self.mlp = Mlp(config.width, config.mlp_ratio * config.width, quick_gelu)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        y = x + self.time_attention(self.time_norm(x), frames)
        # to x, not y: y is only what the space attention looks at
        x = x + self.space_attention(self.space_norm(y), frames)
        return x + self.mlp(self.mlp_norm(x))


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)  # CLIP's approximation, which the weights were trained with


class GroupAttention(Attention):
    """A patch attends to the class token and to its group: the same place at all times, or all of its frame.

    The class token itself attends to every token.
    """

    def __init__(self, width: int, heads: int, along: Literal["time", "space"]) -> None:
        super().__init__(width, heads)
        self.along = along

    def forward(self, x: Tensor, frames: int) -> Tensor:  # (B, 1 + T N, D)
        q, k, v = self.split(x)
        first = F.scaled_dot_product_attention(q[:, :, :1], k, v)  # (B, H, 1, d)
        q, k, v = (self._groups(z, frames) for z in (q, k, v))  # (B G, H, 1 + L, d)
        rest = F.scaled_dot_product_attention(q[:, :, 1:], k, v)  # (B G, H, L, d)
        return self.join(torch.cat([first, self._ungroup(rest, len(x))], dim=2))

    def _groups(self, z: Tensor, frames: int) -> Tensor:
        """(B, H, 1 + T N, d) -> (B G, H, 1 + L, d): G groups of L patches, the class token before each."""
        patches = z[:, :, 1:].unflatten(2, (frames, -1))  # (B, H, T, N, d)
        # (B, G, H, L, d)
        patches = patches.permute(0, 3, 1, 2, 4) if self.along == "time" else patches.transpose(1, 2)
        first = z[:, None, :, :1].expand(-1, patches.shape[1], -1, -1, -1)
        return torch.cat([first, patches], dim=3).flatten(0, 1)

    def _ungroup(self, z: Tensor, batch: int) -> Tensor:
        """(B G, H, L, d) -> (B, H, T N, d)"""
        z = z.unflatten(0, (batch, -1))  # (B, G, H, L, d)
        return (z.permute(0, 2, 3, 1, 4) if self.along == "time" else z.transpose(1, 2)).flatten(2, 3)


NAMES = {
    "embed.class_token": "visual.cls_token",
    "embed.position": "visual.pos_embed",
    "embed.time": "visual.temporal_embed",
    "embed.patch.": "visual.patch_embed.proj.",
    "embed.norm.": "visual.ln_pre.",
    "blocks.*.time_norm.": "visual.blocks.*.norm3.",
    "blocks.*.time_attention.qkv.": "visual.blocks.*.timeattn.qkv.",
    "blocks.*.time_attention.out.": "visual.blocks.*.timeattn.proj.",
    "blocks.*.space_norm.": "visual.blocks.*.norm1.",
    "blocks.*.space_attention.qkv.": "visual.blocks.*.attn.qkv.",
    "blocks.*.space_attention.out.": "visual.blocks.*.attn.proj.",
    "blocks.*.mlp_norm.": "visual.blocks.*.norm2.",
    "blocks.*.mlp.up.": "visual.blocks.*.mlp.fc1.",
    "blocks.*.mlp.down.": "visual.blocks.*.mlp.fc2.",
    "norm.": "visual.norm.",
    "projection": "image_projection",
}
TEXT_TOWER = (
    "positional_embedding",
    "text_projection",
    "logit_scale",
    "transformer.",
    "token_embedding.",
    "ln_final.",
)


def ours(state: Mapping[str, Tensor], config: VitConfig) -> dict[str, Tensor]:
    """A published state dict under our names, the text tower left out. Raises UsageError unless it fits
    `config` exactly.

    `fitted` gives the config that fits; `vit.refit` then changes clip length or image size.
    """
    visual = without_parts(without_module(state), TEXT_TOWER)
    return to_ours(visual, _pairs(config), "this LaViLa model")


def theirs(state: Mapping[str, Tensor], config: VitConfig) -> dict[str, Tensor]:
    """Our state dict under the original's names."""
    return to_theirs(state, _pairs(config), "this LaViLa model")


def fitted(config: VitConfig, state: Mapping[str, Tensor]) -> VitConfig:
    """`config` with the sizes, classes and projection that a published state dict has."""
    state = without_module(state)
    patch, places, times = "visual.patch_embed.proj.weight", "visual.pos_embed", "visual.temporal_embed"
    if missing := [key for key in (patch, places, times) if key not in state]:
        raise UsageError(f"these are not the weights of a LaViLa model: {', '.join(missing)} is missing")
    heads = ("fc_cls.weight", "fc_cls.0.weight", "fc_cls.1.weight", "fc_cls.2.weight")
    classes = tuple(len(state[head]) for head in heads if head in state)
    projection = state["image_projection"].shape[1] if "image_projection" in state else None
    blocks = {key.split(".")[2] for key in state if key.startswith("visual.blocks.")}
    return config.fitted(
        state[patch], blocks, state[places].shape[1], state[times].shape[1], classes, projection
    )


def _pairs(config: VitConfig) -> Pairs:
    with torch.device("meta"):
        own = TimeSformer(config).state_dict()
    shapes = {
        "embed.class_token": (1, 1, config.width),
        "embed.position": (1, *own["embed.position"].shape),
        "embed.time": (1, *own["embed.time"].shape),
        "embed.patch.weight": (config.width, 3, config.patch_size, config.patch_size),
    }
    head = "fc_cls." if len(config.num_classes) == 1 else "fc_cls.*."  # a single head is not numbered
    return pairs(own, NAMES | {"classifiers.*.": head}, shapes)
