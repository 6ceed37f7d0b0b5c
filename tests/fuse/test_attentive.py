"""The attentive probe, against attention that writes keys and values, and by hand.

(What holds for every head: test_fusion.py, test_head.py, test_missing.py; training: test_recipe_keys.py.)
"""

import pytest
import torch
from torch import nn

from mambavl.configs.errors import UsageError
from mambavl.fuse.attentive import AttentiveConfig, AttentiveFusion, QueryBlock
from mambavl.fuse.head import ABSENT, StreamShape

WIDTHS = {"video": 6, "verb_question": 5, "noun_question": 5}


def build(names=tuple(WIDTHS), **settings):
    torch.manual_seed(0)
    shapes = {name: StreamShape(width=WIDTHS[name]) for name in names}
    given = {"d_model": 8, "num_heads": 2, "dropout": 0.0, "targets": {"verb": 3, "noun": 4}, **settings}
    return AttentiveFusion(AttentiveConfig(streams=shapes, **given)).eval()


def rows(lengths, seed=0):
    """lengths: stream -> tokens of each row."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, counts in lengths.items():
        tokens = torch.randn(len(counts), max(*counts, 0), WIDTHS[name], generator=generator)
        found[name] = tokens, torch.tensor(counts)
    return found


LENGTHS = {"video": [4, 4, 2], "verb_question": [3, 1, 0], "noun_question": [2, 5, ABSENT]}


@pytest.mark.parametrize("num_heads", [1, 2, 8])
def test_the_query_block_is_attention_as_pytorch_has_it(num_heads):
    """`nn.MultiheadAttention` with the same weights, in float64; row 2 has one token, the rest is padding."""
    torch.manual_seed(0)
    block = QueryBlock(8, num_heads).double()
    other = nn.MultiheadAttention(8, num_heads, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        no_bias = torch.zeros(8)
        other.in_proj_weight.copy_(
            torch.cat([part.weight for part in (block.queries, block.keys, block.values)])
        )
        other.in_proj_bias.copy_(torch.cat([block.queries.bias, no_bias, block.values.bias]))
        other.out_proj.load_state_dict(block.proj.state_dict())
    query, x = torch.randn(8, dtype=torch.float64), torch.randn(3, 5, 8, dtype=torch.float64)
    counts = torch.arange(5) < torch.tensor([5, 3, 1])[:, None]
    y = block.norm1(x)
    attended, _ = other(query.expand(3, 1, 8), y, y, key_padding_mask=~counts)
    out = query + attended[:, 0]
    torch.testing.assert_close(block(query, x, counts), out + block.mlp(block.norm2(out)))


def test_a_lone_token_is_read_whatever_the_query_asks():
    """Attention to one token is 1: all that the query does is to stand in the residual."""
    block = QueryBlock(8, 2).double()
    x, counts = torch.randn(2, 1, 8, dtype=torch.float64), torch.ones(2, 1, dtype=torch.bool)
    query = torch.randn(8, dtype=torch.float64)
    out = query + block.proj(block.values(block.norm1(x[:, 0])))
    torch.testing.assert_close(block(query, x, counts), out + block.mlp(block.norm2(out)))


@pytest.mark.parametrize("depth", [1, 3])
def test_tokens_without_positions_may_come_in_any_order_and_with_positions_not(depth):
    streams = rows({name: [4, 4] for name in WIDTHS})
    turned = {name: (tokens.flip(1), lengths) for name, (tokens, lengths) in streams.items()}
    head = build(depth=depth)
    torch.testing.assert_close(head(streams)["verb"], head(turned)["verb"])
    head = build(depth=depth, max_positions=4)
    assert (head(streams)["verb"] - head(turned)["verb"]).abs().max() > 1e-4


def test_a_target_has_a_query_and_streams_of_its_own():
    streams, head = rows(LENGTHS), build(depth=2)
    before = head(streams)
    with torch.no_grad():
        head.query["verb"].add_(1.0)
    after = head(streams)
    assert torch.equal(after["noun"], before["noun"])
    assert not torch.allclose(after["verb"], before["verb"])


@pytest.mark.parametrize(("routing", "passes"), [("per_question", 2), ("both", 1)])
def test_targets_of_the_same_streams_share_the_blocks_before_the_last(routing, passes):
    head, seen = build(depth=2, question_routing=routing), []
    head.blocks[0].register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
    head(rows(LENGTHS))
    assert seen == {"per_question": [7, 9], "both": [12]}[routing]
    assert len(seen) == passes


def test_a_modality_is_told_from_another_by_its_vector_alone():
    """Without projections the same tokens are the same, in whichever stream."""
    shapes = {name: StreamShape(width=8) for name in ("video", "audio")}
    plain = {"video_mlp_layers": 0, "text_mlp_layers": 0, "input_norm": False}
    head = AttentiveFusion(AttentiveConfig(streams=shapes, d_model=8, num_heads=2, **plain)).eval()
    one, other = ((torch.randn(2, 3, 8), torch.tensor([3, 2])) for _ in shapes)
    streams, swapped = {"video": one, "audio": other}, {"video": other, "audio": one}
    assert (head(streams)["verb"] - head(swapped)["verb"]).abs().max() > 1e-4
    with torch.no_grad():
        head.type_token["audio"].copy_(head.type_token["video"])
    torch.testing.assert_close(head(streams)["verb"], head(swapped)["verb"])


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_its_parameters_by_hand(depth):
    d = 8
    head = build(depth=depth)
    projections = (2 * 6 + 6 * d + d + d * d + d) + (2 * 5 + 5 * d + d + d * d + d)
    block = 3 * d * d + (d * d + d) + (8 * d * d + 5 * d) + 4 * d
    pool = (4 * d * d + 3 * d) + (8 * d * d + 5 * d) + 4 * d
    vectors = 2 * d + 2 * d  # a query for each target, a vector for each modality
    assert head.num_params(heads=False) == projections + (depth - 1) * block + pool + vectors


def test_faults_of_the_settings_are_said_with_what_to_change():
    with pytest.raises(UsageError, match=r"head\.d_model = 8 is no multiple of attentive\.num_heads = 16"):
        build(num_heads=16)
    with pytest.raises(UsageError, match=r"stream noun_question: 5 tokens .* raise attentive\.max_positions"):
        build(max_positions=4)(rows(LENGTHS))
