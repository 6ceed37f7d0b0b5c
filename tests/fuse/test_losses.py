"""Losses of a batch, by their formulas and counted by hand."""

import math

import numpy as np
import pytest
import torch

from mambavl.cache.classes import Classes, Target
from mambavl.fuse.losses import loss, losses_of_heads
from mambavl.fuse.targets import TargetConfig, choose

OWN = Classes(
    targets={
        "tool": Target({0: "knife", 1: "spoon", 2: "fork"}, 3),
        "scene": Target({0: "in", 1: "night", 2: "wet"}, 3, "multi"),
    }
)
LABELS = {
    "tool": np.array([2, 0, -1, 2, 0]),
    "scene": np.array([[1, 0, 1], [0, 0, 0], [-1] * 3, [-1] * 3, [0, 1, 0]], np.int8),
}


def focal(**keys):
    config = TargetConfig(loss="focal", **keys)
    return choose(OWN, None, {"tool": config, "scene": config}, {})


def logits_of(seed, scale=1.0):
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(seed)) * scale


def test_single_label_losses_are_cross_entropies_over_labelled_rows():
    """By the formula: -sum_c q_c log p_c with q = (1 - s) one-hot + s / C."""
    targets, logits = choose(OWN, None, {}, {}), torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    found = loss("tool", targets, logits, LABELS["tool"], 0.25)
    per_row = []
    for row, label in enumerate(LABELS["tool"].tolist()):
        if label >= 0:
            logs = logits[row].double() - logits[row].double().exp().sum().log()
            wanted = torch.full((3,), 0.25 / 3, dtype=torch.float64)
            wanted[label] += 0.75
            per_row.append(-(wanted * logs).sum())
    assert len(per_row) == 4
    torch.testing.assert_close(found.double(), torch.stack(per_row).mean(), rtol=1e-6, atol=0)


def test_multi_label_losses_are_binary_and_masked():
    targets, logits = choose(OWN, None, {}, {}), torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    logits.requires_grad_()
    found = loss("scene", targets, logits, LABELS["scene"], 0.25)
    terms = []
    for row in (0, 1, 4):
        for column in range(3):
            p = 1 / (1 + math.exp(-logits[row, column].item()))
            terms.append(-math.log(p if LABELS["scene"][row, column] else 1 - p))
    assert found.item() == pytest.approx(sum(terms) / 9, rel=1e-6)
    found.backward()
    assert (logits.grad[[2, 3]] == 0).all()
    assert (logits.grad[[0, 1, 4]] != 0).all()


@pytest.mark.parametrize("name", ["tool", "scene"])
def test_a_batch_without_a_label_costs_nothing_and_keeps_its_gradient(name):
    targets, logits = choose(OWN, None, {}, {}), torch.randn(2, 3, requires_grad=True)
    labels = np.full_like(LABELS[name][:2], -1)
    found = loss(name, targets, logits, labels, 0.1)
    found.backward()
    assert found.item() == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("name", ["tool", "scene"])
def test_a_loss_is_float32_whatever_the_logits_are(name):
    targets, logits = choose(OWN, None, {}, {}), logits_of(2).bfloat16()
    found = loss(name, targets, logits, LABELS[name], 0.1)
    assert found.dtype == torch.float32
    assert torch.equal(found, loss(name, targets, logits.float(), LABELS[name], 0.1))


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_a_focal_loss_weighs_each_class_of_the_label_by_what_is_missed(gamma):
    """-sum_c q_c (1 - p_c)^gamma log p_c with q = (1 - s) one-hot + s / C."""
    logits, total = logits_of(2, scale=3.0), 0.0
    for row, label in enumerate(LABELS["tool"].tolist()):
        if label >= 0:
            exps = [math.exp(value) for value in logits[row].tolist()]
            for column in range(3):
                p = exps[column] / sum(exps)
                q = 0.25 / 3 + (0.75 if column == label else 0.0)
                total -= q * (1 - p) ** gamma * math.log(p)
    found = loss("tool", focal(gamma=gamma), logits, LABELS["tool"], 0.25)
    assert found.item() == pytest.approx(total / 4, rel=1e-5)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_a_binary_focal_loss_weighs_each_class_by_what_is_missed(gamma):
    logits, terms = logits_of(3, scale=3.0), []
    for row in (0, 1, 4):
        for column in range(3):
            p = 1 / (1 + math.exp(-logits[row, column].item()))
            p = p if LABELS["scene"][row, column] else 1 - p
            terms.append(-((1 - p) ** gamma) * math.log(p))
    found = loss("scene", focal(gamma=gamma), logits, LABELS["scene"], 0.25)
    assert found.item() == pytest.approx(sum(terms) / 9, rel=1e-5)


