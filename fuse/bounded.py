"""A stranger's JSON, bare or in a zip, read within bounds: nothing in it is run, and neither its size nor
what a zip unpacks to nor what its text becomes can fill the memory.
"""

import io
import json
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mambavl.configs.errors import some

MAX_BYTES = 512 * 2**20  # of a file, and of what is in it
MAX_VALUE = 2**18  # characters of what is read at once
MAX_MEMBERS = 1000  # of a zip: the list of a million would fill the memory

_SPACE = re.compile(r"[ \t\n\r]*")
_ZIP = (b"PK\3\4", b"PK\5\6")  # the second begins an empty one
_ENTRY = b"PK\1\2"  # begins each entry of a zip's list


class Unreadable(Exception):
    """No more can be said of a file than this, in one line."""


def read_text(path: Path, member: str, fault: Callable[[str], None]) -> str:
    """The text of a file, or of `member` of a zip. fault: is told what is wrong with the zip. Raises
    Unreadable.
    """
    try:
        if not path.is_file():
            raise Unreadable("is a folder or no ordinary file" if path.exists() else "there is no such file")
        if path.stat().st_size > MAX_BYTES:
            raise Unreadable(f"is larger than {MAX_BYTES:,} bytes, and is not read")
        data = path.read_bytes()
    except OSError as error:
        raise Unreadable(f"cannot be read ({error.strerror or error})") from None
    if data.startswith(_ZIP):
        data = _unpacked(data, member, fault)
    elif data.startswith(b"\x80"):
        raise Unreadable("is a pickle, which is not opened; JSON is")
    elif path.suffix == ".zip":
        raise Unreadable("is called .zip and is none")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unreadable(f"is not text in UTF-8 (byte {error.start:,})") from None


def _unpacked(data: bytes, member: str, fault: Callable[[str], None]) -> bytes:
    if data.count(_ENTRY) > MAX_MEMBERS:
        raise Unreadable(
            f"the zip holds more than {MAX_MEMBERS:,} members; it holds {member} and nothing else"
        )
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            names = [one.filename for one in packed.infolist()]
            if names != [member]:
                listed = some([repr(name) for name in names]) or "nothing"
                fault(f"the zip holds {listed}; it holds {member} and nothing else, in no folder")
            chosen = _chosen(packed.infolist(), member)
            if chosen.file_size > MAX_BYTES:
                raise Unreadable(
                    f"{chosen.filename!r} unpacks to {chosen.file_size:,} bytes, and is not read"
                )
            with packed.open(chosen) as file:
                unpacked = file.read(MAX_BYTES + 1)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise Unreadable(f"the zip cannot be unpacked ({_one_line(error)})") from None
    if len(unpacked) > MAX_BYTES:
        raise Unreadable(f"{chosen.filename!r} unpacks to more than {MAX_BYTES:,} bytes")
    return unpacked


def _chosen(members: list[zipfile.ZipInfo], member: str) -> zipfile.ZipInfo:
    """The one that is meant, whatever its folder; or the only one, whatever its name."""
    meant = [one for one in members if Path(one.filename).name == member]
    if not meant and len(members) != 1:
        raise Unreadable(f"the zip has no {member} to read")
    return (meant or members)[0]


class Scanner:
    """A place in a text of JSON, and what stands there."""

    def __init__(self, text: str) -> None:
        self.text, self.place = text, 0
        self.twice: list[str] = []  # keys that stood twice in an object of a value
        self._decode = json.JSONDecoder(object_pairs_hook=self._object).raw_decode

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            self.twice += [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        return found

    def next(self) -> str:
        """The next character that is no space; empty at the end."""
        space = _SPACE.match(self.text, self.place)
        assert space is not None  # it matches nothing, too
        self.place = space.end()
        return self.text[self.place : self.place + 1]

    def take(self, character: str) -> None:
        """Go on behind it. Raises Unreadable where another stands there."""
        if (there := self.next()) != character:
            what = repr(there) if there else "its end"
            raise Unreadable(f"is not JSON: {what} at character {self.place:,}, where {character!r} belongs")
        self.place += 1

    def value(self) -> Any:
        """Any value of at most MAX_VALUE characters. Raises Unreadable for a longer one."""
        self.next()
        part = self.text[self.place : self.place + MAX_VALUE]
        try:
            found, length = self._decode(part)
        except (ValueError, RecursionError) as error:
            where = f"character {self.place:,}"
            if len(part) == MAX_VALUE:
                why = f"what begins at {where} is longer than {MAX_VALUE:,} characters, or is not JSON"
                raise Unreadable(why) from None
            why = error.msg if isinstance(error, json.JSONDecodeError) else _one_line(error)
            raise Unreadable(f"is not JSON, at or after {where}: {why}") from None
        self.place += length
        return found

    def members(self) -> Iterator[str]:
        """The keys of the object that begins here. Whoever is given one reads its value next."""
        self.take("{")
        if self.next() == "}":
            self.place += 1
            return
        while True:
            key = self.value()
            if not isinstance(key, str):
                raise Unreadable(f"is not JSON: the key before character {self.place:,} is no text")
            self.take(":")
            yield key
            if self.next() == "}":
                self.place += 1
                return
            self.take(",")


def _one_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
