"""Intervals over videos and tests over seeds: against loops, closed forms and simulated coin tosses."""

import math

import numpy as np
import pytest

from mambavl.fuse import bca
from mambavl.fuse.paired import ClassMeans, Difference, Interval, sign_flips

DICE = np.random.default_rng(5)
LABEL = DICE.integers(0, 7, 300)
VIDEO = [f"P{number:02d}" for number in DICE.integers(0, 12, 300)]


def by_hand(hits, label, rows):
    """Class mean over rows that may stand there several times."""
    classes = {}
    for row in rows:
        classes.setdefault(label[row], []).append(hits[row])
    return 100 * sum(sum(own) / len(own) for own in classes.values()) / len(classes)


def test_the_value_is_the_class_mean():
    hits = DICE.random((2, 300))
    means = ClassMeans(LABEL, VIDEO)
    assert means.of(hits[0]) == pytest.approx(by_hand(hits[0], LABEL, range(300)))
    both = np.mean([by_hand(one, LABEL, range(300)) for one in hits])
    assert means.interval(hits).value == pytest.approx(both)


def test_the_interval_is_that_of_a_loop_over_drawn_videos():
    hits, draws = DICE.random((3, 300)), 200
    label = np.where(np.arange(300) < 1, 99, LABEL)  # a class that many draws lack
    found = ClassMeans(label, VIDEO, draws=draws, seed=3).interval(hits)
    videos = sorted(set(VIDEO))
    of = {video: [row for row, own in enumerate(VIDEO) if own == video] for video in videos}
    times = np.random.default_rng(3).multinomial(len(videos), [1 / len(videos)] * len(videos), draws)
    values = []
    for drawn in times:
        rows = [
            row for video, count in zip(videos, drawn, strict=True) for _ in range(count) for row in of[video]
        ]
        values.append(np.mean([by_hand(one, label, rows) for one in hits]))
    moved = found.value - np.mean(values)  # to around the value
    assert abs(moved) > 1e-3
    assert found.low == pytest.approx(np.quantile(values, 0.025) + moved)
    assert found.high == pytest.approx(np.quantile(values, 0.975) + moved)


def test_a_difference_that_all_rows_share_has_no_width():
    hits = np.tile(DICE.random(300) * 0.5, (6, 1))
    means = ClassMeans(LABEL, VIDEO)
    found = means.difference(hits + 0.25, hits)
    assert found.interval == pytest.approx((25, 25, 25))
    assert found.p == 2 / 64
    assert found.is_real
    alone = means.difference(hits + 0.25, hits[:1])  # the other has no seeds
    assert alone.interval == pytest.approx((25, 25, 25))
    assert means.interval(hits).high - means.interval(hits).low > 1  # though each of them has


def test_a_corrected_interval_is_that_of_a_loop_over_drawn_videos_and_seeds():
    """Of three pairs two are drawn, with replacement; the draws are moved to around the value, then BCa."""
    hits, others, draws = DICE.random((3, 300)), DICE.random((3, 300)) ** 2, 150
    label = np.where(np.arange(300) < 1, 99, LABEL)  # a class that many draws lack
    means = ClassMeans(label, VIDEO, draws=draws, seed=3)
    videos = sorted(set(VIDEO))
    of = {video: [row for row, own in enumerate(VIDEO) if own == video] for video in videos}
    drawn_videos = np.random.default_rng(3).multinomial(len(videos), [1 / len(videos)] * len(videos), draws)
    drawn_seeds = np.random.default_rng([3, 3]).multinomial(2, [1 / 3] * 3, draws)
    values = []
    for times, seeds in zip(drawn_videos, drawn_seeds, strict=True):
        rows = [
            row for video, count in zip(videos, times, strict=True) for _ in range(count) for row in of[video]
        ]
        pairs = [pair for pair, count in enumerate(seeds) for _ in range(count)]
        apart = [by_hand(hits[pair], label, rows) - by_hand(others[pair], label, rows) for pair in pairs]
        values.append(sum(apart) / 2)
    rest = [[row for row in range(300) if VIDEO[row] != video] for video in videos]
    without = [
        np.mean([by_hand(hits[i], label, rows) - by_hand(others[i], label, rows) for i in range(3)])
        for rows in rest
    ]
    value = np.mean(
        [by_hand(hits[i], label, range(300)) - by_hand(others[i], label, range(300)) for i in range(3)]
    )
    moved = np.array(values) - np.mean(values) + value
    sizes = [len(of[video]) for video in videos]
    worth = sum(sizes) ** 2 / sum(size**2 for size in sizes)
    expected = bca.interval(value, moved, np.array(without), units=worth, level=0.1)
    found = means.corrected(hits, others, 0.1)
    assert found == pytest.approx((value, *expected))
    assert means.without_each(hits - others) == pytest.approx(without)
    assert means.worth == pytest.approx(worth)


