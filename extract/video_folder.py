"""Where the videos lie under some folders: every usual layout, any usual ending; and what lies there instead.

    P01/videos/P01_01.MP4       as EPIC's downloader makes them
    P01/rgb_frames/P01_01.tar   likewise its frames; P01/rgb_frames/P01_01/frame_0000000001.jpg: unpacked
    P01/P01_01.MP4              as resized copies are often kept; P01/P01_01.MP4/0.MP4: AVION's chunks
    P01_01.MP4                  all in one folder

Folders are listed, never probed: endings are told without their case, and a video that is there twice, as two
files or as a file and as frames, is seen.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from mambavl.configs.errors import DataError, counted, some
from mambavl.extract.annotations import Annotations
from mambavl.extract.video_parts import SUFFIXES, TAR, part_of

LAYOUTS = (
    "P01/videos/P01_01.MP4, P01/rgb_frames/P01_01.tar (or the folder P01_01 of its frames), P01/P01_01.MP4 "
    "(or a folder of this name with chunks) or, all in one folder, P01_01.MP4"
)
Roots = Path | Sequence[Path]  # folders under which videos lie
PLACES = ("videos", "rgb_frames")  # folders of a participant
MOST_LOOKED_AT = 20_000  # files and folders, in the search for videos that lie elsewhere


class VideoFolder:
    """The videos under one or several folders, its `roots`. Each folder is listed once. Raises DataError for
    a root that does not exist.
    """

    def __init__(self, roots: Roots) -> None:
        self.roots = (roots,) if isinstance(roots, Path) else tuple(roots)
        for root in self.roots:
            if not root.is_dir():
                raise DataError(
                    f"{root}: no such folder; --videos takes the folder that holds P01/videos/P01_01.MP4"
                )
        self._named = cache(_named_like_videos)

    def __str__(self) -> str:
        return " or ".join(map(str, self.roots))

    def find(self, participant_id: str, video_id: str) -> Path | None:
        """The file of a video, else the folder or tar of its frames, or the folder of its chunks; None where
        there is none. Raises DataError for several files and, without a file, for several others.
        """
        found: list[Path] = []
        for root in self.roots:
            home = root / participant_id
            for folder in (*(home / place for place in PLACES), home, root):
                found += self._sources(folder, video_id)
        # EPIC's own download has files and frames side by side
        found = [path for path in found if path.suffix.lower() in SUFFIXES and path.is_file()] or found
        others = [path for path in found[1:] if not path.samefile(found[0])]
        if others:
            raise DataError(
                f"{video_id}: there are {found[0]} and {others[0]}; keep one of them, or name the folders of "
                f"those that you mean (--videos {found[0].parent}, one --videos for each)"
            )
        return found[0] if found else None

    def _sources(self, folder: Path, video_id: str) -> list[Path]:
        """What there is of a video in one folder."""
        named = self._named(folder).get(video_id, [])
        return [path for path, is_folder in named if not is_folder or holds_parts(path)]

    def all(self) -> list[tuple[str, str]]:
        """video_id and participant_id of every video in one of the layouts; the participant is "" where there
        are no folders of participants. A video that is there twice comes twice. What is hidden is left out.
        """
        return [found for root in self.roots for found in self._all_under(root)]

    def _all_under(self, root: Path) -> list[tuple[str, str]]:
        found = [(video, "") for video in self._videos(root)]
        for name, kind in _entries(root).items():
            home = root / name
            if kind == "file" or name.startswith(".") or holds_parts(home):
                continue
            participant = "" if name in PLACES else name
            for folder in (home, *(home / place for place in PLACES)):
                found += [(video, participant) for video in self._videos(folder)]
        return found

    def _videos(self, folder: Path) -> list[str]:
        """video_id of what lies in one folder."""
        names = [name for name in self._named(folder) if not name.startswith(".") and name not in PLACES]
        return [name for name in names if self._sources(folder, name)]

    def elsewhere(self, participant_id: str, video_id: str) -> str:
        """What to say of a video that is not there: where something of its name lies, or what does, and what
        is expected.
        """
        expected = f"expected {LAYOUTS}, under {self}"
        for root in self.roots:
            for folder in list(root.resolve().parents)[:2]:
                with suppress(DataError):  # of folders that nobody asked for
                    if path := VideoFolder(folder).find(participant_id, video_id):
                        return f"{video_id} is {path}; try --videos {folder}"
        path = next(filter(None, (_named(root, video_id) for root in self.roots)), None)
        if path is None:
            there = [name for root in self.roots for name in _entries(root)]
            return f"{expected}; there is {some(there) or 'nothing'}"
        if path.is_dir():
            if not holds_parts(path):
                inside = some(list(_entries(path)), 3) or "nothing"
                return (
                    f"{path} is a folder with {inside}, and neither frames (frame_0000000001.jpg, ...) nor "
                    f"chunks (0.MP4, 15.MP4, ...) of a video; {expected}"
                )
        elif path.suffix.lower() not in (*SUFFIXES, TAR):
            return f"{path} does not end like a video ({', '.join((*SUFFIXES, TAR))}); {expected}"
        return f"{video_id} is {path}; try --videos {_root_of(path, participant_id)}"


def find_videos(
    annotations: Annotations, videos: Roots | Mapping[str, Path | None], allow_missing: bool
) -> dict[str, Path | None]:
    """video_id -> its file or folder, None where it is missing. videos: the folders that they are under, or
    where each lies.

    Raises DataError when a folder does not exist, when a video is there twice or none of the videos is there,
    and for missing videos unless they are allowed.
    """
    participants = {segment.video_id: segment.participant_id for segment in annotations.segments}
    if isinstance(videos, Mapping):
        return {video: videos[video] for video in participants}
    folder = VideoFolder(videos)
    paths = {video: folder.find(participant, video) for video, participant in participants.items()}
    missing = [video for video, path in paths.items() if path is None]
    if missing and (not allow_missing or len(missing) == len(paths)):
        further = "; `mambavl data check` lists them, --set allow_missing=true goes on without"
        raise DataError(
            f"{folder}: {len(missing):,} of {counted(len(paths), 'video')} are not there ({some(missing)}): "
            f"{folder.elsewhere(participants[missing[0]], missing[0])}"
            f"{further if len(missing) < len(paths) else ''}"
        )
    return paths


def holds_parts(folder: Path) -> bool:
    """Whether frames or chunks of a video lie in a folder. Raises DataError where it cannot be read."""
    return any(part_of(entry.name) for entry in _read(folder))  # looked at one by one: it may hold 200,000


def _named_like_videos(folder: Path) -> dict[str, list[tuple[Path, bool]]]:
    """video_id -> what is called like it, and whether that is a folder."""
    named: dict[str, list[tuple[Path, bool]]] = {}
    for name, kind in _entries(folder).items():
        stem, suffix = os.path.splitext(name)
        is_folder = kind in ("folder", "linked folder")
        endings = (*SUFFIXES, "") if is_folder else (*SUFFIXES, TAR)
        if kind != "other" and suffix.lower() in endings:
            named.setdefault(stem, []).append((folder / name, is_folder))
    return named


def _entries(folder: Path) -> dict[str, str]:
    """Name -> `file`, `folder`, `linked folder` or `other`, sorted; nothing where there is no such folder. A
    link to a file is a file. Raises DataError where the folder cannot be read.
    """
    kinds: dict[str, str] = {}
    for entry in _read(folder):
        if entry.is_dir():
            kinds[entry.name] = "folder" if entry.is_dir(follow_symlinks=False) else "linked folder"
        else:
            kinds[entry.name] = "file" if entry.is_file() else "other"
    return dict(sorted(kinds.items()))


def _read(folder: Path) -> Iterator[os.DirEntry[str]]:
    """As `os.scandir`; nothing where there is no such folder. Raises DataError where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror}); run the same command again") from None


def _named(root: Path, video_id: str) -> Path | None:
    """The first file or folder below `root`, nearest first, that is named after a video."""
    folders, seen = [root], 0
    for folder in folders:  # it grows
        with suppress(DataError):  # what cannot be read is passed over: this is only for a message
            for name, kind in _entries(folder).items():
                if name.partition(".")[0] == video_id:
                    return folder / name
                if kind == "folder":  # links might lead round in a circle
                    folders.append(folder / name)
                seen += 1
        if seen > MOST_LOOKED_AT:
            break
    return None


def _root_of(path: Path, participant_id: str) -> Path:
    """The folder under which a video's file is in one of the layouts."""
    folder = path.parent
    if folder.name in PLACES and folder.parent.name == participant_id:
        return folder.parent.parent
    return folder.parent if folder.name == participant_id else folder
