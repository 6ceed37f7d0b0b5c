"""Table 4 from the models themselves, against the paper's figures and against arithmetic by hand."""

import pytest
from torch import nn

from helpers.tiny import tiny_recipe
from mambavl.complexity import count
from mambavl.complexity.report import ORIGINAL_GMACS
from mambavl.configs import load
from mambavl.configs.errors import UsageError
from mambavl.fuse.attentive import AttentiveConfig, AttentiveFusion
from mambavl.fuse.fusion import FusionConfig, SSMFusion
from mambavl.fuse.head import StreamShape
from mambavl.fuse.recipe import Recipe


@pytest.fixture(scope="module")
def table():
    return count.table_4()


@pytest.mark.parametrize(
    ("row", "parameters", "gmacs"),
    [
        ("orvit", 147_678_349, 405.26),
        ("transformer_12x12", 242_159_245, 413.72),
        ("transformer_6x4", 199_645_837, 413.38),
        ("mlp", 152_990_605, 413.03),
        ("mambavl", 156_966_541, 412.50),
    ],
)
def test_table_4_is_reproduced(table, row, parameters, gmacs):
    cost = count.total(table[row])
    assert cost.trainable == parameters
    assert cost.macs / 1e9 == pytest.approx(gmacs, rel=0.002)
    assert cost.flops == 2 * cost.macs


def part_of(parts, name):
    return next(part.cost for part in parts if part.name == name)


def test_the_parts_by_hand(table):
    d, inner, rank, states, tokens = 768, 1536, 48, 16, 1569 + 2 * 40
    parts = table["mambavl"]
    head = part_of(parts, "head")
    # in_proj, x_proj, dt_proj, conv
    mixer = tokens * (d * 2 * inner + inner * (rank + 2 * states) + rank * inner + 4 * inner)
    text = 80 * 3 * d * d
    assert head.macs == pytest.approx(mixer + text + 3 * inner * d, rel=1e-6)
    assert head.scan == tokens * inner * (7 * states + 1 + 2 + 5)
    assert part_of(parts, "its out_proj on every token").macs == (tokens - 3) * inner * d
    assert part_of(parts, "pre_logits on every token").macs == 1568 * d * d
    # three blocks also have 4 objects in each of 8 steps
    unread = 9 * 1568 * 8 * d * d + 3 * 1600 * 8 * d * d
    assert part_of(table["orvit"], "unread half of its proj_kv").macs == unread


def test_the_parameters_of_the_head_by_hand(table):
    text = 768 * 768 + 2 * (768 * 768 + 768)  # three layers, the first without bias
    mixer = 768 * 3072 + (1536 * 4 + 1536) + 1536 * 80 + (48 * 1536 + 1536) + 1536 + 1536 * 768
    assert (text, mixer, 1536 * 16) == (1_771_008, 3_746_304, 24_576)
    assert part_of(table["mambavl"], "head").trainable == text + 2 * mixer + 1536 * 16 == 9_288_192
    block = 3 * 768**2 + (768**2 + 768) + (2 * 4 * 768**2 + 5 * 768) + 4 * 768
    tables = 2 * 5000 * 768 + 4 * 768
    assert part_of(table["transformer_12x12"], "head").trainable == 12 * block + tables + text


def test_what_is_frozen_is_no_part_of_the_published_parameters(table):
    assert count.total(table["mlp"]).frozen == 124_645_632
    assert count.total(table["orvit"]).frozen == 0
    layer = part_of(table["mambavl"], "RoBERTa's embedding layer")
    assert layer == count.Cost(frozen=(50265 + 514 + 1 + 2) * 768)  # words, positions, type; norm


def test_roberta_by_hand(table):
    # 84.93 M a token: q, k, v, out and the two layers of the MLP, twelve times
    weights = 12 * (4 * 768**2 + 2 * 768 * 3072)
    # scores and sums of 12 layers; the pooler reads one token
    question = 40 * weights + 24 * 40**2 * 768 + 768**2
    assert weights == 84_934_656
    assert count.encoder_cost("roberta-base").cost.macs == question
    assert part_of(table["mlp"], "RoBERTa, two questions").macs == 2 * question
    assert count.encoder_cost("roberta-base", tokens=7).cost.macs == 7 * weights + 24 * 7**2 * 768 + 768**2


def test_a_tiny_video_transformer_by_hand():
    sizes = {
        "width": 32,
        "depth": 1,
        "heads": 4,
        "patch_size": 8,
        "image_size": 16,
        "frames": 3,
        "num_classes": (5,),
    }
    part = count.encoder_cost("avion-vit-b", **sizes)
    patches, d = 3 * 2 * 2, 32
    n = 1 + patches
    block = n * (3 * d * d + d * d + 2 * d * 4 * d) + 2 * n * n * d  # qkv, out, MLP; scores and sums
    assert part.cost.macs == patches * (3 * 8 * 8) * d + block + d * 5
    weights = (3 * d * d + 3 * d) + (d * d + d) + (8 * d * d + 5 * d) + 2 * 2 * d
    # patches, class token, places, times, first and last norm
    tables = 3 * 8 * 8 * d + d + (1 + 4) * d + 3 * d + 2 * 2 * d
    assert (part.cost.frozen, part.cost.trainable) == (weights + tables + 5 * d + 5, 0)
    assert part.tokens == "1 + 3x2x2"


