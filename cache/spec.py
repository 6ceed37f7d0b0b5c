"""The recipe that made a store, and the names of the files that hold it."""

import json
from pathlib import Path
from typing import Any

from mambavl.cache import canonical
from mambavl.configs.errors import DataError

SCHEMA_VERSION = 2


SPEC, SEGMENTS, CLASSES, MANIFEST = "spec.json", "segments.csv", "classes.json", "manifest.json"


ENVIRONMENT, COMMIT, SEAL, LOCK = "environment.json", "commit", "commit/seal.json", "commit/lock"


REQUIRED = {
    SPEC: {
        "schema",
        "kind",
        "recipe",
        "levels",
        "rows",
        "rows_per_group",
        "frame_pts",
        "segments_sha256",
        "classes_sha256",
    },
    MANIFEST: {"schema", "spec_sha256", "files", "failures", "store_id"},
    SEAL: {"files", "sha256"},
}


def read_spec(path: Path) -> dict[str, Any]:
    """The spec of a store; DataError when `path` is no store or one of another schema version."""
    return read_json(Path(path), SPEC)


def read_json(path: Path, name: str) -> dict[str, Any]:
    """A metadata file of a store, which must hold what REQUIRED says and be in the form that we write."""
    if not path.is_dir():
        raise DataError(f"{path}: no such store; make it with `mambavl extract video`, `text` or `audio`")
    try:
        data = (path / name).read_bytes()
        found = json.loads(data)
        if not isinstance(found, dict):
            raise ValueError("it is no JSON object")
        if name == SPEC and found.get("schema") != SCHEMA_VERSION:
            raise DataError(
                f"{path}: has schema version {found.get('schema')}; this version of mambavl reads {SCHEMA_VERSION}"
            )
        if lacking := REQUIRED[name] - found.keys():
            raise ValueError(f"it lacks {', '.join(sorted(lacking))}")
        if data != canonical.pretty_json(found):
            raise ValueError("it is not laid out as it was written")
        return found
    except FileNotFoundError:
        raise DataError(f"{path}: is no feature store: it has no {name}") from None
    except ValueError as error:
        raise DataError(
            f"{path / name}: is damaged ({error}); `mambavl cache repair {path}` mends what can be mended"
        ) from None
