"""Where the videos lie under a folder: every usual layout, any usual ending; and what lies there instead.

    P01/videos/P01_01.MP4   as EPIC's downloader makes them
    P01/P01_01.MP4          as resized copies are often kept
    P01_01.MP4              all in one folder

Folders are listed, never probed: endings are told without their case, and two files of one video are seen.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

from mambavl.configs.errors import DataError, counted, some
from mambavl.extract.annotations import Annotations

SUFFIXES = (
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
LAYOUTS = "P01/videos/P01_01.MP4, P01/P01_01.MP4 or, all in one folder, P01_01.MP4"
MOST_LOOKED_AT = 20_000  # files and folders, in the search for videos that lie elsewhere


class VideoFolder:
    """The videos under `root`. Each of its folders is listed once. Raises DataError where there is none."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise DataError(
                f"{self.root}: no such folder; --videos takes the folder that holds P01/videos/P01_01.MP4"
            )
        self._files = cache(_files)

    def find(self, participant_id: str, video_id: str) -> Path | None:
        """The file of a video, None where there is none. Raises DataError for several."""
        folders = (self.root / participant_id / "videos", self.root / participant_id, self.root)
        found = [path for folder in folders for path in self._files(folder).get(video_id, ())]
        others = [path for path in found[1:] if not path.samefile(found[0])]
        if others:
            raise DataError(
                f"{video_id}: there are {found[0]} and {others[0]}; keep one of them under {self.root}"
            )
        return found[0] if found else None

    def elsewhere(self, participant_id: str, video_id: str) -> str:
        """What to say of a video that is not there: where something of its name lies, or what does, and what
        is expected.
        """
        expected = f"expected {LAYOUTS}, under {self.root}"
        for folder in list(self.root.resolve().parents)[:2]:
            with suppress(DataError):  # of folders that nobody asked for
                if path := VideoFolder(folder).find(participant_id, video_id):
                    return f"{video_id} is {path}; try --videos {folder}"
        path = _named(self.root, video_id)
        if path is None:
            return f"{expected}; there is {some(list(_entries(self.root))) or 'nothing'}"
        if path.is_dir():
            inside = some(list(_entries(path)), 3) or "nothing"
            return (
                f"{path} is a folder with {inside} (chunks, as AVION makes them, or images?), and videos are "
                f"read whole; {expected}"
            )
        if path.suffix.lower() not in SUFFIXES:
            return f"{path} does not end like a video ({', '.join(SUFFIXES)}); {expected}"
        return f"{video_id} is {path}; try --videos {_root_of(path, participant_id)}"


def find_videos(
    annotations: Annotations, root: Path | Mapping[str, Path], allow_missing: bool
) -> dict[str, Path | None]:
    """video_id -> its file under `root`, None where it is missing; as `root` says where it names the files.

    Raises DataError when `root` does not exist, when a video has two files or none of the videos is there,
    and for missing videos unless they are allowed.
    """
    participants = {segment.video_id: segment.participant_id for segment in annotations.segments}
    if isinstance(root, Mapping):
        return {video: root[video] for video in participants}
    folder = VideoFolder(root)
    paths = {video: folder.find(participant, video) for video, participant in participants.items()}
    missing = [video for video, path in paths.items() if path is None]
    if missing and (not allow_missing or len(missing) == len(paths)):
        further = "; `mambavl data check` lists them, --set allow_missing=true goes on without"
        raise DataError(
            f"{root}: {len(missing):,} of {counted(len(paths), 'video')} are not there ({some(missing)}): "
            f"{folder.elsewhere(participants[missing[0]], missing[0])}"
            f"{further if len(missing) < len(paths) else ''}"
        )
    return paths


def _files(folder: Path) -> dict[str, list[Path]]:
    """video_id -> the files of its name that end like a video."""
    files: dict[str, list[Path]] = {}
    for name, kind in _entries(folder).items():
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in SUFFIXES and kind == "file":
            files.setdefault(stem, []).append(folder / name)
    return files


def _entries(folder: Path) -> dict[str, str]:
    """Name -> `file`, `folder` or `other`, sorted; nothing where there is no such folder. A link to a file is
    a file, one to a folder is not followed. Raises DataError where the folder cannot be read.
    """
    kinds: dict[str, str] = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                is_folder = entry.is_dir(follow_symlinks=False)
                kinds[entry.name] = "file" if entry.is_file() else "folder" if is_folder else "other"
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror}); run the same command again") from None
    return dict(sorted(kinds.items()))


def _named(root: Path, video_id: str) -> Path | None:
    """The first file or folder below `root`, nearest first, that is named after a video."""
    folders, seen = [root], 0
    for folder in folders:  # it grows
        with suppress(DataError):  # what cannot be read is passed over: this is only for a message
            for name, kind in _entries(folder).items():
                if name.partition(".")[0] == video_id:
                    return folder / name
                if kind == "folder":
                    folders.append(folder / name)
                seen += 1
        if seen > MOST_LOOKED_AT:
            break
    return None


def _root_of(path: Path, participant_id: str) -> Path:
    """The folder under which a video's file is in one of the layouts."""
    folder = path.parent
    if folder.name == "videos" and folder.parent.name == participant_id:
        return folder.parent.parent
    return folder.parent if folder.name == participant_id else folder
