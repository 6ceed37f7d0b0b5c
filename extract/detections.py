"""EPIC-KITCHENS-100's hand-object detections: for each video a pickled list of protobuf messages, one for
each image.

Files are untrusted, and read strictly: no pickle is loaded, and a message holds what is published or is
refused.
"""

import math
import pickletools
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mambavl.configs.errors import DataError
from mambavl.extract.input_files import patiently, read_whole

MAX_BYTES = 2**30  # of a file
MAX_IMAGES = 1_000_000  # of a video; EK100's longest has 221,566
MAX_BOXES = 1_000  # in an image

# Two videos were first published with wrongly extracted images, and their detections with them; the right
# tars have so many.
CORRECTED = {"P01_109": 185_406, "P27_103": 122_432}

Corners = tuple[float, float, float, float]  # left, top, right, bottom in fractions of the frame


class Detections(NamedTuple):
    """What the detector said of one image, in its order."""

    image: int  # of the released tar, from 1
    hands: list[tuple[float, str, Corners]]  # score, "right" or "left", box
    objects: list[tuple[float, Corners]]  # score, box


def read_detections(path: Path, video_id: str, retries: int = 0) -> Iterator[Detections]:
    """The images of a video's file, in order. Raises DataError, naming file and frame, for whatever is not
    that; SystemFault where the file cannot be read, `retries` times more than once.
    """
    before = 0
    for place, message in enumerate(_pickled_messages(path, retries), 1):
        where = f"{path}: frame {place}"
        try:
            named, seen = _detections(message)
        except ValueError as error:
            raise DataError(f"{where}: {error}; download the file again") from None
        # EPIC's own program notes a time when the messages named the participant alone
        if named not in (video_id, video_id.partition("_")[0]):
            raise DataError(f"{where}: is of video {named!r}, not of {video_id}; the file has the wrong name")
        if not before < seen.image <= MAX_IMAGES:
            raise DataError(
                f"{where}: is image {seen.image:,} after {before:,}; expected are rising numbers from 1"
            )
        before = seen.image
        yield seen
    if before > CORRECTED.get(video_id, before):
        raise DataError(
            f"{path}: goes on to image {before:,}, and the corrected {video_id} has {CORRECTED[video_id]:,}: "
            "this is the first edition, made from wrong images; the README of "
            "epic-kitchens-100-hand-object-bboxes links the corrected file"
        )


PICKLED_BYTES = {"SHORT_BINBYTES", "BINBYTES", "BINBYTES8"}
PICKLED_LIST = {
    "PROTO",
    "FRAME",
    "EMPTY_LIST",
    "MARK",
    "APPEND",
    "APPENDS",
    "BINPUT",
    "LONG_BINPUT",
    "MEMOIZE",
    "STOP",
}


def _pickled_messages(path: Path, retries: int) -> list[bytes]:
    """The values of a pickled list of bytes.

    No unpickler runs: one can be made to call what a file names, and even one that finds no names can be made
    to fill the memory. This walks over the instructions, knows those that such a list takes and stops at any
    other.
    """
    size = patiently(path, retries, path.stat).st_size
    if size > MAX_BYTES:
        raise DataError(f"{path}: has {size:,} bytes; more than {MAX_BYTES:,} are not read as detections")
    data = read_whole(path, retries)
    messages: list[bytes] = []
    lists = 0
    try:
        for instruction, value, _ in pickletools.genops(data):
            if instruction.name in PICKLED_BYTES and isinstance(value, bytes):
                messages.append(value)
            elif instruction.name not in PICKLED_LIST:
                raise ValueError(f"it uses {instruction.name}, and nothing in it is run")
            lists += instruction.name == "EMPTY_LIST"
        if lists != 1:
            raise ValueError(f"it makes {lists} lists")
    except ValueError as error:
        raise DataError(
            f"{path}: is not a pickled list of bytes ({error}); download the file again"
        ) from None
    return messages


