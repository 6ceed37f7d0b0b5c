"""The self-test passes on a file system that keeps the promises, fails on one that does not, and leaves
nothing behind.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from helpers.forks import fork, mambavl, run

KILLS = 200


@pytest.fixture
def place(tmp_path):
    """In memory where there is such a folder: 200 writers are killed."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def selftest(folder, *words, before=""):
    """`mambavl cache selftest FOLDER WORDS` in a process of its own, in which the code `before` ran first."""
    command = mambavl("cache", "selftest", folder, *words)

    def deed():
        exec(before, {})
        command()

    return run(deed)


def test_writers_killed_at_random_moments_lose_nothing(place, count):
    # a new process, not a fork: it forks 200 times itself, which costs more the more it has imported
    command = [sys.executable, "-m", "mambavl", "cache", "selftest", str(place), "--kills", str(KILLS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    killed, stores = map(
        int, re.search(r"kill -9: (\d+) writers killed at random moments; (\d+) stores", done.stdout).groups()
    )
    assert killed == KILLS
    assert "two writers: on the same row groups and on shared ones: nothing lost" in done.stdout
    assert list(place.iterdir()) == []
    count("store writers killed with SIGKILL", killed)
    count("stores finished to the same bytes after kills", stores)


RECORD_FIRST = """
import time
from mambavl.cache import fsops, journal
write_file, append, waiting = fsops.write_file, journal.append, []

def put_off(path, *pieces):
    if path.name.startswith("c."):
        waiting.append((path, *map(bytes, pieces)))
    else:
        write_file(path, *pieces)

def record_first(path, record):
    append(path, record)
    for file, *pieces in waiting:
        with open(file, "wb", buffering=0) as opened:
            opened.truncate(sum(map(len, pieces)))
            time.sleep(0.002)
            opened.write(b"".join(pieces))
    waiting.clear()

fsops.write_file, journal.append = put_off, record_first
"""
NO_LOCKS = "import fcntl\nfcntl.flock = lambda *_: None"


def test_a_writer_without_the_protocol_fails(place):
    """Record before data, and data in place: a kill in between leaves zeros that count as done. Most of
    such a writer's time goes by in between, so that one of forty kills at random moments meets it.
    """
    done = selftest(place, "--kills", 40, before=RECORD_FIRST)
    assert done.returncode == 1, done.stdout
    assert "FAILED kill -9: store" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert list(place.iterdir()) == []


def test_a_file_system_without_locks_is_named(tmp_path):
    done = selftest(tmp_path, "--kills", 1, before=NO_LOCKS)
    assert "FAILED locks: not kept here" in done.stdout


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    done = selftest(tmp_path / "file")
    assert done.returncode == 1
    assert "could not be created" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_is_not_there_is_refused_and_not_made(tmp_path):
    done = selftest(tmp_path / "nosuch")
    assert done.returncode == 2
    assert "nosuch: there is no such folder" in done.stderr
    assert not (tmp_path / "nosuch").exists()


def test_an_interrupted_selftest_leaves_nothing_behind(tmp_path):
    place, log = tmp_path / "place", tmp_path / "log"
    place.mkdir()
    child = fork(mambavl("cache", "selftest", place, "--kills", 100_000), log, log)
    while not list(place.glob("*/killed-*")) and child.poll() is None:
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    assert child.wait() == 75, log.read_text()
    assert list(place.iterdir()) == []
