"""The heads of Table 3. (What holds for every head: test_fusion.py, test_head.py.)"""

import pytest
import torch

from mambavl.configs.errors import UsageError
from mambavl.fuse.baselines import MLPConfig, MLPFusion, TransformerConfig, TransformerFusion
from mambavl.fuse.head import StreamShape

NAMES = ("video", "verb_question", "noun_question")
SMALL = {"d_model": 8, "targets": {"verb": 5, "noun": 7}, "dropout": 0.0}


def shapes(width=6, names=NAMES):
    return {name: StreamShape(width=width) for name in names}


def streams(lengths=(4, 2), names=NAMES):
    generator = torch.Generator().manual_seed(0)
    return {name: (torch.randn(2, 4, 6, generator=generator), torch.tensor(lengths)) for name in names}


def test_the_baselines_have_the_papers_parameters():
    """Table 4's 242M row: 94,480,896 parameters on top of ORViT; and the 6x4 and MLP rows it leaves out."""
    released = {
        "streams": shapes(width=768),
        "video_mlp_layers": 0,
        "text_mlp_layers": 3,
        "input_norm": False,
    }
    with torch.device("meta"):
        large = TransformerFusion(TransformerConfig(depth=12, num_heads=12, **released))
        small = TransformerFusion(TransformerConfig(depth=6, num_heads=4, **released))
        mlp = MLPFusion(MLPConfig(**released))
    assert large.num_params(heads=False) == 94_480_896
    assert small.num_params(heads=False) == 94_480_896 - 6 * 7_085_568
    assert mlp.num_params(heads=False) == 3_541_248 + 1_771_008


def test_no_text_says_nothing_to_the_mlp():
    """A projected mean of no tokens would be its biases."""
    torch.manual_seed(0)
    head = MLPFusion(MLPConfig(**SMALL, streams=shapes())).eval()
    given = streams()
    tokens, _ = given["verb_question"]
    empty = {**given, "verb_question": (tokens, torch.tensor([0, 0]))}
    joined = torch.cat([head._vector(name, *empty[name]) for name in ("video", "verb_question")], -1)
    assert not joined[:, 8:].any()
    torch.testing.assert_close(head.fuse(empty)["verb"], head.fuser(joined))


def test_the_mlp_needs_as_many_streams_for_the_verb_as_for_the_noun():
    with pytest.raises(UsageError, match="2 reach verb, 1 reach noun: give a question about each,"):
        MLPFusion(MLPConfig(**SMALL, streams=shapes(names=NAMES[:2])))


def test_pooled_tokens_are_the_mean_of_all():
    torch.manual_seed(0)
    config = TransformerConfig(
        **SMALL, depth=1, num_heads=2, max_positions=8, tokens="pooled", streams=shapes()
    )
    head, given = TransformerFusion(config).eval(), streams()
    means = {}
    for name, (tokens, lengths) in given.items():
        mean = torch.stack([row[:length].mean(0) for row, length in zip(tokens, lengths, strict=True)])
        means[name] = mean[:, None], torch.ones_like(lengths)
    for target, logits in head(given).items():
        torch.testing.assert_close(logits, head(means)[target])


def test_more_tokens_than_positions_are_refused_with_the_setting():
    config = TransformerConfig(**SMALL, depth=1, num_heads=2, max_positions=4, streams=shapes())
    with pytest.raises(
        UsageError, match=r"stream video: 4 tokens exceed .* raise transformer\.max_positions"
    ):
        TransformerFusion(config)(streams())
    TransformerFusion(config.model_copy(update={"max_positions": 5}))(streams())  # the class token fits too
