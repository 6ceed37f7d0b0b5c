"""From a decoded frame to what an encoder sees of it: squares are cut out, or all is squeezed into one, and
resized.
"""

import mmap
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from mambavl.extract.encoders.base import Interpolation

# smoothed as much as they shrink; on uint8 they are within 2 of 255 levels of PIL's, at a sixth of its time
SMOOTHED = ("bilinear", "bicubic")


@dataclass(frozen=True)
class Look:
    """How an encoder wants a square to be: side in pixels, and how it is resized to that."""

    side: int
    interpolation: Interpolation


def crop_squares(height: int, width: int, crops: int) -> list[tuple[int, int, int]]:
    """(top, left, side) of the squares cut from a frame: in the centre, or three along the long side; whole
    pixels.
    """
    side = min(height, width)
    top, left = height - side, width - side
    if crops == 1:
        return [(top // 2, left // 2, side)]
    return [(0, 0, side), (top // 2, left // 2, side), (top, left, side)]


def cut(pixels: np.ndarray, crops: int | None) -> list[np.ndarray]:
    """A frame (H, W, 3) -> its squares, views of it; crops None: the whole frame, which is to be squeezed."""
    if crops is None:
        return [pixels]
    squares = crop_squares(pixels.shape[0], pixels.shape[1], crops)
    return [pixels[top : top + side, left : left + side] for top, left, side in squares]


def resize(pixels: np.ndarray, look: Look) -> np.ndarray:
    """(h, w, 3) uint8 -> (S, S, 3) uint8."""
    size = (look.side, look.side)
    if look.interpolation not in SMOOTHED:
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling[look.interpolation.upper()]))
    # rows of colours, as frames come: PyTorch is three times as fast on these, and on one thread
    image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]
    resized = interpolate(image, size=size, mode=look.interpolation, antialias=True)
    return resized[0].permute(1, 2, 0).contiguous().numpy()


def own_memory(shape: Sequence[int], dtype: type[np.generic] = np.uint8) -> np.ndarray:
    """An array whose memory goes back to the system as soon as nothing shows it any more.

    The allocator keeps what a thread once used and cuts small pieces from it, so that the next array finds no
    room there: 30 views of a batch came to take 1 GB, and every thread kept the pictures of its rows.
    """
    size = prod(shape) * np.dtype(dtype).itemsize
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them; small pages are new at two to four times the cost
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, dtype).reshape(shape)
