"""Scoring a run again, and what is refused."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.cli import call
from helpers.tiny import ROWS, make_dense_store, make_segments, tiny_recipe
from mambavl.configs import validate
from mambavl.configs.errors import DataError, UsageError
from mambavl.fuse import evaluate, report
from mambavl.fuse.data import DataConfig, FeatureData
from mambavl.fuse.owner import RunHeld, last_failure, owned
from mambavl.fuse.recipe import Recipe, build_head, run_targets
from mambavl.fuse.result import Environment
from mambavl.fuse.run import read_result, read_scores, write_result
from mambavl.fuse.targets import log_prior
from mambavl.fuse.train import train


def test_evaluating_again_gives_the_same_scores(stores, tmp_path):
    first = train(tiny_recipe(stores), tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "scores")
    again = evaluate.evaluate_run(tmp_path / "run")
    assert again.metrics == first.metrics
    train_rows = evaluate.evaluate_run(tmp_path / "run", split="train")
    assert train_rows.split == "train"
    assert read_result(tmp_path / "run").split == "validation"  # the run's own result stays


def test_groups_and_the_prior_are_measured_by_hand(stores, tmp_path):
    """Half of the rows scored are of P02, who is unseen. Of classes that are equally frequent the prior
    guesses any.
    """
    result = train(tiny_recipe(stores), tmp_path / "run")
    scores = read_scores(tmp_path / "run", "validation")
    by_id = {segment.narration_id: segment for segment in make_segments(ROWS)}
    segments = [by_id[name] for name in scores["narration_id"]]
    unseen = np.array([segment.participant_id == "P02" for segment in segments])
    for target, tail in (("verb", 2), ("noun", 3)):
        labels = np.array([segment.labels[target] for segment in segments])
        hits = 100 * (scores[target].argmax(1) == labels)
        assert result.metrics[f"unseen_{target}_n"] == unseen.sum() == 12
        assert result.metrics[f"unseen_{target}_top1"] == pytest.approx(hits[unseen].mean())
        assert result.metrics[f"tail_{target}_top1"] == pytest.approx(hits[labels == tail].mean())
        assert result.metrics[f"all_{target}_top1"] == pytest.approx(hits.mean())
        counts = np.bincount([one.labels[target] for one in by_id.values() if one.split == "train"])
        guessed = (counts == counts.max()) / (counts == counts.max()).sum()
        assert result.prior_metrics[f"all_{target}_top1"] == pytest.approx(100 * guessed[labels].mean())
    assert result.metrics["all_verb_top1"] > result.prior_metrics["all_verb_top1"]


def test_a_store_of_another_split_alone_can_be_scored(stores, tmp_path):
    """It holds no training rows, so the run's own prior has to serve."""
    first = train(tiny_recipe(stores, text=False), tmp_path / "run")
    make_dense_store(tmp_path / "test.zarr", ROWS, splits=("test",))
    result = evaluate.evaluate_run(tmp_path / "run", split="test", streams={"video": tmp_path / "test.zarr"})
    assert result.rows.scored == ROWS
    assert result.scored.precision == first.trained.precision
    with pytest.raises(UsageError, match="no row of the stores belongs to split 'validation'"):
        evaluate.evaluate_run(tmp_path / "run", streams={"video": tmp_path / "test.zarr"})


def test_features_of_another_encoder_are_refused_at_evaluation(stores, tmp_path):
    train(tiny_recipe(stores), tmp_path / "run")
    make_dense_store(
        tmp_path / "other.zarr",
        ROWS,
        recipe={"encoder": {"name": "other", "state": "random", "sha256": "2" * 64, "width": 6}},
    )
    with pytest.raises(DataError, match=r"video\.encoder\.name: 'fake' -> 'other'"):
        evaluate.evaluate_run(tmp_path / "run", streams={"video": tmp_path / "other.zarr"})


def test_runs_that_cannot_be_shown_say_what_to_type(stores, tmp_path):
    with pytest.raises(DataError, match="is not a run"):
        report.write_report([tmp_path / "nowhere"], tmp_path / "r.html")
    train(tiny_recipe(stores), tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "scores")
    with pytest.raises(DataError, match=r"has no scores .*mambavl evaluate"):
        report.write_report([tmp_path / "run"], tmp_path / "r.html")
    with pytest.raises(DataError, match="is not a run: it has no recipe"):
        evaluate.evaluate_run(tmp_path / "nowhere")


