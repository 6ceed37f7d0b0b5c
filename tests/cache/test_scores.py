"""Scores files: the best class of each row, by hand and from pairs. What damaged files say is in
questions/test_predicted.
"""

import numpy as np
import pytest

from mambavl.cache.scores import best_classes, checked_scores, log_softmax, marginalize
from mambavl.configs.errors import DataError

IDS = np.array(["a", "b"])


def test_the_best_class_is_the_highest_score_and_of_equals_the_smaller(tmp_path):
    verb, noun = np.array([[0.0, 2.0, 1.0], [3.0, 3.0, 1.0]]), np.array([[-np.inf, -1.0], [0.0, -1.0]])
    np.savez(tmp_path / "s.npz", narration_id=IDS, verb=verb, noun=noun)
    best = best_classes(tmp_path / "s.npz", num_verbs=3, num_nouns=2)
    assert best.narration_ids == ("a", "b")
    assert best.verb.tolist() == [1, 0]
    assert best.noun.tolist() == [1, 0]


def test_pairs_are_summed_over_each_class(tmp_path):
    """No single pair of verb 1 is the best, but together they are more probable than verb 0's only one."""
    pairs = np.array([[0, 0], [1, 1], [1, 2]])
    action = np.log([[0.4, 0.3, 0.3], [0.6, 0.2, 0.2]])
    np.savez(tmp_path / "s.npz", narration_id=IDS, action=action, pairs=pairs)
    best = best_classes(tmp_path / "s.npz", num_verbs=2, num_nouns=3)
    assert best.verb.tolist() == [1, 0]
    assert best.noun.tolist() == [0, 0]


def test_probabilities_of_pairs_add_up_and_a_class_without_a_pair_has_none():
    verbs, nouns = marginalize(np.zeros((1, 2)), [(0, 2), (1, 2)], num_verbs=3, num_nouns=4)
    np.testing.assert_allclose(verbs, [[0.5, 0.5, 0.0]])
    np.testing.assert_allclose(nouns, [[0.0, 0.0, 1.0, 0.0]])


def test_a_softmax_of_large_scores_is_finite_and_sums_to_one():
    found = log_softmax(np.array([[1000.0, 1000.0], [0.0, -1e6]], np.float32))
    np.testing.assert_allclose(np.exp(found).sum(1), 1)
    np.testing.assert_allclose(found[0], np.log(0.5))


@pytest.mark.parametrize(("kept", "read"), [("float16", "float32"), ("float32", "float32"), ("int8", "int8")])
def test_half_precision_is_no_precision_to_compute_in(tmp_path, kept, read):
    scores = np.array([[-1, -3], [0, -2]], kept)
    found = checked_scores(tmp_path / "s.npz", "verb", scores, ("a", "b"), 2)
    assert found.dtype == read
    np.testing.assert_array_equal(found, scores)


def test_an_id_that_stands_there_twice_is_named(tmp_path):
    scores = np.zeros((4, 2))
    np.savez(tmp_path / "s.npz", narration_id=np.array(["a", "b", "a", "a"]), verb=scores, noun=scores)
    with pytest.raises(DataError, match=r"narration_id a stands there twice \(2 such rows\)"):
        best_classes(tmp_path / "s.npz", num_verbs=2, num_nouns=2)
