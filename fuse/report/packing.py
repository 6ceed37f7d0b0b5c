"""What a page holds of thousands of rows, as text that a browser unpacks: bytes, deflated (RFC 1950), base64.

A probability p is one byte, round(255 * sqrt(p)): it comes back within sqrt(p) / 255, so within 0.4 points.
Of the answers of a run, N rows, target by target:

    K times     N numbers of classes, into the list of names of the target; their lowest bytes first, then the
                next ones. The number after the last name: the run does not have the row
    K times     N probabilities
    once        N probabilities of the label
"""

import base64
import json
import zlib
from collections.abc import Sequence
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


def pack_answers(targets: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray, int]]) -> str:
    """Of each target: numbers (N, K), probabilities (N, K), those of the label (N,), bytes of a number."""
    found = []
    for numbers, probabilities, of_label, width in targets:
        found += [planes(column, width) for column in numbers.T]
        found += [coarse(column).tobytes() for column in probabilities.T]
        found.append(coarse(of_label).tobytes())
    return pack(b"".join(found))
