"""Sweeps: every point once, each checked before any runs, none lost to what happens to another."""

import os
import re
import signal
from collections import Counter

import pytest
import torch

from helpers.forks import fork
from helpers.group import start_group, wait_for_group
from helpers.sweeps import count_updates, grid_of, held_by_another, states, wait_for
from helpers.tiny import tiny_recipe, weights
from mambavl.configs import validate
from mambavl.configs.errors import DataError, Interrupted, UsageError
from mambavl.fuse import checkpoint, sources, steps
from mambavl.fuse import pack as packing
from mambavl.fuse import sweep as sweeping
from mambavl.fuse import train as training
from mambavl.fuse.owner import note_failure
from mambavl.fuse.points import expand
from mambavl.fuse.recipe import Recipe
from mambavl.fuse.run import read_curves
from mambavl.fuse.summary import read_summary, runs_without_folder
from mambavl.fuse.sweep import sweep
from mambavl.fuse.train import train


def test_a_sweep_runs_every_point_once(stores, tmp_path):
    data = tiny_recipe(stores).model_dump(mode="json", exclude_none=True)
    data["grid"] = {"train": {"lr": [1e-2, 1e-3]}, "fusion": {"share": ["A", "none"]}}
    points = expand(data, tmp_path, "tiny.toml")
    assert [point.name for point in points][:2] == [
        "train.lr=0.01,fusion.share=A",
        "train.lr=0.01,fusion.share=none",
    ]
    changes = []
    done = sweep(points, tmp_path, on_change=lambda now: changes.append([p.state for p in now]))
    assert {point.state for point in done} == {"done"}
    scores = [point.result.metrics["all_action_top1"] for point in done]
    assert scores == sorted(scores, reverse=True)
    summary = read_summary(tmp_path / "summary.json").points
    assert [line["values"] for line in summary] == [point.values for point in done]
    again = sweep(expand(data, tmp_path, "tiny.toml"), tmp_path)
    assert {point.state for point in again} == {"skipped"}
    assert [point.result for point in again] == [point.result for point in done]
    assert changes[0][1] == "waiting"


def test_one_diverging_point_does_not_stop_the_others(stores, tmp_path):
    data = tiny_recipe(stores, clip_norm=0, warmup_epochs=0).model_dump(mode="json", exclude_none=True)
    data["grid"] = {"train": {"lr": [1e30, 1e-2]}}
    points = sweep(expand(data, tmp_path, "tiny.toml"), tmp_path)
    assert [point.state for point in points] == ["done", "failed"]
    assert "diverged" in points[1].error


def test_a_sweep_opens_each_store_once_for_all_its_folds(stores, tmp_path, monkeypatch):
    opened, open_store = [], sources.open_store
    monkeypatch.setattr(
        sources, "open_store", lambda path, **how: opened.append(path) or open_store(path, **how)
    )
    grid = {"data.hold_out": ["0/2", "1/2"], "data.hold_out_by": ["video"]}
    points = grid_of(stores, tmp_path, grid, epochs=1, warmup_epochs=0)
    assert set(states(sweep(points, tmp_path)).values()) == {"done"}
    assert sorted(opened) == [stores / "text.zarr", stores / "video.zarr"]


def test_a_grid_is_checked_before_anything_runs(stores, tmp_path):
    data = tiny_recipe(stores).model_dump(mode="json", exclude_none=True)
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
        train(validate({**data, "grid": {"train": {"lr": [1]}}}, Recipe, "tiny.toml"), tmp_path / "run")


def test_a_key_that_was_set_by_hand_is_blamed_on_set(stores, tmp_path):
    recipe = tiny_recipe(stores).model_dump(mode="json", exclude_none=True)
    data = {**recipe, "train": {"lrr": 3}, "grid": {"train": {"seed": [0, 1]}}}
    with pytest.raises(UsageError, match=r"^--set \[train\]: there is no key `lrr`"):
        expand(data, tmp_path, "x.toml", ["train.lrr=3"])
    with pytest.raises(UsageError, match=r"^x\.toml \[.*\[train\]: there is no key `lrr`"):
        expand(data, tmp_path, "x.toml", ["train.lr=3"])


