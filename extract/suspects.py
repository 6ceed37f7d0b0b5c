"""What was being read when a process died, and at which videos decoders were lost: both are read in a process
of their own from then on, where a decoder that crashes or hangs costs no more than its rows.

    commit/HOST-PID-xxxxxxxx.reading   the first row of what each thread of a living process reads
    commit/lost-decoders.jsonl         videos at which a decoder hung or crashed, one a line
"""

import json
import os
import uuid
from collections.abc import Sequence
from pathlib import Path

from mambavl.cache import fsops
from mambavl.cache.rows import Segment
from mambavl.cache.spec import COMMIT

LOST = f"{COMMIT}/lost-decoders.jsonl"
SLOT = 16  # bytes for each thread: a row number, or spaces


class Suspects:
    """Of one store, for one process; `begins` and `ends` for any of its threads."""

    def __init__(self, store: Path, segments: Sequence[Segment], unit_rows: int) -> None:
        """segments: the rows of the store; unit_rows: how many of them are read at once."""
        self._store = Path(store)
        firsts = range(0, len(segments), unit_rows)
        self._units = {first: segments[first : first + unit_rows] for first in firsts}
        self._rows: set[int] = set()  # the first of what dead processes were reading
        for file in sorted((self._store / COMMIT).glob("*.reading")):
            self._take_over(file)
        self._videos = _lost_videos(self._store / LOST)
        name = f"{fsops.HOST}-{os.getpid()}-{uuid.uuid4().hex[:8]}.reading"
        self._path = self._store / COMMIT / name
        self._descriptor = fsops.lock(self._path, exclusive=True, wait=True)

    def _take_over(self, file: Path) -> None:
        """Learn what a dead process was reading."""
        held = fsops.lock(file, exclusive=True, wait=False)
        if held is None:  # it lives
            return
        try:
            said = file.read_bytes().replace(b"\0", b" ")  # of threads that never read: a hole in the file
            self._rows.update(first for first in map(int, said.split()) if first in self._units)
            fsops.remove(file)
        finally:
            fsops.unlock(held)

    def begins(self, thread: int, first: int) -> None:
        """A thread reads rows from `first` on."""
        fsops.note(self._path, self._descriptor, thread * SLOT, f"{first:<{SLOT}}".encode())

    def ends(self, thread: int) -> None:
        fsops.note(self._path, self._descriptor, thread * SLOT, b" " * SLOT)

    def holds(self, first: int) -> bool:
        """Whether rows, from the number `first` on, are to be read in a process of their own: those of videos
        that a dead process was reading, as long as it is not known that they were not to blame.
        """
        if not (self._rows or self._videos):
            return False
        doubted = {row.video_id for other in self._rows for row in self._units[other]}
        return any(row.video_id in doubted | self._videos for row in self._units[first])

    def cleared(self, first: int) -> None:
        """Rows from `first` on were read, and nothing happened."""
        self._rows.discard(first)

    def lost(self, video_id: str) -> None:
        """A decoder hung or crashed at a video."""
        if video_id not in self._videos:
            self._videos.add(video_id)
            fsops.append(self._store / LOST, (json.dumps({"video": video_id}) + "\n").encode())

    def close(self) -> None:
        fsops.remove(self._path)
        fsops.unlock(self._descriptor)


def _lost_videos(file: Path) -> set[str]:
    if not file.exists():
        return set()
    return {json.loads(line)["video"] for line in file.read_text().splitlines() if line.endswith("}")}
