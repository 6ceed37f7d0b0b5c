"""A recipe and the head that it stands for."""

import copy
import tomllib
from pathlib import Path

import pytest
import torch

from helpers.tiny import CLASSES, tiny_recipe
from mambavl.configs import dump, load, override, set_key, validate
from mambavl.configs.errors import UsageError
from mambavl.fuse.head import StreamShape
from mambavl.fuse.idle import OWN, SSM_HEADS, flatten
from mambavl.fuse.recipe import HEADS, Recipe, make_head, what_decides
from mambavl.fuse.targets import TargetConfig, choose

WITH_SSM = f"{', '.join(SSM_HEADS[:-1])} or {SSM_HEADS[-1]}"
STREAMS = {name: StreamShape(width=6) for name in ("video", "verb_question", "noun_question")}
TARGETS = choose(CLASSES, None, {}, {})


@pytest.mark.parametrize("name", HEADS)
def test_a_head_is_built_for_the_streams_and_classes_of_the_stores(stores, name):
    head = make_head(tiny_recipe(stores, head=name), STREAMS, TARGETS)
    assert isinstance(head, HEADS[name][0])
    assert head.config.streams.keys() == STREAMS.keys()
    assert (head.verb_head.out_features, head.noun_head.out_features) == (3, 4)
    assert head.config.d_model == 16  # of the recipe


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


def test_stores_are_there_when_all_of_those_in_use_are(tmp_path):
    recipe = tiny_recipe(tmp_path)
    video_only = recipe.model_copy(update={"use_streams": ["video"]})
    assert not video_only.has_stores()
    (tmp_path / "video.zarr").mkdir()
    assert video_only.has_stores()
    assert not recipe.has_stores()
    (tmp_path / "text.zarr").mkdir()
    assert recipe.has_stores()


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


@pytest.mark.parametrize("name", HEADS)
def test_a_resolved_recipe_holds_the_sections_that_its_head_reads(stores, name):
    raw = tiny_recipe(stores, head=name).model_dump(mode="json", exclude_none=True)
    own = {
        "mambavl": {"fusion"},
        "bidirectional": {"fusion"},
        "cross": {"fusion", "cross"},
        "mixture": {"fusion", "mixture"},
        "deep": {"fusion", "deep"},
        "mlp": set(),
    }.get(name, {name})
    assert {*OWN, "mlp"} & raw.keys() == own
    again = validate(raw, Recipe, "r.toml")
    assert again == tiny_recipe(stores, head=name)
    empty = {section: {} for section in OWN}
    assert validate({**empty, **raw}, Recipe, "r.toml") == again


@pytest.mark.parametrize("name", HEADS)
def test_the_default_recipe_is_for_every_head(name):
    assert load("fuse/default", Recipe, [f"head.name={name}"]).head.name == name


# --- what all heads have in common, and what is one head's own


def recipe_of(*assignments):
    data = {"streams": {name: {"store": "stores"} for name in STREAMS}}
    return validate(override(data, assignments), Recipe, "r.toml", assignments)


@pytest.mark.parametrize("name", HEADS)
def test_a_common_key_reaches_every_head(name):
    sets = ("d_model=16", "dropout=0.25", "video_mlp_layers=1", "text_mlp_layers=3", "input_norm=false",
            "question_routing=both")  # fmt: skip
    recipe = recipe_of(f"head.name={name}", *[f"head.{key}" for key in sets])
    with torch.device("meta"):
        config = make_head(recipe, STREAMS, TARGETS).config
    assert (config.d_model, config.dropout, config.video_mlp_layers) == (16, 0.25, 1)
    assert (config.text_mlp_layers, config.input_norm, config.question_routing) == (3, False, "both")


