"""A video cut into files that are named after the second at which they begin, as AVION keeps them: one reader
over all of them.

A frame's time is that in its file, plus the file's name. Where a chunk begins the one before it is over, and
until then that one's last frame stands, which is for a moment: a longer gap, a file that is not there or one
that cannot be opened is a hole.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from mambavl.extract.timeline import Reader, Timeline, VideoError

SLACK = 0.5  # seconds that a chunk may be shorter than what it was cut to: frames are not cut
MOST_OPEN = 3  # chunks; a window may lie across two


class ChunkReader:
    """Chunks behind the interface of `Reader`. What is not there is `timeline.missing`."""

    def __init__(self, folder: Path, names: Mapping[int, str], open_file: Callable[[Path], Reader]) -> None:
        """names: second -> file, in order. Every chunk is opened once, for its times.

        Raises VideoError `unreadable_video` where none can be opened, and as `open_file` does.
        """
        self.path, self._open_file = folder, open_file
        self._files = {second: folder / name for second, name in names.items()}
        self._open: dict[int, Reader] = {}  # the one used last comes last
        self._pts: list[np.ndarray] = []
        self._longest: list[np.ndarray] = []
        self._chunks: list[np.ndarray] = []  # of each frame the second of its chunk
        self._numbers: list[np.ndarray] = []  # of each frame its number there
        self._missing: dict[int, str] = {}
        self._rates: list[float] = []  # frames a second of each chunk
        try:
            end = self._scan()
        except BaseException:
            self.close()
            raise
        self.timeline = Timeline(
            np.concatenate(self._pts),
            end,
            np.concatenate(self._longest),
            self._missing,
            float(np.median(self._rates)) if self._missing else None,
        )
        self._chunk_of, self._number_of = np.concatenate(self._chunks), np.concatenate(self._numbers)

    def _scan(self) -> float:
        """Put the chunks one behind the other; returns where the last one ends, in seconds."""
        seconds = list(self._files)
        end = 0.0
        broken: list[VideoError] = []
        for second, following in zip(seconds, [*seconds[1:], None], strict=True):
            if second > end + SLACK:
                self._add_hole(end, f"{self.path}: there is nothing from {end:.2f} to {second} s")
            try:
                chunk = self._reader(second).timeline
            except VideoError as error:
                broken.append(error)
                self._add_hole(second, str(error))
                # how long it was is not known: until the next one begins, or as long as the one before
                end = following or second + (second - seconds[-2] if len(seconds) > 1 else 0)
            else:
                self._add(second, chunk, following or np.inf)
                end = min(second + chunk.end, following or np.inf)
        if len(broken) == len(seconds):
            raise broken[0]
        return float(end)

    def _add(self, second: int, chunk: Timeline, limit: float) -> None:
        """The frames of a chunk that begin before `limit`."""
        self._rates.append(chunk.fps)
        pts = chunk.pts + second
        count = int(np.searchsorted(pts, limit))
        longest = chunk.longest[:count].copy()
        longest[-1:] = np.inf  # there is a hole where it is too long
        self._append(pts[:count], longest, second, np.arange(count))

    def _add_hole(self, start: float, reason: str) -> None:
        self._missing[sum(map(len, self._pts))] = reason
        self._append(np.array([start]), np.array([np.inf]), -1, np.array([-1]))

    def _append(self, pts: np.ndarray, longest: np.ndarray, second: int, numbers: np.ndarray) -> None:
        self._pts.append(pts)
        self._longest.append(longest)
        self._chunks.append(np.full(len(pts), second))
        self._numbers.append(numbers)

    def _reader(self, second: int) -> Reader:
        reader = self._open.pop(second, None)
        if reader is None:
            while len(self._open) >= MOST_OPEN:
                self._open.pop(next(iter(self._open))).close()
            reader = self._open_file(self._files[second])
        self._open[second] = reader
        return reader

    def frames(self, indices: np.ndarray) -> Iterator[tuple[int, np.ndarray | VideoError]]:
        wanted = np.unique(indices)
        for second in np.unique(self._chunk_of[wanted]).tolist():
            group = wanted[self._chunk_of[wanted] == second]
            if second < 0:
                for index in group.tolist():
                    yield index, VideoError("damaged_frame", self._missing[index])
                continue
            places = dict(zip(self._number_of[group].tolist(), group.tolist(), strict=True))
            try:
                reader = self._reader(second)
            except VideoError as error:  # it could be opened before
                for index in group.tolist():
                    yield index, VideoError("damaged_frame", str(error))
                continue
            for number, frame in reader.frames(self._number_of[group]):
                yield places[number], frame

    def close(self) -> None:
        for reader in self._open.values():
            reader.close()
        self._open.clear()
