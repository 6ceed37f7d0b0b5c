"""The reference, and its float64 twin `chunked`: closed forms, invariances, recorded numbers."""

import json

import pytest
import torch
from safetensors.torch import load_file

from helpers.scan import error, ours
from mambavl.fuse import scan
from mambavl.fuse.scan import pooled_selective_scan, selective_scan

torch.set_num_threads(1)


@pytest.fixture(autouse=True, params=["reference", "chunked"])
def _backend(request, monkeypatch):
    """`auto` is each of the backends that compute in float64; the others are compared with them elsewhere."""
    monkeypatch.setattr(scan, "AUTO_ORDER", {"cpu": (request.param,)})


def inputs(batch=3, length=7, channels=5, states=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    u, delta, z = draw(batch, length, channels), draw(batch, length, channels), draw(batch, length, channels)
    a = -torch.exp(draw(channels, states))
    b, c = draw(batch, length, states), draw(batch, length, states)
    return {
        "u": u,
        "delta": delta,
        "A": a,
        "B": b,
        "C": c,
        "D": draw(channels),
        "z": z,
        "delta_bias": draw(channels),
    }


@pytest.mark.parametrize("length", [1, 16, 77])
def test_zero_a_turns_the_scan_into_a_running_sum(length):
    """With A = 0 nothing decays, so the answer is known without running the recurrence."""
    x = inputs(length=length)
    y = selective_scan(x["u"], x["delta"], torch.zeros_like(x["A"]), x["B"], x["C"])
    added = (x["delta"] * x["u"])[..., None] * x["B"][:, :, None]
    expected = (added.cumsum(1) * x["C"][:, :, None]).sum(-1)
    torch.testing.assert_close(y, expected)


def test_exact_hold_solves_the_differential_equation():
    """A constant input held for one step: h = (exp(dA) - 1) / A B u, against many tiny Euler steps."""
    a, delta = torch.tensor([[-1.7]], dtype=torch.float64), 0.9
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    y = selective_scan(one * 2.0, one * delta, a, one * 3.0, one, zoh=True)
    h, steps = 0.0, 200_000
    for _ in range(steps):
        h += delta / steps * (-1.7 * h + 3.0 * 2.0)
    assert y.item() == pytest.approx(h, rel=1e-5)


def test_padding_changes_nothing():
    x = inputs()
    lengths = torch.tensor([7, 3, 0])
    y, state = selective_scan(**x, delta_softplus=True, lengths=lengths, return_last_state=True)
    for row, length in enumerate(lengths.tolist()):
        alone = {k: v[row : row + 1, :length] if v.ndim == 3 else v for k, v in x.items()}
        if length:
            y_alone, state_alone = selective_scan(**alone, delta_softplus=True, return_last_state=True)
            torch.testing.assert_close(y[row : row + 1, :length], y_alone)
            torch.testing.assert_close(state[row : row + 1], state_alone)
        assert not y[row, length:].any()


def test_constant_b_and_c_stop_at_padding_too():
    x = inputs()
    x["B"], x["C"] = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    lengths = torch.tensor([7, 3, 0])
    for z in (x.pop("z"), None):
        y = selective_scan(**x, z=z, delta_softplus=True, lengths=lengths)
        assert not y[1, 3:].any()
        expected = y.sum(1) / lengths.clamp(min=1)[:, None]
        torch.testing.assert_close(
            pooled_selective_scan(**x, z=z, delta_softplus=True, lengths=lengths), expected
        )


def test_exact_hold_is_smooth_where_a_is_nothing():
    """At A = 0 the hold is delta B; nearby, value and gradient must neither break off nor blow up."""
    x = inputs(dtype=torch.float32)
    at_zero = selective_scan(x["u"], x["delta"], torch.zeros_like(x["A"]), x["B"], x["C"], zoh=True)
    torch.testing.assert_close(
        at_zero, selective_scan(x["u"], x["delta"], torch.zeros_like(x["A"]), x["B"], x["C"])
    )
    gradients = []
    for size in (0.0, 1e-10, 1e-4):
        a = torch.full_like(x["A"], -size).requires_grad_()
        selective_scan(x["u"], x["delta"], a, x["B"], x["C"], zoh=True).sum().backward()
        gradients.append(a.grad)
    torch.testing.assert_close(gradients[0], gradients[1])
    torch.testing.assert_close(gradients[0], gradients[2], rtol=1e-2, atol=1e-2)


def test_the_mean_counts_steps_exactly_in_low_precision():
    ones = torch.ones(1, 257, 1, dtype=torch.bfloat16)
    zero = torch.zeros(1, 1)
    pooled = pooled_selective_scan(
        ones, ones, zero, torch.zeros(1, 257, 1), torch.zeros(1, 257, 1), D=torch.ones(1)
    )
    assert pooled.item() == 1.0


def test_nan_in_padding_stays_out_of_the_result_and_of_every_gradient():
    x = {k: v.requires_grad_() for k, v in inputs().items()}
    with torch.no_grad():
        for name in ("u", "delta", "z", "B", "C"):
            x[name][1, 4:] = torch.nan
    lengths = torch.tensor([7, 4, 7])
    pooled = pooled_selective_scan(**x, delta_softplus=True, lengths=lengths)
    pooled.sum().backward()
    assert torch.isfinite(pooled).all()
    assert all(torch.isfinite(v.grad).all() for v in x.values())


def test_pooled_is_the_masked_mean():
    x = inputs()
    lengths = torch.tensor([7, 3, 0])
    y = selective_scan(**x, delta_softplus=True, lengths=lengths)
    expected = y.sum(1) / lengths.clamp(min=1)[:, None]
    torch.testing.assert_close(pooled_selective_scan(**x, delta_softplus=True, lengths=lengths), expected)


def test_two_halves_with_the_state_handed_over_equal_the_whole():
    x = inputs(length=9)
    whole, last = selective_scan(**x, delta_softplus=True, return_last_state=True)
    parts, state = [], None
    for span in (slice(0, 4), slice(4, 9)):
        part = {k: v[:, span] if v.ndim == 3 else v for k, v in x.items()}
        y, state = selective_scan(**part, delta_softplus=True, initial_state=state, return_last_state=True)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    torch.testing.assert_close(state, last)


@pytest.mark.parametrize("function", [selective_scan, pooled_selective_scan])
@pytest.mark.parametrize("zoh", [False, True])
def test_gradients_match_finite_differences(function, zoh):
    x = {k: v.requires_grad_() for k, v in inputs(batch=2, length=3, channels=2, states=2).items()}
    lengths = torch.tensor([3, 2])

    def run(*values):
        return function(**dict(zip(x, values, strict=True)), delta_softplus=True, lengths=lengths, zoh=zoh)

    assert torch.autograd.gradcheck(run, tuple(x.values()))


def test_bfloat16_inputs_keep_a_float32_state():
    x = {k: v.bfloat16() for k, v in inputs(length=40).items()}
    exact = selective_scan(**{k: v.double() for k, v in x.items()}, delta_softplus=True)
    y = selective_scan(**x, delta_softplus=True)
    assert y.dtype == torch.bfloat16
    assert (y.double() - exact).abs().max() / exact.abs().max() < 1e-2


@pytest.mark.shared
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_recorded_cases_of_the_original(shared, dtype):
    """40 cases of mamba-ssm's reference: outputs, last states, every gradient (in its layout, (B, D, L))."""
    folder = shared / "parity" / "mamba"
    cases = json.loads((folder / "selective_scan.json").read_text())["cases"]
    tensors = load_file(folder / "selective_scan.safetensors")
    # both well inside it; reordered sums may use 1e-4 in float32
    tolerance = 1e-9 if dtype == torch.float64 else 1e-5
    for case in cases:
        prefix = f"{case['id']}/in."
        raw = {k.removeprefix(prefix): v.to(dtype) for k, v in tensors.items() if k.startswith(prefix)}
        grad_out = raw.pop("grad_out").transpose(1, 2)
        x = {k: ours(k, v).clone().requires_grad_() for k, v in raw.items()}
        y, state = selective_scan(**x, delta_softplus=case["delta_softplus"], return_last_state=True)
        (y * grad_out).sum().backward()
        assert error(y.transpose(1, 2), tensors[f"{case['id']}/out64"]) < tolerance, case
        assert error(state, tensors[f"{case['id']}/last_state64"]) < tolerance, case
        for name, value in x.items():
            assert error(value.grad, ours(name, tensors[f"{case['id']}/grad64.{name}"])) < tolerance, (
                case,
                name,
            )
