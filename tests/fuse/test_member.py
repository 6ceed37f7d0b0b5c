"""A run between two updates: what is saved is taken up, what its curve says, whose fault a divergence is."""

import json

import numpy as np
import pytest
import torch

from helpers.tiny import make_dense_store, tiny_recipe
from mambavl.configs.errors import DataError
from mambavl.fuse.data import FeatureData
from mambavl.fuse.member import Member
from mambavl.fuse.optimizer import learning_rate
from mambavl.fuse.recipe import build_head, run_targets


def make_member(stores, run, **train_keys):
    recipe = tiny_recipe(stores, text=(stores / "text.zarr").exists(), **train_keys)
    data = FeatureData(recipe.sources, recipe.data)
    targets = run_targets(recipe, data)
    return Member(recipe, run, data, targets, build_head(recipe, data, targets), "fp32")


def update(member, seed):
    """With gradients drawn at random."""
    torch.manual_seed(seed)
    for group in member.optimizer.param_groups:
        group["lr"] = group["peak"] * member.factor(member.updates)
    for parameter in member.head.parameters():
        parameter.grad = torch.randn_like(parameter)
    member.optimizer.step()
    member.batch += 1


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_what_is_saved_is_taken_up(stores, tmp_path, optimizer):
    first = make_member(stores, tmp_path / "run", optimizer=optimizer)
    assert (first.updates_per_epoch, first.updates) == (3, 0)
    update(first, 0)
    first.begin_next({"epoch": 1})
    for seed in (1, 2):
        update(first, seed)
    first.loss_sum, first.seconds = 7.5, 3.25
    first.save()
    again = make_member(stores, tmp_path / "run", optimizer=optimizer)
    assert again.resume() == []
    assert (again.epoch, again.batch, again.updates, again.loss_sum, again.seconds) == (1, 2, 5, 7.5, 3.25)
    for member in (first, again):
        update(member, 3)
    for name, weight in first.head.state_dict().items():
        assert torch.equal(again.head.state_dict()[name], weight)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken_up(stores, tmp_path):
    member = make_member(stores, tmp_path / "run")
    for seed in (0, 1):
        update(member, seed)
        member.save()
    (tmp_path / "run" / "checkpoints" / "step-00000002" / "model.safetensors").write_bytes(b"damaged")
    again = make_member(stores, tmp_path / "run")
    [complaint] = again.resume()
    assert "step-00000002" in complaint
    assert again.batch == 1


def test_a_line_is_of_the_epoch_that_was_made_and_scored_when_due(stores, tmp_path):
    member = make_member(stores, tmp_path / "run", epochs=4, eval_every=3)
    scored = []
    for epoch in range(4):
        for seed in range(3):
            update(member, seed)
        member.loss_sum = 6.0
        line = member.line()
        assert (line["epoch"], line["loss"]) == (epoch + 1, 2.0)
        assert line["lr"] == pytest.approx(learning_rate(epoch + 2 / 3, member.config))  # of its last update
        scored.append("verb_top1" in line)
        member.begin_next(line)
    assert scored == [False, False, True, True]
    assert member.is_done


def test_checkpoints_are_written_every_so_many_epochs_and_none_after_the_last(stores, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    member = make_member(stores, run, epochs=4, checkpoint_every=2)
    there = []
    for epoch in range(4):
        update(member, epoch)
        member.begin_next({"epoch": epoch + 1})
        member.record({"epoch": epoch + 1})
        there.append(sorted(path.name for path in (run / "checkpoints").glob("*")))
    assert there == [[], ["step-00000006"], ["step-00000006"], ["step-00000006"]]
    lines = [json.loads(line) for line in (run / "curves.jsonl").read_text().splitlines()]
    assert lines == [{"epoch": epoch} for epoch in (1, 2, 3, 4)]
    again = make_member(stores, run, epochs=4)
    again.resume()
    assert again.cut_curves() == again.curve == lines[:2]
    assert len((run / "curves.jsonl").read_text().splitlines()) == again.epoch == 2


def test_a_divergence_names_rates_and_rows_and_broken_features_come_first(stores, tmp_path):
    make_dense_store(tmp_path / "video.zarr", 48, broken={(4, 0, 2): np.nan})
    whole, broken = make_member(stores, tmp_path / "run"), make_member(tmp_path, tmp_path / "run")
    views = np.zeros(48, np.int64)
    said = str(whole.diverged(np.array([4, 5]), views, float("inf"), 2.0))
    assert "loss inf, gradient norm 2 in epoch 1, batch 1" in said
    assert whole.data.segments[4].narration_id in said
    with pytest.raises(DataError, match=r"stream video: NaN at step 2"):
        broken.diverged(np.array([4, 5]), views, float("inf"), 2.0)
    assert "batch 1" in str(broken.diverged(np.array([5]), views, float("nan"), 2.0))
