"""Schedules that can be meant, rates against their formula, parameters in their groups."""

import math

import pytest
import torch

from helpers.tiny import tiny_recipe
from mambavl.configs import find_recipe, load
from mambavl.fuse.data import FeatureData
from mambavl.fuse.optimizer import Average, TrainConfig, build_optimizer, learning_rate, train_faults
from mambavl.fuse.recipe import Recipe, build_head, run_targets

PACKAGED = sorted(path.stem for path in find_recipe("fuse/default").parent.glob("*.toml"))


@pytest.mark.parametrize("name", PACKAGED)
def test_every_packaged_recipe_has_a_schedule_that_can_be_meant(name):
    assert not list(train_faults(load(f"fuse/{name}", Recipe).train))


def test_rows_that_are_alone_in_their_batch_cannot_be_mixed():
    [fault] = train_faults(TrainConfig(mixup=0.2, batch_size=1))
    assert "mixup mixes rows of a batch, and batch_size = 1; set train.batch_size=2" in fault
    assert not list(train_faults(TrainConfig(mixup=0.2, batch_size=2)))
    assert not list(train_faults(TrainConfig(batch_size=1)))


def test_the_schedule_warms_up_and_falls_along_half_a_cosine():
    config = TrainConfig()
    assert learning_rate(0, config) == config.lr_start
    assert learning_rate(1, config) == pytest.approx((config.lr_start + config.lr) / 2)
    assert learning_rate(2, config) == config.lr
    assert learning_rate(16, config) == pytest.approx((config.lr + config.lr_end) / 2)
    assert learning_rate(30, config) == pytest.approx(config.lr_end)


def test_a_cosine_that_begins_at_epoch_0_is_met_by_the_warm_up_below_its_peak():
    """The released recipe's: half-way, at epoch 50 of 100, it is the mean of peak and end."""
    config = load("fuse/released", Recipe).train
    assert (config.lr, config.lr_start, config.lr_end, config.epochs) == (1e-3, 3e-6, 3e-5, 100)
    assert learning_rate(50, config) == pytest.approx(5.15e-4)
    top = 3e-5 + 9.7e-4 * (1 + math.cos(math.pi * 2 / 100)) / 2
    assert learning_rate(2, config) == pytest.approx(top)
    assert top < 0.9995e-3
    assert learning_rate(1, config) == pytest.approx((3e-6 + top) / 2)
    assert learning_rate(0, config) == 3e-6
    assert learning_rate(100, config) == pytest.approx(3e-5)


def test_an_average_counts_each_update_so_many_times_the_one_after_it_and_not_the_start():
    head = torch.nn.Linear(2, 1)  # any weights will do
    average = Average(head, 0.5)
    for number, value in enumerate((1.0, 3.0, 5.0), start=1):
        torch.nn.init.constant_(head.weight, value)
        average.update(head, number)
    assert average.head.weight.flatten().tolist() == pytest.approx([(1 / 4 + 3 / 2 + 5) / (7 / 4)] * 2)
    assert head.weight.flatten().tolist() == [5.0] * 2


@pytest.mark.parametrize(
    "config", [TrainConfig(), TrainConfig(optimizer="sgd"), TrainConfig(optimizer="sgd", momentum=0.0)]
)
def test_the_numbers_are_those_of_a_loop_over_the_parameters(stores, config):
    """To the bit: runs of before go on."""
    found = []
    for is_loop in (False, True):
        recipe = tiny_recipe(stores)
        data = FeatureData(recipe.streams, recipe.data)
        head = build_head(recipe, data, run_targets(recipe, data))
        optimizer, generator = build_optimizer(head, config), torch.Generator().manual_seed(0)
        for group in optimizer.param_groups:
            assert group["foreach"]
            group["lr"], group["foreach"] = group["peak"], not is_loop
        for _ in range(5):
            for weight in head.parameters():
                weight.grad = torch.randn(weight.shape, generator=generator)
            optimizer.step()
        found.append(torch.cat([weight.detach().flatten() for weight in head.parameters()]))
    assert torch.equal(*found)


def test_parameter_groups_follow_the_rules(stores):
    loaded = tiny_recipe(stores)
    data = FeatureData(loaded.streams, loaded.data)
    head = build_head(loaded, data, run_targets(loaded, data))
    names = {id(p): n for n, p in head.named_parameters()}
    groups = build_optimizer(head, TrainConfig()).param_groups
    found = {
        names[id(p)]: (group["peak"], group["weight_decay"]) for group in groups for p in group["params"]
    }
    assert len(found) == len(names)
    assert found["a_log.shared"] == (3e-3, 0.0)
    assert found["d_skip.video"] == (3e-3, 0.0)
    assert found["mixer.video.dt_proj.bias"] == (3e-3, 0.0)
    assert found["mixer.video.in_proj.weight"] == (3e-3, 0.05)
    assert found["project.text.0.weight"] == (1e-3, 0.0)  # a norm
    assert found["project.text.1.weight"] == (1e-3, 0.05)
    assert found["verb_head.bias"] == (1e-3, 0.0)
