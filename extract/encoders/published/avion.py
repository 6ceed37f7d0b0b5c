"""AVION (Zhao and Krähenbühl, 2023): CLIP's image transformer over video, every token attending to every
other.

    x = x + Attention(norm(x));  x = x + Mlp(norm(x))
    tokens: x after the last block                        features: norm(class token)

Written from scratch; github.com/zhaoyue-zephyrus/AVION (MIT) has the original and the weights, and parity is
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
from mambavl.extract.encoders.published.vit import JointAttention, Mlp, VideoTower, VitConfig, init_weights

CONFIGS = {  # as fine-tuned on EPIC-KITCHENS-100: 3,806 actions
    "avion-vit-b": VitConfig(768, 12, 12, patch_size=16, image_size=224, num_classes=(3806,)),
    "avion-vit-l": VitConfig(1024, 24, 16, patch_size=14, image_size=224, num_classes=(3806,)),
    "avion-vit-l-336": VitConfig(1024, 24, 16, patch_size=14, image_size=336, num_classes=(3806,)),
}


class Avion(VideoTower):
    """The visual tower, with a classifier or a projection if the config says so."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__(config, first_norm_eps=1e-6)
        if len(config.num_classes) > 1:
            raise UsageError(f"AVION has one classifier, of actions; num_classes is {config.num_classes}")
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        init_weights(self)

    def tokens(self, video: Tensor) -> Tensor:
        """video (B, 3, T, H, W), normalised -> (B, 1 + T h w, D), class token first, then time, row, column.

        As they leave the last block, or with `layer="penultimate"` the one before: the final norm comes in
        `pool` and `patch_tokens`, as in the original.
        """
        x = self.embed(video)
        for block in self.blocks_used:
            x = block(x)
        return x

    def pool(self, tokens: Tensor) -> Tensor:
        """tokens (B, 1 + T h w, D) -> (B, D): what the classifier sees.

        Penultimate tokens go through the last block first.
        """
        if self.config.layer == "penultimate":
            tokens = self.blocks[-1](tokens)
        return self.norm(tokens[:, 0])

    def patch_tokens(self, tokens: Tensor) -> Tensor:
        """(B, T h w, D): after the final norm, or with `layer="penultimate"` as they are."""
        return self._stored(tokens[:, 1:])

    def class_token(self, tokens: Tensor) -> Tensor:
        """(B, D): likewise."""
        return self._stored(tokens[:, 0])

    def _stored(self, tokens: Tensor) -> Tensor:
        return self.norm(tokens) if self.config.layer == "last" else tokens


class Block(nn.Module):
    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width, eps=1e-6)
        self.attention = JointAttention(config.width, config.heads)
        self.mlp_norm = nn.LayerNorm(config.width, eps=1e-6)
        # the exact GELU: the training commands ask for CLIP's quick one, the original ignores them, its
        # weights expect that
        self.mlp = Mlp(config.width, config.mlp_ratio * config.width, F.gelu)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


# fused: trained with flash attention and a linear patch embedding, as all published files are
Layout = Literal["plain", "fused"]

NAMES = {
    "embed.class_token": "visual.class_embedding",
    "embed.position": "visual.positional_embedding",
    "embed.time": "visual.temporal_embedding",
    "embed.patch.": "visual.conv1.",
    "embed.norm.": "visual.ln_pre.",
    "blocks.*.attention_norm.": "visual.transformer.resblocks.*.ln_1.",
    "blocks.*.attention.out.": "visual.transformer.resblocks.*.attn.out_proj.",
    "blocks.*.mlp_norm.": "visual.transformer.resblocks.*.ln_2.",
    "norm.": "visual.ln_post.",
    "projection": "visual.image_projection",
    "classifiers.*.": "fc_cls.",
}
LAYOUT_NAMES = {
    "plain": {
        "blocks.*.attention.qkv.": "visual.transformer.resblocks.*.attn.in_proj_",
        "blocks.*.mlp.up.": "visual.transformer.resblocks.*.mlp.c_fc.",
        "blocks.*.mlp.down.": "visual.transformer.resblocks.*.mlp.c_proj.",
    },
    "fused": {
        "blocks.*.attention.qkv.": "visual.transformer.resblocks.*.attn.Wqkv.",
        "blocks.*.mlp.up.": "visual.transformer.resblocks.*.mlp.fc1.",
        "blocks.*.mlp.down.": "visual.transformer.resblocks.*.mlp.fc2.",
    },
}
TEXT_TOWER = ("textual.", "logit_scale")  # of pre-trained files; `ours` leaves it out


def ours(state: Mapping[str, Tensor], config: VitConfig) -> dict[str, Tensor]:
    """A published state dict under our names, the text tower left out. Raises UsageError unless it fits
    `config` exactly.

    `fitted` gives the config that fits; `vit.refit` then changes clip length or image size.
    """
    visual = without_parts(without_module(state), TEXT_TOWER)
    fused = any(".Wqkv." in name or ".fc1." in name for name in visual)
    layout: Layout = "fused" if fused else "plain"
    return to_ours(visual, _pairs(config, layout), f"this AVION model ({layout} layout)")


def theirs(state: Mapping[str, Tensor], config: VitConfig, layout: Layout) -> dict[str, Tensor]:
    """Our state dict under the original's names."""
    return to_theirs(state, _pairs(config, layout), "this AVION model")


def fitted(config: VitConfig, state: Mapping[str, Tensor]) -> VitConfig:
    """`config` with the sizes, classes and projection of a published state dict (224 or 336 px, say)."""
    state = without_module(state)
    patch, places, times = "visual.conv1.weight", "visual.positional_embedding", "visual.temporal_embedding"
    if missing := [key for key in (patch, places, times) if key not in state]:
        raise UsageError(f"these are not the weights of an AVION model: {', '.join(missing)} is missing")
    classes = (len(state["fc_cls.weight"]),) if "fc_cls.weight" in state else ()
    projection = state["visual.image_projection"].shape[1] if "visual.image_projection" in state else None
    blocks = {key.split(".")[3] for key in state if key.startswith("visual.transformer.resblocks.")}
    return config.fitted(state[patch], blocks, len(state[places]), len(state[times]), classes, projection)


def _pairs(config: VitConfig, layout: Layout) -> Pairs:
    with torch.device("meta"):
        own = Avion(config).state_dict()
    shapes = {}
    if layout == "plain":
        shapes["embed.patch.weight"] = (config.width, 3, config.patch_size, config.patch_size)
    return pairs(own, NAMES | LAYOUT_NAMES[layout], shapes)
