"""Finding damage in a store, and mending it: verify, repair, gc.

`verify` says what is wrong, a line a file. `repair` deletes what is wrong and re-opens exactly the row groups that it belonged
to, so that the command that made the store fills them again. Sound row groups are kept as long as either the manifest or the
journals still know them.
"""

import contextlib
import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mambavl.cache import fsops, journal, schema
from mambavl.cache.layout import (
    CLASSES,
    COMMIT,
    ENVIRONMENT,
    LOCK,
    MANIFEST,
    SEAL,
    SEGMENTS,
    SPEC,
    Layout,
    committed_groups,
    file_size,
    read_json,
    read_spec,
    records,
    sha256,
)
from mambavl.configs.errors import DataError

Progress = Callable[[int, int], None]  # bytes read of all bytes


class Fault(NamedTuple):
    """What is wrong with a file of a store."""

    file: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


def verify(path: Path, deep: bool = False, progress: Progress = lambda done, total: None) -> list[str]:
    """Faults of a store, one line each; an empty list means sound.

    Shallow: presence and size of every file, and the manifest. `deep` also reads every byte: sha256 of every file, crc32c of
    every row, every shard's index, the journals. Raises DataError where the spec or the manifest cannot be read at all.
    """
    return [str(fault) for fault in find_faults(Path(path), deep, progress)]


def find_faults(path: Path, deep: bool = False, progress: Progress = lambda done, total: None) -> Iterator[Fault]:
    spec = read_spec(path)
    layout = Layout.from_spec(spec)
    manifest, faults = _read_manifest(path, layout)
    yield from faults
    if manifest:
        entries = manifest["files"]
    else:  # the journals know the row groups as well, the spec the rest
        done = committed_groups(path, layout)
        if not (path / MANIFEST).exists():
            yield Fault(
                MANIFEST,
                f"is not written: {len(done)} of {layout.groups} row groups are done; run the command that made it again",
            )
        entries = {name: entry for record in done.values() for name, entry in record["files"].items()}
        yield from metadata_faults(path, layout, spec)
    is_known = all(fault.file != SPEC for fault in faults)
    bad = set()
    for fault in _file_faults(path, layout if is_known else None, entries, deep, progress):
        bad.add(fault.file)
        yield fault
    if deep and manifest:
        if is_known:
            yield from (fault for fault in metadata_faults(path, layout, spec) if fault.file not in bad)
        yield from _seal_faults(path)


def _read_manifest(path: Path, layout: Layout) -> tuple[dict[str, Any] | None, list[Fault]]:
    """The manifest, if it is there and itself sound; and what is wrong with it, or with the spec beside it."""
    if not (path / MANIFEST).exists():
        return None, []
    try:
        manifest = read_json(path, MANIFEST)
    except DataError as error:
        return None, [Fault(MANIFEST, str(error))]
    if not _is_itself(manifest):
        return None, [Fault(MANIFEST, "does not match its own store id")]
    if manifest["spec_sha256"] != layout.spec_sha256:
        return manifest, [Fault(SPEC, "is not the spec that the store was finalised with")]
    expected = {SPEC, SEGMENTS, CLASSES, *layout.metadata()}
    expected.update(name for group in range(layout.groups) for name in layout.file_sizes(group))
    if expected != manifest["files"].keys():
        return None, [Fault(MANIFEST, "does not list the files of this store")]
    return manifest, []


def _is_itself(manifest: dict[str, Any]) -> bool:
    return schema.digest({key: value for key, value in manifest.items() if key != "store_id"}) == manifest["store_id"]


def metadata_faults(path: Path, layout: Layout, spec: dict[str, Any]) -> Iterator[Fault]:
    """Metadata beside what the spec says of it."""
    expected = {name: sha256(data) for name, data in layout.metadata().items()}
    expected |= {name: spec[f"{name.partition('.')[0]}_sha256"] for name in (SEGMENTS, CLASSES)}
    for name, digest in expected.items():
        if not (path / name).exists():
            yield Fault(name, "is missing")
        elif sha256((path / name).read_bytes()) != digest:
            yield Fault(name, "is not what the spec says")


