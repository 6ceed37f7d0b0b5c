"""Groups of channels and padding, by hand."""

import pytest
import torch

from mambavl.fuse.scan.inputs import (
    ScanInputs,
    common_groups,
    expand_groups,
    state_dtype,
    sum_groups,
    zero_outside,
)


def inputs(b, c):
    u = torch.zeros(2, 3, 12)
    return ScanInputs(u, u, b, c)


def test_common_groups_are_the_fewest_within_which_all_coefficients_agree():
    by_step, of = torch.zeros(2, 3, 4), lambda groups: torch.zeros(2, 3, groups, 4)
    assert common_groups([inputs(by_step, by_step)]) == 1
    assert common_groups([inputs(of(2), by_step)]) == 2
    assert common_groups([inputs(of(2), of(4)), inputs(of(3), by_step)]) == 12


def test_a_group_is_repeated_for_each_of_its_parts():
    x = torch.arange(2.0).view(1, 1, 2, 1)
    assert expand_groups(x, 4).flatten().tolist() == [0, 0, 1, 1]
    assert expand_groups(x, 2) is x
    assert expand_groups(torch.ones(1, 3, 4), 1).shape == (1, 3, 1, 4)
    assert expand_groups(torch.ones(12, 4), 3).shape == (4, 12)  # constant


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 1, 4), (2, 3, 3, 4), (6, 4)])
def test_sum_groups_is_the_gradient_of_expand_groups(shape):
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    y = expand_groups(x, 6)
    dy = torch.randn(y.shape, dtype=torch.float64)
    [expected] = torch.autograd.grad(y, x, dy)
    torch.testing.assert_close(sum_groups(dy, x), expected)


def test_what_lies_in_the_padding_reaches_neither_the_values_nor_the_gradient():
    valid = torch.tensor([[True, False]])[..., None]
    x = torch.tensor([[[1.0], [torch.nan]]], requires_grad=True)
    zero_outside(valid, x * x).sum().backward()
    assert x.grad.flatten().tolist()[0] == 2.0
    assert zero_outside(valid, x).flatten().tolist() == [1.0, 0.0]
    assert zero_outside(valid, x[..., None]).shape == (1, 2, 1, 1)
    constant = torch.ones(3, 4)
    assert zero_outside(valid, constant) is constant


def test_a_state_is_never_narrower_than_float32():
    assert state_dtype(torch.bfloat16) == state_dtype(torch.float32) == torch.float32
    assert state_dtype(torch.float64) == torch.float64
