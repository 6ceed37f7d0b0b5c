"""Checkpoints: whole or not at all, the newest sound one wins."""

import os

import pytest
import torch

from helpers.forks import fork
from mambavl.cache import fsops
from mambavl.configs.errors import DataError
from mambavl.fuse.checkpoint import load_checkpoint, load_weights, save_checkpoint, save_weights


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
    loaded, again, state, average, complaints = load_checkpoint(tmp_path)
    assert average is None
    assert torch.equal(loaded["w"], model["w"])
    assert torch.equal(again["state"][0]["exp_avg"], torch.ones(3))
    assert (again["param_groups"], state["epoch"], complaints) == (optimizer["param_groups"], 3, [])
    for step, expected in ((3, 2), (2, None)):
        file = tmp_path / f"step-0000000{step}" / "model.safetensors"
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
        if expected:
            found = load_checkpoint(tmp_path)
            assert found.state["epoch"] == expected
            assert "step-00000003/model.safetensors: is damaged" in found.complaints[0]
        else:
            with pytest.raises(DataError, match="no checkpoint can be loaded"):
                load_checkpoint(tmp_path)


def test_averages_are_kept_beside_the_weights_and_checked_like_them(tmp_path):
    optimizer = {"state": {}, "param_groups": []}
    for step in (1, 2):
        average = {"w": torch.full((3,), float(step))}
        save_checkpoint(tmp_path, step, {"w": torch.zeros(3)}, optimizer, {}, average)
    assert load_checkpoint(tmp_path).average["w"].tolist() == [2.0] * 3
    assert load_checkpoint(tmp_path).model["w"].tolist() == [0.0] * 3
    file = tmp_path / "step-00000002" / "average.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    found = load_checkpoint(tmp_path)
    assert found.average["w"].tolist() == [1.0] * 3
    assert "average.safetensors: is damaged" in found.complaints[0]


def test_a_damaged_checkpoint_of_the_same_step_is_written_again(tmp_path):
    model, optimizer = {"w": torch.arange(3.0)}, {"state": {}, "param_groups": []}
    save_checkpoint(tmp_path, 1, model, optimizer, {"epoch": 1})
    file = tmp_path / "step-00000001" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    save_checkpoint(tmp_path, 1, model, optimizer, {"epoch": 1})
    found = load_checkpoint(tmp_path)
    assert torch.equal(found.model["w"], model["w"])
    assert found.complaints == []


def test_weights_are_read_back_and_a_missing_or_damaged_file_says_what_to_do(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(DataError, match=r"has not finished \(run `mambavl train` with the same --out\)"):
        load_weights(path)
    weights = {"w": torch.arange(6.0).view(2, 3).t(), "b": torch.zeros(2, dtype=torch.bfloat16)}
    save_weights(path, weights)
    found = load_weights(path)
    assert all(torch.equal(found[name], value) for name, value in weights.items())
    path.write_bytes(b"x" * 100)
    with pytest.raises(DataError, match=r"is damaged .*; train the run again"):
        load_weights(path)


def test_a_name_in_the_making_says_whose_it_is_and_a_dead_ones_is_swept(tmp_path, monkeypatch):
    """The folders of living processes, and of other hosts, are theirs."""
    left = {}
    child = fork(lambda: None)
    child.wait()
    for name, host, pid in (
        ("dead", fsops.HOST, child.pid),
        ("living", fsops.HOST, os.getppid()),
        ("far", "0" * 8, child.pid),
    ):
        left[name] = tmp_path / f"{fsops.TEMPORARY}{host}-{pid}-abcd-step-00000001"
        left[name].mkdir()
        (left[name] / "model.safetensors").write_bytes(b"x")
    made = []
    make_folder = fsops.make_folder
    monkeypatch.setattr(fsops, "make_folder", lambda path: made.append(path.name) or make_folder(path))
    model, optimizer = {"w": torch.zeros(2)}, {"state": {}, "param_groups": []}
    save_checkpoint(tmp_path, 2, model, optimizer, {"epoch": 1})
    assert made[0].startswith(f"{fsops.TEMPORARY}{fsops.HOST}-{os.getpid()}-")
    assert {name for name, path in left.items() if path.exists()} == {"living", "far"}
    assert load_checkpoint(tmp_path)[2]["epoch"] == 1
