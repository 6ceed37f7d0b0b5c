"""The measures: hand-counted cases, slow twins, and the traps of the two recalls."""

import itertools

import numpy as np
import pytest

from mambavl.cache.classes import Classes, Derived, RowGroup, Target
from mambavl.fuse.metrics import average_precision, evaluate, log_softmax, marginalize, measure, ranked


def random_case(rows=200, verbs=7, nouns=9, seed=0):
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(rows, verbs)) * 2,
        rng.normal(size=(rows, nouns)) * 2,
        rng.integers(0, verbs, rows),
        rng.integers(0, nouns, rows),
    )


def slow_actions(verb, noun, verb_labels, noun_labels, k):
    """Every pair of every row, sorted: whether the label's pair is among the k best."""
    v, n = log_softmax(verb), log_softmax(noun)
    hits = []
    for i in range(len(v)):
        pairs = [(-(v[i, a] + n[i, b]), a, b) for a in range(v.shape[1]) for b in range(n.shape[1])]
        hits.append((verb_labels[i], noun_labels[i]) in [(a, b) for _, a, b in sorted(pairs)[:k]])
    return np.array(hits)


def test_actions_are_the_best_pairs_of_all():
    case = random_case()
    out = evaluate(*case)
    for k in (1, 5):
        assert out[f"all_action_top{k}"] == pytest.approx(100 * slow_actions(*case, k).mean())
    hits, labels = slow_actions(*case, 5), case[2] * 9 + case[3]
    by_class = [hits[labels == c].mean() for c in np.unique(labels)]
    assert out["all_action_mean_class_recall5"] == pytest.approx(100 * np.mean(by_class))


def test_rows_are_ranked_one_by_one_for_whoever_compares_them():
    verb, noun, verbs, nouns = random_case()
    classes = Classes(
        {"verb": Target({}, 7), "noun": Target({}, 9)}, {"action": Derived(("verb", "noun"))}, {}
    )
    labels = {"verb": np.where(np.arange(200) % 10 == 3, -1, verbs), "noun": nouns}
    found = ranked("action", classes, {"verb": verb, "noun": noun}, labels)
    known = labels["verb"] >= 0
    assert found.rows.tolist() == np.flatnonzero(known).tolist()
    assert found.best5.tolist() == slow_actions(verb, noun, verbs, nouns, 5)[known].tolist()
    one = ranked("noun", classes, {"noun": noun}, labels)
    assert one.best1.tolist() == (noun.argmax(1) == nouns).tolist()


def test_action_top1_is_both_right():
    verb, noun, verb_labels, noun_labels = random_case()
    both = (verb.argmax(1) == verb_labels) & (noun.argmax(1) == noun_labels)
    assert evaluate(verb, noun, verb_labels, noun_labels)["all_action_top1"] == pytest.approx(
        100 * both.mean()
    )


def test_the_relaxed_recall_is_never_below_the_official_one():
    """A pair among the five best pairs has its verb among five verbs and its noun among five nouns; not the
    other way round.
    """
    for seed in range(5):
        out = evaluate(*random_case(seed=seed))
        assert out["relaxed_action_mean_class_recall5"] > out["all_action_mean_class_recall5"]


def test_class_means_weigh_classes_not_rows():
    """Nine rows of class 0 all right, one of class 1 wrong: 90 % of rows, 50 % of classes."""
    verb = np.tile([9.0, 1, 2, 3, 4, 5, 6], (10, 1))
    labels = np.array([0] * 9 + [1])
    out = evaluate(verb, verb, labels, labels)
    assert out["all_verb_top1"] == 90
    assert out["all_verb_mean_class_recall5"] == 50
    assert out["all_verb_classes"] == 2
    assert out["all_verb_n"] == 10


def test_groups_take_their_rows_before_averaging():
    verb, noun, verb_labels, noun_labels = random_case()
    unseen = np.arange(200) % 3 == 0
    out = evaluate(verb, noun, verb_labels, noun_labels, unseen=unseen, tail_verbs=[1, 2], tail_nouns=[3])
    subset = evaluate(verb[unseen], noun[unseen], verb_labels[unseen], noun_labels[unseen])
    either = np.isin(verb_labels, [1, 2]) | (noun_labels == 3)
    assert out["unseen_action_mean_class_recall5"] == subset["all_action_mean_class_recall5"]
    assert out["tail_verb_n"] == np.isin(verb_labels, [1, 2]).sum()
    assert out["tail_noun_n"] == (noun_labels == 3).sum()
    assert out["tail_action_n"] == either.sum()


