"""The demo's edges; the demo itself is run by CI in its quick form."""

import json
from types import SimpleNamespace

import pytest

from mambavl.configs.errors import DataError, UsageError
from mambavl.demo import run


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UsageError, match="is not empty and holds no demo"):
        run.run(tmp_path, quick=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_demo_of_another_size_is_refused(tmp_path):
    (tmp_path / "kitchen.json").write_text(json.dumps({"segments": run.SEGMENTS, "seed": 0}))
    with pytest.raises(UsageError, match="another size"):
        run.run(tmp_path, quick=True)


def test_every_row_of_the_table_is_a_valid_recipe(tmp_path):
    recipes = {row.title: run._recipe(tmp_path, row, 1) for row in run.ROWS}
    assert {recipe.head.name for recipe in recipes.values()} == {"mambavl", "mlp", "transformer"}
    assert recipes["MambaVL, oracle text, nothing shared"].fusion.share == "none"
    assert set(recipes["MambaVL, video only"].streams) == {"video"}
    assert "video" not in recipes["MambaVL, text only, oracle"].streams
    assert all(recipe.train.seed == 1 for recipe in recipes.values())


def test_the_demo_fails_when_it_does_not_reach_three_times_the_prior():
    def result(score):
        prior = {"all_verb_top1": 12.0, "all_noun_top1": 12.0}
        return SimpleNamespace(metrics={"all_verb_top1": 90.0, "all_noun_top1": score}, prior_metrics=prior)

    run._check([result(36.0), result(80.0)])
    with pytest.raises(DataError, match=r"noun top-1 35\.0 is below 3 times the prior's 12\.0"):
        run._check([result(35.0), result(80.0)])
