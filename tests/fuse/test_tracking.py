"""Trackers by name: told what curves.jsonl has, refused where they are not there, no reason to lose a run."""

import json
import os
import sys
import types

import pytest
import torch
from accelerate import tracking
from accelerate.utils import LoggerType

from helpers.group import start_group, wait_for_group
from helpers.sweeps import grid_of
from helpers.tiny import tiny_recipe, weights
from mambavl.configs import validate
from mambavl.configs.errors import DataError, Interrupted, UsageError
from mambavl.fuse.processes import Processes
from mambavl.fuse.recipe import Recipe
from mambavl.fuse.run import read_curves
from mambavl.fuse.sweep import sweep
from mambavl.fuse.tracking import refuse_missing
from mambavl.fuse.train import train


class SummaryWriter:
    """What Accelerate asks of tensorboardX, written as lines of JSON."""

    def __init__(self, folder):
        self.path = f"{folder}/said.jsonl"
        os.makedirs(folder, exist_ok=True)

    def _say(self, *what):
        with open(self.path, "a") as file:
            file.write(json.dumps(what) + "\n")

    def add_hparams(self, values, metric_dict):
        self._say("recipe", values)

    def add_scalar(self, key, value, global_step):
        self._say(key, value, global_step)

    def flush(self):
        pass

    def close(self):
        self._say("closed")


@pytest.fixture
def tensorboard(monkeypatch):
    """A stand-in for it is installed."""
    module = types.ModuleType("tensorboardX")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setitem(sys.modules, "tensorboardX", module)
    monkeypatch.setattr(tracking, "_available_trackers", [LoggerType.TENSORBOARD])
    return module


def recipe_of(stores, **train_keys):
    return tiny_recipe(stores, text=False, epochs=3, trackers=["tensorboard"], **train_keys)


def said(run):
    return [json.loads(line) for line in (run / "trackers/mambavl/said.jsonl").read_text().splitlines()]


def test_a_tracker_is_told_the_recipe_and_every_line(stores, tmp_path, tensorboard):
    run = tmp_path / "run"
    recipe = recipe_of(stores)
    train(recipe, run)
    (_, keys), *lines, end = said(run)
    assert end == ["closed"]
    assert (keys["train.lr"], keys["head.name"], keys["train.decay_all"]) == (0.01, "mambavl", False)
    assert keys["train.trackers"] == '["tensorboard"]'
    expected = [
        [key, value, line["epoch"]]
        for line in read_curves(run)
        for key, value in line.items()
        if key != "epoch"
    ]
    assert lines == expected
    assert len({key for key, *_ in lines}) >= 6


def test_who_is_told_changes_no_weight(stores, tmp_path, tensorboard):
    train(recipe_of(stores), tmp_path / "one")
    train(tiny_recipe(stores, text=False, epochs=3), tmp_path / "other")
    one, other = weights(tmp_path / "one"), weights(tmp_path / "other")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not (tmp_path / "other" / "trackers").exists()


def test_a_tracker_that_is_not_installed_is_refused_before_the_first_update(stores, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "_available_trackers", [LoggerType.WANDB])
    with pytest.raises(UsageError, match=r"names tensorboard, which is not .*`pip install tensorboard`"):
        train(recipe_of(stores), tmp_path / "run")
    assert not (tmp_path / "run" / "recipe.toml").exists()  # the folder is still free for another recipe
    refuse_missing(["wandb"])
    with pytest.raises(UsageError, match="`pip install aim mlflow`"):
        refuse_missing(["aim", "wandb", "mlflow"])


def test_a_sweep_refuses_it_before_its_first_point(stores, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "_available_trackers", [])
    points = grid_of(stores, tmp_path / "out", {"train": {"trackers": [[], ["wandb"]]}}, epochs=1)
    with pytest.raises(UsageError, match="`pip install wandb`"):
        sweep(points, tmp_path / "out")
    assert not list(tmp_path.glob("out/*/recipe.toml"))


def test_a_name_that_is_no_trackers_is_refused(stores):
    raw = recipe_of(stores).model_dump(mode="json", exclude_none=True)
    raw["train"]["trackers"] = ["tensorbored"]
    with pytest.raises(UsageError, match=r"train\.trackers"):
        validate(raw, Recipe, "r.toml")


def test_a_tracker_that_fails_costs_no_epoch(stores, tmp_path, tensorboard):
    """It stops the run after the checkpoint, and the run goes on without it to the same weights."""
    run, told = tmp_path / "run", []

    def fail(self, key, value, global_step):
        told.append(global_step)
        if global_step == 2:
            raise ConnectionError("nobody answers")

    tensorboard.SummaryWriter = type("Failing", (SummaryWriter,), {"add_scalar": fail})
    with pytest.raises(DataError, match=r"train\.trackers failed: ConnectionError: nobody answers"):
        train(recipe_of(stores), run)
    assert told[-1] == 2
    assert said(run)[-1] == ["closed"]
    updates = []
    recipe = tiny_recipe(stores, text=False, epochs=3)
    train(recipe, run, should_stop=lambda: updates.append(1))
    assert len(updates) == 3  # those of the third epoch
    train(recipe, tmp_path / "other")
    one, other = weights(run), weights(tmp_path / "other")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_interrupted_run_ends_its_trackers_and_begins_them_again(stores, tmp_path, tensorboard):
    calls, run = iter(range(100)), tmp_path / "run"
    with pytest.raises(Interrupted):
        train(recipe_of(stores), run, should_stop=lambda: next(calls) >= 4)
    train(recipe_of(stores), run)
    kinds = [line[0] for line in said(run)]
    assert [kind for kind in kinds if kind in ("recipe", "closed")] == ["recipe", "closed"] * 2
    assert [step for key, *rest in said(run) if key == "loss" for step in rest[1:]] == [1, 2, 3]


def test_of_several_processes_the_first_tells(stores, tmp_path, tensorboard):
    def member():
        train(recipe_of(stores), tmp_path / "run")
        assert Processes().any(True)  # the group is still there

    codes = wait_for_group(start_group(member, tmp_path))
    assert codes == [0, 0], "".join(path.read_text() for path in sorted(tmp_path.glob("rank-*.log")))
    assert [step for key, *rest in said(tmp_path / "run") if key == "loss" for step in rest[1:]] == [1, 2, 3]
