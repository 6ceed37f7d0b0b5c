"""Combinations that differ, each named by what acts there; keys that act nowhere are refused."""

from pathlib import Path

import pytest

from helpers.tiny import tiny_recipe
from mambavl.configs import find_recipe, override, read_toml
from mambavl.configs.errors import UsageError
from mambavl.fuse.drawn import combinations
from mambavl.fuse.grid import expand
from mambavl.fuse.idle import SSM_HEADS

WITH_SSM = f"{', '.join(SSM_HEADS[:-1])} or {SSM_HEADS[-1]}"
STREAMS = {
    "video": {"store": "v.zarr"},
    "verb_question": {"store": "t.zarr"},
    "noun_question": {"store": "t"},
}


def names(grid, *assignments, base=None):
    data = {"streams": STREAMS, **(base or {}), "grid": grid}
    return [name for name, _, _ in expand(override(data, assignments), "mine.toml", assignments)]


def refused(grid, *assignments, base=None):
    with pytest.raises(UsageError) as error:
        names(grid, *assignments, base=base)
    return str(error.value)


def test_a_grid_over_another_heads_keys_does_not_multiply_a_head():
    grid = {
        "head": {"name": ["mambavl", "mlp"], "d_model": [8, 16]},
        "fusion": {"share": ["A", "none"]},
    }
    assert names(grid) == [
        "head.name=mambavl,head.d_model=8,fusion.share=A",
        "head.name=mambavl,head.d_model=8,fusion.share=none",
        "head.name=mambavl,head.d_model=16,fusion.share=A",
        "head.name=mambavl,head.d_model=16,fusion.share=none",
        "head.name=mlp,head.d_model=8",
        "head.name=mlp,head.d_model=16",
    ]
    assert len(combinations({"grid": grid}, "mine.toml")) == 8


def test_what_is_common_reaches_every_head_and_what_is_a_heads_own_no_other():
    points = expand(override(read_toml(find_recipe("fuse/table3")), ["head.d_model=192"]), "table3.toml")
    assert [point.recipe.head.name for point in points] == 3 * ["mambavl"] + 3 * ["mlp"] + 3 * ["transformer"]
    assert {point.recipe.head.d_model for point in points} == {192}
    for point in points:
        assert (point.recipe.fusion is None) == (point.recipe.head.name != "mambavl")
        assert (point.recipe.transformer is None) == (point.recipe.head.name != "transformer")
        assert point.recipe.title == f"head.name = {point.recipe.head.name}"


def test_every_head_of_a_grid_may_have_its_section():
    base = {"fusion": {"d_state": 4}, "transformer": {"depth": 3}, "train": {"lr_ssm": 0.1}}
    points = expand({"streams": STREAMS, **base, "grid": {"head.name": ["mambavl", "transformer"]}}, "x")
    assert points[0].recipe.fusion.d_state == 4
    assert points[0].recipe.train.lr_ssm == 0.1
    assert points[1].recipe.transformer.depth == 3
    assert points[1].recipe.train.lr_ssm == 3e-3


def test_keys_inside_a_head_and_of_another_optimizer_do_not_multiply_either():
    assert names({"fusion": {"mixer": ["plain", "mamba"], "expand": [1, 2]}}) == [
        "fusion.mixer=plain",
        "fusion.mixer=mamba,fusion.expand=1",
        "fusion.mixer=mamba,fusion.expand=2",
    ]
    assert names({"fusion": {"preset": ["paper", "default"]}}, "fusion.expand=4") == [
        "fusion.preset=paper",
        "fusion.preset=default",
    ]
    assert names({"train": {"optimizer": ["adamw", "sgd"], "momentum": [0.5, 0.9]}}) == [
        "train.optimizer=adamw",
        "train.optimizer=sgd,train.momentum=0.5",
        "train.optimizer=sgd,train.momentum=0.9",
    ]
    assert names({"head": {"name": ["mlp", "mambavl"]}, "train": {"lr_ssm": [0.1, 0.2]}}) == [
        "head.name=mlp",
        "head.name=mambavl,train.lr_ssm=0.1",
        "head.name=mambavl,train.lr_ssm=0.2",
    ]


