"""benchmarks/mamba.py: a small run has every figure, and a scan that computes something else is refused."""

import json
import subprocess
import sys

import pytest
import torch

from helpers.benchmarks import BENCHMARKS, load


@pytest.fixture(scope="module")
def mamba():
    modeling = pytest.importorskip("transformers.models.mamba.modeling_mamba")
    if not hasattr(modeling, "mamba_selective_scan"):
        pytest.skip("this version of transformers has no mamba_selective_scan")
    return load("mamba")


def test_a_small_run_has_every_figure(mamba, tmp_path):
    out = tmp_path / "mamba.json"
    command = [sys.executable, BENCHMARKS / "mamba.py", "--quick", "--threads", "1", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found, last = json.loads(out.read_bytes()), json.loads(done.stdout.splitlines()[-1])
    assert found["conditions"]["quick"] is True
    ran = set(mamba.ways([]))  # what is not installed is not there
    for work in ("forward", "training"):
        its = found["lengths"]["8"][work]
        assert its.keys() == ran >= {"ours", "loop"}
        for one in its.values():
            assert one["fastest"] <= one["milliseconds"] <= one["slowest"]
            assert one["tokens_per_second"] == pytest.approx(8000 / one["milliseconds"], abs=0.1)
        best = min(one["milliseconds"] for way, one in its.items() if way != "ours")
        assert last[f"{work}_8"] == pytest.approx(best / its["ours"]["milliseconds"], abs=0.006)


@pytest.fixture
def model(mamba):
    torch.manual_seed(0)
    config = mamba.modeling_mamba.MambaConfig(vocab_size=11, hidden_size=8, state_size=3, num_hidden_layers=2)
    return mamba.modeling_mamba.MambaForCausalLM(config)


@pytest.mark.parametrize("work", ["forward", "training"])
def test_a_scan_that_computes_something_else_is_refused(mamba, model, work):
    """One that is off by a hundredth; the model has its own back afterwards."""
    words, own = torch.randint(11, (2, 5)), mamba.modeling_mamba.mamba_selective_scan
    off = lambda u, *rest, **keys: mamba.selective_scan_fn(1.01 * u, *rest, **keys)
    same = mamba.Same("5 tokens")
    found = mamba.call(model, words, mamba.selective_scan_fn, work)
    assert len(found) == (1 + len(list(model.parameters())) if work == "training" else 1)
    same("ours", found)
    same("loop", mamba.call(model, words, mamba.ways([])["loop"], work))
    with pytest.raises(SystemExit, match=r"off, 5 tokens: .* differs from ours by"):
        same("off", mamba.call(model, words, off, work))
    assert mamba.modeling_mamba.mamba_selective_scan is own


def test_gradients_are_compared_too(mamba):
    same = mamba.Same("x")
    same("ours", {"logits": torch.ones(3), "weight": torch.ones(4)})
    with pytest.raises(SystemExit, match="weight differs"):
        same("other", {"logits": torch.ones(3), "weight": torch.tensor([1.0, 1.0, 1.0, 1.01])})
    with pytest.raises(SystemExit, match="logits differs"):
        same("other", {"logits": torch.tensor([1.0, 1.0, float("nan")]), "weight": torch.ones(4)})


def test_what_does_not_fit_and_what_grows_with_the_square_is_left_out(mamba, model, monkeypatch):
    """2 texts of 200 tokens, 16 channels, 3 states of 4 bytes: 76.8 kB a tensor of states. 20 are there while
    two layers keep 6 each, 8 without gradients.
    """
    words, config = torch.zeros(2, 200), model.config
    assert "L squared" in mamba.left_out("loop", "training", words, config)
    assert mamba.left_out("loop", "training", words[:, :128], config) is None
    cases = ((1700, "training", False), (1710, "training", True), (690, "forward", True))
    for kilobytes, work, fits in cases:
        monkeypatch.setattr(mamba, "free_gigabytes", lambda found=kilobytes / 1e6: found)
        assert (mamba.left_out("mambapy", work, words, config) is None) is fits
        assert mamba.left_out("ours", work, words, config) is None
    monkeypatch.setattr(mamba, "free_gigabytes", lambda: 0.0)
    assert "needs about" in mamba.left_out("mambapy", "forward", words, config)


def test_what_takes_long_takes_fewer_turns(mamba):
    assert [mamba.often(seconds, 3) for seconds in (1.0, 6.0, 30.0)] == [3, 2, 1]
    assert mamba.often(6.0, 1) == 1
