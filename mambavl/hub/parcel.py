"""What is sent to a hub: the files of a finished store, or of an exported head, and which of them goes last.

The last one is manifest.json. It names size and sha256 of the others, so that whoever pulls knows what whole
means, and a repository without it is not whole.

    a store     its own files, as its manifest lists them; beside them a card and tables of its rows
    a head      what `mambavl export` wrote; its manifest is made here
"""

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mambavl.cache import canonical
from mambavl.cache.card import store_card, terms_of_store
from mambavl.cache.classes import Classes
from mambavl.cache.licences import Terms, licence_of, refuse_public, terms_of
from mambavl.cache.reader import open_store
from mambavl.cache.spec import MANIFEST, SPEC
from mambavl.cache.verify import verify
from mambavl.configs.errors import DataError, UsageError
from mambavl.configs.progress import Progress, unseen
from mambavl.fuse.export import CARD, CONFIG, NUMBERS, export_run
from mambavl.fuse.run import MODEL, RESULT
from mambavl.hub.client import Kind
from mambavl.hub.tables import row_tables

HEAD_FILES = (MODEL, CONFIG, NUMBERS, CARD)
FORMAT = 1  # of a head's manifest
# a path from the top of a machine, of two parts or more; no address on the web
PATH = re.compile(r"(?<![\w/.-])(?:~|[A-Za-z]:)?[/\\][\w.+-]+[/\\][^\s'\",;()]*")


@dataclass(frozen=True)
class Piece:
    """A file to be sent."""

    content: Path | bytes
    size: int
    sha256: str

    @classmethod
    def of(cls, data: bytes) -> "Piece":
        return cls(data, len(data), canonical.sha256(data))

    def read(self) -> bytes:
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()


@dataclass(frozen=True)
class Parcel:
    """All that is sent."""

    kind: Kind
    id: str  # of the store or the head: the digest of its manifest
    licence: str
    files: Mapping[str, Piece]  # what the manifest lists
    beside: Mapping[str, Piece]  # what it does not: a store's card, tables of its rows
    manifest: Piece
    private: bool = False  # whether it may go into a private repository only
    paths: tuple[str, ...] = ()  # of a machine, which the files of a store name

    @property
    def all(self) -> dict[str, Piece]:
        """By name, the manifest last."""
        return {**self.beside, **self.files, MANIFEST: self.manifest}


def parcel_of(
    path: Path, licence: str | None = None, *, private: bool = False, progress: Progress = unseen
) -> Parcel:
    """What is to be sent of a store, of a run, or of a folder that `mambavl export` wrote of one.

    private: it is to be so. Reads every byte. Raises DataError for what is not finished or is damaged, with
    the command that mends it; UsageError for a licence or a public place that the data do not
    allow, and for anything else.
    """
    if (path / SPEC).exists() or ((path / MANIFEST).exists() and not (path / CONFIG).exists()):
        return _store(path, licence, private, progress)
    if (path / CONFIG).exists():
        return _head(path, licence, private)
    if (path / RESULT).exists():
        with tempfile.TemporaryDirectory() as folder:
            export_run(path, Path(folder) / "head", licence=licence)
            return _head(Path(folder) / "head", None, private)
    raise UsageError(f"{path}: is neither a feature store nor a run nor what `mambavl export` wrote of one")


def _store(path: Path, licence: str | None, private: bool, progress: Progress) -> Parcel:
    store = open_store(path, verify="read")
    terms = terms_of_store(store)
    licence = licence_of(terms, licence, path)
    if not private:
        refuse_public(terms, path)
    if faults := verify(path, deep=True, progress=progress):
        listed = "\n  ".join(faults[:20])
        raise DataError(
            f"{path}: is damaged; `mambavl cache repair {path}` re-opens what is bad:\n  {listed}"
        )
    manifest = (path / MANIFEST).read_bytes()
    entries = json.loads(manifest)["files"]
    said = [*_strings(store.spec.to_dict()), *(reason for _, _, reason in store.failures)]
    tables = row_tables(store)
    card = store_card(path, licence, {split: name for split, (name, _) in tables.items()})
    return Parcel(
        kind="dataset",
        id=store.store_id,
        licence=licence,
        files={name: Piece(path / name, size, sha256) for name, (size, sha256) in entries.items()},
        beside={CARD: Piece.of(card.encode())} | {name: Piece.of(data) for name, data in tables.values()},
        manifest=Piece.of(manifest),
        private=private,
        paths=tuple(sorted({path for text in said for path in PATH.findall(text)})),
    )


def _strings(value: Any) -> Iterator[str]:
    """All texts of a JSON value."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, str):
        yield value
    elif isinstance(value, Sequence):
        for item in value:
            yield from _strings(item)


def _head(path: Path, licence: str | None, private: bool) -> Parcel:
    if lacking := [name for name in HEAD_FILES if not (path / name).is_file()]:
        raise DataError(f"{path}: lacks {', '.join(lacking)}; write it again with `mambavl export`")
    terms = check_head(path)
    named = _licence_of_card((path / CARD).read_text(), path / CARD)
    licence_of(terms, named, path)
    if licence not in (None, named):
        raise UsageError(
            f"{path}: --licence {licence}: its card names {named}; write it again with "
            f"`mambavl export RUN --licence {licence}`"
        )
    if not private:
        refuse_public(terms, path)
    files = {name: Piece.of((path / name).read_bytes()) for name in HEAD_FILES}
    manifest = head_manifest({name: (piece.size, piece.sha256) for name, piece in files.items()})
    return Parcel(
        kind="model",
        id=manifest["head_id"],
        licence=named,
        files=files,
        beside={},
        manifest=Piece.of(canonical.pretty_json(manifest)),
        private=private,
    )


def head_manifest(files: Mapping[str, tuple[int, str]]) -> dict[str, Any]:
    """manifest.json of a head: its files, and the digest of that."""
    listed = {name: list(entry) for name, entry in files.items()}
    content: dict[str, Any] = {"format": FORMAT, "files": listed}
    return content | {"head_id": canonical.digest(content)}


def check_head(path: Path) -> Terms | None:
    """What the data allow that a head learnt from. Raises DataError unless its files are what they should be:
    weights as safetensors, which run nothing, and JSON.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path / MODEL, "pt") as weights:
            names = list(weights.keys())
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"{path / MODEL}: is not in the form of safetensors ({error})") from None
    if not names:
        raise DataError(f"{path / MODEL}: holds no weights")
    try:
        config = json.loads((path / CONFIG).read_bytes())
        json.loads((path / NUMBERS).read_bytes())
        classes = Classes.from_json(json.dumps(config["classes"]).encode())
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{path}: {CONFIG} and {NUMBERS} are not what `mambavl export` writes ({error})"
        ) from None
    return terms_of(classes)


def _licence_of_card(text: str, where: Path) -> str:
    for line in text.splitlines()[1:]:
        if line == "---":
            break
        key, _, value = line.partition(": ")
        if key == "license":
            try:
                return str(json.loads(value))
            except ValueError:
                return value.strip()
    raise DataError(f"{where}: names no licence at its head; write it again with `mambavl export`")
