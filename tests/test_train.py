"""Training, scoring, sweeping, reporting on tiny stores."""

import json
import re
import shutil

import numpy as np
import pytest
import torch

from mambavl.configs import check
from mambavl.configs.errors import DataError, Interrupted, UsageError
from mambavl.fuse import evaluate, report
from mambavl.fuse.checkpoint import load_checkpoint, save_checkpoint
from mambavl.fuse.data import DataConfig, FeatureData, StreamSource, epoch_batches
from mambavl.fuse.recipe import Recipe, TrainConfig, build_head
from mambavl.fuse.sweep import expand, sweep
from mambavl.fuse.train import build_optimizer, learning_rate, train
from tiny import make_dense_store, make_text_store

ROWS = 48


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    make_dense_store(folder / "video.zarr", ROWS)
    make_text_store(folder / "text.zarr", ROWS)
    return folder


def recipe(stores, *, text=True, head="mambavl", title="tiny", **train_keys):
    streams = {"video": {"store": str(stores / "video.zarr"), "level": "frame"}}
    if text:
        for question in ("verb_question", "noun_question"):
            streams[question] = {"store": str(stores / "text.zarr"), "level": f"{question}/last_hidden"}
    small = {"d_model": 16, "dropout": 0.1}
    data = {
        "title": title,
        "head": head,
        "streams": streams,
        "fusion": {**small, "d_state": 4},
        "mlp": small,
        "transformer": {**small, "depth": 2, "num_heads": 2, "max_positions": 32},
        "train": {"epochs": 4, "batch_size": 8, "lr": 1e-2, "lr_ssm": 1e-2, "warmup_epochs": 1, **train_keys},
    }
    return check(data, Recipe, "tiny.toml")


def weights(run):
    from safetensors.torch import load_file

    return load_file(run / "model.safetensors")


@pytest.mark.parametrize("head", ["mambavl", "mlp", "transformer"])
def test_a_head_learns_and_its_result_names_where_it_comes_from(stores, tmp_path, head):
    lines = []
    result = train(recipe(stores, head=head, epochs=25), tmp_path / "run", on_epoch=lines.append)
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert result["metrics"]["all_verb_top1"] > 1.5 * result["prior_metrics"]["all_verb_top1"]
    assert result["text_protocol"] == "oracle"
    assert result["streams"]["video"]["encoder"] == {"name": "fake", "state": "random", "sha256": "0" * 64, "width": 6}
    assert result["streams"]["video"]["store_ids"][0]
    assert result["scan_backend"] == ("reference" if head == "mambavl" else None)
    scores = evaluate.read_scores(tmp_path / "run", "validation")
    np.testing.assert_allclose(np.exp(scores["verb"]).sum(1), 1, rtol=1e-4)
    assert len(scores["narration_id"]) == result["rows"]["scored"]
    assert len((tmp_path / "run" / "curves.jsonl").read_text().splitlines()) == 25


