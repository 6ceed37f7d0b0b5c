"""Motionformer: the original's numbers, and what must hold of any size of it."""

import json
from dataclasses import replace

import pytest
import torch

from helpers.parity import SMALL_MOTIONFORMER as SMALL
from helpers.parity import (
    Recording,
    classified,
    clips,
    error,
    motionformer_config,
    outputs_of_blocks,
    redrawn,
)
from mambavl.configs.errors import UsageError
from mambavl.extract.encoders.published.motionformer import CONFIGS, Motionformer, ours, theirs


@pytest.fixture(scope="module")
def model():
    return redrawn(Motionformer(SMALL))


RUNS = [("motionformer", "mf_crop64"), ("motionformer_original", "mfo_crop64")]


@pytest.mark.shared
@pytest.mark.parametrize(("folder", "name"), RUNS)
@pytest.mark.parametrize(
    ("dtype", "group", "within"), [(torch.float32, "output", 1e-5), (torch.float64, "output64", 1e-9)]
)
def test_the_originals_numbers(shared, folder, name, dtype, group, within):
    recording = Recording(shared / "parity" / folder / name)
    config, tensors = motionformer_config(recording), recording.tensors
    model = Motionformer(config)
    model.load_state_dict(ours(recording.state, config))
    model = model.eval().to(dtype)
    seen = outputs_of_blocks(model)
    seen["embed"] = model.embed(tensors["input/video"].to(dtype))
    with torch.inference_mode():
        tokens = model.tokens(tensors["input/video"].to(dtype))
        found = classified(model, tokens)
    for key, value in found.items():
        assert error(value, tensors[f"{group}/{key}"]) <= within, key
    if dtype == torch.float32:
        assert {f"inter/{key}" for key in seen} == {key for key in tensors if key.startswith("inter/")}
        for key, value in seen.items():
            assert error(value, tensors[f"inter/{key}"]) <= within, key


@pytest.mark.shared
@pytest.mark.parametrize(("folder", "name"), RUNS)
def test_a_published_state_dict_survives_the_way_there_and_back(shared, folder, name):
    recording = Recording(shared / "parity" / folder / name)
    config, state = motionformer_config(recording), recording.state
    back = theirs(ours(state, config), config)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], tensor) for key, tensor in state.items())


@pytest.mark.shared
@pytest.mark.parametrize(
    ("manifest", "config"),
    [
        ("motionformer_original_224_16x4_ek100", CONFIGS["motionformer"]),
        ("motionformer_original_336_16x4_ek100", CONFIGS["motionformer-hr"]),
        ("motionformer_original_224_32x3_ek100", CONFIGS["motionformer-l"]),
        ("motionformer_hr_ek100", replace(CONFIGS["motionformer-hr"], unused_stem=False)),
    ],
)
def test_full_size_keys_shapes_and_counts(shared, manifest, config):
    facts = json.loads((shared / "parity" / "manifests" / f"{manifest}.json").read_text())
    with torch.device("meta"):
        model = Motionformer(config)
    state = theirs(model.state_dict(), config)
    assert {key: list(tensor.shape) for key, tensor in state.items()} == facts["keys"]
    assert sum(parameter.numel() for parameter in model.parameters()) == facts["parameter_count"]
    assert (config.image_size, config.frames) == (facts["config"]["crop_size"], facts["config"]["frames"])


def test_tokens_are_class_then_time_row_column(model):
    """A change of one tubelet of the video reaches, before any attention, its own token alone."""
    video = clips(SMALL, 1)
    assert model.token_grid(video.shape[2:]) == (3, 3, 3)
    assert model.tokens(video).shape == (1, model.prefix_tokens + 27, model.width)
    changed = video.clone()
    changed[:, :, 2:4, 64:, 32:64] += 1  # step 1, row 2, column 1
    moved = (model.embed(changed) != model.embed(video)).any(-1)[0].nonzero().flatten()
    assert moved.tolist() == [1 + (1 * 3 + 2) * 3 + 1]


