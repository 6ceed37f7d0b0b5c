"""The best classes of each target, and derived targets ranked as in a result."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mambavl.cache.classes import Classes, Derived, Target, verb_noun_classes
from mambavl.configs.errors import DataError, UsageError
from mambavl.fuse.targets import RunTargets
from mambavl.predict.answers import best, refuse_broken, refuse_no_stream, scores_of_stream

RNG = np.random.default_rng(0)


def log_softmax(count):
    logits = RNG.normal(size=count) * 2
    return logits - np.log(np.exp(logits).sum())


def names(guesses):
    return [guess.name for guess in guesses]


def test_actions_are_the_best_of_all_products():
    verbs, nouns = {i: f"v{i}" for i in range(7)}, {i: f"n{i}" for i in range(9)}
    targets = SimpleNamespace(classes=verb_noun_classes(verbs, nouns))
    scores = {"verb": log_softmax(7), "noun": log_softmax(9)}
    found = best(targets, scores)
    products = {
        (v, n): np.exp(scores["verb"][v] + scores["noun"][n]) for v, n in itertools.product(verbs, nouns)
    }
    expected = sorted(products, key=lambda pair: -products[pair])[:5]
    assert [guess.ids for guess in found["action"]] == expected
    assert [guess.probability for guess in found["action"]] == pytest.approx(
        [products[pair] for pair in expected]
    )
    assert names(found["action"])[0] == f"v{expected[0][0]} n{expected[0][1]}"
    for target in ("verb", "noun"):
        order = np.argsort(-scores[target])[:5]
        assert [guess.ids for guess in found[target]] == [(one,) for one in order.tolist()]
        assert [guess.probability for guess in found[target]] == pytest.approx(np.exp(scores[target][order]))


def test_pairs_with_a_classifier_are_ranked_by_it():
    classes = Classes(
        {"verb": Target({0: "cut", 1: "wash"}, 2), "noun": Target({0: "cup", 1: "pan"}, 2)},
        {"action": Derived(("verb", "noun"), ((1, 0), (0, 1), (1, 1)))},
    )
    scores = {"verb": np.log([0.9, 0.1]), "noun": np.log([0.8, 0.2]), "action": np.log([0.2, 0.1, 0.7])}
    found = best(SimpleNamespace(classes=classes), scores)["action"]
    assert names(found) == ["wash pan", "wash cup", "cut pan"]
    assert [guess.ids for guess in found] == [(1, 1), (1, 0), (0, 1)]
    assert found[0].probability == pytest.approx(0.7)


def test_a_column_that_no_class_has_is_no_guess():
    """EK100-like lists have gaps; one without names counts every column."""
    gaps = Classes({"verb": Target({0: "cut", 3: "wash"}, 5), "tool": Target({}, 2)})
    scores = {"verb": np.log([0.1, 0.4, 0.2, 0.05, 0.25]), "tool": np.log([0.3, 0.7])}
    found = best(SimpleNamespace(classes=gaps), scores)
    assert names(found["verb"]) == ["cut", "wash"]
    assert names(found["tool"]) == ["1", "0"]


class Recorder:
    """A head that says how many tokens of each stream it was given at each step."""

    def __init__(self):
        self.given = []

    def step(self, streams, state):
        lengths = {name: lengths.tolist() for name, (_, lengths) in streams.items()}
        self.given.append((state, {name: tokens.shape[1] for name, (tokens, _) in streams.items()}, lengths))
        return {"verb": torch.zeros(1, 2)}, (state or 0) + 1


def test_a_question_is_read_once_in_a_stream_and_a_moment_without_features_is_passed_over():
    head = Recorder()
    classes = Classes({"verb": Target({0: "cut", 1: "wash"}, 2)})
    trained = SimpleNamespace(
        head=head,
        views=1,
        device=torch.device("cpu"),
        targets=RunTargets(classes, {"verb": 2}, {"verb": 1.0}, ("verb",)),
        result=SimpleNamespace(trained=SimpleNamespace(precision="fp32")),
        run="RUN",
    )
    tokens = {
        "video": (torch.ones(1, 3, 2), torch.tensor([3])),
        "q": (torch.ones(1, 5, 2), torch.tensor([5])),
    }
    features = SimpleNamespace(
        usable=np.array([False, True, False, True]), constant=["q"], batch=lambda moments, view: dict(tokens)
    )
    found = dict(scores_of_stream(trained, features))
    assert [found[moment] is None for moment in range(4)] == [True, False, True, False]
    assert head.given == [
        (None, {"video": 3, "q": 5}, {"video": [3], "q": [5]}),
        (1, {"video": 3, "q": 0}, {"video": [3], "q": [0]}),
    ]


def test_a_head_that_cannot_be_streamed_is_named():
    can = SimpleNamespace(head=SimpleNamespace(cannot_step=None))
    refuse_no_stream(can)
    result = SimpleNamespace(head="transformer")
    cannot = SimpleNamespace(head=SimpleNamespace(cannot_step="it is so"), run="RUN", result=result)
    with pytest.raises(UsageError, match=r"--stream: the head of RUN \(transformer\) cannot: it is so"):
        refuse_no_stream(cannot)


def test_equal_scores_go_to_the_smaller_class():
    even = Classes({"verb": Target({i: str(i) for i in range(8)}, 8)})
    assert names(best(SimpleNamespace(classes=even), {"verb": np.zeros(8)})["verb"]) == list("01234")


def test_a_score_that_is_not_a_number_is_an_error_and_a_class_without_a_pair_is_none():
    refuse_broken(SimpleNamespace(run="RUN"), 3, {"verb": np.array([0.0, -np.inf])})
    with pytest.raises(DataError, match="RUN: the head's scores of verb at moment 3"):
        refuse_broken(SimpleNamespace(run="RUN"), 3, {"verb": np.array([0.0, np.nan])})
