"""Rows of a question file and shares of right guesses: halves, priors, intervals."""

import numpy as np
import pytest

from helpers.toyaudit import CLEAN, DATA
from helpers.toyclasses import segment
from mambavl.extract.questions.audit_rows import Rows, interval, most_frequent, pair_up, top1


def test_an_interval_draws_whole_videos():
    hits = np.array([1, 1, 0, 0] * 25)
    assert interval(hits, ["a"] * 100) == (50, 50)  # one video: nothing to draw
    low, high = interval(hits, [str(i) for i in range(100)])
    assert 38 < low < 44
    assert 56 < high < 62
    wide = interval(hits, [str(i % 4) for i in range(100)])  # four videos, each all right or all wrong
    assert wide[0] < low
    assert high < wide[1]
    assert interval(hits, [str(i) for i in range(100)]) == (low, high)


def test_rows_are_halved_by_split_and_the_prior_is_the_most_frequent_class():
    rows = Rows(list(DATA.segments), CLEAN)
    train, test = rows.half(True), rows.half(False)
    assert (len(train), len(test)) == (384, 96)
    assert {segment.split for segment in train.segments} == {"train"}
    assert {segment.split for segment in test.segments} == {"validation"}
    verbs = [segment.verb_class for segment in train.segments]
    prior = most_frequent(train)
    assert verbs.count(prior["verb"]) == max(map(verbs.count, verbs))
    right = np.mean([segment.verb_class == prior["verb"] for segment in test.segments])
    assert top1(test, prior)["verb"]["percent"] == pytest.approx(100 * right)


def test_of_equally_frequent_classes_the_prior_is_the_smallest():
    rows = [segment("x", verb, noun) for verb, noun in (("put", "tap"), ("take", "plate"), ("cut", "knife"))]
    assert most_frequent(Rows(rows, CLEAN[:3])) == {"verb": 0, "noun": 0, "action": pair_up(0, 1)}
