"""Scores of several runs as one, against counts by hand and a twin in plain loops."""

import math

import numpy as np
import pytest

from mambavl.fuse import fused
from mambavl.fuse.metrics import mean_class_recall5


def drawn(rows, columns, runs, seed=0):
    """Log-probabilities of some runs, their priors, and labels."""
    rng = np.random.default_rng(seed)
    logs = [log_softmax(rng.normal(size=(rows, columns)) * 2) for _ in range(runs)]
    priors = [log_softmax(rng.normal(size=(1, columns)))[0] for _ in range(runs)]
    return logs, priors, rng.integers(0, columns, rows)


def log_softmax(scores):
    return (scores - np.log(np.exp(scores).sum(-1, keepdims=True))).astype(np.float32)


def by_hand():
    """Three rows of six classes, so that a label is missed where it is the worst of all. Classes 3 and 4 are
    always far above; the margins over class 5, of scores w A + (1 - w) B - e prior:

        row of class 0     - w + (1 - w)           above 0 where w < 1/2
        row of class 1     w - (1 - w) / 2         above 0 where w > 1/3
        row of class 2     -0.4 + e                above 0 where e > 0.4: it is rare
    """
    one, other = np.full((3, 6), 3.0, np.float32), np.full((3, 6), 3.0, np.float32)
    one[:, 5] = other[:, 5] = 0.0
    one[0, 0], other[0, 0] = -1.0, 1.0
    one[1, 1], other[1, 1] = 1.0, -0.5
    one[2, 2] = other[2, 2] = -0.4
    prior = np.array([0, 0, -1, 0, 0, 0], np.float32)
    return [one, other], [prior, prior], np.array([0, 1, 2])


def test_the_best_weights_and_exponent_are_those_worked_out_by_hand():
    """w between 1/3 and 1/2 is 0.4, e above 0.4 is 0.5; 0.75 and 1 are as good, and later."""
    logs, priors, labels = by_hand()
    assert fused.choose(logs, priors, labels, labels) == fused.Choice(
        weights=(0.4, 0.6), exponent=0.5, recall5=100.0, among=55, equal=3, rows=3
    )


def test_the_recall_of_every_candidate_is_the_one_worked_out_by_hand():
    """At w = 1/2 the first row's label ties with class 5 for the last place: half a hit."""
    logs, priors, labels = by_hand()
    weights = fused.simplex(2)
    found = fused.recalls(logs, priors, labels, labels, weights, fused.EXPONENTS)
    for (w, _), of_weight in zip(weights, found, strict=True):
        first = 1.0 if w < 0.5 else 0.5 if w == 0.5 else 0.0
        for e, recall in zip(fused.EXPONENTS, of_weight, strict=True):
            hits = first + (w > 1 / 3) + (e > 0.4)
            assert recall == pytest.approx(100 * hits / 3), (w, e)


def test_weights_are_all_tenths_that_sum_to_one_the_first_run_first():
    assert fused.simplex(1) == [(1.0,)]
    assert fused.simplex(2) == [(k / 10, (10 - k) / 10) for k in range(10, -1, -1)]
    assert fused.simplex(3, steps=2) == [
        (1.0, 0.0, 0.0),
        (0.5, 0.5, 0.0),
        (0.5, 0.0, 0.5),
        (0.0, 1.0, 0.0),
        (0.0, 0.5, 0.5),
        (0.0, 0.0, 1.0),
    ]
    for runs in (2, 3, 4):
        found = fused.simplex(runs)
        assert len(found) == len(set(found)) == math.comb(10 + runs - 1, runs - 1)
        assert all(round(10 * sum(one)) == 10 and min(one) >= 0 for one in found)


@pytest.mark.parametrize(("runs", "rows"), [(1, 40), (2, 300), (3, 90)])
def test_recalls_are_those_of_a_loop_over_whole_rows(runs, rows):
    """More rows than are taken at once, too; labels of 30 classes, of which some have no column."""
    logs, priors, labels = drawn(rows, 24, runs, seed=runs)
    rng = np.random.default_rng(9)
    classes = np.where(rng.random(rows) < 0.1, 24 + labels % 6, labels)
    columns = np.where(classes < 24, classes, -1)
    weights, exponents = fused.simplex(runs, 4), (0.0, 0.5, 1.0)
    found = fused.recalls(logs, priors, columns, classes, weights, exponents)
    for w, shares in enumerate(weights):
        for e, exponent in enumerate(exponents):
            hits = {}
            for row in range(rows):
                scores = sum(
                    share * (log[row].astype(float) - exponent * prior)
                    for share, log, prior in zip(shares, logs, priors, strict=True)
                )
                best = np.argsort(-scores)[:5]
                hits.setdefault(classes[row], []).append(columns[row] in best)
            assert found[w, e] == pytest.approx(100 * np.mean([np.mean(one) for one in hits.values()]))


