"""Runs that count: chosen on training kitchens alone, scored and read like any other."""

import json
from dataclasses import replace

import numpy as np
import pytest

from helpers.cli import call
from helpers.tiny import ROWS, make_dense_store, make_history_store, make_segments, weights
from mambavl.cache.classes import verb_noun_classes
from mambavl.configs import dump, validate
from mambavl.configs.errors import UsageError
from mambavl.fuse import metrics, report
from mambavl.fuse.counting import choose, read_choice
from mambavl.fuse.counts import Counts
from mambavl.fuse.head import StreamShape
from mambavl.fuse.points import expand
from mambavl.fuse.recipe import Recipe
from mambavl.fuse.run import read_prior, read_result, read_scores
from mambavl.fuse.sweep import sweep
from mambavl.fuse.targets import choose as targets_of
from mambavl.fuse.train import train


def recipe(store, **keys):
    raw = {
        "title": "counted",
        "streams": {"past": {"store": str(store), "level": "past/actions"}},
        "head": {"name": "counts"},
        "counts": {"choose_on": "0/2", **keys},
        "targets": {"action": {"ranked_by": "pairs"}},
    }
    return validate(raw, Recipe, "counts.toml")


def kitchens(seed=0, change=None):
    """Rows with drawn labels, of which every participant has some in both splits."""
    rng = np.random.default_rng(seed)
    found = []
    for number, segment in enumerate(make_segments(ROWS)):
        kitchen = f"P0{1 + number // 10 % 3}"
        labels = {"verb": int(rng.integers(3)), "noun": int(rng.integers(4))}
        found.append(replace(segment, participant_id=kitchen, labels=labels))
    return tuple(change(segment) if change else segment for segment in found)


def test_a_run_that_counts_is_a_run_like_any_other(tmp_path, capsys):
    segments = kitchens()
    make_history_store(tmp_path / "past.zarr", segments)
    result = train(recipe(tmp_path / "past.zarr"), tmp_path / "run")
    assert (result.head, result.history_protocol, result.params.total) == ("counts", "oracle", 0)
    scored = [segment for segment in segments if segment.split == "validation"]
    first = [segment.narration_id.endswith("_0") for segment in scored]
    assert (result.rows.scored, result.rows.scored_by_prior) == (len(scored), sum(first))
    scores, prior = read_scores(tmp_path / "run", "validation"), read_prior(tmp_path / "run")
    for name in ("verb", "noun", "action"):
        np.testing.assert_allclose(scores[name][first], np.tile(prior[name], (sum(first), 1)), rtol=1e-6)
        np.testing.assert_allclose(np.exp(scores[name]).sum(1), 1, rtol=1e-5)
    assert call("evaluate", tmp_path / "run") == 0
    again = read_scores(tmp_path / "run", "validation")
    for name in ("verb", "noun", "action"):
        np.testing.assert_allclose(again[name], scores[name], rtol=1e-5)
    result = read_result(tmp_path / "run")
    report.write_report([tmp_path / "run"], tmp_path / "r.html")
    assert "counted" in (tmp_path / "r.html").read_text()
    assert train(recipe(tmp_path / "past.zarr"), tmp_path / "run").metrics == result.metrics


def test_no_scored_label_reaches_the_counts_or_the_choice(tmp_path):
    """Labels of validation rows are dealt anew, as they are scored; what the store tells stays."""
    segments = kitchens()
    make_history_store(tmp_path / "a.zarr", segments)
    dealt = kitchens(change=lambda one: one.labelled(verb=0) if one.split == "validation" else one)
    # the pasts of both stores are those of the first: only what is scored differs
    make_history_store(tmp_path / "b.zarr", dealt, told=segments)
    for name in "ab":
        train(recipe(tmp_path / f"{name}.zarr"), tmp_path / name)
    assert read_choice(tmp_path / "a") == read_choice(tmp_path / "b")
    one, other = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all((one[name] == other[name]).all() for name in one)
    assert read_result(tmp_path / "a").metrics != read_result(tmp_path / "b").metrics


def past_of(head, pairs):
    import torch

    verbs, nouns = head.sizes["verb"], head.sizes["noun"]
    tokens = torch.zeros(len(pairs), 1, verbs + nouns + 1)
    for row, (verb, noun) in enumerate(pairs):
        tokens[row, 0, [verb, verbs + noun]] = 1
    return head.past({"past": (tokens, torch.ones(len(pairs), dtype=torch.long))})


