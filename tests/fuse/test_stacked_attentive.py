"""Attentive probes side by side: what they read once, and what is theirs alone.

(What they compute, against each alone: test_stacked.py.)
"""

import pytest
import torch

from helpers.stacks import make_heads, make_streams
from mambavl.configs.errors import UsageError
from mambavl.fuse.stacked import Stack


def test_padding_and_equal_texts_are_read_once():
    stack = Stack(make_heads("attentive", torch.float32))
    read = stack.read(make_streams(torch.float32))
    tokens = {name: len(packed) for name, (packed, _) in read.items()}
    # of noun_question the first two rows, of four tokens, are one
    assert tokens == {"video": 16, "verb_question": 12, "noun_question": 7, "audio": 9}


@pytest.mark.parametrize("kind", ["attentive", "attentive, deep"])
def test_a_probe_that_is_not_a_number_says_so(kind):
    """As alone: a row without any token has none to spoil."""
    heads, streams, keys = make_heads(kind, torch.float64), make_streams(torch.float64), torch.arange(5)
    stack = Stack(heads)
    with torch.no_grad():
        for parameter in heads[1].project.parameters():
            parameter.fill_(torch.nan)
    alone = heads[1](streams, keys)
    for target, logits in stack(stack.read(streams), keys).items():
        assert logits[1, :4].isnan().all()
        assert torch.equal(logits[1].isnan(), alone[target].isnan())
        assert logits[[0, 2]].isfinite().all()


def test_more_tokens_than_positions_are_refused():
    stack = Stack(make_heads("attentive, few positions", torch.float32))
    with pytest.raises(UsageError, match=r"verb_question: 7 tokens .* raise attentive\.max_positions"):
        stack(stack.read(make_streams(torch.float32)), torch.arange(5))
