"""Heads with an SSM side by side: which rows are taken together changes nothing.

(What each kind of head computes: test_stacked.py.)
"""

import pytest
import torch

from helpers.stacks import assert_as_alone
from mambavl.fuse import stacked_scans
from mambavl.fuse.ragged import Ragged
from mambavl.fuse.stacked_scans import by_length, cut

LENGTHS = {
    "ragged, two alike": [3, 0, 5, 3, 1, 7, 3],
    "ragged": [2, 6, 4],
    "all full": [4, 4, 4, 4, 4],
    "no token at all": [0, 0],
}


def make_rows(name):
    torch.manual_seed(0)
    lengths = torch.tensor(LENGTHS[name])
    tokens = torch.randn(len(lengths), int(max(1, *lengths)), 2)
    tokens[torch.arange(tokens.shape[1]) >= lengths[:, None]] = 0.0
    if "alike" in name:
        tokens[3] = tokens[0]
    return tokens, lengths


@pytest.mark.parametrize("name", LENGTHS)
def test_rows_by_length_are_the_same_rows(name):
    tokens, lengths = make_rows(name)
    ragged = by_length(Ragged.of(tokens, lengths))
    assert torch.equal(ragged.lengths, ragged.lengths.sort().values)
    packed = ragged.pack(tokens).flatten(0, -2)
    assert len(packed) == sum(sorted(LENGTHS[name])) - 3 * ("alike" in name)
    padded = packed.unflatten(0, (-1, ragged.steps)) if ragged.place is None else ragged.pad(packed)
    assert torch.equal(ragged.spread(padded.flatten(1)).view_as(tokens), tokens)


@pytest.mark.parametrize("most", [1, 6, 14, 1000])
@pytest.mark.parametrize("name", LENGTHS)
def test_rows_that_are_taken_together_are_all_rows_in_their_order(name, most):
    tokens, lengths = make_rows(name)
    ragged = by_length(Ragged.of(tokens, lengths))
    blocks = cut(ragged, most)
    parts = ragged.pack(tokens).flatten(0, -2).split([block.tokens for block in blocks])
    assert torch.equal(torch.cat([block.ragged.lengths for block in blocks]), ragged.lengths)
    rows = []
    for part, (_, own) in zip(parts, blocks, strict=True):
        assert own.steps * len(own.lengths) <= most or len(own.lengths) == 1
        assert own.steps == max(1, *own.lengths)
        padded = own.pad(part).reshape(-1, own.steps, 2)
        rows += [row[:length] for row, length in zip(padded, own.lengths, strict=True)]
        assert all(not row[length:].any() for row, length in zip(padded, own.lengths, strict=True))
    found = [rows[i] for i in (ragged.which if ragged.which is not None else range(len(rows)))]
    for row, length, own in zip(tokens, lengths, found, strict=True):
        assert torch.equal(own, row[:length])


def test_hardly_any_padding_is_computed():
    """Rows of 1 to 40 tokens, ten at a time or so: at most a fifth; at once it would be a half."""
    lengths = torch.arange(400) % 40 + 1
    tokens = (torch.arange(40) < lengths[:, None])[..., None] * torch.randn(400, 40, 2)
    blocks = cut(by_length(Ragged.of(tokens, lengths)), 1000)
    assert sum(own.steps * len(own.lengths) for _, own in blocks) < 1.2 * lengths.sum()


@pytest.mark.parametrize("block", [1, 300])
@pytest.mark.parametrize("kind", ["default", "paper", "no layer", "released", "nothing shared", "all shared"])
def test_how_many_rows_are_taken_together_changes_nothing(kind, block, monkeypatch):
    monkeypatch.setattr(stacked_scans, "BLOCK", block)
    assert_as_alone(kind, torch.float64, 1e-9)
