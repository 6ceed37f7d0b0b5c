"""What a video shows and when, what reads it, and what a row is told when a frame is not to be had.

Time 0 is the first displayed frame. The frame at time t is the one on display then: pts_i <= t < pts_(i+1).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

# seconds past the end for which the last frame may stand in: P29_05_563 ends 0.01 s after its video
HOLD = 0.1

# times a frame's own duration (or the file's usual one) that it may stay on display; beyond it frames are
# missing
GAP = 2.5


class VideoError(Exception):
    """A video or one of its frames is unusable. `status` is a name of `cache.rows.STATUS`."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.status, str(self))


@dataclass(frozen=True)
class Timeline:
    """When each displayed frame of a file begins, and when the last one ends, in seconds from the first."""

    pts: np.ndarray  # (frames,) increasing, pts[0] == 0
    end: float
    # (frames,) how long each frame may be on display before frames must be missing after it
    longest: np.ndarray
    # places of frames, one or several, of which it is known that they are not there: number -> why
    missing: Mapping[int, str] = field(default_factory=dict)
    rate: float | None = None  # frames a second, where holes hide it from `pts`

    @property
    def fps(self) -> float:
        if self.rate is not None:
            return self.rate
        return (len(self.pts) - 1) / self.pts[-1] if len(self.pts) > 1 else 1.0 / self.end

    def at(self, times: np.ndarray) -> tuple[np.ndarray, bool]:
        """The displayed frame's index at each time, and whether the last frame had to be held for a moment.

        Raises VideoError: `short_video` for a time more than HOLD past the end, `damaged_frame` for one in a
        hole of the file.
        """
        late = times[times > self.end + HOLD]
        if len(late):
            raise VideoError(
                "short_video", f"the video ends at {self.end:.2f} s; a frame at {late.max():.2f} s was wanted"
            )
        # half a tick of a 90 kHz clock: a timestamp that is a rounded frame time still means that frame
        index = np.maximum(np.searchsorted(self.pts, times + 5e-6, side="right") - 1, 0)
        lost = times[(times - self.pts[index] > self.longest[index]) & (times <= self.end)]
        if len(lost):
            raise VideoError(
                "damaged_frame",
                f"the file holds no frame for {lost.min():.2f} s, though it goes on to {self.end:.2f} s; "
                "if nothing was lost and the picture stands still there, --set still_pictures=true, with "
                "another --out, shows it",
            )
        return index, bool((times > self.end).any())


class Reader(Protocol):
    """An open video. Not for use by several threads at once; open it after a fork."""

    timeline: Timeline

    def frames(self, indices: np.ndarray) -> Iterator[tuple[int, np.ndarray | VideoError]]:
        """Every distinct index once, with its upright RGB pixels (H, W, 3) uint8 or what is wrong with it.

        Raises SystemFault where the file cannot be read.
        """

    def close(self) -> None: ...


def first_line(error: Exception) -> str:
    """An error in one line, without FFmpeg's numbers, which mean nothing to a reader."""
    text = re.sub(r"^\[Errno \d+\] ", "", str(error).strip()).splitlines()
    return text[0] if text else type(error).__name__
