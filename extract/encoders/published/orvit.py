"""ORViT: a Motionformer, some of whose blocks also look at objects, given as boxes (Herzig et al., arXiv
2110.06915).

    object stream   what is inside each box joins the patches of its time step in trajectory attention
    motion stream   where the boxes are, all steps together, is painted back on the patches under them

B clips, T frames, T' = T / 2 time steps, h x w patches, O object slots, D channels. A box is (cx, cy, w, h)
in fractions of the crop, one set for each input frame; a slot without an object is all zeros. For
EPIC-KITCHENS slot 0 is the right hand, slot 1 the left, 2 and 3 the objects that were tracked first.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mambavl.configs.errors import UsageError
from mambavl.extract.encoders.published.keys import Pairs, to_ours, to_theirs
from mambavl.extract.encoders.published.motionformer import (
    FOREIGN_PARTS,
    LAYER_NORM_EPS,
    MLP,
    Motionformer,
    MotionformerConfig,
    TrajectoryAttention,
    key_pairs,
    unwrapped,
)
from mambavl.extract.encoders.published.motionformer import fitted as motionformer_fitted

BoxTransform = Literal["correct", "released"]
MIN_SIDE = 0.05  # a box this narrow or narrower, in fractions of the crop, was dropped in training


@dataclass(frozen=True)
class ORViTConfig(MotionformerConfig):
    """The sizes of an ORViT. Raises UsageError for sizes that do not go together."""

    orvit_layers: tuple[int, ...] = (1, 6, 10)  # counted from 0
    objects: int = 4
    # none: every clip without objects, as a released loader has most of them
    boxes: Literal["given", "none"] = "given"
    # paint as the published weights expect it (see `painted`); False: the box itself
    layout_quirk: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.boxes not in ("given", "none"):
            raise UsageError(f"ORViT: boxes are `given` or `none`, not {self.boxes!r}")
        if beyond := [layer for layer in self.orvit_layers if not 0 <= layer < self.depth]:
            raise UsageError(
                f"ORViT: orvit_layers {beyond} are not among the {self.depth} blocks, counted from 0"
            )


CONFIGS = {"orvit": ORViTConfig(), "orvit-hr": ORViTConfig(image_size=336)}


class ORViT(Motionformer):
    """Motionformer with object blocks at `orvit_layers`. `tokens` wants the boxes: zeros for a clip without
    any.
    """

    config: ORViTConfig

    def __init__(self, config: ORViTConfig) -> None:
        super().__init__(config)
        self.box_slots = config.objects if config.boxes == "given" else 0

    def block(self, index: int) -> nn.Module:
        """The block at `index`, counted from 0."""
        return ObjectBlock(self.config) if index in self.config.orvit_layers else super().block(index)

    def _initialise(self) -> None:
        super()._initialise()
        for module in self.modules():
            if isinstance(module, ObjectBlock | MotionStream):
                nn.init.trunc_normal_(module.box_categories, std=0.02)

    def tokens(self, video: Tensor, boxes: Tensor | None = None) -> Tensor:
        """video (B, 3, T, H, W), normalised; boxes (B, T, O, 4) -> (B, 1 + T' h w, D), class token, then
        time, row, column. Raises UsageError for boxes that are missing or outside the crop.
        """
        grid = self.grid_of(video)
        boxes = self._checked(boxes, video)
        boxes = boxes[:, :: self.config.tubelet].to(video)  # the first frame of each tubelet speaks for it
        return self._through_blocks(self.embed(video), grid, boxes)

    def tokens_with_boxes(self, video: Tensor, boxes: Tensor) -> Tensor:
        """As `tokens`."""
        return self.tokens(video, boxes)

    def pooled(self, video: Tensor, boxes: Tensor | None = None) -> Tensor:
        """video (B, 3, T, H, W), boxes (B, T, O, 4) -> (B, D)."""
        return self.pool(self.tokens(video, boxes))

    def _last_block(self, tokens: Tensor) -> Tensor:
        if isinstance(self.blocks[-1], ObjectBlock):
            raise UsageError(
                "ORViT: the last block reads boxes, so penultimate tokens cannot be pooled; use layer `last`"
            )
        return super()._last_block(tokens)

    def _checked(self, boxes: Tensor | None, video: Tensor) -> Tensor:
        shape = (len(video), self.config.frames, self.config.objects, 4)
        if boxes is None and self.config.boxes == "none":
            boxes = video.new_zeros(shape)
        if boxes is None:
            raise UsageError(
                f"ORViT: tokens(video, boxes) needs boxes {shape}, (cx, cy, w, h); "
                "zeros where nothing was found"
            )
        if boxes.shape != shape:
            raise UsageError(
                f"ORViT: boxes are {tuple(boxes.shape)}, not {shape}: clip, frame, slot, (cx, cy, w, h)"
            )
        inside = ((boxes > -1e-3) & (boxes < 1 + 1e-3)).all()  # NaN is not
        says = "wanted are (cx, cy, w, h) in fractions of the crop"
        if torch.compiler.is_compiling():  # a graph cannot branch on what is in a tensor, but it can stop
            torch._assert_async(inside, f"ORViT: boxes outside 0 to 1; {says}")
        elif not boxes.is_meta and not inside:
            low, high = boxes.min().item(), boxes.max().item()
            raise UsageError(f"ORViT: boxes go from {low:g} to {high:g}; {says}")
        return boxes


class ObjectBlock(nn.Module):
    """The ORViT block: a Motionformer block on patches and objects, plus the painted motion of the boxes."""

    def __init__(self, config: ORViTConfig) -> None:
        super().__init__()
        self.layout_quirk = config.layout_quirk
        self.box_categories = nn.Parameter(torch.empty(config.steps, config.objects, config.width))
        self.roi_mlp = _relu_mlp(config.width, config.width)
        self.box_mlp = _relu_mlp(4, config.width)
        self.norm1 = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.attn = TrajectoryAttention(config.width, config.heads, config.query_chunk)
        self.norm2 = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.mlp = MLP(config.width, config.mlp_ratio)
        self.motion_stream = MotionStream(config)
        self.motion_mlp = MLP(config.width, config.mlp_ratio)

    def forward(self, tokens: Tensor, grid: tuple[int, int, int], boxes: Tensor) -> Tensor:
        """tokens (B, 1 + T' h w, D), boxes (B, T', O, 4) -> tokens."""
        steps, height, width = grid
        patches = tokens[:, 1:].unflatten(1, (steps, -1))  # (B, T', hw, D)
        seen = torch.cat([patches, self.object_tokens(patches.unflatten(2, (height, width)), boxes)], dim=2)
        seen = torch.cat([tokens[:, :1], seen.flatten(1, 2)], dim=1)  # (B, 1 + T'(hw + O), D)
        seen = self.attn(self.norm1(seen), steps)
        # what the objects saw is dropped
        patches = seen[:, 1:].unflatten(1, (steps, -1))[:, :, : height * width]
        motion = painted(self.motion_stream(boxes), boxes, (height, width), quirk=self.layout_quirk)
        # Added to every patch, painted or not: motion_mlp has biases, so even a clip without boxes gets
        # motion_mlp(0).
        patches = patches + self.motion_mlp(motion)
        tokens = tokens + torch.cat([seen[:, :1], patches.flatten(1, 2)], dim=1)
        return tokens + self.mlp(self.norm2(tokens))

    def object_tokens(self, patches: Tensor, boxes: Tensor) -> Tensor:
        """patches (B, T', h, w, D), boxes (B, T', O, 4) -> (B, T', O, D): each box's look, place and slot."""
        # One slot at a time: the crops of all O would be the largest thing in memory.
        looks = [
            self.roi_mlp(roi_crops(patches, boxes[:, :, slot])).amax(dim=(2, 3))
            for slot in range(boxes.shape[2])
        ]
        return torch.stack(looks, dim=2) + self.box_categories + self.box_mlp(boxes)


class MotionStream(nn.Module):
    """Boxes alone -> one vector each: place and slot, mixed by one ordinary transformer block over all steps
    and slots.

    Empty slots are not masked: they take part with the embedding of their slot.
    """

    def __init__(self, config: ORViTConfig) -> None:
        super().__init__()
        self.box_categories = nn.Parameter(torch.empty(config.steps, config.objects, config.width))
        self.box_mlp = _relu_mlp(4, config.width)
        self.mixer = PlainBlock(config)

    def forward(self, boxes: Tensor) -> Tensor:
        """boxes (B, T', O, 4) -> (B, T', O, D)."""
        vectors = self.box_mlp(boxes) + self.box_categories
        return self.mixer(vectors.flatten(1, 2)).unflatten(1, boxes.shape[1:3])


class PlainBlock(nn.Module):
    """A pre-norm transformer block with joint attention."""

    def __init__(self, config: ORViTConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.attn = JointAttention(config.width, config.heads)
        self.norm2 = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.mlp = MLP(config.width, config.mlp_ratio)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class JointAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        # each (B, heads, N, d)
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def _relu_mlp(given: int, width: int) -> nn.Sequential:
    """Two layers without biases, a ReLU after each, so that nothing in gives nothing out."""
    return nn.Sequential(
        nn.Linear(given, width // 2, bias=False),
        nn.ReLU(),
        nn.Linear(width // 2, width, bias=False),
        nn.ReLU(),
    )


def roi_crops(patches: Tensor, boxes: Tensor) -> Tensor:
    """patches (..., h, w, D), boxes (..., 4) -> (..., h, w, D): each box resampled to the size of the whole
    grid.

    One bilinear sample in the middle of each of the h x w bins: a box is never larger than the frame, so no
    bin is larger than a patch. An empty box gives zeros.
    """
    height, width = patches.shape[-3:-1]
    (x0, y0, x1, y1), (box_width, box_height) = corners(boxes), boxes[..., 2:].unbind(-1)
    rows, columns = _sampling(y0, y1, height), _sampling(x0, x1, width)  # (..., bins, cells)
    rows = rows * ((box_width > 0) & (box_height > 0))[..., None, None]
    # Two small matrices a box, since a bilinear sample is a product of one weight for the row and one for the
    # column.
    sampled = columns[..., None, :, :] @ patches  # (..., h, w bins, D)
    return (rows @ sampled.flatten(-2)).unflatten(-1, sampled.shape[-2:])


def _sampling(start: Tensor, stop: Tensor, cells: int) -> Tensor:
    """Weights (..., bins, cells) of linear interpolation at the middle of `cells` bins between two fractions
    of an axis.
    """
    centres = torch.arange(cells, device=start.device, dtype=start.dtype)
    start, stop = start[..., None] * cells, stop[..., None] * cells
    at = start + (stop - start) * (centres + 0.5) / cells - 0.5  # in cells; the first cell's centre is at 0
    at = at.clamp(0, cells - 1)  # outside the outermost centres: the border's value
    return (1 - (at[..., None] - centres).abs()).clamp(min=0)


def painted(vectors: Tensor, boxes: Tensor, grid: tuple[int, int], *, quirk: bool = True) -> Tensor:
    """vectors (B, T', O, D) laid on the patches (B, T', h w, D) that their boxes (B, T', O, 4) cover;
    overlaps add up.

    quirk: the released code divides by the far corner where the box's size is meant, so a box from x0 to x1
    is painted from x0 to x0 + x1, up to twice as wide as it is or more. Its weights were trained with that.
    """
    x0, y0, x1, y1 = corners(boxes)
    width, height = (x1, y1) if quirk else (x1 - x0, y1 - y0)
    # (B, T', O, h), (B, T', O, w)
    rows, columns = _coverage(y0, height, grid[0]), _coverage(x0, width, grid[1])
    weights = (rows[..., :, None] * columns[..., None, :]).flatten(3)  # (B, T', O, hw)
    return weights.transpose(2, 3) @ vectors


def _coverage(start: Tensor, length: Tensor, cells: int) -> Tensor:
    """How far each of `cells` places along an axis, 0 to 1 with both ends, lies within a box: (..., cells), 0
    to 1.

    The box is a row of eight pixels, 0 to 7, read with linear interpolation: it fades out over one pixel
    beyond each end.
    """
    places = torch.linspace(0, 1, cells, device=start.device, dtype=start.dtype)
    empty = (length <= 0)[..., None]
    pixel = 7 * (places - start[..., None]) / length[..., None].masked_fill(empty, 1)
    return torch.minimum(pixel + 1, 8 - pixel).clamp(0, 1).masked_fill(empty, 0)


def corners(boxes: Tensor) -> tuple[Tensor, ...]:
    """(..., 4) as (cx, cy, w, h) -> x0, y0, x1, y1."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return *(centre - size / 2).unbind(-1), *(centre + size / 2).unbind(-1)


def crop_boxes(
    boxes: Tensor,
    frame: tuple[int, int],
    crop: tuple[float, float, float],
    image_size: int,
    *,
    box_transform: BoxTransform = "correct",
) -> Tensor:
    """Boxes (..., 4) of a frame, as detectors write them, -> boxes of its crop, as `ORViT.tokens` wants them.

    boxes: x0, y0, x1, y1 in fractions of the frame; frame: (height, width); crop: (top, left, side) in pixels
    of the frame, later resized to image_size. Parts outside the crop are cut off; what is then MIN_SIDE wide
    or less becomes zeros. "released" does what the released EPIC-KITCHENS loader did: it took the fractions
    for pixels of the resized frame, so a crop that does not begin at the frame's corner loses every box, and
    any other has them too large by image_size / side.
    """
    (height, width), (top, left, side) = frame, crop
    offset = boxes.new_tensor([left, top, left, top])
    if box_transform == "correct":
        boxes = (boxes * boxes.new_tensor([width, height, width, height]) - offset) / side
    elif box_transform == "released":
        boxes = (boxes - offset) * (image_size / side)
    else:
        raise UsageError(f"box_transform is `correct` or `released`, not {box_transform!r}")
    near, far = boxes.clamp(0, 1).split(2, dim=-1)
    size = far - near
    return torch.cat([(near + far) / 2, size], dim=-1) * (size > MIN_SIDE).all(dim=-1, keepdim=True)


_FOREIGN_PARTS = FOREIGN_PARTS | {"roi_mlp": "patch_to_d", "box_mlp": "c_coord_to_feature", "mixer": "attn"}


def ours(state: Mapping[str, Tensor], config: ORViTConfig) -> dict[str, Tensor]:
    """A published state dict, or the checkpoint around it, -> one that ORViT(config) loads. Raises UsageError
    unless keys and shapes fit exactly.
    """
    return to_ours(unwrapped(state), _pairs(config), "this ORViT")


def theirs(state: Mapping[str, Tensor], config: ORViTConfig) -> dict[str, Tensor]:
    """The way back: our state dict under the published names, in the published shapes."""
    return to_theirs(state, _pairs(config), "this ORViT")


def fitted(config: ORViTConfig, state: Mapping[str, Tensor]) -> ORViTConfig:
    """`motionformer.fitted`, and which blocks look at how many objects."""
    state = unwrapped(state)
    layers = tuple(sorted({int(key.split(".")[1]) for key in state if ".patch_to_d." in key}))
    if not layers:
        raise UsageError("these are not the weights of an ORViT: no block has an object stream (patch_to_d)")
    objects = state[f"blocks.{layers[0]}.box_categories"].shape[1]
    # no layers while the depth is still to be read: a file may have fewer blocks than `config`
    sizes = motionformer_fitted(replace(config, orvit_layers=()), state)
    return replace(sizes, orvit_layers=layers, objects=objects)


def _pairs(config: ORViTConfig) -> Pairs:
    with torch.device("meta"):
        model = ORViT(config)
    return key_pairs(model, _FOREIGN_PARTS)
