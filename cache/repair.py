"""Mending a damaged store, and deleting what killed writers left.

`repair` deletes what is wrong and re-opens exactly the row groups that it belonged to, so that the command
that made the store fills them again. Sound row groups are kept as long as either the manifest or the journals
still know them. `gc` deletes the files that were never put in place.
"""

import contextlib
import json
import uuid
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mambavl.cache import fsops, journal
from mambavl.cache.layout import Layout, committed_groups, file_size, records
from mambavl.cache.rows import read_segments
from mambavl.cache.spec import (
    CLASSES,
    COMMIT,
    LOCK,
    MANIFEST,
    READABLE,
    SEAL,
    SEGMENTS,
    SPEC,
    read_json,
    read_spec,
)
from mambavl.cache.verify import Fault, file_faults, find_faults, is_itself, read_manifest
from mambavl.configs.errors import DataError
from mambavl.configs.progress import Progress, unseen


@dataclass(frozen=True)
class Repair:
    """What `repair` did."""

    faults: list[str]
    reopened: list[int]  # row groups to be extracted again
    needs_extraction: bool  # False: the store is as it was before, or can be finished without its maker


def repair(path: Path, progress: Progress = unseen) -> Repair:
    """Delete what is damaged and re-open the row groups that it belonged to. Raises DataError while somebody
    writes the store.

    What follows from the spec is written again here. The rest (features, segments.csv, classes.json, the spec
    itself) is written by the command that made the store, run again; row groups that are sound stay done.
    Data first, manifest last: a kill in between leaves a store that is still known to be damaged.
    """
    path = Path(path)
    with nobody_writing(path):
        layout: Layout | None
        try:
            layout, faults = Layout.from_spec(read_spec(path)), list(find_faults(path, True, progress))
        except DataError as error:
            if _is_of_another_version(path):
                raise
            layout, faults = None, [Fault(SPEC, str(error)), *_faults_without_spec(path, progress)]
        bad = {fault.file for fault in faults}
        said = [str(fault) for fault in faults]
        if not bad:
            return Repair(said, [], needs_extraction=False)
        if layout and bad == {MANIFEST} and not (path / MANIFEST).exists():  # sound as far as it goes
            return Repair(said, [], needs_extraction=bool(_open_groups(path, layout)))
        if SPEC in bad:
            layout = None
        if layout:
            for name in bad & layout.metadata().keys():
                fsops.write_file(path / name, layout.metadata()[name])
            bad -= layout.metadata().keys()
        for name in sorted(bad - {MANIFEST}):
            if not name.endswith(".journal"):
                fsops.remove(path / name)
        _rewrite_journals(path, layout, bad)
        for name in (SEAL, MANIFEST):
            fsops.remove(path / name)
        reopened = _open_groups(path, layout) if layout else []
        lost = any(not (path / name).exists() for name in (SPEC, SEGMENTS, CLASSES))
        return Repair(said, reopened, needs_extraction=bool(reopened) or lost)


def _is_of_another_version(path: Path) -> bool:
    """Whether a spec that cannot be used is simply one of another schema version, as zarr.json says too."""
    try:
        versions = {
            json.loads((path / SPEC).read_bytes())["schema"],
            json.loads((path / "zarr.json").read_bytes())["attributes"]["mambavl"]["schema"],
        }
    except (OSError, ValueError, LookupError, TypeError):
        return False
    return len(versions) == 1 and versions.isdisjoint(READABLE)


def _faults_without_spec(path: Path, progress: Progress) -> Iterator[Fault]:
    """Damage of the other files where the spec cannot be read: the manifest vouches for itself, else the
    journals speak.
    """
    entries = {name: entry for record in records(path) for name, entry in record["files"].items()}
    with contextlib.suppress(DataError):
        manifest = read_json(path, MANIFEST)
        if is_itself(manifest):
            entries = {name: entry for name, entry in manifest["files"].items() if name != SPEC}
    yield from file_faults(path, None, entries, True, progress)


@contextlib.contextmanager
def nobody_writing(path: Path) -> Iterator[None]:
    """Keeps a store to oneself. Raises DataError where somebody writes it, or it is none."""
    if not any((path / name).exists() for name in (SPEC, MANIFEST)):
        raise DataError(f"{path}: is not a feature store: it has neither {SPEC} nor {MANIFEST}")
    fsops.make_folder(path / COMMIT)
    held = fsops.lock(path / LOCK, exclusive=True, wait=False)
    if held is None:
        raise DataError(f"{path}: another process is writing it; let it end first")
    try:
        yield
    finally:
        fsops.unlock(held)


def _rewrite_journals(path: Path, layout: Layout | None, bad: set[str]) -> None:
    """One journal with the records of the sound row groups in place of all others.

    A re-opened row group's record must go: its files come back one by one, at the length that it gives. What
    the journals have lost the manifest still knows; without a spec nobody can tell whose records they are,
    and those that fit stay.
    """
    old = sorted((path / COMMIT).glob("*.journal"))
    if layout:
        kept = known_records(path, layout, bad)
    else:
        kept = {i: record for i, record in enumerate(records(path)) if not record["files"].keys() & bad}
    target = path / COMMIT / f"repaired-{uuid.uuid4().hex[:8]}.journal"
    for group in sorted(kept):
        journal.append(target, kept[group])
    for file in old:
        fsops.remove(file)


def known_records(path: Path, layout: Layout, bad: Set[str] = frozenset()) -> dict[int, dict[str, Any]]:
    """Row group -> its record, of those that are done: by the journals, or by the manifest where a file of
    the group is not among the `bad`.
    """
    return dict(_records_of_manifest(path, layout, bad)) | committed_groups(path, layout)


def _records_of_manifest(path: Path, layout: Layout, bad: Set[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    manifest, _ = read_manifest(path, layout)
    if not manifest or SEGMENTS in bad:
        return
    segments = read_segments((path / SEGMENTS).read_bytes())
    group_of = {segment.narration_id: row // layout.rows_per_group for row, segment in enumerate(segments)}
    failures: dict[int, list] = {}
    for failure in manifest["failures"]:
        failures.setdefault(group_of[failure[0]], []).append(failure)
    for group in range(layout.groups):
        names = layout.file_sizes(group).keys()
        if not names & bad:
            files = {name: manifest["files"][name] for name in names}
            yield (
                group,
                {
                    "group": group,
                    "spec": layout.spec_sha256,
                    "files": files,
                    "failures": failures.get(group, []),
                },
            )


def _open_groups(path: Path, layout: Layout) -> list[int]:
    done = committed_groups(path, layout)
    return [group for group in range(layout.groups) if group not in done]


def gc(path: Path, *, every_host: bool = False) -> list[tuple[Path, int]]:
    """Delete what killed writers left between write and rename; returns (file, bytes) of each.

    Files of processes that live are kept, and those of other machines, of which nothing is known here, unless
    `every_host`: then nobody may be writing. Raises DataError while somebody writes the store on this
    machine.
    """
    path = Path(path)
    with nobody_writing(path):
        deleted = [
            (file, file_size(file) or 0) for file, is_dead in fsops.temporaries(path) if is_dead or every_host
        ]
        for file, _ in deleted:
            fsops.remove(file)
    return deleted