def test_points_keep_apart_and_are_not_repeated(stores, tmp_path):
    data = tiny_recipe(stores).model_dump(mode="json", exclude_none=True)
    near = expand({**data, "grid": {"train": {"lr": [0.0012345678, 0.0012345679]}}}, tmp_path, "tiny.toml")
    assert len({point.run for point in near}) == 2
    titles = expand({**data, "grid": {"title": ["a/b", "a_b", "x" * 300, "x" * 301]}}, tmp_path, "tiny.toml")
    assert len({point.run for point in titles}) == 4
    assert all(point.run.parent == tmp_path and len(point.run.name) < 130 for point in titles)
    with pytest.raises(UsageError, match="is listed twice"):
        expand({**data, "grid": {"train": {"lr": [1e-3, 0.001]}}}, tmp_path, "tiny.toml")


def test_heads_are_built_before_anything_is_trained(stores, tmp_path):
    data = tiny_recipe(stores).model_dump(mode="json", exclude_none=True)
    points = expand({**data, "grid": {"head": {"video_mlp_layers": [1, 0]}}}, tmp_path / "sweep", "tiny.toml")
    with pytest.raises(UsageError, match="6 channels and d_model is 16"):
        sweep(points, tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


def test_a_grid_over_precision_and_over_streams(stores, tmp_path):
    data = tiny_recipe(stores, epochs=1).model_dump(mode="json", exclude_none=True)
    grid = {
        "train": {"precision": ["fp32", "bf16"]},
        "use_streams": [["video"], ["verb_question", "noun_question"]],
    }
    points = sweep(expand({**data, "grid": grid}, tmp_path, "tiny.toml"), tmp_path)
    assert {(point.result.trained.precision, tuple(sorted(point.result.streams))) for point in points} == {
        (precision, streams)
        for precision in ("fp32", "bf16")
        for streams in (("video",), ("noun_question", "verb_question"))
    }


# --- whatever happens to a point is a state of that point


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate"),
            "OutOfMemoryError: CUDA out of mem",
        ),
        (MemoryError("no room"), "MemoryError: no room (in test_sweep.py, line "),
        (RuntimeError("device-side assert"), "RuntimeError: device-side assert (in "),
        (ValueError("y_true"), "ValueError: y_true (in "),
        (DataError("could not be written"), "could not be written"),
    ],
)
def test_any_error_of_a_point_is_its_state_and_the_others_go_on(stores, tmp_path, monkeypatch, error, says):
    update = training._Trainer._update

    def fail(self, *args):
        if self.config.lr == 5e-3:
            raise error
        return update(self, *args)

    monkeypatch.setattr(training._Trainer, "_update", fail)
    points = grid_of(stores, tmp_path, {"train": {"lr": [5e-3, 1e-2]}}, epochs=1)
    found = sweep(points, tmp_path)
    assert states(found) == {"train.lr=0.005": "failed", "train.lr=0.01": "done"}
    assert found[1].error.startswith(says)
    summary = read_summary(tmp_path / "summary.json").points
    assert [(line["state"], line["error"]) for line in summary] == [("done", ""), ("failed", found[1].error)]
    monkeypatch.undo()
    again = sweep(grid_of(stores, tmp_path, {"train": {"lr": [5e-3, 1e-2]}}, epochs=1), tmp_path)
    assert states(again) == {"train.lr=0.005": "done", "train.lr=0.01": "skipped"}


@pytest.mark.parametrize("stop", [Interrupted, KeyboardInterrupt])
def test_a_stop_ends_the_sweep_and_the_summary_holds_what_was_done(stores, tmp_path, stop):
    def stop_in_second(points):
        if points[1].epoch:
            raise stop("now")

    points = grid_of(stores, tmp_path, {"train": {"lr": [5e-3, 1e-2, 2e-2]}}, epochs=2)
    with pytest.raises(stop):
        sweep(points, tmp_path, on_change=stop_in_second)
    summary = {line["name"]: line for line in read_summary(tmp_path / "summary.json").points}
    assert summary["train.lr=0.005"]["metrics"]
    assert summary["train.lr=0.02"]["state"] == "waiting"
    waiting = runs_without_folder(tmp_path / "summary.json")
    assert waiting == {str(tmp_path / "train.lr=0.02"): "has not begun"}
    again = sweep(grid_of(stores, tmp_path, {"train": {"lr": [5e-3, 1e-2, 2e-2]}}, epochs=2), tmp_path)
    assert sorted(states(again).values()) == ["done", "done", "skipped"]


