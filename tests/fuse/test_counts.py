"""Counts of past actions: against sums written out in plain loops, and by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.tiny import CLASSES
from mambavl.configs import validate
from mambavl.configs.errors import UsageError
from mambavl.fuse.counts import Counts, CountsSettings, Past, joined
from mambavl.fuse.head import StreamShape
from mambavl.fuse.targets import TargetConfig, choose

VERBS, NOUNS = 3, 4
PAIRS = ((0, 0), (0, 3), (1, 1), (2, 2))
BY_PAIRS = {"action": TargetConfig(ranked_by="pairs")}


def head(width=VERBS + NOUNS + 1, **streams):
    targets = choose(CLASSES, None, BY_PAIRS, {"action": PAIRS})
    return Counts(streams or {"past": StreamShape(width=width)}, targets)


def tokens(pasts):
    """Lists of (verb, noun), oldest first -> what the store holds of them; noise behind each row's end."""
    longest = max(map(len, pasts))
    found = torch.full((len(pasts), longest, VERBS + NOUNS + 1), 7.0)
    for row, past in enumerate(pasts):
        for place, (verb, noun) in enumerate(past):
            found[row, place] = 0.0
            found[row, place, verb] = found[row, place, VERBS + noun] = 1.0
            found[row, place, -1] = 3.0
    return {"past": (found, torch.tensor(list(map(len, pasts))))}


def drawn(rows, seed):
    rng = np.random.default_rng(seed)
    return [
        [(int(rng.integers(VERBS)), int(rng.integers(NOUNS))) for _ in range(rng.integers(1, 6))]
        for _ in range(rows)
    ]


def in_source(source, action):
    """The class of a past action in a source; None where it has none there."""
    if source == "action":
        return PAIRS.index(action) if action in PAIRS else None
    return action[("verb", "noun").index(source)]


def twin(pasts, labels, columns, decay, exponent, asked):
    """The formula, an action at a time: the score of each class after the past `asked`."""
    known = [label for label in labels if label >= 0]
    prior = [(known.count(d) + 1) / (len(known) + columns) for d in range(columns)]
    scores = [0.0] * columns
    for source in ("verb", "noun", "action"):
        whole, sums = 0.0, [0.0] * columns
        for j, action in enumerate(reversed(asked)):
            h = in_source(source, action)
            if h is None:
                continue
            counts = [0.0] * columns
            for past, label in zip(pasts, labels, strict=True):
                for lag, other in enumerate(reversed(past)):
                    if label >= 0 and in_source(source, other) == h:
                        counts[label] += decay**lag
            whole += decay**j
            for d in range(columns):
                sums[d] += decay**j * (counts[d] + prior[d]) / (sum(counts) + 1)
        for d in range(columns):
            scores[d] += (sums[d] / whole if whole else prior[d]) / 3
    return [math.log(score) - exponent * math.log(prior[d]) for d, score in enumerate(scores)]


def test_scores_are_the_formula_written_out():
    pasts, asked = drawn(40, 0), [*drawn(12, 1), [(1, 2)]]  # the last is no pair of the training rows
    rng = np.random.default_rng(2)
    sizes = {"verb": VERBS, "noun": NOUNS, "action": len(PAIRS)}
    labels = {name: rng.integers(-1, size, 40) for name, size in sizes.items()}
    decay = {"verb": 1.0, "noun": 0.5, "action": 0.8}
    exponent = {"verb": 0.0, "noun": 1.0, "action": 0.5}
    counts = head()
    counts.count(counts.past(tokens(pasts)), labels, decay, exponent)
    found = counts(tokens(asked))
    assert found.keys() == sizes.keys()
    for name, size in sizes.items():
        rest = (labels[name].tolist(), size, decay[name], exponent[name])
        expected = [twin(pasts, *rest, one) for one in asked]
        np.testing.assert_allclose(found[name].numpy(), expected, rtol=1e-4, atol=1e-5)


def test_one_verb_that_another_follows_by_hand():
    """Verb 1 came after verb 0 in three rows of four, verb 2 in one; nothing is known after verb 2."""
    counts = head()
    past = counts.past(tokens([[(0, 0)]] * 4))
    labels = {"verb": np.array([1, 1, 1, 2]), "noun": np.zeros(4, int), "action": np.full(4, -1)}
    counts.count(past, labels, dict.fromkeys(labels, 1.0), dict.fromkeys(labels, 0.0))
    prior = np.array([1, 4, 2]) / 7
    after = (np.array([0, 3, 1]) + prior) / 5
    np.testing.assert_allclose(counts.tables["verb_after_verb"][0], after, rtol=1e-6)
    np.testing.assert_allclose(counts.tables["verb_after_verb"][2], prior, rtol=1e-6)


def test_an_action_long_ago_counts_less():
    counts = head()
    rows = [[(0, 0)], [(1, 1)]]
    labels = {"verb": np.array([0, 1]), "noun": np.array([0, 1]), "action": np.array([0, 2])}
    counts.count(counts.past(tokens(rows)), labels, dict.fromkeys(labels, 0.5), dict.fromkeys(labels, 0.0))
    recent_first, recent_second = counts(tokens([[(1, 1), (0, 0)], [(0, 0), (1, 1)]]))["verb"][:, :2]
    assert recent_first[0] > recent_first[1]
    assert recent_second[0] < recent_second[1]


def test_padding_and_batches_change_nothing():
    counts = head()
    pasts = drawn(9, 3)
    whole = counts.past(tokens(pasts))
    parts = [counts.past(tokens(pasts[:4])), counts.past(tokens(pasts[4:]))]
    again = joined(parts, whole.lag.shape[1])
    assert all(torch.equal(whole.ids[name], again.ids[name]) for name in whole.ids)
    assert torch.equal(whole.lag, again.lag)
    picked = whole.of(np.array([2, 5]))
    assert isinstance(picked, Past)
    assert picked.lag.tolist() == whole.lag[[2, 5]].tolist()


def test_it_is_no_head_for_other_streams_or_targets():
    with pytest.raises(UsageError, match=r"one stream of past verbs and nouns \(8 channels"):
        head(width=9)
    two = {"past": StreamShape(width=8), "video": StreamShape(width=6)}
    with pytest.raises(UsageError, match="past of 8 channels, video of 6 channels; name it in use_streams"):
        head(**two)
    nouns_first = replace(CLASSES.derived["action"], of=("noun", "verb"))
    other = replace(CLASSES, derived={"action": nouns_first})
    targets = choose(other, None, BY_PAIRS, {"action": ((0, 0), (3, 0))})
    with pytest.raises(UsageError, match="and not action"):
        Counts({"past": StreamShape(width=8)}, targets)


def test_a_decay_is_a_weight():
    with pytest.raises(UsageError, match="a decay is above 0 and at most 1"):
        validate({"decays": [0.5, 0.0]}, CountsSettings, "--set")
    with pytest.raises(UsageError, match="expected i/n"):
        validate({"choose_on": "5/5"}, CountsSettings, "--set")