def test_the_same_seed_gives_the_same_weights_and_another_gives_others(stores, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(recipe(stores, seed=seed), tmp_path / name)
    a, b, c = (weights(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert any(not torch.equal(a[key], c[key]) for key in a)


@pytest.mark.parametrize("stop_after", [0, 1, 4, 7, 10])
def test_an_interrupted_run_resumes_to_the_same_bits(stores, tmp_path, stop_after):
    """Stopped before any batch of the 12, inside an epoch or between two: weights and curves equal the uninterrupted run's."""
    train(recipe(stores), tmp_path / "whole")
    calls = iter(range(1000))
    with pytest.raises(Interrupted, match="resumes"):
        train(recipe(stores), tmp_path / "run", should_stop=lambda: next(calls) >= stop_after)
    assert not (tmp_path / "run" / "result.json").exists()
    train(recipe(stores), tmp_path / "run")
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "run")
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    curves = [
        [json.loads(line) for line in (tmp_path / name / "curves.jsonl").read_text().splitlines()] for name in ("whole", "run")
    ]
    for one, other in zip(*curves, strict=True):
        assert {k: v for k, v in one.items() if k != "seconds"} == {k: v for k, v in other.items() if k != "seconds"}


def test_a_finished_run_is_returned_and_another_recipe_refused(stores, tmp_path):
    first = train(recipe(stores), tmp_path / "run")
    assert train(recipe(stores), tmp_path / "run") == first
    with pytest.raises(UsageError, match=r"train\.seed: 0 -> 3"):
        train(recipe(stores, seed=3), tmp_path / "run")


def test_a_run_without_text_is_called_none(stores, tmp_path):
    assert train(recipe(stores, text=False), tmp_path / "run")["text_protocol"] == "none"


def test_a_loss_that_is_not_finite_ends_the_run_with_its_rows(stores, tmp_path):
    with pytest.raises(DataError, match=r"diverged: the loss is (nan|inf) in epoch \d+, batch \d+ \(rows P01_"):
        train(recipe(stores, lr=1e30, lr_ssm=1e30, clip_norm=0, warmup_epochs=0), tmp_path / "run")


def test_the_schedule_warms_up_and_falls_along_half_a_cosine():
    config = TrainConfig()
    assert learning_rate(0, config) == config.lr_start
    assert learning_rate(1, config) == pytest.approx((config.lr_start + config.lr) / 2)
    assert learning_rate(2, config) == config.lr
    assert learning_rate(16, config) == pytest.approx((config.lr + config.lr_end) / 2)
    assert learning_rate(30, config) == pytest.approx(config.lr_end)


def test_parameter_groups_follow_the_rules(stores):
    loaded = recipe(stores)
    data = FeatureData(loaded.streams, loaded.data)
    head = build_head(loaded, data)
    names = {id(p): n for n, p in head.named_parameters()}
    groups = build_optimizer(head, TrainConfig()).param_groups
    found = {names[id(p)]: (group["peak"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert len(found) == len(names)
    assert found["a_log.shared"] == (3e-3, 0.0)
    assert found["d_skip.video"] == (3e-3, 0.0)
    assert found["mixer.video.dt_proj.bias"] == (3e-3, 0.0)
    assert found["mixer.video.in_proj.weight"] == (3e-3, 0.05)
    assert found["project.text.0.weight"] == (1e-3, 0.0)  # a norm
    assert found["project.text.1.weight"] == (1e-3, 0.05)
    assert found["verb_head.bias"] == (1e-3, 0.0)


def test_an_epoch_sees_every_row_once_in_an_order_of_its_own():
    rows = np.arange(100, 150)
    first, second = (list(epoch_batches(rows, 16, 0, epoch)) for epoch in (0, 1))
    assert [len(batch) for batch in first] == [16, 16, 16, 2]
    assert sorted(np.concatenate(first)) == rows.tolist()
    assert np.concatenate(first).tolist() != np.concatenate(second).tolist()
    again = list(epoch_batches(rows, 16, 0, 1))
    assert all((a == b).all() for a, b in zip(second, again, strict=True))


# --- the data behind a run


def test_streams_are_joined_by_id_and_rows_that_do_not_match_are_named(stores, tmp_path):
    make_text_store(tmp_path / "short.zarr", ROWS - 2)
    sources = {
        "video": StreamSource(store=stores / "video.zarr"),
        "verb_question": StreamSource(store=tmp_path / "short.zarr", level="verb_question/last_hidden"),
    }
    with pytest.raises(DataError, match=r"2 rows are in stream video and not in stream verb_question: P01_105_6, P01_105_7"):
        FeatureData(sources, DataConfig())


def test_stores_of_different_recipes_never_feed_one_stream(stores, tmp_path):
    make_dense_store(tmp_path / "other.zarr", ROWS, recipe={"encoder": {"name": "other", "width": 6}})
    source = StreamSource(store=(stores / "video.zarr", tmp_path / "other.zarr"))
    with pytest.raises(DataError, match=r"never mix:\n  encoder\.name: 'fake' -> 'other'"):
        FeatureData({"video": source}, DataConfig())


def test_text_streams_of_two_protocols_are_refused(stores, tmp_path):
    make_text_store(tmp_path / "generic.zarr", ROWS, protocol="generic")
    sources = {
        "video": StreamSource(store=stores / "video.zarr"),
        "verb_question": StreamSource(store=stores / "text.zarr", level="verb_question/last_hidden"),
        "noun_question": StreamSource(store=tmp_path / "generic.zarr", level="noun_question/last_hidden"),
    }
    with pytest.raises(DataError, match="different protocols: generic, oracle"):
        FeatureData(sources, DataConfig()).text_protocol


def test_an_unknown_level_or_split_is_named(stores):
    with pytest.raises(UsageError, match="no level 'patch'; this store holds frame"):
        FeatureData({"video": StreamSource(store=stores / "video.zarr", level="patch")}, DataConfig())
    with pytest.raises(UsageError, match="no row of the stores belongs to split 'test'"):
        FeatureData({"video": StreamSource(store=stores / "video.zarr")}, DataConfig(eval_split="test"))


def test_rows_without_features_are_refused_or_scored_by_the_prior_and_counted(stores, tmp_path):
    make_dense_store(tmp_path / "holes.zarr", ROWS, failed={5: 3, 7: 2, 20: 2})  # one missing video, two empty windows
    loaded = recipe(stores, text=False)
    streams = {"video": StreamSource(store=tmp_path / "holes.zarr")}
    with pytest.raises(DataError, match=r"1 rows have no features .*missing_video.*allow_missing=1"):
        train(loaded.model_copy(update={"streams": streams}), tmp_path / "run")
    loaded = loaded.model_copy(update={"streams": streams, "data": DataConfig(allow_missing=1)})
    result = train(loaded, tmp_path / "run")
    data = FeatureData(streams, loaded.data)
    holes = [row for row in data.evaluation if not data.usable[row]]
    assert result["rows"]["scored_by_prior"] == len(holes) > 0
    assert result["rows"]["failed"] == 1
    scores = evaluate.read_scores(tmp_path / "run", "validation")
    row = list(data.evaluation).index(holes[0])
    np.testing.assert_allclose(scores["verb"][row], data.log_prior()[0], rtol=1e-5)


# --- evaluating again


def test_evaluating_again_gives_the_same_scores(stores, tmp_path):
    first = train(recipe(stores), tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "scores")
    again = evaluate.evaluate_run(tmp_path / "run")
    assert again["metrics"] == first["metrics"]
    train_rows = evaluate.evaluate_run(tmp_path / "run", split="train")
    assert train_rows["split"] == "train"
    assert evaluate.read_result(tmp_path / "run")["split"] == "validation"  # the run's own result stays


def test_features_of_another_encoder_are_refused_at_evaluation(stores, tmp_path):
    train(recipe(stores), tmp_path / "run")
    make_dense_store(
        tmp_path / "other.zarr", ROWS, recipe={"encoder": {"name": "other", "state": "random", "sha256": "2" * 64, "width": 6}}
    )
    with pytest.raises(DataError, match=r"video\.encoder\.name: 'fake' -> 'other'"):
        evaluate.evaluate_run(tmp_path / "run", streams={"video": tmp_path / "other.zarr"})


def test_runs_that_cannot_be_shown_say_what_to_type(stores, tmp_path):
    with pytest.raises(DataError, match="is no run"):
        report.write_report([tmp_path / "nowhere"], tmp_path / "r.html")
    train(recipe(stores), tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "scores")
    with pytest.raises(DataError, match=r"has no scores .*mambavl evaluate"):
        report.write_report([tmp_path / "run"], tmp_path / "r.html")
    with pytest.raises(DataError, match="is no run: it has no recipe"):
        evaluate.evaluate_run(tmp_path / "nowhere")


# --- checkpoints


def test_a_damaged_checkpoint_is_passed_over_and_none_left_is_an_error(tmp_path):
    model = {"w": torch.arange(3.0)}
    optimizer = {
        "state": {0: {"step": torch.tensor(2.0), "exp_avg": torch.ones(3)}},
        "param_groups": [{"lr": 0.1, "params": [0]}],
    }
    assert load_checkpoint(tmp_path) is None
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, model, optimizer, {"epoch": step})
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == ["step-00000002", "step-00000003"]  # one older one stays until the next is safe
    loaded, again, state, complaints = load_checkpoint(tmp_path)
    assert torch.equal(loaded["w"], model["w"])
    assert torch.equal(again["state"][0]["exp_avg"], torch.ones(3))
    assert (again["param_groups"], state["epoch"], complaints) == (optimizer["param_groups"], 3, [])
    for step, expected in ((3, 2), (2, None)):
        file = tmp_path / f"step-0000000{step}" / "model.safetensors"
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
        if expected:
            _, _, state, complaints = load_checkpoint(tmp_path)
            assert state["epoch"] == expected
            assert "step-00000003/model.safetensors: is damaged" in complaints[0]
        else:
            with pytest.raises(DataError, match="no checkpoint can be loaded"):
                load_checkpoint(tmp_path)


# --- sweeps


def test_a_sweep_runs_every_point_once(stores, tmp_path):
    data = recipe(stores).model_dump(mode="json", exclude_none=True)
    data["grid"] = {"train": {"lr": [1e-2, 1e-3]}, "fusion": {"share": ["A", "none"]}}
    points = expand(data, tmp_path, "tiny.toml")
    assert [point.name for point in points][:2] == ["train.lr=0.01,fusion.share=A", "train.lr=0.01,fusion.share=none"]
    changes = []
    done = sweep(points, tmp_path, on_change=lambda now: changes.append([p.state for p in now]))
    assert {point.state for point in done} == {"done"}
    scores = [point.result["metrics"]["all_action_top1"] for point in done]
    assert scores == sorted(scores, reverse=True)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [line["values"] for line in summary] == [point.values for point in done]
    again = sweep(expand(data, tmp_path, "tiny.toml"), tmp_path)
    assert {point.state for point in again} == {"skipped"}
    assert [point.result for point in again] == [point.result for point in done]
    assert changes[0][1] == "waiting"


def test_one_diverging_point_does_not_stop_the_others(stores, tmp_path):
    data = recipe(stores, clip_norm=0, warmup_epochs=0).model_dump(mode="json", exclude_none=True)
    data["grid"] = {"train": {"lr": [1e30, 1e-2]}}
    points = sweep(expand(data, tmp_path, "tiny.toml"), tmp_path)
    assert [point.state for point in points] == ["done", "failed"]
    assert "diverged" in points[1].error


def test_a_grid_is_checked_before_anything_runs(stores, tmp_path):
    data = recipe(stores).model_dump(mode="json", exclude_none=True)
    with pytest.raises(UsageError, match=r"has no \[grid\]"):
        expand(data, tmp_path, "tiny.toml")
    for grid, said in (
        ({"train": {"lrr": [1]}}, "did you mean `lr`"),
        ({"train": {"lr": 1}}, "must be a list"),
        ({"train": {"lr": []}}, "list"),
    ):
        with pytest.raises(UsageError, match=said):
            expand({**data, "grid": grid}, tmp_path, "tiny.toml")
    with pytest.raises(UsageError, match="mambavl sweep"):
        train(check({**data, "grid": {"train": {"lr": [1]}}}, Recipe, "tiny.toml"), tmp_path / "run")


# --- the report


@pytest.fixture(scope="module")
def page(stores, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    runs = []
    for seed in (0, 1):
        train(recipe(stores, seed=seed, title="<script>alert(1)</script> fused"), folder / f"fused{seed}")
        runs.append(folder / f"fused{seed}")
    text_only = recipe(stores, title="text only")
    text_only = text_only.model_copy(update={"streams": {k: v for k, v in text_only.streams.items() if k != "video"}})
    train(text_only, folder / "text")
    report.write_report([*runs, folder / "text"], folder / "report.html")
    return folder, (folder / "report.html").read_text()


def test_the_report_escapes_what_it_is_given_and_needs_nothing_from_outside(page):
    _, text = page
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert not re.search(r'(src|href)="https?://', text)


def test_the_report_joins_seeds_names_protocols_and_says_what_the_text_leaks(page):
    folder, text = page
    entries = report.collect([folder / "fused0", folder / "fused1", folder / "text"])
    assert [entry.seeds for entry in entries] == [[0, 1], [0]]
    assert re.fullmatch(r"[\d.]+ ± [\d.]+", entries[0].cell("all_verb_top1"))
    said = report.leak_sentences(entries)
    assert "never sees a frame" in said[0]
    assert f"{entries[1].first['metrics']['all_verb_top1']:.1f} %" in said[0]
    assert "“text only” never sees a frame" in text
    assert text.count("<svg") == 1 + 2
    assert ">oracle</span>" in text
    assert "random weights" in text


def test_a_confusion_matrix_counts_by_hand():
    matrix, names = report.confusion(np.array([0, 0, 2, 2]), np.array([0, 2, 2, 7]), {0: "cut", 2: "open"})
    assert names == ["cut", "open", "other"]
    np.testing.assert_allclose(matrix[:2], [[0.5, 0.5, 0], [0, 0.5, 0.5]])