def test_a_changed_recipe_is_refused_before_anything_trains(stores, tmp_path, monkeypatch):
    sweep(grid_of(stores, tmp_path, {"train": {"lr": [1e-2]}}, epochs=1), tmp_path)
    before = (tmp_path / "summary.json").read_bytes()
    updates = count_updates(monkeypatch, tmp_path / "log")
    with pytest.raises(UsageError, match=r"train\.epochs: 1 -> 2"):
        sweep(grid_of(stores, tmp_path, {"train": {"lr": [1e-3, 1e-2]}}, epochs=2), tmp_path)
    assert not updates()
    assert not (tmp_path / "train.lr=0.001").exists()
    assert (tmp_path / "summary.json").read_bytes() == before


def test_an_axis_added_later_leaves_finished_points_where_they_are(stores, tmp_path, monkeypatch):
    """Both the folder's name and the title that the grid gives change with the axes."""
    sweep(grid_of(stores, tmp_path, {"train": {"lr": [1e-2]}}, epochs=1), tmp_path)
    updates = count_updates(monkeypatch, tmp_path / "log")
    grid = {"train": {"seed": [0, 1], "lr": [1e-2]}, "fusion": {"share": ["A", "none"]}}
    found = sweep(grid_of(stores, tmp_path, grid, epochs=1), tmp_path)
    assert Counter(states(found).values()) == {"done": 3, "skipped": 1}
    assert len(updates()) == 3
    old = next(point for point in found if point.state == "skipped")
    assert (old.name, old.run.name) == ("train.seed=0,train.lr=0.01,fusion.share=A", "train.lr=0.01")
    assert not (tmp_path / old.name).exists()
    assert {line["run"] for line in read_summary(tmp_path / "summary.json").points} == {
        path.name for path in tmp_path.iterdir() if path.is_dir()
    }
    again = sweep(grid_of(stores, tmp_path, grid, epochs=1), tmp_path)
    assert set(states(again).values()) == {"skipped"}


def test_a_grid_over_titles_and_folders_of_others_are_never_taken_for_a_point(stores, tmp_path):
    found = sweep(grid_of(stores, tmp_path, {"title": ["a", "b"]}, epochs=1), tmp_path)
    assert sorted((point.run.name, point.state) for point in found) == [
        ("title=a", "done"),
        ("title=b", "done"),
    ]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "recipe.toml").write_text("another = 'program'")
    again = sweep(grid_of(stores, tmp_path, {"title": ["a", "b"]}, epochs=1), tmp_path)
    assert set(states(again).values()) == {"skipped"}


# --- several sweeps in one folder


def test_two_sweeps_at_once_train_every_point_once(stores, tmp_path, monkeypatch):
    """Whoever comes first holds its first point until the other has found it held."""
    out = tmp_path / "both"
    updates = count_updates(monkeypatch, tmp_path / "log")

    def one(name):
        def on_change(points):
            (tmp_path / name).touch()
            for other in "ab":
                wait_for(tmp_path / other)
            if any(point.state == "elsewhere" for point in points):
                (tmp_path / "met").touch()

        points = grid_of(stores, out, {"train": {"seed": list(range(20))}}, epochs=2)
        assert {point.state for point in sweep(points, out, on_change=on_change)} <= {"done", "skipped"}

    children = {name: fork(lambda name=name: one(name), *[tmp_path / f"{name}.log"] * 2) for name in "ab"}
    codes = {name: child.wait() for name, child in children.items()}
    assert codes == {"a": 0, "b": 0}, [(tmp_path / f"{name}.log").read_text() for name in "ab"]
    assert (tmp_path / "met").exists()
    assert updates() == {f"train.seed={seed}": 6 for seed in range(20)}
    runs = sorted(path for path in out.iterdir() if path.is_dir())
    assert len(runs) == 20
    for run in runs:
        assert [line["epoch"] for line in read_curves(run)] == [1, 2]
        assert not (run / "checkpoints").exists()
    assert {line["state"] for line in read_summary(out / "summary.json").points} <= {"done", "skipped"}
    monkeypatch.undo()
    train(grid_of(stores, out, {"train": {"seed": [7]}}, epochs=2)[0].recipe, tmp_path / "alone")
    alone, shared = weights(tmp_path / "alone"), weights(out / "train.seed=7")
    assert all(torch.equal(alone[key], shared[key]) for key in alone)


