"""A recipe and the head that it stands for."""

import pytest
import torch

from helpers.tiny import tiny_recipe
from mambavl.configs import validate
from mambavl.configs.errors import UsageError
from mambavl.fuse.head import StreamShape
from mambavl.fuse.recipe import HEADS, Recipe, make_head

STREAMS = {name: StreamShape(width=6) for name in ("video", "verb_question", "noun_question")}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_is_built_for_the_streams_and_classes_of_the_stores(stores, name):
    head = make_head(tiny_recipe(stores, head=name), STREAMS, 3, 4)
    assert isinstance(head, HEADS[name][1])
    assert head.config.streams.keys() == STREAMS.keys()
    assert (head.verb_head.out_features, head.noun_head.out_features) == (3, 4)
    assert head.config.d_model == 16  # of the recipe's own section


@pytest.mark.parametrize("name", HEADS)
def test_the_seed_decides_the_weights(stores, name):
    same = [make_head(tiny_recipe(stores, head=name, seed=7), STREAMS, 3, 4).state_dict() for _ in range(2)]
    other = make_head(tiny_recipe(stores, head=name, seed=8), STREAMS, 3, 4).state_dict()
    assert all(torch.equal(same[0][key], same[1][key]) for key in other)
    assert any(not torch.equal(same[0][key], other[key]) for key in other)


def test_other_class_counts_than_the_stores_have_are_refused(stores):
    raw = tiny_recipe(stores).model_dump(mode="json", exclude_none=True)
    recipe = validate({**raw, "fusion": {**raw["fusion"], "num_verbs": 97}}, Recipe, "r.toml")
    with pytest.raises(UsageError, match=r"\[fusion\] num_verbs = 97, but the stores have 3; leave it out"):
        make_head(recipe, STREAMS, 3, 4)


def test_a_misspelt_stream_is_refused_in_its_recipe(stores):
    raw = tiny_recipe(stores).model_dump(mode="json", exclude_none=True)
    raw["streams"]["verb_qestion"] = raw["streams"].pop("verb_question")
    with pytest.raises(UsageError, match="did you mean `verb_question`"):
        validate(raw, Recipe, "r.toml")


def test_a_resolved_recipe_is_read_back_as_it_was(stores):
    recipe = tiny_recipe(stores)
    assert validate(recipe.model_dump(mode="json", exclude_none=True), Recipe, "r.toml") == recipe
