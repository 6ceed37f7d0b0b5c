"""Writing a feature store: create or resume, commit row groups, finalise.

A row group is committed as: every shard to a temporary name, fsync, rename, fsync of the folder; then one
record in this writer's own journal, fsync. It is done when a valid record exists *and* every file has the
recorded length. Data before record, always: a kill at any instant costs at most one row group, and nothing
half-written is ever taken for done.

Any number of writers may share a store. They hold `commit/lock` shared, finishing and repairing hold it
alone, so a finished store has no writer. A row group is made under a lock of its own (`claims`), so that
nobody else does the same work.
"""

import json
import os
import socket
import uuid
import weakref
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mambavl.cache import canonical, fsops, journal, shards
from mambavl.cache.canonical import sha256
from mambavl.cache.claims import Claims
from mambavl.cache.classes import Classes, fits_schema_2
from mambavl.cache.finalize import finalize_unless_busy
from mambavl.cache.layout import Layout, committed_groups, is_complete
from mambavl.cache.reopen import adopt_videos, reopen_failed
from mambavl.cache.rows import STATUS, Segment, write_segments
from mambavl.cache.shards import Level
from mambavl.cache.spec import (
    CLASSES,
    COMMIT,
    ENVIRONMENT,
    LOCK,
    MANIFEST,
    READABLE,
    SCHEMA_VERSION,
    SEGMENTS,
    SPEC,
    Spec,
    read_spec,
)
from mambavl.configs.errors import DataError, UsageError


@dataclass
class RowGroup:
    """What the rows of one group become. Rows whose status is not ok hold NaN (dense) or nothing (ragged)."""

    levels: dict[str, np.ndarray]  # dense: (rows, *shape); ragged: (tokens, D), rows one after another
    # by array name (`length`, `verb_question/length`): (rows,) steps or tokens
    lengths: dict[str, np.ndarray]
    status: np.ndarray  # (rows,) uint8
    flags: np.ndarray  # (rows,) uint8
    frame_pts: np.ndarray | None = None  # (rows, V, T) seconds
    reasons: dict[int, str] | None = None  # row within the group -> why it failed