def fail():
    raise DataError("diverged")


@pytest.mark.parametrize(
    ("deed", "ends"), [(lambda: None, "done"), (fail, "failed")], ids=["given up", "failed"]
)
def test_a_point_that_another_trains_is_looked_at_again(stores, tmp_path, monkeypatch, deed, ends):
    """Given up, it is trained here; failed there, it has failed."""
    points = grid_of(stores, tmp_path, {"train": {"lr": [5e-3, 1e-2]}}, epochs=1)
    other = held_by_another(points[0].run, tmp_path / "release", deed)
    updates = count_updates(monkeypatch, tmp_path / "log")
    seen = []

    def on_change(now):
        seen.append([(point.state, point.error) for point in now])
        if now[1].state == "done" and other.code is None:
            (tmp_path / "release").touch()
            other.wait()

    found = sweep(points, tmp_path, on_change=on_change)
    assert seen[0][0][0] == "elsewhere"
    assert f"another process (pid {other.pid} on host" in seen[0][0][1]
    assert states(found) == {"train.lr=0.005": ends, "train.lr=0.01": "done"}
    assert updates()["train.lr=0.005"] == (3 if ends == "done" else 0)
    assert ends == "done" or found[1].error == "diverged"


def test_what_others_finish_is_seen_before_it_is_come_to(stores, tmp_path, monkeypatch):
    """A result that cannot be read is left to the point itself, which then fails alone."""
    points = grid_of(stores, tmp_path, {"train": {"lr": [5e-3, 1e-2, 2e-2]}}, epochs=2)
    updates = count_updates(monkeypatch, tmp_path / "log")
    seen = []

    def on_change(now):
        if not seen:
            train(points[1].recipe, points[1].run)
            points[2].run.mkdir()
            (points[2].run / "result.json").write_text("{")
        seen.append([(point.state, bool(point.result)) for point in now])

    found = sweep(points, tmp_path, on_change=on_change)
    assert seen[1] == [("running", False), ("done", True), ("waiting", False)]
    assert updates()["train.lr=0.01"] == 6
    assert {point.name: point.state for point in found} == {
        "train.lr=0.005": "done", "train.lr=0.01": "done", "train.lr=0.02": "failed",
    }  # fmt: skip


def test_waiting_for_others_can_be_stopped(stores, tmp_path):
    points = grid_of(stores, tmp_path, {"train": {"lr": [5e-3]}}, epochs=1)
    other = held_by_another(points[0].run, tmp_path / "release", lambda: None)
    with pytest.raises(Interrupted, match="stopped while other processes train 1 of the points"):
        sweep(points, tmp_path, should_stop=lambda: True)
    (tmp_path / "release").touch()
    other.wait()


# --- several processes in one sweep


def test_an_evaluation_that_diverges_ends_its_point_on_all_processes(stores, tmp_path):
    """The main process alone scores: the others hear of it, and all go on with the next point."""
    grid = {"train": {"lr": [1e30, 1e-2]}, "head": {"dropout": [0.0]}}
    keys = {"warmup_epochs": 0, "batch_size": 100, "epochs": 1}

    def two():
        found = sweep(grid_of(stores, tmp_path / "two", grid, **keys), tmp_path / "two")
        good, bad = found
        assert (good.state, bad.state) == ("done", "failed")
        assert re.search("diverged.*scores", bad.error)
        assert good.result.trained.processes == 2

    codes = wait_for_group(start_group(two, tmp_path))
    assert codes == [0, 0], "".join(path.read_text() for path in sorted(tmp_path.glob("rank-*.log")))
    one = sweep(grid_of(stores, tmp_path / "one", grid, **keys), tmp_path / "one")
    assert [point.state for point in one] == ["done", "failed"]
    alone, shared = (weights(tmp_path / name / one[0].run.name) for name in ("one", "two"))
    for name, value in alone.items():
        torch.testing.assert_close(shared[name], value, rtol=2e-3, atol=2e-4)


