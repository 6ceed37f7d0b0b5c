"""Messages of hand-object detections, written byte by byte."""

import pickle
import struct

LEFT, RIGHT = 0, 1  # EPIC's numbers


def varint(value):
    return bytes([value & 127 | 128]) + varint(value >> 7) if value > 127 else bytes([value])


def number(field, value):
    return varint(field << 3) + varint(value)


def real(field, value):
    return varint(field << 3 | 5) + struct.pack("<f", value)


def part(field, value):
    return varint(field << 3 | 2) + varint(len(value)) + value


def box_message(corners):
    """As protobuf writes it: a field that is 0 is left out."""
    return b"".join(real(field, side) for field, side in enumerate(corners, 1) if side)


def hand_message(side, score, corners):
    offset = part(4, real(1, 0.125) + real(2, -0.25))
    return (
        part(1, box_message(corners))
        + real(2, score)
        + number(3, 3)
        + offset
        + (number(5, side) if side else b"")
    )


def object_message(score, corners):
    return part(1, box_message(corners)) + real(2, score)


def image_message(image, hands=(), objects=(), video="P01_01"):
    """hands: (side, score, box); objects: (score, box)."""
    parts = [part(3, hand_message(*hand)) for hand in hands] + [
        part(4, object_message(*found)) for found in objects
    ]
    return part(1, video.encode()) + number(2, image) + b"".join(parts)


def write(path, value, protocol=4):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path
