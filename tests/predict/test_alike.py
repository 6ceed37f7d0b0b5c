"""Settings that are read from a spec make that spec again: they are those that it was made with."""

import pytest

from mambavl.cache.shards import Level
from mambavl.cache.spec import EncoderIdentity, FeatureRecipe, PixelRecipe, Spec
from mambavl.extract.options import AudioExtraction, TextExtraction, VideoExtraction
from mambavl.predict.alike import audio_settings, common_settings, text_settings, video_settings

PIXELS = {
    "interpolation": "bicubic",
    "mean": (0.5,) * 3,
    "std": (0.5,) * 3,
    "colour": "RGB",
}
COMMON = {"encoder": "E", "device": "cpu", "dtype": "float32"}


def spec_of(kind, settings, levels, encoder=None, **recipe):
    """What the jobs write of settings."""
    found = FeatureRecipe(
        encoder=EncoderIdentity(name="E", **(encoder or {})),
        sampling=settings.sampling.model_dump() if kind != "text" else None,
        **recipe,
    )
    return Spec(kind=kind, recipe=found, levels=levels, rows_per_group=8)


def level(name, *shape, steps=0):
    return Level(name, "dense", shape, "float32", steps=steps)


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"sampling": {"rule": "mf_dense", "views": 3, "stride": 3, "frames": 32}, "crops": 3},
        {"sampling": {"task": "anticipation", "tau_a": 0.5}, "fit": "squash", "precision": "bf16"},
        {"levels": ["grid", "clip"], "grid": 3, "batch_rows": 5, "decoder": "decord"},
        {"still_pictures": True},
    ],
)
def test_settings_of_video(asked):
    settings = VideoExtraction.model_validate({**COMMON, "batch_rows": 8, **asked})
    levels = tuple(
        level("grid", settings.views, 4, 3, 3, 6, steps=4)
        if name == "grid"
        else level(name, settings.views, 6)
        for name in settings.levels
    )
    spec = spec_of(
        "video",
        settings,
        levels,
        pixels=PixelRecipe(fit=settings.fit, crops=settings.crops, image_size=64, **PIXELS),
        decoder=settings.decoder,
        still_pictures=settings.still_pictures or None,
        precision=settings.precision,
        batch_rows=settings.batch_rows,
    )
    found = video_settings(spec, settings.levels, COMMON)
    assert found.model_dump() == {**settings.model_dump(), "levels": tuple(sorted(settings.levels))}
    assert video_settings(spec, settings.levels, COMMON, image_size=64).image_size == 64


def test_an_encoder_that_predicts_is_told_so_whatever_is_read():
    """Its predictor is a part of it, and what it reads must come from the same encoder."""
    settings = VideoExtraction.model_validate({**COMMON, "batch_rows": 8, "levels": ["frame", "predicted"]})
    levels = (level("frame", 1, 4, 6, steps=4), level("predicted", 1, 9, 6, steps=1))
    pixels = PixelRecipe(fit="crop", image_size=64, **PIXELS)
    spec = spec_of("video", settings, levels, pixels=pixels, decoder="pyav", precision="fp32", batch_rows=8)
    assert video_settings(spec, ["frame"], COMMON).levels == ("frame", "predicted")


def test_a_published_encoder_is_told_its_layer_and_its_boxes_again():
    settings = VideoExtraction.model_validate({**COMMON, "batch_rows": 8})
    details = {"details": {"config": {"layer": "penultimate", "boxes": "none"}}}
    pixels = PixelRecipe(fit="crop", image_size=64, **PIXELS)
    spec = spec_of("video", settings, (level("frame", 1, 4, 6, steps=4),), details, pixels=pixels,
                   decoder="pyav", precision="fp32", batch_rows=8)  # fmt: skip
    assert video_settings(spec, ["frame"], COMMON).layer == "last"  # it is not one of ours
    orvit = FeatureRecipe(**{**vars(spec.recipe), "encoder": EncoderIdentity(name="orvit", **details)})
    found = video_settings(Spec(**{**vars(spec), "recipe": orvit}), ["frame"], COMMON)
    assert (found.layer, found.boxes) == ("penultimate", "none")


@pytest.mark.parametrize(
    "asked", [{}, {"sampling": {"task": "anticipation", "tau_a": 0.5, "seconds": 3.0}}, {"steps": 5}]
)
def test_settings_of_sound(asked):
    settings = AudioExtraction.model_validate({**COMMON, "batch_rows": 8, **asked})
    levels = (level("frame", 1, settings.steps, 6, steps=settings.steps),)
    spec = spec_of("audio", settings, levels, batch_rows=settings.batch_rows)
    assert audio_settings(spec, ["frame"], COMMON).model_dump() == settings.model_dump()


def test_settings_of_text():
    spec = spec_of("text", None, (level("verb_question/pooled", 1, 6),), batch_texts=16)
    expected = TextExtraction(**COMMON, levels=("pooled",), batch_texts=16)
    assert text_settings(spec, ["pooled"], COMMON) == expected


def test_untrained_weights_are_drawn_again_unless_a_file_is_given():
    def weights(given, state="random", name="timm:x"):
        return common_settings(EncoderIdentity(name=name, state=state), "float16", given, "cpu")["weights"]

    assert weights(None) == "random"
    assert weights("w.safetensors") == "w.safetensors"
    assert weights(None, "pretrained") is None
    assert weights(None, name="mine.module:build") is None  # the function knows itself
