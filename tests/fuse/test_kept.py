"""What a finished run keeps: its head or not, and its scores in which number format."""

import shlex
from dataclasses import replace

import numpy as np
import pytest

from helpers.cli import call
from helpers.sweeps import grid_of
from helpers.tiny import tiny_recipe, weights
from mambavl.cache.scores import best_classes
from mambavl.configs.errors import DataError, Interrupted
from mambavl.fuse import report
from mambavl.fuse.data import FeatureData
from mambavl.fuse.evaluate import evaluate_run, measure, open_run
from mambavl.fuse.recipe import run_targets
from mambavl.fuse.run import as_kept, read_curves, read_result, read_scores, scores_file
from mambavl.fuse.sweep import sweep, sweep_and_choose
from mambavl.fuse.train import train
from mambavl.fuse.without import evaluate_without

ARRAYS = ("narration_id", "verb", "noun", "verb_label", "noun_label")


def assert_same_scores(run, other):
    found, expected = read_scores(run, "validation"), read_scores(other, "validation")
    for name in ARRAYS:
        np.testing.assert_array_equal(found[name], expected[name])


def test_a_run_that_keeps_its_scores_alone_has_those_of_one_that_keeps_all(stores, tmp_path):
    """Also where it was stopped on the way; and nothing but the head is missing."""
    whole = train(tiny_recipe(stores), tmp_path / "whole")
    recipe, calls = tiny_recipe(stores, keep="scores"), iter(range(1000))
    with pytest.raises(Interrupted):
        train(recipe, tmp_path / "run", should_stop=lambda: next(calls) >= 5)
    assert (tmp_path / "run" / "checkpoints").is_dir()
    result = train(recipe, tmp_path / "run")
    assert result.metrics == whole.metrics
    assert_same_scores(tmp_path / "run", tmp_path / "whole")
    names = [{path.name for path in (tmp_path / name).iterdir()} for name in ("run", "whole")]
    assert names[1] - names[0] == {"model.safetensors"}
    assert names[0] < names[1]
    assert train(recipe, tmp_path / "run") == result  # has finished, and stays so


def test_a_run_may_change_its_mind_about_its_head_before_it_ends(stores, tmp_path):
    calls = iter(range(1000))
    with pytest.raises(Interrupted):
        train(tiny_recipe(stores, keep="scores"), tmp_path / "run", should_stop=lambda: next(calls) >= 5)
    train(tiny_recipe(stores), tmp_path / "run")
    assert weights(tmp_path / "run")
    evaluate_run(tmp_path / "run")


def test_who_wants_its_head_is_told_what_to_type(stores, tmp_path, capsys):
    """And what is told does it: the run in another folder is the same, with a head."""
    run = tmp_path / "run"
    train(tiny_recipe(stores, keep="scores"), run)
    before = (run / "result.json").read_bytes()
    for deed in (lambda: evaluate_run(run), lambda: evaluate_without(run, ["verb_question"])):
        with pytest.raises(DataError, match=f"^{run}: kept its scores and no weights") as error:
            deed()
    assert (run / "result.json").read_bytes() == before
    assert call("evaluate", run) == 1
    assert "kept its scores and no weights" in capsys.readouterr().err
    _, command, _ = str(error.value).split("`")
    program, *arguments = shlex.split(command)
    assert program == "mambavl"
    assert call(*arguments) == 0
    again = tmp_path / "run-weights"
    assert_same_scores(again, run)
    assert evaluate_run(again).metrics == read_result(run).metrics


def test_a_run_that_has_not_finished_is_not_said_to_have_kept_its_scores(stores, tmp_path):
    calls = iter(range(1000))
    with pytest.raises(Interrupted):
        train(tiny_recipe(stores, keep="scores"), tmp_path / "run", should_stop=lambda: next(calls) >= 5)
    with pytest.raises(DataError, match="has not finished"), open_run(tmp_path / "run"):
        pass


