"""Runs on a data set that is not EK100's, from stores to a page: three targets of one class a row, one of any
number, a product of two.
"""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.cli import call
from helpers.group import start_group, wait_for_group
from helpers.pages import column_of, tables_of
from helpers.sounds import RATE, save_audio, write_sound
from helpers.tiny import ROWS, make_dense_store, weights
from helpers.tools import CLASSES, make_tool_stores, tool_recipe, tool_segments
from mambavl.cache import open_store
from mambavl.cache.classes import Target
from mambavl.cache.writer import RowGroup, StoreWriter
from mambavl.cli import show
from mambavl.configs.errors import DataError, UsageError
from mambavl.fuse import metrics
from mambavl.fuse.data import FeatureData
from mambavl.fuse.evaluate import evaluate_run
from mambavl.fuse.fusing import fuse_scores
from mambavl.fuse.points import expand
from mambavl.fuse.recipe import build_head, run_targets
from mambavl.fuse.report import write_report
from mambavl.fuse.run import read_classes, read_curves, read_prior, read_result, read_scores
from mambavl.fuse.scored import measure_scores, read_scores_file
from mambavl.fuse.sweep import sweep_and_choose
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


def test_a_head_is_scored_on_rows_that_are_labelled_with_more(run, tmp_path):
    """Other people's lists may have targets that it has no classifier for."""
    more = replace(CLASSES, targets={"mood": Target({0: "calm"}, 1), **CLASSES.targets})
    segments = tuple(replace(one, labels={**one.labels, "mood": 0}, split="test") for one in tool_segments())
    make_dense_store(tmp_path / "more.zarr", ROWS, segments=segments, classes=more)
    shutil.copytree(run, tmp_path / "run")
    result = evaluate_run(tmp_path / "run", split="test", streams={"video": tmp_path / "more.zarr"})
    assert result.targets == ("tool", "grip", "place", "scene", "use")
    assert set(read_scores(tmp_path / "run", "test")) == set(read_scores(run, "validation"))


def test_the_scores_are_enough_to_measure_again(run):
    scores = read_scores(run, "validation")
    assert {name for name in scores if not name.endswith("_label")} == {"narration_id", *CLASSES.targets}
    labels = {name: scores[f"{name}_label"] for name in CLASSES.targets}
    assert labels["scene"].shape == (24, 3)
    by_id = {segment.narration_id: segment for segment in tool_segments()}
    far = np.array([by_id[name].participant_id == "P02" for name in scores["narration_id"]])
    assert metrics.measure(CLASSES, scores, labels, {"far": far}) == read_result(run).metrics
    assert read_classes(run) == CLASSES


def test_scores_of_several_runs_are_mixed_by_target(stores, run, tmp_path):
    """Several classes a row have a mean, and nothing to choose by. Of a classifier over pairs alone the parts
    are sums, in which a class without a pair has no chance.
    """
    train(tool_recipe(stores, seed=1), tmp_path / "other")
    mixed = fuse_scores([run, tmp_path / "other"], tmp_path / "mean", rule="mean")
    both = [np.exp(read_scores(one, "validation")["scene"]) for one in (run, tmp_path / "other")]
    found = read_scores(tmp_path / "mean", "validation")
    np.testing.assert_allclose(np.exp(found["scene"]), np.mean(both, axis=0), rtol=1e-5)
    listed = [one for one in tool_segments() if one.split == "validation"]
    file = read_scores_file(tmp_path / "mean" / "scores" / "validation.npz", CLASSES)
    assert measure_scores(file, listed, "validation").metrics == mixed.metrics
    held_out = [("data.hold_out", "0/2"), ("data.hold_out_by", "video")]
    train(tool_recipe(stores, *held_out), tmp_path / "held")
    with pytest.raises(UsageError, match="scene: several classes of a row are not ranked against each other"):
        fuse_scores([run], tmp_path / "no", chosen_on=[tmp_path / "held"])
    train(tool_recipe(stores, *held_out, seed=1), tmp_path / "held1")
    both, twins = [run, tmp_path / "other"], [tmp_path / "held", tmp_path / "held1"]
    with pytest.raises(UsageError, match="scene: with several classes a row there is no class-mean recall@5"):
        fuse_scores(both, tmp_path / "no", rule="mean", chosen_on=twins)
    assert not (tmp_path / "no").exists()
    single = [name for name in CLASSES.targets if name != "scene"]
    chosen = fuse_scores(both, tmp_path / "some", rule="mean", chosen_on=twins, per=single)
    assert sorted(chosen.fused.chosen) == sorted(single)
    again = read_scores(tmp_path / "some", "validation")
    np.testing.assert_array_equal(again["scene"], found["scene"])
    by_pairs = [PAIRS, ("use_targets", ["use"])]
    train(tool_recipe(stores, *by_pairs, epochs=1), tmp_path / "p")
    train(tool_recipe(stores, *by_pairs, *held_out, epochs=1), tmp_path / "h")
    chosen = fuse_scores([tmp_path / "p"], tmp_path / "out", chosen_on=[tmp_path / "h"])
    assert set(chosen.fused.chosen) == set(chosen.targets) == {*read_classes(tmp_path / "p").names}
    held = read_scores(tmp_path / "h", "train_0_of_2")
    for name, one in chosen.fused.chosen.items():
        if name != "use":
            assert one.rows == (held[f"{name}_label"] >= 0).sum()


