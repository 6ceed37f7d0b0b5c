"""Weights: named by their numbers, and never run."""

import pickle

import pytest
import torch
from safetensors.torch import save_file

from mambavl.configs.errors import UsageError
from mambavl.extract.encoders.weights import is_sha256, load_weights, weights_sha256


def test_weights_are_named_by_their_numbers_not_by_their_file(tmp_path):
    module = torch.nn.Linear(3, 2)
    save_file(module.state_dict(), tmp_path / "a.safetensors")
    torch.save(module.state_dict(), tmp_path / "a.pth")
    digests = set()
    for file in ("a.safetensors", "a.pth"):
        other = torch.nn.Linear(3, 2)
        load_weights(other, tmp_path / file)
        digests.add(weights_sha256(other))
    assert digests == {weights_sha256(module)}
    with torch.no_grad():
        module.weight[0, 0] += 1e-3
    assert weights_sha256(module) not in digests


class Hostile:
    """A pickle that would create a file when it is loaded the ordinary way."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_weights_that_do_not_fit_or_would_run_code_are_refused(tmp_path):
    module = torch.nn.Linear(3, 2)
    canary = tmp_path / "canary"
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"weight": Hostile(canary)}, protocol=2))
    torch.save({"weight": Hostile(canary)}, tmp_path / "evil2.pth")
    save_file({"weight": torch.zeros(2, 4), "bias": torch.zeros(2)}, tmp_path / "shape.safetensors")
    save_file({"weight": torch.zeros(2, 3)}, tmp_path / "lacking.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "shape.safetensors").read_bytes()[:20])
    for name in ("evil.pth", "evil2.pth", "shape.safetensors", "lacking.safetensors", "cut.safetensors"):
        with pytest.raises(UsageError, match=name):
            load_weights(module, tmp_path / name)
    with pytest.raises(UsageError, match="no such weights file"):
        load_weights(module, tmp_path / "nothing.pth")
    assert not canary.exists()


def test_a_sha256_is_64_hex_digits():
    assert is_sha256(weights_sha256(torch.nn.Linear(3, 2)))
    assert not any(map(is_sha256, ("", "0" * 63, "0" * 65, "g" * 64, "A" * 64)))
