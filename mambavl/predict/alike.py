"""The settings of stage one that make features like those of a store, read from its spec.

A spec says what features are, and settings what is asked for; what a spec does not name in so many words (the
size that an encoder was told) is tried, and the job itself compares the two recipes before it begins.
"""

from collections.abc import Collection, Mapping
from typing import Any

from mambavl.cache.spec import EncoderIdentity, Spec
from mambavl.configs import validate
from mambavl.extract.encoders import registry
from mambavl.extract.encoders.published import table
from mambavl.extract.options import AudioExtraction, TextExtraction, VideoExtraction

ABOUT = "the recipe of a store"  # where the settings come from, in errors


def video_settings(
    spec: Spec, levels: Collection[str], common: Mapping[str, Any], *, image_size: int | None = None
) -> VideoExtraction:
    """common: what `common_settings` gives. image_size: what the encoder is told; None: its own."""
    recipe = spec.recipe
    assert recipe.pixels is not None
    assert recipe.encoder is not None
    told: dict[str, Any] = {
        # the predictor is a part of the encoder only where its level is asked for
        "levels": sorted({*levels, *(level.name for level in spec.levels if level.name == "predicted")}),
        "fit": recipe.pixels.fit,
        "crops": recipe.pixels.crops or 1,
        "sampling": dict(recipe.sampling or {}),
        "decoder": recipe.decoder,
        "still_pictures": recipe.still_pictures or False,
        "precision": recipe.precision,
        "batch_rows": recipe.batch_rows,
        **_of_published(recipe.encoder),
    }
    if image_size is not None:
        told["image_size"] = image_size
    if grids := [level.shape[-2] for level in spec.levels if level.name == "grid"]:
        told["grid"] = grids[0]
    return validate({**common, **told}, VideoExtraction, ABOUT)


def audio_settings(spec: Spec, levels: Collection[str], common: Mapping[str, Any]) -> AudioExtraction:
    sampling = dict(spec.recipe.sampling or {})
    if sampling.get("task") == "recognition":
        sampling.pop("seconds")  # the action's own; the default that the spec repeats is never asked for
    told: dict[str, Any] = {
        "levels": sorted(levels),
        "sampling": sampling,
        "batch_rows": spec.recipe.batch_rows,
    }
    if steps := [level.steps for level in spec.levels if level.steps]:
        told["steps"] = steps[0]
    return validate({**common, **told}, AudioExtraction, ABOUT)


def text_settings(spec: Spec, levels: Collection[str], common: Mapping[str, Any]) -> TextExtraction:
    told = {"levels": sorted(levels), "batch_texts": spec.recipe.batch_texts}
    return validate({**common, **told}, TextExtraction, ABOUT)


def common_settings(encoder: EncoderIdentity, dtype: str, weights: str | None, device: str) -> dict[str, Any]:
    """What all jobs are told of an encoder. weights: where its weights are; None: its own."""
    # somebody's own function knows itself that it is untrained
    untrained = "random" if encoder.state == "random" and not registry.is_own(encoder.name) else None
    return {
        "encoder": encoder.name,
        "weights": weights or untrained,
        "weights_state": encoder.state,
        "dtype": dtype,
        "device": device,
    }


def _of_published(encoder: EncoderIdentity) -> dict[str, Any]:
    """What a published encoder was told besides its size, which its config repeats."""
    config: Any = (encoder.details or {}).get("config")
    if encoder.name not in table.PUBLISHED or not isinstance(config, Mapping):
        return {}
    told = {"layer": config["layer"]} if "layer" in config else {}
    return told | ({"boxes": "none"} if config.get("boxes") == "none" else {})
