"""How far a sweep is, from its folder alone: each state by what is on the disk, and nothing is changed."""

import json
import os
import socket

import pytest

from helpers.forks import fork
from helpers.sweeps import grid_of, held_by_another, wait_for
from mambavl.configs import dump
from mambavl.configs.errors import DataError, UsageError
from mambavl.fuse.owner import note_failure, owned
from mambavl.fuse.run import write_pruning
from mambavl.fuse.sweep import sweep
from mambavl.fuse.sweep_status import Run, SweepStatus, sweep_status

GRID = {"train": {"lr": [1e-3, 2e-3, 3e-3, 4e-3, 5e-3, 6e-3]}}


def points_of(stores, out):
    return grid_of(stores, out, GRID, epochs=4)


def begin(point, epochs=0, seconds=2.0, half=""):
    """A run that somebody began and that has done so many epochs, of so many seconds each."""
    point.run.mkdir(parents=True)
    (point.run / "recipe.toml").write_text(dump(point.recipe))
    lines = [json.dumps({"epoch": n + 1, "seconds": seconds * (n + 1)}) + "\n" for n in range(epochs)]
    (point.run / "curves.jsonl").write_text("".join(lines) + half)


def sign(point, pid, host=None):
    (point.run / "lock").write_text(json.dumps({"host": host or socket.gethostname(), "pid": pid}))
    (point.run / "begun.json").write_text('{"epochs": 0, "deaths": 0}')


def heard(point, when):
    for file in point.run.iterdir():
        os.utime(file, (when, when))


def contents(folder):
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()
    }


def test_each_state_is_told_by_what_is_on_the_disk(stores, tmp_path):
    running, died, failed, pruned, stopped, remote = points_of(stores, tmp_path)
    begin(running, 1, half='{"epoch": 2, "sec')
    sign(running, os.getpid())
    heard(running, 1000.0)
    gone = fork(lambda: None)
    gone.wait()
    begin(died, 3)
    sign(died, gone.pid)
    begin(failed, 2)
    note_failure(failed.run, DataError("diverged"))
    begin(pruned, 1)
    write_pruning(pruned.run, 1, "after epoch 1 of 4: below")
    begin(stopped, 2)
    begin(remote, 2, seconds=400.0)
    sign(remote, 1, "elsewhere")
    heard(remote, 1000.0)
    before = contents(tmp_path)
    found = sweep_status(tmp_path, now=1000.5)
    assert contents(tmp_path) == before
    runs = {run.name: run for run in found.runs}
    seen = lambda point: (runs[point.run.name].state, runs[point.run.name].epoch, runs[point.run.name].why)
    assert seen(running) == ("running", 1, "")
    assert seen(died) == ("died", 3, "")
    assert seen(failed) == ("failed", 2, "diverged")
    assert seen(pruned) == ("pruned", 1, "after epoch 1 of 4: below")
    assert seen(stopped) == ("stopped", 2, "")
    assert seen(remote) == ("running", 2, "")
    assert {run.name for run in found.at_work} == {running.run.name, remote.run.name}
    assert found.counts == {"running": 2, "died": 1, "failed": 1, "pruned": 1, "stopped": 1}
    one = runs[running.run.name]
    assert one.rate == 0.5
    assert one.seconds_left == 3 * 2.0 - 0.5
    assert one.who == f"pid {os.getpid()} on host {socket.gethostname()}"
    assert found.rate == 0.5 + 1 / 400
    assert found.seconds_left == pytest.approx((3 + 1 + 2 + 2) / found.rate)  # neither failed nor pruned


@pytest.mark.parametrize(
    ("seconds", "since", "state"),
    [(1, 599, "running"), (1, 601, "silent"), (400, 1199, "running"), (400, 1201, "silent")],
)
def test_a_run_of_another_host_is_silent_after_ten_minutes_and_three_epochs(
    stores, tmp_path, seconds, since, state
):
    point = points_of(stores, tmp_path)[0]
    begin(point, 2, seconds=seconds)
    sign(point, 1, "elsewhere")
    heard(point, 5000.0)
    [run] = sweep_status(tmp_path, now=5000.0 + since).runs
    assert run.state == state
    assert sweep_status(tmp_path, now=5000.0 + since).rate == (1 / seconds if state == "running" else 0)


def test_a_sweep_is_seen_before_while_and_after_it_trains(stores, tmp_path):
    points = points_of(stores, tmp_path)[:3]
    looks = []

    def on_change(now):
        looks.append(sweep_status(tmp_path).counts)

    sweep(points, tmp_path, on_change=on_change)
    assert looks[0]["waiting"] == 2  # they are known before the first has ended
    assert all(look.total() == 3 for look in looks)
    assert {look["running"] for look in looks} == {0, 1}
    found = sweep_status(tmp_path)
    assert found.counts == {"done": 3}
    assert not found.at_work
    assert found.seconds_left is None
    by_score = sorted(points, key=lambda point: -point.result.metrics["all_action_top1"])
    scores = [point.result.metrics["all_action_top1"] for point in by_score]
    assert [run.score for run in found.best(10)] == scores
    assert [run.score for run in found.best(2)] == scores[:2]
    assert found.best(1)[0].measure == "action top-1"


def test_the_best_scores_come_first_and_runs_without_one_never(tmp_path):
    scores = {"a": 1.0, "b": 3.0, "c": None, "d": 2.0}
    runs = [Run(name, "running" if score is None else "done", score=score) for name, score in scores.items()]
    found = SweepStatus(tmp_path, runs, [])
    assert [run.name for run in found.best(2)] == ["b", "d"]
    assert [run.name for run in found.best(9)] == ["b", "d", "a"]


def test_what_is_done_is_read_once_and_what_failed_without_a_folder_says_why(stores, tmp_path):
    sweep(points_of(stores, tmp_path)[:1], tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    other = {**summary["points"][0], "run": "other", "name": "other", "state": "failed", "error": "no room"}
    (tmp_path / "summary.json").write_text(json.dumps({**summary, "points": [*summary["points"], other]}))
    known = {}
    first = sweep_status(tmp_path, known)
    assert [(run.state, run.why) for run in first.runs] == [("done", ""), ("failed", "no room")]
    (tmp_path / first.runs[0].name / "result.json").write_text("damaged")
    assert sweep_status(tmp_path, known).runs == first.runs
    with pytest.raises(DataError, match="damaged"):
        sweep_status(tmp_path)


def test_runs_of_what_was_chosen_are_no_points(stores, tmp_path):
    [point, *_] = points_of(stores, tmp_path)
    point.run = tmp_path / "chosen,train.lr=0.001"
    begin(point, 1)
    found = sweep_status(tmp_path)
    assert found.runs == []
    assert [run.name for run in found.chosen] == ["chosen,train.lr=0.001"]


def test_looking_keeps_nobody_from_training(stores, tmp_path):
    point = points_of(stores, tmp_path)[0]
    child = held_by_another(point.run, tmp_path / "release", lambda: None)
    wait_for(point.run / "begun.json")
    assert [run.state for run in sweep_status(tmp_path).runs] == ["running"]
    (tmp_path / "release").touch()
    assert child.wait() == 0
    with owned(point.run):
        pass
    assert [run.state for run in sweep_status(tmp_path).runs] == ["waiting"]


def test_a_folder_that_is_no_sweep_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"it has no summary\.json and no runs"):
        sweep_status(tmp_path)
