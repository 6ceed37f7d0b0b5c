"""Where the hands and the objects are: boxes for ORViT, out of files that others publish.

    h5     the ORViT authors' processed file: tracks, linked by their program
    hoa    EPIC-KITCHENS-100's hand-object detections, a file for each video; linked in `tracks`, by our rules

T moments of a clip, O slots, n boxes of an image. A box is x0, y0, x1, y1 in fractions of the whole frame. A
track is one thing followed from image to image under one id: 0 the right hand, 1 the left, any other an
object.

Both count the images of EPIC's released tars from 1, as the frame columns of the lists do: a moment t is
image max(1, floor(t R)), with R 60 or 50. That holds for the files of other rates too, since the tars were
resampled to R (seen in their numbers of images). It is the image on display at t or the one before it (two,
where a file's clock counts whole milliseconds), never a later one.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mambavl.cache.interchange.arrays import hdf5_node, open_hdf5, readable
from mambavl.configs.errors import DataError, SystemFault, UsageError
from mambavl.extract.annotations import nominal_rate
from mambavl.extract.detections import MAX_BOXES, read_detections
from mambavl.extract.input_files import patiently
from mambavl.extract.tracks import (
    HANDS,
    MAX_GAP,
    MIN_OBJECT_SIDE,
    MIN_OVERLAP,
    NOTHING,
    Boxes,
    Tracks,
    link,
)
from mambavl.extract.video_files import ALL_BOXES, Hashing, box_keys

BoxKind = Literal["h5", "hoa"]
NUMERICS = 1  # raised by hand whenever the same files come to give other boxes, or `link` other tracks
KEPT_VIDEOS = 2  # whose tracks stay in memory; about 30 MB for an hour
OUTSIDE = 1.0  # fractions of the frame that a tracker's box may reach beyond it; pixels reach further


class BoxSource(ABC):
    """Boxes of videos. For one thread at a time; clips of one video are best asked for one after another."""

    def clip(self, video_id: str, times: np.ndarray, objects: int = 4) -> np.ndarray:
        """The boxes of a clip: times (T,) in seconds -> (T, O, 4) float32; zeros where nothing was found.

        Slot 0 is the right hand, slot 1 the left; the others go to the tracks that the clip's images show
        first, in order of time and, within an image, as the source lists them. An image that the source does
        not list has no boxes. What a moment gets depends on images up to that moment alone (of `h5` as far as
        its makers' program is known). Raises DataError for a video that is not there or has no box at all and
        for a file that is broken; SystemFault for one that cannot be read; UsageError for times that are not
        seconds.
        """
        times = np.asarray(times, np.float64)
        if times.ndim != 1 or not ((times >= 0) & (times < np.inf)).all():  # NaN fails too
            raise UsageError(
                f"boxes of {video_id}: times are seconds from 0 on, one for each frame, not {times}"
            )
        if objects < 2:
            raise UsageError(f"boxes of {video_id}: {objects} slots were asked for; the hands alone have two")
        return in_slots(
            [self._image(video_id, int(number)) for number in image_numbers(video_id, times)], objects
        )

    @abstractmethod
    def missing(self, video_ids: Iterable[str]) -> list[str]:
        """Those of the videos, in order, that this source has nothing of."""

    @abstractmethod
    def fingerprint(self, video_ids: Iterable[str], out: Path) -> dict[str, Any]:
        """What the spec of the store `out` keeps of the boxes of these videos, as JSON: other boxes have
        another fingerprint, copies elsewhere the same. Raises as `video_files.box_keys`.
        """

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def _image(self, video_id: str, number: int) -> Boxes: ...


def open_boxes(kind: BoxKind, path: Path, video_hash: Hashing = "fast", retries: int = 0) -> BoxSource:
    """A source of boxes. h5: the file; hoa: the folder with P01/hand-objects/P01_01.pkl, P01/P01_01.pkl or
    P01_01.pkl.

    video_hash: what stands for a file in the fingerprint: see `video_files`. retries: how often an error of
    the system is tried again. Raises DataError when nothing is there or the file is of another kind;
    UsageError for a kind that does not exist.
    """
    if kind == "h5":
        return AuthorsBoxes(Path(path), video_hash, retries)
    if kind == "hoa":
        return LinkedDetections(Path(path), video_hash, retries)
    raise UsageError(
        f"there are no boxes {kind!r}; use h5 (the ORViT authors' file) or hoa (EPIC's detections)"
    )


def image_numbers(video_id: str, times: np.ndarray) -> np.ndarray:
    """Which image of the released tar stands for each moment (T,)."""
    return np.maximum(1, np.floor(times * nominal_rate(video_id))).astype(np.int64)


def in_slots(images: Sequence[Boxes], slots: int) -> np.ndarray:
    """The boxes of a clip's images, in order of time -> (T, slots, 4) float32."""
    slot_of = {track: slot for slot, track in enumerate(HANDS.values())}
    out = np.zeros((len(images), slots, 4), np.float32)
    for step, seen in enumerate(images):
        for track, box in zip(seen.ids.tolist(), seen.corners, strict=True):
            if track not in slot_of and len(slot_of) < slots:
                slot_of[track] = len(slot_of)
            if track in slot_of:
                out[step, slot_of[track]] = box
    return out


# --- h5


class AuthorsBoxes(BoxSource):
    """/VIDEO/IMAGE is an array (n, 5): x0, y0, x1, y1, track id. Images are read one at a time, when they are
    asked for.
    """

    def __init__(self, path: Path, video_hash: Hashing, retries: int) -> None:
        if not path.is_file():
            raise DataError(
                f"{path}: no such file; boxes h5 are the ORViT authors' processed file, one for all videos"
            )
        self.path, self._hash, self._retries = path, video_hash, retries
        self._file = patiently(path, retries, lambda: open_hdf5(path))
        self._known: set[str] = set()  # videos whose layout was looked at
        with readable(path):
            first = next((video for video in self._file if _first_name(self._images(video))), None)
        if first is None:
            raise DataError(
                f"{path}: has no image of any video; boxes h5 are the ORViT authors' processed file"
            )
        self._look_at(first)

    def close(self) -> None:
        self._file.close()

    def missing(self, video_ids: Iterable[str]) -> list[str]:
        with readable(self.path):
            return [
                video
                for video in video_ids
                if video not in self._file or not _first_name(self._images(video))
            ]

    def fingerprint(self, video_ids: Iterable[str], out: Path) -> dict[str, Any]:
        keys = box_keys({ALL_BOXES: self.path}, out, self._hash, self._retries)
        return {"kind": "h5", "numerics": NUMERICS, **keys}

    def _image(self, video_id: str, number: int) -> Boxes:
        return patiently(self.path, self._retries, lambda: self._read(video_id, number))

    def _read(self, video_id: str, number: int) -> Boxes:
        if not self._file:  # closed after an error of the system
            self._file = open_hdf5(self.path)
        try:
            if video_id not in self._known:
                self._look_at(video_id)
            with readable(self.path):
                images = self._images(video_id)
                return self._boxes(images, str(number)) if str(number) in images else NOTHING
        except SystemFault:
            self._file.close()
            raise

    def _look_at(self, video_id: str) -> None:
        """Once for each video: is its first image what this layout says?"""
        with readable(self.path):
            images = self._images(video_id)
            name = _first_name(images)
            if name is None:
                raise DataError(
                    f"{self.path}: {video_id} has no image, so no boxes; --set boxes=none runs without boxes"
                )
            if not re.fullmatch(r"[1-9]\d*", name):
                raise DataError(
                    f"{self.path}: {video_id} holds {name!r} where numbers of images, from 1, are expected"
                )
            self._boxes(images, name)
        self._known.add(video_id)

    def _images(self, video_id: str) -> Any:
        import h5py

        images = hdf5_node(self._file, video_id, self.path)
        if not isinstance(images, h5py.Group):
            raise DataError(
                f"{self.path}: {video_id} is an array; expected is a group with an array for each image"
            )
        return images

    def _boxes(self, images: Any, name: str) -> Boxes:
        import h5py

        where = f"{self.path}: {images.name[1:]}/{name}"
        node = hdf5_node(images, name, self.path)
        if isinstance(node, h5py.Group):
            raise DataError(
                f"{where} is a group ({', '.join(list(node)[:4])}): the layout of InAViT's file, which "
                "cannot stand in for the ORViT authors'; give h5 theirs, or use hoa with EPIC's detections"
            )
        if node.ndim != 2 or node.shape[1] != 5 or node.shape[0] > MAX_BOXES or node.dtype.kind != "f":
            raise DataError(
                f"{where} is {node.dtype} {node.shape}; expected are floats (n, 5): x0, y0, x1, y1, track id"
            )
        rows = node[()].astype(np.float64)
        corners, ids = rows[:, :4], rows[:, 4]
        if not ((corners >= -OUTSIDE) & (corners <= 1 + OUTSIDE)).all():  # NaN fails too
            low, high = corners.min(), corners.max()
            raise DataError(
                f"{where}: corners go from {low:g} to {high:g}; expected are fractions of the frame"
            )
        if not ((ids >= 0) & (ids < 2**53) & (ids == np.floor(ids))).all() or len(np.unique(ids)) < len(ids):
            raise DataError(
                f"{where}: the track ids are {ids.tolist()[:8]}; expected are whole numbers, each once"
            )
        corners = corners.clip(0, 1).astype(np.float32)  # a tracker's box may reach beyond the frame
        has_area = (corners[:, 2:] > corners[:, :2]).all(axis=1)
        return Boxes(ids[has_area].astype(np.int64), corners[has_area])


def _first_name(group: Any) -> str | None:
    """The first name that a group has at hand. To list or count the 100,000 of a long video takes a quarter
    second.
    """
    import h5py

    name, _ = group.id.links.iterate(bytes, order=h5py.h5.ITER_NATIVE)
    return None if name is None else name.decode()


# --- hoa


class LinkedDetections(BoxSource):
    """A video's detections are read and linked when the first of its clips is asked for."""

    def __init__(self, root: Path, video_hash: Hashing, retries: int) -> None:
        if not root.is_dir():
            raise DataError(
                f"{root}: no such folder; boxes hoa are in the one that holds P01/hand-objects/P01_01.pkl"
            )
        self.root, self._hash, self._retries = root, video_hash, retries
        self._tracks: dict[str, Tracks] = {}  # of the last videos
        self._found: dict[str, Path] = {}

    def close(self) -> None:
        self._tracks.clear()

    def missing(self, video_ids: Iterable[str]) -> list[str]:
        return [video for video in video_ids if self._find(video) is None]

    def fingerprint(self, video_ids: Iterable[str], out: Path) -> dict[str, Any]:
        linking = {"min_overlap": MIN_OVERLAP, "max_gap": MAX_GAP, "min_object_side": MIN_OBJECT_SIDE}
        paths = {video: self._find(video) for video in video_ids}
        files = box_keys(paths, out, self._hash, self._retries)
        return {"kind": "hoa", "numerics": NUMERICS, "linking": linking, "videos": files}

    def _image(self, video_id: str, number: int) -> Boxes:
        if video_id not in self._tracks:
            found = self._read(video_id)
            while len(self._tracks) >= KEPT_VIDEOS:
                del self._tracks[next(iter(self._tracks))]
            self._tracks[video_id] = found
        return self._tracks[video_id].of_image(number)

    def _read(self, video_id: str) -> Tracks:
        path = self._find(video_id)
        if path is None:
            participant = video_id.partition("_")[0]
            raise DataError(
                f"{self.root}: has no boxes of {video_id}; expected {participant}/hand-objects/{video_id}.pkl"
            )
        tracks = link(read_detections(path, video_id, self._retries))
        if not len(tracks.ids):
            raise DataError(f"{path}: has no box in any image of {video_id}")
        return tracks

    def _find(self, video_id: str) -> Path | None:
        if video_id in self._found:  # one that has vanished since cannot be read, and was there all the same
            return self._found[video_id]
        participant, name = video_id.partition("_")[0], f"{video_id}.pkl"
        folders = (self.root / participant / "hand-objects", self.root / participant, self.root)
        for folder in folders:
            if (folder / name).is_file():
                return self._found.setdefault(video_id, folder / name)
        return None
