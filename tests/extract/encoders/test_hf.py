"""`hf:NAME` on tiny models saved as published ones are: tokens, their order, and what is refused."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from helpers.dataset import make_dataset
from helpers.hf import (
    FRAMES,
    PATCH,
    PROCESSORS,
    SIDE,
    SIZE,
    SMALL,
    TUBELET,
    image_model,
    save,
    save_video,
    square,
    video_config,
)
from helpers.jobs import make_roberta
from mambavl.cache import open_store
from mambavl.configs.errors import UsageError
from mambavl.extract.annotations import read_annotations
from mambavl.extract.encoders.registry import build
from mambavl.extract.encoders.text import TransformersTextEncoder
from mambavl.extract.options import VideoExtraction
from mambavl.extract.video_job import extract_video


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Classifiers of all four kinds."""
    return {kind: save_video(tmp_path_factory.mktemp(kind), kind) for kind in TUBELET}


def video(batch: int = 2, frames: int = FRAMES) -> torch.Tensor:
    return torch.randn(batch, 3, frames, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", TUBELET)
def test_a_classifiers_folder_gives_the_base_models_tokens_in_our_order(folders, kind):
    encoder = build(f"hf:{folders[kind]}")
    clip, steps = video(), FRAMES // TUBELET[kind]
    with torch.inference_mode():
        tokens = encoder.tokens(clip)
        model = transformers.AutoModel.from_pretrained(folders[kind]).eval()
        taken = {model.main_input_name: clip.transpose(1, 2)}
        own = model(**taken).last_hidden_state
        pooled = encoder.pooled(clip)
    assert (encoder.kind, encoder.state, encoder.width, encoder.frames) == ("video", "pretrained", 16, FRAMES)
    assert encoder.token_grid((FRAMES, SIZE, SIZE)) == (steps, SIDE, SIDE)
    first = encoder.prefix_tokens
    assert first == (kind in ("timesformer", "vivit"))
    assert tokens.shape == own.shape == (2, first + steps * SIDE * SIDE, 16)
    for step in range(steps):
        for cell in range(SIDE * SIDE):
            at = cell * steps + step if kind == "timesformer" else step * SIDE * SIDE + cell
            torch.testing.assert_close(
                tokens[:, first + step * SIDE * SIDE + cell], own[:, first + at], rtol=1e-4, atol=1e-5
            )
    torch.testing.assert_close(tokens[:, :first], own[:, :first], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pooled, tokens[:, 0] if first else tokens.mean(1))
    torch.testing.assert_close(encoder.patch_tokens(tokens), tokens[:, first:])
    if first:
        torch.testing.assert_close(encoder.class_token(tokens), own[:, 0], rtol=1e-4, atol=1e-5)
    assert encoder.details["attention"] == ("eager" if kind == "timesformer" else "sdpa")
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert encoder.has_class_token == bool(first)
    assert not any("predictor" in name or "pooler" in name for name, _ in encoder.named_parameters())


@pytest.mark.parametrize("depth", [0, 2])
@pytest.mark.parametrize("kind", TUBELET)
def test_a_change_at_one_place_and_time_changes_its_token(tmp_path, kind, depth):
    """Without blocks nothing else can change; behind two blocks of small weights nothing changes as much."""
    encoder = build(f"hf:{save_video(tmp_path, kind, depth)}")
    clip, steps = video(1), FRAMES // TUBELET[kind]
    with torch.inference_mode():
        before = encoder.tokens(clip)[0, encoder.prefix_tokens :]
        for step, row, column in [(0, 0, 1), (0, 2, 0), (steps - 1, 1, 3)]:
            changed = clip.clone()
            cell = (slice(row * PATCH, row * PATCH + PATCH), slice(column * PATCH, column * PATCH + PATCH))
            changed[:, :, step * TUBELET[kind], *cell] += 1.0
            change = (encoder.tokens(changed)[0, encoder.prefix_tokens :] - before).abs().sum(1)
            place = (step * SIDE + row) * SIDE + column
            assert change.argmax().item() == place
            if depth == 0:
                assert change.nonzero().flatten().tolist() == [place]


@pytest.mark.parametrize("kind", TUBELET)
def test_clips_of_other_lengths_and_sizes_are_refused_with_what_to_set(folders, kind):
    encoder = build(f"hf:{folders[kind]}")
    if kind == "vjepa2":
        assert encoder.token_grid((6, SIZE, SIZE)) == (3, SIDE, SIDE)
        assert encoder.tokens(video(1, 6)).shape == (1, 3 * SIDE * SIDE, 16)
    else:
        with pytest.raises(UsageError, match=r"takes 4 frames, the clip has 6; --set sampling\.frames=4"):
            encoder.tokens(video(1, 6))
    with pytest.raises(UsageError, match=r"--set sampling\.frames=4"):
        encoder.token_grid((3, SIZE, SIZE))
    with pytest.raises(UsageError, match="32 x 32 pixels, not 40 x 32"):
        encoder.token_grid((FRAMES, 40, SIZE))
    with pytest.raises(UsageError, match="frames of 32 px, not 64"):
        build(f"hf:{folders[kind]}", image_size=64)


IMAGE_MODELS = {  # its class for pictures, cells a side, channels, leading tokens
    "vit": (transformers.ViTModel, 4, 16, 1),
    "dinov2": (transformers.Dinov2Model, 4, 16, 1),
    "registers": (transformers.Dinov2WithRegistersModel, 4, 16, 5),
    "clip": (transformers.CLIPVisionModel, 4, 16, 1),
    "clip-vision": (transformers.CLIPVisionModel, 4, 16, 1),
    "siglip": (transformers.SiglipVisionModel, 4, 16, 0),
    "swin": (transformers.SwinModel, 4, 16, 0),
    "convnext": (transformers.ConvNextModel, 1, 16, 0),
    "resnet": (transformers.ResNetModel, 4, 16, 0),
}


@pytest.mark.parametrize("kind", IMAGE_MODELS)
def test_an_image_model_is_run_frame_by_frame(tmp_path, kind):
    model_class, side, width, leading = IMAGE_MODELS[kind]
    encoder = build(f"hf:{save(tmp_path, image_model(kind), square('CLIPImageProcessor'))}")
    clip = video(1, 3)
    assert encoder.token_grid((3, SIZE, SIZE)) == (3, side, side)
    assert (encoder.kind, encoder.width, encoder.prefix_tokens) == ("video", width, 0)
    with torch.inference_mode():
        tokens = encoder.tokens(clip)
        model = model_class.from_pretrained(tmp_path).eval()
        for time in range(3):
            own = model(pixel_values=clip[:, :, time]).last_hidden_state
            own = own.flatten(2).transpose(1, 2) if own.ndim == 4 else own[:, leading:]
            cells = slice(time * side * side, (time + 1) * side * side)
            torch.testing.assert_close(tokens[:, cells], own, rtol=1e-4, atol=1e-5)
    assert encoder.pixels.image_size == SIZE


def test_a_vit_takes_other_sizes_by_stretching_its_table(tmp_path):
    save(tmp_path, image_model("vit"), square("ViTImageProcessor"))
    assert build(f"hf:{tmp_path}", image_size=64).token_grid((2, 64, 64)) == (2, 8, 8)
    with pytest.raises(UsageError, match="no grid of features at 4 px"):
        build(f"hf:{tmp_path}", image_size=4)


def test_a_model_with_tokens_of_unknown_places_is_refused(tmp_path):
    """YOLOS appends detection tokens: the last ones are no patches."""
    config = transformers.YolosConfig(
        image_size=[SIZE, SIZE], patch_size=PATCH, num_detection_tokens=9, num_hidden_layers=1, **SMALL
    )
    save(tmp_path, transformers.YolosModel(config), square("CLIPImageProcessor"))
    with pytest.raises(UsageError, match="26 tokens of a frame of 32 px do not form a square grid"):
        build(f"hf:{tmp_path}")


def test_a_processor_of_another_size_than_the_video_model_is_refused(tmp_path):
    folder = save_video(tmp_path, "videomae")
    (folder / "preprocessor_config.json").write_text(json.dumps(square("VideoMAEImageProcessor", 48)))
    with pytest.raises(UsageError, match="frames of 32 px, not 48"):
        build(f"hf:{folder}")


@pytest.mark.parametrize("kind", TUBELET)
def test_weights_that_lack_a_tensor_are_refused(tmp_path, kind):
    file = save_video(tmp_path, kind) / "model.safetensors"
    state = load_file(file)
    lost = next(
        name
        for name in state
        if name.endswith("weight") and ".1." in name and "pool" not in name and "predict" not in name
    )
    del state[lost]
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"lacks 1 of the model's tensors"):
        build(f"hf:{tmp_path}")