# The layout of the messages (types.proto of epic-kitchens-100-hand-object-bboxes), field number -> kind. Read
# here and not by the protobuf package: four small messages do not pay for a dependency, generated code and
# silence on unknown fields.
VARINT, BYTES, FLOAT = 0, 2, 5  # protobuf's wire types
IMAGE_FIELDS = {1: BYTES, 2: VARINT, 3: BYTES, 4: BYTES}  # video id, image number, hands, objects
# box, score, state, offset to the object, side
HAND_FIELDS = {1: BYTES, 2: FLOAT, 3: VARINT, 4: BYTES, 5: VARINT}
OBJECT_FIELDS = {1: BYTES, 2: FLOAT}  # box, score
BOX_FIELDS = {1: FLOAT, 2: FLOAT, 3: FLOAT, 4: FLOAT}  # left, top, right, bottom
SIDES = {0: "left", 1: "right"}
_FLOAT = struct.Struct("<f")


def _detections(message: bytes) -> tuple[str, Detections]:
    """One message -> the video it names, and what it says. An absent field is 0, as everywhere in proto3."""
    video_id, image = "", 0
    hands: list[tuple[float, str, Corners]] = []
    objects: list[tuple[float, Corners]] = []
    for field, value in _fields(message, IMAGE_FIELDS):
        if field == 1:
            video_id = value.decode()
        elif field == 2:
            image = value
        elif field == 3:
            hand = dict(_fields(value, HAND_FIELDS))
            side = hand.get(5, 0)
            if side not in SIDES:
                raise ValueError(f"a hand's side is {side}, neither 0 (left) nor 1 (right)")
            hands.append((_score(hand), SIDES[side], _box(hand)))
        else:
            found = dict(_fields(value, OBJECT_FIELDS))
            objects.append((_score(found), _box(found)))
    if max(len(hands), len(objects)) > MAX_BOXES:
        raise ValueError(f"holds more than {MAX_BOXES:,} boxes")
    return video_id, Detections(image, hands, objects)


def _score(detection: Mapping[int, Any]) -> float:
    score = detection.get(2, 0.0)
    if not math.isfinite(score):
        raise ValueError(f"a score is {score}")
    return score


def _box(detection: Mapping[int, Any]) -> Corners:
    sides = dict(_fields(detection.get(1, b""), BOX_FIELDS))
    left, top, right, bottom = (sides.get(side, 0.0) for side in BOX_FIELDS)
    if not (0 <= left <= right <= 1 and 0 <= top <= bottom <= 1):  # NaN fails too
        said = f"{left:g}, {top:g}, {right:g}, {bottom:g}"
        raise ValueError(f"a box is {said}, not left, top, right, bottom in fractions of the frame")
    return left, top, right, bottom


def _fields(message: bytes, kinds: Mapping[int, int]) -> Iterator[tuple[int, Any]]:
    """A protobuf message -> number and value (int, float or bytes) of its fields.

    Raises ValueError for a field that is not in `kinds`.
    """
    at, end = 0, len(message)
    while at < end:
        if message[at] < 0x80:  # most are one byte
            tag, at = message[at], at + 1
        else:
            tag, at = _varint(message, at)
        field, kind = tag >> 3, tag & 7
        if kinds.get(field) != kind:
            raise ValueError(f"field {field} of kind {kind} is not in the published layout")
        if kind == FLOAT:
            if end - at < 4:
                raise ValueError(f"ends in the middle of field {field}")
            yield field, _FLOAT.unpack_from(message, at)[0]
            at += 4
            continue
        number, at = _varint(message, at)
        if kind == VARINT:
            yield field, number
            continue
        if end - at < number:
            raise ValueError(f"ends in the middle of field {field}")
        yield field, message[at : at + number]
        at += number


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """A number in groups of seven bits, the low ones first, and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("ends in the middle of a number")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("holds a number of more than ten bytes")
