"""What must hold before one is called better: each rule, McNemar by hand, and sweeps in which nothing is."""

from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from helpers.benchmarks import load
from mambavl.fuse.paired import ClassMeans, Interval
from mambavl.fuse.verdict import Evidence, judge, judge_in_order, mcnemar, mid_p, pairs_for, weigh

SOUND = Evidence(interval=Interval(1.0, 0.2, 1.8), p=2 / 64, pairs=6, worth=20.0)


@pytest.fixture(scope="module")
def simulated():
    """benchmarks/comparing.py, which makes sweeps up."""
    return load("comparing")


def test_both_rules_make_one_better():
    assert judge(SOUND).better == "A"
    assert judge(SOUND).in_words == "A is better"
    assert judge(replace(SOUND, interval=Interval(-1.0, -1.8, -0.2))).better == "B"


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"interval": Interval(1.0, -0.1, 2.1)}, r"the 97 % interval holds 0 \(-0\.10 to \+2\.10\)"),
        ({"interval": Interval(0.0, 0.0, 0.0)}, "the 97 % interval holds 0"),
        ({"interval": None, "worth": 3.2}, "of too few videos, worth 3.2 of equal size; 5 are needed"),
        ({"pairs": 5, "p": 2 / 32}, "5 pairs of seeds, and 6 are needed"),
        ({"pairs": 5, "p": 0.0}, "5 pairs of seeds, and 6 are needed"),
        ({"pairs": 1, "p": 1.0}, "^not decided: 1 pair of seeds, and 6 are needed$"),
        ({"p": 4 / 64}, "the seeds do not agree enough: .* p = 0.062$"),
        ({"single": "B"}, "B was trained once; train it with each seed of the other"),
        ({"among": 8}, "6 pairs of seeds, and 9 are needed for one of 8 candidates"),
        ({"among": 8, "pairs": 9, "p": 4 / 512}, r"p = 0\.0078, times 8 candidates"),
        ({"among": 4, "interval": Interval(1, -1, 3)}, r"the 99\.25 % interval, for one of 4 candidates"),
        ({"p": 0.05}, "p = 0.05"),
    ],
)  # fmt: skip
def test_the_rule_that_fails_is_named(changed, says):
    found = judge(replace(SOUND, **changed))
    assert found.better is None
    with pytest.raises(ValueError, match=says):
        raise ValueError(found.in_words)


def test_every_rule_that_fails_is_named():
    found = judge(replace(SOUND, interval=Interval(0, -1, 1), p=0.5))
    assert len(found.why) == 2


def test_what_comes_after_an_open_question_is_not_judged():
    open_ = replace(SOUND, p=0.5)
    found = judge_in_order([SOUND, SOUND, open_, SOUND])
    assert [one.short for one in found] == ["A is better", "A is better", "not decided", "not judged"]
    assert [one.is_judged for one in found] == [True, True, True, False]
    assert found[3].better is None


@pytest.mark.parametrize(("among", "pairs"), [(1, 6), (2, 7), (3, 7), (4, 8), (8, 9), (20, 10), (500, 15)])
def test_more_candidates_need_more_seeds(among, pairs):
    """2 / 2^pairs is the least that signs can give, and there are so many candidates to give it."""
    assert among * 2 / 2**pairs < 0.05 <= among * 2 / 2 ** (pairs - 1) or pairs == 6
    assert pairs_for(among) == pairs


def test_the_interval_is_stricter_among_more_candidates():
    dice = np.random.default_rng(0)
    means = ClassMeans(np.zeros(400, int), np.repeat(np.arange(40), 10).astype(str))
    a, b = (dice.random((6, 400)) < share for share in (0.5, 0.4))
    alone, among = weigh(means, a, b), weigh(means, a, b, among=10)
    assert alone.interval == means.corrected(a, b, 0.03)
    assert among.interval == means.corrected(a, b, 0.003)
    assert (alone.pairs, alone.worth) == (6, pytest.approx(40))
    assert weigh(means, a[:1], b[:1]).p == 1.0


def test_of_too_few_videos_there_is_no_interval():
    hits = np.ones((6, 40))
    sizes = np.repeat(np.arange(4), 10)
    assert weigh(ClassMeans(np.zeros(40, int), sizes), hits, 0 * hits).interval is None
    assert (
        weigh(ClassMeans(np.zeros(40, int), np.repeat(np.arange(5), 8)), hits, 0 * hits).interval is not None
    )


# --- McNemar


@pytest.mark.parametrize(
    ("one", "other", "p"),
    [  # tosses of a fair coin: twice the chance of fewer, and the chance of just so many
        (0, 0, 1.0),
        (1, 0, 1 / 2),
        (0, 1, 1 / 2),
        (5, 0, 1 / 32),
        (3, 1, (2 * 1 + 4) / 16),
        (2, 2, 1.0),
        (7, 2, (2 * (1 + 9) + 36) / 512),
    ],
)
def test_mid_p_is_counted_by_hand(one, other, p):
    assert mid_p(one, other) == p


def test_of_many_rows_mid_p_is_close_to_normal():
    z = 120 / 3080**0.5
    assert mid_p(1600, 1480) == pytest.approx(2 * NormalDist().cdf(-z), rel=0.01)


def test_rows_that_one_alone_has_right_are_counted_and_ties_left_out():
    a = np.array([1, 1, 1, 0, 0, 0.5, 1, 0.0])
    b = np.array([0, 0, 1, 1, 0, 1.0, 0.2, 0])
    found = mcnemar(a, b)
    assert (found.only_a, found.only_b, found.left_out) == (2, 1, 2)
    assert found.p == (2 * 1 + 3) / 8


# --- made-up sweeps


@pytest.mark.parametrize("kind", ["same head", "other heads", "sure seeds", "few videos", "best of 8"])
def test_where_nothing_is_better_it_is_seldom_said(simulated, kind):
    """Of 40; more than 6 of them come by chance once in a thousand times where 5 % is the truth."""
    found = simulated.how_often(simulated.NOTHING[kind], 40, seed=1)
    assert found["any"] <= 100 * 6 / 40


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["same head", "other heads", "sure seeds", "few videos", "best of 8"])
def test_of_a_thousand_sweeps_without_a_difference_5_percent_say_better(simulated, kind, count):
    found = simulated.how_often(simulated.NOTHING[kind], 1000, seed=list(simulated.NOTHING).index(kind))
    count("sweeps without a difference", 1000)
    assert found["any"] <= 5.0


def test_a_planted_difference_is_found_and_its_side_named(simulated):
    world = simulated.World(shift=1.0)
    rng = np.random.default_rng(7)
    found = [simulated.verdicts(simulated.draw(world, rng)) for _ in range(10)]
    assert sum(one[0].better == "A" for one in found) >= 9