@pytest.mark.parametrize(
    ("grid", "assignments", "said"),
    [
        (
            {"transformer.depth": [3, 6]},
            (),
            "mine.toml [grid]: transformer.depth acts only with head.name = transformer, and that is "
            "mambavl; leave it out, or set head.name=transformer",
        ),
        (
            {"head.name": ["mambavl", "mlp"], "transformer.depth": [6]},
            (),
            "mine.toml [grid]: transformer.depth acts only with head.name = transformer, and that is mambavl "
            "or mlp; leave it out, or set head.name=transformer",
        ),
        (
            {"head.name": ["mambavl", "mlp"]},
            ("transformer.depth=3",),
            "--set: transformer.depth = 3 acts only with head.name = transformer, and that is "
            "mambavl or mlp; leave it out, or set head.name=transformer",
        ),
        (
            {"train.seed": [0, 1]},
            ("head.name=mlp", "fusion.share=A"),  # the default: another head's section is never read
            f"--set: fusion.share = A acts only with head.name = {WITH_SSM}, and that is mlp; "
            "leave it out, or set head.name=mambavl",
        ),
        (
            {"fusion.expand": [1, 2]},
            ("fusion.mixer=plain",),
            "mine.toml [grid]: fusion.expand acts only with fusion.mixer = mamba, and that is plain; "
            "leave it out, or set fusion.mixer=mamba",
        ),
    ],
)
def test_what_acts_at_no_point_is_refused(grid, assignments, said):
    assert refused(grid, *assignments) == said


def test_a_default_that_acts_at_no_point_is_let_pass_in_a_section_that_is_read():
    """A recipe that a run left behind holds every key of its sections."""
    raw = tiny_recipe(Path("stores"), head="mlp").model_dump(mode="json", exclude_none=True)
    assert raw["train"]["lr_ssm"] == 3e-3
    assert names({"train.seed": [0, 1]}, base=raw) == ["train.seed=0", "train.seed=1"]
    assert "train.lr_ssm = 0.5 acts only with" in refused(
        {"train.seed": [0, 1]}, "train.lr_ssm=0.5", base=raw
    )


def test_a_value_listed_twice_in_an_axis_is_refused():
    assert refused({"train.lr": [1e-3, 0.001]}) == "mine.toml [grid]: train.lr = 0.001 is listed twice"
    assert "train.lr = 1.0 is listed twice" in refused({"train.lr": [1, 1.0]})
    grid = {"head.name": ["mambavl", "mlp"], "fusion.share": ["A", "none", "A"]}
    assert "fusion.share = A is listed twice" in refused(grid)
    grid = {"use_streams": [["video"], ["video"]]}
    assert "is listed twice" in refused(grid)


def test_points_that_differ_in_what_changes_no_weight_stay_apart():
    assert names({"title": ["a", "b"]}) == ["title=a", "title=b"]
    assert len(names({"train.eval_every": [1, 2], "title": ["a", "b"]})) == 4


def test_a_list_of_names_is_spelt_as_a_folder_can_be():
    use = [["video"], ["video", "verb_question"]]
    assert names({"use_streams": use}) == ["use_streams=video", "use_streams=video+verb_question"]
    base = {"head": {"name": "counts"}}
    assert names({"counts.decays": [[0.5, 1.0]]}, base=base) == ["counts.decays=[0.5, 1.0]"]


def test_a_preset_may_be_given_to_several_heads_that_all_read_it():
    data = {"streams": STREAMS, "fusion": {"preset": "paper"}, "grid": {"head.name": [*SSM_HEADS]}}
    points = expand(data, "mine.toml")
    assert [point.recipe.head.name for point in points] == [*SSM_HEADS]
    assert {(point.recipe.head.dropout, point.recipe.fusion.mixer) for point in points} == {(0.0, "plain")}


def test_points_that_differ_in_their_seed_alone_carry_one_title():
    grid = {"train": {"seed": [0, 1], "lr": [0.01, 0.02]}}
    points = expand({"streams": STREAMS, "grid": grid}, "mine.toml")
    titles = [(point.recipe.train.seed, point.recipe.title) for point in points]
    assert titles == [(seed, f"train.lr = {lr}") for seed in (0, 1) for lr in (0.01, 0.02)]


def test_a_preset_that_would_set_for_one_head_what_all_have_is_refused():
    grid = {"head.name": ["mambavl", "mlp"]}
    assert refused(grid, "fusion.preset=paper") == (
        "mine.toml: fusion.preset = paper gives head.input_norm = false, head.dropout = 0.0 to the "
        "heads with an SSM and not to the others of the sweep; set these keys in [head], for all of them"
    )
    said = refused({**grid, "fusion.preset": ["default", "paper"]}, "head.dropout=0.0")
    assert "gives head.input_norm = false to the heads with" in said
    assert len(names(grid, "fusion.preset=paper", "head.dropout=0.1", "head.input_norm=true")) == 2
    [point] = expand({"streams": STREAMS, "grid": {"fusion.preset": ["paper"]}}, "x")
    assert (point.recipe.head.dropout, point.recipe.head.input_norm) == (0.0, False)


def test_a_grid_of_the_form_of_before_is_told_where_its_keys_stand():
    assert "[head=mambavl]: head = 'mambavl': [head] is a section now" in refused(
        {"head": ["mambavl", "mlp"]}
    )
    assert "d_model = 8: stands in [head] now" in refused({"fusion.d_model": [8]})
    assert "d_model = 8: stands in [head] now" in refused({"head.name": ["mlp"], "mlp.d_model": [8]})
