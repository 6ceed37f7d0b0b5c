"""Motionformer: tokens of space and time together, attention along the trajectory of each (Patrick et al.,
arXiv 2106.05392).

    a token looks at the patches of each time step by itself -> one vector a step, its trajectory
    -> it looks along the trajectory

B clips, T frames, T' = T / 2 time steps, h x w patches, S tokens a step (hw; more where a caller appends
some), D channels, N = 1 + T' S tokens: the class token, then time, row, column. C queries a chunk.

Two projects publish weights of this one function: facebookresearch/Motionformer, whose files hold a
two-dimensional stem too, which nothing reads (`unused_stem`), and eladb3/ORViT, whose files do not. `ours`
and `theirs` translate their keys.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mambavl.configs.errors import UsageError
from mambavl.extract.encoders.base import Pixels, Shape, VideoEncoder
from mambavl.extract.encoders.published.keys import Pairs, to_ours, to_theirs, without_module

LAYER_NORM_EPS = 1e-6
# pixels: the position table is always that of a 224 px crop, whatever the model was trained at
TABLE_SIZE = 224


@dataclass(frozen=True)
class MotionformerConfig:
    """The sizes of a Motionformer; the defaults are those of all published ones. Raises UsageError."""

    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: int = 4
    patch_size: int = 16
    tubelet: int = 2  # frames a token covers
    frames: int = 16
    image_size: int = 224
    num_classes: tuple[int, ...] = (97, 300)  # verbs, nouns; () for no classifier
    # facebookresearch's files carry one; kept so that a file survives the way there and back
    unused_stem: bool = False
    layer: Literal["last", "penultimate"] = "last"  # which tokens `tokens` gives
    # queries a clip whose trajectories are in memory at once; changes no number beyond rounding
    query_chunk: int = 512

    def __post_init__(self) -> None:
        for whole, size, part, unit in (
            ("width", self.width, "heads", self.heads),
            ("frames", self.frames, "tubelet", self.tubelet),
            ("image_size", self.image_size, "patch_size", self.patch_size),
        ):
            if size % unit:
                raise UsageError(f"Motionformer: {whole} {size} is not a multiple of {part} {unit}")
        if self.layer not in ("last", "penultimate"):
            raise UsageError(f"Motionformer: layer is `last` or `penultimate`, not {self.layer!r}")

    @property
    def steps(self) -> int:
        """T', the time steps of a clip."""
        return self.frames // self.tubelet


_224 = MotionformerConfig(unused_stem=True)
CONFIGS = {
    "motionformer": _224,
    "motionformer-hr": replace(_224, image_size=336),
    "motionformer-l": replace(_224, frames=32),
}


