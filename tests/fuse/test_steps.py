"""The loss of a batch: however many share it, the sum of what its rows and targets add."""

import numpy as np
import pytest
import torch

from helpers.tools import make_tool_stores, tool_recipe
from mambavl.configs.errors import UsageError
from mambavl.fuse.data import FeatureData
from mambavl.fuse.processes import Processes
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
    processes = Processes()
    processes.index, processes.count = index, count
    found = Steps(build_head(recipe, data, targets), data, targets, labels, recipe.train, processes)
    found.begin(1)
    return found


def loss_and_gradient(steps, rows):
    step = steps.forward(rows)
    step.last.backward()
    return step.value.item(), torch.cat([weight.grad.flatten() for weight in steps.model.parameters()])


def recipe_of(stores, **train_keys):
    return tool_recipe(stores, ("targets.tool.weight", 0.5), ("head.dropout", 0.3), **train_keys)


@pytest.mark.parametrize(("count", "parts"), [(2, 1), (3, 1), (4, 1), (7, 1), (1, 3), (2, 2), (3, 8)])
@pytest.mark.parametrize("batch", [1, 5, 16])
def test_the_mean_over_processes_is_the_loss_of_the_whole_batch(stores, batch, count, parts):
    """Rows without some label among them; more processes or parts than rows, too."""
    recipe = recipe_of(stores)
    rows = FeatureData(recipe.sources, recipe.data).train[:batch]
    whole, gradient = loss_and_gradient(steps_of(recipe), rows)
    recipe = recipe_of(stores, accumulate=parts)
    shared = [loss_and_gradient(steps_of(recipe, index, count), rows) for index in range(count)]
    assert np.mean([loss for loss, _ in shared]) == pytest.approx(whole, rel=1e-5)
    torch.testing.assert_close(
        torch.stack([of_rank for _, of_rank in shared]).mean(0), gradient, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(
    ("count", "parts", "sizes"), [(1, 1, [10]), (1, 4, [3, 3, 2, 2]), (1, 30, [1] * 10), (3, 2, [2, 2])]
)
def test_a_part_is_computed_alone(stores, count, parts, sizes):
    """Ten rows: of one process, or the first of three, which has four of them."""
    recipe, seen = recipe_of(stores, accumulate=parts), []
    steps = steps_of(recipe, 0, count)
    steps.model.register_forward_hook(lambda head, given, out: seen.append(len(out["tool"])))
    steps.forward(steps.data.train[:10])
    assert seen == sizes


@pytest.mark.parametrize(("count", "parts"), [(2, 1), (3, 2), (1, 4), (7, 3)])
@pytest.mark.parametrize("batch", [1, 2, 7, 16])
def test_mixed_rows_are_the_same_however_many_share_them(stores, batch, count, parts):
    """Rows whose partner has no label of a target among them, and one without a partner."""
    recipe = recipe_of(stores, mixup=0.5)
    rows = FeatureData(recipe.sources, recipe.data).train[:batch]
    whole, gradient = loss_and_gradient(steps_of(recipe), rows)
    if batch > 1:
        assert whole != loss_and_gradient(steps_of(recipe_of(stores)), rows)[0]
    recipe = recipe_of(stores, mixup=0.5, accumulate=min(parts, 8))
    shared = [loss_and_gradient(steps_of(recipe, index, count), rows) for index in range(count)]
    assert np.mean([loss for loss, _ in shared]) == pytest.approx(whole, rel=1e-5)
    torch.testing.assert_close(
        torch.stack([of_rank for _, of_rank in shared]).mean(0), gradient, rtol=1e-4, atol=1e-6
    )


def test_a_mixed_loss_is_weighed_by_hand(stores):
    """Of four rows, the second of which has a tool alone: of each target the shares of the labels that there
    are, over as many rows as have one.
    """
    recipe = tool_recipe(stores, ("head.dropout", 0.0), mixup=0.5, label_smoothing=0.0)
    steps, rows = steps_of(recipe), np.array([2, 3, 4, 5])
    found = steps.forward(rows).value.item()
    fused = steps.model.fuse(steps.batch(rows))
    kept, expected = torch.from_numpy(steps.shares[rows]), 0.0
    for target in ("tool", "grip", "place"):
        labels, other = steps.labels[target][rows], [1, 0, 3, 2]
        x = kept[:, None] * fused[target] + (1 - kept[:, None]) * fused[target][other]
        logs = steps.model.classifiers[target](x).log_softmax(-1)
        costs = [
            -share * logs[row, label]
            for row in range(4)
            for share, label in ((kept[row], labels[row]), (1 - kept[row], labels[other[row]]))
            if label >= 0
        ]
        expected += (sum(costs) / (labels >= 0).sum()).item()
    expected += scene_loss(steps, fused, kept, rows)
    assert found == pytest.approx(expected, rel=1e-5)


def scene_loss(steps, fused, kept, rows):
    labels, other, total = steps.labels["scene"][rows], [1, 0, 3, 2], 0.0
    x = kept[:, None] * fused["scene"] + (1 - kept[:, None]) * fused["scene"][other]
    p = steps.model.classifiers["scene"](x).sigmoid()
    for row in range(4):
        for share, wanted in ((kept[row], labels[row]), (1 - kept[row], labels[other[row]])):
            if wanted[0] >= 0:
                hits = torch.where(torch.from_numpy(wanted) == 1, p[row], 1 - p[row])
                total -= (share * hits.log().mean()).item()
    return total / (labels[:, 0] >= 0).sum()


def test_a_precision_that_heads_are_not_trained_in_is_refused(stores, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(UsageError, match="mixed precision 'fp16'; heads train in fp32 or bf16"):
        steps_of(tool_recipe(stores))
    assert steps_of(tool_recipe(stores, precision="fp32")).precision == "fp32"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert steps_of(tool_recipe(stores)).precision == "bf16"