def test_the_choice_counts_the_other_kitchens_and_takes_the_best_recall():
    """Every pair is tried by a loop over the same counts; the first of equals stands. Of 12 verbs and 15
    nouns: among five of each a recall@5 is always 100.
    """
    classes = verb_noun_classes({}, {}, num_verbs=12, num_nouns=15)
    targets = targets_of(classes, ["verb", "noun"], {}, {})
    head = Counts({"past": StreamShape(width=28)}, targets)
    rng = np.random.default_rng(0)
    drawn = [(int(rng.integers(12)), int(rng.integers(15))) for _ in range(200)]
    past = past_of(head, drawn)
    verb = np.where(rng.random(200) < 0.6, [v for v, _ in drawn], rng.geometric(0.3, 200) % 12)
    labels = {"verb": verb, "noun": rng.geometric(0.2, 200) % 15}
    held = np.arange(200) % 3 == 0
    decays, exponents = [1.0, 0.5], [0.0, 1.0, 2.0]
    found = choose(head, past, labels, held, decays, exponents)
    for name, own in labels.items():
        tried = []
        for decay in decays:
            for exponent in exponents:
                part = {key: one[~held] for key, one in labels.items()}
                every = dict.fromkeys(labels, decay), dict.fromkeys(labels, exponent)
                head.count(past.of(~held), part, *every)
                scores = head.scores(head.log_means(past.of(held), name), name).numpy()
                tried.append((metrics.mean_class_recall5(scores, own[held]), -len(tried), decay, exponent))
        assert len({one[0] for one in tried}) > 1
        recall, _, decay, exponent = max(tried)
        assert found[name] == {"decay": decay, "exponent": exponent, "recall5": recall}


def test_recall_of_some_scores_is_that_of_the_measures():
    rng = np.random.default_rng(1)
    scores, labels = rng.normal(size=(50, 9)), rng.integers(0, 9, 50)
    hits = [labels[row] in np.argsort(-scores[row])[:5] for row in range(50)]
    per_class = [np.mean([hits[row] for row in np.flatnonzero(labels == one)]) for one in np.unique(labels)]
    assert metrics.mean_class_recall5(scores, labels) == pytest.approx(100 * np.mean(per_class))


def test_features_that_are_no_past_classes_are_refused(tmp_path):
    make_dense_store(tmp_path / "video.zarr", ROWS, width=8)
    raw = recipe(tmp_path / "video.zarr").model_dump(mode="json", exclude_none=True)
    raw["streams"] = {"past": {"store": str(tmp_path / "video.zarr"), "level": "frame"}}
    with pytest.raises(UsageError, match="features of fake; make them with `mambavl extract history"):
        train(validate(raw, Recipe, "counts.toml"), tmp_path / "run")


def test_a_past_longer_than_the_store_was_told_of_is_refused(tmp_path):
    """Of both the first command and a sweep; a run that was begun so goes on."""
    make_history_store(tmp_path / "past.zarr", kitchens(), last=4)
    longer = recipe(tmp_path / "past.zarr").model_dump(mode="json", exclude_none=True)
    longer["streams"]["past"]["last"] = 5
    said = r"stream past: last = 5, and its store holds 4 .*set streams\.past\.last=4, or .* --last 5`"
    with pytest.raises(UsageError, match=said):
        train(validate(longer, Recipe, "counts.toml"), tmp_path / "run")
    assert not (tmp_path / "run" / "recipe.toml").exists()
    points = expand({**longer, "grid": {"streams.past.last": [4, 5]}}, tmp_path / "sweep", "counts.toml")
    with pytest.raises(UsageError, match=said):
        sweep(points, tmp_path / "sweep")
    assert not list(tmp_path.glob("sweep/*/recipe.toml"))
    (tmp_path / "run" / "recipe.toml").write_text(dump(validate(longer, Recipe, "counts.toml")))
    assert train(validate(longer, Recipe, "counts.toml"), tmp_path / "run").metrics


def test_too_few_kitchens_to_choose_on_are_refused(tmp_path):
    make_history_store(tmp_path / "past.zarr", kitchens())
    with pytest.raises(UsageError, match=r"counts\.choose_on.* asks for 5 parts, and there are 3"):
        train(recipe(tmp_path / "past.zarr", choose_on="0/5"), tmp_path / "run")
    assert not (tmp_path / "run" / "recipe.toml").exists()  # the folder is still free for another recipe
    choice = json.loads((_counted(tmp_path) / "choice.json").read_bytes())
    assert choice["on"] == "train_0_of_2"
    assert choice["among"] == 25


def _counted(folder):
    train(recipe(folder / "past.zarr"), folder / "fine")
    return folder / "fine"