@pytest.mark.parametrize("name", ORIGINAL_GMACS)
def test_ours_and_what_fvcore_counts_besides_are_the_original(name):
    """To the digits that were recorded; at 336 px fvcore also counts the position table's resize."""
    found = count.encoder_cost(name).cost.macs + sum(count.original_terms(name).values())
    assert found / 1e9 == pytest.approx(ORIGINAL_GMACS[name], rel=5e-5 if name.endswith("hr") else 1e-5)


def test_a_linear_layer_and_a_head_by_hand():
    layer = nn.Linear(5, 7, device="meta")
    assert count.count(lambda: layer(count.empty(3, 5)), trainable=42) == count.Cost(
        3 * 5 * 7, 0, trainable=42
    )
    streams = {"video": StreamShape(width=4)}
    head = SSMFusion(FusionConfig(streams=streams, d_model=4, targets={"verb": 2, "noun": 3}))
    with_classifiers = count.head_cost(head, {"video": 6})
    without = count.head_cost(head, {"video": 6}, classifiers=False)
    assert with_classifiers.macs - without.macs == 4 * (2 + 3)
    assert with_classifiers.parameters - without.parameters == 5 * (2 + 3)
    assert with_classifiers.scan == without.scan > 0


def test_an_attentive_probe_by_hand():
    """A query asks the weights once, then each token; tokens are summed for each attention head."""
    d, heads, tokens = 8, 2, 10
    streams = {"video": StreamShape(width=d)}
    config = {"streams": streams, "d_model": d, "num_heads": heads, "video_mlp_layers": 0}
    targets = {"verb": 2, "noun": 3}
    costs = {}
    for depth in (1, 2):
        head = AttentiveFusion(AttentiveConfig(**config, targets=targets, depth=depth))
        costs[depth] = count.head_cost(head, {"video": tokens}, classifiers=False)
    query = 2 * d * d + 2 * tokens * heads * d + d * d + d * d + 8 * d * d
    assert costs[1].macs == 2 * query
    block = tokens * 12 * d * d + 2 * tokens**2 * d  # once: the same streams reach both targets
    assert costs[2].macs == 2 * query + block
    assert costs[2].scan == 0


def test_longer_and_smaller_encoders_are_counted_too():
    small, large = (count.encoder_cost("avion-vit-b", depth=depth).cost for depth in (1, 2))
    block = 12 * 768**2 + 13 * 768  # weights; biases and norms
    assert large.parameters - small.parameters == block
    tokens = 1 + 16 * 196
    assert large.macs - small.macs == tokens * 12 * 768**2 + 2 * tokens**2 * 768
    one, two = (count.encoder_cost("timm:test_vit", frames=frames).cost for frames in (1, 2))
    assert two.macs == 2 * one.macs
    assert two.frozen == one.frozen > 0


@pytest.mark.parametrize(
    ("name", "sizes", "says"),
    [
        ("minilm", {}, "its sizes come with its weights"),
        ("hf:somewhere", {}, "its sizes come with its weights"),
        ("motionformer-hd", {}, "did you mean `motionformer-hr`"),
        ("orvit", {"window": 7}, "has no size window"),
        ("timm:test_vit", {"tokens": 7}, "has no size tokens here; it has image_size, frames"),
        ("timm:no_such_model", {}, "timm .* has no such model"),
    ],
)
def test_what_is_not_counted_says_why(name, sizes, says):
    with pytest.raises(UsageError, match=says):
        count.encoder_cost(name, **sizes)


def test_the_head_of_a_recipe_is_counted_at_the_sizes_of_its_stores(stores):
    recipe = tiny_recipe(stores)
    head, classifiers = count.recipe_cost(recipe, {})
    behind = {
        name: source.model_copy(update={"class_token": name == "video"})
        for name, source in recipe.streams.items()
    }
    counted = count.recipe_cost(recipe.model_copy(update={"streams": behind}), {"video": (9, 6)})[0]
    assert counted.tokens.startswith("video 10x6")  # the class token is read, too
    # the longest of questions of 0 to 8 tokens
    assert head.tokens == "video 4x6, verb_question 8x5, noun_question 8x5"
    assert classifiers.cost == count.Cost(16 * (3 + 4), trainable=17 * (3 + 4))
    told, _ = count.recipe_cost(recipe, {"video": (9, 6)})
    assert told.cost.trainable == head.cost.trainable
    assert told.cost.scan > head.cost.scan


def test_a_recipe_without_stores_says_what_to_type():
    recipe = load("fuse/default", Recipe, ["streams.video.store=nowhere/video.zarr"])
    with pytest.raises(
        UsageError, match=r"no store of stream video \(nowhere/video.zarr\).*: --stream video=TOKENSxWIDTH$"
    ):
        count.recipe_cost(recipe, {"verb_question": (40, 768), "noun_question": (40, 768)})
    with pytest.raises(
        UsageError, match="--stream vide: the recipe has no such stream; did you mean `video`"
    ):
        count.recipe_cost(recipe, {"vide": (8, 768)})
