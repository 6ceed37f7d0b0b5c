"""Heads of every kind that can lie side by side (`mambavl.fuse.stacked`), and streams for them."""

import copy

import torch

from mambavl.fuse.attentive import AttentiveConfig, AttentiveFusion
from mambavl.fuse.baselines import MLPConfig, MLPFusion
from mambavl.fuse.fusion import FusionConfig, SSMFusion
from mambavl.fuse.head import ABSENT, StreamShape
from mambavl.fuse.stacked import Stack

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
    "attentive": (AttentiveFusion, AttentiveConfig, {"num_heads": 2}),
    "attentive, no layer": (
        AttentiveFusion,
        AttentiveConfig,
        {"num_heads": 4, "video_mlp_layers": 0, "d_model": 12, "max_positions": 9},
    ),
    "attentive, deep": (
        AttentiveFusion,
        AttentiveConfig,
        {"num_heads": 2, "depth": 3, "max_positions": 9, "input_norm": False},
    ),
    "attentive, all questions": (
        AttentiveFusion,
        AttentiveConfig,
        {"num_heads": 2, "depth": 2, "question_routing": "both"},
    ),
    "attentive at all questions": (
        AttentiveFusion,
        AttentiveConfig,
        {"num_heads": 1, "question_routing": "both"},
    ),
}
REFUSED = {
    "attentive, few positions": (AttentiveFusion, AttentiveConfig, {"num_heads": 2, "max_positions": 6})
}


def make_heads(kind, dtype, count=3):
    """Of one shape, with weights, biases and norms of their own."""
    head, config, keys = (KINDS | REFUSED)[kind]
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


def assert_as_alone(kind, dtype, tolerance):
    """Logits and every gradient of heads side by side are those of the heads alone."""
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
