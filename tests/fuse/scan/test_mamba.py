"""mamba-ssm's scan behind our signature: through a stand-in where it is not installed, and the real one."""

import sys
import types

import pytest
import torch

from helpers.scan import assert_close, draw, run
from mambavl.configs.errors import UsageError
from mambavl.fuse import scan
from mambavl.fuse.scan import mamba, selective_scan


@pytest.fixture
def stand_in(monkeypatch):
    """mamba-ssm's function, of its layout and rules, computed by the reference."""

    def selective_scan_fn(
        u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False
    ):
        assert A.dtype == torch.float32
        assert all(x is None or x.stride(-1) == 1 for x in (u, delta, z))
        assert len({x.dtype for x in (u, delta, z) if x is not None}) == 1
        assert u.shape[1] == A.shape[0]
        assert u.shape[0]
        assert u.shape[2]
        groups = B.shape[1] if B.ndim == 4 else 1
        assert C.ndim == 2 or (C.shape[1] if C.ndim == 4 else 1) == groups
        turn = lambda x: None if x is None else x.movedim(-1, 1) if x.ndim > 2 else x
        y, last = selective_scan(
            turn(u), turn(delta), A, turn(B), turn(C), D, turn(z), delta_bias, delta_softplus,
            return_last_state=True, backend="reference",
        )  # fmt: skip
        return y.transpose(1, 2), last

    module = types.ModuleType("mamba_ssm.ops.selective_scan_interface")
    module.selective_scan_fn = selective_scan_fn
    monkeypatch.setitem(sys.modules, "mamba_ssm", types.ModuleType("mamba_ssm"))
    monkeypatch.setitem(sys.modules, "mamba_ssm.ops", types.ModuleType("mamba_ssm.ops"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(mamba, "unavailable", lambda: None)
    monkeypatch.setattr(mamba, "refuses", lambda device, dtype: None)
    mamba._import.cache_clear()
    yield
    mamba._import.cache_clear()


@pytest.mark.parametrize("coefficients", ["step", "groups", "constant"])
@pytest.mark.parametrize("softplus", [True, False])
@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize("ragged", [True, False])
def test_mamba_ssm_behind_our_signature(stand_in, coefficients, softplus, pooled, ragged):
    x = draw(length=6, coefficients=coefficients, without=("initial_state",))
    lengths = torch.tensor([6, 0, 4]) if ragged else None
    if not softplus:
        x["delta"], x["delta_bias"] = x["delta"].abs(), x["delta_bias"].abs()
    if ragged:
        x["u"][1], x["z"][2, 4:], x["delta"][2, 4:] = torch.nan, torch.nan, torch.nan
    options = {"pooled": True, "lengths": lengths, "softplus": softplus}
    found = run(x, "mamba", **options) if pooled else scanned(x, "mamba", softplus, lengths)
    expected = (
        run(x, "reference", torch.float64, **options)
        if pooled
        else scanned(x, "reference", softplus, lengths)
    )
    assert_close(found, expected)


def test_groups_of_b_and_c_and_empty_batches_reach_mamba_ssm_as_it_wants_them(stand_in):
    x = draw(length=6, coefficients="groups", without=("initial_state",))
    x["B"] = x["B"][:, :, 0]  # one group, C has three
    assert_close(scanned(x, "mamba", True, None), scanned(x, "reference", True, None))
    with pytest.raises(UsageError, match="knows no constant B with groups of C"):
        selective_scan(**{**x, "B": torch.zeros(21, 16)}, backend="mamba")
    for batch, length in ((0, 5), (3, 0)):
        x = draw(batch=batch, length=length, without=("initial_state",))
        assert selective_scan(**x, backend="mamba").shape == (batch, length, 21)


def scanned(x, backend, softplus, lengths):
    """Outputs, last states, and the gradients of the outputs alone: mamba-ssm passes none through the last
    state.
    """
    x = {k: None if v is None else v.clone().requires_grad_() for k, v in x.items()}
    y, last = selective_scan(
        **x, delta_softplus=softplus, lengths=lengths, return_last_state=True, backend=backend
    )
    present = {k: v for k, v in x.items() if v is not None}
    gradients = torch.autograd.grad(y.sin().sum(), list(present.values()))
    return {
        "y": y.detach(),
        "last": last.detach(),
        **{f"d{k}": g for k, g in zip(present, gradients, strict=True)},
    }


def test_what_mamba_ssm_cannot_do_is_refused_by_name(stand_in):
    with pytest.raises(UsageError, match='scan backend "mamba" knows no initial_state'):
        selective_scan(**draw(), backend="mamba")
    x = draw(without=("initial_state",))
    with pytest.raises(UsageError, match='scan backend "mamba" knows no zoh'):
        selective_scan(**x, zoh=True, backend="mamba")
    x["u"].requires_grad_()
    _, last = selective_scan(**x, return_last_state=True, backend="mamba")
    with pytest.raises(RuntimeError, match="no gradient through the last state"):
        last.sum().backward()


def test_mamba_ssm_missing_or_broken_is_said_in_its_own_words(monkeypatch):
    assert "mamba_ssm" not in sys.modules
    found = scan.available_backends()["mamba"]
    assert "not installed" in found or "GPU" in found or found == "ok"
    monkeypatch.setattr(mamba.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    def broken(name):
        raise ImportError("selective_scan_cuda.so: undefined symbol")

    monkeypatch.setattr(mamba.importlib, "import_module", broken)
    mamba._import.cache_clear()
    assert scan.available_backends()["mamba"] == (
        "mamba-ssm is installed but its scan cannot be loaded "
        "(ImportError: selective_scan_cuda.so: undefined symbol)"
    )
    mamba._import.cache_clear()


@pytest.mark.cuda
@pytest.mark.skipif(bool(mamba.unavailable()), reason=f"mamba: {mamba.unavailable()}")
@pytest.mark.parametrize("coefficients", ["step", "groups", "constant"])
def test_the_real_mamba_ssm_gives_the_reference(coefficients):
    x = {
        k: None if v is None else v.cuda()
        for k, v in draw(coefficients=coefficients, without=("initial_state",)).items()
    }
    lengths = torch.tensor([16, 0, 9], device="cuda")
    assert_close(scanned(x, "mamba", True, lengths), scanned(x, "reference", True, lengths))
