"""Where the video files are on disk, and what stands for one in a store's spec."""

from pathlib import Path
from typing import Literal

from mambavl.cache.canonical import file_sha256

Hashing = Literal["fast", "full"]


def find_video(root: Path, participant_id: str, video_id: str) -> Path | None:
    """The video's file under `root`, in the first known disk layout that has it; None when none has."""
    for layout in LAYOUTS:
        path = layout(root, participant_id, video_id)
        if path.is_file():
            return path
    return None


def epic_layout(root: Path, participant_id: str, video_id: str) -> Path:
    """What EPIC's downloader makes: P01/videos/P01_01.MP4."""
    return root / participant_id / "videos" / f"{video_id}.MP4"


def flat_layout(root: Path, participant_id: str, video_id: str) -> Path:
    """P01/P01_01.MP4, as LaViLa's users keep their resized copies."""
    return root / participant_id / f"{video_id}.MP4"


LAYOUTS = (epic_layout, flat_layout)


def fingerprint(path: Path | None, method: Hashing) -> list[int | str] | None:
    """What stands for an input file in a store's spec: its size, and its time of change (fast) or its sha256
    (full).
    """
    if path is None:
        return None
    stat = path.stat()
    if method == "fast":
        return [stat.st_size, stat.st_mtime_ns]
    return [stat.st_size, file_sha256(path)]