def test_an_error_on_one_process_is_everybodys(stores, tmp_path, monkeypatch):
    """Out of memory in the forward pass of the second process alone; the next point is trained by both."""
    forward = steps.Steps.forward

    def fail_on_second(self, *args):
        if self.config.lr == 5e-3 and self.processes.index == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, *args)

    monkeypatch.setattr(steps.Steps, "forward", fail_on_second)
    out = tmp_path / "out"

    def two():
        good, bad = sweep(grid_of(stores, out, {"train": {"lr": [5e-3, 1e-2]}}, epochs=1), out)
        assert (good.state, bad.state) == ("done", "failed")
        assert bad.error.startswith("OutOfMemoryError: CUDA out of memory.")

    codes = wait_for_group(start_group(two, tmp_path))
    assert codes == [0, 0], "".join(path.read_text() for path in sorted(tmp_path.glob("rank-*.log")))


def test_an_error_amid_an_exchange_ends_the_process_that_met_it(stores, tmp_path, monkeypatch):
    """It cannot be agreed upon: a launcher ends the others, and nobody goes on alone with the next point."""
    update = training._Trainer._update

    def fail_on_second(self, *args):
        if self.processes.index == 1:
            raise MemoryError("no room")
        return update(self, *args)

    monkeypatch.setattr(training._Trainer, "_update", fail_on_second)
    out = tmp_path / "out"
    codes = wait_for_group(
        start_group(lambda: sweep(grid_of(stores, out, {"train": {"lr": [5e-3, 1e-2]}}), out), tmp_path)
    )
    assert codes[1] == 1
    assert "MemoryError: no room" in (tmp_path / "rank-1.log").read_text()
    assert not (out / "train.lr=0.01").exists()


def test_two_processes_look_at_a_held_point_again_together(stores, tmp_path):
    points = grid_of(stores, tmp_path / "out", {"train": {"lr": [5e-3, 1e-2]}}, epochs=1)
    other = held_by_another(points[0].run, tmp_path / "release", lambda: None)

    def two():
        def on_change(now):
            if now[1].state == "done":
                (tmp_path / "release").touch()

        assert {p.state for p in sweep(points, tmp_path / "out", on_change=on_change)} == {"done"}

    codes = wait_for_group(start_group(two, tmp_path))
    assert codes == [0, 0], "".join(path.read_text() for path in sorted(tmp_path.glob("rank-*.log")))
    assert other.wait() == 0


# --- points in one pass


def count_packs(monkeypatch):
    """The numbers of heads that packs are begun with."""
    found, begin = [], packing._Pack.__init__

    def counted(self, members, *args):
        found.append(len(members))
        begin(self, members, *args)

    monkeypatch.setattr(packing._Pack, "__init__", counted)
    return found


def test_points_of_one_shape_are_trained_in_one_pass(stores, tmp_path, monkeypatch):
    grid = {"train": {"lr": [1e-2, 5e-3, 1e30], "seed": [0, 1]}, "fusion": {"share": ["A", "none"]}}
    keys = {"epochs": 2, "clip_norm": 0, "warmup_epochs": 0}
    sizes, updates = count_packs(monkeypatch), count_updates(monkeypatch, tmp_path / "log")
    seen = []
    points = grid_of(stores, tmp_path / "packed", grid, **keys)
    found = sweep(
        points,
        tmp_path / "packed",
        pack=None,
        on_change=lambda now: seen.append(Counter(point.state for point in now)),
    )
    assert sizes == [3, 3, 3, 3]  # by seed and shape
    assert not updates()
    assert seen[2]["running"] == 3
    alone = sweep(grid_of(stores, tmp_path / "alone", grid, **keys), tmp_path / "alone")
    assert sizes == [3, 3, 3, 3]
    assert Counter(states(found).values()) == {"done": 8, "failed": 4}
    assert states(found) == states(alone)
    by_name = {point.name: point for point in alone}
    for point in found:
        other = by_name[point.name]
        assert ("diverged" in point.error) == ("diverged" in other.error) == (point.state == "failed")
        if point.result:
            assert point.result.metrics == pytest.approx(other.result.metrics)
    summary = read_summary(tmp_path / "packed" / "summary.json").points
    assert [(line["state"], line["metrics"]) for line in summary] == [
        (point.state, point.result.metrics if point.result else None) for point in found
    ]
    again = sweep(grid_of(stores, tmp_path / "packed", grid, **keys), tmp_path / "packed", pack=None)
    assert Counter(states(again).values()) == {"skipped": 8, "failed": 4}
    assert sizes[4:] == []  # one of each four is left, and has nobody to go with


