"""Heads side by side give what each gives alone: logits, every gradient, and the weights themselves."""

import copy

import pytest
import torch

from mambavl.fuse.baselines import MLPConfig, MLPFusion, TransformerConfig, TransformerFusion
from mambavl.fuse.fusion import FusionConfig, SSMFusion
from mambavl.fuse.head import ABSENT, StreamShape
from mambavl.fuse.stacked import Stack, heads_at_once

WIDTHS = {"video": 12, "verb_question": 10, "noun_question": 10, "audio": 7}
DROPOUT = (0.0, 0.3, 0.5)  # of the heads of a stack
TARGETS = {"verb": 3, "noun": 4}
KINDS = {
    "mlp": (MLPFusion, MLPConfig, {}),
    "mlp, no norm": (MLPFusion, MLPConfig, {"input_norm": False, "text_mlp_layers": 3}),
    "mlp, no layer": (MLPFusion, MLPConfig, {"video_mlp_layers": 0, "d_model": 12, "input_norm": False}),
    "default": (SSMFusion, FusionConfig, {}),
    "one layer": (SSMFusion, FusionConfig, {"video_mlp_layers": 1, "text_mlp_layers": 3}),
    "a norm alone": (SSMFusion, FusionConfig, {"video_mlp_layers": 0, "d_model": 12}),
    "no layer": (SSMFusion, FusionConfig, {"video_mlp_layers": 0, "d_model": 12, "input_norm": False}),
    "paper": (SSMFusion, FusionConfig, {"preset": "paper"}),
    "plain, no layer": (
        SSMFusion,
        FusionConfig,
        {"mixer": "plain", "video_mlp_layers": 0, "d_model": 12, "input_norm": False},
    ),
    "released": (SSMFusion, FusionConfig, {"video_mlp_layers": 1, "pad_text_to": 6, "init": "released"}),
    "exact hold": (SSMFusion, FusionConfig, {"zoh": True, "d_conv": 2, "expand": 1, "dt_rank": 3}),
    "nothing shared": (SSMFusion, FusionConfig, {"share": "none"}),
    "D shared": (SSMFusion, FusionConfig, {"share": "A+D"}),
    "all shared": (SSMFusion, FusionConfig, {"share": "all"}),
    "all questions": (SSMFusion, FusionConfig, {"question_routing": "both"}),
}


def make_heads(kind, dtype, count=3):
    """Of one shape, with weights, biases and norms of their own."""
    head, config, keys = KINDS[kind]
    streams = {name: StreamShape(width=width) for name, width in WIDTHS.items()}
    streams["audio"] = StreamShape(width=WIDTHS["audio"], modality="sound")
    heads = []
    for seed in range(count):
        torch.manual_seed(seed)
        given = {"d_model": 8, **({"d_state": 3} if head is SSMFusion else {}), **keys}
        one = head(config(streams=streams, targets=TARGETS, **given, dropout=DROPOUT[seed])).to(dtype)
        with torch.no_grad():
            for parameter in one.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        heads.append(one.train())
    return heads


def make_streams(dtype):
    """Rows of all lengths, one without a stream, two with one text."""
    generator = torch.Generator().manual_seed(5)
    lengths = {
        "video": [6, 6, 3, 1, ABSENT],
        "verb_question": [7, 2, 0, ABSENT, 3],
        "noun_question": [4, 4, 1, 2, 0],
        "audio": [ABSENT, 2, 2, 5, 0],
    }
    found = {}
    for name, of_rows in lengths.items():
        tokens = torch.randn(len(of_rows), max(of_rows), WIDTHS[name], generator=generator).to(dtype)
        found[name] = tokens, torch.tensor(of_rows)
    found["noun_question"][0][1] = found["noun_question"][0][0]
    for tokens, of_rows in found.values():  # what a store holds after a row's last token
        tokens[torch.arange(tokens.shape[1]) >= of_rows[:, None]] = torch.nan
    return found


def value_of(logits):
    """A number that depends on every logit."""
    return sum((i + 1) * (one * one.cos()).sum() for i, one in enumerate(logits.values()))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-5)])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_every_gradient_are_those_of_the_heads_alone(kind, dtype, tolerance):
    heads, streams, keys = make_heads(kind, dtype), make_streams(dtype), torch.arange(5) * 999
    stack = Stack(copy.deepcopy(heads))
    logits = stack(stack.read(streams), keys)
    gradients = torch.autograd.grad(value_of(logits), [leaf.values for leaf in stack.leaves])
    rows = [leaf.rows(gradient) for leaf, gradient in zip(stack.leaves, gradients, strict=True)]
    for k, head in enumerate(heads):
        alone = head(streams, keys)
        value_of(alone).backward()
        for target, own in alone.items():
            torch.testing.assert_close(logits[target][k], own, rtol=tolerance, atol=tolerance)
        of_head = {name: gradient for row in rows for name, gradient in row[k].items()}
        assert of_head.keys() == dict(head.named_parameters()).keys()
        for name, parameter in head.named_parameters():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            torch.testing.assert_close(of_head[name], gradient, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", ["mlp", "default", "paper"])
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


def test_a_head_that_is_not_a_number_spoils_no_other():
    heads, streams, keys = make_heads("default", torch.float64), make_streams(torch.float64), torch.arange(5)
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
    assert heads_at_once(narrow, 8) == 2**21 // (8 * 64 * 16)
    assert heads_at_once(narrow, 128) == 16
    assert heads_at_once(narrow, 10**6) == 1
    [pooled] = make_heads("mlp", torch.float32, count=1)
    assert heads_at_once(pooled, 128) == 2**21 // (128 * 8)