@pytest.mark.parametrize("targets", [choose(OWN, None, {}, {}), focal()], ids=["entropy", "focal"])
@pytest.mark.parametrize("name", ["tool", "scene"])
def test_shares_multiply_the_losses_of_their_rows(name, targets):
    logits, shares = logits_of(6), torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])
    alone = [loss(name, targets, logits[[row]], LABELS[name][[row]], 0.25) for row in range(5)]
    labelled = [row for row in range(5) if LABELS[name].reshape(5, -1)[row, 0] >= 0]
    found = loss(name, targets, logits, LABELS[name], 0.25, shares)
    expected = sum(shares[row] * alone[row] for row in labelled) / len(labelled)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["tool", "scene"])
def test_a_gamma_of_zero_is_cross_entropy(name):
    plain = choose(OWN, None, {}, {})
    found = {}
    for targets in (plain, focal(gamma=0.0)):
        logits = logits_of(4).requires_grad_()
        value = loss(name, targets, logits, LABELS[name], 0.25)
        value.backward()
        found[targets is plain] = value.item(), logits.grad
    assert found[True][0] == pytest.approx(found[False][0], rel=1e-6)
    torch.testing.assert_close(found[True][1], found[False][1])


def test_gamma_is_two_where_nothing_is_said():
    given, default = (
        loss("tool", targets, logits_of(5), LABELS["tool"], 0.0) for targets in (focal(gamma=2.0), focal())
    )
    assert given == default


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("name", ["tool", "scene"])
def test_what_is_sure_beyond_rounding_has_a_finite_gradient(name, gamma):
    """p is 1 in one class and 0 in another, right and wrong."""
    logits = torch.tensor([[200.0, -200.0, 0.0]] * 5, requires_grad=True)
    loss(name, focal(gamma=gamma), logits, LABELS[name], 0.0).backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[2] == 0).all()


@pytest.mark.parametrize("name", ["tool", "scene"])
@pytest.mark.parametrize("kind", ["plain", "focal"])
def test_losses_of_heads_are_those_of_each(name, kind):
    targets = choose(OWN, None, {}, {}) if kind == "plain" else focal(gamma=2.0)
    smoothing = [0.0, 0.1, 0.5]
    logits = torch.stack([logits_of(seed, scale=3.0) for seed in range(3)]).requires_grad_()
    found = losses_of_heads(name, targets, logits, LABELS[name], smoothing)
    found.sum().backward()
    for number, share in enumerate(smoothing):
        own = logits.detach()[number].clone().requires_grad_()
        alone = loss(name, targets, own, LABELS[name], share)
        alone.backward()
        torch.testing.assert_close(found[number], alone, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(logits.grad[number], own.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["tool", "scene"])
def test_a_batch_without_a_label_costs_no_head_anything(name):
    logits = torch.randn(2, 2, 3, requires_grad=True)
    labels = np.full_like(LABELS[name][:2], -1)
    found = losses_of_heads(name, choose(OWN, None, {}, {}), logits, labels, [0.1, 0.0])
    found.sum().backward()
    assert found.tolist() == [0.0, 0.0]
    assert (logits.grad == 0).all()
