"""The last step of a store: check that every row group is done, and write manifest.json.

A finished store has a manifest: every other file's size and sha256, the rows that failed, and the store id,
which is the digest of all that. It is the same for every road that leads to the same features; what tells of
the road, the journals and environment.json, is in commit/seal.json.
"""

from pathlib import Path
from typing import Any

from mambavl.cache import canonical, fsops
from mambavl.cache.canonical import sha256
from mambavl.cache.layout import Layout, committed_groups
from mambavl.cache.spec import CLASSES, LOCK, MANIFEST, SEGMENTS, SPEC, read_json, read_spec
from mambavl.cache.verify import metadata_faults, seal, verify
from mambavl.configs.errors import DataError


def finalize(path: Path) -> dict[str, Any]:
    """Check that every row group is done, write manifest.json, drop the write bits. Training opens finalised
    stores only.

    Raises DataError when rows are missing, when another process is writing, or when the store was finished
    and is damaged.
    """
    manifest = finalize_unless_busy(Path(path))
    if manifest is None:
        raise DataError(f"{path}: another process is writing it; whoever ends last finishes it")
    return manifest


def finalize_unless_busy(path: Path) -> dict[str, Any] | None:
    """As `finalize`, but None where another process is writing."""
    path = path.absolute()
    layout = Layout.from_spec(read_spec(path))
    if not (path / MANIFEST).exists():
        held = fsops.lock(path / LOCK, exclusive=True, wait=False)
        if held is None:
            return None
        try:
            return _write_manifest(path, layout)
        finally:
            fsops.unlock(held)
    faults = verify(path)  # finished before: never rewritten from files that may have changed since
    if faults:
        listed = "\n  ".join(faults[:20])
        raise DataError(
            f"{path}: was finished and is damaged since; "
            f"`mambavl cache repair` re-opens what is bad:\n  {listed}"
        )
    manifest = read_json(path, MANIFEST)
    fsops.sync_folder(path)  # a process killed right after its rename has not
    _drop_write_bits(path, manifest)
    return manifest


def _write_manifest(path: Path, layout: Layout) -> dict[str, Any]:
    done = committed_groups(path, layout)
    if len(done) < layout.groups:
        missing = sum(len(layout.rows_of(group)) for group in range(layout.groups) if group not in done)
        raise DataError(
            f"{path}: {layout.rows - missing:,} of {layout.rows:,} rows are done; "
            "run again the command that made it"
        )
    if faults := list(metadata_faults(path, layout, read_spec(path))):
        listed = "\n  ".join(map(str, faults))
        raise DataError(f"{path}: is damaged; `mambavl cache repair` mends what can be mended:\n  {listed}")
    files = {name: entry for group in sorted(done) for name, entry in done[group]["files"].items()}
    for name in [SPEC, SEGMENTS, CLASSES, *layout.metadata()]:
        data = (path / name).read_bytes()
        files[name] = [len(data), sha256(data)]
    manifest: dict[str, Any] = {
        "schema": layout.schema,
        "spec_sha256": layout.spec_sha256,
        "files": files,
        "failures": sorted(failure for record in done.values() for failure in record["failures"]),
    }
    manifest["store_id"] = canonical.digest(manifest)
    fsops.sweep_temporaries(path)  # of those that were killed beside whoever finishes it
    seal(path)
    fsops.write_file(path / MANIFEST, canonical.pretty_json(manifest))  # last: with it the store is finished
    _drop_write_bits(path, manifest)
    return manifest


def _drop_write_bits(path: Path, manifest: dict[str, Any]) -> None:
    for name in [*manifest["files"], MANIFEST]:
        fsops.drop_write_bits(path / name)