def test_scores_of_any_scale_and_offset_rank_the_same():
    """The official scorer's softmax over the whole array underflows on per-row offsets; ours is per row."""
    case = random_case()
    shifted = (
        case[0] + np.linspace(-500, 500, 200)[:, None],
        case[1] + np.linspace(900, -900, 200)[:, None],
        *case[2:],
    )
    assert evaluate(*shifted) == evaluate(*case)
    assert evaluate(log_softmax(case[0]), log_softmax(case[1]), *case[2:]) == evaluate(*case)


def by_all_orders(scores, label, k):
    """How often the label is among the best k, over every order of the classes, ties kept in that order."""
    orders = list(itertools.permutations(range(len(scores))))
    hits = [label in sorted(order, key=lambda one: -scores[one])[:k] for order in orders]
    return sum(hits) / len(hits)


def tied_case(rows, verbs, nouns, values, seed=0):
    """Scores of a few values only, so that most rows tie somewhere."""
    rng = np.random.default_rng(seed)
    return (
        rng.integers(0, values, (rows, verbs)).astype(float),
        rng.integers(0, values, (rows, nouns)).astype(float),
        rng.integers(0, verbs, rows),
        rng.integers(0, nouns, rows),
    )


@pytest.mark.parametrize("values", [1, 2, 3])
def test_a_tie_counts_as_often_as_an_order_of_the_tied_classes_makes_a_hit(values):
    """Every order of seven classes tried, against the closed form."""
    verb, _, labels, _ = tied_case(12, 7, 7, values)
    out = evaluate(verb, verb, labels, labels)
    for k in (1, 5):
        expected = [by_all_orders(scores, label, k) for scores, label in zip(verb, labels, strict=True)]
        assert out[f"all_verb_top{k}"] == pytest.approx(100 * np.mean(expected))
    by_class = [np.mean([expected[i] for i in np.flatnonzero(labels == c)]) for c in np.unique(labels)]
    assert out["all_verb_mean_class_recall5"] == pytest.approx(100 * np.mean(by_class))


@pytest.mark.parametrize("values", [1, 2])
def test_pairs_that_tie_count_likewise(values):
    """Every order of the eight pairs of 2 verbs and 4 nouns; as products, and as scores over given pairs."""
    verb, noun, verb_labels, noun_labels = tied_case(6, 2, 4, values)
    pairs = list(itertools.product(range(2), range(4)))
    sums = log_softmax(verb)[:, [v for v, _ in pairs]] + log_softmax(noun)[:, [n for _, n in pairs]]
    columns = [pairs.index(pair) for pair in zip(verb_labels, noun_labels, strict=True)]
    products = evaluate(verb, noun, verb_labels, noun_labels)
    given = evaluate(verb, noun, verb_labels, noun_labels, action_scores=sums, pairs=pairs)
    for k in (1, 5):
        expected = [by_all_orders(scores, column, k) for scores, column in zip(sums, columns, strict=True)]
        assert products[f"all_action_top{k}"] == pytest.approx(100 * np.mean(expected))
        assert given[f"all_action_top{k}"] == products[f"all_action_top{k}"]


@pytest.mark.parametrize("values", [2, 3, 6, 40])
def test_products_count_ties_over_all_pairs(values):
    """Places from the few best verbs and nouns, against every pair of 30 verbs and 50 nouns."""
    case = tied_case(300, 30, 50, values)
    verbs, nouns, rows = log_softmax(case[0]), log_softmax(case[1]), np.arange(300)
    own = verbs[rows, case[2]] + nouns[rows, case[3]]
    sums = verbs[:, :, None] + nouns[:, None, :]
    above = (sums > own[:, None, None]).sum((1, 2))
    tied = (sums == own[:, None, None]).sum((1, 2))
    out = evaluate(*case)
    fractions = 0
    for k in (1, 5):
        expected = np.clip((k - above) / tied, 0, 1)
        assert out[f"all_action_top{k}"] == pytest.approx(100 * expected.mean())
        fractions = fractions | ((expected > 0) & (expected < 1))
    assert out.get("all_action_ties", 0) == fractions.sum()


