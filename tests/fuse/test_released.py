"""What the authors' code does to a head that was built. (That the head's own is: test_fusion.py.)"""

import math

import torch
from torch import nn

from mambavl.fuse.released import reset_like_release


def test_matrices_are_drawn_anew_biases_of_linear_layers_are_zero_and_norms_fresh():
    """Xavier: uniform within sqrt(6 / (inputs + outputs)), a convolution's taps counted on both sides."""
    torch.manual_seed(0)
    parts = nn.ModuleDict(
        {"linear": nn.Linear(300, 100), "norm": nn.LayerNorm(5), "conv": nn.Conv1d(64, 64, 4)}
    )
    vector = nn.Parameter(torch.full((7,), 3.0))
    parts.register_parameter("vector", vector)
    bias = parts["conv"].bias.clone()
    with torch.no_grad():
        for parameter in parts["norm"].parameters():
            parameter.fill_(0.5)
        parts["linear"].weight.fill_(9.0)
    reset_like_release(parts)
    for name, fans in (("linear", 300 + 100), ("conv", (64 + 64) * 4)):
        bound, weight = math.sqrt(6 / fans), parts[name].weight.abs()
        assert 0.95 * bound < weight.max() <= bound
        assert abs(weight.mean() / bound - 0.5) < 0.02
    assert not parts["linear"].bias.any()
    assert torch.equal(parts["conv"].bias, bias)
    assert parts["norm"].weight.tolist() == [1.0] * 5
    assert parts["norm"].bias.tolist() == [0.0] * 5
    assert vector.tolist() == [3.0] * 7
