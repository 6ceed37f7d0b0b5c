"""Sweeps: every point once, each checked before any runs."""

import json

import pytest

from helpers.tiny import tiny_recipe
from mambavl.configs import validate
from mambavl.configs.errors import UsageError
from mambavl.fuse.recipe import Recipe
from mambavl.fuse.sweep import expand, sweep
from mambavl.fuse.train import train


def test_a_sweep_runs_every_point_once(stores, tmp_path):
    data = tiny_recipe(stores).model_dump(mode="json", exclude_none=True)
    data["grid"] = {"train": {"lr": [1e-2, 1e-3]}, "fusion": {"share": ["A", "none"]}}
    points = expand(data, tmp_path, "tiny.toml")
    assert [point.name for point in points][:2] == [
        "train.lr=0.01,fusion.share=A",
        "train.lr=0.01,fusion.share=none",
    ]
    changes = []
    done = sweep(points, tmp_path, on_change=lambda now: changes.append([p.state for p in now]))
    assert {point.state for point in done} == {"done"}
    scores = [point.result.metrics["all_action_top1"] for point in done]
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
        train(validate({**data, "grid": {"train": {"lr": [1]}}}, Recipe, "tiny.toml"), tmp_path / "run")


def test_points_keep_apart_and_are_not_repeated(stores, tmp_path):
    data = tiny_recipe(stores).model_dump(mode="json", exclude_none=True)
    near = expand({**data, "grid": {"train": {"lr": [0.0012345678, 0.0012345679]}}}, tmp_path, "tiny.toml")
    assert len({point.run for point in near}) == 2
    titles = expand({**data, "grid": {"title": ["a/b", "a_b", "x" * 300, "x" * 301]}}, tmp_path, "tiny.toml")
    assert len({point.run for point in titles}) == 4
    assert all(point.run.parent == tmp_path and len(point.run.name) < 130 for point in titles)
    with pytest.raises(UsageError, match="is listed twice"):
        expand({**data, "grid": {"train": {"lr": [1e-3, 0.001]}}}, tmp_path, "tiny.toml")


def test_heads_are_built_before_anything_is_trained(stores, tmp_path):
    data = tiny_recipe(stores).model_dump(mode="json", exclude_none=True)
    points = expand(
        {**data, "grid": {"fusion": {"video_mlp_layers": [1, 0]}}}, tmp_path / "sweep", "tiny.toml"
    )
    with pytest.raises(UsageError, match="6 channels and d_model is 16"):
        sweep(points, tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


def test_a_grid_over_precision_and_over_streams(stores, tmp_path):
    data = tiny_recipe(stores, epochs=1).model_dump(mode="json", exclude_none=True)
    grid = {
        "train": {"precision": ["fp32", "bf16"]},
        "use_streams": [["video"], ["verb_question", "noun_question"]],
    }
    points = sweep(expand({**data, "grid": grid}, tmp_path, "tiny.toml"), tmp_path)
    assert {(point.result.training.precision, tuple(sorted(point.result.streams))) for point in points} == {
        (precision, streams)
        for precision in ("fp32", "bf16")
        for streams in (("video",), ("noun_question", "verb_question"))
    }
