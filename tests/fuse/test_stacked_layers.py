"""Linear layers of heads side by side, against those of each head."""

import pytest
import torch
import torch.nn.functional as F

from mambavl.fuse.stacked_layers import Layer, Norm

HEADS = 3


def drawn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.fixture(params=[True, False], ids=["bias", "no bias"])
def layer(request):
    torch.manual_seed(0)
    return Layer(drawn(HEADS, 6, 4), drawn(HEADS, 6) if request.param else None)


def alone(layer, k, x):
    return F.linear(x, layer.weight[k], None if layer.bias is None else layer.bias[k])


def test_each_head_has_its_own_layer(layer):
    own, shared = drawn(5, HEADS, 4), drawn(5, 4)
    for k in range(HEADS):
        torch.testing.assert_close(layer(own)[:, k], alone(layer, k, own[:, k]))
        torch.testing.assert_close(layer(shared)[:, k], alone(layer, k, shared))


def test_scale_and_shift_are_folded_in(layer):
    x, norm = drawn(5, 4), Norm(drawn(HEADS, 4), drawn(HEADS, 4))
    for k in range(HEADS):
        expected = alone(layer, k, x * norm.scale[k] + norm.shift[k])
        torch.testing.assert_close(layer.after(norm)(x)[:, k], expected)


def test_a_product_behind_is_folded_in(layer):
    x, more = drawn(5, 4), drawn(HEADS, 2, 6)
    for k in range(HEADS):
        torch.testing.assert_close(layer.before(more)(x)[:, k], alone(layer, k, x) @ more[k].T)


def test_under_autocast_weights_are_folded_as_they_are():
    torch.manual_seed(0)
    layer, norm = Layer(torch.randn(1, 3, 4), torch.randn(1, 3)), Norm(*torch.randn(2, 1, 4))
    more = torch.randn(1, 2, 3)
    expected = [*layer.before(more), *layer.after(norm)]
    with torch.autocast("cpu", torch.bfloat16):
        found = [*layer.before(more), *layer.after(norm)]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_halves_give_the_first_and_the_second_half(layer):
    x = drawn(5, 4)
    torch.testing.assert_close(torch.cat([half(x) for half in layer.halves()], -1), layer(x))
