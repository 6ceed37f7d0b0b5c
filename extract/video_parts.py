"""Videos that are not one file: what their parts are called, and which of them a folder or a tar holds.

frames   P01_01/frame_0000000001.jpg, ...   pictures, counted from 1, as in EPIC's rgb_frames
chunks   P01_01.MP4/0.MP4, 15.MP4, ...      named after the second at which they begin, as AVION cuts them
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mambavl.configs.errors import DataError
from mambavl.extract.input_files import names_in

SUFFIXES = (  # of video files
    ".mp4",
    ".mkv",
    ".webm",
    ".mov",
    ".m4v",
    ".avi",
    ".mpg",
    ".mpeg",
    ".ts",
    ".m2ts",
    ".flv",
    ".wmv",
    ".ogv",
)
TAR = ".tar"  # of frames

Kind = Literal["frames", "chunks"]

_FRAME = re.compile(r"frame_([0-9]{1,12})\.(?:jpe?g|png)", re.IGNORECASE)
_CHUNK = re.compile(r"([0-9]{1,7})\.[a-z0-9]+", re.IGNORECASE)


@dataclass(frozen=True)
class Parts:
    """The parts of one video, in order."""

    kind: Kind
    names: dict[int, str]  # number of the frame, or second at which the chunk begins -> its name


def is_tar(path: Path) -> bool:
    return path.suffix.lower() == TAR


def part_of(name: str) -> tuple[Kind, int] | None:
    """What a file is called: (`frames`, its number) or (`chunks`, its second); None for anything else."""
    if frame := _FRAME.fullmatch(name):
        return "frames", int(frame[1])
    chunk = _CHUNK.fullmatch(name)
    if chunk and os.path.splitext(name)[1].lower() in SUFFIXES:
        return "chunks", int(chunk[1])
    return None


def list_parts(folder: Path, retries: int = 0) -> Parts:
    """The parts that lie in a folder. Raises DataError where they are not those of one video, SystemFault
    where the folder cannot be read.
    """
    try:
        return arrange(sorted(names_in(folder, retries)))
    except ValueError as error:
        raise DataError(f"{folder}: {error}") from None


def arrange(names: Iterable[str]) -> Parts:
    """Names, or paths, of which only the last part counts, as the parts of one video; others are passed over.

    Raises ValueError, with the reason, where there are none, or two of one number, or of both kinds, and for
    frames that are counted from 0.
    """
    found: dict[Kind, dict[int, str]] = {"frames": {}, "chunks": {}}
    for name in names:
        part = part_of(name.rpartition("/")[2])
        if part is None:
            continue
        kind, number = part
        if number in found[kind]:
            raise ValueError(f"there are {found[kind][number]} and {name}; keep one of them")
        found[kind][number] = name
    frames, chunks = found["frames"], found["chunks"]
    if frames and chunks:
        raise ValueError(
            f"holds frames ({next(iter(frames.values()))}, ...) and chunks ({next(iter(chunks.values()))}, "
            "...) of a video; keep one of them"
        )
    if not frames and not chunks:
        raise ValueError("holds neither frames (frame_0000000001.jpg, ...) nor chunks (0.MP4, 15.MP4, ...)")
    if 0 in frames:
        raise ValueError(
            f"holds {frames[0]}, and frames are counted from 1, as EPIC's are; rename all of them"
        )
    kind = "frames" if frames else "chunks"
    return Parts(kind, dict(sorted(found[kind].items())))