def test_pickled_weights_are_not_read(tmp_path):
    model = image_model("vit")
    save(tmp_path, model, square("ViTImageProcessor"))
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UsageError, match=r"give --weights FOLDER with .*model\.safetensors"):
        build(f"hf:{tmp_path}")


def test_random_weights_need_a_config_alone_and_are_always_the_same(tmp_path, folders):
    video_config("videomae").save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSORS["videomae"]))
    one, other = (build(f"hf:{tmp_path}", weights="random") for _ in range(2))
    assert one.state == "random"
    assert one.sha256 == other.sha256 != build(f"hf:{folders['videomae']}").sha256
    named = build("hf:anything", weights=str(folders["videomae"]))  # weights: the folder that is used instead
    assert named.sha256 == build(f"hf:{folders['videomae']}").sha256


def test_other_models_are_sent_where_they_belong(tmp_path):
    folder = make_roberta(tmp_path)
    encoder = build(f"hf:{folder}")
    assert isinstance(encoder, TransformersTextEncoder)
    assert encoder.kind == "text"
    with pytest.raises(UsageError, match="a text model and takes no image_size"):
        build(f"hf:{folder}", image_size=64)
    transformers.Wav2Vec2Config(hidden_size=16).save_pretrained(tmp_path / "sound")
    with pytest.raises(UsageError, match=r"a model of sound; use audio:"):
        build(f"hf:{tmp_path / 'sound'}")
    transformers.TimeSeriesTransformerConfig(prediction_length=2).save_pretrained(tmp_path / "other")
    with pytest.raises(UsageError, match="knows how to run a time_series_transformer model"):
        build(f"hf:{tmp_path / 'other'}")
    video_config("timesformer", attention_type="space_only").save_pretrained(tmp_path / "space")
    (tmp_path / "space" / "preprocessor_config.json").write_text(json.dumps(PROCESSORS["timesformer"]))
    with pytest.raises(UsageError, match="without attention over time"):
        build(f"hf:{tmp_path / 'space'}", weights="random")
    with pytest.raises(UsageError, match=r"hf:/nowhere: .*Without a network, give --weights FOLDER"):
        build("hf:/nowhere")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data"), videos=2)


