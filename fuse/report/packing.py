"""What a page holds of thousands of rows, as text that a browser unpacks: bytes, deflated (RFC 1950), base64.

A probability p is one byte, round(255 * sqrt(p)): it comes back within sqrt(p) / 255, so within 0.4 points.
Of the answers of a run, N rows, target by target:

    K times     N numbers of classes, into the list of names of the target; their lowest bytes first, then the
                next ones. The number after the last name: the run does not have the row
    K times     N probabilities
    once        N probabilities of the label

A combination has no names, but a number that is made of its parts' places in their lists, the last part
counting fastest. Of one that is ranked by the product of its parts' probabilities there is less, since a part
is among its K best: only K times N ranks, likewise made of the places of the parts among these. Its
probabilities are the products, so within 0.8 points of two parts.
"""

import base64
import json
import zlib
from typing import Any

import numpy as np

STEPS = 255


def pack(data: bytes) -> str:
    """Bytes as text of a page."""
    return base64.b64encode(zlib.compress(data, 9)).decode("ascii")


def pack_json(found: Any) -> str:
    """A JSON value, UTF-8. Halves of characters, which UTF-8 does not have, stay JSON's escapes."""
    return pack(json.dumps(found, separators=(",", ":"), allow_nan=False).encode())


def width_of(names: int) -> int:
    """How many bytes a number into a list of names takes, and the one after the last."""
    return max(1, (int(names).bit_length() + 7) // 8)


def planes(numbers: np.ndarray, width: int) -> bytes:
    """(N,) numbers -> their lowest bytes, then the next ones."""
    wide = numbers.astype("<u8")
    return b"".join(((wide >> (8 * place)) & 0xFF).astype(np.uint8).tobytes() for place in range(width))


def coarse(probabilities: np.ndarray) -> np.ndarray:
    """Probabilities as bytes, see above."""
    return np.rint(STEPS * np.sqrt(np.clip(probabilities, 0, 1))).astype(np.uint8)


def answers(numbers: np.ndarray, width: int, probabilities: np.ndarray, of_label: np.ndarray) -> bytes:
    """Of a target: numbers (N, K) of `width` bytes, probabilities (N, K), those of the label (N,)."""
    found = [planes(column, width) for column in numbers.T]
    found += [coarse(column).tobytes() for column in probabilities.T]
    return b"".join([*found, coarse(of_label).tobytes()])


def ranks(numbers: np.ndarray, width: int) -> bytes:
    """Of a target that is ranked by a product: ranks (N, K) of `width` bytes."""
    return b"".join(planes(column, width) for column in numbers.T)