@pytest.mark.parametrize("label", range(6))
@pytest.mark.parametrize("turned", [False, True])
def test_six_pairs_of_one_verb_share_five_places_whichever_is_the_label(label, turned):
    """They are the best of all pairs: one verb, and six nouns that tie. Or one noun, and six verbs."""
    one, six = np.array([[50.0, *[0.0] * 6]]), np.array([[9.0] * 6 + [1.0, 2.0, 3.0]])
    labels = np.array([0]), np.array([label])
    out = evaluate(six, one, *labels[::-1]) if turned else evaluate(one, six, *labels)
    assert out["all_action_top1"] == pytest.approx(100 / 6)
    assert out["all_action_top5"] == pytest.approx(500 / 6)
    assert out["all_action_ties"] == 1


def test_equal_scores_are_worth_a_guess_and_are_counted():
    """All-zero scores of EK100's size: class ids are sorted by frequency, and rank nothing."""
    labels = np.minimum(np.random.default_rng(0).geometric(0.2, 1000) - 1, 96)  # the small ids are frequent
    zeros = np.zeros((1000, 97)), np.zeros((1000, 300))
    out = evaluate(*zeros, labels, labels, tail_verbs=range(10, 97))
    assert out["all_verb_top1"] == pytest.approx(100 / 97)
    assert out["all_verb_top5"] == pytest.approx(500 / 97)
    assert out["all_verb_mean_class_recall5"] == pytest.approx(500 / 97)
    assert out["all_noun_top1"] == pytest.approx(100 / 300)
    assert out["all_action_top1"] == pytest.approx(100 / 29_100)
    assert out["all_action_top5"] == pytest.approx(500 / 29_100)
    assert out["relaxed_action_mean_class_recall5"] == pytest.approx(100 * 5 / 97 * 5 / 300)
    assert [out[f"all_{target}_ties"] for target in ("verb", "noun", "action")] == [1000] * 3
    assert out["tail_verb_ties"] == (labels >= 10).sum()
    assert "unseen_verb_ties" not in out  # no row


def test_only_a_tie_across_a_border_makes_a_fraction():
    """Three classes share the first place: a third of a hit at 1, a whole one at 5."""
    verb = np.array([[3.0, 3, 3, 2, 1, 0, -1]])
    tied = [evaluate(verb, verb, np.array([label]), np.array([label])) for label in (0, 1, 2)]
    assert tied[0] == tied[1] == tied[2]  # the label's number plays no part
    assert tied[0]["all_verb_top1"] == pytest.approx(100 / 3)
    assert tied[0]["all_verb_top5"] == 100
    assert tied[0]["all_verb_ties"] == 1
    below = evaluate(verb, verb, np.array([6]), np.array([6]))
    assert below["all_verb_top5"] == 0
    assert not [key for key in below if key.endswith("_ties")]


def test_scores_without_ties_give_no_key_of_ties():
    assert not [key for key in evaluate(*random_case()) if key.endswith("_ties")]


def test_probability_zero_ties_with_probability_zero():
    """-inf equals -inf: a label of probability 0 shares the places that are left over."""
    verb = np.array([[0.0, -1, -2, -np.inf, -np.inf, -np.inf, -np.inf]])
    out = evaluate(verb, verb, np.array([5]), np.array([0]))
    assert out["all_verb_top5"] == pytest.approx(100 * 2 / 4)
    assert out["all_action_top5"] == 0  # nine pairs have a probability


def test_a_label_without_a_column_is_a_miss_however_few_columns_there_are():
    verb, noun = np.zeros((1, 7)), np.zeros((1, 9))
    out = evaluate(
        verb, noun, np.array([3]), np.array([3]), action_scores=np.ones((1, 2)), pairs=[(0, 0), (1, 1)]
    )
    assert out["all_action_top5"] == 0


def test_empty_groups_are_none():
    out = evaluate(*random_case())
    assert out["unseen_verb_top1"] is None
    assert out["tail_action_mean_class_recall5"] is None
    assert out["tail_action_n"] == 0


