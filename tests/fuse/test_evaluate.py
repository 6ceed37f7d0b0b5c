"""Scoring a run again, and what is refused."""

import shutil

import pytest

from helpers.tiny import ROWS, make_dense_store, tiny_recipe
from mambavl.configs.errors import DataError, UsageError
from mambavl.fuse import evaluate, report
from mambavl.fuse.run import read_result
from mambavl.fuse.train import train


def test_evaluating_again_gives_the_same_scores(stores, tmp_path):
    first = train(tiny_recipe(stores), tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "scores")
    again = evaluate.evaluate_run(tmp_path / "run")
    assert again.metrics == first.metrics
    train_rows = evaluate.evaluate_run(tmp_path / "run", split="train")
    assert train_rows.split == "train"
    assert read_result(tmp_path / "run").split == "validation"  # the run's own result stays


def test_a_store_of_another_split_alone_can_be_scored(stores, tmp_path):
    """It holds no training rows, so the run's own prior has to serve."""
    first = train(tiny_recipe(stores, text=False), tmp_path / "run")
    make_dense_store(tmp_path / "test.zarr", ROWS, splits=("test",))
    result = evaluate.evaluate_run(tmp_path / "run", split="test", streams={"video": tmp_path / "test.zarr"})
    assert result.rows.scored == ROWS
    assert result.training.precision == first.training.precision
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
