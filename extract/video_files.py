"""Where the video files are on disk, and what stands for one in a store's spec."""

from pathlib import Path
from typing import Literal

from mambavl.cache.canonical import file_sha256
from mambavl.configs.errors import DataError, some
from mambavl.extract.annotations import Annotations

Hashing = Literal["fast", "full"]


def find_videos(annotations: Annotations, root: Path, allow_missing: bool) -> dict[str, Path | None]:
    """video_id -> its file under `root`, None where it is missing.

    Raises DataError when `root` does not exist, and for missing videos unless they are allowed.
    """
    participants = {segment.video_id: segment.participant_id for segment in annotations.segments}
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; --videos takes the folder that holds P01/videos/P01_01.MP4")
    paths = {video: find_video(root, participant, video) for video, participant in participants.items()}
    missing = [video for video, path in paths.items() if path is None]
    if missing and not allow_missing:
        raise DataError(
            f"{root}: {len(missing):,} of {len(paths):,} videos are not there ({some(missing)}); "
            "`mambavl data check` lists them, --set allow_missing=true goes on without"
        )
    return paths


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
