"""Sweeps whose points crash, diverge and are killed: what is wrong with one is no matter of the others."""

import faulthandler
import json
import os
import random
import signal
import threading
import time
from collections import Counter

import numpy as np
import pytest
import torch

from helpers import forks
from helpers.sweeps import count_updates, grid_of, states, wait_for
from helpers.tiny import tiny_recipe
from mambavl.cli import sweeping
from mambavl.cli.sweeping import run_sweep
from mambavl.configs.errors import DataError, Interrupted, UsageError
from mambavl.configs.progress import never, unseen
from mambavl.extract.workers import Worker
from mambavl.fuse import pack
from mambavl.fuse import train as training
from mambavl.fuse.member import Member
from mambavl.fuse.run import RESULT, read_scores
from mambavl.fuse.search import Search
from mambavl.fuse.sweep import sweep

SHORT = {"epochs": 2, "warmup_epochs": 0, "clip_norm": 0}


def end_process_at(monkeypatch, runs, number=signal.SIGSEGV):
    """Every update of these runs ends its process by a signal."""
    update = training._Trainer._update

    def deadly(self, *args):
        if self.run.name in runs:
            faulthandler.disable()  # of the tests: it prints what is as it should be
            os.kill(os.getpid(), number)
        return update(self, *args)

    monkeypatch.setattr(training._Trainer, "_update", deadly)


def test_a_sweep_is_done_by_a_process_of_its_own(stores, tmp_path, monkeypatch):
    counted = count_updates(monkeypatch, tmp_path / "log")
    grid = {"train.lr": [1e-2, 1e-3]}
    points, chosen = run_sweep(grid_of(stores, tmp_path / "s", grid, **SHORT), tmp_path / "s", chooses=False)
    assert set(states(points).values()) == {"done"}
    assert chosen is None
    assert all(point.result.metrics for point in points)
    begun_in = (tmp_path / "s" / "train.lr=0.01" / "lock").read_text()
    assert f'"pid": {os.getpid()}' not in begun_in
    assert set(counted()) == {"train.lr=0.01", "train.lr=0.001"}


def test_points_that_crash_their_process_end_alone(stores, tmp_path, monkeypatch, capfd):
    """More of them than crashes in vain would end the command."""
    counted = count_updates(monkeypatch, tmp_path / "log")
    bad = {f"train.lr={rate}" for rate in (0.01, 0.02, 0.04)}
    end_process_at(monkeypatch, bad)
    grid = {"train.lr": [0.01, 0.02, 0.03, 0.04, 0.05]}
    points, _ = run_sweep(grid_of(stores, tmp_path / "s", grid, **SHORT), tmp_path / "s", chooses=False)
    ended = states(points)
    assert {name for name, state in ended.items() if state == "failed"} == bad
    assert all(state in ("done", "skipped") for name, state in ended.items() if name not in bad)
    assert all("died 2 times without finishing an epoch" in p.error for p in points if p.state == "failed")
    assert (
        capfd.readouterr().err.count("a worker was ended by signal 11; another one goes on with the sweep")
        == 6
    )
    assert counted()["train.lr=0.03"] == counted()["train.lr=0.05"]
    assert counted()["train.lr=0.03"] % 2 == 0


def test_a_trial_that_crashes_its_process_twice_is_told_as_failed(stores, tmp_path, monkeypatch, capfd):
    recipe = tiny_recipe(stores, title="", **SHORT).model_dump(mode="json", exclude_none=True)
    section = {"trials": 6, "train.lr": [0.01, 0.02]}
    data = {**recipe, "select_on": "0/2", "data": {"hold_out_by": "video"}, "search": section}
    end_process_at(monkeypatch, {"train.lr=0.02"})
    asked = Search(data, tmp_path / "s", "tiny.toml")
    points, chosen = run_sweep(asked, tmp_path / "s", chooses=True)
    assert states(points)["train.lr=0.02"] == "failed"
    assert states(points)["train.lr=0.01"] in ("done", "skipped")
    assert "died 2 times" in next(point.error for point in points if point.state == "failed")
    assert capfd.readouterr().err.count("another one goes on with the sweep") == 2
    assert (chosen.selection.among, chosen.selection.failed) == (1, 1)


