"""Detections linked to tracks: one thing followed from image to image under one id.

Ids are 0 for the right hand, 1 for the left, and numbers from FIRST_OBJECT on for objects. A box is x0, y0,
x1, y1 in fractions of the whole frame; n boxes of an image.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from mambavl.extract.detections import Corners, Detections

HANDS = {"right": 0, "left": 1}  # ids of tracks, and the slots kept for them
FIRST_OBJECT = 3  # id; the authors' objects begin at 3, and so do ours

MIN_OVERLAP = 0.3  # intersection over union from which two boxes may be the same object; ours, not swept
MAX_GAP = 15  # images, about a quarter second, that an object may be missed and keep its id; ours, not swept
# an object narrower or lower than this fraction of the frame is dropped, as the authors did
MIN_OBJECT_SIDE = 0.01


class Boxes(NamedTuple):
    """What is seen in one image: no id twice, no box without area."""

    ids: np.ndarray  # (n,) int
    corners: np.ndarray  # (n, 4) float32, x0, y0, x1, y1


NOTHING = Boxes(np.empty(0, np.int64), np.empty((0, 4), np.float32))


class Tracks(NamedTuple):
    """Every box of a video: those of image n are the rows first[n] to first[n + 1]."""

    first: np.ndarray  # (images + 2,) int64
    ids: np.ndarray  # (rows,) int64
    corners: np.ndarray  # (rows, 4) float32

    def of_image(self, number: int) -> Boxes:
        """What is seen in an image; nothing where the detections do not list it."""
        if number + 1 >= len(self.first):
            return NOTHING
        rows = slice(self.first[number], self.first[number + 1])
        return Boxes(self.ids[rows], self.corners[rows])


def link(video: Iterable[Detections]) -> Tracks:
    """The images of a video, in order -> tracks. The rules are ours; the ORViT authors linked with SORT, so
    ids differ from theirs.

    The best hand of each side is that hand. An object continues the track whose last box it overlaps most,
    pair after pair from the largest overlap down, if that is MIN_OVERLAP or more and the track was missed in
    MAX_GAP images at most; else it begins a track. There is no model of motion: boxes stay as they were
    detected. None is dropped for its score, since the authors' rules, as far as they are known here, do not.
    An image's ids depend on it and on earlier images, not on the order within it.
    """
    linker = _Linker()
    numbers: list[int] = []
    ids: list[int] = []
    corners: list[Corners] = []
    for seen in video:
        # the best comes last
        hands = {HANDS[side]: box for _, side, box in sorted(seen.hands) if smaller_side(box) > 0}
        objects = [(score, box) for score, box in seen.objects if smaller_side(box) >= MIN_OBJECT_SIDE]
        tracks = sorted(hands.items()) + sorted(linker.follow(seen.image, objects).items())
        ids += [track for track, _ in tracks]
        corners += [box for _, box in tracks]
        numbers += [seen.image] * len(tracks)
    first = np.zeros(2, np.int64)
    if numbers:
        first = np.searchsorted(numbers, np.arange(numbers[-1] + 2))
    return Tracks(first, np.array(ids, np.int64), np.array(corners, np.float32).reshape(-1, 4))


class _Linker:
    """The objects of one video, image by image."""

    def __init__(self) -> None:
        # live tracks: the image they were last seen in, and where
        self._last: dict[int, tuple[int, Corners]] = {}
        self._next = FIRST_OBJECT

    def follow(self, image: int, objects: list[tuple[float, Corners]]) -> dict[int, Corners]:
        """(score, box) of every object in the next image -> track id, box."""
        self._last = {track: seen for track, seen in self._last.items() if image - seen[0] <= MAX_GAP + 1}
        boxes = [box for _, box in sorted(objects, reverse=True)]  # the best first
        pairs: list[tuple[float, int, int]] = []
        for track, (_, last) in self._last.items():
            for place, box in enumerate(boxes):
                shared = overlap(last, box)
                if shared >= MIN_OVERLAP:
                    pairs.append((-shared, track, place))
        found: dict[int, Corners] = {}
        new = dict(enumerate(boxes))
        for _, track, place in sorted(pairs):  # the largest overlap first, then the oldest track
            if track not in found and place in new:
                found[track] = new.pop(place)
        for box in new.values():
            found[self._next] = box
            self._next += 1
        self._last |= {track: (image, box) for track, box in found.items()}
        return found


def smaller_side(box: Corners) -> float:
    """The smaller of width and height, in fractions of the frame."""
    return min(box[2] - box[0], box[3] - box[1])


def overlap(a: Corners, b: Corners) -> float:
    """Intersection over union of two boxes with area."""
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = a, b
    # most pairs, and this is where the time of linking goes
    if ax1 <= bx0 or bx1 <= ax0 or ay1 <= by0 or by1 <= ay0:
        return 0.0
    both = (min(ax1, bx1) - max(ax0, bx0)) * (min(ay1, by1) - max(ay0, by0))
    return both / ((ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - both)
