"""Runs that older versions left behind are read, compared and found as what they are."""

import json
import shutil
import tomllib

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from helpers.paths import DATA
from mambavl.cache.scores import best_classes
from mambavl.configs import read_toml, validate
from mambavl.configs.errors import UsageError
from mambavl.fuse import older, report
from mambavl.fuse.evaluate import evaluate_run
from mambavl.fuse.head import StreamShape
from mambavl.fuse.points import Point, find_folders
from mambavl.fuse.recipe import Recipe, make_head, what_decides
from mambavl.fuse.result import Result, Trained
from mambavl.fuse.run import (
    MODEL,
    RECIPE,
    read_classes,
    read_curves,
    read_recipe,
    read_result,
    read_scores,
    refuse_other_recipe,
)
from mambavl.fuse.targets import choose
from mambavl.fuse.train import train

GOLDEN = DATA / "before-targets" / "runs"
FINISHED = ["mambavl", "mlp", "paper", "transformer"]
RUNS = [*FINISHED, "interrupted"]
SMALL = {"d_model": 8, "video_mlp_layers": 1, "text_mlp_layers": 1}
MAMBAVL = {"head": {**SMALL, "dropout": 0.0}, "fusion": {"d_state": 2, "expand": 1}}
TODAY = {  # what somebody would ask for today, to have the golden run of that name
    "mambavl": MAMBAVL,
    "paper": {"head": {"d_model": 8}, "fusion": {"preset": "paper", "d_state": 2}},
    "mlp": {"head": {"name": "mlp", **SMALL, "dropout": 0.2}},
    "transformer": {
        "head": {"name": "transformer", **SMALL},
        "transformer": {"depth": 1, "num_heads": 2, "max_positions": 12},
    },
    "interrupted": MAMBAVL,
}


def asked_for(name, **changes):
    streams = {"video": {"store": "stores/video.zarr", "level": "frame"}}
    for question in ("verb_question", "noun_question"):
        streams[question] = {"store": "stores/text.zarr", "level": f"{question}/last_hidden"}
    settings = {"epochs": 2, "batch_size": 4, "lr": 1e-2, "warmup_epochs": 1}
    if "fusion" in TODAY[name]:
        settings["lr_ssm"] = 1e-2
    raw = {"streams": streams, "train": {**settings, **changes}, "data": {"allow_missing": 1}}
    return validate({**raw, **TODAY[name]}, Recipe, name)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_before_is_what_the_recipe_of_today_asks_for(name, tmp_path):
    run = shutil.copytree(GOLDEN / name, tmp_path / "called anything")
    assert isinstance(tomllib.loads((run / RECIPE).read_text())["head"], str)
    recipe = asked_for(name)
    assert what_decides(read_recipe(run)) == what_decides(recipe)
    refuse_other_recipe(run, recipe)
    with pytest.raises(UsageError, match=r"belongs to another recipe.*\n  train\.lr: 0\.01 -> 0\.02"):
        refuse_other_recipe(run, asked_for(name, lr=2e-2))
    [(found, _)] = find_folders([Point(name, {}, recipe, tmp_path / name)], tmp_path)
    assert found == run


@pytest.mark.parametrize("name", FINISHED)
def test_the_head_of_a_run_of_before_takes_its_weights(name):
    widths = dict.fromkeys(("video", "verb_question", "noun_question"), StreamShape(width=3))
    learned = load_file(GOLDEN / name / "model.safetensors")
    targets = choose(read_classes(GOLDEN / name), None, {}, {})
    head = make_head(read_recipe(GOLDEN / name), widths, targets)
    head.load_state_dict(learned)


def test_the_form_of_today_is_given_back():
    raw = {"streams": {}, **TODAY["paper"]}
    assert older.recipe(raw) is raw
    assert older.recipe({"streams": {}}) == {"streams": {}}
    assert older.moved(raw) == {}
    damaged = {"head": "mlp", "mlp": 3}
    assert older.recipe(damaged) is damaged
    once = older.recipe(read_toml(GOLDEN / "mlp" / RECIPE))
    assert older.recipe(once) is once


def test_the_settings_of_the_head_that_was_trained_are_kept_and_no_others():
    raw = {
        "title": "x",
        "head": "transformer",
        "fusion": {"d_model": 1, "d_state": 2},
        "mlp": {"d_model": 3},
        "transformer": {"d_model": 4, "question_routing": "both", "depth": 5},
    }
    assert older.recipe(raw) == {
        "title": "x",
        "head": {"name": "transformer", "d_model": 4, "question_routing": "both"},
        "transformer": {"depth": 5},
    }
    assert older.recipe({**raw, "head": "mlp"}) == {"title": "x", "head": {"name": "mlp", "d_model": 3}}
    without_name = {"fusion": {"d_model": 1, "d_state": 2}}
    assert older.recipe(without_name) == {
        "head": {"name": "mambavl", "d_model": 1},
        "fusion": {"d_state": 2},
    }


def test_keys_that_have_moved_are_named_with_their_place():
    assert older.moved(
        {"head": "mlp", "mlp": {"d_model": 3}, "transformer": {"dropout": 0.1, "depth": 2}}
    ) == {
        "head": '[head] is a section now; write `[head]` and in it `name = "mlp"` (head.name)',
        "mlp.d_model": "stands in [head] now, once for all heads; set head.d_model",
        "transformer.dropout": "stands in [head] now, once for all heads; set head.dropout",
    }
    assert older.moved({"mlp": {}}) == {"mlp": "the MLP has no keys of its own; leave the section out"}
    assert older.moved({"head": 3, "fusion": 4, "transformer": []}) == {}


