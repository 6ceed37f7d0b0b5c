"""The causal convolution against PyTorch's own: values, gradients, stacked heads, compiled, counted."""

import pytest
import torch
import torch.nn.functional as F
from torch.func import grad, vmap
from torch.utils.flop_counter import FlopCounterMode

from mambavl.fuse import conv
from mambavl.fuse.conv import causal_conv


def by_torch(u, weight, bias):
    return F.conv1d(u.mT, weight, bias, padding=weight.shape[2] - 1, groups=u.shape[2])[..., : u.shape[1]].mT


def draw(batch=3, length=11, channels=6, taps=4, dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(*shape, generator=g, dtype=dtype)
        for shape in ((batch, length, channels), (channels, 1, taps), (channels,))
    )


@pytest.mark.parametrize(
    ("batch", "length", "taps"),
    [(3, 11, 4), (3, 3, 4), (1, 1, 4), (2, 5, 1), (0, 4, 4), (2, 0, 4), (70, 9, 3)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_those_of_a_convolution(batch, length, taps, dtype, monkeypatch):
    monkeypatch.setattr(conv, "BLOCK", 128)  # many blocks of rows, the last one short
    x = [v.requires_grad_() for v in draw(batch, length, 6, taps, dtype)]
    y = causal_conv(*x)
    assert y.is_contiguous()
    weights = torch.linspace(-1, 1, max(1, y.numel()), dtype=dtype)[: y.numel()].view(y.shape)
    found = (y, *torch.autograd.grad((y * weights).sum(), x))
    if not length:
        assert not any(g.any() for g in found)
        return
    expected = by_torch(*x)
    expected = (expected, *torch.autograd.grad((expected * weights).sum(), x))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(
            a, b, rtol=1e-4 if dtype == torch.float32 else 1e-9, atol=1e-5 if dtype == torch.float32 else 1e-9
        )


def test_gradients_match_finite_differences_and_a_second_derivative_is_refused():
    x = [v.requires_grad_() for v in draw(2, 5, 3)]
    assert torch.autograd.gradcheck(causal_conv, x)
    [first] = torch.autograd.grad(causal_conv(*x).square().sum(), x[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(first.sum(), x[:1])


def test_half_of_a_wider_tensor_and_a_batch_in_another_order_change_nothing():
    u, weight, bias = draw()
    wide = torch.cat([u, u + 1], dim=2)
    assert torch.equal(causal_conv(wide[..., :6], weight, bias), causal_conv(u, weight, bias))
    assert torch.equal(causal_conv(u[[2, 0]], weight, bias), causal_conv(u, weight, bias)[[2, 0]])


@pytest.mark.parametrize("shared", [None, 0, 1])
def test_stacked_heads_are_more_channels(shared):
    heads = [draw(), tuple(v + 1 for v in draw())]
    stacked = [heads[0][i] if i == shared else torch.stack([h[i] for h in heads]) for i in range(3)]
    dims = tuple(None if i == shared else 0 for i in range(3))
    total = lambda *x: causal_conv(*x).sin().sum()
    found, inside = (
        vmap(causal_conv, in_dims=dims)(*stacked),
        vmap(grad(total, argnums=(0, 1, 2)), in_dims=dims)(*stacked),
    )
    for number in range(2):
        own = [stacked[i] if i == shared else stacked[i][number] for i in range(3)]
        torch.testing.assert_close(found[number], by_torch(*own))
        for a, b in zip(
            inside, grad(lambda *x: by_torch(*x).sin().sum(), argnums=(0, 1, 2))(*own), strict=True
        ):
            torch.testing.assert_close(a[number], b)


def test_it_is_compiled_whole_and_counted_as_a_convolution():
    x = [v.requires_grad_() for v in draw()]
    compiled = torch.compile(lambda *x: causal_conv(*x).sin().sum(), fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert torch.equal(compiled(*x), causal_conv(*x).sin().sum())
    expected = torch.autograd.grad(causal_conv(*x).sin().sum(), x)
    assert all(torch.equal(a, b) for a, b in zip(torch.autograd.grad(compiled(*x), x), expected, strict=True))
    counter = FlopCounterMode(display=False)
    with counter:
        causal_conv(*x).sum().backward()
    assert counter.get_total_flops() == (2 + 4) * 3 * 11 * 6 * 4
    torch.library.opcheck(
        torch.ops.mambavl.causal_conv.default,
        tuple(v.detach() for v in x),
        test_utils=("test_schema", "test_faketensor"),
    )


def test_under_autocast_it_is_the_convolution_of_the_lower_precision():
    x = draw(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert causal_conv(*x).dtype == torch.bfloat16