def test_a_pack_in_which_a_point_crashes_is_trained_one_by_one(stores, tmp_path, monkeypatch):
    def deadly(self, should_stop):
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(pack._Pack, "_one_epoch", deadly)
    points = lambda: grid_of(stores, tmp_path / "s", {"train.lr": [1e-2, 2e-2, 3e-2]}, **SHORT)
    with pytest.raises(DataError, match="ended by signal 9"):
        run_sweep(points(), tmp_path / "s", chooses=False, pack=3)
    ended, _ = run_sweep(points(), tmp_path / "s", chooses=False, pack=3)
    assert set(states(ended).values()) == {"done"}


def test_a_process_that_is_killed_ends_the_sweep_and_the_same_command_resumes(stores, tmp_path, monkeypatch):
    points = lambda: grid_of(stores, tmp_path / "s", {"train.lr": [1e-2, 1e-3]}, **SHORT)
    with monkeypatch.context() as patched:
        end_process_at(patched, {"train.lr=0.001"}, signal.SIGKILL)
        with pytest.raises(DataError, match=r"ended by signal 9 .*; the same command resumes"):
            run_sweep(points(), tmp_path / "s", chooses=False)
    ended, _ = run_sweep(points(), tmp_path / "s", chooses=False)
    assert states(ended) == {"train.lr=0.01": "skipped", "train.lr=0.001": "done"}


def test_a_signal_stops_the_process_that_trains_and_what_it_did_stays(stores, tmp_path, monkeypatch):
    update = training._Trainer._update

    def noted(self, *args):
        (tmp_path / "training").touch()
        time.sleep(0.05)
        return update(self, *args)

    monkeypatch.setattr(training._Trainer, "_update", noted)
    points = grid_of(stores, tmp_path / "s", {"train.lr": [1e-2]}, **{**SHORT, "epochs": 10_000})

    def command():
        with pytest.raises(Interrupted):
            run_sweep(points, tmp_path / "s", chooses=False)

    child = forks.fork(command)
    wait_for(tmp_path / "training")
    child.send_signal(signal.SIGTERM)
    assert child.wait() == 0
    assert list((tmp_path / "s" / "train.lr=0.01" / "checkpoints").iterdir())