def broken_store(path, holes, **options):
    """A video store in which a step of some rows is not finite.

    holes: narration_id -> (view, step, value).
    """
    numbers = {segment.narration_id: row for row, segment in enumerate(make_segments(ROWS))}
    broken = {(numbers[name], view, step): value for name, (view, step, value) in holes.items()}
    make_dense_store(path / "video.zarr", ROWS, broken=broken, **options)


def ids_of(split):
    return [segment.narration_id for segment in make_segments(ROWS) if segment.split == split]


def test_a_feature_that_is_not_finite_is_named_in_training(tmp_path):
    row = ids_of("train")[3]
    broken_store(tmp_path, {row: (0, 2, np.nan)})
    with pytest.raises(DataError) as error:
        train(tiny_recipe(tmp_path, text=False), tmp_path / "run")
    assert f"row {row}, stream video: NaN at step 2\n" in str(error.value)
    assert str(error.value).startswith(f"{tmp_path / 'run'}: features are not finite")
    assert "train.lr" not in str(error.value)


def test_a_feature_that_is_not_finite_is_named_in_scoring(tmp_path):
    """In whichever view it is; by the encoder's overflow of float16, say."""
    row = ids_of("validation")[5]
    broken_store(tmp_path, {row: (1, 3, -np.inf)}, views=2)
    with pytest.raises(DataError, match=rf"row {row}, stream video: infinity at step 3\n") as error:
        train(tiny_recipe(tmp_path, text=False), tmp_path / "run")
    assert str(tmp_path / "run") in str(error.value)
    assert "train.lr" not in str(error.value)


@pytest.mark.parametrize("head", ["mambavl", "mlp", "transformer"])
def test_every_row_at_fault_is_named_up_to_five(tmp_path, head):
    rows = ids_of("validation")
    broken_store(tmp_path, {row: (0, number % 4, np.nan) for number, row in enumerate(rows[:7])})
    with pytest.raises(DataError) as error:
        train(tiny_recipe(tmp_path, text=False, head=head, batch_size=24), tmp_path / "run")
    for number, row in enumerate(rows[:5]):
        assert f"\n  row {row}, stream video: NaN at step {number % 4}\n" in str(error.value)
    assert f"row {rows[5]}," not in str(error.value)
    assert "\n  ...\n" in str(error.value)


def test_a_step_is_counted_as_the_store_counts_it(tmp_path, monkeypatch):
    """The class token, read before the steps, moves them by one; and it may be broken itself."""
    row = ids_of("train")[0]
    broken_store(tmp_path, {row: (0, 1, np.inf)}, class_token=True)
    raw = tiny_recipe(tmp_path, text=False).model_dump(mode="json", exclude_none=True)
    raw["streams"]["video"]["class_token"] = True
    data = FeatureData(validate(raw, Recipe, "r.toml").sources, DataConfig())
    where = np.flatnonzero([segment.narration_id == row for segment in data.segments])
    with pytest.raises(DataError, match=f"row {row}, stream video: infinity at step 1"):
        evaluate.refuse_broken_features(tmp_path, data, where, [0])
    tokens, lengths = data.batch(where)["video"]
    tokens[:, 0] = torch.nan
    monkeypatch.setattr(data, "batch", lambda rows, device, view: {"video": (tokens, lengths)})
    with pytest.raises(DataError, match=f"row {row}, stream video: NaN at the class token"):
        evaluate.refuse_broken_features(tmp_path, data, where, [0])
    lengths[:] = 0
    evaluate.refuse_broken_features(tmp_path, data, where, [0])  # padding may hold anything


def test_finite_features_are_not_blamed(stores, tmp_path):
    """Weights that exploded: the advice is about the learning rate, and names the run."""
    recipe = tiny_recipe(stores, lr=1e30, lr_ssm=1e30, warmup_epochs=0, batch_size=100, epochs=1)
    with pytest.raises(DataError) as error:
        train(recipe, tmp_path / "run")
    assert str(error.value).startswith(f"{tmp_path / 'run'}: diverged: the head's scores of row P01_")
    assert "lower train.lr and train.lr_ssm" in str(error.value)