class Motionformer(VideoEncoder):
    """The encoder: tubelets, positions, blocks, final norm; `pool` and `classify` are the original's
    classifier.

    With `layer="penultimate"`, `tokens` are those after the block before the last, without the final norm:
    the loss reads only the class token, so no gradient ever asked the last block's patches to mean anything.
    """

    prefix_tokens = 1
    has_class_token = True  # as `pre_logits` has not seen it yet

    def __init__(self, config: MotionformerConfig) -> None:
        super().__init__()
        self.config = config
        self.width = config.width
        self.frames = config.frames
        # The published weights were trained on OpenCV's channel order.
        self.pixels = Pixels(
            config.image_size, (0.5,) * 3, (0.5,) * 3, colour="BGR", interpolation="bilinear"
        )
        cells = (TABLE_SIZE // config.patch_size) ** 2
        tube = (config.tubelet, config.patch_size, config.patch_size)
        self.tubelets = nn.Conv3d(3, config.width, kernel_size=tube, stride=tube)
        if config.unused_stem:
            self.unused_stem = nn.Conv2d(3, config.width, config.patch_size, config.patch_size)
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + cells, config.width))
        self.temp_embed = nn.Parameter(torch.empty(1, config.steps, config.width))
        self.blocks = nn.ModuleList(self.block(index) for index in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.pre_logits = nn.Linear(config.width, config.width)
        self.heads = nn.ModuleList(nn.Linear(config.width, classes) for classes in config.num_classes)
        self._initialise()

    def _initialise(self) -> None:
        for table in (self.cls_token, self.pos_embed, self.temp_embed):
            nn.init.trunc_normal_(table, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def block(self, index: int) -> nn.Module:
        """The block at `index`, counted from 0."""
        return Block(self.config)

    def token_grid(self, video_shape: Shape) -> Shape:
        """(T', h, w) of the tokens of a video (T, H, W). Any height and width of whole patches, but the clip
        length is fixed.
        """
        frames, height, width = video_shape
        config = self.config
        if frames != config.frames:
            raise UsageError(
                f"{type(self).__name__}: made for clips of {config.frames} frames, given {frames}; "
                f"--set sampling.frames={config.frames}"
            )
        if height % config.patch_size or width % config.patch_size:
            raise UsageError(
                f"{type(self).__name__}: {height}x{width} px are not whole patches of {config.patch_size} px"
            )
        return config.steps, height // config.patch_size, width // config.patch_size

    def tokens(self, video: Tensor) -> Tensor:
        """video (B, 3, T, H, W), normalised -> (B, 1 + T' h w, D): class token, then time, row, column."""
        grid = self.grid_of(video)
        return self._through_blocks(self.embed(video), grid)

    def pool(self, tokens: Tensor) -> Tensor:
        """tokens (B, 1 + T' h w, D), as `tokens` gives them -> (B, D), what the original's classifier sees.

        Penultimate tokens go through the last block first.
        """
        if self.config.layer == "penultimate":
            tokens = self.norm(self._last_block(tokens))
        return self.pre_logits(tokens[:, 0]).tanh()

    def classify(self, features: Tensor) -> tuple[Tensor, ...]:
        """Pooled features (B, D) -> logits, one (B, classes) a head: verbs, nouns."""
        return tuple(head(features) for head in self.heads)

    def embed(self, video: Tensor) -> Tensor:
        """video (B, 3, T, H, W) -> (B, 1 + T' h w, D): tubelets plus their place and time; the class token
        has no time.
        """
        patches = self.tubelets(video).permute(0, 2, 3, 4, 1)  # (B, T', h, w, D)
        place = self._positions(*patches.shape[2:4])  # (1, 1 + hw, D)
        patches = patches.flatten(2, 3) + place[:, None, 1:] + self.temp_embed[:, :, None]  # (B, T', hw, D)
        class_token = (self.cls_token + place[:, :1]).expand(len(video), -1, -1)
        return torch.cat([class_token, patches.flatten(1, 2)], dim=1)

    def _positions(self, height: int, width: int) -> Tensor:
        side = TABLE_SIZE // self.config.patch_size
        if (height, width) == (side, side):
            return self.pos_embed
        table = self.pos_embed[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)  # (1, D, 14, 14)
        table = F.interpolate(
            table, size=(height, width), mode="bicubic", align_corners=False, antialias=False
        )
        return torch.cat([self.pos_embed[:, :1], table.flatten(2).transpose(1, 2)], dim=1)

    def _through_blocks(self, tokens: Tensor, grid: tuple[int, int, int], *boxes: Tensor) -> Tensor:
        last = self.config.layer == "last"
        for block in self.blocks if last else self.blocks[:-1]:
            tokens = block(tokens, grid, *boxes)
        return self.norm(tokens) if last else tokens

    def _last_block(self, tokens: Tensor) -> Tensor:
        # a plain block reads T' alone; h and w are not known here
        return self.blocks[-1](tokens, (self.config.steps, 0, 0))


class Block(nn.Module):
    """Pre-norm: trajectory attention, then an MLP. `grid` is (T', h, w); boxes are for the blocks that read
    them.
    """

    def __init__(self, config: MotionformerConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.attn = TrajectoryAttention(config.width, config.heads, config.query_chunk)
        self.norm2 = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.mlp = MLP(config.width, config.mlp_ratio)

    def forward(self, tokens: Tensor, grid: tuple[int, int, int], boxes: Tensor | None = None) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens), steps=grid[0])
        return tokens + self.mlp(self.norm2(tokens))


class MLP(nn.Module):
    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, ratio * width)
        self.fc2 = nn.Linear(ratio * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class TrajectoryAttention(nn.Module):
    """Space first, one softmax a time step; then time, along what each step gave (section 3 of the paper).

    Memory: all N queries at once would hold B N T' D numbers for what each sees, and again for the queries
    repeated over the steps, the trajectories, their keys and a product of these; where no fused attention
    kernel is at hand, B heads N^2 scores too. Queries do not meet, so they go C = `query_chunk` at a time,
    and nothing grows with N^2. ORViT-HR (T' = 8, S = 445, D = 768, 12 heads), float32, B = 8, C = 512:

        five arrays of B C T' D                                  5 x 0.10 GB      (all at once: 5 x 0.70 GB)
        scores and their softmax, B heads C N, if not fused      2 x 0.70 GB      (all at once: 2 x 4.87 GB)

    Measured on a CPU, above weights and input: all of ORViT-HR takes 0.3 GiB at B = 1 and 1.4 at B = 8, 2.6
    in all; one block of it at B = 8 takes 1.2, and 2.4 without the fused kernel.
    """

    def __init__(self, width: int, heads: int, query_chunk: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_chunk = query_chunk
        self.qkv = nn.Linear(width, 3 * width)
        self.proj_q = nn.Linear(width, width)
        self.proj_kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, steps: int) -> Tensor:
        """tokens (B, 1 + T' S, D), class token first, the S tokens of a step together -> the same shape."""
        # each (B, heads, N, d)
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        # over all tokens, once
        class_token = F.scaled_dot_product_attention(q[:, :, :1], k, v).transpose(1, 2).flatten(2)
        q, k, v = q[:, :, 1:], _by_step(k[:, :, 1:], steps), _by_step(v[:, :, 1:], steps)
        own_step = torch.arange(q.shape[2], device=q.device) // k.shape[2]  # (T' S,)
        chunks = zip(q.split(self.query_chunk, dim=2), own_step.split(self.query_chunk), strict=True)
        patches = [self._along_trajectories(queries, k, v, own) for queries, own in chunks]
        return self.proj(torch.cat([class_token, *patches], dim=1))

    def _along_trajectories(self, q: Tensor, k: Tensor, v: Tensor, own_step: Tensor) -> Tensor:
        """q (B, heads, C, d); k, v (B T', heads, S, d); own_step (C,), each query's step -> (B, C, D)."""
        batch, heads, count, depth = q.shape
        steps = len(k) // batch
        repeated = q[:, None].expand(-1, steps, -1, -1, -1).flatten(0, 1)
        # (B T', heads, C, d): what a query sees in each step
        seen = F.scaled_dot_product_attention(repeated, k, v)
        trajectory = seen.unflatten(0, (batch, steps)).permute(0, 3, 1, 2, 4).flatten(3)  # (B, C, T', D)
        query = self.proj_q(trajectory[:, torch.arange(count, device=q.device), own_step])  # (B, C, D)
        # Only the key half of proj_kv: the original weighs the trajectory as it is and never reads the value
        # half, by a slip that all published weights were trained with. The half stays a parameter: it is in
        # the files and in the counts.
        width = heads * depth
        key = F.linear(trajectory, self.proj_kv.weight[:width], self.proj_kv.bias[:width])  # (B, C, T', D)
        # (B, C, T', heads)
        score = (query[:, :, None] * key).unflatten(-1, (heads, depth)).sum(-1) * depth**-0.5
        weight = score.softmax(dim=2).unsqueeze(-1)
        return (weight * trajectory.unflatten(-1, (heads, depth))).sum(dim=2).flatten(2)


def _by_step(x: Tensor, steps: int) -> Tensor:
    """(B, heads, T' S, d) -> (B T', heads, S, d)."""
    return x.unflatten(2, (steps, -1)).transpose(1, 2).flatten(0, 1)


# Keys of the published files, by part of a dotted name; what is not listed has the same name in both.
FOREIGN_PARTS = {
    "tubelets": "patch_embed_3d.proj",
    "unused_stem": "patch_embed.proj",
    "pre_logits": "pre_logits.fc",
}


def ours(state: Mapping[str, Tensor], config: MotionformerConfig) -> dict[str, Tensor]:
    """A published state dict -> one that Motionformer(config) loads. Raises UsageError unless keys and shapes
    fit exactly.

    The whole checkpoint is taken too (`model_state` in it), and keys with the `module.` of distributed
    training.
    """
    return to_ours(unwrapped(state), _pairs(config), "this Motionformer")


def theirs(state: Mapping[str, Tensor], config: MotionformerConfig) -> dict[str, Tensor]:
    """The way back: our state dict under the published names, in the published shapes."""
    return to_theirs(state, _pairs(config), "this Motionformer")


def _pairs(config: MotionformerConfig) -> Pairs:
    with torch.device("meta"):
        model = Motionformer(config)
    return key_pairs(model, FOREIGN_PARTS)


def key_pairs(model: Motionformer, foreign_parts: Mapping[str, str]) -> Pairs:
    """(our key, the published one) of each of a model's tensors; shapes are the same."""
    head = "head" if len(model.heads) == 1 else r"head\1"  # published: `head` alone, or `head0` and `head1`
    found = []
    for name, tensor in model.state_dict().items():
        parts = re.sub(r"^heads\.(\d+)", head, name).split(".")
        shape = tuple(tensor.shape)
        found.append(((name, shape), (".".join(foreign_parts.get(part, part) for part in parts), shape)))
    return found


def unwrapped(state: Mapping) -> dict[str, Tensor]:
    """The tensors of a checkpoint, or of a bare state dict, without the `module.` prefix."""
    return without_module(state.get("model_state", state))


Config = TypeVar("Config", bound=MotionformerConfig)


def fitted(config: Config, state: Mapping[str, Tensor]) -> Config:
    """`config` with what a published state dict's shapes tell: width, depth, clip length, classes, the unused
    stem.

    The crop size is not among them: the position table is that of a 224 px crop in every file. Heads are 64
    channels wide. Raises UsageError for the weights of another model.
    """
    state = unwrapped(state)
    lacking = [key for key in ("pos_embed", "temp_embed", "patch_embed_3d.proj.weight") if key not in state]
    if lacking:
        raise UsageError(f"these are not the weights of a Motionformer: {', '.join(lacking)} is missing")
    width, _, tubelet, patch_size, _ = state["patch_embed_3d.proj.weight"].shape
    blocks = {int(key.split(".")[1]) for key in state if re.match(r"blocks\.\d+\.", key)}
    heads = [state[key] for key in ("head.weight", "head0.weight", "head1.weight") if key in state]
    return replace(
        config,
        width=width,
        depth=len(blocks),
        heads=config.heads if width == config.width else max(1, width // 64),
        patch_size=patch_size,
        tubelet=tubelet,
        frames=tubelet * state["temp_embed"].shape[1],
        num_classes=tuple(len(head) for head in heads),
        unused_stem="patch_embed.proj.weight" in state,
    )
