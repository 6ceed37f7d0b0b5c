"""The program itself, as a shell starts it: killed, stopped, and with decoders that crash and hang."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from helpers.own import PLAIN
from mambavl.cache import open_store
from mambavl.cache.spec import MANIFEST, SPEC

LONG = 120  # seconds that a test waits for what must come
CHECKOUT = Path(__file__).parents[2]
# A decoder that fails at frame 10 of P01_102, which one row alone shows: `deed` says how.
FAILING = """
import importlib.abc, importlib.util, os, signal, sys, time


def fail(folder, deed):
    with open(os.path.join(folder, "failed"), "a") as file:
        file.write("x")
    if deed == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    while True:
        time.sleep(1)


class Hook(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "mambavl.extract.clips":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            begin = module.ClipReader.__init__

            def begin_and_fail(reader, reading, at):
                begin(reader, reading, at)
                now = at.now

                def now_or_never(video, place):
                    now(video, place)
                    if (video, place) == ("P01_102", "what follows frame 10"):
                        fail(FOLDER, DEED)

                at.now = now_or_never

            module.ClipReader.__init__ = begin_and_fail

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Hook())
"""
FAILS = "P01_102_0"


class Command:
    """`python -m mambavl extract video` over the data set, by an encoder of the user's own."""

    def __init__(self, dataset, folder):
        self.dataset, self.folder = dataset, folder
        (folder / "code").mkdir()
        (folder / "code" / "colours.py").write_text(PLAIN)
        self.log = folder / "log"

    def let_fail(self, deed):
        code = f"FOLDER, DEED = {str(self.folder)!r}, {deed!r}\n{FAILING}"
        (self.folder / "code" / "sitecustomize.py").write_text(code)

    def start(self, out, *sets):
        words = ["extract", "video", "--annotations", self.dataset / "annotations"]
        words += ["--videos", self.dataset / "videos", "--encoder", "colours:build", "--out", out]
        for each in ("rows_per_group=1", "batch_rows=1", "sampling.frames=4", "weights_state=random", *sets):
            words += ["--set", each]
        environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = f"{self.folder / 'code'}:{CHECKOUT}"
        with open(self.log, "a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "mambavl", *map(str, words)], stdout=log, stderr=log, env=environment
            )

    def run(self, out, *sets):
        return self.start(out, *sets).wait(LONG)


@pytest.fixture
def command(dataset, tmp_path):
    return Command(dataset, tmp_path)


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    """The store that it makes where nothing happens."""
    folder = tmp_path_factory.mktemp("whole")
    assert Command(dataset, folder).run(folder / "v.zarr", "readers=2") == 0
    return folder / "v.zarr"


def wait_for(path):
    ends = time.monotonic() + LONG
    while not path.exists():
        assert time.monotonic() < ends
        time.sleep(0.02)


def test_killed_at_random_moments_it_resumes_to_the_same_manifest(command, tmp_path, whole):
    dice, out = random.Random(0), tmp_path / "v.zarr"
    for number, code in ((signal.SIGTERM, 75), (signal.SIGKILL, -9), (signal.SIGKILL, -9)):
        process = command.start(out, f"readers={dice.randint(1, 4)}")
        wait_for(out / SPEC)  # of the first one: before, no process listens to a SIGTERM
        time.sleep(dice.uniform(0, 1))
        process.send_signal(number)
        # else it was done, and Python, which was ending, perhaps deaf
        assert process.wait(LONG) == code or (out / MANIFEST).exists()
    assert command.run(out) == 0
    assert (out / MANIFEST).read_bytes() == (whole / MANIFEST).read_bytes()


@pytest.mark.parametrize("deed", ["crash", "hang"])
def test_a_decoder_that_fails_costs_the_row_that_it_fails_at(command, tmp_path, whole, deed):
    command.let_fail(deed)
    out = tmp_path / "v.zarr"
    assert command.run(out, "decoder_timeout=5", "max_failed=1", "readers=2") == 0, command.log.read_text()
    # in a thread, with the rows beside it in a process of its own, and there alone
    assert (tmp_path / "failed").read_text() == "xxx"
    assert f"{FAILS}: damaged_frame: P01_102: the decoder " in command.log.read_text()
    expected, found = open_store(whole), open_store(out)
    others = [row for row, segment in enumerate(found.segments) if segment.narration_id != FAILS]
    assert len(others) == 19
    assert torch.equal(expected.batch(others, "frame")[0], found.batch(others, "frame")[0])


def test_the_first_sigterm_ends_it_while_a_decoder_hangs(command, tmp_path):
    command.let_fail("hang")
    process = command.start(tmp_path / "v.zarr", "readers=1")
    wait_for(tmp_path / "failed")
    process.send_signal(signal.SIGTERM)
    assert process.wait(LONG) == 75
