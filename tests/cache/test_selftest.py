"""The self-test passes on a file system that keeps the promises, fails on one that does not, and leaves
nothing behind.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

KILLS = 200


@pytest.fixture
def place(tmp_path):
    """In memory where there is such a folder: 200 writers are killed."""
    return Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else tmp_path


def selftest(folder, *words, before=""):
    code = f"{before}\nimport sys\nfrom mambavl.__main__ import main\nsys.argv = ['mambavl', *sys.argv[1:]]\nmain()"
    command = [sys.executable, "-c", code, "cache", "selftest", str(folder), *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )


def test_writers_killed_at_random_moments_lose_nothing(place, count):
    before = set(place.iterdir())
    done = selftest(place, "--kills", KILLS)
    assert done.returncode == 0, done.stdout + done.stderr
    killed, stores = map(
        int, re.search(r"kill -9: (\d+) writers killed at random moments; (\d+) stores", done.stdout).groups()
    )
    assert killed == KILLS
    assert "two writers: on the same row groups and on shared ones: nothing lost" in done.stdout
    assert {entry for entry in place.iterdir() if entry.name.startswith("mambavl-selftest")} <= before
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
            time.sleep(0.0005)
            opened.write(b"".join(pieces))
    waiting.clear()

fsops.write_file, journal.append = put_off, record_first
"""
NO_LOCKS = "import fcntl\nfcntl.flock = lambda *_: None"


def test_a_writer_without_the_protocol_fails(tmp_path):
    """Record before data, and data in place: a kill in between leaves zeros that count as done."""
    done = selftest(tmp_path, "--kills", 150, before=RECORD_FIRST)  # random moments: 40 once missed it
    assert done.returncode == 1, done.stdout
    assert "FAILED kill -9: store" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks_is_named(tmp_path):
    done = selftest(tmp_path, "--kills", 1, before=NO_LOCKS)
    assert "FAILED locks: not kept here" in done.stdout


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    done = selftest(tmp_path / "file")
    assert done.returncode == 1
    assert "could not be created" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_interrupted_selftest_leaves_nothing_behind(tmp_path):
    words = [sys.executable, "-m", "mambavl", "cache", "selftest", str(tmp_path), "--kills", "100000"]
    process = subprocess.Popen(
        words, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*/killed-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 75, process.stderr.read()
    process.stderr.close()
    assert list(tmp_path.iterdir()) == []
