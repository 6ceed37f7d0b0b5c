"""Readers that hang and crash, as some files make decoders do; in another process, too."""

import faulthandler
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from mambavl.configs.errors import SystemFault
from mambavl.extract import watch
from mambavl.extract.watch import OPENING


@dataclass(frozen=True)
class Losing:
    """Rows by narration_id -> what becomes of the reader there: `crash`, `hang`, `work` (on the way to a
    frame), `disk` (which does not answer for longer than a decoder may be silent), `fault` or, with `once-`
    before it, the first time only. A clip is the row's narration_id, or why it failed.
    """

    folder: Path  # for a file a time that something was tried
    rows: dict[str, str] = field(default_factory=dict)
    videos: dict[str, str] = field(default_factory=dict)  # the same at opening a video
    slow: float = 0.0  # seconds that a disk does not answer
    opens: bool = True  # a reader can be opened

    def open(self, at):
        if not self.opens:
            raise SystemFault("the boxes are away")
        return LosingReader(self, at)

    def failed(self, rows, status, reason):
        return [[f"{status}: {reason}" for _ in rows]]

    def tried(self, name):
        return len(list(self.folder.glob(f"{name}-*")))


class LosingReader:
    def __init__(self, losing, at):
        self.losing, self.at, self.seconds = losing, at, {}

    def read(self, rows):
        clips = []
        for row in rows:
            self.at.now(row.video_id, OPENING)
            self.do(row.video_id, self.losing.videos.get(row.video_id, ""))
            self.at.now(row.video_id, f"frame of {row.narration_id}")
            self.do(row.narration_id, self.losing.rows.get(row.narration_id, ""))
            clips.append(row.narration_id)
        return [clips]

    def do(self, name, deed):
        number = self.losing.tried(name)
        (self.losing.folder / f"{name}-{number}-{os.getpid()}").touch()
        deed, before = deed.removeprefix("once-"), number if deed.startswith("once-") else 0
        if before:
            return
        if deed == "crash":
            faulthandler.disable()
            os.kill(os.getpid(), signal.SIGSEGV)
        elif deed == "hang":
            while True:
                time.sleep(1)
        elif deed == "work":  # frames on which the wanted one hangs
            ends = time.monotonic() + self.losing.slow
            while time.monotonic() < ends:
                time.sleep(0.1)
                watch.alive()
        elif deed == "disk":
            with watch.disk():
                time.sleep(self.losing.slow)
        elif deed == "fault":
            raise SystemFault("the disk is away")

    def close(self):
        pass


@dataclass(frozen=True)
class Unborn(Losing):
    """Ends the process that it is sent to before that can read."""

    def __setstate__(self, state):
        os._exit(3)
