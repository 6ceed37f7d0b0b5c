"""What a run trains of the stores' targets: choices, labels and priors, counted by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.tiny import CLASSES, make_segments
from mambavl.cache.classes import Classes, Derived, Target
from mambavl.configs.errors import DataError, UsageError
from mambavl.fuse.targets import (
    TargetConfig,
    choose,
    is_labelled,
    log_prior,
    log_probabilities,
    pairs_of,
    read_labels,
    refuse_unlabelled,
)

OWN = Classes(
    targets={
        "tool": Target({0: "knife", 2: "fork"}, 3),
        "grip": Target({0: "firm", 1: "loose"}, 2),
        "scene": Target({0: "in", 1: "night", 2: "wet"}, 3, "multi"),
    },
    derived={"use": Derived(("tool", "grip"))},
)
ROWS = tuple(
    replace(segment, labels=labels)
    for segment, labels in zip(
        make_segments(5),
        (
            {"tool": 2, "grip": 1, "scene": (0, 2)},
            {"tool": 0, "scene": ()},
            {"grip": 0},
            {"tool": 2, "grip": 1},
            {"tool": 0, "grip": 1, "scene": (1,)},
        ),
        strict=True,
    )
)
LABELS = read_labels(ROWS, OWN)
PAIRS = TargetConfig(ranked_by="pairs")


def test_labels_say_what_a_row_has_and_what_it_lacks():
    assert LABELS["tool"].tolist() == [2, 0, -1, 2, 0]
    assert LABELS["grip"].tolist() == [1, -1, 0, 1, 1]
    # a list without a class is a label: none of them; no list is no label
    assert LABELS["scene"].tolist() == [[1, 0, 1], [0, 0, 0], [-1] * 3, [-1] * 3, [0, 1, 0]]
    assert is_labelled(LABELS["scene"]).tolist() == [True, True, False, False, True]


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ({"tool": 3}, "its tool is 3, expected one of 3 classes"),
        ({"tool": 1}, "its tool is 1, expected one"),  # a gap
        ({"tool": (1,)}, r"its tool is \(1,\), expected one of 3"),
        ({"scene": 1}, "its scene is 1, expected a list of 3 classes"),
        ({"scene": (0, 3)}, r"its scene is \(0, 3\)"),
        ({"grip": -1}, "its grip is -1"),
    ],
)
def test_a_label_that_no_class_list_allows_is_named_with_its_row(label, said):
    with pytest.raises(DataError, match=rf"row {ROWS[1].narration_id}: {said}"):
        read_labels((ROWS[0], replace(ROWS[1], labels=label)), OWN)


def test_all_targets_are_trained_and_a_product_needs_no_classifier():
    found = choose(OWN, None, {}, {})
    assert list(found.outputs.items()) == [("tool", 3), ("grip", 2), ("scene", 3)]
    assert found.scored == ("tool", "grip", "scene")
    assert found.classes == OWN
    assert found.weights == {"tool": 1.0, "grip": 1.0, "scene": 1.0}


def test_a_choice_of_targets_measures_no_others():
    found = choose(OWN, ["scene", "tool"], {"tool": TargetConfig(weight=0.5)}, {})
    assert list(found.outputs) == ["tool", "scene"]  # in the order of the stores
    assert found.classes.names == ("tool", "scene")
    assert found.weights == {"tool": 0.5, "scene": 1.0}


def test_pairs_are_those_that_training_rows_show_and_a_label_is_a_column():
    pairs = pairs_of(OWN, LABELS, np.array([0, 1, 2, 3]))
    assert pairs == {"use": ((2, 1),)}
    pairs = pairs_of(OWN, LABELS, np.array([4, 3, 0]))
    assert pairs == {"use": ((0, 1), (2, 1))}
    found = choose(OWN, None, {"use": PAIRS}, pairs)
    assert found.outputs["use"] == 2
    assert found.labels(LABELS, "use").tolist() == [1, -1, -1, 1, 0]  # unlabelled in a part: in none
    alone = choose(OWN, ["use"], {"use": PAIRS}, pairs)
    assert alone.outputs == {"use": 2}
    assert alone.scored == ("tool", "grip", "use")  # the parts are sums over their pairs
    listed = replace(OWN, derived={"use": Derived(("tool", "grip"), ((0, 0), (2, 1)))})
    assert pairs_of(listed, LABELS, np.array([4])) == {"use": ((0, 0), (2, 1))}


@pytest.mark.parametrize(
    ("used", "configs", "said"),
    [
        (["tol"], {}, "no target 'tol'; did you mean `tool`"),
        (None, {"weather": TargetConfig()}, "no target 'weather'; known: tool, grip, scene, use"),
        (["use"], {}, "product of tool and grip, and use_targets leaves out tool"),
        (["use", "tool"], {}, "leaves out grip"),
        ([], {}, "no target to train"),
        (None, {"tool": PAIRS}, "tool is not derived"),
        (None, {"use": TargetConfig(weight=2.0)}, "targets.use changes nothing"),
        (["grip"], {"tool": TargetConfig(weight=2.0)}, "targets.tool changes nothing"),
        (None, {"use": PAIRS}, "no training row shows a combination"),
    ],
)
def test_a_choice_that_cannot_be_meant_is_refused(used, configs, said):
    with pytest.raises(UsageError, match=said):
        choose(OWN, used, configs, {"use": ()})


def test_rows_without_labels_train_nothing():
    with pytest.raises(UsageError, match="the stores' rows have no labels"):
        choose(Classes({}), None, {}, {})


def test_priors_count_labels_and_one_more():
    targets = choose(OWN, None, {"use": PAIRS}, {"use": ((0, 1), (2, 1))})
    found = log_prior(targets, LABELS, np.array([0, 1, 3, 4]))
    np.testing.assert_allclose(np.exp(found["tool"]), np.array([3, 1, 3]) / 7)
    np.testing.assert_allclose(np.exp(found["grip"]), np.array([1, 4]) / 5)
    np.testing.assert_allclose(np.exp(found["use"]), np.array([2, 3]) / 5)
    np.testing.assert_allclose(np.exp(found["scene"]), np.array([2, 2, 2]) / 5)  # one of three rows each


def test_probabilities_are_means_over_views_and_of_parts_sums_over_their_pairs():
    targets = choose(OWN, ["use", "scene"], {"use": PAIRS}, {"use": ((0, 1), (2, 0), (2, 1))})
    assert list(targets.outputs) == ["scene", "use"]
    views = [
        {
            "use": torch.log(torch.tensor([[0.2, 0.3, 0.5]])),
            "scene": torch.logit(torch.tensor([[0.5, 0.2, 0.9]])),
        },
        {
            "use": torch.log(torch.tensor([[0.6, 0.1, 0.3]])),
            "scene": torch.logit(torch.tensor([[0.1, 0.2, 0.3]])),
        },
    ]
    found = {name: np.exp(logs) for name, logs in log_probabilities(targets, views).items()}
    np.testing.assert_allclose(found["use"], [[0.4, 0.2, 0.4]], rtol=1e-6)
    np.testing.assert_allclose(found["scene"], [[0.3, 0.2, 0.6]], rtol=1e-6)
    np.testing.assert_allclose(found["tool"], [[0.4, 0.0, 0.6]], rtol=1e-6)
    np.testing.assert_allclose(found["grip"], [[0.2, 0.8]], rtol=1e-6)
    assert list(found) == ["tool", "grip", "scene", "use"]


def test_a_part_with_a_classifier_keeps_its_own_scores():
    targets = choose(OWN, ["use", "grip", "tool"], {"use": PAIRS}, {"use": ((0, 1), (2, 0))})
    views = [{"tool": torch.zeros(1, 3), "grip": torch.zeros(1, 2), "use": torch.tensor([[5.0, 0.0]])}]
    found = log_probabilities(targets, views)
    np.testing.assert_allclose(np.exp(found["tool"]), [[1 / 3] * 3], rtol=1e-6)


def test_ek100s_targets_are_verb_and_noun():
    found = choose(CLASSES, None, {}, {})
    assert found.outputs == {"verb": 3, "noun": 4}
    assert found.classes.names == ("verb", "noun", "action")


def test_a_target_without_any_training_label_is_refused():
    targets = choose(OWN, None, {}, {})
    refuse_unlabelled(targets, LABELS, np.arange(5))
    said = r"none of the 2 training rows has a label of scene.*\[.tool., .grip., .use.\]"
    with pytest.raises(DataError, match=said):
        refuse_unlabelled(targets, LABELS, np.array([3, 2]))
    alone = np.array([1, 0])  # row 1 has no grip; of row 0's there is one
    refuse_unlabelled(targets, LABELS, alone)
    with pytest.raises(DataError, match=r"label of grip.*\[.tool., .scene.\]"):
        refuse_unlabelled(targets, LABELS, np.array([1]))  # what is made of grips is left out, too
