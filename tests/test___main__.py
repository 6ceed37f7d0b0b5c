"""One program under every launcher, and what a signal does to it at any moment."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from helpers.cli import call
from helpers.forks import fork, mambavl, module, run
from helpers.paths import ROOT
from mambavl.cache.writer import StoreWriter


def shell(*words: object, cwd=None, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mambavl", *map(str, words)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        check=False,
    )


def test_the_same_program_under_every_name(road):
    assert shell("--version").stdout.startswith("mambavl 0.")
    done = run(mambavl("train", "nothing.toml"))
    assert done.returncode == 2
    assert "mambavl: nothing.toml: no such recipe file" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("given", "asked"), [({}, "1"), ({"THP_MEM_ALLOC_ENABLE": "0"}, "0")])
def test_torch_is_asked_for_large_pages_unless_somebody_said_no(given, asked, monkeypatch):
    from mambavl import __main__
    from mambavl.cli import app

    environment: dict[str, str] = dict(given)
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(app, "run", lambda: 0)
    with pytest.raises(SystemExit, match="0"):
        __main__.main()
    assert environment["THP_MEM_ALLOC_ENABLE"] == asked


EDITABLE = """
import sys
from importlib.machinery import PathFinder


class Editable:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "mambavl" and name.count(".") < 2:
            return PathFinder.find_spec(name, [{root!r} if name == "mambavl" else {root!r} + "/mambavl"])


sys.meta_path.insert(sys.meta_path.index(PathFinder) + 1, Editable)
"""


def test_the_folder_that_holds_a_checkout_does_not_shadow_the_package(tmp_path):
    """A clone is called mambavl, and its folder is a namespace of that name to who stands next to it, which
    comes before what `pip install -e` adds. Not even another clone may lend its modules.
    """
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(EDITABLE.format(root=str(ROOT)))
    for package in ("cache", "configs", "extract", "fuse", "mambavl"):
        (tmp_path / "mambavl" / package).mkdir(parents=True)
        (tmp_path / "mambavl" / package / "__init__.py").write_text("raise SystemExit('of another clone')")
    here = {"cwd": tmp_path, "PYTHONPATH": str(tmp_path / "site")}
    for words, said in (
        (("--version",), "mambavl 0."),
        (("settings", "extract.video"), "sampling.rule"),
        (("cache", "info", "nothing.zarr"), "nothing.zarr: no such store"),
    ):
        done = shell(*words, **here)
        assert said in done.stdout + done.stderr, done.stderr


def test_one_process_under_accelerate_and_two_under_torchrun_learn_the_same(road):
    """Two processes share each global batch between them, so the learned weights agree to rounding. torchrun
    says nothing of CPUs: without a GPU its processes find each other all the same.
    """
    accelerate = ("accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1",
                  "--mixed_precision", "no", "--dynamo_backend", "no")  # fmt: skip
    torchrun = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    started = {}
    for processes, launcher in ((1, accelerate), (2, torchrun)):
        command = (*launcher, "-m", "mambavl", "train", road / "mine.toml")
        command += ("--out", road / f"launched{processes}")
        command += ("--set", "head.dropout=0.0", "--set", "train.batch_size=9")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        environment.pop("ACCELERATE_USE_CPU", None)
        log = road / f"launched{processes}.log"
        started[processes] = fork(module(*command), log, log, environment)
    learned, losses = {}, {}
    for processes, child in started.items():
        out = road / f"launched{processes}"
        assert child.wait() == 0, (road / f"{out.name}.log").read_text()[-3000:]
        assert json.loads((out / "result.json").read_text())["trained"]["processes"] == processes
        learned[processes] = load_file(out / "model.safetensors")
        curves = (out / "curves.jsonl").read_text().splitlines()
        losses[processes] = [json.loads(line)["loss"] for line in curves]
    for name, value in learned[1].items():
        torch.testing.assert_close(learned[2][name], value, rtol=2e-3, atol=2e-4)
    assert losses[2] == pytest.approx(losses[1], rel=1e-4)


def start_loading(words, log):
    """A new interpreter that says in its log what it has imported; returned when it has hardly begun."""
    with open(log, "w") as file:
        command = [sys.executable, "-X", "importtime", "-m", "mambavl", *map(str, words)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file)
    while not re.search(r"\| +numpy$", log.read_text(), re.MULTILINE) and process.poll() is None:
        time.sleep(0.05)
    return process


def start_working(words, log, signalled):
    """The command in a process that need load nothing; returned when it has written its second row group, in
    which it stays until there is a file `signalled`.
    """

    def deed():
        commit = StoreWriter.commit

        def hold(self, index, group):
            size = commit(self, index, group)
            while index == 1 and not signalled.exists():
                time.sleep(0.01)
            return size

        StoreWriter.commit = hold
        mambavl(*words)()

    child = fork(deed, log, log)
    while not (words[words.index("--out") + 1] / "frame/c.1.0.0.0").exists() and child.poll() is None:
        time.sleep(0.01)
    return child


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["loading", "working"])
def test_a_signal_at_any_moment_ends_with_75_and_the_command_resumes(road, tmp_path, number, moment):
    words = (
        *("extract", "video", "--annotations", road / "annotations", "--videos", road / "videos"),
        *("--encoder", "timm:test_vit", "--weights", "random", "--out", tmp_path / "v.zarr"),
        *("--set", "rows_per_group=1", "--set", "batch_rows=1", "--set", "sampling.frames=2"),
    )
    log = tmp_path / "log"
    if moment == "loading":
        process = start_loading(words, log)
    else:
        process = start_working(words, log, tmp_path / "signalled")
    process.send_signal(number)
    (tmp_path / "signalled").touch()
    assert process.wait() == 75, log.read_text()[-2000:]
    assert "Traceback" not in log.read_text()
    assert call(*words) == 0
    assert call("cache", "verify", "--deep", tmp_path / "v.zarr") == 0
