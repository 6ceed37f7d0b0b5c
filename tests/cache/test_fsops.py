"""Files put in place whole or not at all; what faults of the disk say is in test_faults."""

import os
import subprocess
import sys

import pytest

from helpers.tiny import make_dense_store
from mambavl.cache import fsops


def test_a_starting_writer_leaves_a_living_writers_files_alone_and_sweeps_a_dead_ones(tmp_path):
    make_dense_store(tmp_path / "s.zarr")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    files = {
        pid: tmp_path / "s.zarr" / f".partial-{fsops.HOST}-{pid}-abc-x" for pid in (os.getpid(), dead.pid)
    }
    for file in files.values():
        file.write_bytes(b"half")
    assert fsops.sweep_temporaries(tmp_path / "s.zarr") == 1
    assert files[os.getpid()].exists()
    assert not files[dead.pid].exists()


def test_a_file_written_aside_appears_whole_and_replaces_the_old_one(tmp_path):
    (tmp_path / "f").write_text("old")
    with fsops.written_aside(tmp_path / "f") as aside:
        aside.write_text("new")
        assert (tmp_path / "f").read_text() == "old"
        assert [path for path, _ in fsops.temporaries(tmp_path)] == [aside]
    assert (tmp_path / "f").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "f").write_text("old")

    def fail():
        with fsops.written_aside(tmp_path / "f") as aside:
            aside.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert (tmp_path / "f").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_file_written_aside_is_synced_before_it_is_put_in_place(tmp_path, monkeypatch):
    deeds = []

    class Recorded(fsops.Calls):
        def fsync(self, descriptor):
            deeds.append("fsync")
            super().fsync(descriptor)

        def replace(self, source, target):
            deeds.append("replace")
            super().replace(source, target)

    monkeypatch.setattr(fsops, "calls", Recorded())
    with fsops.written_aside(tmp_path / "f") as aside:
        aside.write_text("new")
    assert deeds == ["fsync", "replace", "fsync"]  # the file, its new name, the folder


def test_an_exclusive_lock_keeps_everybody_else_out_and_a_shared_one_does_not(tmp_path):
    first = fsops.lock(tmp_path / "lock", exclusive=False, wait=True)
    second = fsops.lock(tmp_path / "lock", exclusive=False, wait=False)
    assert second is not None
    assert fsops.lock(tmp_path / "lock", exclusive=True, wait=False) is None
    fsops.unlock(first)
    fsops.unlock(second)
    alone = fsops.lock(tmp_path / "lock", exclusive=True, wait=False)
    assert alone is not None
    assert fsops.lock(tmp_path / "lock", exclusive=False, wait=False) is None
    fsops.unlock(alone)


def test_a_lock_is_signed_by_its_holder_and_a_longer_signature_leaves_nothing_behind(tmp_path):
    for data in (b"a long one", b"short"):
        held = fsops.lock(tmp_path / "lock", exclusive=True, wait=False)
        fsops.sign(tmp_path / "lock", held, data)
        assert (tmp_path / "lock").read_bytes() == data
        fsops.unlock(held)
