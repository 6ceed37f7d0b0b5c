"""Which keys of a recipe can act, and which cannot whatever their value."""

import json

import pytest
import torch

from helpers.tiny import tiny_recipe, weights
from mambavl.configs import override, validate
from mambavl.configs.errors import UsageError
from mambavl.fuse.grid import expand
from mambavl.fuse.head import HeadSettings
from mambavl.fuse.idle import NEEDS, OWN, SSM_HEADS, TRAINED, Need, flatten, idle, own_sections, without
from mambavl.fuse.optimizer import TrainConfig
from mambavl.fuse.recipe import HEADS, Recipe
from mambavl.fuse.train import train


def needs(*assignments):
    found = idle(override({}, assignments))
    return {key: (need.key, need.values, need.found) for key, need in found.items()}


def test_every_key_of_a_section_needs_its_head():
    for section, (record, heads) in OWN.items():
        for key in record.model_fields:
            assert needs("head.name=mlp", f"{section}.{key}=1") == {
                f"{section}.{key}": ("head.name", heads, "mlp")
            }
            assert all(needs(f"head.name={head}", f"{section}.{key}=1") == {} for head in heads)


@pytest.mark.parametrize(
    ("assignments", "found"),
    [
        ((), {}),
        (("head.d_model=8", "train.lr=1", "streams.fusion.store=x"), {}),
        (("transformer.depth=3",), {"transformer.depth": ("head.name", ("transformer",), "mambavl")}),
        (("transformer.dept=3",), {}),  # refused as misspelt
        (("train.lr_ssm=1",), {}),
        (
            ("head.name=transformer", "train.lr_ssm=1"),
            {"train.lr_ssm": ("head.name", SSM_HEADS, "transformer")},
        ),
        (("train.momentum=0.5",), {"train.momentum": ("train.optimizer", ("sgd",), "adamw")}),
        (("train.momentum=0.5", "train.optimizer=sgd"), {}),
        (("fusion.expand=2",), {}),
        (("fusion.expand=2", "fusion.mixer=plain"), {"fusion.expand": ("fusion.mixer", ("mamba",), "plain")}),
        (
            ("fusion.expand=2", "fusion.preset=paper"),
            {"fusion.expand": ("fusion.mixer", ("mamba",), "plain")},
        ),
        (("fusion.expand=2", "fusion.preset=paper", "fusion.mixer=mamba"), {}),
        (
            ("targets.verb.gamma=1",),
            {"targets.verb.gamma": ("targets.verb.loss", ("focal",), "cross_entropy")},
        ),
        (
            ("targets.verb.gamma=1", "targets.noun.loss=focal"),
            {"targets.verb.gamma": ("targets.verb.loss", ("focal",), "cross_entropy")},
        ),
        (("targets.verb.gamma=1", "targets.verb.loss=focal"), {}),
        (("targets.gamma=1", "targets.verb.weight=1"), {}),
        (("fusion=3", "head=mlp", "transformer=[]"), {}),  # refused elsewhere
        (("head.name=[1]", "fusion.preset={a = 1}", "train=2"), {}),
    ],
)
def test_a_key_that_cannot_act_says_what_it_needs(assignments, found):
    assert needs(*assignments) == found


@pytest.mark.parametrize(
    ("head", "key", "sets"),
    [
        ("mlp", "train.lr_ssm", ()),
        ("transformer", "train.lr_ssm", ()),
        ("mambavl", "train.momentum", ()),
        ("mambavl", "fusion.expand", ("fusion.mixer=plain",)),
    ],
)
def test_what_is_said_not_to_act_does_not(stores, tmp_path, head, key, sets):
    """Bit for bit; a record may hold what a recipe may not."""
    raw = tiny_recipe(stores, head=head, epochs=1).model_dump(mode="json", exclude_none=True)
    raw = override(raw, sets)
    learned = []
    for value in ("0.5", "0.25") if key.startswith("train") else ("2", "3"):
        recipe = validate(override(raw, [f"{key}={value}"]), Recipe, "r", recorded=True)
        train(recipe, tmp_path / value)
        learned.append(weights(tmp_path / value))
    assert key in NEEDS
    assert learned[0].keys() == learned[1].keys()
    assert all(torch.equal(learned[0][name], learned[1][name]) for name in learned[0])