@pytest.mark.parametrize("pack", [1, 2])
def test_points_of_a_sweep_keep_their_scores_and_what_is_chosen_its_head(stores, tmp_path, pack):
    keys = {"epochs": 2, "warmup_epochs": 0, "keep": "scores"}
    grid = {"train": {"lr": [1e-4, 1e-2]}}
    points = grid_of(stores, tmp_path / "plain", grid, **keys)
    assert [point.state for point in sweep(points, tmp_path / "plain", pack=pack)] == ["done", "done"]
    assert not list((tmp_path / "plain").rglob("*.safetensors"))
    assert len(list((tmp_path / "plain").glob("*/scores/validation.npz"))) == 2
    assert {point.result.trained.together for point in points} == {pack}
    chooses = {"select_on": "0/2", "data": {"hold_out_by": "video"}}
    points = grid_of(stores, tmp_path / "s", grid, top=chooses, **keys)
    _, chosen = sweep_and_choose(points, tmp_path / "s", pack=pack)
    [found] = (tmp_path / "s").rglob("*.safetensors")
    assert found.parent == chosen.runs[0].run


def test_scores_in_half_precision_are_read_as_any_others(stores, tmp_path):
    """By the report, with a stream left out, by predicted questions; and what is measured is what is kept."""
    whole = train(tiny_recipe(stores), tmp_path / "whole")
    recipe = tiny_recipe(stores, score_dtype="float16")
    result = train(recipe, tmp_path / "run")
    files = [scores_file(tmp_path / name, "validation") for name in ("whole", "run")]
    exact, half = (np.load(file) for file in files)
    for name in ("verb", "noun"):
        assert (exact[name].dtype, half[name].dtype) == (np.float32, np.float16)
        np.testing.assert_array_equal(half[name], exact[name].astype(np.float16))
    found = read_scores(tmp_path / "run", "validation")
    assert found["verb"].dtype == np.float32
    data = FeatureData(recipe.sources, recipe.data)
    targets = run_targets(recipe, data)
    assert result.metrics == measure(data, targets, data.evaluation, {n: found[n] for n in ("verb", "noun")})
    curves = [[line["loss"] for line in read_curves(tmp_path / name)] for name in ("whole", "run")]
    assert curves[0] == curves[1]
    report.write_report([tmp_path / "run", tmp_path / "whole"], tmp_path / "r.html")
    without = evaluate_without(tmp_path / "run", ["verb_question", "noun_question"])
    assert without.with_all == result.metrics
    assert np.load(without.scores)["noun"].dtype == np.float16
    assert evaluate_run(tmp_path / "run").metrics == result.metrics
    best = best_classes(files[1], num_verbs=3, num_nouns=4)
    np.testing.assert_array_equal(best.verb, half["verb"].argmax(1))
    np.testing.assert_array_equal(best.noun, half["noun"].argmax(1))
    assert replace(result, metrics={}, recipe={}, trained=whole.trained, scored=whole.scored, title="") == (
        replace(whole, metrics={}, recipe={}, title="")
    )


def test_what_half_precision_cannot_hold():
    scores = {
        "verb": np.array([[-0.0, -1e6, -np.inf], [-0.5, -65503.0, -1e-9]], np.float32),
        "noun": np.array([[-1.0004, -1.0]], np.float32),
    }
    half = as_kept(scores, "float16")
    assert half["verb"].tolist() == [[0.0, -65504.0, -np.inf], [-0.5, -65504.0, -0.0]]
    assert half["noun"].tolist() == [[-1.0, -1.0]]  # a tie: the next number is 2 ** -10 away
    same = as_kept(scores, "float32")
    for name, found in scores.items():
        assert same[name].dtype == np.float32
        np.testing.assert_array_equal(same[name], found)


def test_a_row_whose_scores_are_all_too_low_can_still_be_measured():
    """Of a target with any number of classes a row may have none."""
    low = as_kept({"tools": np.full((2, 3), -1e5, np.float32)}, "float16")["tools"]
    assert np.isfinite(low).all()