def test_seeds_that_differ_widen_a_corrected_interval():
    """All videos say the same of each seed: draws of videos alone show nothing."""
    hits = np.repeat([[0.2], [0.5], [0.8]], 300, 1)
    means = ClassMeans(LABEL, VIDEO)
    plain = means.difference(hits, np.zeros((1, 300))).interval
    assert plain == pytest.approx((50, 50, 50))
    found = means.corrected(hits, np.zeros((1, 300)))
    assert found.low < 25
    assert found.high > 75
    assert means.corrected(hits[:1], np.zeros((1, 300))) == pytest.approx((20, 20, 20))


def test_draws_of_seeds_vary_as_their_mean_does():
    """The variance of a mean of n is s^2 / n; n drawn of n would have (n - 1) / n of it."""
    hits = DICE.random((6, 1)) * np.ones((6, 300))
    means = ClassMeans(LABEL, VIDEO, draws=20_000)
    draws = means._crossed(hits)
    assert draws.var() == pytest.approx((100 * hits[:, 0]).var(ddof=1) / 6, rel=0.05)


def test_videos_of_equal_size_are_worth_their_number():
    assert ClassMeans(np.zeros(30, int), ["a", "b", "c"] * 10).worth == pytest.approx(3)
    assert ClassMeans(np.zeros(6, int), list("aaaabc")).worth == pytest.approx(36 / 18)


def test_with_one_class_it_is_the_share_of_rows():
    hits = DICE.random((2, 300)) < 0.3
    means = ClassMeans(np.zeros(300, int), VIDEO)
    assert means.of(hits[0]) == pytest.approx(100 * hits[0].mean())
    assert means.by_seed(hits, np.zeros((1, 300))) == pytest.approx(list(100 * hits.mean(1)))


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1, 2, 3, 4, 5, 6], 2 / 64),
        ([-1, -2, -3, -4, -5, -6], 2 / 64),
        # sums of signs of 1, 1, 1, 1 that are 2 or more away from 0: all but the 6 of two against two
        ([1, 1, 1, -1], 10 / 16),
        ([3, 1], 1 / 2),
        ([2], 1.0),
        ([0, 0, 0], 1.0),
        ([0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], 2 / 128),
    ],
)
def test_signs_are_flipped_in_every_way(differences, p):
    assert sign_flips(differences) == p


@pytest.mark.parametrize(
    ("low", "high", "p", "is_real"),
    [(0.1, 2, 0.03, True), (-2, -0.1, 0.03, True), (-0.1, 2, 0.03, False), (0.1, 2, 0.06, False)],
)
def test_better_asks_for_both_rules(low, high, p, is_real):
    assert Difference(Interval(1, low, high), p).is_real is is_real


def test_seeds_that_do_not_pair_are_refused():
    means = ClassMeans(LABEL, VIDEO)
    with pytest.raises(ValueError, match="3 seeds cannot be paired with 2"):
        means.difference(np.zeros((3, 300)), np.zeros((2, 300)))


def test_without_a_difference_it_says_better_in_at_most_5_percent():
    """Hits of both are tosses of one coin for each video, so rows of a video are alike."""
    dice, said, times = np.random.default_rng(11), 0, 300
    videos = np.repeat(np.arange(30), 10)
    means = ClassMeans(np.tile(np.arange(5), 60), [f"{video:02d}" for video in videos], draws=300)
    for _ in range(times):
        chance = dice.beta(2, 2, 30)[videos]
        one, other = (dice.random((6, 300)) < chance for _ in range(2))
        said += means.difference(one.astype(float), other.astype(float)).is_real
    assert said <= 0.05 * times + 2 * math.sqrt(0.05 * 0.95 * times)


def test_a_planted_difference_is_found():
    dice, found = np.random.default_rng(12), 0
    videos = np.repeat(np.arange(30), 10)
    means = ClassMeans(np.tile(np.arange(5), 60), [f"{video:02d}" for video in videos], draws=300)
    for _ in range(20):
        one, other = (dice.random((6, 300)) < chance for chance in (0.6, 0.5))
        found += means.difference(one.astype(float), other.astype(float)).is_real
    assert found >= 18
