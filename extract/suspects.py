"""What was being read when a process died, and at which videos decoders were lost: both are read in a process
of their own from then on, where a decoder that crashes or hangs costs no more than its rows.

    commit/HOST-PID-xxxxxxxx.reading   the first row of what each thread of a living process reads
    commit/lost-decoders.jsonl         what all know, line by line: {"suspect": first row that a dead process
                                       was reading}, {"cleared": one that was read since}, {"video": of a
                                       decoder that hung or crashed}
"""

import json
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mambavl.cache import fsops
from mambavl.cache.layout import file_size
from mambavl.cache.rows import Segment
from mambavl.cache.spec import COMMIT

LOST = f"{COMMIT}/lost-decoders.jsonl"
READING = ".reading"
SLOT = 16  # bytes for each thread: a row number, or spaces


class Suspects:
    """Of one store, for one process; `begins`, `ends`, `cleared` and `lost` for any of its threads."""

    def __init__(self, store: Path, segments: Sequence[Segment], unit_rows: int) -> None:
        """segments: the rows of the store; unit_rows: how many of them are read at once."""
        self._store = Path(store)
        firsts = range(0, len(segments), unit_rows)
        self._units = {first: segments[first : first + unit_rows] for first in firsts}
        self._rows: set[int] = set()  # the first of what dead processes were reading
        self._videos: set[str] = set()  # at which a decoder was lost
        self._followed: int | None = None  # bytes of what was known when it was read last
        self._path, self._descriptor = self._begin()
        self._look(f"*{READING}")

    def _begin(self) -> tuple[Path, int]:
        """A file of this process, and its lock."""
        while True:
            name = f"{fsops.HOST}-{os.getpid()}-{uuid.uuid4().hex[:8]}{READING}"
            path = self._store / COMMIT / name
            descriptor = fsops.lock(path, exclusive=True, wait=True)
            if _is_file(descriptor, path):
                return path, descriptor
            fsops.unlock(descriptor)  # before it was locked, somebody took it for a dead one's

    def _look(self, pattern: str) -> None:
        """Learn what dead processes were reading, and what others have learnt."""
        for file in sorted((self._store / COMMIT).glob(pattern)):
            if file != self._path:
                self._take_over(file)
        self._follow()

    def _take_over(self, file: Path) -> None:
        """Make known what a dead process was reading."""
        held = fsops.lock(file, exclusive=True, wait=False)
        if held is None:  # it lives
            return
        try:
            said = file.read_bytes().replace(b"\0", b" ")  # of threads that never read: a hole in the file
            self._say(*({"suspect": first} for first in map(int, said.split()) if first in self._units))
            fsops.remove(file)
        finally:
            fsops.unlock(held)

    def _follow(self) -> None:
        file = self._store / LOST
        if (size := file_size(file)) in (None, self._followed):
            return
        self._followed = size
        self._rows = set()
        for line in file.read_text(errors="replace").splitlines():
            match _parsed(line):
                case {"video": str(video)}:
                    self._videos.add(video)
                case {"suspect": int(first)} if first in self._units:
                    self._rows.add(first)
                case {"cleared": int(first)}:
                    self._rows.discard(first)

    def _say(self, *known: dict[str, Any]) -> None:
        """Make something known to all."""
        if known:
            file = self._store / LOST
            torn = file.exists() and not file.read_bytes().endswith(b"\n")  # by a kill
            lines = "".join(f"{json.dumps(each)}\n" for each in known)
            fsops.append(file, (b"\n" if torn else b"") + lines.encode())

    def begins(self, thread: int, first: int) -> None:
        """A thread reads rows from `first` on."""
        fsops.note(self._path, self._descriptor, thread * SLOT, f"{first:<{SLOT}}".encode())

    def ends(self, thread: int) -> None:
        fsops.note(self._path, self._descriptor, thread * SLOT, b" " * SLOT)

    def holds(self, first: int) -> bool:
        """Whether rows, from the number `first` on, are to be read in a process of their own: those of videos
        that a dead process was reading, as long as it is not known that they were not to blame.
        """
        self._look(f"{fsops.HOST}-*{READING}")  # whoever shares the work may have died meanwhile
        if not (self._rows or self._videos):
            return False
        doubted = {row.video_id for other in self._rows for row in self._units[other]}
        return any(row.video_id in doubted | self._videos for row in self._units[first])

    def cleared(self, first: int) -> None:
        """Rows from `first` on were read, and nothing happened."""
        if first in self._rows:
            self._say({"cleared": first})

    def lost(self, video_id: str) -> None:
        """A decoder hung or crashed at a video."""
        if video_id not in self._videos:
            self._videos.add(video_id)
            self._say({"video": video_id})

    def close(self) -> None:
        fsops.remove(self._path)
        fsops.unlock(self._descriptor)


def _is_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _parsed(line: str) -> object:
    try:
        return json.loads(line)
    except ValueError:  # torn by a kill
        return None
