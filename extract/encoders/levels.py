"""What is stored of a batch of clips."""

from typing import Literal

from torch import Tensor, nn

Level = Literal["clip", "cls", "frame", "grid", "patch"]


def video_levels(
    encoder: nn.Module, video: Tensor, levels: tuple[Level, ...], grid: int, boxes: Tensor | None = None
) -> dict[str, Tensor]:
    """What is stored of a batch of clips: clip, cls (B, D), frame (B, T', D), grid (B, T', g, g, D), patch
    (B, T'hw, D).

    clip is what the encoder's own classifier reads, cls its class token beside the patches. boxes (B, T, O,
    4): of an ORViT.
    """
    tokens = encoder.tokens(video) if boxes is None else encoder.tokens(video, boxes)
    steps, height, width = encoder.token_grid(video.shape[2:])
    patches = encoder.patch_tokens(tokens).unflatten(1, (steps, height, width))  # (B, T', h, w, D)
    out = {}
    for level in levels:
        if level == "clip":
            out[level] = encoder.pool(tokens)
        elif level == "cls":
            out[level] = encoder.class_token(tokens)
        elif level == "frame":
            out[level] = patches.mean(dim=(2, 3))
        elif level == "grid":
            out[level] = _pool_grid(patches, grid)
        else:
            out[level] = patches.flatten(1, 3)
    return out


def _pool_grid(patches: Tensor, grid: int) -> Tensor:
    maps = patches.flatten(0, 1).permute(0, 3, 1, 2)  # (B T', D, h, w)
    pooled = nn.functional.adaptive_avg_pool2d(maps, grid).permute(0, 2, 3, 1)
    return pooled.unflatten(0, patches.shape[:2])