def test_given_action_scores_rank_the_actions_and_a_label_without_a_column_is_a_miss():
    verb, noun, verb_labels, noun_labels = random_case()
    pairs = [(a, b) for a in range(7) for b in range(8)]  # noun 8 has no column
    scores = log_softmax(verb)[:, [a for a, _ in pairs]] + log_softmax(noun)[:, [b for _, b in pairs]]
    out = evaluate(verb, noun, verb_labels, noun_labels, action_scores=scores, pairs=pairs)
    reachable = noun_labels < 8
    best = scores.argmax(1)
    right = [pairs[c] == (v, n) for c, v, n in zip(best, verb_labels, noun_labels, strict=True)]
    assert out["all_action_top1"] == pytest.approx(100 * np.mean(right))
    assert not np.array(right)[~reachable].any()


def test_marginalizing_gives_a_class_without_a_pair_probability_zero():
    scores = np.log([[0.5, 0.2, 0.3]])
    verbs, nouns = marginalize(scores, [(0, 1), (0, 2), (3, 1)], num_verbs=4, num_nouns=4)
    np.testing.assert_allclose(verbs, [[0.7, 0, 0, 0.3]])
    np.testing.assert_allclose(nouns, [[0, 0.8, 0.2, 0]])
    with np.errstate(divide="ignore"):
        out = evaluate(np.log(verbs), np.log(nouns), np.array([3]), np.array([2]))  # log 0 = -inf is a score
    assert (out["all_verb_top1"], out["all_verb_top5"], out["all_action_top5"]) == (0, 100, 100)


def test_scores_that_are_not_finite_or_do_not_fit_are_refused():
    verb, noun, verb_labels, noun_labels = random_case()
    with pytest.raises(ValueError, match="row 3 of the scores holds NaN"):
        evaluate(np.where(np.arange(200)[:, None] == 3, np.nan, verb), noun, verb_labels, noun_labels)
    with pytest.raises(ValueError, match="labels reach"):
        evaluate(verb, noun, verb_labels + 5, noun_labels)
    with pytest.raises(ValueError, match="do not belong together"):
        evaluate(verb[:5], noun, verb_labels, noun_labels)


def test_guessing_the_prior_on_the_real_validation_list_gives_the_known_figures(ek100):
    """EK100 facts: class frequencies alone give verb 20.0, noun 3.9, action 2.1 top-1; recall@5 6.4 / 2.4 /
    0.4.
    """
    train = [s for s in ek100.segments if s.split == "train"]
    rows = [s for s in ek100.segments if s.split == "validation"]
    verb = np.tile(np.bincount([s.verb_class for s in train], minlength=97) / len(train), (len(rows), 1))
    noun = np.tile(np.bincount([s.noun_class for s in train], minlength=300) / len(train), (len(rows), 1))
    pairs, counts = np.unique([(s.verb_class, s.noun_class) for s in train], axis=0, return_counts=True)
    out = evaluate(
        np.log(verb + 1e-9),
        np.log(noun + 1e-9),
        np.array([s.verb_class for s in rows]),
        np.array([s.noun_class for s in rows]),
        unseen=np.array([s.participant_id in ek100.classes.groups["unseen"].values for s in rows]),
        tail_verbs=ek100.classes.targets["verb"].sets["tail"],
        tail_nouns=ek100.classes.targets["noun"].sets["tail"],
        action_scores=np.tile(np.log(counts), (len(rows), 1)),
        pairs=pairs.tolist(),
    )
    assert out["all_action_top1"] == pytest.approx(2.1, abs=0.1)
    assert out["all_action_top5"] == pytest.approx(8.9, abs=0.1)
    assert out["all_action_mean_class_recall5"] == pytest.approx(0.4, abs=0.1)
    assert out["all_verb_top1"] == pytest.approx(20.0, abs=0.1)
    assert out["all_verb_top5"] == pytest.approx(63.2, abs=0.1)
    assert out["all_noun_top1"] == pytest.approx(3.9, abs=0.1)
    assert out["all_noun_top5"] == pytest.approx(18.8, abs=0.1)
    assert out["all_verb_mean_class_recall5"] == pytest.approx(6.4, abs=0.1)
    assert out["all_noun_mean_class_recall5"] == pytest.approx(2.4, abs=0.1)
    assert out["unseen_verb_n"] == 1065
    assert (out["tail_verb_n"], out["tail_noun_n"], out["tail_action_n"]) == (1760, 1900, 3105)


