"""Updates of heads side by side, against torch's own optimisers of each head alone."""

import copy

import pytest
import torch

from mambavl.fuse import stacked_optimizer
from mambavl.fuse.baselines import MLPConfig, MLPFusion
from mambavl.fuse.fusion import FusionConfig, SSMFusion
from mambavl.fuse.head import StreamShape
from mambavl.fuse.optimizer import TrainConfig, build_optimizer
from mambavl.fuse.stacked import Stack
from mambavl.fuse.stacked_optimizer import StackedOptimizer, limit, norms

ADAMW = [
    TrainConfig(lr=1e-2, lr_ssm=3e-2, weight_decay=0.0),
    TrainConfig(lr=3e-3, lr_ssm=1e-3, weight_decay=0.5, clip_norm=0.0),
    TrainConfig(lr=1e-3, lr_ssm=2e-3, weight_decay=0.2, decay_all=True, clip_norm=5.0),
]
SGD = [
    TrainConfig(optimizer="sgd", lr=1e-2, lr_ssm=3e-2, momentum=0.9),
    TrainConfig(optimizer="sgd", lr=3e-3, lr_ssm=1e-3, momentum=0.0, weight_decay=0.5),
    TrainConfig(optimizer="sgd", lr=1e-3, lr_ssm=2e-3, momentum=0.5, decay_all=True, clip_norm=0.0),
]
ALL = pytest.mark.parametrize("configs", [ADAMW, SGD], ids=["adamw", "sgd"])


def make_heads():
    heads = []
    for seed in range(3):
        torch.manual_seed(seed)
        config = FusionConfig(
            d_model=4, d_state=2, streams={"video": StreamShape(width=3)}, targets={"verb": 2}
        )
        heads.append(SSMFusion(config).double())
    return heads


def drawn(heads, seed):
    """A gradient for each parameter of each head: large, and small for the second of them."""
    generator = torch.Generator().manual_seed(seed)
    for k, head in enumerate(heads):
        for parameter in head.parameters():
            size = (1.0, 1e-3, 3.0)[k]
            parameter.grad = size * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)


def factors(seed):
    return [0.5 + 0.1 * seed, 1.0, 0.9**seed]


