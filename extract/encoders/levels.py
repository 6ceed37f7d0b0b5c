"""What is stored of a batch of clips."""

from typing import Literal

from torch import Tensor

from mambavl.cache.pool import pool_cells
from mambavl.extract.encoders.base import VideoEncoder

Level = Literal["clip", "cls", "frame", "grid", "patch", "predicted"]


def video_levels(
    encoder: VideoEncoder, video: Tensor, levels: tuple[Level, ...], grid: int, boxes: Tensor | None = None
) -> dict[str, Tensor]:
    """Features of a batch of clips by level: clip, cls (B, D), frame (B, T', D), grid (B, T', g, g, D), patch
    (B, T' h w, D), predicted (B, h w, D).

    clip is what the encoder's own classifier reads, cls its class token, predicted what its predictor makes
    of a time step after the clip; the others are means over patches.
    grid: g, cells along a side. boxes (B, T, O, 4): for an encoder that reads them. Raises UsageError for a
    clip that the encoder cannot take, and for a class token, a prediction or boxes that it has no use for.
    """
    tokens = encoder.tokens(video) if boxes is None else encoder.tokens_with_boxes(video, boxes)
    patches = encoder.patch_tokens(tokens).unflatten(1, encoder.grid_of(video))  # (B, T', h, w, D)
    out: dict[str, Tensor] = {}
    for level in levels:
        if level == "clip":
            out[level] = encoder.pool(tokens)
        elif level == "cls":
            out[level] = encoder.class_token(tokens)
        elif level == "predicted":
            out[level] = encoder.predicted(tokens)
        elif level == "frame":
            out[level] = patches.mean(dim=(2, 3))
        elif level == "grid":
            out[level] = pool_cells(patches, grid)
        else:
            out[level] = patches.flatten(1, 3)
    return out
