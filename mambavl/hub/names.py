"""Names that come from a server, before any of them becomes a file: none may lead out of its folder.

What is refused here is refused on every system, so that what one machine has pulled another can pull, too.
"""

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from mambavl.configs.errors import DataError

LONGEST = 255  # bytes of a part of a path, on most file systems
FORBIDDEN = frozenset('<>:"|?*\\')  # in a name on Windows; a colon also names a drive or a stream
RESERVED = re.compile(r"(CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|COM[0-9¹²³]|LPT[0-9¹²³])(\..*)?", re.IGNORECASE)


def check_names(names: Iterable[str], where: str) -> None:
    """Raises DataError, with the name and what is wrong with it, unless all may be files below one folder at
    the same time.
    """
    seen: dict[str, str] = {}
    folders: dict[str, str] = {}
    for name in names:
        if fault := _fault(name):
            raise DataError(f"{where}: names a file {name!r}, which {fault}; nothing of it was written")
        other = seen.setdefault(_folded(name), name)
        if other != name:
            raise DataError(f"{where}: {name!r} and {other!r} are one file where case does not count")
        for parent in [str(one) for one in PurePosixPath(name).parents][:-1]:
            if folders.setdefault(_folded(parent), parent) != parent:
                other = folders[_folded(parent)]
                raise DataError(f"{where}: {parent!r} and {other!r} are one folder where case does not count")
    for folded, name in folders.items():
        if folded in seen:
            raise DataError(f"{where}: {seen[folded]!r} is a file, and {name!r} a folder")


def place_of(folder: Path, name: str) -> Path:
    """Where a checked name lies. Raises DataError where a link stands on the way, which would lead out."""
    found = folder
    for part in PurePosixPath(name).parts:
        found = found / part
        if found.is_symlink():
            raise DataError(f"{found}: is a link; delete it, then run the same command again")
    return found


def _fault(name: object) -> str | None:
    if not isinstance(name, str) or not name:
        return "is no name"
    for part in name.split("/"):
        if part in ("", ".", ".."):
            return "leads out of its folder"
        if any(letter in FORBIDDEN or unicodedata.category(letter)[0] == "C" for letter in part):
            return "has a character that some systems do not allow"
        if part[-1] in " ." or RESERVED.fullmatch(part):
            return "is another file, or none, on Windows"
        if len(part.encode()) > LONGEST:
            return f"has a part of more than {LONGEST} bytes"
    return None


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
