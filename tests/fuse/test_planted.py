"""What each head can learn: a signal in the video alone, in the text alone, in their conjunction alone.

A head whose streams meet in a sum before a linear classifier has logits f(video) + g(text): the exclusive or
of two bits is none. Heads with a layer or a product after the streams have met can learn it.
"""

import pytest
import torch

from helpers.planted import SHAPES, TARGETS, make_planted_stores, planted_recipe
from mambavl.configs import validate
from mambavl.fuse.head import StreamShape
from mambavl.fuse.recipe import HEADS
from mambavl.fuse.train import train

HEAD_SETTINGS = {  # case -> head, its own sections
    "mambavl": ("mambavl", {"fusion": {"d_state": 4}}),
    "bidirectional": ("bidirectional", {"fusion": {"d_state": 4}}),
    "cross": ("cross", {"fusion": {"d_state": 4}}),
    "cross, gated": ("cross", {"fusion": {"d_state": 4}, "cross": {"gated": True}}),
    "mixture": ("mixture", {"fusion": {"d_state": 4}}),
    "deep": ("deep", {"fusion": {"d_state": 4}}),
    "mlp": ("mlp", {}),
    "transformer": ("transformer", {"transformer": {"depth": 1, "num_heads": 2, "max_positions": 8}}),
    "attentive": ("attentive", {"attentive": {"num_heads": 2}}),
}
SUMS = ("mambavl", "bidirectional", "mixture", "deep")  # heads whose streams meet in a sum alone


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return make_planted_stores(tmp_path_factory.mktemp("planted"))


def test_every_head_is_here():
    assert {head for head, _ in HEAD_SETTINGS.values()} == HEADS.keys()


@pytest.mark.parametrize("case", HEAD_SETTINGS)
def test_a_head_learns_what_theory_lets_it(planted, tmp_path, case):
    """96 unseen rows; a sum may have three of the four cases right, whatever its weights."""
    found = train(planted_recipe(planted, *HEAD_SETTINGS[case]), tmp_path / "run").metrics
    right = {target: found[f"all_{target}_top1"] for target in TARGETS}
    assert right["seen"] > 97
    assert right["read"] > 97
    if case in SUMS:
        assert right["both"] <= 75
    else:
        assert right["both"] > 97


@pytest.mark.parametrize("case", HEAD_SETTINGS)
def test_whether_a_heads_logits_are_a_sum_over_streams(case):
    """With any weights: f(v) + g(t) has the same sum over (v, t), (v', t') as over (v, t'), (v', t)."""
    torch.manual_seed(0)
    name, own = HEAD_SETTINGS[case]
    kind, config = HEADS[name]
    settings = {key: value for section in own.values() for key, value in section.items()}
    shapes = {stream: StreamShape(width=width) for stream, (_, width) in SHAPES.items()}
    head = kind(validate({**settings, "d_model": 16, "streams": shapes}, config, "head")).double().eval()
    given = {}
    for stream, rows in (("video", [0, 1, 0, 1]), ("words", [0, 1, 1, 0])):
        tokens = torch.randn(2, *SHAPES[stream], dtype=torch.float64)
        given[stream] = tokens[rows], torch.tensor([SHAPES[stream][0]] * 4)
    logits = head(given)["verb"]
    differs = (logits[0] + logits[1] - logits[2] - logits[3]).abs().max() / logits.abs().max()
    assert (differs < 1e-12) if case in SUMS else (differs > 1e-8)
