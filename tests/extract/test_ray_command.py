"""The command over a Ray cluster: every kind of extraction, failures, and a command that is killed. Each
store is that of one process.
"""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.cli import call
from helpers.dataset import make_dataset
from helpers.jobs import tree
from helpers.own import GOOD
from helpers.sounds import ramp, save_audio, write_sound

pytestmark = [pytest.mark.soak, pytest.mark.timeout(300)]
MOODY = (
    GOOD
    + """
import os
import time
from pathlib import Path


class Moody(Tubelets):
    def tokens(self, video):
        found = super().tokens(video)
        if video.shape[2] != 2:  # it is tried when it is built
            return found
        hangs = Path("hangs")
        if hangs.exists() and any(Path(hangs.read_text(), "commit").glob("*.journal")):
            with open("hung", "a") as hung:
                hung.write(f"{os.getpid()} ")
            while True:
                time.sleep(0.1)
        return found * float("nan") if Path("spoils").exists() else found


def moody(weights=None, image_size=32):
    torch.manual_seed(0)
    return Moody(image_size)
"""
)
SETS = ("--set", "rows_per_group=2", "--set", "readers=1")
VIDEO = ("extract", "video", "--annotations", "annotations", "--videos", "videos", "--encoder", "moody:moody")
VIDEO += ("--set", "sampling.frames=2", *SETS)
RAY = ("--engine", "ray")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Twenty rows of four videos with sound, an encoder of sound, and one of video. It hangs as soon as a row
    group is done of the store that a file `hangs` names, and gives NaN while there is a file `spoils`.
    """
    found = make_dataset(tmp_path_factory.mktemp("data"))
    for video in (found / "videos/P01/videos").iterdir():
        write_sound(video, ramp())
    save_audio(found / "hubert", "hubert")
    (found / "moody.py").write_text(MOODY)
    return found


@pytest.fixture(autouse=True)
def here(folder, monkeypatch):
    """The command is begun there, and its workers find the encoder."""
    monkeypatch.syspath_prepend(folder)
    monkeypatch.chdir(folder)


@pytest.fixture(scope="module")
def serial(folder):
    """The files of the video store that one process makes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.chdir(folder)
        assert call(*VIDEO, "--out", "serial.zarr") == 0
    return tree(folder / "serial.zarr")


def test_sounds(cluster, folder):
    words = ("extract", "audio", "--annotations", "annotations", "--videos", "videos")
    words += ("--encoder", "audio:hubert", "--set", "steps=4", *SETS)
    assert call(*words, "--out", "heard.zarr") == 0
    assert call(*words, "--out", "r-heard.zarr", *RAY) == 0
    assert tree(folder / "r-heard.zarr") == tree(folder / "heard.zarr")


def test_windows_over_whole_videos_for_two_encoders(cluster, folder, capfd):
    words = ("extract", "dense", "--videos", "videos", "--window", "1.5s", "--stride", "0.5s")
    words += ("--encoder", "moody:moody", "--encoder", "moody:moody", "--set", "2:levels=clip")
    words += ("--set", "sampling.frames=2", *SETS)
    assert call(*words, "--out", "d.zarr", "--out", "e.zarr") == 0
    capfd.readouterr()
    assert call(*words, "--out", "r-d.zarr", "--out", "r-e.zarr", *RAY) == 0
    said = capfd.readouterr().out
    assert said.count("wrote 40 rows") == 2  # of each 6 s those from 0, 0.5, ..., 4.5
    assert said.count("busy: ") == 1
    for store in ("d.zarr", "e.zarr"):
        assert tree(folder / f"r-{store}") == tree(folder / store)


def test_too_many_failures_end_it_and_failed_rows_are_tried_again(cluster, node, folder, serial, capfd):
    words = (*VIDEO, "--out", "failed.zarr", *RAY)
    (folder / "spoils").touch()
    assert call(*words) == 1
    said = capfd.readouterr().err
    assert "rows failed, but max_failed is 0 (--set max_failed=N allows N)" in said
    assert "P01_101_0: nonfinite_features: " in said
    assert not (folder / "failed.zarr" / "manifest.json").exists()
    assert call(*words, "--set", "max_failed=20") == 0
    (folder / "spoils").unlink()
    assert "rows without features: 20" in capfd.readouterr().out
    assert call(*words) == 1  # none of them may fail
    assert "20 rows failed, but max_failed is 0" in capfd.readouterr().err
    assert call(*words, "--retry-failed") == 0
    assert "wrote 20 rows" in capfd.readouterr().out
    assert tree(folder / "failed.zarr") == serial


def test_a_command_that_is_killed_leaves_no_worker_and_the_same_command_goes_on(cluster, folder, serial):
    words = (*VIDEO, "--out", "killed.zarr", *RAY)
    (folder / "hangs").write_text("killed.zarr")
    with subprocess.Popen([sys.executable, "-m", "mambavl", *words]) as command:
        while not (folder / "hung").exists():
            assert command.poll() is None
            time.sleep(0.1)
        command.kill()
    while any(Path("/proc", worker).exists() for worker in (folder / "hung").read_text().split()):
        time.sleep(0.1)
    (folder / "hangs").unlink()
    assert not (folder / "killed.zarr" / "manifest.json").exists()
    assert call(*words) == 0
    assert tree(folder / "killed.zarr") == serial
