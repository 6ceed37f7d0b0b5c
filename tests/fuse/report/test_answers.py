"""The best classes of rows, against every class looked at one by one."""

import itertools
import math

import numpy as np
import pytest

from mambavl.cache.classes import Classes, Derived, Target
from mambavl.fuse.report.answers import answers_of, number_of, parts_of

SIZES = {"verb": 7, "noun": 9, "hand": 2}
TARGETS = {name: Target({}, count) for name, count in SIZES.items()}


def scores_of(rows: int = 40, *, digits: int = 6) -> dict[str, np.ndarray]:
    """digits: few make ties."""
    rng = np.random.default_rng(1)
    found = {}
    for name, count in SIZES.items():
        found[name] = np.round(rng.normal(size=(rows, count)), digits)
        found[f"{name}_label"] = rng.integers(-1, count, rows)
    return found


def softmax(values) -> list[float]:
    top = [math.exp(value) for value in values]
    return [one / sum(top) for one in top]


@pytest.mark.parametrize("digits", [6, 0])
def test_the_best_classes_are_those_of_a_full_sort_and_ties_go_to_the_smaller_class(digits):
    scores = scores_of(digits=digits)
    found = answers_of("verb", Classes({"verb": TARGETS["verb"]}), scores)
    for row, values in enumerate(scores["verb"].tolist()):
        shares = softmax(values)
        order = sorted(range(7), key=lambda one: (-values[one], one))[:5]
        assert found.classes[row].tolist() == order
        np.testing.assert_allclose(found.probabilities[row], [shares[one] for one in order])
        label = int(scores["verb_label"][row])
        assert found.labels[row] == ((label,) if label >= 0 else ())
        assert found.of_label[row] == pytest.approx(shares[label] if label >= 0 else 0)
        assert found.is_right[row] == (order[0] == label)


@pytest.mark.parametrize("parts", [("verb", "noun"), ("hand", "verb", "noun")])
def test_products_rank_every_combination(parts):
    scores = scores_of()
    classes = Classes({name: TARGETS[name] for name in parts}, {"action": Derived(parts)})
    found = answers_of("action", classes, scores)
    for row in range(40):
        shares = [softmax(scores[name][row].tolist()) for name in parts]
        every = {
            one: math.prod(share[place] for share, place in zip(shares, one, strict=True))
            for one in itertools.product(*(range(SIZES[name]) for name in parts))
        }
        best = sorted(every, key=lambda one: -every[one])[:5]
        got = [parts_of(number, classes.derived["action"], classes) for number in found.classes[row].tolist()]
        assert got == best
        kept = [answers_of(name, classes, scores).classes[row].tolist() for name in parts]
        every_rank = list(itertools.product(*(range(len(one)) for one in kept)))  # the last counts fastest
        ranked = [every_rank[number] for number in found.ranks[row].tolist()]
        assert [tuple(one[place] for one, place in zip(kept, ranks, strict=True)) for ranks in ranked] == best
        np.testing.assert_allclose(found.probabilities[row], [every[one] for one in best])
        label = tuple(int(scores[f"{name}_label"][row]) for name in parts)
        if min(label) < 0:
            assert found.labels[row] == ()
            assert found.of_label[row] == 0
        else:
            assert [parts_of(one, classes.derived["action"], classes) for one in found.labels[row]] == [label]
            assert found.of_label[row] == pytest.approx(every[label])


def test_pairs_are_ranked_by_their_own_classifier_and_a_label_without_column_has_no_chance():
    pairs = ((0, 3), (6, 8), (2, 2))
    rng = np.random.default_rng(0)
    scores = {
        "verb": rng.normal(size=(2, 7)),
        "noun": rng.normal(size=(2, 9)),
        "verb_label": np.array([6, 1]),
        "noun_label": np.array([8, 1]),
        "action": np.array([[0.0, 2.0, 1.0], [5.0, 0.0, 0.0]]),
    }
    classes = Classes(
        {name: TARGETS[name] for name in ("verb", "noun")}, {"action": Derived(("verb", "noun"), pairs)}
    )
    found = answers_of("action", classes, scores)
    assert found.classes.tolist() == [[6 * 9 + 8, 2 * 9 + 2, 3], [3, 6 * 9 + 8, 2 * 9 + 2]]
    assert found.labels == [(6 * 9 + 8,), (1 * 9 + 1,)]
    assert found.of_label.tolist() == pytest.approx([softmax([0, 2, 1])[1], 0])
    assert found.is_right.tolist() == [True, False]


def test_a_target_of_several_labels_is_right_where_its_first_class_is_one_of_them():
    classes = Classes({"tags": Target({}, 3, "multi")})
    scores = {
        "tags": np.log([[0.9, 0.2, 0.5], [0.1, 0.3, 0.2], [0.5, 0.5, 0.4]]).astype(np.float32),
        "tags_label": np.array([[1, 1, 0], [1, 0, 1], [-1, -1, -1]], np.int8),
    }
    found = answers_of("tags", classes, scores)
    assert found.classes.tolist() == [[0, 2, 1], [1, 2, 0], [0, 1, 2]]
    assert found.labels == [(0, 1), (0, 2), ()]
    np.testing.assert_allclose(found.of_label, [0.2, 0.1, 0], rtol=1e-6)
    assert found.is_right.tolist() == [True, False, False]


def test_classes_without_any_chance_come_last_and_once():
    scores = {"verb": np.array([[0.0, -np.inf, -np.inf, 1.0]]), "verb_label": np.array([1])}
    found = answers_of("verb", Classes({"verb": Target({}, 4)}), scores)
    assert found.classes.tolist() == [[3, 0, 1, 2]]
    assert found.probabilities[0, 2:].tolist() == [0, 0]
    assert found.of_label.tolist() == [0]


def test_numbers_of_combinations_go_there_and_back():
    classes = Classes(TARGETS, {"every": Derived(("hand", "verb", "noun"))})
    every = list(itertools.product(range(2), range(7), range(9)))
    numbers = number_of([np.array(column) for column in zip(*every, strict=True)], [2, 7, 9]).tolist()
    assert numbers == list(range(2 * 7 * 9))
    assert [parts_of(number, classes.derived["every"], classes) for number in numbers] == every