def test_scoring_again_says_who_scored_and_leaves_who_trained(stores, tmp_path):
    """The run of another machine, scored on this one."""
    run = tmp_path / "run"
    first = train(tiny_recipe(stores, epochs=1), run)
    elsewhere = Environment(mambavl="0.0.9", commit="c0ffee", torch="2.10.0", device="NVIDIA H100")
    there = replace(first.trained, environment=elsewhere, scan_backend="triton", train_seconds=12.5)
    before = replace(first, trained=there, scored=replace(first.scored, environment=elsewhere))
    write_result(run, before)
    again = evaluate.evaluate_run(run)
    assert again == read_result(run)
    assert again.trained == there
    assert again.scored == first.scored
    assert again == replace(before, scored=first.scored)
    assert [line.split(" with ")[0] for line in report.what_ran(again)] == [
        "trained on NVIDIA H100",
        "scored on cpu",
    ]
    assert len(report.what_ran(first)) == 1
    report.write_report([run], tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "trained on NVIDIA H100 with mambavl 0.0.9 at commit c0ffee" in page
    assert "scored on cpu with" in page


def test_a_run_that_somebody_works_on_is_not_scored(stores, tmp_path, capsys):
    run = tmp_path / "run"
    train(tiny_recipe(stores, epochs=1), run)
    (run / "scores" / "validation.npz").unlink()
    before = (run / "result.json").read_bytes()
    with owned(run):
        with pytest.raises(RunHeld, match=r"another process \(pid \d+ on host .*\) works on this run"):
            evaluate.evaluate_run(run)
        assert call("evaluate", run) == 2
        assert call("evaluate", run, "--without", "video") == 2
    assert "works on this run" in capsys.readouterr().err
    assert (run / "result.json").read_bytes() == before
    assert not (run / "scores" / "validation.npz").exists()
    evaluate.evaluate_run(run)
    assert (run / "scores" / "validation.npz").exists()


def test_a_scoring_that_fails_is_no_attempt_at_training(stores, tmp_path):
    """And what is not a run is not made one by a lock."""
    with pytest.raises(DataError, match="is not a run"):
        evaluate.evaluate_run(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    train(tiny_recipe(stores, epochs=1), tmp_path / "run")
    (tmp_path / "run" / "model.safetensors").unlink()
    with pytest.raises(DataError, match="has not finished"):
        evaluate.evaluate_run(tmp_path / "run")
    assert last_failure(tmp_path / "run") is None


# --- several heads at once


def test_heads_that_are_scored_together_read_each_batch_once_and_fail_alone(tmp_path, monkeypatch):
    make_dense_store(tmp_path / "video.zarr", ROWS, views=3)
    recipe = tiny_recipe(tmp_path, text=False)
    data = FeatureData(recipe.sources, recipe.data)
    targets = run_targets(recipe, data)
    prior = log_prior(targets, data.labels, data.train)
    heads = {}
    for seed, name in enumerate(("a", "b", "c")):
        own = recipe.model_copy(update={"train": recipe.train.model_copy(update={"seed": seed})})
        heads[tmp_path / name] = build_head(own, data, targets)
    with torch.no_grad():
        heads[tmp_path / "b"].verb_head.bias[1] = torch.nan
    rest = (data, targets, data.evaluation, prior, "fp32", 7)
    read, batch = [], data.batch
    monkeypatch.setattr(data, "batch", lambda *args: read.append(args) or batch(*args))
    found = evaluate.score_together(heads, *rest)
    assert len(read) == 3 * -(-len(data.evaluation) // 7) + 3  # views, batches; broken features, looked for
    assert list(found) == list(heads)
    for run, head in heads.items():
        if run.name == "b":
            assert isinstance(found[run], DataError)
            assert "b: diverged: the head's scores of row" in str(found[run])
            with pytest.raises(DataError, match="diverged"):
                evaluate.score(head, *rest, run=run)
        else:
            alone = evaluate.score(head, *rest, run=run)
            assert alone.keys() == found[run].keys() == {"verb", "noun"}
            assert all((alone[name] == found[run][name]).all() for name in alone)
    assert not np.allclose(found[tmp_path / "a"]["verb"], found[tmp_path / "c"]["verb"])


def test_the_scores_of_the_last_epoch_are_those_of_the_result(stores, tmp_path, monkeypatch):
    """The weights are the same, so nothing is read twice for them."""
    scored, score = [], evaluate.score_together

    def counted(*args):
        scored.append(args)
        return score(*args)

    monkeypatch.setattr(evaluate, "score_together", counted)
    train(tiny_recipe(stores, epochs=3, eval_every=2), tmp_path / "run")
    assert len(scored) == 2  # after the second and the last epoch
    before = read_scores(tmp_path / "run", "validation")
    evaluate.evaluate_run(tmp_path / "run")
    after = read_scores(tmp_path / "run", "validation")
    assert all((before[name] == after[name]).all() for name in ("verb", "noun"))
