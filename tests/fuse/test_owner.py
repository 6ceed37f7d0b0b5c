"""Who trains a run: one process at a time, named to all others; gone with the process, however it ends."""

import faulthandler
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from helpers import forks
from helpers.cli import call
from helpers.tiny import tiny_recipe, weights
from mambavl.configs import dump
from mambavl.configs.errors import DataError, Interrupted, UsageError
from mambavl.fuse.owner import RunHeld, deaths, last_failure, owned, reason, why_unfinished
from mambavl.fuse.run import BEGUN, CURVES, LOCK, RECIPE, read_result, refuse_other_folder
from mambavl.fuse.train import train


def wait_for(path):
    while not path.exists():
        time.sleep(0.01)


def until(path, run):
    """Hold a run until there is a file `path`."""
    with owned(run):
        wait_for(path)


def test_a_second_job_is_refused_by_name_and_results_are_read_all_the_same(stores, tmp_path, capsys):
    run, recipe = tmp_path / "run", tmp_path / "tiny.toml"
    train(tiny_recipe(stores, epochs=1), run)
    (tmp_path / "new").mkdir()
    recipe.write_text(dump(tiny_recipe(stores, epochs=1)))
    with owned(run), owned(tmp_path / "new"):
        assert forks.run(lambda: read_result(run)).returncode == 0
        assert call("train", recipe, "--out", run) == 0  # it has finished: nothing is written
        assert call("train", recipe, "--out", tmp_path / "new") == 2
        said = capsys.readouterr().err
        assert f"another process (pid {os.getpid()} on host {socket.gethostname()}) works on this run" in said
        assert not (tmp_path / "new" / RECIPE).exists()
    assert call("train", recipe, "--out", tmp_path / "new") == 0


def test_the_orphan_of_a_killed_launcher_holds_the_run(stores, tmp_path):
    run, recipe = tmp_path / "run", tiny_recipe(stores, epochs=2)

    def hold(line):
        (tmp_path / "training").write_text(str(os.getpid()))
        wait_for(tmp_path / "go on")

    launcher = forks.fork(lambda: forks.fork(lambda: train(recipe, run, on_epoch=hold)).wait())
    wait_for(tmp_path / "training")
    launcher.send_signal(signal.SIGKILL)
    assert launcher.wait() == -signal.SIGKILL
    orphan = (tmp_path / "training").read_text()
    with pytest.raises(
        RunHeld, match=rf"another process \(pid {orphan} on host .*\) works on this run; wait"
    ):
        train(recipe, run)
    (tmp_path / "go on").touch()
    while not (run / "result.json").exists():
        time.sleep(0.01)
    train(recipe, tmp_path / "whole")
    assert weights(run).keys() == weights(tmp_path / "whole").keys()
    assert len((run / CURVES).read_text().splitlines()) == 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_lock_ends_with_its_process(tmp_path, number):
    child = forks.fork(lambda: until(tmp_path / "never", tmp_path / "run"))
    while not (tmp_path / "run" / LOCK).exists() or not (tmp_path / "run" / LOCK).read_bytes():
        time.sleep(0.01)
    with pytest.raises(RunHeld), owned(tmp_path / "run"):
        pass
    child.send_signal(number)
    child.wait()
    with owned(tmp_path / "run"):
        pass
    refuse_other_folder(tmp_path / "run")  # a lock alone: nothing of somebody else's


def test_a_holder_that_has_not_signed_yet_has_no_name(tmp_path):
    with owned(tmp_path):
        (tmp_path / LOCK).write_bytes(b"")
        with pytest.raises(RunHeld, match="another process works on this run"), owned(tmp_path):
            pass


