"""AVION's visual tower: the numbers of the original, its state dicts in both layouts, refusals that name the
key.
"""

import math
from dataclasses import replace

import pytest
import torch

from helpers.parity import (
    TOLERANCE,
    Recording,
    error,
    manifest,
    names_under,
    recorded_inputs_and_outputs,
    shapes,
)
from mambavl.configs.errors import UsageError
from mambavl.extract.encoders.published import avion
from mambavl.extract.encoders.published.vit import VitConfig, refit, resize_time

TINY = VitConfig(
    width=48, depth=3, heads=4, patch_size=8, image_size=32, frames=4, num_classes=(11,), projection=24
)


@pytest.fixture(scope="module", params=["plain", "fused"])
def golden(request, shared):
    fixture = Recording(shared / "parity" / "avion" / f"{request.param}_t4")
    fixture.state["visual.image_projection"] = fixture["extra/visual.image_projection"]
    fixture.layout = request.param
    return fixture


def loaded(state, config=TINY, dtype=torch.float32):
    model = avion.Avion(config).to(dtype).eval().requires_grad_(False)
    model.load_state_dict(state)
    return model


@pytest.mark.shared
@pytest.mark.parametrize(("dtype", "group"), [(torch.float32, "output/"), (torch.float64, "output64/")])
def test_outputs_are_the_originals(golden, dtype, group):
    model = loaded(avion.ours(golden.state, TINY), dtype=dtype)
    tokens = model.tokens(golden["input/video"].to(dtype))
    features = model.pool(tokens)
    outputs = {
        "tokens": tokens,
        "features": features,
        "logits": model.classify(features)["action"],
        "projected": model.project(features),
    }
    assert outputs.keys() == golden.group(group).keys()
    worst = {name: error(output, golden[group + name]) for name, output in outputs.items()}
    assert max(worst.values()) <= TOLERANCE[dtype], worst


@pytest.mark.shared
def test_every_step_on_the_way_is_the_originals(golden):
    model = loaded(avion.ours(golden.state, TINY))
    names = ["embed.norm", *(f"blocks.{i}" for i in range(TINY.depth))]
    seen = recorded_inputs_and_outputs(model, golden["input/video"], names)
    steps = {f"block.{i}": seen[f"blocks.{i}"][1] for i in range(TINY.depth)}
    steps |= {"embed_pre_ln": seen["embed.norm"][0], "embed": seen["embed.norm"][1]}
    assert steps.keys() == golden.group("inter/").keys()
    for name, step in steps.items():
        assert error(step, golden[f"inter/{name}"]) <= 1e-5, name


@pytest.mark.shared
def test_times_are_stretched_and_cut_as_the_original_does(shared):
    golden = Recording(shared / "parity" / "avion" / "plain_t4")
    config = replace(TINY, projection=None)
    state = avion.ours(golden.state, config)
    tables = {
        name: table
        for name, table in golden.group("inflate/").items()
        if name.startswith(("bilinear", "interp"))
    }
    assert len(tables) == 5
    for name, table in tables.items():
        mode, frames = name.split(".")
        assert torch.equal(resize_time(state["embed.time"], int(frames), mode), table), name
    longer = replace(config, frames=8)
    for dtype, expected in ((torch.float32, "inflate/features"), (torch.float64, "inflate/features64")):
        model = loaded(refit(state, longer), longer, dtype)
        features = model.pooled(golden["inflate/input"].to(dtype))
        assert error(features, golden[expected]) <= TOLERANCE[dtype]
        assert error(model.classify(features)["action"], golden["inflate/logits"]) <= 1e-5


@pytest.mark.shared
def test_both_layouts_are_one_model_and_come_back_bit_for_bit(shared):
    plain, fused = (
        Recording(shared / "parity" / "avion" / f"{layout}_t4").state for layout in ("plain", "fused")
    )
    config = avion.fitted(TINY, plain)
    assert config == avion.fitted(TINY, fused) == replace(TINY, projection=None)
    for source in (plain, fused):
        state = avion.ours(source, config)
        for layout, target in (("plain", plain), ("fused", fused)):
            back = avion.theirs(state, config, layout)
            assert back.keys() == target.keys()
            assert all(torch.equal(back[name], target[name]) for name in target)


