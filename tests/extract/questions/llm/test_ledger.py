"""The cache of replies: nothing that was paid for is lost or paid for twice, whatever ends the process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.llm_runs import ROWS, run
from helpers.llm_server import Running, running
from helpers.paths import TESTS
from mambavl.cache import fsops
from mambavl.configs.errors import DataError
from mambavl.extract.questions.llm.ledger import Ledger, open_ledger


def test_a_call_that_a_kill_left_open_counts_with_its_bound(server, tmp_path):
    with open_ledger(tmp_path) as ledger:
        ledger.send("key", 0.75)
    assert Ledger(tmp_path).spent == 0.75
    found = run(server, tmp_path, budget=0.7)
    assert found.tally.calls == 0
    assert len(found.written.failures) == 6


def test_a_second_process_on_one_cache_is_refused(server, tmp_path):
    with (
        open_ledger(tmp_path),
        pytest.raises(DataError, match="another process is using this cache"),
    ):
        run(server, tmp_path)
    assert not server.lines()
    assert not run(server, tmp_path).written.failures


def test_a_stray_file_in_the_cache_is_named(server, tmp_path):
    (tmp_path / "foo.journal").write_bytes(b"")
    with pytest.raises(DataError, match=r"foo\.journal: is not a journal of a cache of replies"):
        run(server, tmp_path)


def test_a_torn_journal_loses_its_last_record_only_and_is_named(server, tmp_path):
    run(server, tmp_path, rows=ROWS[:3])
    (first,) = tmp_path.glob("*.journal")
    whole = first.read_bytes()
    first.write_bytes(whole[:-5])
    found = run(server, tmp_path)
    assert found.tally.calls == 7  # 6 for three new rows, and the reply that was torn
    assert list(found.ledger.torn) == [first.name]
    assert first.read_bytes() == whole[:-5]  # what was paid for is never cut
    assert len(list(tmp_path.glob("*.journal"))) == 2


def test_a_full_disk_ends_the_run_before_anything_else_is_paid(server, tmp_path, monkeypatch):
    sent = []

    class Full(fsops.Calls):
        def write(self, descriptor, data):
            sent.append(1)
            if len(sent) > 4:
                raise OSError(28, "No space left on device")
            return super().write(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr(fsops, "calls", Full())
        with pytest.raises(DataError, match="the disk is full"):
            run(server, tmp_path, concurrency=1)
    assert len(server.lines()) == 2
    assert run(server, tmp_path).tally.calls == 12 - 2


def run_kills(server: Running, folder: Path, kills: int, seed: int, count) -> None:
    command = [
        sys.executable,
        "-m",
        "helpers.llm_kills",
        server.url,
        str(server.log),
        str(folder),
        str(kills),
        str(seed),
    ]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["killed"] >= kills
    assert not found["wrong"], found["wrong"]
    count("kills of a process that asks for questions", found["killed"])


@pytest.fixture
def own_server(tmp_path):
    """A server of the test's own: a killed process's last requests may come in late."""
    with running(tmp_path) as server:
        yield server


def test_killed_runs_resume_and_repay_at_most_what_was_under_way(own_server, tmp_path, count):
    run_kills(own_server, tmp_path / "runs", 8, 0, count)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_two_hundred_kills(own_server, tmp_path, count):
    run_kills(own_server, tmp_path / "runs", 200, 1, count)
