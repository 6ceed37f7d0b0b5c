"""The causal convolution against PyTorch's own: values, gradients, stacked heads, compiled, counted; in C as
without.
"""

import pytest
import torch
import torch.nn.functional as F
from torch.func import grad, vmap
from torch.utils.flop_counter import FlopCounterMode

from mambavl.fuse import conv
from mambavl.fuse.conv import causal_conv

LIBRARY = conv.unavailable()


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
@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_those_of_a_convolution(batch, length, taps, dtype, native, monkeypatch):
    if native and (LIBRARY or dtype == torch.float64):
        pytest.skip(LIBRARY or "C takes float32")
    if not native:
        monkeypatch.setattr(conv, "_native", lambda *_: False)
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


@pytest.mark.skipif(bool(LIBRARY), reason=LIBRARY or "")
@pytest.mark.parametrize(
    ("batch", "length", "channels", "taps"),
    [(1, 1, 1, 1), (5, 40, 600, 4), (33, 40, 513, 3), (2, 5, 37, 16), (3, 2, 1030, 8)],
)
@pytest.mark.parametrize("threads", [1, 2, 7])
def test_in_c_it_is_what_it_is_in_pytorch(batch, length, channels, taps, threads, monkeypatch):
    """More channels than are done at a time, more taps than steps, parts of rows, u a slice of something."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(conv, "ALONE", 1)
    u, weight, bias = draw(batch, length, channels, taps, torch.float32)
    wide = torch.cat([u + 1, u, u - 1], 2)[..., channels : 2 * channels]
    dy, order = torch.randn(batch, length, channels), conv._taps(weight)
    assert not wide.is_contiguous() or u.numel() == 1
    y = conv.native_forward(wide, order, bias)
    found = (y, *conv.native_backward(dy, wide, order))
    expected = (conv.torch_forward(u, order, bias), *conv.torch_backward(dy, u, order))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)
    again = (conv.native_forward(wide, order, bias), *conv.native_backward(dy, wide, order))
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))


@pytest.mark.skipif(bool(LIBRARY), reason=LIBRARY or "")
def test_what_c_does_not_take_is_done_in_pytorch():
    u, weight, bias = draw(2, 20, 3, 17, torch.float32)
    taps = conv._taps(weight)
    assert conv._native(u, taps[:16], bias)
    for tensor, few in ((u, taps), (u, taps[:0]), (u.double(), taps[:4].double()), (u.to("meta"), taps[:4])):
        assert not conv._native(tensor, few, bias)
    wide = causal_conv(u, weight[..., :4], bias.double())
    torch.testing.assert_close(
        wide, by_torch(u.double(), weight[..., :4].double(), bias.double()).to(wide.dtype)
    )
    torch.testing.assert_close(causal_conv(u, weight, bias), by_torch(u, weight, bias), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("u", "weight", "bias"),
    [
        ((2, 5, 6), (5, 1, 4), (6,)), ((2, 5, 6), (6, 1, 4), (5,)), ((2, 5, 6), (6, 2, 4), (6,)),
        ((5, 6), (6, 1, 4), (6,)), ((2, 5, 6), (6, 1, 4), (6, 1)),
    ],
)  # fmt: skip
def test_shapes_that_do_not_go_together_are_refused(u, weight, bias):
    """C would read and write beyond them."""
    with pytest.raises(ValueError, match="they are"):
        causal_conv(*(torch.zeros(shape) for shape in (u, weight, bias)))


def test_without_the_library_it_is_the_same(monkeypatch):
    x = draw(dtype=torch.float32)
    expected = causal_conv(*x)
    monkeypatch.setattr(conv, "_library", lambda: (None, "not built"))
    assert conv.unavailable() == "not built"
    torch.testing.assert_close(causal_conv(*x), expected)


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
