"""What is stored of a clip: each level is a mean over the patches that it covers."""

import pytest
import torch

from mambavl.configs.errors import UsageError
from mambavl.extract.encoders.levels import video_levels
from mambavl.extract.encoders.registry import build


def test_frame_and_grid_are_means_of_the_patches_that_they_cover():
    encoder = build("timm:test_vit", weights="random")
    size = encoder.pixels.image_size
    video = torch.randn(2, 3, 2, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = video_levels(encoder, video, ("clip", "frame", "grid", "patch"), grid=2)
        tokens = encoder.patch_tokens(encoder.tokens(video))
    steps, height, width = encoder.token_grid((2, size, size))
    patches = found["patch"].unflatten(1, (steps, height, width))
    torch.testing.assert_close(found["patch"], tokens)
    torch.testing.assert_close(found["clip"], tokens.mean(1))
    torch.testing.assert_close(found["frame"], patches.mean((2, 3)))
    for row in range(2):
        for column in range(2):
            rows = slice(row * height // 2, (row + 1) * height // 2)
            columns = slice(column * width // 2, (column + 1) * width // 2)
            cell = patches[:, :, rows, columns].mean((2, 3))
            torch.testing.assert_close(found["grid"][:, :, row, column], cell)


def test_a_prediction_is_refused_where_there_is_no_predictor():
    encoder = build("timm:test_resnet", weights="random")
    size = encoder.pixels.image_size
    with torch.inference_mode(), pytest.raises(UsageError, match="timm:test_resnet has no predictor"):
        video_levels(encoder, torch.zeros(1, 3, 1, size, size), ("predicted",), grid=1)
