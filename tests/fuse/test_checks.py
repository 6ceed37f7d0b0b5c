"""What a sweep is refused for, before anything is trained."""

import pytest

from helpers.sweeps import grid_of
from helpers.tiny import make_dense_store
from mambavl.configs.errors import DataError, UsageError
from mambavl.fuse.checks import check_finals, check_measure, check_points, fed_by
from mambavl.fuse.data import FeatureData
from mambavl.fuse.train import train


def opened(recipe):
    return FeatureData(recipe.sources, recipe.data)


def test_points_that_can_be_trained_pass(stores, tmp_path):
    points = grid_of(stores, tmp_path, {"train": {"lr": [1e-2, 1e-3]}})
    check_points(points, opened)
    check_finals(points)
    check_measure(points, tmp_path, opened)
    assert not any(tmp_path.iterdir())


def test_a_folder_of_another_recipe_or_of_something_else_is_refused(stores, tmp_path):
    [point] = grid_of(stores, tmp_path, {"train": {"lr": [1e-2]}}, epochs=1)
    train(point.recipe, point.run)
    [other] = grid_of(stores, tmp_path, {"train": {"lr": [1e-2]}}, epochs=2)
    for check in (lambda: check_points([other], opened), lambda: check_finals([other])):
        with pytest.raises(UsageError, match=r"train\.epochs: 1 -> 2"):
            check()
    other.run = tmp_path / "mine"
    other.run.mkdir()
    (other.run / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not a run and not empty"):
        check_points([other], opened)


def test_a_head_that_cannot_be_built_is_refused_and_a_finished_run_without_stores_is_not(stores, tmp_path):
    points = grid_of(stores, tmp_path, {"head": {"video_mlp_layers": [1, 0]}})
    with pytest.raises(UsageError, match="6 channels and d_model is 16"):
        check_points(points, opened)
    make_dense_store(tmp_path / "own" / "video.zarr", 48)
    [point] = grid_of(tmp_path / "own", tmp_path / "runs", {"train": {"lr": [1e-2]}}, epochs=1)
    train(point.recipe, point.run)
    (tmp_path / "own" / "video.zarr").rename(tmp_path / "away.zarr")
    point.state = "skipped"
    check_points([point], opened)
    point.state = "waiting"
    with pytest.raises((UsageError, DataError)):
        check_points([point], opened)


def test_a_split_that_is_scored_in_the_end_must_be_there(stores, tmp_path):
    points = grid_of(stores, tmp_path, {"train": {"lr": [1e-2]}}, top={"data": {"eval_split": "tset"}})
    with pytest.raises(UsageError, match="no row of the stores belongs to split 'tset'"):
        check_finals(points)


def test_points_that_are_ranked_by_different_targets_are_not_compared(stores, tmp_path):
    points = grid_of(stores, tmp_path, {"use_targets": [["verb"], ["noun"]]})
    with pytest.raises(UsageError, match="compared by their last target, which is not the same for all"):
        check_measure(points, tmp_path, opened)


def test_recipes_are_fed_by_the_same_where_streams_and_rows_are(stores, tmp_path):
    grid = {"train": {"lr": [1e-2, 1e-3]}, "data": {"hold_out": ["0/2", "1/2"]}}
    points = grid_of(stores, tmp_path, grid)
    assert len(points) == 4
    assert len({fed_by(point.recipe) for point in points}) == 2