def _file_faults(path: Path, layout: Layout | None, entries: dict[str, list], deep: bool, progress: Progress) -> Iterator[Fault]:
    """Every file beside its recorded [size, sha256]."""
    checks = _content_checks(layout) if deep and layout else {}
    total, done = sum(size for size, _ in entries.values()), 0
    for name in sorted(entries):
        recorded, expected = entries[name]
        size = file_size(path / name)
        if size is None:
            yield Fault(name, "is missing")
        elif size != recorded:
            yield Fault(name, f"has {size:,} bytes, expected {recorded:,}")
        elif deep:
            data = (path / name).read_bytes()
            if sha256(data) != expected:
                yield Fault(name, "its sha256 is not the recorded one")
            if name in checks:
                yield from (Fault(name, what) for what in checks[name](data))
        done += recorded
        if deep:
            progress(done, total)


def _content_checks(layout: Layout) -> dict[str, Callable[[bytes], Iterator[str]]]:
    """By file: what its own checksums say, whatever the manifest holds."""
    checks = {}
    for group in range(layout.groups):
        for level in layout.levels:
            arguments = (level, layout.present_chunks(level, group), layout.chunks(level))
            checks[layout.level_file(level, group)] = lambda data, a=arguments: _shard_faults(data, *a)
        for array in layout.row_arrays:
            shape = (layout.rows_per_group, *array.shape)
            checks[layout.row_file(array, group)] = lambda data, s=shape, d=array.dtype: _row_file_faults(data, s, d)
    return checks


def _shard_faults(data: bytes, level: schema.Level, present: int, chunks: int) -> Iterator[str]:
    values = np.frombuffer(data, np.uint8)
    index = schema.shard_index(values, level, present, chunks)
    if index is None:
        yield "its shard index is damaged"
        return
    unit = "row" if level.kind == "dense" else "token chunk"
    bad = [str(i) for i, (offset, size) in enumerate(index.tolist()) if not schema.chunk_is_sound(values, offset, size)]
    if bad:
        yield f"crc32c does not match in {unit} {', '.join(bad[:10])}{', ...' if bad[10:] else ''}"


def _row_file_faults(data: bytes, shape: tuple[int, ...], dtype: str) -> Iterator[str]:
    if schema.decode_rows(data, shape, dtype) is None:
        yield "its crc32c does not match"


# --- what stands beside the manifest: journals and the record of the environment


def seal(path: Path) -> None:
    """Record the journals and the environment of a store that is about to be finished. Their bytes tell of the road, not of
    the result, and so may not be in the manifest, which is the same for every road."""
    for file in sorted((path / COMMIT).glob("*.journal")):
        journal.cut_torn_tail(file)
        fsops.sync_file(file)  # a writer that was killed has not
    files = {name: [len(data), sha256(data)] for name, data in _beside(path).items()}
    fsops.write_file(path / SEAL, schema.pretty_json({"files": files, "sha256": schema.digest(files)}))


def _beside(path: Path) -> dict[str, bytes]:
    files = [*sorted((path / COMMIT).glob("*.journal")), path / ENVIRONMENT]
    return {str(file.relative_to(path)): file.read_bytes() for file in files if file.exists()}


def _seal_faults(path: Path) -> Iterator[Fault]:
    if not (path / SEAL).exists():
        yield Fault(SEAL, "is missing")
        return
    try:
        sealed = read_json(path, SEAL)
    except DataError as error:
        yield Fault(SEAL, str(error))
        return
    if schema.digest(sealed["files"]) != sealed["sha256"]:
        yield Fault(SEAL, "does not match its own sha256")
        return
    found = _beside(path)
    for name in sorted(sealed["files"].keys() | found.keys()):
        if name not in found:
            yield Fault(name, "is missing")
        elif name not in sealed["files"]:
            yield Fault(name, "came after the store was finished")
        elif [len(found[name]), sha256(found[name])] != sealed["files"][name]:
            yield Fault(name, "its sha256 is not the recorded one")


# --- repair


@dataclass(frozen=True)
class Repair:
    """What `repair` did."""

    faults: list[str]
    reopened: list[int]  # row groups to be extracted again
    needs_extraction: bool  # False: the store is as it was before, or can be finished without its maker