class StoreWriter:
    """Creates a store or resumes one of the very same spec; then `pending()`, `commit()`, `finish()`."""

    def __init__(
        self,
        path: Path,
        spec: Spec,
        segments: tuple[Segment, ...],
        classes: Classes,
        environment: dict,
        *,
        retry_failed: bool = False,
    ) -> None:
        """retry_failed: open the row groups again that hold rows which failed when they were tried.

        Raises UsageError, naming the fields, where `path` holds a store of another spec, or something else. A
        spec that differs only in videos that came or were mended is taken over: `reopen.adopt_videos`.
        """
        self.path = Path(path).absolute()
        schema = _schema(self.path, classes)
        files = {SEGMENTS: write_segments(segments), CLASSES: classes.to_json(schema)}
        self.spec = replace(
            spec,
            schema=schema,
            rows=len(segments),
            segments_sha256=sha256(files[SEGMENTS]),
            classes_sha256=sha256(files[CLASSES]),
        )
        self.layout = Layout.from_spec(self.spec)
        self.segments = segments
        self._lock: weakref.finalize | None = None
        self._followed: dict[Path, int] = {}  # others' journals, and how far they were read
        # row group -> what was recorded there since `pending` looked, and in which
        self._recorded: dict[int, list[tuple[Path, dict[str, Any]]]] = {}
        self.claims = Claims(self.path)
        if not (self.path / SPEC).exists():
            self._create(files, environment)
        if read_spec(self.path) != self.spec:
            adopt_videos(self.path, self.spec, segments)
        if retry_failed:
            reopen_failed(self.path)
        if not self.is_final:
            # waits while somebody finishes or repairs it
            held = fsops.lock(self.path / LOCK, exclusive=False, wait=True)
            self._lock = weakref.finalize(self, fsops.unlock, held)
        if not self.is_final:
            self._write_metadata({**files, **self.layout.metadata()})  # `repair` deletes what was damaged
            fsops.sweep_temporaries(self.path)
        self.name = _new_name()
        self._journal = self._journal_of(self.name)

    def _create(self, files: dict[str, bytes], environment: dict) -> None:
        ours = {
            COMMIT,
            ENVIRONMENT,
            SPEC,
            MANIFEST,
            *(name.partition("/")[0] for name in (*files, *self.layout.metadata())),
        }
        foreign = [entry.name for entry in self.path.glob("*") if entry.name not in ours]
        if not all(name.startswith(fsops.TEMPORARY) for name in foreign):  # those are a killed creation's
            raise UsageError(
                f"{self.path}: is not a feature store and not empty ({foreign[0]}); choose another --out"
            )
        fsops.make_folder(self.path / COMMIT)
        while not (self.path / SPEC).exists():
            held = fsops.lock(self.path / LOCK, exclusive=True, wait=False)
            if held is None:  # somebody creates it, and will then hold the lock shared for as long as he runs
                fsops.unlock(fsops.lock(self.path / LOCK, exclusive=False, wait=True))
                continue
            try:
                if not (self.path / SPEC).exists():  # somebody was faster, maybe with another spec
                    self._write_metadata(
                        {**files, ENVIRONMENT: canonical.pretty_json(environment), **self.layout.metadata()}
                    )
                    # last: a folder without it is not yet a store
                    fsops.write_file(self.path / SPEC, canonical.pretty_json(self.spec.to_dict()))
            finally:
                fsops.unlock(held)

    def _write_metadata(self, files: dict[str, bytes]) -> None:
        for name, data in files.items():
            file = self.path / name
            if not file.exists() or file.read_bytes() != data:
                fsops.make_folder(file.parent)
                fsops.write_file(file, data)

    def _journal_of(self, name: str) -> Path:
        return self.path / COMMIT / f"{name}.journal"

    @property
    def is_final(self) -> bool:
        return (self.path / MANIFEST).exists()

    def pending(self) -> list[int]:
        """Row groups still to do, in order."""
        if self.is_final:
            return []
        self._recorded = {}
        self._followed = {file: journal.read_from(file, 0)[1] for file in self._journals()}
        done = committed_groups(self.path, self.layout)
        return [group for group in range(self.layout.groups) if group not in done]

    def failures(self) -> list[list[Any]]:
        """[narration_id, status, reason] of the rows that have failed so far, whoever tried them."""
        done = committed_groups(self.path, self.layout)
        return sorted(failure for record in done.values() for failure in record["failures"])

    def failures_of(self, group: int, rows: RowGroup) -> list[list[Any]]:
        """As `failures`, of one row group."""
        first = self.layout.rows_of(group).start
        failures: list[list[Any]] = []
        for row, reason in sorted((rows.reasons or {}).items()):
            failures.append([self.segments[first + row].narration_id, int(rows.status[row]), reason])
        return failures

    def commit(self, group: int, rows: RowGroup) -> int:
        """Write a row group, which this writer should have claimed, and record it; returns the bytes written,
        0 where another writer has done it meanwhile.

        Raises DataError when the disk fails: try again, or end and resume.
        """
        if not (self._lock and self._lock.alive):
            raise UsageError(f"{self.path}: is finished; nothing can be added to it")
        if self.is_final:  # where no lock kept apart who did the same work: the other one was faster
            return 0
        files = self._encode(group, rows)
        record = {
            "group": group,
            "spec": self.layout.spec_sha256,
            "files": {name: [len(data), sha256(data)] for name, data in files.items()},
            "failures": self.failures_of(group, rows),
        }
        if group in self.claims:
            self._write(record, files)
        else:
            self.claims.wait_for(group)
            try:
                if self.is_done(group):
                    return 0
                self._write(record, files)
            finally:
                self.claims.give_back(group)
        return sum(map(len, files.values()))

    def _write(self, record: dict[str, Any], files: dict[str, bytes | memoryview]) -> None:
        for name, data in files.items():
            fsops.write_file(self.path / name, data)
        self._record(record)

    def is_done(self, group: int) -> bool:
        """Whether another writer has recorded a row group since `pending` looked; reads only what the
        journals have gained. Nobody can do so while it is claimed.
        """
        for file in self._journals():
            if file != self._journal:
                found, self._followed[file] = journal.read_from(file, self._followed.get(file, 0))
                for record in found:
                    self._recorded.setdefault(record["group"], []).append((file, record))
        for file, record in self._recorded.get(group, ()):
            if is_complete(self.path, self.layout, record):
                fsops.sync_file(file)  # the writer may have been killed before it did so
                return True
        return False

    def _journals(self) -> list[Path]:
        return sorted((self.path / COMMIT).glob("*.journal"))

    def _record(self, record: dict[str, Any]) -> None:
        try:
            journal.append(self._journal, record)
        except DataError:
            # what is written behind half a record would never be read
            self._journal = self._journal_of(_new_name())
            raise

    def _encode(self, group: int, rows: RowGroup) -> dict[str, bytes | memoryview]:
        layout, count = self.layout, len(self.layout.rows_of(group))
        _check_row_group(layout, count, rows)
        values: dict[str, np.ndarray] = {"status": rows.status, "flags": rows.flags, **rows.lengths}
        if rows.frame_pts is not None:
            values["frame_pts"] = rows.frame_pts
        files: dict[str, bytes | memoryview] = {}
        for level in layout.levels:
            features = rows.levels[level.name]
            if level.kind == "ragged":
                lengths = rows.lengths[level.sibling("length")]
                values[level.sibling("start")] = group * level.capacity + np.cumsum(lengths) - lengths
                features = _pad_tokens(features, level)
            elif features.shape != (count, *level.shape):
                raise ValueError(
                    f"level {level.name}: expected {(count, *level.shape)}, got {features.shape}"
                )
            files[layout.level_file(level, group)] = shards.encode_shard(
                features, level, level.chunks(layout.rows_per_group)
            )
        for array in layout.row_arrays:
            files[layout.row_file(array, group)] = shards.encode_rows(
                values[array.name], layout.rows_per_group, array.dtype
            )
        return files

    def close(self) -> None:
        """End this writer's work; what is pending stays pending."""
        self.claims.give_all_back()
        if self._lock:
            self._lock()

    def finish(self) -> dict[str, Any] | None:
        """End this writer's work; finish the store if it is complete and nobody else is writing it, else
        None.

        The lock goes first: of several writers, the last to let go finds the store complete and finishes it.
        """
        self.close()
        return None if self.pending() else finalize_unless_busy(self.path)

    def finalize(self) -> dict[str, Any] | None:
        """As `finish`, but DataError where rows are missing."""
        self.close()
        return finalize_unless_busy(self.path)


