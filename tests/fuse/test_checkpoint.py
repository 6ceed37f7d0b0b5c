"""Checkpoints: whole or not at all, the newest sound one wins."""

import pytest
import torch

from mambavl.configs.errors import DataError
from mambavl.fuse.checkpoint import load_checkpoint, save_checkpoint


def test_a_damaged_checkpoint_is_passed_over_and_none_left_is_an_error(tmp_path):
    model = {"w": torch.arange(3.0)}
    optimizer = {
        "state": {0: {"step": torch.tensor(2.0), "exp_avg": torch.ones(3)}},
        "param_groups": [{"lr": 0.1, "params": [0]}],
    }
    assert load_checkpoint(tmp_path) is None
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, model, optimizer, {"epoch": step})
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == ["step-00000002", "step-00000003"]  # one older one stays until the next is safe
    save_checkpoint(tmp_path, 3, model, optimizer, {"epoch": 3})  # again: what is there and sound stays
    loaded, again, state, complaints = load_checkpoint(tmp_path)
    assert torch.equal(loaded["w"], model["w"])
    assert torch.equal(again["state"][0]["exp_avg"], torch.ones(3))
    assert (again["param_groups"], state["epoch"], complaints) == (optimizer["param_groups"], 3, [])
    for step, expected in ((3, 2), (2, None)):
        file = tmp_path / f"step-0000000{step}" / "model.safetensors"
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
        if expected:
            _, _, state, complaints = load_checkpoint(tmp_path)
            assert state["epoch"] == expected
            assert "step-00000003/model.safetensors: is damaged" in complaints[0]
        else:
            with pytest.raises(DataError, match="no checkpoint can be loaded"):
                load_checkpoint(tmp_path)
