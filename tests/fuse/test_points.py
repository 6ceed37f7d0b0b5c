"""The points of a grid: a folder each, the same rows for all of them where the sweep is to choose."""

from helpers.sweeps import grid_of
from mambavl.configs import dump
from mambavl.fuse.points import find_folders, folder_name
from mambavl.fuse.run import RECIPE


def test_points_of_a_sweep_that_chooses_hold_the_rows_out_and_say_nothing_else(stores, tmp_path):
    grid = {"train": {"lr": [1e-3, 1e-2]}}
    without = grid_of(stores, tmp_path, grid)
    points = grid_of(stores, tmp_path, grid, top={"select_on": "0/5", "data": {"hold_out_by": "video"}})
    assert [point.name for point in points] == [point.name for point in without]
    for point in points:
        assert (point.recipe.data.hold_out, point.recipe.data.hold_out_by) == ("0/5", "video")
        assert point.recipe.select_on is None


def test_a_name_that_makes_no_folder_gets_a_digest():
    assert folder_name("train.lr=0.1", {"train.lr": 0.1}) == "train.lr=0.1"
    one, other = (folder_name("title=a/b", {"title": title}) for title in ("a/b", "a_b"))
    assert one != other
    assert "/" not in one
    assert len(folder_name("x" * 300, {})) < 120


def test_a_point_without_a_run_is_found_where_it_will_be(stores, tmp_path):
    points = grid_of(stores, tmp_path, {"train": {"lr": [1e-3, 1e-2]}})
    assert [run for run, _ in find_folders(points, tmp_path)] == [point.run for point in points]


def test_of_two_titles_one_is_not_taken_for_the_other(stores, tmp_path):
    """Their weights are the same, but whoever lists both wants both."""
    points = grid_of(stores, tmp_path, {"title": ["a", "b"]})
    points[0].run.mkdir()
    (points[0].run / RECIPE).write_text(dump(points[0].recipe))
    assert find_folders(points, tmp_path) == [(point.run, point.recipe) for point in points]
