"""Runs on a data set that is not EK100's, from stores to a page: three targets of one class a row, one of any
number, a product of two.
"""

import numpy as np
import pytest
import torch

from helpers.group import start_group, wait_for_group
from helpers.tiny import weights
from helpers.tools import CLASSES, make_tool_stores, tool_recipe, tool_segments
from mambavl.cache import open_store
from mambavl.cache.writer import RowGroup, StoreWriter
from mambavl.cli import show
from mambavl.configs.errors import UsageError
from mambavl.fuse import metrics
from mambavl.fuse.data import FeatureData
from mambavl.fuse.evaluate import evaluate_run
from mambavl.fuse.recipe import build_head, run_targets
from mambavl.fuse.report import write_report
from mambavl.fuse.run import read_classes, read_curves, read_prior, read_result, read_scores
from mambavl.fuse.train import train

PAIRS = ("targets.use.ranked_by", "pairs")


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    return make_tool_stores(tmp_path_factory.mktemp("tools"))


@pytest.fixture(scope="module")
def run(stores, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(tool_recipe(stores), folder)
    return folder


def test_every_target_is_measured_on_the_rows_that_have_its_label(run):
    result = read_result(run)
    assert result.targets == ("tool", "grip", "place", "scene", "use")
    # half of 48 rows are scored; of these row 9 has a scene alone, row 10 nothing
    assert result.rows.scored == 24
    numbers = {name: result.metrics[f"all_{name}_n"] for name in result.targets}
    assert numbers == {"tool": 22, "grip": 22, "place": 22, "scene": 23, "use": 22}
    assert result.metrics["all_tool_top1"] > result.prior_metrics["all_tool_top1"] + 20
    assert result.metrics["all_scene_map"] > result.prior_metrics["all_scene_map"]
    assert {"far_tool_top1", "rare_tool_top1", "rare_scene_map", "rare_use_top1"} <= result.metrics.keys()
    assert "relaxed_use_mean_class_recall5" in result.metrics
    assert result.main_measure == "all_use_top1"


def test_the_scores_are_enough_to_measure_again(run):
    scores = read_scores(run, "validation")
    assert {name for name in scores if not name.endswith("_label")} == {"narration_id", *CLASSES.targets}
    labels = {name: scores[f"{name}_label"] for name in CLASSES.targets}
    assert labels["scene"].shape == (24, 3)
    by_id = {segment.narration_id: segment for segment in tool_segments()}
    far = np.array([by_id[name].participant_id == "P02" for name in scores["narration_id"]])
    assert metrics.measure(CLASSES, scores, labels, {"far": far}) == read_result(run).metrics
    assert read_classes(run) == CLASSES


def test_curves_tables_and_the_page_go_by_target(run, tmp_path, capsys):
    last = read_curves(run)[-1]
    assert {"tool_top1", "grip_top1", "place_top1", "scene_map", "use_top1"} <= last.keys()
    show.print_result(read_result(run))
    said = capsys.readouterr().out
    assert all(name in said for name in ("tool", "grip", "place", "scene", "use", "mAP", "prior mAP"))
    assert not write_report([run], tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    for said in ("scene mAP", "tool top-1", "far, top-1", "rare, mAP", "relaxed recall@5"):
        assert said in page
    assert "verb" not in page.split("<h2>Curves")[0].split("<h2>Results")[1]


def test_rows_without_a_label_of_what_is_trained_are_not_trained_on(stores, tmp_path):
    """24 rows are of the training split; row 3 has no grip."""
    everything = train(tool_recipe(stores, epochs=1), tmp_path / "all")
    grip = train(tool_recipe(stores, ("use_targets", ["grip"]), epochs=1), tmp_path / "grip")
    assert (everything.training.train_rows, grip.training.train_rows) == (24, 23)
    assert grip.targets == ("grip",)
    assert read_prior(tmp_path / "grip").keys() == {"grip"}
    assert set(read_scores(tmp_path / "grip", "validation")) == {"narration_id", "grip", "grip_label"}


def test_a_weight_scales_the_loss_of_its_target(stores, tmp_path):
    """With plain SGD, twice the weights at half the rate are the same run."""
    common = {"optimizer": "sgd", "momentum": 0.0, "clip_norm": 0.0, "weight_decay": 0.0, "warmup_epochs": 0}
    both = ("use_targets", ["tool", "scene"])
    halves = [("targets.tool.weight", 0.5), ("targets.scene.weight", 0.25), both]
    doubled = [("targets.tool.weight", 1.0), ("targets.scene.weight", 0.5), both]
    rates = {"lr": 0.02, "lr_ssm": 0.02, "lr_start": 0.0, "lr_end": 0.0}
    train(tool_recipe(stores, *halves, **common, **rates), tmp_path / "a")
    train(tool_recipe(stores, *doubled, **common, **{**rates, "lr": 0.01, "lr_ssm": 0.01}), tmp_path / "b")
    train(tool_recipe(stores, *doubled, **common, **rates), tmp_path / "c")
    one, same, other = (weights(tmp_path / name) for name in "abc")
    for key in one:
        torch.testing.assert_close(one[key], same[key], rtol=1e-4, atol=1e-6)
    assert any((one[key] - other[key]).abs().max() > 1e-3 for key in one)


def test_a_classifier_over_pairs_ranks_them_and_gives_its_parts(stores, tmp_path):
    recipe = tool_recipe(stores, PAIRS, ("use_targets", ["use"]), epochs=12)
    result = train(recipe, tmp_path / "run")
    assert result.targets == ("tool", "grip", "use")
    segments = tool_segments()
    shown = sorted(
        {
            (s.labels["tool"], s.labels["grip"])
            for s in segments
            if s.split == "train" and {"tool", "grip"} <= s.labels.keys()
        }
    )
    assert read_classes(tmp_path / "run").derived["use"].pairs == tuple(shown)
    scores = read_scores(tmp_path / "run", "validation")
    np.testing.assert_array_equal(scores["use_pairs"], shown)
    probabilities = np.exp(scores["use"].astype(np.float64))
    for part, name in enumerate(("tool", "grip")):
        for number in range(CLASSES.targets[name].count):
            columns = [column for column, pair in enumerate(shown) if pair[part] == number]
            np.testing.assert_allclose(
                np.exp(scores[name][:, number]), probabilities[:, columns].sum(1), rtol=1e-4, atol=1e-7
            )
    known = scores["tool_label"] >= 0
    best = np.array(shown)[scores["use"].argmax(1)]
    hits = (best[:, 0] == scores["tool_label"]) & (best[:, 1] == scores["grip_label"])
    assert result.metrics["all_use_top1"] == pytest.approx(100 * hits[known].mean())
    assert result.metrics["all_use_top1"] > result.prior_metrics["all_use_top1"]


def test_a_run_keeps_its_pairs_where_the_training_rows_are_gone(stores, tmp_path):
    """Scored again on stores that hold the other half: the columns are those of the run."""
    before = train(tool_recipe(stores, PAIRS, epochs=2), tmp_path / "run")
    kept = [segment for segment in tool_segments() if segment.split == "validation"]
    make_tool_stores_of(tmp_path / "half.zarr", kept, stores)
    after = evaluate_run(tmp_path / "run", streams={"video": tmp_path / "half.zarr"})
    assert after.metrics.keys() == before.metrics.keys()
    assert after.params == before.params


def make_tool_stores_of(path, segments, stores):
    whole = open_store(stores / "video.zarr")
    place = {segment.narration_id: row for row, segment in enumerate(whole.segments)}
    writer = StoreWriter(path, whole.spec, tuple(segments), CLASSES, {})
    for group in writer.pending():
        rows = [place[segments[row].narration_id] for row in writer.layout.rows_of(group)]
        tokens, lengths = whole.batch(rows, "frame")
        count = len(rows)
        writer.commit(
            group,
            RowGroup(
                levels={"frame": tokens.numpy()[:, None]},
                lengths={"length": lengths.numpy()},
                status=np.ones(count, np.uint8),
                flags=np.zeros(count, np.uint8),
                frame_pts=np.zeros((count, 1, 4)),
            ),
        )
    writer.finalize()


def test_streams_reach_the_targets_that_the_recipe_says(stores):
    """A second stream of the same store, called a question about the grip."""
    grip = {"store": str(stores / "video.zarr"), "level": "frame"}
    base = ("streams.grip_question", grip)
    recipe = tool_recipe(stores, base)
    data = FeatureData(recipe.sources, recipe.data)

    def routes(*settings):
        recipe = tool_recipe(stores, base, *settings)
        return build_head(recipe, data, run_targets(recipe, data)).routes

    both = ["video", "grip_question"]
    assert routes() == {"tool": ["video"], "grip": both, "place": ["video"], "scene": ["video"]}
    assert routes(("targets.scene.streams", both))["scene"] == both
    assert routes(("targets.grip.streams", ["video"]))["grip"] == ["video"]
    assert routes(PAIRS)["use"] == both, "what reaches a part reaches the whole"
    only = routes(PAIRS, ("use_targets", ["use", "tool"]))
    assert only == {"tool": ["video"], "use": both}, "a question about what is not trained stays one"
    with pytest.raises(UsageError, match="sound is to reach the scene head"):
        routes(("targets.scene.streams", ["sound"]))
    with pytest.raises(UsageError, match="no stream reaches the scene head"):
        routes(("targets.scene.streams", []))


def test_two_processes_weigh_rows_without_a_label_as_one_does(stores, tmp_path):
    """Labels are missing in one half of a batch: the mean is over labelled rows of both."""
    recipe = tool_recipe(stores, optimizer="sgd", batch_size=7, epochs=2, lr=0.05, lr_ssm=0.05)
    train(recipe, tmp_path / "one")
    children = start_group(lambda: train(recipe, tmp_path / "two"), tmp_path)
    assert wait_for_group(children) == [0, 0], (tmp_path / "rank-0.log").read_text()
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=1e-4, atol=1e-6)
