"""RULSTM's features: one float32 vector a frame in LMDB, under a key such as P01_01_frame_0000000001.jpg.

Frame n is on display from second (n - 1) / fps; where a video has a frame 0, from n / fps. The keys of others
differ in what stands around the video and the number, and are taken where one of the first says how.
"""

import contextlib
import math
import re
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mambavl.cache.interchange.arrays import readable
from mambavl.cache.interchange.clock import Extent, check_clock
from mambavl.cache.interchange.lookup import NEAR, Fault, Found, SamplingTimes, observed
from mambavl.cache.rows import Segment
from mambavl.configs.errors import DataError, UsageError, to_install

RULSTM_FPS = 30.0
RULSTM_KEY = "{}_frame_{:010d}.jpg"
FIRST_KEYS = 10  # among which one is to show what the keys look like

_KEY = re.compile(
    r"(?P<participant>[A-Za-z0-9-]+/)?[A-Za-z0-9][A-Za-z0-9_-]*?(?P<between>[_/])frame_(?P<number>\d+)"
    r"(?P<ending>\.\w+)?"
)


class KeyForm(NamedTuple):
    """How the frames of a video are named: [P01/]P01_01[_ or /]frame_0000000001[.jpg]."""

    has_participant: bool
    between: str
    digits: int
    ending: str

    @classmethod
    def of(cls, key: str) -> "KeyForm | None":
        found = _KEY.fullmatch(key)
        if not found:
            return None
        return cls(
            found["participant"] is not None,
            found["between"],
            len(found["number"]),
            found["ending"] or "",
        )

    def prefix(self, segment: Segment) -> bytes:
        folder = f"{segment.participant_id}/" if self.has_participant else ""
        return f"{folder}{segment.video_id}{self.between}frame_".encode()

    def key(self, segment: Segment, number: int) -> bytes:
        return self.prefix(segment) + f"{number:0{self.digits}d}{self.ending}".encode()

    def number(self, segment: Segment, key: bytes) -> int | None:
        """The frame of a key, None for a key of another video."""
        if not key.startswith(self.prefix(segment)):
            return None
        digits = key.removeprefix(self.prefix(segment)).removesuffix(self.ending.encode())
        return int(digits) if digits.isdigit() else None


def rulstm(
    source: Path,
    segments: tuple[Segment, ...],
    moments: SamplingTimes,
    fps: float,
    stack: contextlib.ExitStack,
) -> Found:
    """The frame on display at each moment, or the nearest earlier one within a second. The environment stays
    open as long as `stack`. Raises DataError for what is not such a file, whole, and of these videos.
    """
    lmdb, times = need_lmdb(), moments.by_row(len(segments))
    with readable(source, lmdb.Error):
        env = stack.enter_context(
            lmdb.open(str(source), subdir=source.is_dir(), readonly=True, create=False, lock=False)
        )
        _check_size(source, env)
        cursor = stack.enter_context(stack.enter_context(env.begin()).cursor())
        # (key, bytes of its value); what else somebody keeps in there, such as a list of keys, may come first
        firsts = [(key.decode(errors="replace"), len(value)) for key, value in islice(cursor, FIRST_KEYS)]
    forms = [(form, size) for key, size in firsts if (form := KeyForm.of(key))]
    if not forms or not forms[0][1] or forms[0][1] % 4:
        found = ", ".join(f"{key!r} with {size:,} bytes" for key, size in firsts[:2]) or "nothing"
        raise DataError(
            f"{source}: holds no float32 vectors of frames; expected keys such as "
            f"{RULSTM_KEY.format('P01_01', 1)}, found {found}"
        )
    form, width = forms[0][0], forms[0][1] // 4
    starts: dict[str, int] = {}  # video -> the number of the frame that is shown at 0 s

    def start(segment: Segment) -> int:
        """Of most videos 1: also of one whose first frames are not there."""
        if segment.video_id not in starts:
            starts[segment.video_id] = 0 if cursor.set_key(form.key(segment, 0)) else 1
        return starts[segment.video_id]

    def on_display(segment: Segment, seconds: float) -> int:
        """Put the cursor on the frame on display, or on the nearest earlier one within a second; returns its
        number.
        """
        wanted = math.floor(seconds * fps + NEAR) + start(segment)
        key, prefix = form.key(segment, wanted), form.prefix(segment)
        is_there = cursor.set_range(key) and cursor.key() == key
        if is_there or (cursor.prev() if cursor.key() else cursor.last()):
            number = form.number(segment, cursor.key())
            if number is not None and number >= wanted - fps:
                return number
        if not (cursor.set_range(prefix) and cursor.key().startswith(prefix)):
            raise Fault("missing_video", f"no frame of {segment.video_id} in {source.name}")
        raise Fault(
            "short_video",
            f"no frame of {segment.video_id} in the second up to {seconds:.2f} s in {source.name}",
        )

    def last(segment: Segment) -> int | None:
        """The number of a video's last frame, None where it has none."""
        is_further = cursor.set_range(form.prefix(segment) + b"\xff")
        return (
            form.number(segment, cursor.key()) if (cursor.prev() if is_further else cursor.last()) else None
        )

    def read(row: int) -> tuple[np.ndarray, np.ndarray]:
        numbers, vectors = [], []
        for seconds in observed(times[row], segments[row]).tolist():
            numbers.append(on_display(segments[row], seconds))
            value = cursor.value()
            if len(value) != width * 4:
                raise DataError(
                    f"{source}: {cursor.key().decode()} has {len(value):,} bytes, others have {width * 4:,}"
                )
            vectors.append(np.frombuffer(value, "<f4"))
        return np.stack(vectors), (np.array(numbers) - start(segments[row])) / fps

    extents: dict[str, Extent] = {}
    for segment, wanted in zip(segments, times, strict=True):
        video = segment.video_id
        if video in moments.durations and (number := last(segment)) is not None:
            # frames that no row is shown may be left out, as our own export does
            shortest = max(extents[video].shortest if video in extents else 0.0, np.nan_to_num(wanted).max())
            extents[video] = Extent(number, min(shortest, moments.durations[video]), moments.durations[video])
    check_clock(source, extents, fps, fps)
    return Found((times.shape[1], width), False, read)


def need_lmdb() -> Any:
    """The module. Raises UsageError where it is not installed."""
    try:
        import lmdb
    except ImportError:
        raise UsageError(f"LMDB needs the package lmdb: {to_install('lmdb')}") from None
    return lmdb


def _check_size(source: Path, env: Any) -> None:
    """Raises DataError for a file that was cut: reading behind its end would end the process."""
    file = source / "data.mdb" if source.is_dir() else source
    size, whole = file.stat().st_size, (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    if size < whole:
        raise DataError(
            f"{file}: has {size:,} bytes, and its pages take {whole:,}: it was cut off; copy it again "
            "(`mdb_copy -c`, where it was made, writes a whole one)"
        )