def test_a_heads_own_keys_reach_it():
    pooled = recipe_of("head.name=transformer", "transformer.depth=2", "transformer.tokens=pooled")
    with torch.device("meta"):
        plain = make_head(recipe_of("fusion.mixer=plain", "fusion.share=none"), STREAMS, TARGETS)
        small = make_head(pooled, STREAMS, TARGETS)
    assert (plain.config.mixer, plain.config.share) == ("plain", "none")
    assert (small.config.depth, small.config.tokens) == (2, "pooled")


def test_a_preset_sets_common_defaults_too_and_given_keys_take_precedence():
    paper = recipe_of("fusion.preset=paper")
    assert (paper.head.input_norm, paper.head.dropout) == (False, 0.0)
    assert (paper.fusion.mixer, paper.fusion.zoh) == ("plain", True)
    released = recipe_of("fusion.preset=released", "head.text_mlp_layers=1", "fusion.init=mamba")
    assert (released.head.video_mlp_layers, released.head.text_mlp_layers) == (0, 1)
    assert (released.fusion.init, released.fusion.pad_text_to) == ("mamba", 40)
    written = tomllib.loads(dump(released))["head"]
    assert (written["text_mlp_layers"], written["dropout"]) == (1, 0.0)


@pytest.mark.parametrize(
    ("assignments", "said"),
    [
        (
            ("transformer.depth=3",),
            "--set [transformer]: depth = 3: acts only with head.name = transformer, and that is mambavl; "
            "leave it out, or set head.name=transformer",
        ),
        (
            ("head.name=mlp", "fusion.share=A"),  # its default: no other head's section is read
            f"--set [fusion]: share = 'A': acts only with head.name = {WITH_SSM}, and that is mlp; "
            "leave it out, or set head.name=mambavl",
        ),
        (
            ("fusion.expand=3", "fusion.preset=paper"),
            "--set [fusion]: expand = 3: acts only with fusion.mixer = mamba, and that is plain; "
            "leave it out, or set fusion.mixer=mamba",
        ),
        (
            ("head.name=transformer", "train.lr_ssm=0.1"),
            f"--set [train]: lr_ssm = 0.1: acts only with head.name = {WITH_SSM}, and that is transformer; "
            "leave it out, or set head.name=mambavl",
        ),
        (
            ("train.momentum=0.1",),
            "--set [train]: momentum = 0.1: acts only with train.optimizer = sgd, and that is adamw; "
            "leave it out, or set train.optimizer=sgd",
        ),
        (
            ("head.name=mpl",),
            f"--set [head]: name = 'mpl': Input should be {', '.join(map(repr, HEADS))} or 'counts'",
        ),
    ],
)
def test_a_key_that_cannot_act_is_refused_with_its_head_and_what_to_do(assignments, said):
    with pytest.raises(UsageError) as error:
        recipe_of(*assignments)
    assert str(error.value) == said


def test_a_recipe_of_the_form_of_before_is_told_where_each_key_stands():
    raw = {
        "streams": {"video": {"store": "stores"}},
        "head": "mlp",
        "fusion": {"d_model": 8, "share": "A"},
        "mlp": {"dropout": 0.1},
    }
    with pytest.raises(UsageError) as error:
        validate(raw, Recipe, "mine.toml", ["mlp.dropout=0.1"])
    head = '[head] is a section now; write `[head]` and in it `name = "mlp"` (head.name)'
    assert str(error.value).split("\n") == [
        f"mine.toml: head = 'mlp': {head}",
        "mine.toml [fusion]: d_model = 8: stands in [head] now, once for all heads; set head.d_model",
        "--set [mlp]: dropout = 0.1: stands in [head] now, once for all heads; set head.dropout",
    ]
    for assignment, said in (
        ("head=mlp", f"--set: head = 'mlp': {head}"),
        ("mlp={}", "--set: mlp = {}: the MLP has no keys of its own; leave the section out"),
    ):
        with pytest.raises(UsageError) as error:
            recipe_of(assignment)
        assert str(error.value) == said


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


# --- recipes compared by meaning