def step_alone(heads, optimizers, configs, seed):
    drawn(heads, seed)
    for head, optimizer, config, factor in zip(heads, optimizers, configs, factors(seed), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        torch.nn.utils.clip_grad_norm_(head.parameters(), config.clip_norm or float("inf"))
        optimizer.step()


def step_together(stack, optimizer, configs, seed, all_heads=None, places=(0, 1, 2)):
    drawn(all_heads or stack.heads, seed)
    gradients = [
        torch.stack([torch.cat([h.get_parameter(n).grad.flatten() for n in leaf.names]) for h in stack.heads])
        for leaf in stack.leaves
    ]
    limits = [config.clip_norm for config in configs]
    own = [factors(seed)[place] for place in places]
    optimizer.step(limit(gradients, norms(gradients), limits), own)


def assert_equal(heads, others):
    for head, other in zip(heads, others, strict=True):
        for name, weight in head.state_dict().items():
            torch.testing.assert_close(other.state_dict()[name], weight, rtol=1e-12, atol=1e-14)


@ALL
@pytest.mark.parametrize("block", [stacked_optimizer.BLOCK, 10])
def test_each_head_goes_where_torchs_optimiser_takes_it_alone(configs, block, monkeypatch):
    monkeypatch.setattr(stacked_optimizer, "BLOCK", block)
    alone = make_heads()
    optimizers = [build_optimizer(*pair) for pair in zip(alone, configs, strict=True)]
    stack = Stack(make_heads())
    own = [build_optimizer(*pair) for pair in zip(stack.heads, configs, strict=True)]
    together = StackedOptimizer(stack, own, configs)
    for seed in range(5):
        step_alone(alone, optimizers, configs, seed)
        step_together(stack, together, configs, seed)
    assert_equal(alone, stack.heads)


@ALL
@pytest.mark.parametrize("first", ["alone", "together"])
def test_updates_alone_and_together_go_on_from_each_other(configs, first):
    """Through the state dicts of torch's optimisers, as checkpoints keep them."""
    plain, heads = make_heads(), make_heads()
    of_plain = [build_optimizer(*pair) for pair in zip(plain, configs, strict=True)]
    own = [build_optimizer(*pair) for pair in zip(heads, configs, strict=True)]
    for seed in range(6):
        step_alone(plain, of_plain, configs, seed)
    stack = together = None
    for seed in range(6):
        if (seed < 3) == (first == "alone"):
            step_alone(heads, own, configs, seed)
        else:
            if stack is None:
                stack = Stack(heads)
                together = StackedOptimizer(stack, own, configs)
            step_together(stack, together, configs, seed)
        if seed == 2:
            saved = [copy.deepcopy(optimizer.state_dict()) for optimizer in own]
            weights = [copy.deepcopy(head.state_dict()) for head in heads]
            heads = make_heads()
            own = [build_optimizer(*pair) for pair in zip(heads, configs, strict=True)]
            for head, optimizer, state, kept in zip(heads, own, saved, weights, strict=True):
                head.load_state_dict(kept)
                optimizer.load_state_dict(state)
            stack = None
    assert_equal(plain, heads)


@ALL
def test_heads_that_leave_change_nothing_for_the_others(configs):
    alone = make_heads()
    optimizers = [build_optimizer(*pair) for pair in zip(alone, configs, strict=True)]
    everyone = make_heads()
    own = [build_optimizer(*pair) for pair in zip(everyone, configs, strict=True)]
    stack = Stack(everyone)
    together = StackedOptimizer(stack, own, configs)
    for seed in range(4):
        step_alone(alone, optimizers, configs, seed)
        if seed == 2:
            stack.keep([0, 2])
            together.keep([0, 2])
        places = (0, 1, 2) if seed < 2 else (0, 2)
        step_together(stack, together, [configs[i] for i in places], seed, everyone, places)
    assert_equal([alone[0], alone[2]], stack.heads)
    assert own[1].state_dict()["state"].keys() == optimizers[1].state_dict()["state"].keys()


def test_norms_and_limits_are_those_of_torch():
    torch.manual_seed(0)
    gradients = [torch.randn(3, 7, dtype=torch.float64), 4 * torch.randn(3, 2, dtype=torch.float64)]
    found = limit([gradient.clone() for gradient in gradients], norms(gradients), [1.0, 0.0, 100.0])
    for k, most in enumerate((1.0, float("inf"), 100.0)):
        parameters = [torch.nn.Parameter(torch.zeros_like(gradient[k])) for gradient in gradients]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient[k].clone()
        norm = torch.nn.utils.clip_grad_norm_(parameters, most)
        torch.testing.assert_close(norms(gradients)[k], norm)
        for parameter, gradient in zip(parameters, found, strict=True):
            torch.testing.assert_close(gradient[k], parameter.grad, rtol=1e-12, atol=0)


def test_what_is_kept_is_what_torch_keeps():
    """Names, shapes and dtypes, so that either can be saved and loaded as the other."""
    for configs in (ADAMW, SGD):
        alone, stack = make_heads(), Stack(make_heads())
        optimizers = [build_optimizer(*pair) for pair in zip(alone, configs, strict=True)]
        own = [build_optimizer(*pair) for pair in zip(stack.heads, configs, strict=True)]
        step_alone(alone, optimizers, configs, 0)
        step_together(stack, StackedOptimizer(stack, own, configs), configs, 0)
        for optimizer, other in zip(optimizers, own, strict=True):
            kept, found = optimizer.state_dict()["state"], other.state_dict()["state"]
            assert kept.keys() == found.keys()
            for number, state in kept.items():
                tensors = {name: value for name, value in state.items() if value is not None}
                assert tensors.keys() == found[number].keys()
                for name, value in tensors.items():
                    torch.testing.assert_close(found[number][name], value, rtol=1e-12, atol=1e-14)


def test_an_mlp_head_has_no_rate_of_an_ssm():
    config = MLPConfig(d_model=4, streams={"video": StreamShape(width=3)}, targets={"verb": 2})
    stack = Stack([MLPFusion(config).double()])
    assert not any(leaf.is_ssm for leaf in stack.leaves)
