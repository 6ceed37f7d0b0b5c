"""Runs in one pass end as they do alone, whatever happens to the others."""

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers.sweeps import grid_of
from helpers.tiny import tiny_recipe, weights
from helpers.tools import make_tool_stores, tool_recipe
from mambavl.configs import set_key, validate
from mambavl.configs.errors import DataError, Interrupted
from mambavl.fuse import checkpoint, pack
from mambavl.fuse.data import FeatureData
from mambavl.fuse.owner import held, last_failure
from mambavl.fuse.pack import key_of, packs, train_together
from mambavl.fuse.recipe import Recipe
from mambavl.fuse.run import read_curves, read_result, read_scores
from mambavl.fuse.train import train


def changed(recipe, **keys):
    """`train__lr=1e-3` is train.lr."""
    raw = recipe.model_dump(mode="json", exclude_none=True)
    for key, value in keys.items():
        set_key(raw, key.replace("__", "."), value)
    return validate(raw, Recipe, "r.toml")


def different(recipe, optimizer="adamw"):
    """Runs that differ in everything that those of a pack may differ in."""
    own = {"train__momentum": 0.5} if optimizer == "sgd" else {"train__ema": 0.5}
    ssm = {"train__lr_ssm": 3e-2} if recipe.head.name == "mambavl" else {}
    return [
        recipe,
        changed(recipe, train__lr=3e-2, train__weight_decay=0.5, head__dropout=0.4, title="b", **ssm),
        changed(
            recipe, train__epochs=2, train__label_smoothing=0.0, train__clip_norm=0.3, train__decay_all=True
        ),
        changed(recipe, train__warmup_epochs=0, train__lr_end=5e-3, train__eval_every=2, **own),
    ]


def in_one_pass(recipes, out, **callbacks):
    data = FeatureData(recipes[0].sources, recipes[0].data)
    runs = [out / str(place) for place in range(len(recipes))]
    train_together(recipes, runs, data, **callbacks)
    return runs


def assert_as_alone(recipes, runs, out, places=None):
    for place, (recipe, run) in enumerate(zip(recipes, runs, strict=True)):
        if places is not None and place not in places:
            continue
        alone = out / f"alone-{place}"
        result, own = train(recipe, alone), read_result(run)
        for name, weight in weights(alone).items():
            torch.testing.assert_close(weights(run)[name], weight, rtol=1e-3, atol=1e-5)
        scores, found = (read_scores(path, result.split) for path in (alone, run))
        for name in result.targets:
            if name in scores:
                np.testing.assert_allclose(found[name], scores[name], rtol=0, atol=1e-4)
        for line, other in zip(read_curves(alone), read_curves(run), strict=True):
            assert line.keys() == other.keys()
            assert other["loss"] == pytest.approx(line["loss"], abs=1e-5)
            assert {key: line[key] for key in ("epoch", "lr")} == {key: other[key] for key in ("epoch", "lr")}
        assert own.metrics == pytest.approx(result.metrics)
        assert own.trained.train_rows == result.trained.train_rows
        assert own.recipe == result.recipe
        assert {path.name for path in run.iterdir()} == {path.name for path in alone.iterdir()}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("head", ["mambavl", "mlp", "attentive"])
