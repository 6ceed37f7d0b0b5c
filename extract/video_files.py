"""What stands for a video file in a store's spec."""

from pathlib import Path
from typing import Literal

from mambavl.cache.canonical import file_sha256

Hashing = Literal["fast", "full"]


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
