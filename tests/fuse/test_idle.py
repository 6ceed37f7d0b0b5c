"""Which keys of a recipe can act, and which cannot whatever their value."""

import pytest
import torch

from helpers.tiny import tiny_recipe, weights
from mambavl.configs import override, validate
from mambavl.fuse.idle import NEEDS, OWN, SSM_HEADS, Need, flatten, idle, own_sections, without
from mambavl.fuse.recipe import Recipe
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