STREAM_KEYS = {"last": 3, "store": "elsewhere.zarr", "level": "patch", "modality": "sound"}
OTHER_STILL = {"head.name": "mlp", "train.optimizer": "adamw"}  # where the recipe has OTHER's value already
OTHER = {  # other values of keys that are no plain number or truth value
    "title": "another",
    "published": {"verb": 70.9},
    "head.name": "transformer",
    "head.question_routing": "both",
    "use_streams": ["video"],
    "use_targets": ["verb"],
    "rank_by": "verb",
    "targets.verb.streams": ["video"],
    "targets.verb.ranked_by": "pairs",
    "targets.verb.loss": "focal",
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
    "train.optimizer": "sgd",
    "train.drop_streams": {"video": 0.5},
    "train.ema": 0.5,
    "train.feature_dropout": {"video": 0.5},
    "train.mixup": 0.5,
    "train.stop_after": 3,
    "train.trackers": ["wandb"],
    "train.keep": "scores",
    "train.order_seed": 7,
    "train.score_dtype": "float16",
    "train.precision": "fp32",
    "grid": {"train.seed": [0, 1]},
    "random": {"points": 2, "train.seed": [0, 1]},
    "points": [{"train.seed": 1}],
    "select_on": "0/2",
    "transformer.tokens": "pooled",
    **{f"streams.{stream}.{key}": value for stream in STREAMS for key, value in STREAM_KEYS.items()},
}
HARMLESS = {  # listed once more: test_train.py, and test_kept.py, resume with another value of each
    "title",
    "published",
    "rank_by",
    "data.allow_missing",
    "data.resident",
    "data.verify",
    "train.accumulate",
    "train.eval_every",
    "train.checkpoint_every",
    "train.keep",
    "train.score_dtype",
    "train.trackers",
}
NOWHERE = {"targets.verb.gamma"}  # beside a loss that is not focal
CANNOT_ACT = {  # in the recipes below: what changes no weight there
    "mambavl": {"train.momentum", "data.require"},
    "bidirectional": {"train.momentum", "data.require"},
    "cross": {"train.momentum", "data.require"},
    "mixture": {"train.momentum", "data.require"},
    "deep": {"train.momentum", "data.require"},
    "mlp": {"train.lr_ssm", "train.momentum", "data.require"},
    "transformer": {"train.lr_ssm", "data.require"},
    "attentive": {"train.lr_ssm", "train.momentum", "data.require"},
}
SGD = {"transformer": "sgd"}  # the optimiser of their recipes
RAW = {
    head: tiny_recipe(Path("stores"), head=head, optimizer=SGD.get(head, "adamw")).model_dump(mode="json")
    for head in HEADS
}
for raw in RAW.values():
    raw["targets"] = {"verb": TargetConfig().model_dump()}
EMPTY = {"published": None, "grid": None, "random": None}  # sections that are empty are keys
VALUES = {  # head -> every key of its recipe -> its value
    head: flatten({**raw, **EMPTY, "train": {**raw["train"], "drop_streams": None, "feature_dropout": None}})
    for head, raw in RAW.items()
}
KEYS = [(head, key) for head in HEADS for key in VALUES[head] if key not in OWN]


def other_value(head, key):
    if key in OTHER:
        found = OTHER[key]
        return found if found != VALUES[head][key] else OTHER_STILL[key]
    value = VALUES[head][key]
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else value / 2


@pytest.mark.parametrize(("head", "key"), KEYS)
def test_a_recipe_is_another_when_a_key_differs_that_can_change_a_weight(head, key):
    changed = copy.deepcopy(RAW[head])
    set_key(changed, key, other_value(head, key))
    one = validate(RAW[head], Recipe, "r.toml", recorded=True)
    other = validate(changed, Recipe, "r.toml", recorded=True)
    assert (what_decides(one) == what_decides(other)) == (key in HARMLESS | NOWHERE | CANNOT_ACT[head])
