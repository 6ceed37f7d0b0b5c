"""Whole comparisons, of runs in which it is known who is right where."""

import json
import shutil

import numpy as np
import pytest

from helpers.contests import make_sweep
from helpers.mixing import CLASSES, make_kitchens
from mambavl.configs.errors import UsageError
from mambavl.fuse.aligned import Listed
from mambavl.fuse.compare import compare
from mambavl.fuse.run import read_result
from mambavl.fuse.sides import find_side

LISTED = Listed(tuple(one for one in make_kitchens() if one.split == "validation"), CLASSES)
NAMES = ("action", "verb", "noun")


@pytest.fixture(scope="module")
def swept(mixable, tmp_path_factory):
    """Candidates with 90 and 40 % of the rows right, six seeds each."""
    return make_sweep(tmp_path_factory.mktemp("c") / "sweep", mixable / "mlp", {0.01: 0.9, 0.001: 0.4})


def sides(swept):
    return find_side(f"{swept}/lr=0.01,*"), find_side(f"{swept}/lr=0.001,*")


def test_what_is_better_by_far_is_called_so_in_every_measure(swept):
    a, b = sides(swept)
    found = compare(a, b, measures=["top1", "recall5"])
    assert [row.name for row in found.table[:6]] == [
        *(f"{name} top-1" for name in NAMES),
        *(f"{name} class-mean recall@5" for name in NAMES),
    ]
    assert found.verdicts[0].better == "A"
    assert found.verdicts[1].better == "A"
    first = found.table[0]
    assert (first.rows, first.evidence.pairs, first.evidence.p) == (72, 6, 2 / 64)
    assert first.interval.low < first.a - first.b < first.interval.high
    assert np.mean(first.by_seed) == pytest.approx(first.a - first.b)
    assert first.mcnemar is None
    turned = compare(b, a, measures=["top1"])
    assert turned.verdicts[0].better == "B"
    assert turned.table[0].a == first.b
    assert turned.table[0].by_seed == tuple(-one for one in first.by_seed)


def test_it_says_what_the_runs_results_say(mixable):
    a, b = find_side(str(mixable / "mlp")), find_side(str(mixable / "mlp1"))
    found = compare(a, b, measures=["top1", "top5", "recall5"], allowed=["seeds"])
    keys = {"top1": "top1", "top5": "top5", "recall5": "mean_class_recall5"}
    for side, name in (("a", "mlp"), ("b", "mlp1")):
        metrics = read_result(mixable / name).metrics
        for row in found.table:
            key = f"{row.group}_{row.target}_{keys[row.measure]}"
            assert getattr(row, side) == pytest.approx(metrics[key]), key
            assert row.rows == metrics[f"{row.group}_{row.target}_n"]
    assert {row.group for row in found.table} == {"all", "unseen", "tail"}
    assert found.verdicts[0].better is None
    assert "1 pair of seeds, and 6 are needed" in found.verdicts[0].in_words
    assert not found.verdicts[1].is_judged
    assert [row.mcnemar is not None for row in found.table[:9]] == [True] * 6 + [False] * 3
    row = found.table[0]
    assert row.mcnemar.only_a - row.mcnemar.only_b == pytest.approx((row.a - row.b) * row.rows / 100)


def test_anticipation_is_compared_by_recall_and_files_by_all(mixable):
    a, b = find_side(str(mixable / "mlp")), find_side(str(mixable / "counts"))
    assert {row.measure for row in compare(a, b).table} == {"recall5"}
    files = [find_side(str(mixable / name / "scores" / "validation.npz")) for name in ("mlp", "counts")]
    of_files = compare(*files, listed=LISTED)
    assert [row.measure for row in of_files.table[:9]] == ["top1"] * 3 + ["top5"] * 3 + ["recall5"] * 3
    of_runs = {row.name: (row.a, row.b, row.interval) for row in compare(a, b).table}
    assert {
        row.name: (row.a, row.b, row.interval) for row in of_files.table if row.name in of_runs
    } == of_runs
    with pytest.raises(UsageError, match="does not say of which video a row is; name the lists with --ann"):
        compare(*files)


def test_the_ranked_target_comes_first_unless_others_are_asked_for(swept, mixable, tmp_path):
    a, b = sides(swept)
    asked = compare(a, b, measures=["top1"], targets=["noun", "verb"])
    assert [row.target for row in asked.table[:2]] == ["noun", "verb"]
    assert {row.target for row in asked.table} == {"noun", "verb"}
    with pytest.raises(UsageError, match=r"--target nuon: is no target .*did you mean `noun`"):
        compare(a, b, targets=["nuon"])
    shutil.copytree(mixable / "mlp", tmp_path / "a")
    raw = json.loads((tmp_path / "a" / "result.json").read_text())
    raw["recipe"]["rank_by"] = "noun_mean_class_recall5"
    (tmp_path / "a" / "result.json").write_text(json.dumps(raw))
    ranked = compare(find_side(str(tmp_path / "a")), find_side(str(mixable / "mlp")))
    assert [row.target for row in ranked.table[:3]] == ["noun", "verb", "action"]


def test_one_training_beside_several_is_no_pair_and_counts_are(swept, mixable):
    a, _ = sides(swept)
    alone = compare(a, find_side(f"{swept}/lr=0.001,seed=0"), measures=["top1"])
    assert alone.verdicts[0].better is None
    assert "B was trained once" in alone.verdicts[0].in_words
    turned = compare(find_side(f"{swept}/lr=0.001,seed=0"), a, measures=["top1"])
    assert "A was trained once" in turned.verdicts[0].in_words
    counted = compare(
        a, find_side(str(mixable / "counts")), measures=["top1"], targets=["verb"], planned=True
    )
    assert counted.table[0].evidence.pairs == 6
    assert counted.verdicts[0].better == "A"


def test_what_a_sweep_looked_at_counts_unless_it_was_planned(mixable, tmp_path):
    folder = make_sweep(tmp_path / "s", mixable / "mlp", {0.01: 0.9, 0.001: 0.4, 0.1: 0.5})
    a, b = find_side(f"{folder}/lr=0.01,*"), find_side(f"{folder}/lr=0.001,*")
    found = compare(a, b, measures=["top1"], targets=["verb"])
    assert found.among == 2
    assert "6 pairs of seeds, and 7 are needed for one of 2 candidates" in found.verdicts[0].in_words
    [(name, one)] = found.nested.items()
    assert (name, one.candidates, one.participants) == ("s", 3, 3)
    assert one.best == "lr=0.01,seed=0"
    assert one.plain == pytest.approx(found.table[0].a)
    assert one.nested == pytest.approx(one.plain)  # so far ahead that every kitchen chooses it
    planned = compare(a, b, measures=["top1"], targets=["verb"], planned=True)
    assert (planned.among, planned.verdicts[0].better) == (1, "A")
    assert planned.looked == found.looked


def test_everything_is_in_the_json(swept):
    a, b = sides(swept)
    found = compare(a, b, measures=["top1"])
    raw = json.loads(json.dumps(found.to_dict()))
    assert raw["a"]["seeds"] == [0, 1, 2, 3, 4, 5]
    assert raw["table"][0]["verdict"]["better"] == "A"
    assert raw["table"][0]["interval"] == found.table[0].interval._asdict()
    assert len(raw["sha256"]) == 12
    assert raw["looked"][0]["sweep"].endswith("sweep")
