"""Sweeps: every point once, each checked before any runs."""

import json

import pytest

from mambavl.configs import check
from mambavl.configs.errors import UsageError
from mambavl.fuse.recipe import Recipe
from mambavl.fuse.sweep import expand, sweep
from mambavl.fuse.train import train
from tiny import tiny_recipe


def test_a_sweep_runs_every_point_once(stores, tmp_path):
    data = tiny_recipe(stores).model_dump(mode="json", exclude_none=True)
    data["grid"] = {"train": {"lr": [1e-2, 1e-3]}, "fusion": {"share": ["A", "none"]}}
    points = expand(data, tmp_path, "tiny.toml")
    assert [point.name for point in points][:2] == ["train.lr=0.01,fusion.share=A", "train.lr=0.01,fusion.share=none"]
    changes = []
    done = sweep(points, tmp_path, on_change=lambda now: changes.append([p.state for p in now]))
    assert {point.state for point in done} == {"done"}
    scores = [point.result["metrics"]["all_action_top1"] for point in done]
    assert scores == sorted(scores, reverse=True)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [line["values"] for line in summary] == [point.values for point in done]
    again = sweep(expand(data, tmp_path, "tiny.toml"), tmp_path)
    assert {point.state for point in again} == {"skipped"}
    assert [point.result for point in again] == [point.result for point in done]
    assert changes[0][1] == "waiting"


def test_one_diverging_point_does_not_stop_the_others(stores, tmp_path):
    data = tiny_recipe(stores, clip_norm=0, warmup_epochs=0).model_dump(mode="json", exclude_none=True)
    data["grid"] = {"train": {"lr": [1e30, 1e-2]}}
    points = sweep(expand(data, tmp_path, "tiny.toml"), tmp_path)
    assert [point.state for point in points] == ["done", "failed"]
    assert "diverged" in points[1].error


def test_a_grid_is_checked_before_anything_runs(stores, tmp_path):
    data = tiny_recipe(stores).model_dump(mode="json", exclude_none=True)
    with pytest.raises(UsageError, match=r"has no \[grid\]"):
        expand(data, tmp_path, "tiny.toml")
    for grid, said in (
        ({"train": {"lrr": [1]}}, "did you mean `lr`"),
        ({"train": {"lr": 1}}, "must be a list"),
        ({"train": {"lr": []}}, "list"),
    ):
        with pytest.raises(UsageError, match=said):
            expand({**data, "grid": grid}, tmp_path, "tiny.toml")
    with pytest.raises(UsageError, match="mambavl sweep"):
        train(check({**data, "grid": {"train": {"lr": [1]}}}, Recipe, "tiny.toml"), tmp_path / "run")