def test_each_run_of_a_pack_ends_as_it_does_alone(stores, tmp_path, head, optimizer):
    recipes = different(tiny_recipe(stores, head=head, optimizer=optimizer), optimizer)
    started, ended, lines = [], [], []
    runs = in_one_pass(
        recipes,
        tmp_path,
        on_start=started.append,
        on_epoch=lambda place, line: lines.append((place, line["epoch"])),
        on_end=lambda place, error: ended.append((place, error)),
    )
    assert started == [0, 1, 2, 3]
    assert ended == [(2, None), (0, None), (1, None), (3, None)]  # the third has half as many epochs
    assert sorted(lines) == [(p, e + 1) for p in range(4) for e in range(2 if p == 2 else 4)]
    assert_as_alone(recipes, runs, tmp_path)
    assert read_result(runs[0]).trained.together == 4


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_how_many_heads_are_computed_at_once_changes_nothing(stores, tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(pack, "heads_at_once", lambda head, rows: at_once)
    recipes = different(tiny_recipe(stores))
    assert_as_alone(recipes, in_one_pass(recipes, tmp_path), tmp_path)


def test_targets_of_several_classes_missing_labels_and_focal_losses(tmp_path):
    stores = make_tool_stores(tmp_path)
    recipe = tool_recipe(stores)
    focal = {"targets": {recipe.rank_by or "tool": {"loss": "focal", "weight": 2.0}}}
    for name, base in (("plain", recipe), ("focal", changed(recipe, **focal))):
        recipes = [base, changed(base, train__lr=3e-3, train__label_smoothing=0.3)]
        assert key_of(recipes[0]) == key_of(recipes[1]) is not None
        assert_as_alone(recipes, in_one_pass(recipes, tmp_path / name), tmp_path / name)


@pytest.mark.parametrize("at_once", [1, 2, 20])
def test_seeds_that_share_the_order_of_rows_are_trained_in_one_pass(stores, tmp_path, monkeypatch, at_once):
    """Each has weights and dropout of its own, whichever it is computed beside."""
    monkeypatch.setattr(pack, "heads_at_once", lambda head, rows: at_once)
    base = changed(
        tiny_recipe(stores, feature_dropout={"video": 0.2}), train__order_seed=5, head__dropout=0.5
    )
    recipes = [base, changed(base, train__seed=1), changed(base, train__seed=2**63 - 1, train__lr=3e-3)]
    assert packs(recipes) == [[0, 1, 2]]
    assert_as_alone(recipes, in_one_pass(recipes, tmp_path), tmp_path)


def test_only_a_seed_of_their_own_for_the_order_lets_seeds_go_together(stores):
    base = tiny_recipe(stores)
    orders = [changed(base, train__seed=seed, train__order_seed=order) for order in (0, 1) for seed in (0, 1)]
    assert packs([*orders, base, changed(base, train__seed=1)]) == [[0, 1], [2, 3], [4], [5]]


def test_rows_that_lose_streams_and_channels_lose_them_in_all_heads(stores, tmp_path):
    losses = {"drop_streams": {"verb_question": 0.5}, "feature_dropout": {"video": 0.2}}
    base = changed(tiny_recipe(stores, **losses), data__missing="mask")
    recipes = [base, changed(base, train__lr=3e-3)]
    assert_as_alone(recipes, in_one_pass(recipes, tmp_path), tmp_path)


@pytest.mark.parametrize("count", [2, 5])
def test_each_batch_is_read_once_for_all(stores, tmp_path, monkeypatch, count):
    read, batch = [], FeatureData.batch

    def counted(self, rows, *args, **kwargs):
        read.append(len(rows))
        return batch(self, rows, *args, **kwargs)

    monkeypatch.setattr(FeatureData, "batch", counted)
    recipe = tiny_recipe(stores, eval_every=2)
    in_one_pass([changed(recipe, train__lr=1e-3 * (n + 1)) for n in range(count)], tmp_path)
    assert sum(read) == 24 * 4 + 24 * 2  # rows trained on in four epochs, rows scored after two of them


# --- whatever happens to one


def test_one_that_diverges_ends_alone(stores, tmp_path):
    base = tiny_recipe(stores, clip_norm=0, warmup_epochs=0)
    recipes = [base, changed(base, train__lr=1e30), changed(base, train__lr=3e-3)]
    ended = []
    runs = in_one_pass(recipes, tmp_path, on_end=lambda place, error: ended.append((place, error)))
    assert [place for place, _ in ended] == [1, 0, 2]
    assert "diverged" in str(ended[0][1])
    assert str(ended[0][1]) == f"{runs[1]}: {last_failure(runs[1])['error']}"
    assert not (runs[1] / "result.json").exists()
    with pytest.raises(DataError, match="diverged"):
        train(recipes[1], runs[1])
    assert_as_alone(recipes, runs, tmp_path, places=(0, 2))


def test_where_all_diverge_nothing_goes_on(stores, tmp_path):
    base = tiny_recipe(stores, clip_norm=0, warmup_epochs=0)
    recipes = [changed(base, train__lr=rate) for rate in (1e30, 2e30)]
    ended = []
    in_one_pass(recipes, tmp_path, on_end=lambda place, error: ended.append((place, error is None)))
    assert sorted(ended) == [(0, False), (1, False)]


def test_a_folder_that_cannot_be_written_fails_its_own_run(stores, tmp_path, monkeypatch):
    save = checkpoint.save_checkpoint

    def fail(folder, *args):
        if folder.parent.name == "1":
            raise OSError("no room")
        save(folder, *args)

    monkeypatch.setattr(checkpoint, "save_checkpoint", fail)
    recipes = different(tiny_recipe(stores))[:3]
    runs = in_one_pass(recipes, tmp_path)
    assert "no room" in last_failure(runs[1])["error"]
    monkeypatch.undo()
    assert_as_alone(recipes, runs, tmp_path, places=(0, 2))


def test_an_error_of_all_is_raised_and_each_can_go_on_alone(stores, tmp_path, monkeypatch):
    forward, calls = pack.Stack.__call__, []

    def fail(self, *args):
        calls.append(1)
        if len(calls) == 8:  # in the third epoch
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, *args)

    recipes = different(tiny_recipe(stores))[:2]
    monkeypatch.setattr(pack.Stack, "__call__", fail)
    with pytest.raises(torch.OutOfMemoryError):
        in_one_pass(recipes, tmp_path)
    runs = [tmp_path / str(place) for place in range(2)]
    assert not any(last_failure(run) for run in runs)
    lines = []
    for recipe, run in zip(recipes, runs, strict=True):
        train(recipe, run, on_epoch=lines.append)
    assert [line["epoch"] for line in lines] == [3, 4, 3, 4]
    assert_as_alone(recipes, runs, tmp_path)