def _new_name() -> str:
    """Of a writer, and of the files that it writes for itself."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def _check_row_group(layout: Layout, count: int, rows: RowGroup) -> None:
    """Raises ValueError where the parts of a row group do not fit each other: nothing that reads it later
    could tell.
    """
    arrays = {
        "status": rows.status,
        "flags": rows.flags,
        **rows.lengths,
        **({"frame_pts": rows.frame_pts} if layout.frame_pts else {}),
    }
    for name, array in arrays.items():
        if array is None or len(array) != count:
            raise ValueError(
                f"{name}: expected {count} rows, got {'nothing' if array is None else len(array)}"
            )
    if not set(np.unique(rows.status).tolist()) <= STATUS.keys() - {0}:
        raise ValueError(
            f"status: {sorted(set(rows.status.tolist()))}, expected codes of rows.STATUS, none of them 0"
        )
    for level in layout.levels:
        lengths = rows.lengths[level.sibling("length")]
        most = layout.longest(level)
        if len(lengths) and not 0 <= lengths.min() <= lengths.max() <= (most or lengths.max()):
            raise ValueError(
                f"level {level.name}: lengths from {lengths.min()} to {lengths.max()}, at most {most} fit"
            )
        if level.kind == "ragged" and lengths.sum() != len(rows.levels[level.name]):
            raise ValueError(
                f"level {level.name}: {len(rows.levels[level.name])} tokens "
                f"for lengths that add up to {lengths.sum()}"
            )


def _pad_tokens(tokens: np.ndarray, level: Level) -> np.ndarray:
    if len(tokens) > level.capacity or tokens.shape[1:] != level.shape:
        raise ValueError(
            f"level {level.name}: {tokens.shape} does not fit {level.capacity} tokens of {level.shape}"
        )
    padded = np.full((level.capacity, *level.shape), np.nan, level.dtype)
    padded[: len(tokens)] = tokens
    return padded


def _schema(path: Path, classes: Classes) -> int:
    """The schema version to write: that of the store being resumed, where it is an older one that can say the
    same.
    """
    try:
        before = json.loads((path / SPEC).read_bytes())["schema"]
    except (OSError, ValueError, LookupError, TypeError):
        return SCHEMA_VERSION  # there is none, or it is refused when it is read
    return before if before in READABLE and (before > 2 or fits_schema_2(classes)) else SCHEMA_VERSION
