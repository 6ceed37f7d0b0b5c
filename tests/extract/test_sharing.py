"""The same command started several times at once: the work is shared, whatever becomes of one of them."""

import os
import signal
import time
from functools import partial

import pytest

from helpers.dataset import barcode_record
from helpers.forks import fork
from helpers.jobs import run, tree
from mambavl.cache import fsops
from mambavl.cache.verify import verify
from mambavl.extract import clips
from mambavl.extract.encoders import registry

ROWS = 20
LOOKS = 6000  # of 0.01 s each, that a process waits for the others


@pytest.fixture(autouse=True)
def units_of_a_row(monkeypatch):
    monkeypatch.setattr(clips, "UNIT_ROWS", 1)


def one_by_one(dataset, out):
    return run(dataset, out, rows_per_group=1, batch_rows=1, readers=1)


class Encoded:
    """Keeps a line for each row that any process encodes. Nobody goes on before so many have begun."""

    def __init__(self, folder, processes):
        self.file, self.processes = folder / "encoded", processes
        self.mine = 0
        self.victim = folder / "victim"

    def __call__(self, cells):
        if len(cells) == 1:  # no row: an encoder tries itself when it is built
            return cells
        with open(self.file, "a") as file:
            file.write(f"{os.getpid()}\n")
        self.mine += 1
        for _ in range(LOOKS):
            if len(set(self.lines())) == self.processes:
                break
            time.sleep(0.01)
        if self.mine == 2:
            self.die_if_first()
        return cells

    def die_if_first(self):
        """In a test that wants a victim, the first who comes to a second row."""
        if self.victim.exists():
            try:
                self.victim.unlink()
            except FileNotFoundError:
                return
            os.kill(os.getpid(), signal.SIGKILL)

    def lines(self):
        return self.file.read_text().split()


def codes_of(dataset, out, log, processes):
    """Exit codes of so many at once; one that is dead is not left lying about as if it lived."""
    children = [fork(partial(one_by_one, dataset, out), log, log) for _ in range(processes)]
    while None in [child.poll() for child in children]:
        time.sleep(0.01)
    return [child.wait() for child in children]


@pytest.fixture
def whole(dataset, tmp_path, monkeypatch):
    monkeypatch.setitem(registry.ENCODERS, "barcode", barcode_record())
    one_by_one(dataset, tmp_path / "whole.zarr")
    return tree(tmp_path / "whole.zarr")


def test_three_processes_make_every_row_group_once(dataset, tmp_path, monkeypatch, whole):
    encoded, log = Encoded(tmp_path, 3), tmp_path / "log"
    monkeypatch.setitem(registry.ENCODERS, "barcode", barcode_record(encoded))
    codes = codes_of(dataset, tmp_path / "v.zarr", log, 3)
    assert codes == [0, 0, 0], log.read_text()
    assert len(encoded.lines()) == ROWS
    assert len(set(encoded.lines())) == 3
    assert tree(tmp_path / "v.zarr") == whole
    assert verify(tmp_path / "v.zarr", deep=True) == []


def test_the_claims_of_one_that_is_killed_are_taken_over(dataset, tmp_path, monkeypatch, whole):
    encoded, log = Encoded(tmp_path, 3), tmp_path / "log"
    encoded.victim.touch()
    monkeypatch.setitem(registry.ENCODERS, "barcode", barcode_record(encoded))
    codes = codes_of(dataset, tmp_path / "v.zarr", log, 3)
    assert sorted(codes) == [-signal.SIGKILL, 0, 0], log.read_text()
    # again those that the victim had encoded and not yet recorded
    assert ROWS <= len(encoded.lines()) <= ROWS + 2
    assert tree(tmp_path / "v.zarr") == whole


def test_without_locks_work_is_done_twice_and_the_store_is_the_same(dataset, tmp_path, monkeypatch, whole):
    encoded, log = Encoded(tmp_path, 2), tmp_path / "log"
    monkeypatch.setitem(registry.ENCODERS, "barcode", barcode_record(encoded))
    monkeypatch.setattr(fsops, "lock", lambda path, **_: fsops.calls.open(path, os.O_RDWR | os.O_CREAT))
    codes = codes_of(dataset, tmp_path / "v.zarr", log, 2)
    assert codes == [0, 0], log.read_text()
    assert len(encoded.lines()) >= ROWS
    assert tree(tmp_path / "v.zarr") == whole
