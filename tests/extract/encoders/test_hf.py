"""`hf:NAME` on tiny models saved as published ones are: tokens, their order, and what is refused."""

import json

import numpy as np
import pytest
import torch
import transformers

from helpers.dataset import make_dataset
from helpers.hf import (
    FRAMES,
    PATCH,
    PROCESSORS,
    SIDE,
    SIZE,
    SMALL,
    image_model,
    save,
    square,
    video,
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
    "sam2": (transformers.Sam2VisionModel, 4, 16, 0),
}


@pytest.mark.parametrize("kind", IMAGE_MODELS)
def test_an_image_model_is_run_frame_by_frame(tmp_path, kind):
    model_class, side, width, leading = IMAGE_MODELS[kind]
    encoder = build(f"hf:{save(tmp_path, image_model(kind), square('CLIPImageProcessor'))}")
    clip = video(1, 3)
    assert encoder.token_grid((3, SIZE, SIZE)) == (3, side, side)
    assert (encoder.kind, encoder.width, encoder.has_class_token) == ("video", width, leading > 0)
    with torch.inference_mode():
        tokens = encoder.tokens(clip)
        model = model_class.from_pretrained(tmp_path).eval()
        own = model(pixel_values=clip[0].transpose(0, 1)).last_hidden_state  # (T, ...)
        if leading:
            torch.testing.assert_close(
                encoder.class_token(tokens)[0], own[:, 0].mean(0), rtol=1e-4, atol=1e-5
            )
        if own.ndim == 4:  # SAM 2's channels stand last
            own = (own if kind == "sam2" else own.permute(0, 2, 3, 1)).flatten(1, 2)
        cells = own[:, leading:].flatten(0, 1)
        torch.testing.assert_close(encoder.patch_tokens(tokens)[0], cells, rtol=1e-4, atol=1e-5)
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


def test_the_job_stores_what_v_jepa_2_predicts_beside_what_it_saw(dataset, folders, tmp_path):
    settings = {"sampling": {"task": "anticipation", "rule": "vjepa", "frames": FRAMES, "tau_a": 0.5}}
    for name, levels in [("both", ["predicted", "frame", "clip"]), ("one", "predicted")]:
        assert extract(dataset, tmp_path / name, folders["vjepa2"], levels=levels, **settings).finalized
    both, one = open_store(tmp_path / "both"), open_store(tmp_path / "one")
    assert both.levels["predicted"].shape == (1, SIDE * SIDE, 16)
    assert both.spec.recipe.encoder.details["predictor"]["steps_ahead"] == 2  # 0.5 s x 8 a second / 2
    rows = np.flatnonzero(both.status == 1)
    found = {level: both.batch(rows, level) for level in ("predicted", "frame", "clip")}
    assert [set(lengths.tolist()) for _, lengths in found.values()] == [{SIDE * SIDE}, {FRAMES // 2}, {1}]
    alone, lengths = one.batch(rows, "predicted")
    assert set(lengths.tolist()) == {SIDE * SIDE}
    assert torch.equal(alone, found["predicted"][0])
    assert torch.isfinite(alone).all()
    assert not torch.equal(alone[:, :2], found["frame"][0])


@pytest.mark.parametrize("name", ["timm:test_vit", "avion-vit-b", "somebody:function", "hf:{videomae}"])
def test_level_predicted_is_refused_before_any_work_where_nothing_predicts(dataset, folders, tmp_path, name):
    options = {"levels": ["frame", "predicted"], "sampling": {"frames": FRAMES}, "weights": "random"}
    read = read_annotations(dataset / "annotations")
    settings = VideoExtraction.model_validate({"encoder": name.format(**folders), **options})
    with pytest.raises(UsageError, match=r"has no predictor.* leave (it|`predicted`) out of the levels"):
        extract_video(read, tmp_path / "no videos", tmp_path / "v.zarr", settings)
    assert not (tmp_path / "v.zarr").exists()
