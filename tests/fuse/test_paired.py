"""Intervals over videos and tests over seeds: against loops, closed forms and simulated coin tosses."""

import math

import numpy as np
import pytest

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