def test_the_recall_of_the_choice_is_that_of_the_mixture():
    logs, priors, labels = drawn(200, 12, 2)
    choice = fused.choose(logs, priors, labels, labels)
    mixed = fused.loglinear(logs, priors, choice.weights, choice.exponent)
    assert mean_class_recall5(mixed, labels) == pytest.approx(choice.recall5)
    assert choice.recall5 > mean_class_recall5(logs[0], labels)


def test_where_nothing_is_better_the_first_run_stands_alone():
    """Of five classes all are among the best five."""
    logs, priors, labels = drawn(30, 5, 2)
    choice = fused.choose(logs, priors, labels, labels)
    assert (choice.weights, choice.exponent, choice.equal) == ((1.0, 0.0), 0.0, 55)


def test_a_mixture_is_the_product_of_powers_over_that_of_the_priors():
    logs, priors, _ = drawn(150, 7, 3)
    weights, exponent = (0.2, 0.5, 0.3), 0.75
    found = fused.loglinear(logs, priors, weights, exponent)
    expected = np.ones((150, 7))
    for weight, log, prior in zip(weights, logs, priors, strict=True):
        expected *= (np.exp(log.astype(float)) / np.exp(prior.astype(float)) ** exponent) ** weight
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(np.exp(found), expected, rtol=1e-4)
    assert found.dtype == np.float32


def test_a_run_of_weight_0_has_no_say_where_its_probability_is_0():
    logs, priors, _ = drawn(4, 6, 2)
    logs[1][:, 2] = -np.inf
    np.testing.assert_allclose(fused.loglinear(logs, priors, (1.0, 0.0), 0.0), logs[0], atol=1e-5)
    found = fused.loglinear(logs, priors, (0.9, 0.1), 0.0)
    assert (found[:, 2] == -np.inf).all()
    assert np.isfinite(np.delete(found, 2, axis=1)).all()
    recalls = fused.recalls(logs, priors, np.full(4, 2), np.full(4, 2), [(1.0, 0.0), (0.9, 0.1)], [0.0])
    assert recalls[1, 0] == 0.0
    assert not np.isnan(recalls).any()


def test_a_mean_is_of_probabilities():
    logs, _, _ = drawn(200, 6, 3)
    logs[0][5, 1] = -np.inf  # a probability of 0
    logs[1][6] = [-200, 0, -200, -200, -200, -200]  # float32 knows no exp(-200)
    logs[0][6] = logs[2][6] = logs[1][6]
    found = fused.mean(logs)
    np.testing.assert_allclose(np.exp(found), np.mean([np.exp(one) for one in logs], axis=0), rtol=1e-5)
    np.testing.assert_allclose(found[6], logs[1][6], rtol=1e-6, atol=1e-6)


def test_a_mean_by_weights_is_of_probabilities_and_weight_0_has_no_say():
    logs, _, _ = drawn(150, 6, 2)
    expected = 0.3 * np.exp(logs[0].astype(float)) + 0.7 * np.exp(logs[1].astype(float))
    np.testing.assert_allclose(np.exp(fused.mean(logs, (0.3, 0.7))), expected, rtol=1e-5)
    np.testing.assert_array_equal(fused.mean(logs, (1.0, 0.0)), logs[0])


def test_a_confident_run_says_more():
    """Two runs, two classes: 0.9 x (0.9, 0.1) + 0.6 x (0.4, 0.6) = (1.05, 0.45), so 0.7 and 0.3; the mean
    would say 0.65. With weights 1/4, 3/4: (0.3825, 0.2925) / 0.675.
    """
    logs = [np.log(np.array([row], np.float32)) for row in ([0.9, 0.1], [0.4, 0.6])]
    np.testing.assert_allclose(np.exp(fused.summed(logs, "confidence", (0.5, 0.5))), [[0.7, 0.3]], rtol=1e-6)
    found = np.exp(fused.summed(logs, "confidence", (0.25, 0.75)))
    np.testing.assert_allclose(found, [[0.3825 / 0.675, 0.2925 / 0.675]], rtol=1e-6)


