"""The contract itself: pixels that can be, and what an encoder refuses that it does not have."""

import pytest
import torch

from mambavl.configs.errors import UsageError
from mambavl.extract.encoders.base import Pixels, VideoEncoder


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_size": 0},
        {"image_size": "224"},
        {"mean": (0.5,)},
        {"std": (1, 1, 0)},
        {"colour": "GBR"},
        {"interpolation": "cubic"},
    ],
)
def test_pixels_that_cannot_be_are_refused_when_they_are_written_down(wrong):
    with pytest.raises(UsageError, match=f"Pixels: .*{next(iter(wrong))}"):
        Pixels(**{"image_size": 224, "mean": (0.5,) * 3, "std": (0.5,) * 3, **wrong})


class Middle(VideoEncoder):
    """One token a frame, behind two that belong to no place: the grey of its middle."""

    prefix_tokens = 2

    def token_grid(self, video_shape):
        return video_shape[0], 1, 1

    def tokens(self, video):
        grey = video.mean(1)[:, :, 1, 1, None]  # (B, T, 1)
        return torch.cat([torch.zeros(len(video), 2, 1), grey], dim=1)

    def pool(self, tokens):
        return tokens.mean(1)


def test_what_every_video_encoder_has_follows_from_its_own_methods():
    encoder, video = Middle(), torch.rand(2, 3, 4, 2, 2)
    tokens = encoder.tokens(video)
    assert encoder.grid_of(video) == (4, 1, 1)
    assert torch.equal(encoder.patch_tokens(tokens), tokens[:, 2:])
    assert torch.equal(encoder.pooled(video), encoder.pool(tokens))
    assert (encoder.kind, encoder.state, encoder.sha256, encoder.details) == ("video", None, "", {})


def test_a_class_token_or_boxes_are_refused_where_there_is_no_use_for_them():
    encoder, video = Middle(), torch.rand(2, 3, 4, 2, 2)
    with pytest.raises(UsageError, match="Middle has no class token"):
        encoder.class_token(encoder.tokens(video))
    with pytest.raises(UsageError, match="Middle reads no boxes"):
        encoder.tokens_with_boxes(video, torch.zeros(2, 4, 1, 4))
