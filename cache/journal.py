"""An append-only list of small records: what is done.

One record = length (4 bytes, little endian), crc32c of the payload (4 bytes), payload (JSON). A record counts
from the moment its bytes are on the disk; a torn tail, left by a kill or a power cut, is cut off and never
guessed at. A journal has one writer at a time, which calls `cut_torn_tail` before it adds to an old one: what
stands behind a torn record is never read.
"""

import json
import struct
from pathlib import Path
from typing import Any

import google_crc32c

from mambavl.cache import fsops

_HEADER = struct.Struct("<II")


def append(path: Path, record: dict[str, Any]) -> None:
    """Write one record and wait until it is durable. Raises DataError; the record then does not count and may
    be tried again.
    """
    payload = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    fsops.append(path, _HEADER.pack(len(payload), google_crc32c.value(payload)) + payload)


def read(path: Path) -> list[dict[str, Any]]:
    """All whole records of a journal, in order; what follows the last whole one is ignored."""
    return read_from(path, 0)[0]


def read_from(path: Path, position: int) -> tuple[list[dict[str, Any]], int]:
    """The whole records from a place on, and the place after them, to follow what others write."""
    with open(path, "rb") as file:
        file.seek(position)
        found, length = _scan(file.read())
    return found, position + length


def torn_bytes(path: Path) -> int:
    """Bytes behind the last whole record: 0, unless a writer was killed or the file is damaged."""
    data = path.read_bytes()
    return len(data) - _scan(data)[1]


def cut_torn_tail(path: Path) -> int:
    """Remove what a kill left behind the last whole record; returns the bytes removed. For the journal's own
    writer only.
    """
    if not path.exists():
        return 0
    torn = torn_bytes(path)
    if torn:
        fsops.truncate(path, path.stat().st_size - torn)
    return torn


def _scan(data: bytes) -> tuple[list[dict[str, Any]], int]:
    position, records = 0, []
    while position + _HEADER.size <= len(data):
        length, crc = _HEADER.unpack_from(data, position)
        payload = data[position + _HEADER.size : position + _HEADER.size + length]
        # zeros would be a sound empty record
        if not length or len(payload) < length or google_crc32c.value(payload) != crc:
            break
        records.append(json.loads(payload))
        position += _HEADER.size + length
    return records, position