def test_knowing_nothing_on_the_real_validation_list_is_worth_a_guess(ek100):
    """A fifth of the rows are of verb 0, the most frequent one: ranked by id, zeros had a top-1 of 20.04."""
    rows = [s for s in ek100.segments if s.split == "validation"]
    verbs, nouns = np.array([(s.verb_class, s.noun_class) for s in rows]).T
    out = evaluate(np.zeros((len(rows), 97)), np.zeros((len(rows), 300)), verbs, nouns)
    assert 100 * np.mean(verbs == 0) == pytest.approx(20.04, abs=0.005)
    assert out["all_verb_top1"] == pytest.approx(100 / 97)
    assert out["all_noun_mean_class_recall5"] == pytest.approx(500 / 300)
    assert out["all_action_ties"] == len(rows) == 9668


# --- any targets

OWN = Classes(
    targets={
        "tool": Target({}, 4, sets={"rare": (2, 3)}),
        "grip": Target({}, 3),
        "place": Target({}, 5),
        "scene": Target({}, 3, "multi", {"rare": (1,)}),
    },
    derived={"use": Derived(("tool", "grip", "place"))},
    groups={"far": RowGroup("participant_id", ("P02",))},
)


def own_case(rows=150, seed=0):
    """Scores and labels of all targets, some rows without a label; and who is far."""
    rng = np.random.default_rng(seed)
    scores = {name: rng.normal(size=(rows, target.count)) for name, target in OWN.targets.items()}
    labels = {name: rng.integers(0, OWN.targets[name].count, rows) for name in ("tool", "grip", "place")}
    labels["scene"] = rng.integers(0, 2, (rows, 3))
    for number, name in enumerate(labels):
        labels[name][number :: 7 + number] = -1
    return scores, labels, {"far": rng.random(rows) < 0.4}


def test_a_target_counts_the_rows_that_have_its_label():
    scores, labels, groups = own_case()
    out = measure(OWN, scores, labels, groups)
    for name in ("tool", "grip", "place"):
        for group, mask in (("all", np.ones(150, bool)), ("far", groups["far"])):
            known = mask & (labels[name] >= 0)
            hits = scores[name][known].argmax(1) == labels[name][known]
            assert out[f"{group}_{name}_n"] == known.sum()
            assert out[f"{group}_{name}_top1"] == pytest.approx(100 * hits.mean())
    known = labels["tool"] >= 0
    assert out["rare_tool_n"] == np.isin(labels["tool"][known], [2, 3]).sum()
    assert not any(key.startswith("rare_grip") for key in out)  # the group names no class of it


def test_a_product_of_three_parts_ranks_all_their_combinations():
    scores, labels, groups = own_case()
    out = measure(OWN, scores, labels, groups)
    known = np.flatnonzero((labels["tool"] >= 0) & (labels["grip"] >= 0) & (labels["place"] >= 0))
    logs = [log_softmax(scores[name]) for name in OWN.derived["use"].of]
    hits = {1: [], 5: []}
    for row in known:
        every = logs[0][row][:, None, None] + logs[1][row][:, None] + logs[2][row]
        own = every[labels["tool"][row], labels["grip"][row], labels["place"][row]]
        for k in hits:
            hits[k].append((every > own).sum() < k)
    assert out["all_use_n"] == len(known)
    assert out["all_use_top1"] == pytest.approx(100 * np.mean(hits[1]))
    assert out["all_use_top5"] == pytest.approx(100 * np.mean(hits[5]))
    assert out["rare_use_n"] == np.isin(labels["tool"][known], [2, 3]).sum()
    triples = {tuple(labels[name][row] for name in OWN.derived["use"].of) for row in known}
    assert out["all_use_classes"] == len(triples)
    best5 = {name: (-scores[name]).argsort(1)[:, :5] for name in OWN.derived["use"].of}
    relaxed = {triple: [] for triple in triples}
    for row in known:
        triple = tuple(labels[name][row] for name in OWN.derived["use"].of)
        parts = zip(OWN.derived["use"].of, triple, strict=True)
        relaxed[triple].append(all(label in best5[name][row] for name, label in parts))
    expected = np.mean([np.mean(found) for found in relaxed.values()])
    assert out["relaxed_use_mean_class_recall5"] == pytest.approx(100 * expected)