# --- result.json


@pytest.mark.parametrize("name", FINISHED)
def test_who_ran_is_taken_to_have_scored_and_who_trained_is_not_recorded(name):
    raw = json.loads((GOLDEN / name / "result.json").read_bytes())
    result = read_result(GOLDEN / name)
    assert result.scored.environment.commit == raw["environment"]["commit"]
    assert result.scored.scan_backend == raw["scan_backend"]
    assert result.scored.precision == "fp32"
    assert result.trained == Trained(
        environment=None,
        scan_backend=None,
        precision=raw["precision"],
        train_rows=raw["train_rows"],
        train_seconds=raw["train_seconds"],
        processes=raw["processes"],
    )
    assert result.metrics == raw["metrics"]
    assert result.recipe == older.recipe(raw["recipe"])
    assert result.shared == (raw["recipe"]["fusion"]["share"] if raw["head"] == "mambavl" else None)
    assert result.targets == ("verb", "noun", "action")
    assert report.what_ran(result)[0] == "what trained it: not recorded"


@pytest.mark.parametrize("name", FINISHED)
def test_seeds_of_before_and_of_today_share_an_entry_of_the_report(name, tmp_path):
    """The one of today says each key in its place, those of its own head alone, and is scored less often."""
    before, now = tmp_path / "before", tmp_path / "now"
    for run in (before, now):
        shutil.copytree(GOLDEN / name, run)
    raw = older.result(json.loads((now / "result.json").read_bytes()))
    raw["recipe"] = asked_for(name, seed=1, eval_every=2).model_dump(mode="json", exclude_none=True)
    raw["recipe"]["title"] = name
    (now / "result.json").write_text(json.dumps({**raw, "seed": 1}))
    [entry] = report.collect([before, now])
    assert entry.seeds == [0, 1]
    raw["recipe"]["train"]["lr"] = 0.5
    (now / "result.json").write_text(json.dumps({**raw, "seed": 1}))
    assert len(report.collect([before, now])) == 2


def test_a_run_of_before_meets_its_control_of_today_in_the_report(tmp_path):
    """They differ in `share` alone, and say what sharing A was worth."""
    shared, control = (shutil.copytree(GOLDEN / "mambavl", tmp_path / name) for name in ("shared", "control"))
    raw = older.result(json.loads((control / "result.json").read_bytes()))
    raw["recipe"] = asked_for("mambavl").model_dump(mode="json", exclude_none=True)
    raw["recipe"]["fusion"]["share"] = "none"
    raw["title"] = "control"
    raw["metrics"]["all_action_top1"] -= 2.5
    (control / "result.json").write_text(json.dumps(raw))
    report.write_report([shared, control], tmp_path / "report.html")
    assert "Sharing A is worth +2.5 points of action top-1 here" in (tmp_path / "report.html").read_text()


def test_a_result_of_today_is_left_as_it_is():
    raw = {
        "targets": ["verb"],
        "history_protocol": "predicted",
        "trained": {"precision": "fp32"},
        "scored": {},
        "precision": "of something else",
    }
    assert older.result(raw) == raw


@pytest.mark.parametrize("key", ["precision", "environment"])
def test_a_damaged_result_of_before_is_refused_by_the_key_that_it_lacks(key):
    raw = json.loads((GOLDEN / "mlp" / "result.json").read_bytes())
    del raw[key]
    with pytest.raises(ValueError, match=f"it has no {key}"):
        Result.from_dict(older.result(raw))


# --- scored again, and finished


@pytest.fixture
def before(tmp_path, monkeypatch):
    """A copy of the golden stores and runs, whose recipes name the stores from here."""
    shutil.copytree(DATA / "before-targets", tmp_path / "before")
    monkeypatch.chdir(tmp_path / "before")
    return tmp_path / "before"


@pytest.mark.parametrize("name", FINISHED)
def test_a_run_of_before_scores_the_same(name, before):
    """On the machine that made it to the bit; others round some products otherwise."""
    scores, result = read_scores(before / "runs" / name, "validation"), read_result(before / "runs" / name)
    again = evaluate_run(before / "runs" / name)
    found = read_scores(before / "runs" / name, "validation")
    assert found.keys() == scores.keys()
    for key in ("narration_id", "verb_label", "noun_label"):
        np.testing.assert_array_equal(found[key], scores[key])
    for key in ("verb", "noun"):
        np.testing.assert_allclose(found[key], scores[key], rtol=1e-5, atol=1e-6)
    assert again.metrics == pytest.approx(result.metrics, rel=1e-12)
    assert again.prior_metrics == pytest.approx(result.prior_metrics, rel=1e-12)
    assert again.trained == result.trained


def test_a_run_of_before_is_finished_as_the_unbroken_one_was(before):
    train(read_recipe(before / "runs" / "interrupted"), before / "runs" / "interrupted")
    found, expected = (load_file(before / "runs" / n / MODEL) for n in ("interrupted", "mambavl"))
    assert found.keys() == expected.keys()
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-4, atol=1e-6)
    assert len(read_curves(before / "runs" / "interrupted")) == 2


def test_scores_of_before_make_predicted_questions():
    path = GOLDEN / "mlp" / "scores" / "validation.npz"
    best, scores = best_classes(path, num_verbs=3, num_nouns=4), np.load(path)
    assert best.narration_ids == tuple(scores["narration_id"].tolist())
    np.testing.assert_array_equal(best.verb, scores["verb"].argmax(1))
