"""Finding damage in a store: `verify` says what is wrong, a line a file; nothing here changes features.

What a file must be is said by the manifest, or, while the store is unfinished, by the journals and the spec:
size and sha256 of every file. The files of row groups carry checksums of their own, a crc32c a row. `repair`
mends what is found here.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mambavl.cache import canonical, fsops, journal, shards
from mambavl.cache.canonical import JSON, sha256
from mambavl.cache.layout import Layout, committed_groups, file_size
from mambavl.cache.spec import (
    CLASSES,
    COMMIT,
    ENVIRONMENT,
    MANIFEST,
    SEAL,
    SEGMENTS,
    SPEC,
    Spec,
    read_json,
    read_spec,
)
from mambavl.configs.errors import DataError
from mambavl.configs.progress import Progress, unseen


class Fault(NamedTuple):
    """What is wrong with a file of a store."""

    file: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


def verify(path: Path, deep: bool = False, progress: Progress = unseen) -> list[str]:
    """Faults of a store, one line each; an empty list means sound.

    Shallow: presence and size of every file, and the manifest. `deep` also reads every byte: sha256 of every
    file, crc32c of every row, every shard's index, the journals. Raises DataError where the spec or the
    manifest cannot be read at all.
    """
    return [str(fault) for fault in find_faults(Path(path), deep, progress)]


def find_faults(path: Path, deep: bool = False, progress: Progress = unseen) -> Iterator[Fault]:
    """As `verify`, with the file of each fault by itself."""
    spec = read_spec(path)
    layout = Layout.from_spec(spec)
    manifest, faults = read_manifest(path, layout)
    yield from faults
    if manifest:
        entries = manifest["files"]
    else:  # the journals know the row groups as well, the spec the rest
        done = committed_groups(path, layout)
        if not (path / MANIFEST).exists():
            yield Fault(
                MANIFEST,
                f"is not written: {len(done)} of {layout.groups} row groups are done; "
                "run again the command that made it",
            )
        entries = {name: entry for record in done.values() for name, entry in record["files"].items()}
        yield from metadata_faults(path, layout, spec)
    is_known = all(fault.file != SPEC for fault in faults)
    bad = set()
    for fault in file_faults(path, layout if is_known else None, entries, deep, progress):
        bad.add(fault.file)
        yield fault
    if deep and manifest:
        if is_known:
            yield from (fault for fault in metadata_faults(path, layout, spec) if fault.file not in bad)
        yield from _seal_faults(path)


def read_manifest(path: Path, layout: Layout) -> tuple[dict[str, Any] | None, list[Fault]]:
    """The manifest, if it is there and itself sound; and what is wrong with it, or with the spec."""
    if not (path / MANIFEST).exists():
        return None, []
    try:
        manifest = read_json(path, MANIFEST)
    except DataError as error:
        return None, [Fault(MANIFEST, str(error))]
    if not is_itself(manifest):
        return None, [Fault(MANIFEST, "does not match its own store id")]
    if manifest["spec_sha256"] != layout.spec_sha256:
        return manifest, [Fault(SPEC, "is not the spec that the store was finalised with")]
    expected = {SPEC, SEGMENTS, CLASSES, *layout.metadata()}
    expected.update(name for group in range(layout.groups) for name in layout.file_sizes(group))
    if expected != manifest["files"].keys():
        return None, [Fault(MANIFEST, "does not list the files of this store")]
    return manifest, []


def is_itself(manifest: dict[str, Any]) -> bool:
    return (
        canonical.digest({key: value for key, value in manifest.items() if key != "store_id"})
        == manifest["store_id"]
    )


def metadata_faults(path: Path, layout: Layout, spec: Spec) -> Iterator[Fault]:
    """Metadata compared with what the spec says of it."""
    expected = {name: sha256(data) for name, data in layout.metadata().items()}
    expected |= {name: spec.sha256_of(name) for name in (SEGMENTS, CLASSES)}
    for name, digest in expected.items():
        if not (path / name).exists():
            yield Fault(name, "is missing")
        elif sha256((path / name).read_bytes()) != digest:
            yield Fault(name, "is not what the spec says")


def file_faults(
    path: Path, layout: Layout | None, entries: dict[str, list], deep: bool, progress: Progress
) -> Iterator[Fault]:
    """Every file compared with its recorded [size, sha256]."""
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
    checks: dict[str, Callable[[bytes], Iterator[str]]] = {}
    for group in range(layout.groups):
        for level in layout.levels:
            present, chunks = layout.present_chunks(level, group), layout.chunks(level)
            check = partial(_shard_faults, level=level, present=present, chunks=chunks)
            checks[layout.level_file(level, group)] = check
        for array in layout.row_arrays:
            shape = (layout.rows_per_group, *array.shape)
            check = partial(_row_file_faults, shape=shape, dtype=array.dtype)
            checks[layout.row_file(array, group)] = check
    return checks


def _shard_faults(data: bytes, level: shards.Level, present: int, chunks: int) -> Iterator[str]:
    values = np.frombuffer(data, np.uint8)
    index = shards.shard_index(values, level, present, chunks)
    if index is None:
        yield "its shard index is damaged"
        return
    unit = "row" if level.kind == "dense" else "token chunk"
    bad = [
        str(i)
        for i, (offset, size) in enumerate(index.tolist())
        if not shards.chunk_is_sound(values, offset, size)
    ]
    if bad:
        yield f"crc32c does not match in {unit} {', '.join(bad[:10])}{', ...' if bad[10:] else ''}"


def _row_file_faults(data: bytes, shape: tuple[int, ...], dtype: str) -> Iterator[str]:
    if shards.decode_rows(data, shape, dtype) is None:
        yield "its crc32c does not match"


def seal(path: Path) -> None:
    """Record the journals and the environment of a store that is about to be finished. Their bytes tell of
    the road, not of the result, and so may not be in the manifest, which is the same for every road."""
    for file in sorted((path / COMMIT).glob("*.journal")):
        journal.cut_torn_tail(file)
        fsops.sync_file(file)  # a writer that was killed has not
    files: dict[str, JSON] = {
        name: [len(data), sha256(data)] for name, data in _outside_manifest(path).items()
    }
    fsops.write_file(path / SEAL, canonical.pretty_json({"files": files, "sha256": canonical.digest(files)}))


def _outside_manifest(path: Path) -> dict[str, bytes]:
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
    if canonical.digest(sealed["files"]) != sealed["sha256"]:
        yield Fault(SEAL, "does not match its own sha256")
        return
    found = _outside_manifest(path)
    for name in sorted(sealed["files"].keys() | found.keys()):
        if name not in found:
            yield Fault(name, "is missing")
        elif name not in sealed["files"]:
            yield Fault(name, "came after the store was finished")
        elif [len(found[name]), sha256(found[name])] != sealed["files"][name]:
            yield Fault(name, "its sha256 is not the recorded one")
