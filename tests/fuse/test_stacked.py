"""Heads side by side give what each gives alone: logits, every gradient, and the weights themselves."""

import copy

import pytest
import torch

from helpers.stacks import KINDS, TARGETS, WIDTHS, assert_as_alone, make_heads, make_streams, value_of
from mambavl.fuse.baselines import MLPConfig, MLPFusion, TransformerConfig, TransformerFusion
from mambavl.fuse.head import StreamShape
from mambavl.fuse.stacked import Stack, heads_at_once


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-5)])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_every_gradient_are_those_of_the_heads_alone(kind, dtype, tolerance):
    assert_as_alone(kind, dtype, tolerance)


@pytest.mark.parametrize("kind", ["mlp", "default", "paper", "attentive", "attentive, deep"])
def test_under_autocast_they_agree_to_its_rounding(kind):
    heads, streams, keys = make_heads(kind, torch.float32), make_streams(torch.float32), torch.arange(5)
    stack = Stack(copy.deepcopy(heads))
    with torch.autocast("cpu", torch.bfloat16):
        logits = stack(stack.read(streams), keys)
        for k, head in enumerate(heads):
            for target, own in head(streams, keys).items():
                assert logits[target].dtype == own.dtype
                torch.testing.assert_close(logits[target][k], own, rtol=0.05, atol=0.05)


def test_the_heads_are_views_of_the_stack():
    heads = make_heads("default", torch.float32)
    before = copy.deepcopy(heads)
    stack = Stack(heads)
    for head, copied in zip(heads, before, strict=True):
        for name, weight in copied.state_dict().items():
            assert torch.equal(head.state_dict()[name], weight)
    with torch.no_grad():
        for leaf in stack.leaves:
            leaf.values[1] += 1
    for k, (head, copied) in enumerate(zip(heads, before, strict=True)):
        for name, weight in copied.state_dict().items():
            assert torch.equal(head.state_dict()[name], weight + (k == 1))


def test_heads_that_leave_keep_what_they_have_and_the_others_go_on():
    heads, streams, keys = make_heads("default", torch.float64), make_streams(torch.float64), torch.arange(5)
    stack = Stack(heads)
    before = stack(stack.read(streams), keys)
    left = copy.deepcopy(heads[1].state_dict())
    stack.keep([0, 2])
    assert (len(stack), stack.heads) == (2, [heads[0], heads[2]])
    after = stack(stack.read(streams), keys)
    for target, logits in after.items():
        torch.testing.assert_close(logits, before[target][[0, 2]], rtol=0, atol=1e-12)
    with torch.no_grad():
        for leaf in stack.leaves:
            leaf.values += 1
    for name, weight in left.items():
        assert torch.equal(heads[1].state_dict()[name], weight)
        assert not torch.equal(heads[2].state_dict()[name], weight)


@pytest.mark.parametrize("kind", ["mlp", "default", "attentive", "attentive, deep"])
def test_a_head_that_is_not_a_number_spoils_no_other(kind):
    heads, streams, keys = make_heads(kind, torch.float64), make_streams(torch.float64), torch.arange(5)
    good = {target: one.detach() for target, one in heads[0](streams, keys).items()}
    stack = Stack(heads)
    with torch.no_grad():
        for leaf in stack.leaves:
            leaf.values[1:] = torch.nan
    logits = stack(stack.read(streams), keys)
    gradients = torch.autograd.grad(value_of(logits), [leaf.values for leaf in stack.leaves])
    for target, own in good.items():
        torch.testing.assert_close(logits[target][0], own)
    assert all(gradient[0].isfinite().all() for gradient in gradients)


def test_what_cannot_be_stacked_is_refused():
    streams = {name: StreamShape(width=width) for name, width in WIDTHS.items()}
    transformer = TransformerFusion(TransformerConfig(d_model=8, depth=1, streams=streams, targets=TARGETS))
    with pytest.raises(ValueError, match="heads of type TransformerFusion are trained one by one"):
        Stack([transformer])
    routes = {target: ["video", "verb_question"] for target in TARGETS}
    unheard = MLPFusion(MLPConfig(d_model=8, streams=streams, targets=TARGETS, routes=routes))
    with pytest.raises(ValueError, match="modality audio reaches no classifier"):
        Stack([unheard])


def test_wide_heads_and_large_batches_are_computed_by_fewer_at_once():
    [narrow] = make_heads("default", torch.float32, count=1)  # 16 channels inside
    assert heads_at_once(narrow, 8) == 2**22 // (8 * 64 * 16)
    assert heads_at_once(narrow, 128) == 32
    assert heads_at_once(narrow, 10**6) == 1
    [pooled] = make_heads("mlp", torch.float32, count=1)
    assert heads_at_once(pooled, 128) == 2**22 // (128 * 8)
    [probe] = make_heads("attentive", torch.float32, count=1)
    assert heads_at_once(probe, 128) == 2**22 // (128 * 64 * 8)
    [deep] = make_heads("attentive, deep", torch.float32, count=1)
    assert heads_at_once(deep, 128) == 2**22 // (128 * 64 * 4 * 8)
