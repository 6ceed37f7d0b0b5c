"""Extractions ended by signals at random moments, alone and beside others; each store finished by other
processes, under other settings of speed.
"""

import random
import shutil
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

from helpers.forks import Child, fork
from helpers.jobs import tree
from mambavl.configs.errors import Interrupted
from mambavl.extract.annotations import Annotations
from mambavl.extract.options import VideoExtraction
from mambavl.extract.video_job import extract_videos
from mambavl.terminal import stop_on_signal

STOPPED = 75  # exit code after a SIGTERM
GRACE = 60  # seconds that a process has to end after one, on a machine however busy


@dataclass(frozen=True)
class Extractions:
    """A data set, and the settings of the encoders that are run over it."""

    read: Annotations
    videos: Path
    encoders: tuple[dict[str, Any], ...]

    def run(self, outs: list[Path], **changes: Any) -> None:
        """As the command does it: SystemExit 75 after a signal."""
        jobs = [
            (out, VideoExtraction.model_validate({**settings, **changes}))
            for out, settings in zip(outs, self.encoders, strict=False)
        ]
        with stop_on_signal() as should_stop:
            try:
                extract_videos(self.read, self.videos, jobs, should_stop=should_stop)
            except Interrupted as stop:
                print(stop, file=sys.stderr)
                sys.exit(STOPPED)


@dataclass
class Kills:
    """What came of them."""

    ended: Counter[str] = field(default_factory=Counter)  # processes ended by SIGKILL, by SIGTERM
    stores: int = 0
    shared: int = 0  # stores that were finished by several processes
    wrong: list[str] = field(default_factory=list)


class _Loop:
    def __init__(self, work: Extractions, folder: Path, seed: int) -> None:
        self.work, self.folder = work, folder
        self.dice = random.Random(seed)
        self.found = Kills()
        self.log = folder / "log"
        whole = [folder / f"whole-{number}.zarr" for number in range(len(work.encoders))]
        since = time.monotonic()
        assert self.start(whole, readers=1).wait() == 0, self.log.read_text()
        self.seconds = time.monotonic() - since
        self.expected = [tree(out) for out in whole]

    def start(self, outs: list[Path], **changes: Any) -> Child:
        return fork(lambda: self.work.run(outs, **changes), self.log, self.log)

    def crew(self, outs: list[Path]) -> list[Child]:
        """One to three processes on the same stores, each with threads and room of its own."""
        number = self.dice.randint(1, 3)
        return [
            self.start(outs, readers=self.dice.randint(1, 4), read_ahead_mb=self.dice.choice([8, 64, 2048]))
            for _ in range(number)
        ]

    def end(self, child: Child, number: signal.Signals) -> None:
        """End one at some moment; one that was done before is not counted."""
        time.sleep(self.dice.uniform(0, self.seconds))
        child.send_signal(number)
        if number == signal.SIGKILL:
            self.found.ended["SIGKILL"] += child.wait() == -signal.SIGKILL
            return
        ends = time.monotonic() + GRACE
        while child.poll() is None and time.monotonic() < ends:
            time.sleep(0.01)
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
            self.found.wrong.append(f"{GRACE} s after SIGTERM it was not over")
        elif child.wait() == STOPPED:
            self.found.ended["SIGTERM"] += 1
        elif child.wait() not in (0, -signal.SIGTERM):  # it was done, or had not begun to listen
            self.found.wrong.append(f"ended with {child.wait()} after SIGTERM")

    def one_store(self, kinds: "cycle[signal.Signals]") -> None:
        number = self.found.stores
        outs = [
            self.folder / f"{number}-{encoder}.zarr" for encoder in range(1 + number % len(self.expected))
        ]
        self.log.write_text("")
        codes: list[int] = []
        for _ in range(self.dice.randint(1, 2)):
            crew = self.crew(outs)
            victims = self.dice.sample(crew, self.dice.randint(1, len(crew)))
            for child in victims:
                self.end(child, next(kinds))
            codes += [child.wait() for child in crew if child not in victims]
        crew = self.crew(outs)
        codes += [child.wait() for child in crew]
        self.found.stores += 1
        self.found.shared += len(crew) > 1
        if any(codes):
            self.found.wrong.append(f"{number}: ended with {codes}: {self.log.read_text()}")
        for out, expected in zip(outs, self.expected, strict=False):
            found = tree(out)
            if found != expected:
                others = [name for name in found.keys() | expected if found.get(name) != expected.get(name)]
                self.found.wrong.append(f"{out.name}: other bytes: {others}")
            shutil.rmtree(out)


def kill_extractions(work: Extractions, folder: Path, kills: int, seed: int) -> Kills:
    """At least `kills` processes ended by signals, half of them by SIGKILL, half by SIGTERM."""
    loop, kinds = _Loop(work, folder, seed), cycle([signal.SIGKILL, signal.SIGTERM])
    ended = loop.found.ended
    while min(ended["SIGKILL"], ended["SIGTERM"]) < kills / 2 and loop.found.stores < 10 * kills:
        loop.one_store(kinds)
    return loop.found