def test_each_stops_early_when_its_own_measure_has_stalled(stores, tmp_path):
    base = changed(tiny_recipe(stores, epochs=6, seed=1), data__hold_out="0/2", data__hold_out_by="video")
    recipes = [
        base,
        changed(base, train__stop_after=1, train__lr=1e-5, train__lr_end=0, train__lr_start=0),
        changed(base, train__stop_after=2, train__lr=2e-2),
    ]
    runs = in_one_pass(recipes, tmp_path)
    assert_as_alone(recipes, runs, tmp_path)
    assert read_result(runs[1]).trained.stopped == 2


# --- who takes part


def test_runs_of_others_and_finished_ones_are_left_alone(stores, tmp_path):
    recipes = different(tiny_recipe(stores))
    train(recipes[3], tmp_path / "3")
    before = (tmp_path / "3" / "result.json").read_bytes()
    started = []
    with held(tmp_path / "1"):
        runs = in_one_pass(recipes, tmp_path, on_start=started.append)
    assert started == [0, 2]
    assert (tmp_path / "3" / "result.json").read_bytes() == before
    assert not (tmp_path / "1" / "recipe.toml").exists()
    assert_as_alone(recipes, runs, tmp_path, places=(0, 2))


def test_one_run_alone_is_left_to_the_loop_of_one(stores, tmp_path):
    recipes = [tiny_recipe(stores)]
    started = []
    in_one_pass(recipes, tmp_path, on_start=started.append)
    assert not started
    assert not (tmp_path / "0" / "recipe.toml").exists()


@pytest.mark.parametrize(
    ("stop", "how"), [(0, "together"), (2, "alone"), (3, "together"), (4, "some"), (7, "together")]
)
def test_stopped_runs_resume_together_or_alone(stores, tmp_path, stop, how):
    recipes = different(tiny_recipe(stores))
    calls = iter(range(1000))
    with pytest.raises(Interrupted, match="resumes"):
        in_one_pass(recipes, tmp_path, should_stop=lambda: next(calls) >= stop)
    runs = [tmp_path / str(place) for place in range(4)]
    for place, run in enumerate(runs):
        is_done = place == 2 and stop > 6  # it has two epochs of three updates
        assert (run / "checkpoints" / f"step-{stop:08d}").exists() != is_done
    if how != "together":
        for place in range(4 if how == "alone" else 1):
            train(recipes[place], runs[place])
    in_one_pass(recipes, tmp_path)
    assert_as_alone(recipes, runs, tmp_path)


def test_the_part_of_an_epoch_before_an_interrupt_counts_in_the_seconds(stores, tmp_path, monkeypatch):
    """By a clock that goes on by one between two looks: one for each epoch, or part of one."""
    looks, calls = itertools.count(), itertools.count()
    monkeypatch.setattr(pack, "time", SimpleNamespace(perf_counter=lambda: next(looks)))
    recipes = [tiny_recipe(stores), changed(tiny_recipe(stores), train__lr=3e-3)]
    with pytest.raises(Interrupted):  # in the second of four epochs of three updates
        in_one_pass(recipes, tmp_path, should_stop=lambda: next(calls) >= 4)
    state = json.loads((tmp_path / "1" / "checkpoints" / "step-00000004" / "state.json").read_text())
    assert state["seconds"] == 2
    runs = in_one_pass(recipes, tmp_path)
    assert [read_result(run).trained.train_seconds for run in runs] == [5, 5]
    assert [line["seconds"] for line in read_curves(runs[0])] == [1, 3, 4, 5]


def test_what_a_single_run_has_begun_a_pack_goes_on_with(stores, tmp_path):
    recipes = different(tiny_recipe(stores))[:2]
    runs = [tmp_path / str(place) for place in range(2)]
    for recipe, run in zip(recipes, runs, strict=True):
        calls = iter(range(1000))
        with pytest.raises(Interrupted):
            train(recipe, run, should_stop=lambda calls=calls: next(calls) >= 5)
    started = []
    in_one_pass(recipes, tmp_path, on_start=started.append)
    assert started == [0, 1]
    assert_as_alone(recipes, runs, tmp_path)