ASKED_OF_COUNTS = {  # keys of training and of heads that are trained -> a value that is not their default
    "train.epochs": 3, "train.accumulate": 2, "train.optimizer": "sgd", "train.lr": 0.5, "train.lr_ssm": 0.5,
    "train.lr_start": 1e-7, "train.lr_end": 1e-6, "train.warmup_epochs": 1.0, "train.momentum": 0.5,
    "train.cosine_after_warmup": False, "train.weight_decay": 0.1, "train.decay_all": True, "train.ema": 0.5,
    "train.label_smoothing": 0.0, "train.clip_norm": 0.0, "train.drop_streams.past": 0.5, "train.mixup": 0.5,
    "train.feature_dropout.past": 0.5, "train.seed": 1, "train.order_seed": 1, "train.precision": "fp32",
    "train.eval_every": 2, "train.stop_after": 2, "train.checkpoint_every": 2, "train.trackers": ["wandb"],
    "head.d_model": 8,
    "head.video_mlp_layers": 1, "head.text_mlp_layers": 1, "head.input_norm": False, "head.dropout": 0.5,
    "head.question_routing": "both",
}  # fmt: skip
COUNTS = {
    "streams": {"past": {"store": "past.zarr", "level": "past/actions"}},
    "head": {"name": "counts"},
    "data": {"hold_out": "0/2"},  # or stop_after has nothing to watch
}


@pytest.mark.parametrize("key", ASKED_OF_COUNTS)
def test_a_head_that_counts_is_not_asked_to_train(key):
    asked = override(COUNTS, [f"{key}={json.dumps(ASKED_OF_COUNTS[key])}"])
    name = key.split(".")[1]
    with pytest.raises(UsageError, match=rf"{name}\b.* acts only with head\.name = mambavl, .*is counts"):
        validate(asked, Recipe, "r.toml")


def test_which_keys_of_training_act_where_nothing_is_trained():
    """And the recipe of such a run, with all keys at their defaults, is one."""
    acting = ["train.batch_size=7", "train.keep=scores", "train.score_dtype=float16"]
    recipe = validate(override(COUNTS, acting), Recipe, "r.toml")
    assert validate(recipe.model_dump(mode="json", exclude_none=True), Recipe, "r.toml") == recipe
    keys = {".".join(key.split(".")[:2]) for key in ASKED_OF_COUNTS} | {key.split("=")[0] for key in acting}
    every = [f"train.{key}" for key in TrainConfig.model_fields]
    assert keys == {*every, *(f"head.{key}" for key in HeadSettings.model_fields)}
    assert set(TRAINED) == set(HEADS)
    grid = {"head.name": ["mambavl", "counts"], "train.seed": [0, 1]}
    points = expand({**COUNTS, "train": {"lr": 0.5}, "grid": grid}, "r.toml")
    assert [point.values.get("train.seed") for point in points] == [0, 1, None]


def test_a_need_lists_what_would_do_and_proposes_the_first():
    need = Need("a.b", ("x", "y", "z"), 3)
    assert str(need) == "acts only with a.b = x, y or z, and that is 3; leave it out, or set a.b=x"
    assert str(need._replace(values=("x",))).startswith("acts only with a.b = x, and that is 3;")


def test_the_section_that_a_head_alone_reads():
    assert own_sections({}) == ["fusion"]
    assert own_sections({"head": {"name": "bidirectional"}}) == ["fusion"]
    assert own_sections({"head": {"name": "transformer"}}) == ["transformer"]
    assert own_sections({"head": {"name": "mlp"}}) == []
    for raw in ({"head": "mlp"}, {"head": {"name": ["mlp"]}}, {"head": {"name": "mpl"}}):
        assert own_sections(raw) == []


def test_keys_are_left_out_by_their_whole_names():
    raw = {"title": "x", "train": {"lr": 1, "title": 2}, "streams": {"a": {"lr": 3}}, "fusion": {"share": 4}}
    found = without(raw, ["title", "train.lr", "streams.a.lr", "fusion.share", "absent.key"])
    assert found == {"train": {"title": 2}, "streams": {"a": {}}, "fusion": {}}
    assert flatten(raw) == {
        "title": "x",
        "train.lr": 1,
        "train.title": 2,
        "streams.a.lr": 3,
        "fusion.share": 4,
    }