def test_no_more_points_go_together_than_asked_for(stores, tmp_path, monkeypatch):
    sizes = count_packs(monkeypatch)
    points = grid_of(stores, tmp_path, {"train": {"lr": [1e-2, 5e-3, 2e-3, 1e-3, 3e-3]}}, epochs=1)
    assert set(states(sweep(points, tmp_path, pack=2)).values()) == {"done"}
    assert sizes == [2, 2]


def test_a_pack_leaves_points_to_the_processes_that_share_the_sweep(stores, tmp_path, monkeypatch):
    sizes = count_packs(monkeypatch)
    points = grid_of(stores, tmp_path, {"train": {"lr": [1e-2, 5e-3, 2e-3, 1e-3, 3e-3]}}, epochs=1)
    assert set(states(sweep(points, tmp_path, pack=None, shares=2)).values()) == {"done"}
    assert sizes == [3, 2]


def test_what_a_pack_cannot_bear_together_is_trained_one_by_one_and_said(
    stores, tmp_path, monkeypatch, caplog
):
    def fail(self, rows):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(packing._Pack, "_update", fail)
    updates = count_updates(monkeypatch, tmp_path / "log")
    points = grid_of(stores, tmp_path / "out", {"train": {"lr": [1e-2, 5e-3]}}, epochs=1)
    assert set(states(sweep(points, tmp_path / "out", pack=None)).values()) == {"done"}
    assert updates() == {"train.lr=0.01": 3, "train.lr=0.005": 3}
    assert "2 points go on one by one; in one pass they met OutOfMemoryError: CUDA out of mem" in caplog.text


def test_a_point_of_a_pack_that_failed_elsewhere_meanwhile_is_not_tried_again(stores, tmp_path, monkeypatch):
    points = grid_of(stores, tmp_path, {"train": {"lr": [1e-2, 5e-3, 2e-3]}}, epochs=1)
    sizes, run = count_packs(monkeypatch), points[1].run

    def fail_there_first(recipes, **sizes):
        run.mkdir()
        note_failure(run, DataError("it failed there"))
        return packing.packs(recipes, **sizes)

    monkeypatch.setattr(sweeping, "packs", fail_there_first)
    ended = sweep(points, tmp_path, pack=None)
    assert sizes == [2]
    assert {point.name: point.error for point in ended if point.state == "failed"} == {
        points[1].name: "it failed there"
    }


def test_a_killed_pack_is_taken_up_by_the_same_sweep(stores, tmp_path):
    """In the middle of saving: some of the runs are an update further than the others."""
    grid = {"train": {"lr": [1e-2, 5e-3, 2e-3, 1e-3]}}
    out = tmp_path / "out"

    def killed():
        save, saved = checkpoint.save_checkpoint, []

        def save_or_die(folder, *args):
            if len(saved) == 6:  # two of the second epoch's
                os.kill(os.getpid(), signal.SIGKILL)
            saved.append(folder)
            save(folder, *args)

        checkpoint.save_checkpoint = save_or_die
        sweep(grid_of(stores, out, grid), out, pack=None)

    child = fork(killed, *[tmp_path / "child.log"] * 2)
    assert child.wait() == -signal.SIGKILL
    found = sweep(grid_of(stores, out, grid), out, pack=None)
    assert set(states(found).values()) == {"done"}
    alone = {p.name: p for p in sweep(grid_of(stores, tmp_path / "alone", grid), tmp_path / "alone")}
    for point in found:
        assert [line["epoch"] for line in read_curves(point.run)] == [1, 2, 3, 4]
        for name, weight in weights(alone[point.name].run).items():
            torch.testing.assert_close(weights(point.run)[name], weight, rtol=1e-3, atol=1e-5)


def test_several_processes_train_their_points_one_by_one(stores, tmp_path):
    out = tmp_path / "out"

    def two():
        points = grid_of(stores, out, {"train": {"lr": [5e-3, 1e-2]}}, epochs=1)
        assert {point.state for point in sweep(points, out, pack=None)} == {"done"}

    codes = wait_for_group(start_group(two, tmp_path))
    assert codes == [0, 0], "".join(path.read_text() for path in sorted(tmp_path.glob("rank-*.log")))