def test_an_error_leaves_its_reason_and_the_next_attempt_removes_it(stores, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(DataError), owned(run):
        raise DataError(f"{run}: the disk is full")
    first = last_failure(run)
    assert first["error"] == "the disk is full"
    assert why_unfinished(run) == "failed: the disk is full"
    with pytest.raises(DataError), owned(run):
        raise DataError("the disk is full")
    assert last_failure(run)["id"] != first["id"]
    train(tiny_recipe(stores, epochs=1), run)
    assert last_failure(run) is None
    assert why_unfinished(run) is None


@pytest.mark.parametrize("kind", [Interrupted, UsageError, KeyboardInterrupt])
def test_what_was_stopped_or_refused_has_not_failed(tmp_path, kind):
    with pytest.raises(kind), owned(tmp_path):
        raise kind("x")
    assert last_failure(tmp_path) is None


def test_an_unfinished_run_says_how_far_it_is(stores, tmp_path):
    assert why_unfinished(tmp_path) is None  # not a run at all
    calls = iter(range(1000))
    with pytest.raises(Interrupted):
        train(tiny_recipe(stores), tmp_path / "run", should_stop=lambda: next(calls) >= 7)
    assert why_unfinished(tmp_path / "run").startswith("has not finished: 2 of 4 epochs; ")
    (tmp_path / "run" / RECIPE).write_text("head = 3")
    assert "its recipe cannot be read" in why_unfinished(tmp_path / "run")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / LOCK).touch()
    assert why_unfinished(tmp_path / "new") == "has not begun"
    (tmp_path / "new" / "failure.json").write_text("[]")
    assert "is damaged" in why_unfinished(tmp_path / "new")


def test_a_reason_names_the_kind_and_the_place_of_what_was_not_written_for_users():
    assert reason(DataError("short\nand clear")) == "short\nand clear"
    assert reason(DataError("runs/a: is full"), Path("runs/a")) == "is full"  # its name stands beside it
    assert reason(DataError("runs/b: is full"), Path("runs/a")) == "runs/b: is full"
    try:
        _ = [][1]
    except IndexError as error:
        found = reason(error)
    assert found.startswith("IndexError: list index out of range (in test_owner.py, line ")
    assert reason(ValueError("never raised")) == "ValueError: never raised"


def die(run, number, epochs=0):
    """An attempt that ends with its process, after some more epochs."""

    def attempt():
        faulthandler.disable()  # of the tests: it prints what is as it should be
        with owned(run):
            with open(run / CURVES, "a") as curves:
                curves.write("{}\n" * epochs + "{")  # and half a line
            os.kill(os.getpid(), number)

    assert forks.fork(attempt).wait() == -number


def test_attempts_that_end_with_their_process_are_counted_until_an_epoch_is_done(tmp_path):
    run = tmp_path / "run"
    assert deaths(run) == 0
    die(run, signal.SIGKILL)
    assert deaths(run) == 1
    die(run, signal.SIGSEGV)
    assert deaths(run) == 2
    die(run, signal.SIGKILL, epochs=1)
    assert deaths(run) == 0
    die(run, signal.SIGKILL)
    assert deaths(run) == 1
    (run / BEGUN).write_text("{")
    assert deaths(run) == 1


def test_a_run_in_which_processes_die_is_passed_over_once(tmp_path):
    run = tmp_path / "run"
    die(run, signal.SIGKILL)
    die(run, signal.SIGKILL)
    with owned(run, 3):
        assert (run / BEGUN).exists()
    die(run, signal.SIGKILL)
    die(run, signal.SIGKILL)
    with pytest.raises(DataError, match="died 2 times without finishing an epoch"), owned(run, 2):
        pytest.fail("it was trained")
    assert "died 2 times" in last_failure(run)["error"]
    with owned(run, 2):
        pass
    with owned(run):  # somebody who insists
        pass


@pytest.mark.parametrize("error", [DataError("x"), Interrupted("x"), KeyboardInterrupt()])
def test_an_attempt_that_ends_in_order_is_no_death(tmp_path, error):
    with pytest.raises(type(error)), owned(tmp_path / "run"):
        raise error
    assert not (tmp_path / "run" / BEGUN).exists()
    assert deaths(tmp_path / "run") == 0