def repair(path: Path, progress: Progress = lambda done, total: None) -> Repair:
    """Delete what is damaged and re-open the row groups that it belonged to. Raises DataError while somebody writes the store.

    What follows from the spec is written anew here. The rest (features, segments.csv, classes.json, the spec itself) is written
    by the command that made the store, run again; row groups that are sound stay done. Data first, manifest last: a kill in
    between leaves a store that is still known to be damaged.
    """
    path = Path(path)
    with _nobody_writing(path):
        try:
            layout, faults = Layout.from_spec(read_spec(path)), list(find_faults(path, True, progress))
        except DataError as error:
            if _is_of_another_version(path):
                raise
            layout, faults = None, [Fault(SPEC, str(error)), *_faults_without_spec(path, progress)]
        bad = {fault.file for fault in faults}
        if not bad or (bad == {MANIFEST} and not (path / MANIFEST).exists()):  # sound, or sound as far as it goes
            return Repair([str(fault) for fault in faults], [], bool(bad) and bool(_open_groups(path, layout)))
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
        return Repair([str(fault) for fault in faults], reopened, bool(reopened) or lost)


def _is_of_another_version(path: Path) -> bool:
    """Whether a spec that cannot be used is simply one of another schema version, as zarr.json says too."""
    try:
        versions = {
            json.loads((path / SPEC).read_bytes())["schema"],
            json.loads((path / "zarr.json").read_bytes())["attributes"]["mambavl"]["schema"],
        }
    except (OSError, ValueError, LookupError, TypeError):
        return False
    return len(versions) == 1 and versions != {schema.SCHEMA_VERSION}


def _faults_without_spec(path: Path, progress: Progress) -> Iterator[Fault]:
    """Damage of the other files where the spec cannot be read: the manifest vouches for itself, else the journals speak."""
    entries = {name: entry for record in records(path) for name, entry in record["files"].items()}
    with contextlib.suppress(DataError):
        manifest = read_json(path, MANIFEST)
        if _is_itself(manifest):
            entries = {name: entry for name, entry in manifest["files"].items() if name != SPEC}
    yield from _file_faults(path, None, entries, True, progress)


@contextlib.contextmanager
def _nobody_writing(path: Path) -> Iterator[None]:
    if not any((path / name).exists() for name in (SPEC, MANIFEST)):
        raise DataError(f"{path}: is no feature store: it has neither {SPEC} nor {MANIFEST}")
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

    A re-opened row group's record must go: its files come back one by one, at the length that it gives. What the journals have
    lost the manifest still knows; without a spec nobody can tell whose records they are, and those that fit stay.
    """
    old = sorted((path / COMMIT).glob("*.journal"))
    if layout:
        kept = committed_groups(path, layout)
        kept |= {group: record for group, record in _records_of_manifest(path, layout, bad) if group not in kept}
    else:
        kept = {i: record for i, record in enumerate(records(path)) if not record["files"].keys() & bad}
    target = path / COMMIT / f"repaired-{uuid.uuid4().hex[:8]}.journal"
    for group in sorted(kept):
        journal.append(target, kept[group])
    for file in old:
        fsops.remove(file)


def _records_of_manifest(path: Path, layout: Layout, bad: set[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    manifest, _ = _read_manifest(path, layout)
    if not manifest or SEGMENTS in bad:
        return
    segments = schema.read_segments((path / SEGMENTS).read_bytes())
    group_of = {segment.narration_id: row // layout.rows_per_group for row, segment in enumerate(segments)}
    failures: dict[int, list] = {}
    for failure in manifest["failures"]:
        failures.setdefault(group_of[failure[0]], []).append(failure)
    for group in range(layout.groups):
        names = layout.file_sizes(group).keys()
        if not names & bad:
            files = {name: manifest["files"][name] for name in names}
            yield group, {"group": group, "spec": layout.spec_sha256, "files": files, "failures": failures.get(group, [])}


def _open_groups(path: Path, layout: Layout) -> list[int]:
    done = committed_groups(path, layout)
    return [group for group in range(layout.groups) if group not in done]


# --- gc


def gc(path: Path, *, every_host: bool = False) -> list[tuple[Path, int]]:
    """Delete what killed writers left between write and rename; returns (file, bytes) of each.

    Files of processes that live are kept, and those of other machines, of which nothing is known here, unless `every_host`:
    then nobody may be writing. Raises DataError while somebody writes the store on this machine.
    """
    path = Path(path)
    with _nobody_writing(path):
        deleted = [(file, file_size(file) or 0) for file, is_dead in fsops.temporaries(path) if is_dead or every_host]
        for file, _ in deleted:
            fsops.remove(file)
    return deleted
