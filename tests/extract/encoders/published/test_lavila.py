"""LaViLa's TimeSformer: the original's numbers, its state dicts, divided attention against a masked one."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

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
from mambavl.extract.encoders.published import lavila
from mambavl.extract.encoders.published.vit import VitConfig, refit, resize_time

TINY = VitConfig(
    width=48, depth=3, heads=4, patch_size=8, image_size=32, frames=4, num_classes=(5, 7, 11), projection=24
)


@pytest.fixture(scope="module")
def golden(shared):
    fixture = Recording(shared / "parity" / "lavila" / "tsf_t4")
    fixture.state["image_projection"] = fixture["extra/image_projection"]
    return fixture


def loaded(state, config=TINY, dtype=torch.float32):
    model = lavila.TimeSformer(config).to(dtype).eval().requires_grad_(False)
    model.load_state_dict(state)
    return model


@pytest.mark.shared
@pytest.mark.parametrize(("dtype", "group"), [(torch.float32, "output/"), (torch.float64, "output64/")])
def test_outputs_are_the_originals(golden, dtype, group):
    model = loaded(lavila.ours(golden.state, TINY), dtype=dtype)
    tokens = model.tokens(golden["input/video"].to(dtype))
    features = model.pool(tokens)
    outputs = {f"logits.{name}": logits for name, logits in model.classify(features).items()}
    outputs |= {"tokens": tokens, "features": features, "projected": model.project(features)}
    assert outputs.keys() == golden.group(group).keys()
    worst = {name: error(output, golden[group + name]) for name, output in outputs.items()}
    assert max(worst.values()) <= TOLERANCE[dtype], worst


@pytest.mark.shared
def test_every_step_on_the_way_is_the_originals(golden):
    model = loaded(lavila.ours(golden.state, TINY))
    modules = {"": "", ".timeattn": ".time_attention", ".attn": ".space_attention"}
    blocks = {
        f"block.{i}{theirs}": f"blocks.{i}{mine}"
        for i in range(TINY.depth)
        for theirs, mine in modules.items()
    }
    seen = recorded_inputs_and_outputs(model, golden["input/video"], ["embed.norm", *blocks.values()])
    steps = {theirs: seen[mine][1] for theirs, mine in blocks.items()}
    steps |= {"embed_pre_ln": seen["embed.norm"][0], "embed": seen["embed.norm"][1]}
    assert steps.keys() == golden.group("inter/").keys()
    for name, step in steps.items():
        assert error(step, golden[f"inter/{name}"]) <= 1e-5, name


@pytest.mark.shared
def test_times_are_stretched_and_cut_as_the_original_does(golden):
    state = lavila.ours(golden.state, TINY)
    tables = {
        name: table
        for name, table in golden.group("inflate/").items()
        if name.startswith(("bilinear", "interp"))
    }
    assert len(tables) == 5
    for name, table in tables.items():
        mode, frames = name.split(".")
        assert torch.equal(resize_time(state["embed.time"], int(frames), mode), table[0]), name
    longer = replace(TINY, frames=8)
    for dtype, expected in ((torch.float32, "inflate/features"), (torch.float64, "inflate/features64")):
        features = loaded(refit(state, longer), longer, dtype).pooled(golden["inflate/input"].to(dtype))
        assert error(features, golden[expected]) <= TOLERANCE[dtype]


@pytest.mark.shared
def test_state_dicts_come_back_bit_for_bit_with_three_heads_and_with_one(golden):
    single = {name: tensor for name, tensor in golden.state.items() if not name.startswith("fc_cls.")}
    single |= {f"fc_cls.{kind}": golden[f"state/fc_cls.2.{kind}"] for kind in ("weight", "bias")}
    for state, classes in ((golden.state, (5, 7, 11)), (single, (11,))):
        config = lavila.fitted(TINY, state)
        assert config == replace(TINY, num_classes=classes)
        mine = lavila.ours(state, config)
        back = lavila.theirs(mine, config)
        assert back.keys() == state.keys()
        assert all(torch.equal(back[name], state[name]) for name in state)
    logits = loaded(mine, config).classify(golden["output/features"])
    assert logits.keys() == {"action"}
    assert error(logits["action"], golden["output/logits.action"]) <= 1e-5


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("lavila_tsf_b16_ek100_cls_multihead", "lavila-tsf-b"),
        ("lavila_tsf_b16_ek100_cls_singlehead", "lavila-tsf-b"),
        ("lavila_tsf_b16_pretrain_dual_encoder", "lavila-tsf-b"),
        ("lavila_tsf_l14_ek100_cls_multihead", "lavila-tsf-l"),
        ("lavila_tsf_l14_pretrain_dual_encoder", "lavila-tsf-l"),
    ],
)
def test_full_size_state_dicts_have_the_originals_keys_and_shapes(shared, name, base):
    state, known = manifest(shared, name)
    distributed = {f"module.{key}": tensor for key, tensor in state.items()}
    config = lavila.fitted(lavila.CONFIGS[base], distributed)
    mine = lavila.ours(distributed, config)
    left_out = names_under(distributed, lavila.TEXT_TOWER)
    assert shapes(lavila.theirs(mine, config)) == {
        key: shape for key, shape in shapes(state).items() if key not in left_out
    }
    parameters = sum(math.prod(shape) for shape in shapes(mine).values())
    if "dual" in name:
        assert config == replace(lavila.CONFIGS[base], frames=4, num_classes=(), projection=256)
        assert parameters - math.prod(mine["projection"].shape) == known["visual_parameter_count"]
        assert not any(key.startswith(("visual.", "image_projection")) for key in left_out)
    else:
        assert (left_out, parameters) == ([], known["parameter_count"])
        assert config == replace(lavila.CONFIGS[base], num_classes=config.num_classes)


@pytest.mark.parametrize("along", ["time", "space"])
def test_divided_attention_is_a_masked_attention_over_all_tokens(along):
    frames, places, width = 3, 5, 16
    attention = lavila.GroupAttention(width, 2, along).double()
    x = torch.randn(2, 1 + frames * places, width, dtype=torch.float64)
    time, place = torch.arange(frames * places) // places, torch.arange(frames * places) % places
    group = place if along == "time" else time
    # the class token sees and is seen by all
    seen = torch.ones(len(group) + 1, len(group) + 1, dtype=torch.bool)
    seen[1:, 1:] = group[:, None] == group
    masked = attention.join(F.scaled_dot_product_attention(*attention.split(x), attn_mask=seen))
    torch.testing.assert_close(attention(x, frames), masked, rtol=1e-12, atol=1e-12)


def test_what_the_time_attention_finds_reaches_a_block_only_through_the_space_attention():
    model = lavila.TimeSformer(replace(TINY, depth=1)).eval()
    video = torch.randn(1, 3, 4, 32, 32)
    attention = model.blocks[0].space_attention.out
    before = model.pooled(video)
    with torch.no_grad():
        model.blocks[0].time_attention.out.bias += torch.randn(TINY.width)
        assert not torch.allclose(model.pooled(video), before)
        attention.weight.zero_()
        silent = model.pooled(video)
        model.blocks[0].time_attention.out.bias += torch.randn(TINY.width)
        assert torch.equal(model.pooled(video), silent)


def test_a_key_that_is_missing_not_known_or_of_another_shape_is_named():
    published = lavila.theirs(lavila.TimeSformer(TINY).state_dict(), TINY)
    cut = {name: tensor for name, tensor in published.items() if ".timeattn." not in name}
    with pytest.raises(UsageError, match=r"12 missing \((\S+timeattn\S+, ){5}\.\.\.\)"):
        lavila.ours(cut, TINY)
    with pytest.raises(UsageError, match=r"this LaViLa model: 1 not known \(visual\.head\.bias\)"):
        lavila.ours(published | {"visual.head.bias": torch.zeros(1)}, TINY)
    with pytest.raises(UsageError, match=r"pos_embed \(1, 17, 48\), expected \(1, 65, 48\)"):
        lavila.ours(published, replace(TINY, image_size=64))
    with pytest.raises(UsageError, match=r"visual.patch_embed.proj.weight, .* is missing"):
        lavila.fitted(TINY, {})
