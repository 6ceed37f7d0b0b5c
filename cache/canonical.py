"""JSON that is always the same bytes for the same content, and digests of it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

JSON = None | bool | int | float | str | Sequence["JSON"] | Mapping[str, "JSON"]


def canonical_json(value: JSON) -> bytes:
    """The form that digests are taken of: sorted keys, no spaces. Raises ValueError for NaN and infinity."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def pretty_json(value: JSON) -> bytes:
    """The form of files: sorted keys, a key a line. Raises ValueError for NaN and infinity."""
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def digest(value: JSON) -> str:
    """sha256 of the canonical JSON of a value."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def differences(old: JSON, new: JSON, path: str = "") -> list[str]:
    """The fields in which two JSON values differ, each as `field: old -> new`."""
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return [] if old == new else [f"{path}: {old!r} -> {new!r}"]
    lines = []
    for key in sorted(old.keys() | new.keys()):
        lines += differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    return lines


def sha256(data: bytes | memoryview) -> str:
    """In hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: Path) -> str:
    """Of a file's content, read block by block. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
