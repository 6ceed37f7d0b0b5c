"""Triton's launches: when they are trusted, why they are not here, steps beyond a chunk."""

import pytest
import torch

from helpers.scan import assert_close, draw, marked, run
from mambavl.configs.errors import UsageError
from mambavl.fuse import scan
from mambavl.fuse.fusion import FusionConfig, SSMFusion
from mambavl.fuse.head import StreamShape
from mambavl.fuse.scan import pick, triton
from mambavl.fuse.scan.inputs import ScanInputs


@pytest.mark.skipif(bool(triton.unavailable()), reason=str(triton.unavailable()))
def test_a_gpu_that_computes_something_else_is_not_taken(monkeypatch):
    """The small case that is computed before Triton is trusted, with its right result, a wrong one, and a
    compiler that fails.
    """
    check = triton._wrong
    here = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    forward, backward, computed = triton.forward, triton.backward, {}
    keep = lambda name, function: lambda *a: computed.setdefault(name, function(*a))
    monkeypatch.setattr(triton, "forward", keep("forward", forward))
    monkeypatch.setattr(triton, "backward", keep("backward", backward))
    with torch.device("meta"):  # whatever the caller's mode is
        assert triton._checked.__wrapped__(here) is None
    # the small case again, from what was computed: it takes its time where Triton is interpreted
    off = [(y.cpu() * 1.01, last.cpu(), c.cpu()) for y, last, c in computed["forward"]]
    da, gradients = computed["backward"]
    gradients = [ScanInputs._make(None if x is None else x.cpu() for x in s) for s in gradients]
    monkeypatch.setattr(triton, "forward", lambda *a: off)
    monkeypatch.setattr(triton, "backward", lambda *a: (da.cpu(), gradients))
    assert "off by 1.0e-02" in check(torch.device("cpu"))
    monkeypatch.setattr(triton, "forward", lambda *a: 1 / 0)
    assert check(torch.device("cpu")) == "Triton failed on cpu: ZeroDivisionError: division by zero"


def test_triton_says_why_it_is_not_here(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(triton.importlib.util, "find_spec", lambda name: None)
    assert "not installed" in triton.unavailable()
    monkeypatch.setattr(triton.importlib.util, "find_spec", lambda name: object())
    assert triton.unavailable() == "there is no GPU"
    with pytest.raises(UsageError, match='scan backend "triton" was asked for, but there is no GPU'):
        pick("triton")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(triton, "_checked", lambda device: "it is off")
    assert scan.available_backends()["triton"] == "it is off"
    assert pick("auto", "cuda") == "chunked"
    monkeypatch.setattr(triton, "_checked", lambda device: None)
    assert pick("auto", "cuda") == "triton"
    assert (
        SSMFusion(FusionConfig(streams={"video": StreamShape(width=4)}, d_model=4, scan="triton")).config.scan
        == "triton"
    )


@pytest.mark.parametrize("backend", [marked("triton")])
def test_steps_beyond_a_chunk_and_channels_beyond_a_block_give_the_reference(backend):
    """35 steps are a chunk of 32 and three more, 40 channels a block of 32 and eight more."""
    x = draw(batch=1, length=35, channels=40, states=3)
    assert_close(run(x, backend), run(x, "reference", torch.float64))
