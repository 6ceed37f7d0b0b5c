"""What is said of an encoder, and how the sizes of streams are read."""

import pytest
import torch

from helpers.tiny import tiny_recipe
from mambavl.complexity.count import recipe_cost, total
from mambavl.complexity.report import describe_encoder, parse_streams, row_cost
from mambavl.configs.errors import UsageError


def test_an_encoder_is_described_without_its_weights():
    said = " ".join(describe_encoder("lavila-tsf-b").values())
    for fact in (
        "dl.fbaipublicfiles.com",
        "16 frames of 224 px, RGB",
        "16 steps x 14 x 14",
        "MIT",
        "encoders convert",
    ):
        assert fact in said, fact
    assert torch.get_default_dtype() == torch.float32


def test_the_settings_of_the_originals_are_ready_to_copy():
    facts = describe_encoder("orvit")
    assert facts["tested with"].endswith(
        "--set sampling.rule=mf_dense --set sampling.stride=4 --set sampling.frames=16 "
        "--set sampling.views=10 --set crops=3"
    )
    assert facts["boxes"].startswith("4 slots a frame") or "slots a frame" in facts["boxes"]
    avion = describe_encoder("avion-vit-b")
    assert avion["boxes"] == "none"
    assert avion["tested with"].endswith(": --set sampling.rule=avion")
    assert describe_encoder("lavila-tsf-b")["tested with"].endswith(": --set sampling.rule=lavila")


def test_an_unknown_encoder_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="there is no encoder 'orvitt'; did you mean `orvit`"):
        describe_encoder("orvitt")


def test_streams_are_tokens_by_width():
    assert parse_streams(["video=1568x768", "text=40x5"]) == {"video": (1568, 768), "text": (40, 5)}
    for option in ("video", "video=8", "=8x8", "video=8x0", "video=8x8x8", "video=ax8"):
        with pytest.raises(UsageError, match="expected NAME=TOKENSxWIDTH"):
            parse_streams([option])


def test_the_report_is_told_what_bench_complexity_counts(stores):
    recipe = tiny_recipe(stores)
    whole, found = total(recipe_cost(recipe, {})), row_cost(recipe)
    assert (found.macs, found.scan) == (whole.macs, whole.scan)
    assert found.tokens.startswith("noun_question 8x5") or "video 4x6" in found.tokens
