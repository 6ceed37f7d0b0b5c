"""A recipe and the head that it stands for."""

import copy
from pathlib import Path

import pytest
import torch

from helpers.tiny import CLASSES, tiny_recipe
from mambavl.configs import find_recipe, load, set_key, validate
from mambavl.configs.errors import UsageError
from mambavl.fuse.head import StreamShape
from mambavl.fuse.recipe import HEADS, Recipe, make_head, schedule_faults, what_decides
from mambavl.fuse.sweep import flatten
from mambavl.fuse.targets import TargetConfig, choose

STREAMS = {name: StreamShape(width=6) for name in ("video", "verb_question", "noun_question")}
TARGETS = choose(CLASSES, None, {}, {})


@pytest.mark.parametrize("name", HEADS)
def test_a_head_is_built_for_the_streams_and_classes_of_the_stores(stores, name):
    head = make_head(tiny_recipe(stores, head=name), STREAMS, TARGETS)
    assert isinstance(head, HEADS[name][1])
    assert head.config.streams.keys() == STREAMS.keys()
    assert (head.verb_head.out_features, head.noun_head.out_features) == (3, 4)
    assert head.config.d_model == 16  # of the recipe's own section


@pytest.mark.parametrize("name", HEADS)
def test_the_seed_decides_the_weights(stores, name):
    same = [
        make_head(tiny_recipe(stores, head=name, seed=7), STREAMS, TARGETS).state_dict() for _ in range(2)
    ]
    other = make_head(tiny_recipe(stores, head=name, seed=8), STREAMS, TARGETS).state_dict()
    assert all(torch.equal(same[0][key], same[1][key]) for key in other)
    assert any(not torch.equal(same[0][key], other[key]) for key in other)


def test_a_misspelt_stream_is_refused_in_its_recipe(stores):
    raw = tiny_recipe(stores).model_dump(mode="json", exclude_none=True)
    raw["streams"]["verb_qestion"] = raw["streams"].pop("verb_question")
    with pytest.raises(UsageError, match="did you mean `verb_question`"):
        validate(raw, Recipe, "r.toml")


def test_a_resolved_recipe_is_read_back_as_it_was(stores):
    recipe = tiny_recipe(stores)
    assert validate(recipe.model_dump(mode="json", exclude_none=True), Recipe, "r.toml") == recipe


@pytest.mark.parametrize(("key", "value"), [("data.require", ["vidoe"]), ("train.drop_streams.vidoe", 0.1)])
def test_a_stream_that_is_not_there_can_be_neither_required_nor_dropped(stores, key, value):
    raw = tiny_recipe(stores).model_dump(mode="json", exclude_none=True)
    set_key(raw, key, value)
    with pytest.raises(UsageError, match=r"names 'vidoe', which is not in \[streams\]; did you mean `video`"):
        validate(raw, Recipe, "r.toml")


@pytest.mark.parametrize("chance", [-0.1, 1.0])
def test_a_stream_is_dropped_with_a_probability_below_one(stores, chance):
    raw = tiny_recipe(stores).model_dump(mode="json", exclude_none=True)
    set_key(raw, "train.drop_streams.video", chance)
    with pytest.raises(UsageError, match=r"train\.drop_streams"):
        validate(raw, Recipe, "r.toml")


def test_a_stream_that_is_never_dropped_is_as_one_that_is_not_named(stores):
    raw = tiny_recipe(stores).model_dump(mode="json", exclude_none=True)
    plain = validate(raw, Recipe, "r.toml")
    set_key(raw, "train.drop_streams.video", 0.0)
    assert validate(raw, Recipe, "r.toml") == plain
    set_key(raw, "train.drop_streams.video", 0.1)
    assert what_decides(validate(raw, Recipe, "r.toml")) != what_decides(plain)


SCHEDULES = {  # what is set -> what is said
    (
        ("epochs", 2),
        ("warmup_epochs", 2),
    ): "warmup_epochs = 2 is not below epochs = 2.* train.warmup_epochs=1,",
    (
        ("epochs", 1),
        ("warmup_epochs", 1.5),
    ): "warmup_epochs = 1.5 is not below epochs = 1.*warmup_epochs=0.5,",
    (("lr_start", 0.02),): "lr_start = 0.02 is above the peak lr = 0.01; set train.lr_start to at most that",
    (("lr", 1e-6),): "lr_end = 1e-05 is above the peak lr = 1e-06; set train.lr_end to at most that",
}


