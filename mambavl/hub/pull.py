"""Fetching a store or a head from a hub: into a folder beside, which gets its name once all of it is sound.

    OUT.part/               what has come so far; the same command goes on from there
      NAME.part             a file that is on its way
    OUT                     once every file has the size and sha256 of manifest.json

The server is a stranger: its names never leave the folder, no more is written than its manifest says, and
nothing that came is run. Weights are read as safetensors or not at all.
"""

import json
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mambavl.cache import canonical, fsops
from mambavl.cache.finalize import finalize
from mambavl.cache.layout import Layout
from mambavl.cache.spec import COMMIT, MANIFEST, SPEC, read_spec
from mambavl.cache.verify import is_itself, seal, verify
from mambavl.configs.errors import DataError, Interrupted, UsageError
from mambavl.configs.progress import Progress, ShouldStop, never, unseen
from mambavl.fuse.export import CARD
from mambavl.hub.client import Hub, Kind, Place, opened
from mambavl.hub.faults import WrongBytes, in_rounds
from mambavl.hub.names import check_names, place_of
from mambavl.hub.parcel import HEAD_FILES, check_head, head_manifest

PART = ".part"  # ends the name of what is on its way, a folder or a file
LOCK = "pull.lock"
WORKERS = 4  # files that are fetched at a time
MOST = 2**26  # bytes of a manifest
MOST_CARD = 2**20  # bytes of a store's card, which no manifest vouches for
TYPES: dict[str, Kind] = {"datasets": "dataset", "models": "model"}  # as hubs put them before a name


@dataclass(frozen=True)
class Pulled:
    """What `pull` did."""

    kind: str  # `store` or `head`
    id: str
    files: int
    fetched: int  # of them
    bytes: int  # that came


def pull(
    repo: str,
    out: Path,
    *,
    revision: str | None = None,
    endpoint: str | None = None,
    progress: Progress = unseen,
    should_stop: ShouldStop = never,
) -> Pulled:
    """Fetch the store or head of `user/name` and put it at `out`, where nothing may be yet.

    repo: `datasets/user/name` or `models/user/name` where both are there. revision: a branch, tag or commit.
    Raises DataError for what is not whole, is not what its manifest says, or names files that it may not;
    UsageError where `out` is there; Interrupted between files.
    """
    out = Path(out).absolute()
    if out.exists() or out.is_symlink():
        raise UsageError(f"{out}: is there already; name a new folder")
    kind, name = _split(repo)
    with opened(Place(name, kind or "dataset", revision), endpoint) as hub:
        hub, commit = in_rounds(lambda gained: _found(hub, kind))
        listed = in_rounds(lambda gained: _manifest(hub, commit))
        part = out.with_name(out.name + PART)
        if part.is_symlink():
            raise DataError(f"{part}: is a link; delete it, then run the same command again")
        fsops.make_folder(part)
        held = fsops.lock(place_of(part, LOCK), exclusive=True, wait=False)
        if held is None:
            raise DataError(f"{part}: another process is fetching it; let it end first")
        try:
            fetcher = _Fetcher(hub, commit, part, progress, should_stop)
            _fetch_all(fetcher, listed)
            _finish(part, listed, hub)
            fsops.remove(part / LOCK)
            fsops.rename(part, out)
        finally:
            fsops.unlock(held)
    return Pulled(listed.kind, listed.id, len(listed.files), fetcher.fetched, fetcher.bytes)


@dataclass(frozen=True)
class _Listed:
    """A manifest that was fetched, and whose names are harmless."""

    kind: str
    id: str
    data: bytes
    files: Mapping[str, tuple[int, str]]
    spec_sha256: str = ""


def _split(repo: str) -> tuple[Kind | None, str]:
    first, _, rest = repo.partition("/")
    return (TYPES[first], rest) if first in TYPES and "/" in rest else (None, repo)


def _found(hub: Hub, kind: Kind | None) -> tuple[Hub, str]:
    """The repository, of whatever kind, and the commit that everything is fetched from."""
    commits = {
        one: commit
        for one in ([kind] if kind else TYPES.values())
        if (commit := hub.of(one).commit()) is not None
    }
    if not commits:
        raise DataError(
            f"{hub.place}: there is no such repository, or it is private and the token may not see it "
            "(`hf auth login`)"
        )
    if len(commits) > 1:
        raise UsageError(
            f"{hub.place}: a store and a head have this name; write datasets/{hub.place.repo} or "
            f"models/{hub.place.repo}"
        )
    [(one, commit)] = commits.items()
    return hub.of(one), commit


def _manifest(hub: Hub, commit: str) -> _Listed:
    """manifest.json, checked as far as it can be without the other files."""
    data = hub.content(MANIFEST, commit, MOST)
    if data is None:
        raise DataError(
            f"{hub.place}: has no {MANIFEST}, so it is not whole: it is none of ours, or its `mambavl push` "
            "was stopped; whoever made it runs that command again"
        )
    try:
        found = json.loads(data)
        files = {name: _entry(entry) for name, entry in found["files"].items()}
        if "store_id" in found:
            listed = _Listed("store", str(found["store_id"]), data, files, str(found["spec_sha256"]))
            is_sound = is_itself(found)
        else:
            listed = _Listed("head", str(found["head_id"]), data, files)
            is_sound = found == head_manifest(files)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{hub.place}: its {MANIFEST} is none that `mambavl push` sends ({type(error).__name__})"
        ) from None
    if not is_sound:
        raise DataError(f"{hub.place}: its {MANIFEST} does not match its own id; it must be pushed anew")
    check_names([*files, MANIFEST, CARD, LOCK], f"{hub.place}: {MANIFEST}")
    if listed.kind == "head" and files.keys() != set(HEAD_FILES):
        raise DataError(
            f"{hub.place}: a head is {', '.join(HEAD_FILES)}, and this lists {', '.join(sorted(files))}; no "
            "other form of weights is read"
        )
    if listed.kind == "store" and SPEC not in files:
        raise DataError(f"{hub.place}: its {MANIFEST} lists no {SPEC}, so it is no store")
    return listed