def test_reciprocal_ranks_know_places_alone():
    """Places 1, 2, 3 and 3, 1.5, 1.5, whatever lies between the scores."""
    logs = [np.array([[-0.1, -3.0, -9.0]], np.float32), np.array([[-5.0, -1.0, -1.0]], np.float32)]
    said = np.array([1 / 61 + 1 / 63, 1 / 62 + 1 / 61.5, 1 / 63 + 1 / 61.5])
    found = fused.summed(logs, "rrf", (0.5, 0.5))
    np.testing.assert_allclose(np.exp(found), [said / said.sum()], rtol=1e-6)
    assert found.argmax(1).tolist() == [1]
    by_weight = np.array([0.9 / 61 + 0.1 / 63, 0.9 / 62 + 0.1 / 61.5, 0.9 / 63 + 0.1 / 61.5])
    np.testing.assert_allclose(
        np.exp(fused.summed(logs, "rrf", (0.9, 0.1))), [by_weight / by_weight.sum()], rtol=1e-6
    )


def test_ranks_are_those_of_a_count():
    """1 + how many are above + half of how many others tie."""
    rng = np.random.default_rng(4)
    scores = rng.integers(0, 5, (40, 9)).astype(np.float32)
    for row, found in zip(scores, fused.ranks(scores), strict=True):
        expected = [1 + (row > one).sum() + ((row == one).sum() - 1) / 2 for one in row]
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("rule", ["mean", "confidence", "rrf"])
def test_weights_of_every_rule_are_chosen_by_the_recall_of_its_mixture(rule):
    """More rows than are taken at once; every candidate anew, by a mixture of all rows."""
    logs, priors, labels = drawn(300, 12, 2, seed=3)
    weights = fused.simplex(2)
    found = fused.recalls(logs, priors, labels, labels, weights, (0.0,), rule)
    mix = lambda shares: fused.mean(logs, shares) if rule == "mean" else fused.summed(logs, rule, shares)
    expected = [mean_class_recall5(mix(shares), labels) for shares in weights]
    # a tie of two sums of places may fall apart in the last digit of one of the two
    np.testing.assert_allclose(found[:, 0], expected, atol=0.5 if rule == "rrf" else 1e-9)
    choice = fused.choose(logs, priors, labels, labels, rule)
    assert choice.weights == weights[int(found[:, 0].argmax())]
    assert (choice.exponent, choice.among) == (0.0, 11)


def test_no_run_is_alone_by_any_rule_what_it_is_not():
    """By weights 1, 0 the mean is the run, and all rules rank as it does."""
    logs, priors, labels = drawn(60, 9, 2)
    own = mean_class_recall5(logs[0], labels)
    for rule in ("loglinear", "mean", "confidence", "rrf"):
        found = fused.recalls(logs, priors, labels, labels, [(1.0, 0.0)], (0.0,), rule)
        assert found[0, 0] == pytest.approx(own), rule


def test_an_exponent_of_the_run_s_own_is_taken_out_and_the_prior_s_rows_stay():
    [log], [prior], _ = drawn(140, 9, 1)
    scored = log_softmax(log - 0.75 * prior.astype(float))
    by_prior = np.isin(np.arange(140), [3, 139])
    scored[by_prior] = prior
    found = fused.without_exponent(scored, prior, 0.75, by_prior)
    expected = log.copy()
    expected[by_prior] = prior
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(found[by_prior], expected[by_prior])


def test_rows_of_the_prior_tie_throughout_at_exponent_1():
    """Also where they were kept in half precision: five of nine are among the best five, in any order."""
    [log], [prior], _ = drawn(20, 9, 1)
    by_prior = np.arange(20) < 15
    kept = np.where(by_prior[:, None], prior, log).astype(np.float16).astype(np.float32)
    found = fused.without_exponent(kept, prior, 0.0, by_prior)
    np.testing.assert_array_equal(found[15:], kept[15:])
    one = np.zeros(15, int)
    recalls = fused.recalls([found[:15]] * 2, [prior, prior], one, one, fused.simplex(2), [1.0])
    np.testing.assert_allclose(recalls, 100 * 5 / 9)
