"""The loss of a batch: however many share it, the sum of what its rows and targets add."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers.tools import make_tool_stores, tool_recipe
from mambavl.configs.errors import UsageError
from mambavl.fuse.data import FeatureData
from mambavl.fuse.recipe import build_head, run_targets
from mambavl.fuse.steps import Steps


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    return make_tool_stores(tmp_path_factory.mktemp("tools"))


def steps_of(recipe, index=0, count=1):
    """One process of several, without the others."""
    data = FeatureData(recipe.sources, recipe.data)
    targets = run_targets(recipe, data)
    labels = {name: targets.labels(data.labels, name) for name in targets.outputs}
    processes = SimpleNamespace(index=index, count=count, device=torch.device("cpu"))
    found = Steps(build_head(recipe, data, targets), data, targets, labels, recipe.train, processes)
    found.begin(1)
    return found


def loss_and_gradient(steps, rows):
    loss = steps.loss(rows)
    loss.backward()
    return loss.item(), torch.cat([weight.grad.flatten() for weight in steps.model.parameters()])


@pytest.mark.parametrize("count", [2, 3, 4, 7])
@pytest.mark.parametrize("batch", [1, 5, 16])
def test_the_mean_over_processes_is_the_loss_of_the_whole_batch(stores, batch, count):
    """Rows without some label among them; more processes than rows, too."""
    recipe = tool_recipe(stores, ("targets.tool.weight", 0.5), ("head.dropout", 0.3))
    rows = FeatureData(recipe.sources, recipe.data).train[:batch]
    whole, gradient = loss_and_gradient(steps_of(recipe), rows)
    shared = [loss_and_gradient(steps_of(recipe, index, count), rows) for index in range(count)]
    assert np.mean([loss for loss, _ in shared]) == pytest.approx(whole, rel=1e-5)
    torch.testing.assert_close(
        torch.stack([of_rank for _, of_rank in shared]).mean(0), gradient, rtol=1e-4, atol=1e-6
    )


def test_a_precision_that_heads_are_not_trained_in_is_refused(stores, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(UsageError, match="mixed precision 'fp16'; heads train in fp32 or bf16"):
        steps_of(tool_recipe(stores))
    assert steps_of(tool_recipe(stores, precision="fp32")).precision == "fp32"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert steps_of(tool_recipe(stores)).precision == "bf16"
