"""Recipes as a reader can use them again."""

import json
import tomllib
from dataclasses import replace

from mambavl.configs import validate
from mambavl.fuse import report
from mambavl.fuse.fused_record import Fused
from mambavl.fuse.recipe import Recipe
from mambavl.fuse.report.provenance import recipe_text, result_text


def test_a_recipe_is_toml_that_train_reads(page):
    folder, _ = page
    [entry] = report.collect([folder / "fused0"])
    read = tomllib.loads(recipe_text(entry.first))
    assert read == entry.first.recipe
    assert validate(read, Recipe, "shown").head.name == "mambavl"


def test_recipes_of_a_mixture_are_json(page):
    folder, _ = page
    [entry] = report.collect([folder / "fused0"])
    mixed = replace(entry.first, fused=Fused(rule="mean", inputs=()), recipe={"runs": [{"title": "é"}]})
    assert json.loads(recipe_text(mixed)) == {"runs": [{"title": "é"}]}
    assert "é" in recipe_text(mixed)


def test_a_result_is_whole_but_for_its_recipe(page):
    folder, _ = page
    [entry] = report.collect([folder / "fused0"])
    whole = json.loads((folder / "fused0" / "result.json").read_text())
    del whole["recipe"]
    assert json.loads(result_text(entry.first)) == whole
