"""Processes that decide together: one value or one error for all, and no one is left waiting."""

from pathlib import Path

import pytest
import torch

from helpers.group import start_group, wait_for_group
from mambavl.configs.errors import DataError, UsageError
from mambavl.fuse.owner import RunHeld
from mambavl.fuse.processes import Processes


def fail_on(rank, processes, error):
    if processes.index == rank:
        raise error
    return processes.index


def decide():
    """What each process of two finds; run in all of them."""
    processes = Processes()
    assert processes.count == 2
    assert processes.once(lambda: processes.index) == 0
    assert processes.every(lambda: processes.index) == processes.index
    assert processes.sum([1.0, float(processes.index)]) == [2.0, 1.0]
    assert processes.total(torch.tensor(1.5 + processes.index)).item() == 4.0
    assert processes.any(processes.index == 1)
    assert not processes.any(False)
    assert processes.step(lambda: processes.index, stop=False) == processes.index
    assert processes.step(lambda: processes.index, stop=processes.index == 1) is None
    with pytest.raises(RunHeld, match="run: mine works on this run"):
        processes.once(lambda: fail_on(0, processes, RunHeld(Path("run"), "mine")))
    assert (
        processes.once(lambda: fail_on(1, processes, RunHeld(Path("run"), "mine"))) == 0
    )  # never called there
    for together in (processes.every, lambda deed: processes.step(deed, stop=False)):
        for rank in (0, 1):
            deed = lambda rank=rank: fail_on(rank, processes, MemoryError("no room"))
            with pytest.raises(DataError, match="MemoryError: no room"):
                together(deed)
    assert processes.every(lambda: "still together") == "still together"


def test_two_processes_find_the_same(tmp_path):
    codes = wait_for_group(start_group(decide, tmp_path))
    assert codes == [0, 0], "".join(path.read_text() for path in tmp_path.glob("rank-*.log"))


def test_alone_an_error_is_what_it_was(tmp_path):
    processes = Processes()
    for way in (processes.once, processes.every, lambda deed: processes.step(deed, stop=False)):
        assert way(lambda: 3) == 3
        with pytest.raises(MemoryError):
            way(lambda: fail_on(0, processes, MemoryError("no room")))
    assert processes.step(lambda: pytest.fail("is not done when stopping"), stop=True) is None
    assert processes.sum([2.0]) == [2.0]
    assert processes.total(torch.tensor(2.5)).item() == 2.5


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        (
            "ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
            "4",
            "as many parts as train.accumulate says; unset",
        ),
        ("WORLD_SIZE", "2", "RANK is not set: no launcher has started this process"),
        ("WORLD_SIZE", "two", "WORLD_SIZE=two: expected a number of processes"),
    ],
)
def test_an_environment_that_cannot_be_meant_is_refused(monkeypatch, variable, value, says):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match=says):
        Processes()


def test_a_process_that_is_left_alone_is_refused(monkeypatch):
    """As where Accelerate knows no way to group processes on a device: each would train a whole run."""
    Processes()  # a group of one, which Accelerate keeps
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UsageError, match=r"WORLD_SIZE=2, but 1 process is in the group .*ACCELERATE_USE_CPU"):
        Processes()


def test_a_group_is_left_before_the_process_ends(tmp_path):
    """Its threads would abort the process otherwise, now and then, and the exit code would be lost."""

    def member() -> None:
        handlers = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("atexit.register", handlers.append)
            Processes()
        [leave] = handlers
        leave()
        assert not torch.distributed.is_initialized()
        leave()  # nothing is left to leave

    assert wait_for_group(start_group(member, tmp_path)) == [0, 0], (tmp_path / "rank-0.log").read_text()
