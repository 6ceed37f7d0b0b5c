"""Inputs of the scan and comparisons of its results."""

import pytest
import torch

from mambavl.fuse.scan import BACKENDS, pooled_selective_scan, selective_scan


def ours(name: str, value: torch.Tensor) -> torch.Tensor:
    """(B, D, L) -> (B, L, D); (B, N, L) -> (B, L, N); (B, G, N, L) -> (B, L, G, N); constants as they are."""
    return (
        value.movedim(-1, 1)
        if name in ("u", "delta", "z") or (name in ("B", "C") and value.ndim > 2)
        else value
    )


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a.double() - b.double()).abs().max() / b.double().abs().max().clamp(min=1e-30)).item()


# Triton's kernels are run step by step then, by conftest's TRITON_INTERPRET
INTERPRETED = not torch.cuda.is_available()


def marked(backend, *more, length=0):
    """A parameter set; skipped where the backend is not here, and long where Triton is interpreted."""
    reason = BACKENDS[backend].unavailable()
    marks = [pytest.mark.skipif(bool(reason), reason=f"{backend}: {reason}")]
    if backend == "triton" and INTERPRETED and length > 64:
        marks.append(pytest.mark.soak)
    return pytest.param(backend, *more, marks=marks)


def is_interpreted(backend):
    return backend == "triton" and INTERPRETED


def short(backend, length):
    """Fewer steps where Triton is interpreted; with `short_chunks` they still cross a border of chunks."""
    return min(length, 5) if is_interpreted(backend) else length


def put(x, backend):
    """The inputs where the backend computes."""
    device = "cuda" if backend == "triton" and not INTERPRETED else "cpu"
    return {k: None if v is None else v.to(device) for k, v in x.items()}


def draw(batch=3, length=16, channels=21, states=16, *, coefficients="step", groups=3, without=(), seed=0):
    """Inputs of a scan in float32, those named in `without` left out. coefficients: step, groups, constant,
    mixed.
    """
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g)

    forms = {
        "step": (batch, length, states),
        "groups": (batch, length, groups, states),
        "constant": (channels, states),
    }
    b, c = (coefficients, coefficients) if coefficients != "mixed" else ("constant", "step")
    x = {
        "u": normal(batch, length, channels),
        "delta": normal(batch, length, channels),
        "A": -torch.exp(normal(channels, states)),
        "B": normal(*forms[b]),
        "C": normal(*forms[c]),
        "D": normal(channels),
        "z": normal(batch, length, channels),
        "delta_bias": normal(channels),
        "initial_state": normal(batch, channels, states),
    }
    return {name: None if name in without else value for name, value in x.items()}


def run(x, backend, dtype=None, *, pooled=False, lengths=None, softplus=True, zoh=False):
    """(y, last state) and the gradients of a weighted sum of both, by name, in float64."""
    x = {
        k: None if v is None else v.detach().to(dtype or v.dtype).requires_grad_()
        for k, v in put(x, backend).items()
    }
    lengths = None if lengths is None else lengths.to(x["u"].device)
    options = {"delta_softplus": softplus, "lengths": lengths, "zoh": zoh, "backend": backend}
    if pooled:
        found = [pooled_selective_scan(**x, **options)]
    else:
        found = [*selective_scan(**x, **options, return_last_state=True)]
    weights = [
        torch.linspace(-1, 1, max(out.numel(), 1), dtype=torch.float32)[: out.numel()]
        .sin()
        .view(out.shape)
        .to(out)
        for out in found
    ]
    present = {k: v for k, v in x.items() if v is not None}
    total = sum((out * weight).sum() for out, weight in zip(found, weights, strict=True))
    gradients = torch.autograd.grad(total, list(present.values()), allow_unused=True)
    found += [
        torch.zeros_like(v) if g is None else g for v, g in zip(present.values(), gradients, strict=True)
    ]
    names = ["y", *([] if pooled else ["last"]), *(f"d{name}" for name in present)]
    return dict(zip(names, (out.detach().double().cpu() for out in found), strict=True))


def assert_close(found, expected, forward=1e-5, backward=1e-4):
    for name, value in expected.items():
        assert found[name].shape == value.shape
        worst = error(found[name], value)
        assert worst < (backward if name.startswith("d") else forward), f"{name}: {worst:.1e}"