def test_attention_agrees_with_a_loop_over_queries_and_steps(model):
    """The definition, one query, head and step at a time, in float64."""
    attention = redrawn(Motionformer(SMALL)).blocks[0].attn.double()
    steps, size, depth = 3, 4, SMALL.width // SMALL.heads
    x = torch.randn(
        1, 1 + steps * size, SMALL.width, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )
    q, k, v = attention.qkv(x)[0].chunk(3, dim=-1)
    heads = [slice(head * depth, (head + 1) * depth) for head in range(SMALL.heads)]

    def look(query, keys, values):
        return ((keys @ query) / depth**0.5).softmax(0) @ values

    rows = [torch.cat([look(q[0, h], k[:, h], v[:, h]) for h in heads])]
    for i in range(1, len(q)):
        frames = [slice(1 + step * size, 1 + (step + 1) * size) for step in range(steps)]
        trajectory = torch.stack(
            [torch.cat([look(q[i, h], k[f, h], v[f, h]) for h in heads]) for f in frames]
        )
        query = attention.proj_q(trajectory[(i - 1) // size])
        keys = attention.proj_kv(trajectory)[:, : SMALL.width]
        rows.append(torch.cat([look(query[h], keys[:, h], trajectory[:, h]) for h in heads]))
    assert error(attention(x, steps)[0], attention.proj(torch.stack(rows))) < 1e-13


@pytest.mark.parametrize("chunk", [1, 5, 9, 26])
def test_chunks_of_queries_change_nothing(model, chunk):
    video = clips(SMALL, 2)
    chunked = redrawn(Motionformer(replace(SMALL, query_chunk=chunk)))
    assert error(chunked.tokens(video), model.tokens(video)) < 1e-6
    assert (
        error(
            chunked.double().tokens(video.double()),
            redrawn(Motionformer(SMALL)).double().tokens(video.double()),
        )
        < 1e-14
    )


def test_a_clip_does_not_depend_on_its_neighbours_and_repeats_bit_for_bit(model):
    video = clips(SMALL, 5)
    together = model.tokens(video)
    assert torch.equal(together, model.tokens(video))
    for i in range(5):
        assert error(model.tokens(video[i : i + 1])[0], together[i]) < 1e-6
    assert error(model.tokens(video.flip(0)).flip(0), together) < 1e-6


def test_penultimate_tokens_lead_to_the_same_pooled_features(model):
    early = redrawn(Motionformer(replace(SMALL, layer="penultimate")))
    video = clips(SMALL, 2)
    tokens = early.tokens(video)
    assert torch.equal(tokens, model.blocks[0](model.embed(video), (3, 3, 3)))
    assert torch.equal(early.pool(tokens), model.pooled(video))
    assert [logits.shape for logits in early.classify(early.pool(tokens))] == [(2, 5), (2, 7)]


def test_positions_follow_the_size_of_the_crop(model):
    """A table that rises evenly from column to column still does so, away from the borders, when it is
    resized.
    """
    config = replace(SMALL, patch_size=8, image_size=224)  # 28 x 28
    model = Motionformer(config)
    table = torch.arange(28.0).expand(28, 28).flatten()
    with torch.no_grad():
        model.pos_embed.copy_(
            torch.cat([torch.tensor([-1.0]), table])[None, :, None].expand_as(model.pos_embed)
        )
        assert model._positions(28, 28) is model.pos_embed
        resized = model._positions(56, 14)[0, :, 0]
    assert resized[0] == -1  # the class token's row is left alone
    columns = resized[1:].view(56, 14)
    assert error(columns[:, 1:-1], (0.5 + 2 * torch.arange(1.0, 13)).expand(56, 12)) < 1e-5


@pytest.mark.parametrize(
    ("num_classes", "heads"), [((), set()), ((4,), {"head"}), ((4, 6), {"head0", "head1"})]
)
@pytest.mark.parametrize("unused_stem", [False, True])
def test_round_trip_with_any_heads_and_wrappings(num_classes, heads, unused_stem):
    config = replace(SMALL, num_classes=num_classes, unused_stem=unused_stem)
    state = redrawn(Motionformer(config)).state_dict()
    published = theirs(state, config)
    assert {key.partition(".")[0] for key in published if key.startswith("head")} == heads
    assert ("patch_embed.proj.weight" in published) == unused_stem
    wrapped = {"epoch": 3, "model_state": {f"module.{key}": tensor for key, tensor in published.items()}}
    for given in (published, {"model_state": published}, wrapped):
        again = ours(given, config)
        assert again.keys() == state.keys()
        assert all(torch.equal(again[key], tensor) for key, tensor in state.items())


def test_a_state_dict_that_does_not_fit_is_refused_by_key():
    published = theirs(Motionformer(SMALL).state_dict(), SMALL)
    lacking = {key: tensor for key, tensor in published.items() if not key.startswith("blocks.1.")}
    with pytest.raises(UsageError, match=r"16 missing \(blocks\.1\.norm1\.weight, (\S+, ){4}\.\.\.\)$"):
        ours(lacking, SMALL)
    with pytest.raises(UsageError, match=r"2 not known \(patch_embed\.proj\.weight, extra\)$"):
        ours(published | {"patch_embed.proj.weight": torch.zeros(1), "extra": torch.zeros(1)}, SMALL)
    with pytest.raises(
        UsageError, match=r"of another shape \(temp_embed \(1, 8, 24\), expected \(1, 3, 24\)\)$"
    ):
        ours(published | {"temp_embed": torch.zeros(1, 8, 24)}, SMALL)
    with pytest.raises(UsageError, match=r"missing \(cls_token"):
        theirs({}, SMALL)


def test_sizes_and_clips_that_do_not_fit_are_refused(model):
    with pytest.raises(UsageError, match="clips of 6 frames, given 8"):
        model.tokens(torch.zeros(1, 3, 8, 96, 96))
    with pytest.raises(UsageError, match="96x100 px are not whole patches of 32 px"):
        model.token_grid((6, 96, 100))
    for sizes, said in [
        ({"heads": 5}, "width 24 is not a multiple of heads 5"),
        ({"frames": 7}, "frames 7 is not a multiple of tubelet 2"),
        ({"image_size": 100}, "image_size 100 is not a multiple"),
        ({"layer": "first"}, "not 'first'"),
    ]:
        with pytest.raises(UsageError, match=said):
            replace(SMALL, **sizes)


def test_pixels_are_those_of_the_published_weights():
    for config in CONFIGS.values():
        with torch.device("meta"):
            model = Motionformer(config)
        pixels = model.pixels
        assert (pixels.image_size, pixels.mean, pixels.std) == (config.image_size, (0.5,) * 3, (0.5,) * 3)
        assert pixels.colour == "BGR"
        assert model.width == 768