def test_processes_of_a_launcher_are_left_to_it(stores, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(sweeping, "crew", lambda *_, **__: pytest.fail("a process was forked"))
    monkeypatch.setattr(sweeping, "sweep", lambda points, out, **_: points)
    assert run_sweep([], tmp_path, chooses=False) == ([], None)
    for asked in ({"workers": 2}, {"engine": "ray"}):
        with pytest.raises(UsageError, match="a launcher has started several processes"):
            run_sweep([], tmp_path, chooses=False, **asked)


def test_processes_of_one_command_share_its_points(stores, tmp_path, monkeypatch):
    counted = count_updates(monkeypatch, tmp_path / "log")
    rates = [0.01, 0.02, 0.03, 0.04]
    points = grid_of(stores, tmp_path / "s", {"train.lr": rates}, **{**SHORT, "epochs": 6})
    ended, _ = run_sweep(points, tmp_path / "s", chooses=False, workers=2)
    assert set(states(ended).values()) <= {"done", "skipped"}
    assert all(point.result.metrics for point in ended)
    assert len(set(counted().values())) == 1, "a point was trained twice"
    trained_by = {json.loads((point.run / "lock").read_text())["pid"] for point in ended}
    assert os.getpid() not in trained_by


@pytest.mark.parametrize(("given", "names"), [("4,7", ["4", "7", "4"]), (None, ["0", "1", "0"])])
def test_each_of_several_processes_has_a_gpu(monkeypatch, given, names):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    found = []
    for number in range(3):
        with monkeypatch.context() as patched:
            patched.delenv("CUDA_VISIBLE_DEVICES", raising=False)
            if given:
                patched.setenv("CUDA_VISIBLE_DEVICES", given)
            sweeping._take_part(Worker(number, False, unseen, never), 3, "processes")
            found.append(os.environ["CUDA_VISIBLE_DEVICES"])
    assert found == names


@pytest.mark.soak
def test_a_node_of_a_ray_cluster_that_is_killed_leaves_its_points_to_the_other(
    cluster, node, stores, tmp_path, monkeypatch
):
    rates = {"train.lr": [0.01, 0.02, 0.03, 0.04]}
    points = lambda out: grid_of(stores, out, rates, **{**SHORT, "epochs": 3})
    whole = {point.name: point for point in sweep(points(tmp_path / "w"), tmp_path / "w")}
    doomed, holds = node.node_id, tmp_path / "holds"
    # what a worker imports is the program as it is: it is held up by the first line that a point writes
    record = sweeping.sweep

    def slow(*args, on_change, **keys):
        import ray

        def hang(changed):
            on_change(changed)
            if ray.get_runtime_context().get_node_id() == doomed:
                holds.touch()
                signal.pause()
            while not holds.exists():
                time.sleep(0.02)

        return record(*args, on_change=hang, **keys)

    monkeypatch.setattr(sweeping, "sweep", slow)

    def stop_the_node():
        wait_for(holds)
        cluster.remove_node(node, allow_graceful=False)

    killer = threading.Thread(target=stop_the_node)
    killer.start()
    ended, _ = run_sweep(points(tmp_path / "s"), tmp_path / "s", chooses=False, engine="ray")
    killer.join()
    assert set(states(ended).values()) <= {"done", "skipped"}
    for point in ended:
        found, right = (read_scores(run, "validation") for run in (point.run, whole[point.name].run))
        for name, values in right.items():
            np.testing.assert_array_equal(found[name], values)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_two_hundred_members_of_which_some_crash_diverge_and_are_killed(stores, tmp_path, monkeypatch):
    rates = [round(0.001 + 0.0001 * i, 4) for i in range(195)] + [1e30 * (i + 1) for i in range(5)]
    crash = {f"train.lr={rate}" for rate in rates[10:195:40]}
    diverge = {f"train.lr={rate}" for rate in rates[195:]}
    # large enough that every update explodes
    points = lambda out: grid_of(stores, out, {"train.lr": rates}, lr_ssm=1e-2, **SHORT)
    assert len(crash) == len(diverge) == 5
    assert len(points(tmp_path / "s")) == 200

    whole = {
        p.run.name: p
        for p in sweep([p for p in points(tmp_path / "w") if p.name not in crash], tmp_path / "w")
    }
    assert Counter(point.state for point in whole.values()) == {"done": 190, "failed": 5}

    finished = tmp_path / "finished"
    finished.touch()
    write = Member.finish

    def counted(self, *args):
        write(self, *args)
        with open(finished, "a") as log:
            log.write(f"{self.run.name}\n")

    monkeypatch.setattr(Member, "finish", counted)
    end_process_at(monkeypatch, crash)
    chance, kills = random.Random(0), 0
    command = lambda: run_sweep(points(tmp_path / "s"), tmp_path / "s", chooses=False)
    while kills < 30:
        child, ends = forks.fork(command), time.monotonic() + chance.uniform(0.5, 6.0)
        while child.poll() is None and time.monotonic() < ends:
            time.sleep(0.01)
        if child.poll() is not None:
            break
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        kills += 1
    ended, _ = command()
    assert kills >= 20
    for point in ended:
        if point.name in crash | diverge:
            assert point.state == "failed", point.name
            assert not (point.run / RESULT).exists()
            continue
        assert point.state in ("done", "skipped"), (point.name, point.error)
        found, right = (read_scores(run, "validation") for run in (point.run, whole[point.run.name].run))
        assert found.keys() == right.keys()
        for name, values in right.items():
            np.testing.assert_array_equal(found[name], values)
    assert len([run for run in (tmp_path / "s").iterdir() if run.is_dir()]) == 200
    # a kill between the result and the line that counts it may hide one, never double it
    counts = Counter(finished.read_text().split())
    assert set(counts.values()) == {1}