def extract(dataset, out, encoder, **options):
    read = read_annotations(dataset / "annotations")
    options = VideoExtraction.model_validate(
        {"encoder": f"hf:{encoder}", "levels": ["clip", "frame"], **options}
    )
    return extract_video(read, dataset / "videos", out, options)


def test_the_job_fills_a_store_with_a_video_model(dataset, folders, tmp_path):
    assert extract(
        dataset, tmp_path / "v.zarr", folders["timesformer"], sampling={"frames": FRAMES}
    ).finalized
    store = open_store(tmp_path / "v.zarr")
    assert store.levels["frame"].shape == (1, FRAMES, 16)
    assert store.spec.recipe.encoder.details["config"]["attention_type"] == "divided_space_time"
    assert (store.status == 1).all()


def test_the_job_refuses_a_wrong_number_of_frames_before_it_writes(dataset, folders, tmp_path):
    with pytest.raises(UsageError, match=r"takes 4 frames, the clip has 16; --set sampling\.frames=4"):
        extract(dataset, tmp_path / "v.zarr", folders["videomae"])
    assert not (tmp_path / "v.zarr").exists()


def test_the_job_refuses_a_text_model_before_it_writes(dataset, tmp_path):
    with pytest.raises(UsageError, match="use `mambavl extract text`"):
        extract(dataset, tmp_path / "v.zarr", make_roberta(tmp_path))
    assert not (tmp_path / "v.zarr").exists()
