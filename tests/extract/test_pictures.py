"""Squares of frames, resized: against PIL's, which are resized by another program from the same square."""

import numpy as np
import pytest
from PIL import Image

from mambavl.extract.pictures import SMOOTHED, Look, crop_squares, cut, resize


@pytest.mark.parametrize(("height", "width"), [(48, 160), (160, 48), (48, 48), (49, 160)])
def test_squares_lie_in_the_frame_and_reach_both_ends_of_its_long_side(height, width):
    side = min(height, width)
    ((top, left, found),) = crop_squares(height, width, 1)
    assert found == side
    assert 0 <= height - side - 2 * top <= 1  # in the middle, to half a pixel
    assert 0 <= width - side - 2 * left <= 1
    first, middle, last = crop_squares(height, width, 3)
    assert first == (0, 0, side)
    assert middle == (top, left, side)
    assert last == (height - side, width - side, side)


def frame(height, width, seed=0):
    """Soft and hard edges, in all colours."""
    small = np.random.default_rng(seed).integers(0, 256, (height // 10 + 1, width // 10 + 1, 3))
    return np.kron(small, np.ones((10, 10, 1)))[:height, :width].astype(np.uint8)


def test_what_is_cut_is_what_stands_there():
    pixels = frame(50, 90)
    assert [square.shape for square in cut(pixels, 3)] == [(50, 50, 3)] * 3
    for square, left in zip(cut(pixels, 3), (0, 20, 40), strict=True):
        assert np.array_equal(square, pixels[:, left : left + 50])
    assert np.array_equal(cut(pixels, 1)[0], pixels[:, 20:70])
    (whole,) = cut(pixels, None)
    assert whole is pixels


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest", "lanczos"])
@pytest.mark.parametrize(("height", "width"), [(1080, 1920), (256, 456), (100, 60), (224, 224)])
def test_squares_are_resized_as_pil_does(height, width, interpolation):
    """Smoothed ones differ by 2 of 255 levels at most."""
    for square in (*cut(frame(height, width), 3), frame(height, width)):
        found = resize(square, Look(112, interpolation))
        method = Image.Resampling[interpolation.upper()]
        expected = np.asarray(Image.fromarray(square).resize((112, 112), method))
        assert found.dtype == np.uint8
        assert found.shape == (112, 112, 3)
        apart = np.abs(found.astype(int) - expected).max()
        assert apart <= (2 if interpolation in SMOOTHED else 0)