def slow_average_precision(scores, labels):
    """Recall gained times precision, at every threshold that some row's score makes."""
    area, before = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        taken = scores >= threshold
        recall = labels[taken].sum() / labels.sum()
        area += (recall - before) * labels[taken].mean()
        before = recall
    return area


@pytest.mark.parametrize("digits", [9, 1, 0])  # rounded scores tie
def test_average_precision_is_the_area_over_every_threshold(digits):
    rng = np.random.default_rng(digits)
    for _ in range(20):
        scores = rng.normal(size=30).round(digits)
        labels = rng.random(30) < 0.3
        labels[rng.integers(30)] = True
        found = average_precision(scores, labels)
        assert found == pytest.approx(slow_average_precision(scores, labels), rel=1e-12)
        assert found == average_precision(*(part[::-1] for part in (scores, labels))), "order does not count"


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [  # as scikit-learn 1.9's average_precision_score gives them
        ([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1], 0.8333333333333333),
        ([0.5, 0.5, 0.5, 0.5], [1, 0, 0, 1], 0.5),
        ([0.9, 0.9, 0.2, 0.1, 0.1], [0, 1, 1, 0, 1], 0.5888888888888889),
    ],
)
def test_average_precision_agrees_with_scikit_learn(scores, labels, expected):
    assert average_precision(np.array(scores), np.array(labels, bool)) == pytest.approx(expected, rel=1e-12)


def test_map_averages_classes_that_are_present_over_labelled_rows():
    scores, labels, groups = own_case()
    labels["scene"][labels["scene"][:, 0] >= 0, 2] = 0  # class 2 is never there
    out = measure(OWN, scores, labels, groups)
    known = labels["scene"][:, 0] >= 0
    by_class = [slow_average_precision(scores["scene"][known, c], labels["scene"][known, c]) for c in (0, 1)]
    assert out["all_scene_map"] == pytest.approx(100 * np.mean(by_class))
    assert (out["all_scene_n"], out["all_scene_classes"]) == (known.sum(), 2)
    assert out["rare_scene_map"] == pytest.approx(100 * by_class[1])
    assert out["rare_scene_classes"] == 1
    far = known & groups["far"]
    by_class = [slow_average_precision(scores["scene"][far, c], labels["scene"][far, c]) for c in (0, 1)]
    assert out["far_scene_map"] == pytest.approx(100 * np.mean(by_class))
    assert "all_scene_top1" not in out


def test_a_measure_of_no_labelled_row_is_none():
    scores, labels, groups = own_case()
    labels["tool"][:], labels["scene"][:] = -1, -1
    out = measure(OWN, scores, labels, groups)
    assert (out["all_tool_top1"], out["all_tool_n"]) == (None, 0)
    assert (out["all_scene_map"], out["all_scene_n"]) == (None, 0)
    assert (out["all_use_top1"], out["all_use_n"]) == (None, 0)
    assert out["all_grip_top1"] is not None


@pytest.mark.parametrize(
    ("target", "spoil", "said"),
    [
        ("tool", lambda s, y: (s[:, :3], y), "tool: labels reach 3, the scores have 3 columns"),
        ("tool", lambda s, y: (s, y[:-1]), "different numbers of rows|do not belong together"),
        ("scene", lambda s, y: (s[:, :2], y), "scene: the scores have 2 columns, the labels 3"),
        ("scene", lambda s, y: (s, y[:, 0]), "scene: .*do not belong together"),
        (
            "scene",
            lambda s, y: (np.where(s == s[4, 1], np.nan, s), y),
            "scene: row 4 of the scores holds NaN",
        ),
    ],
)
def test_scores_and_labels_that_do_not_fit_are_refused(target, spoil, said):
    scores, labels, groups = own_case()
    scores[target], labels[target] = spoil(scores[target], labels[target])
    with pytest.raises(ValueError, match=said):
        measure(OWN, scores, labels, groups)