@pytest.mark.shared
@pytest.mark.parametrize("model", ["vitb16", "vitl14"])
@pytest.mark.parametrize("kind", ["ek100_cls_fused", "ek100_cls_plain", "pretrain_dual_encoder_fused"])
def test_full_size_state_dicts_have_the_originals_keys_and_shapes(shared, model, kind):
    state, known = manifest(shared, f"avion_{model}_{kind}")
    named = avion.CONFIGS[{"vitb16": "avion-vit-b", "vitl14": "avion-vit-l"}[model]]
    config = avion.fitted(named, state)
    distributed = {f"module.{name}": tensor for name, tensor in state.items()}
    assert avion.fitted(named, distributed) == config
    mine = avion.ours(distributed, config)
    left_out = names_under(distributed, avion.TEXT_TOWER)
    assert shapes(avion.theirs(mine, config, kind.rpartition("_")[2])) == {
        name: shape for name, shape in shapes(state).items() if name not in left_out
    }
    parameters = sum(math.prod(shape) for shape in shapes(mine).values())
    if "dual" in kind:
        assert config == replace(named, frames=4, num_classes=(), projection=256)
        assert parameters == known["visual_parameter_count"]
        assert all(name.startswith("textual.") or name == "logit_scale" for name in left_out)
    else:
        assert (config, left_out, parameters) == (named, [], known["parameter_count"])


def test_336_pixels_differ_from_224_in_the_position_table_alone():
    with torch.device("meta"):
        small, large = (
            shapes(avion.Avion(avion.CONFIGS[f"avion-vit-l{size}"]).state_dict()) for size in ("", "-336")
        )
    assert {name: large[name] for name in large if large[name] != small[name]} == {
        "embed.position": (577, 1024)
    }
    config = avion.CONFIGS["avion-vit-l-336"]
    with torch.device("meta"):
        published = avion.theirs(avion.Avion(config).state_dict(), config, "fused")
    assert avion.fitted(avion.CONFIGS["avion-vit-l"], published) == config


@pytest.fixture
def published():
    return avion.theirs(avion.Avion(TINY).state_dict(), TINY, "fused")


def test_a_key_that_is_missing_not_known_or_of_another_shape_is_named(published):
    cut = {name: tensor for name, tensor in published.items() if ".attn." not in name}
    with pytest.raises(UsageError, match=r"12 missing \((\S+attn\S+, ){5}\.\.\.\)"):
        avion.ours(cut, TINY)
    with pytest.raises(UsageError, match=r"AVION model \(fused layout\): 1 not known \(visual\.extra\)"):
        avion.ours(published | {"visual.extra": torch.zeros(1)}, TINY)
    with pytest.raises(UsageError, match=r"temporal_embedding \(4, 48\), expected \(8, 48\)"):
        avion.ours(published, replace(TINY, frames=8))
    with pytest.raises(UsageError, match=r"2 not known \(fc_cls.weight, fc_cls.bias\)"):
        avion.ours(published, replace(TINY, num_classes=()))
    mine = avion.Avion(TINY).state_dict()
    del mine["norm.weight"]
    with pytest.raises(UsageError, match=r"under our names: 1 missing \(norm.weight\)"):
        avion.theirs(mine, TINY, "plain")
    with pytest.raises(UsageError, match=r"visual.conv1.weight, visual.positional_embedding, .* is missing"):
        avion.fitted(TINY, {"epoch": torch.zeros(1)})


def test_only_one_classifier_fits():
    with pytest.raises(UsageError, match="one classifier"):
        avion.Avion(replace(TINY, num_classes=(97, 300, 3806)))