def _entry(entry: Any) -> tuple[int, str]:
    size, sha256 = entry
    if type(size) is not int or size < 0 or type(sha256) is not str or len(sha256) != 64:
        raise ValueError("not a size and a sha256")
    return size, sha256


@dataclass
class _Fetcher:
    """Fetches single files, several at a time."""

    hub: Hub
    commit: str
    part: Path
    progress: Progress
    should_stop: ShouldStop
    fetched: int = 0
    bytes: int = 0
    wrong: dict[str, int] = field(default_factory=dict)  # name -> how often other bytes came
    lock: threading.Lock = field(default_factory=threading.Lock)  # of the two counts

    def fetch(self, name: str, size: int, sha256: str, gained: Callable[[], None]) -> None:
        """Have a file, of this size and sha256; one that is there already is not fetched again.

        Raises DataError where other bytes came twice.
        """
        target = place_of(self.part, name)
        if _is(target, size, sha256):
            return
        fsops.make_folder(target.parent)
        coming = place_of(self.part, name + PART)

        def came(count: int) -> None:
            with self.lock:
                self.bytes += count
            gained()

        while True:
            what = "with another sha256"
            try:
                self.hub.fetch(name, self.commit, coming, size, came)
            except WrongBytes as error:
                what = f"with another size ({error})"
            else:
                if canonical.file_sha256(coming) == sha256:
                    break
            fsops.remove(coming)
            self.wrong[name] = self.wrong.get(name, 0) + 1
            if self.wrong[name] == 2:
                raise DataError(
                    f"{self.hub.place}: {name} came twice {what} than {MANIFEST} gives; push it anew"
                )
        fsops.sync_file(coming)
        fsops.rename(coming, target)
        with self.lock:
            self.fetched += 1

    def fetch_all(self, files: Mapping[str, tuple[int, str]], gained: Callable[[], None]) -> None:
        total, done = sum(size for size, _ in files.values()), 0
        with ThreadPoolExecutor(WORKERS) as pool:
            futures = {
                pool.submit(self.fetch, name, size, sha256, gained): size
                for name, (size, sha256) in files.items()
            }
            try:
                for future in as_completed(futures):
                    future.result()
                    done += futures[future]
                    self.progress(done, total)
                    if self.should_stop():
                        raise Interrupted(f"{self.part}: stopped; run the same command again to go on")
            finally:
                pool.shutdown(cancel_futures=True)


def _fetch_all(fetcher: _Fetcher, listed: _Listed) -> None:
    """What a store is follows from its spec, so that comes first, and is held against the manifest."""
    part, files = fetcher.part, dict(listed.files)
    free, needed = fsops.free_bytes(part), sum(size for size, _ in files.values())
    have = sum(file.lstat().st_size for file in part.rglob("*") if file.is_file())
    if needed - have > free:
        raise DataError(f"{part}: {needed - have:,} bytes are to come, and {free:,} are free on the disk")
    if listed.kind == "store":
        in_rounds(lambda gained: fetcher.fetch(SPEC, *files[SPEC], gained))
        layout = Layout.from_spec(read_spec(part))
        if layout.spec_sha256 != listed.spec_sha256 or layout.groups > len(files):
            raise DataError(f"{fetcher.hub.place}: its {SPEC} and its {MANIFEST} are of different stores")
    in_rounds(lambda gained: fetcher.fetch_all(files, gained))
    if CARD not in files:
        card = in_rounds(lambda gained: fetcher.hub.content(CARD, fetcher.commit, MOST_CARD))
        if card is not None:
            fsops.write_file(place_of(part, CARD), card)


def _is(path: Path, size: int, sha256: str) -> bool:
    return path.is_file() and path.stat().st_size == size and canonical.file_sha256(path) == sha256


def _finish(part: Path, listed: _Listed, hub: Hub) -> None:
    """All files are there: take away what is not of them, write the manifest, and read every byte once more.

    Raises DataError where the whole is not sound; then it has no manifest, and is fetched anew.
    """
    wanted = {place_of(part, name) for name in (*listed.files, CARD, LOCK)}
    for entry in sorted(part.rglob("*"), reverse=True):  # what is in a folder before the folder
        if entry.is_symlink() or (entry.is_file() and entry not in wanted):
            fsops.remove(entry)
        elif entry.is_dir() and not any(entry.iterdir()):
            fsops.remove_folder(entry)
    if listed.kind == "head":
        check_head(part)
        fsops.write_file(part / MANIFEST, listed.data)
        return
    fsops.make_folder(part / COMMIT)
    seal(part)  # of no journals: they tell how a store was made, and this one came whole
    fsops.write_file(part / MANIFEST, listed.data)
    try:
        faults = verify(part, deep=True)
    except DataError as error:
        faults = [str(error)]
    if faults:
        fsops.remove(part / MANIFEST)
        listing = "\n  ".join(faults[:20])
        raise DataError(f"{hub.place}: came as its manifest says, and is no sound store:\n  {listing}")
    finalize(part)
