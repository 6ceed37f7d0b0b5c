"""How much a sweep has looked at, and what its best is worth on rows that did not choose it."""

import numpy as np
import pytest

from helpers.contests import make_sweep
from mambavl.fuse.looked import looked_at, nested, rivals, stands_out_among
from mambavl.fuse.sides import find_side


@pytest.fixture(scope="module")
def swept(mixable, tmp_path_factory):
    """Three candidates of two seeds; of the third one seed alone."""
    folder = tmp_path_factory.mktemp("looked") / "sweep"
    make_sweep(folder, mixable / "mlp", {0.01: 0.8, 0.001: 0.5}, 2)
    return make_sweep(folder, mixable / "mlp", {0.1: 0.5}, 1)


def test_runs_candidates_and_epochs_that_were_scored_are_counted(swept, mixable):
    side = find_side(f"{swept}/lr=0.01,*")
    [found] = looked_at([side, find_side(f"{swept}/lr=0.001,*")])
    assert sorted(map(sorted, found.candidates)) == [
        ["lr=0.001,seed=0", "lr=0.001,seed=1"],
        ["lr=0.01,seed=0", "lr=0.01,seed=1"],
        ["lr=0.1,seed=0"],
    ]
    assert (found.runs, found.scorings) == (5, 10)  # two epochs each
    assert found.in_words == "sweep: 5 runs of 3 candidates, scored after 10 epochs in all"
    assert looked_at([find_side(str(mixable / "mlp"))]) == []  # lies in no sweep


def test_epochs_that_were_not_scored_are_not_counted(swept, mixable, tmp_path):
    folder = make_sweep(tmp_path / "s", mixable / "mlp", {0.01: 0.8, 0.001: 0.5}, 1)
    curves = folder / "lr=0.01,seed=0" / "curves.jsonl"
    curves.write_text(
        '{"epoch": 1, "loss": 2.0, "lr": 0.1, "seconds": 1}\n' + curves.read_text().splitlines()[1] + "\n"
    )
    [found] = looked_at([find_side(str(folder / "lr=0.01,seed=0"))])
    assert (found.runs, found.scorings) == (2, 3)
    recipe = folder / "lr=0.001,seed=0" / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("[data]", '[data]\nhold_out = "0/3"'))
    [found] = looked_at([find_side(str(folder / "lr=0.01,seed=0"))])
    assert (len(found.candidates), found.scorings) == (1, 1)  # the other is scored on other rows


def test_what_stands_out_is_one_of_all_but_the_other(swept, mixable):
    a, b, alone = (
        find_side(one) for one in (f"{swept}/lr=0.01,*", f"{swept}/lr=0.001,*", str(mixable / "mlp"))
    )
    assert stands_out_among([a, b], looked_at([a, b])) == 2
    assert stands_out_among([a, alone], looked_at([a, alone])) == 3
    assert stands_out_among([alone, alone], []) == 1


def test_candidates_with_the_same_seeds_are_rivals(swept):
    side = find_side(f"{swept}/lr=0.01,*")
    [sweep] = looked_at([side])
    found = [[one.path.name for one in members] for members in rivals(side, sweep)]
    assert sorted(found) == [["lr=0.001,seed=0", "lr=0.001,seed=1"], ["lr=0.01,seed=0", "lr=0.01,seed=1"]]


def test_the_best_is_measured_on_rows_that_did_not_choose_it():
    """By hand: without P2's rows x is the best (1 of 2; y has 0), without P1's y is (2 of 2)."""
    people = ["P1", "P1", "P2", "P2"]
    hits = {"x": np.array([1.0, 0, 0, 0]), "y": np.array([0.0, 0, 1, 1])}
    found = nested(hits, np.zeros(4, int), people)
    assert (found.best, found.plain) == ("y", 50.0)
    assert found.nested == 0.0  # P1 by y, P2 by x
    assert (found.candidates, found.participants, found.same) == (2, 2, 1)


def test_it_is_the_class_mean_of_a_loop_over_participants():
    dice = np.random.default_rng(3)
    label, people = dice.integers(0, 4, 200), dice.integers(0, 6, 200)
    hits = {str(number): dice.random(200) for number in range(5)}

    def measured(own, rows):
        return 100 * np.mean([own[rows & (label == one)].mean() for one in np.unique(label[rows])])

    put_together = np.zeros(200)
    for person in range(6):
        best = max(hits.values(), key=lambda own: measured(own, people != person))
        put_together[people == person] = best[people == person]
    found = nested(hits, label, [str(one) for one in people])
    every = np.ones(200, bool)
    assert found.nested == pytest.approx(measured(put_together, every))
    assert found.plain == pytest.approx(max(measured(own, every) for own in hits.values()))


def test_what_is_chance_of_rows_is_taken_out():
    """Forty candidates that are all the same coin: the best stands out, and elsewhere it does not."""
    dice = np.random.default_rng(4)
    people = np.repeat(np.arange(20), 10).astype(str)
    apart = []
    for _ in range(30):
        hits = {str(number): (dice.random(200) < 0.5).astype(float) for number in range(40)}
        found = nested(hits, np.zeros(200, int), people)
        apart.append((found.plain - 50, found.nested - 50))
    plain, corrected = np.mean(apart, axis=0)
    assert plain > 6  # the best of forty lies two deviations of 3.5 above their mean
    assert corrected < 1