def test_a_list_without_labels_is_mixed_and_not_measured(tmp_path):
    bare = tuple(one if one.split == "train" else replace(one, labels={}) for one in tool_segments())
    make_dense_store(tmp_path / "video.zarr", ROWS, segments=bare, classes=CLASSES)
    for seed in (0, 1):
        train(tool_recipe(tmp_path, epochs=1, seed=seed), tmp_path / str(seed))
    assert fuse_scores([tmp_path / "0", tmp_path / "1"], tmp_path / "out", rule="mean").metrics == {}


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
    assert (everything.trained.train_rows, grip.trained.train_rows) == (24, 23)
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
    assert routes(("use_targets", ["tool"])) == {"tool": ["video"]}
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


LISTS = {
    "targets.toml": """
        [targets.tool]
        [targets.grip]
        [targets.place]
        [targets.scene]
        kind = "multi"
        [derived.use]
        of = ["tool", "grip"]
    """,
    "tool_classes.csv": "id,key\n0,knife\n1,fork\n",
    "grip_classes.csv": "id,key\n0,firm\n1,loose\n2,both\n",
    "place_classes.csv": "id,key\n0,table\n1,sink\n",
    "scene_classes.csv": "id,key\n0,indoors\n1,night\n2,wet\n",
}


def write_lists(folder):
    """Five rows of each of three videos, the last for validation; V1 has no soundtrack."""
    for name, text in LISTS.items():
        (folder / name).write_text(text)
    header = "narration_id,participant_id,video_id,start_timestamp,stop_timestamp"
    header += ",tool_class,grip_class,place_class,scene_classes"
    lines = {"train": [header], "validation": [header]}
    for number in range(3):
        for n in range(5):
            labels = f'{n % 2},{n % 3},{(n + number) % 2},"[{n % 3}]"'
            row = f"V{number}_{n},P{number},V{number},{n},{n + 1.5},{labels}"
            lines["validation" if number == 2 else "train"].append(row)
    # V2 is scored: its row 4 lacks a grip, its row 3 has no scene, which is not the same as an unknown one
    lines["validation"][5] = lines["validation"][5].replace(',0,1,0,"[1]"', ',0,,0,""')
    lines["validation"][4] = lines["validation"][4].replace('"[0]"', "[]")
    for split, rows in lines.items():
        (folder / f"{split}.csv").write_text("\n".join(rows) + "\n")


def test_from_lists_to_a_scored_run_with_a_row_that_has_no_sound(tmp_path):
    """Every step by its command: three targets of one class a row, one of any number, two streams."""
    write_lists(tmp_path)
    for number in range(3):
        times = np.arange(6 * RATE) / RATE
        sound = None if number == 1 else 0.3 * np.sin(2 * np.pi * 200 * times)[:, None]
        write_sound(tmp_path / f"P{number}" / f"V{number}.MP4", sound)
    common = ("--annotations", tmp_path, "--videos", tmp_path)
    assert call("data", "check", *common) == 0
    frames = ("--encoder", "timm:test_resnet", "--weights", "random", "--set", "sampling.frames=2")
    small = ("--set", "image_size=64", "--out", tmp_path / "v.zarr")
    assert call("extract", "video", *common, *frames, *small) == 0
    model = save_audio(tmp_path, "hubert")
    heard = ("--encoder", f"audio:{model}", "--set", "max_failed=5", "--set", "steps=2")
    assert call("extract", "audio", *common, *heard, "--out", tmp_path / "a.zarr") == 0
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        f"""
        streams.video.store = "{tmp_path}/v.zarr"
        streams.audio.store = "{tmp_path}/a.zarr"
        data.missing = "mask"
        train = {{ epochs = 2, warmup_epochs = 1, batch_size = 4 }}
        """
    )
    assert call("train", recipe, "--out", tmp_path / "run", "--set", "data.eval_split=train") == 0
    result = read_result(tmp_path / "run")
    assert result.targets == ("tool", "grip", "place", "scene", "use")
    assert result.rows.scored == 10
    assert result.rows.scored_by_prior == 0
    assert result.rows.missing == {"video": 0, "audio": 5}  # those of V1
    assert call("evaluate", tmp_path / "run", "--split", "validation") == 0
    scores = read_scores(tmp_path / "run", "validation")
    assert scores["grip_label"].tolist() == [0, 1, 2, 0, -1]
    assert scores["scene_label"].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0], [-1, -1, -1]]
    assert scores["scene"].shape == (5, 3)


def sweep_points(stores, out, *settings, **grid):
    raw = tool_recipe(stores, *settings, epochs=1).model_dump(mode="json", exclude_none=True)
    return expand({**raw, "title": "", "grid": grid, "select_on": "0/2"}, out, "tools.toml")