@pytest.mark.parametrize(("sets", "said"), SCHEDULES.items())
def test_a_schedule_that_cannot_be_meant_is_refused_and_read_from_a_run(stores, sets, said):
    raw = tiny_recipe(stores).model_dump(mode="json", exclude_none=True)
    raw["train"] |= dict(sets)
    with pytest.raises(UsageError, match=rf"^r\.toml: \[train\] {said}"):
        validate(raw, Recipe, "r.toml")
    recorded = validate(raw, Recipe, "r.toml", recorded=True)
    assert recorded.train.epochs == raw["train"]["epochs"]


def test_all_faults_of_a_schedule_are_said_at_once(stores):
    with pytest.raises(UsageError, match=r"warmup_epochs = 9.*; lr_start = 2 .*; lr_end = 3 "):
        tiny_recipe(stores, warmup_epochs=9, lr_start=2, lr_end=3)


def test_the_bounds_of_a_schedule_belong_to_it(stores):
    """No warm-up; a constant rate; a warm-up of all but the last of the updates."""
    tiny_recipe(stores, epochs=1, warmup_epochs=0)
    tiny_recipe(stores, lr=1e-2, lr_start=1e-2, lr_end=1e-2)
    tiny_recipe(stores, epochs=4, warmup_epochs=3.99)


def test_two_epochs_of_the_default_recipe_are_told_what_to_set():
    with pytest.raises(UsageError, match=r"set train\.warmup_epochs=1,"):
        load("fuse/default", Recipe, ["train.epochs=2"])
    load("fuse/default", Recipe, ["train.epochs=2", "train.warmup_epochs=1"])


PACKAGED = sorted(path.stem for path in find_recipe("fuse/default").parent.glob("*.toml"))


@pytest.mark.parametrize("name", PACKAGED)
def test_every_packaged_recipe_has_a_schedule_that_can_be_meant(name):
    assert not list(schedule_faults(load(f"fuse/{name}", Recipe).train))


# --- recipes compared by meaning

RAW = tiny_recipe(Path("stores")).model_dump(mode="json")
RAW["targets"] = {"verb": TargetConfig().model_dump()}
OTHER = {  # other values of keys that are no plain number or truth value
    "title": "another",
    "published": {"verb": 70.9},
    "head": "mlp",
    "use_streams": ["video"],
    "use_targets": ["verb"],
    "targets.verb.streams": ["video"],
    "targets.verb.ranked_by": "pairs",
    "data.train_split": "others",
    "data.eval_split": "test",
    "data.missing": "mask",
    "data.require": ["video"],
    "data.hold_out": "0/5",
    "data.hold_out_by": "video",
    "data.resident": "ram",
    "data.verify": "read",
    "fusion.preset": "paper",
    "fusion.mixer": "plain",
    "fusion.dt_rank": 3,
    "fusion.share": "none",
    "fusion.init": "released",
    "fusion.scan": "reference",
    "transformer.tokens": "pooled",
    "train.optimizer": "sgd",
    "train.drop_streams": {"video": 0.5},
    "train.precision": "fp32",
    "grid": {"train.seed": [0, 1]},
    **{f"{head}.question_routing": "both" for head in ("fusion", "mlp", "transformer")},
    **{f"streams.{stream}.store": "elsewhere.zarr" for stream in RAW["streams"]},
    **{f"streams.{stream}.level": "patch" for stream in RAW["streams"]},
    **{f"streams.{stream}.modality": "sound" for stream in RAW["streams"]},
}
HARMLESS = {  # listed once more: test_train.py resumes with another value of each
    "title",
    "published",
    "data.resident",
    "data.verify",
    "train.eval_every",
    "train.checkpoint_every",
}
# every key of a recipe -> its value; sections that are empty are keys
EMPTY = {"published": None, "grid": None, "train": {**RAW["train"], "drop_streams": None}}
VALUES = flatten({**RAW, **EMPTY})


def other_value(key):
    if key in OTHER:
        return OTHER[key]
    value = VALUES[key]
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else value / 2


@pytest.mark.parametrize("key", VALUES)
def test_a_recipe_is_another_when_a_key_differs_that_can_change_a_weight(key):
    changed = copy.deepcopy(RAW)
    set_key(changed, key, other_value(key))
    one, other = (what_decides(validate(raw, Recipe, "r.toml")) for raw in (RAW, changed))
    assert (one == other) == (key in HARMLESS)
