"""Sending a store or a head to a hub.

What the hub has already is not sent again, so that the same command goes on where it was stopped. Files go in
batches; manifest.json goes last and alone, once all that it lists is there, and is taken away first where
something of it is not: whoever pulls meanwhile finds a repository that is not whole, and is told so.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mambavl.cache.spec import MANIFEST
from mambavl.configs.errors import Interrupted, UsageError, some
from mambavl.configs.progress import Progress, ShouldStop, never, unseen
from mambavl.hub.client import Hub, Place, There, opened
from mambavl.hub.faults import Passing, in_rounds
from mambavl.hub.parcel import Parcel, Piece
from mambavl.hub.tables import FOLDER

# A batch is one commit, of which a hub allows a user only so many an hour. What is in its storage before the
# commit is not sent again, but small files travel with the commit itself.
BATCH_FILES, BATCH_BYTES = 64, 2**30
COMMITS = 64  # about as many for the largest store
MOST = 2**26  # bytes of a manifest of the hub's


@dataclass(frozen=True)
class Pushed:
    """What `push` did."""

    url: str
    sent: int  # files
    bytes: int  # of those
    there: int  # files that were there already


def push(
    parcel: Parcel,
    repo: str,
    *,
    revision: str | None = None,
    replace: bool = False,
    endpoint: str | None = None,
    progress: Progress = unseen,
    should_stop: ShouldStop = never,
) -> Pushed:
    """Send a parcel to `user/name`, which is made where it is not there.

    revision: a branch, made where there is none. replace: put it in the place of another store or head.
    Raises UsageError, before anything is sent, for another one without `replace`, and for a public repository
    where the parcel is private; DataError where the hub refuses, or fails again and again; Interrupted
    between batches.
    """
    with opened(Place(repo, parcel.kind, revision), endpoint, to_write=True) as hub:
        in_rounds(lambda gained: _prepare(hub, parcel))
        known = in_rounds(lambda gained: hub.files())
        obsolete = in_rounds(lambda gained: _obsolete(hub, parcel, known, replace))
        there = len(parcel.all) - len(_missing(parcel.all, known))
        sender = _Sender(hub, parcel, obsolete, progress, should_stop)
        in_rounds(sender.run)
        return Pushed(hub.url, sender.sent, sender.bytes, there)


def _prepare(hub: Hub, parcel: Parcel) -> None:
    found = hub.is_private()
    if found is None:
        hub.create(private=parcel.private)
        found = hub.is_private()
    if parcel.private and not found:
        raise UsageError(
            f"{hub.place}: is public, and --private was asked for; make it private, or name another one"
        )
    hub.create_branch()


def _obsolete(hub: Hub, parcel: Parcel, known: dict[str, There], replace: bool) -> list[str]:
    """Files of another store or head that is there. Raises UsageError unless it is to be replaced."""
    if MANIFEST not in known or not _missing({MANIFEST: parcel.manifest}, known):
        return []
    commit = hub.commit()
    data = commit and hub.content(MANIFEST, commit, MOST)
    try:
        found = json.loads(data or b"{}")
        other, listed = str(found.get("store_id", found.get("head_id"))), [*found.get("files", {})]
    except (ValueError, AttributeError, TypeError, RecursionError):
        other, listed = "unknown", []
    if not replace:
        raise UsageError(
            f"{hub.place}: holds another store or head ({hub.say(other)[:16]!r}); name another "
            f"repository, or put this one ({parcel.id[:16]}) in its place with --replace"
        )
    beside = [name for name in known if name.startswith(f"{FOLDER}/")]
    return [name for name in {*listed, *beside} if name in known and name not in parcel.all]


@dataclass
class _Sender:
    """One push; `run` does what is left of it."""

    hub: Hub
    parcel: Parcel
    obsolete: Sequence[str]
    progress: Progress
    should_stop: ShouldStop
    sent: int = 0
    bytes: int = 0
    fewest: int | None = None  # files that were lacking, at best

    def run(self, gained: Callable[[], None]) -> None:
        known = self.hub.files()
        if MANIFEST in known and _missing({**self.parcel.files, MANIFEST: self.parcel.manifest}, known):
            gone = [MANIFEST, *(name for name in self.obsolete if name in known)]
            self.hub.send([], gone, "not whole until manifest.json is back")
        files = {**self.parcel.beside, **self.parcel.files}
        missing = _missing(files, known)
        if self.fewest is None or len(missing) < self.fewest:
            self.fewest = len(missing)
            gained()
        total = sum(piece.size for piece in files.values())
        left = sum(files[name].size for name in missing)
        for batch in _batches(missing, files):
            if self.should_stop():
                raise Interrupted(f"{self.hub.place}: stopped; run the same command again to go on")
            self.progress(total - left, total)
            self._send(batch, files, f"{len(batch)} files of {self.parcel.id[:16]}")
            left -= sum(files[name].size for name in batch)
        self._refuse_others(files)
        if _missing({MANIFEST: self.parcel.manifest}, known) or missing:
            self._send([MANIFEST], self.parcel.all, f"{self.parcel.id[:16]} is whole")
            self._refuse_others(self.parcel.all)
        self.progress(total, total)

    def _refuse_others(self, files: dict[str, Piece]) -> None:
        """Raises Passing where the hub has not what it was sent."""
        if missing := _missing(files, self.hub.files()):
            raise Passing(f"{self.hub.place}: the hub was sent {some(missing)} and has not the same there")

    def _send(self, names: Sequence[str], files: dict[str, Piece], said: str) -> None:
        self.hub.send([(name, files[name].content, files[name].sha256) for name in names], [], said)
        self.sent += len(names)
        self.bytes += sum(files[name].size for name in names)


def _missing(files: dict[str, Piece], known: dict[str, There]) -> list[str]:
    return [name for name, piece in files.items() if name not in known or not _is_same(piece, known[name])]


def _is_same(piece: Piece, there: There) -> bool:
    if piece.size != there.size:
        return False
    if there.sha256 is not None:
        return piece.sha256 == there.sha256
    data = piece.read()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() == there.git_sha1


def _batches(names: Sequence[str], files: dict[str, Piece]) -> Iterator[list[str]]:
    """Of limited number and size, which grow with the whole so that commits stay few."""
    most_files = max(BATCH_FILES, len(names) // COMMITS)
    most_bytes = max(BATCH_BYTES, sum(files[name].size for name in names) // COMMITS)
    batch: list[str] = []
    size = 0
    for name in names:
        if batch and (len(batch) == most_files or size + files[name].size > most_bytes):
            yield batch
            batch, size = [], 0
        batch.append(name)
        size += files[name].size
    if batch:
        yield batch
