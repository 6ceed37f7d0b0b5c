"""Runs of what was chosen: named after it, apart from those of earlier choices."""

from helpers.tiny import tiny_recipe
from mambavl.fuse.chosen import final, others
from mambavl.fuse.points import Point


def point(stores, out, name="train.lr=0.01", **values):
    recipe = tiny_recipe(stores)
    held_out = recipe.model_copy(update={"data": recipe.data.model_copy(update={"hold_out": "0/2"})})
    return Point(name, values or {"train.lr": 0.01}, held_out, out / "of-another-name")


def test_it_is_the_point_on_all_rows_in_a_folder_named_after_it(stores, tmp_path):
    before = point(stores, tmp_path)
    run = final(before)
    assert run.run == tmp_path / "chosen,train.lr=0.01"
    assert run.recipe.data.hold_out is None
    assert before.recipe.data.hold_out == "0/2"
    assert run.recipe.train == before.recipe.train
    assert (run.values, run.trial, run.result) == (before.values, None, None)


def test_finished_runs_of_other_choices_are_found(stores, tmp_path):
    chosen = final(point(stores, tmp_path))
    for name, is_finished in (("chosen,a", True), ("chosen,b", False), (chosen.run.name, True), ("a", True)):
        (tmp_path / name).mkdir()
        if is_finished:
            (tmp_path / name / "result.json").touch()
    assert others(tmp_path, [chosen]) == [tmp_path / "chosen,a"]