def test_points_of_different_targets_are_not_chosen_among(stores, tmp_path):
    by_video = ("data.hold_out_by", "video")
    points = sweep_points(stores, tmp_path, by_video, use_targets=[["tool"], ["grip"]])
    with pytest.raises(UsageError, match=r"use_targets=tool by tool, use_targets=grip by grip"):
        sweep_and_choose(points, tmp_path)
    assert not list(tmp_path.iterdir()), "nothing was trained"


def test_rows_held_out_without_a_label_are_refused_before_the_first_update(tmp_path):
    """The second of two participants never has a place, which is the last target."""
    bare = tuple(
        segment.labelled(place=None) if segment.participant_id == "P02" else segment
        for segment in tool_segments(splits=("validation", "train", "train", "train"))
    )
    make_dense_store(tmp_path / "video.zarr", ROWS, segments=bare, classes=CLASSES)
    used = ("use_targets", ["tool", "place"])

    def points(*settings):
        found = sweep_points(tmp_path, tmp_path / "sweep", used, *settings, train={"lr": [1e-3, 1e-2]})
        for point in found:
            data = point.recipe.data.model_copy(update={"hold_out": "1/2"})
            point.recipe = point.recipe.model_copy(update={"data": data})
        return found

    with pytest.raises(DataError, match="none of the 12 rows held out has a label of place"):
        sweep_and_choose(points(), tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()
    _, chosen = sweep_and_choose(points(("rank_by", "tool")), tmp_path / "sweep")
    assert chosen.selection.by == "all_tool_top1"


def renamed(stores, folder, change):
    """The store with other lists of classes."""
    whole = CLASSES.targets
    targets = change(dict(whole))
    make_dense_store(
        folder / "video.zarr", ROWS, segments=tool_segments(), classes=replace(CLASSES, targets=targets)
    )
    return {"video": folder / "video.zarr"}


def test_stores_with_other_classes_than_the_head_was_trained_on_are_refused(run, stores, tmp_path):
    def swapped(targets):
        knife, fork, spoon = targets["tool"].classes.values()
        return {**targets, "tool": replace(targets["tool"], classes={0: fork, 1: knife, 2: spoon})}

    moved = renamed(stores, tmp_path, swapped)
    with pytest.raises(DataError, match=r"other classes.*\n  tool\.classes\.0: 'knife' -> 'fork'\n"):
        evaluate_run(run, streams=moved)


def test_the_order_of_targets_is_that_of_the_run(run, stores, tmp_path):
    """It says which target ranks the run, and in which order columns are shown."""
    copy = shutil.copytree(run, tmp_path / "run")
    before = read_result(copy)
    moved = renamed(stores, tmp_path, lambda targets: dict(reversed(targets.items())))
    after = evaluate_run(copy, streams=moved)
    assert after.targets == before.targets
    assert after.metrics == before.metrics


def test_a_page_of_runs_on_other_splits_says_which(stores, run, tmp_path):
    """And leaves out a run that nothing was measured of."""
    held_out = train(
        tool_recipe(stores, ("data.hold_out", "0/2"), ("data.hold_out_by", "video"), epochs=1),
        tmp_path / "held",
    )
    bare = tuple(replace(s, labels={}) if s.split == "validation" else s for s in tool_segments())
    make_dense_store(tmp_path / "video.zarr", ROWS, segments=bare, classes=CLASSES)
    train(tool_recipe(tmp_path, epochs=1), tmp_path / "unmeasured")
    missing = write_report([run, tmp_path / "held", tmp_path / "unmeasured"], tmp_path / "r.html")
    assert missing == {
        str(tmp_path / "unmeasured"): "split validation has no labels, so nothing was measured"
    }
    page = (tmp_path / "r.html").read_text()
    assert held_out.split in column_of(tables_of(page)["headline"], "scored on")
    assert "verb–noun" not in page
    write_report([run], tmp_path / "r.html")
    assert "scored on" not in tables_of((tmp_path / "r.html").read_text())["headline"][0]


def test_points_are_compared_by_the_target_that_the_recipe_names(stores, tmp_path):
    by_video = ("data.hold_out_by", "video")
    points = sweep_points(stores, tmp_path / "s", by_video, ("rank_by", "scene"), train={"lr": [1e-4, 1e-2]})
    ranked, chosen = sweep_and_choose(points, tmp_path / "s")
    scores = [point.result.metrics["all_scene_map"] for point in ranked]
    assert scores == sorted(scores, reverse=True)
    assert chosen.selection.by == "all_scene_map"
    assert chosen.selection.score == scores[0]
    assert read_result(chosen.runs[0].run).main_measure == "all_scene_map"
    assert "mAP" in chosen.selection.in_words
    with pytest.raises(UsageError, match=r"rows may have several classes there; write rank_by = scene"):
        train(tool_recipe(stores, ("rank_by", "scene_mean_class_recall5")), tmp_path / "run")
    with pytest.raises(UsageError, match=r"rank_by = scen: no such target is measured; did you mean `scene`"):
        train(tool_recipe(stores, ("rank_by", "scen")), tmp_path / "run")
    with pytest.raises(UsageError, match=r"\[grid\]: rank_by is for the sweep as a whole"):
        sweep_points(stores, tmp_path / "t", rank_by=["tool", "grip"])