def test_runs_that_are_not_equally_far_wait(stores, tmp_path):
    """The largest group of those that are goes first."""
    recipes = different(tiny_recipe(stores))
    calls = iter(range(1000))
    with pytest.raises(Interrupted):
        train(recipes[1], tmp_path / "1", should_stop=lambda: next(calls) >= 5)
    started = []
    runs = in_one_pass(recipes, tmp_path, on_start=started.append)
    assert started == [0, 2, 3]
    assert not (runs[1] / "result.json").exists()
    assert json.loads((runs[1] / "checkpoints" / "step-00000005" / "state.json").read_text())["batch"] == 2


# --- which recipes go together


def test_recipes_go_together_that_read_the_same_and_have_one_shape(stores):
    base = tiny_recipe(stores)
    assert {key_of(recipe) for recipe in different(base)} == {key_of(base)}
    apart = [
        {"train__seed": 1},
        {"train__batch_size": 7},
        {"train__precision": "bf16"},
        {"train__optimizer": "sgd"},
        {"train__drop_streams": {"video": 0.1}},
        {"train__feature_dropout": {"video": 0.1}},
        {"head__d_model": 8},
        {"head__input_norm": False},
        {"fusion__d_state": 8},
        {"fusion__share": "none"},
        {"fusion__scan": "reference"},
        {"data__hold_out": "0/2"},
        {"use_streams": ["video"]},
        {"use_targets": ["verb"]},
        {"targets": {"verb": {"weight": 2.0}}},
    ]
    keys = [key_of(changed(base, **one)) for one in apart]
    assert None not in keys
    assert len({key_of(base), *keys}) == 1 + len(apart)


def test_a_head_or_a_key_that_a_pack_does_not_know_is_trained_alone(stores):
    base = tiny_recipe(stores)
    assert key_of(tiny_recipe(stores, head="transformer")) is None
    assert key_of(changed(base, train__accumulate=2)) is None
    assert key_of(changed(base, train__mixup=0.2)) is None
    assert key_of(changed(base, train__accumulate=1, train__mixup=0.0)) is not None


def test_probes_of_another_depth_are_trained_apart(stores):
    base = tiny_recipe(stores, head="attentive")
    apart = [{"attentive__depth": 1}, {"attentive__num_heads": 4}, {"attentive__max_positions": 0}]
    keys = [key_of(base), *(key_of(changed(base, **one)) for one in apart)]
    assert None not in keys
    assert len(set(keys)) == 4


@pytest.mark.parametrize("section", pack.KNOWN)
def test_every_key_that_a_pack_knows_is_one(section):
    from mambavl.fuse.attentive import AttentiveSettings
    from mambavl.fuse.fusion import FusionSettings
    from mambavl.fuse.optimizer import TrainConfig
    from mambavl.fuse.recipe import HeadSection
    from mambavl.fuse.targets import TargetConfig

    there = {
        "train": TrainConfig, "head": HeadSection, "fusion": FusionSettings, "attentive": AttentiveSettings,
        "targets": TargetConfig,
    }  # fmt: skip
    assert pack.KNOWN[section] <= there[section].model_fields.keys()


def test_packs_are_filled_in_order_and_of_the_size_asked_for(stores, tmp_path):
    grid = {"train": {"lr": [1e-2, 5e-3, 2e-3], "seed": [0, 1]}}
    recipes = [point.recipe for point in grid_of(stores, tmp_path, grid)]
    assert [recipe.train.seed for recipe in recipes] == [0, 1, 0, 1, 0, 1]
    assert packs(recipes) == [[0, 2, 4], [1, 3, 5]]
    assert packs(recipes, 2) == [[0, 2], [1, 3], [4], [5]]
    assert packs(recipes, 1) == [[0], [1], [2], [3], [4], [5]]
    wide = [changed(recipe, head__d_model=769) for recipe in recipes]
    assert packs(wide) == [[0], [1], [2], [3], [4], [5]]
    assert packs(wide, 3) == [[0, 2, 4], [1, 3, 5]]
    many = [changed(recipes[0], train__lr=1e-3 * (n + 1)) for n in range(25)]
    assert [len(one) for one in packs(many)] == [20, 5]
    assert [len(one) for one in packs([changed(one, head__d_model=192) for one in many])] == [8, 8, 8, 1]
    assert [len(one) for one in packs([changed(one, head__d_model=768) for one in many[:10]])] == [4, 4, 2]
    assert [len(one) for one in packs([changed(one, head__d_model=769) for one in many[:2]])] == [1, 1]
    plain = tiny_recipe(stores, head="mlp")
    sizes = [(width, len(packs([changed(plain, head__d_model=width)] * 3)[0])) for width in (256, 257)]
    assert sizes == [(256, 3), (257, 1)]
    assert [len(one) for one in packs(many, shares=3)] == [9, 9, 7]
    assert [len(one) for one in packs(many, 15, shares=3)] == [15, 10]
    alone = [changed(one, train__accumulate=2) for one in many[:3]]
    assert packs(alone) == [[0], [1], [2]]
