"""Faults to put under `fsops`, and every state that a power cut may leave on a disk.

The model of a file system: a file is its synced and its current content, a folder its synced names and a list
of unsynced changes to them (create, mkdir, unlink, rename). fsync of a file makes its content durable but not
its name; fsync of a folder makes its names durable; a rename is one change, whole or not at all. Modes
(chmod) are left out.
"""

import contextlib
import errno
import itertools
import math
import os
import random
import shutil
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from helpers.tiny import CLASSES, make_segments
from mambavl.cache import fsops, open_store
from mambavl.cache.shards import Level
from mambavl.cache.spec import EncoderIdentity, FeatureRecipe, Spec
from mambavl.cache.writer import RowGroup, StoreWriter
from mambavl.configs.errors import DataError, UsageError

DEAD_PID = 2**22 + 1  # above Linux's largest: no process has it
Fault = Literal["EIO", "ENOSPC", "short", "kill"]
State = dict[str, bytes | None]  # path -> content; None is a folder


class Killed(BaseException):
    """The process ends here: no `except OSError` sees it, and no call is made after it."""


class FailingCalls:
    """Stands in for `fsops.calls`: the `at`-th call fails, once or from then on (`sticky`); `only` these
    methods are counted.

    fault: EIO; ENOSPC, where a write puts half of its bytes down first; `short`, a write that takes half of
    its bytes and says so; `kill`, which is always sticky. `inner` makes the calls that do not fail.
    """

    def __init__(
        self, at: int, fault: Fault, *, sticky: bool = False, only: Container[str] | None = None
    ) -> None:
        self.at, self.fault, self.sticky, self.only = at, fault, sticky or fault == "kill", only
        self.inner = fsops.Calls()
        self.made = 0
        self.failed: list[str] = []  # methods

    def __getattr__(self, method: str) -> Any:
        return partial(self._call, method)

    def _call(self, method: str, *arguments: Any) -> Any:
        call, is_counted = getattr(self.inner, method), self.only is None or method in self.only
        self.made += is_counted
        if not is_counted or self.made < self.at or (self.made > self.at and not self.sticky):
            return call(*arguments)
        self.failed.append(method)
        if method == "write" and self.fault in ("short", "ENOSPC"):
            descriptor, data = arguments
            written = call(descriptor, data[: len(data) // 2 or 1])
            if self.fault == "short":
                return written
        if method == "close":
            call(*arguments)  # Linux closes whatever it reports
        if self.fault == "kill":
            raise Killed
        code = getattr(errno, self.fault)
        raise OSError(code, os.strerror(code))


class Recorder(fsops.Calls):
    """Makes every call and records what it changed below `root`: (change, path, ...), or ("note", text)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.record: list[tuple] = []
        self._opened: dict[int, Path] = {}

    def note(self, text: str) -> None:
        self.record.append(("note", text))

    def _add(self, change: str, path: Path, *more: Any) -> None:
        if path.is_relative_to(self.root):
            self.record.append((change, path.relative_to(self.root), *more))

    def open(self, path: Path, flags: int) -> int:
        is_new = not path.exists()
        descriptor = super().open(path, flags)
        self._opened[descriptor] = path
        if is_new:
            self._add("create", path)
        return descriptor

    def write(self, descriptor: int, data: memoryview) -> int:
        written = super().write(descriptor, data)
        self._add("write", self._opened[descriptor], bytes(data[:written]))
        return written

    def truncate(self, descriptor: int, length: int) -> None:
        super().truncate(descriptor, length)
        self._add("truncate", self._opened[descriptor], length)

    def fsync(self, descriptor: int) -> None:
        super().fsync(descriptor)
        path = self._opened[descriptor]
        self._add("fsync folder" if path.is_dir() else "fsync file", path)

    def replace(self, source: Path, target: Path) -> None:
        super().replace(source, target)
        assert source.parent == target.parent, "the model knows no rename from one folder to another"
        self._add("rename", source, target.name)

    def mkdir(self, path: Path) -> None:
        super().mkdir(path)
        self._add("mkdir", path)

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        self._add("unlink", path)

    def rmdir(self, path: Path) -> None:
        super().rmdir(path)
        self._add("unlink", path)


@contextlib.contextmanager
def exchanged(calls: Any) -> Iterator[None]:
    """Put other calls under fsops, as in a process of its own that has died since: it starts with no name
    known to be on the disk, and what it writes bears a dead process's id, so that the next writer may sweep
    it."""
    real, getpid = fsops.calls, os.getpid
    fsops.calls, os.getpid = calls, lambda: DEAD_PID
    fsops.named.clear()
    try:
        yield
    finally:
        fsops.calls, os.getpid = real, getpid
        fsops.named.clear()


@dataclass(eq=False)
class _File:
    synced: bytes = b""
    current: bytes = b""

    def contents(self) -> list[bytes]:
        """What may be on the disk: all of it, nothing since the last fsync, half of it, or zeros of its
        length.
        """
        if self.current == self.synced:
            return [self.current]
        kept = next(
            (i for i, (a, b) in enumerate(zip(self.synced, self.current, strict=False)) if a != b),
            len(self.synced),
        )
        new = self.current[kept:]
        halves = [self.current[:kept] + part for part in (new[: len(new) // 2], bytes(len(new)))]
        return list(dict.fromkeys([self.current, self.synced, *halves]))


@dataclass(eq=False)
class _Folder:
    synced: dict[str, Any] = field(default_factory=dict)
    current: dict[str, Any] = field(default_factory=dict)
    # (name taken, name given, to what)
    changes: list[tuple[str | None, str | None, Any]] = field(default_factory=list)

    def change(self, *change: Any) -> None:
        self.changes.append(change)
        _apply(self.current, change)

    def nodes(self) -> Iterator[Any]:
        """This folder and all that is or may be below it."""
        yield self
        below = {
            id(node): node
            for node in [*self.synced.values(), *(change[2] for change in self.changes)]
            if node
        }
        for node in below.values():
            yield from node.nodes() if isinstance(node, _Folder) else [node]


def _apply(entries: dict[str, Any], change: tuple) -> None:
    taken, given, node = change
    entries.pop(taken, None)
    if given:
        entries[given] = node


class CrashStates:
    """Every distinct (state, notes so far) that a power cut may leave after any prefix of a record, or after
    some of them.

    The first of each prefix is what a kill leaves: everything as it is. A prefix with more than `limit`
    states gives a seeded sample of them; `sampled` counts those prefixes.
    """

    def __init__(
        self, record: list[tuple], prefixes: Container[int] | None = None, *, limit: int = 256, seed: int = 0
    ) -> None:
        self.record, self.prefixes, self.limit = record, prefixes, limit
        self.random = random.Random(seed)
        self.sampled = 0

    def __iter__(self) -> Iterator[tuple[State, tuple[str, ...]]]:
        disk, notes, seen = _Folder(), (), set()
        for number, event in enumerate(self.record, 1):
            if event[0] == "note":
                notes += (event[1],)
            else:
                _replay(disk, *event)
            if self.prefixes is None or number in self.prefixes:
                for state in self._states(disk):
                    key = hash((frozenset(state.items()), notes))
                    if key not in seen:
                        seen.add(key)
                        yield state, notes

    def _states(self, disk: _Folder) -> Iterator[State]:
        # a file -> its contents; (a folder, number of a change) -> whether it happened
        choices: dict[Any, list] = {}
        for node in disk.nodes():
            if isinstance(node, _Folder):
                choices |= {(node, i): [True, False] for i in range(len(node.changes))}
            elif node.current != node.synced:
                choices[node] = node.contents()
        combinations = itertools.product(*choices.values())
        if math.prod(map(len, choices.values())) > self.limit:
            self.sampled += 1
            drawn = (
                [self.random.choice(options) for options in choices.values()] for _ in range(self.limit - 1)
            )
            combinations = itertools.chain(itertools.islice(combinations, 1), drawn)
        for combination in combinations:
            yield dict(_tree(disk, "", dict(zip(choices, combination, strict=True))))


def _replay(disk: _Folder, change: str, path: Path, *more: Any) -> None:
    *parents, name = path.parts or [""]
    folder = disk
    for parent in parents:
        folder = folder.current[parent]
    node = folder.current.get(name, disk)
    if change in ("create", "mkdir"):
        folder.change(None, name, _File() if change == "create" else _Folder())
    elif change == "unlink":
        folder.change(name, None, None)
    elif change == "rename":
        folder.change(name, more[0], node)
    elif change == "write":
        node.current += more[0]
    elif change == "truncate":
        node.current = node.current[: more[0]]
    elif change == "fsync file":
        node.synced = node.current
    else:
        node.synced, node.changes = dict(node.current), []


def _tree(folder: _Folder, prefix: str, chosen: dict) -> Iterator[tuple[str, bytes | None]]:
    entries = dict(folder.synced)
    for i, change in enumerate(folder.changes):
        if chosen[folder, i]:
            _apply(entries, change)
    for name, node in entries.items():
        if isinstance(node, _Folder):
            yield prefix + name, None
            yield from _tree(node, f"{prefix}{name}/", chosen)
        else:
            yield prefix + name, chosen.get(node, node.current)


def materialise(state: State, folder: Path, before: State) -> None:
    """Make a folder hold a state; `before` is the one it holds now, and only what differs is touched."""
    for name in sorted(before.keys() - state.keys(), reverse=True):  # what is in a folder before the folder
        (folder / name).rmdir() if before[name] is None else (folder / name).unlink()
    for name in sorted(
        name for name, content in state.items() if name not in before or before[name] != content
    ):
        content = state[name]
        (folder / name).mkdir() if content is None else (folder / name).write_bytes(content)


ROWS, GROUP_ROWS = 28, 8  # four row groups, the last one short


@dataclass
class Job:
    """A store to be written, with everything that its rows must read as. Another seed: other values, the same
    spec.
    """

    kind: Literal["dense", "ragged"] = "dense"
    seed: int = 0

    @cached_property
    def level(self) -> Level:
        if self.kind == "dense":
            return Level("frame", "dense", (1, 4, 6), "float32", steps=4)
        return Level("verb_question/last_hidden", "ragged", (5,), "float32", capacity=64)

    @cached_property
    def tokens(self) -> list[np.ndarray]:
        """Per row; the one that failed has none."""
        rng = np.random.default_rng([self.seed, self.kind == "ragged"])
        lengths = [4] * ROWS if self.kind == "dense" else rng.integers(0, 9, ROWS)
        tokens = [rng.normal(size=(length, self.level.width)).astype(np.float32) for length in lengths]
        return [row if ok else row[:0] for row, ok in zip(tokens, self.status == 1, strict=True)]

    @cached_property
    def padded(self) -> np.ndarray:
        out = np.zeros((ROWS, 8, self.level.width), np.float32)
        for row, tokens in enumerate(self.tokens):
            out[row, : len(tokens)] = tokens
        return out

    @cached_property
    def per_row(self) -> dict[str, np.ndarray]:
        rng = np.random.default_rng([2, self.seed])
        arrays = {"status": self.status, "flags": rng.integers(0, 8, ROWS).astype(np.uint8)}
        arrays[self.level.sibling("length")] = np.array([len(row) for row in self.tokens], np.int32)
        return arrays | ({"frame_pts": rng.normal(size=(ROWS, 1, 4))} if self.kind == "dense" else {})

    @property
    def status(self) -> np.ndarray:
        return np.where(np.arange(ROWS) == 13, 3, 1).astype(np.uint8)  # one video is missing

    def rows_of(self, group: int) -> slice:
        return slice(group * GROUP_ROWS, min((group + 1) * GROUP_ROWS, ROWS))

    def row_group(self, group: int) -> RowGroup:
        rows = self.rows_of(group)
        length = self.level.sibling("length")
        if self.kind == "dense":
            values = np.full((rows.stop - rows.start, *self.level.shape), np.nan, np.float32)
            for out, tokens in zip(values, self.tokens[rows], strict=True):
                out[0, : len(tokens)] = tokens
        else:
            values = np.concatenate(self.tokens[rows])
        return RowGroup(
            levels={self.level.name: values},
            lengths={length: self.per_row[length][rows]},
            status=self.status[rows],
            flags=self.per_row["flags"][rows],
            frame_pts=self.per_row["frame_pts"][rows] if self.kind == "dense" else None,
            reasons={int(row): "no file" for row in np.flatnonzero(self.status[rows] != 1)},
        )

    def start(self, path: Path) -> StoreWriter:
        spec = Spec(
            kind="video" if self.kind == "dense" else "text",
            recipe=FeatureRecipe(encoder=EncoderIdentity(name="fake")),
            levels=(self.level,),
            frame_pts=(1, 4) if self.kind == "dense" else (),
            rows_per_group=GROUP_ROWS,
        )
        return StoreWriter(path, spec, make_segments(ROWS), CLASSES, {"host": f"host{self.seed}"})

    def write(self, path: Path, acknowledge=lambda group: None) -> None:
        """The whole run, or what is left of one that was cut short."""
        self.finish(self.start(path), acknowledge)

    def finish(self, writer: StoreWriter, acknowledge=lambda group: None) -> None:
        """What is pending; a writer holds a lock until it is finalised, or freed after an error."""
        for group in writer.pending():
            writer.commit(group, self.row_group(group))
            acknowledge(group)
        writer.finalize()

    def wrong_rows(self, opened, rows: np.ndarray) -> np.ndarray:
        """Which of some written rows differ from the truth in anything."""
        wrong = np.zeros(len(rows), bool)
        if not len(rows):
            return rows
        for name, truth in self.per_row.items():
            wrong |= (opened.row_array(name)[rows] != truth[rows]).reshape(len(rows), -1).any(axis=1)
        good = opened.status[rows] == 1
        values, lengths = (tensor.numpy() for tensor in opened.batch(rows[good], self.level.name))
        truth = self.padded[rows[good], : values.shape[1]]
        wrong[good] |= (values != truth).any(axis=(1, 2)) | (
            lengths != self.per_row[self.level.sibling("length")][rows[good]]
        )
        return rows[wrong]


def tree(path: Path, leftovers: bool = True) -> dict[str, bytes]:
    """A finished store's content: journals and the record of the environment aside. leftovers: of dead
    writers, `gc`'s prey.
    """
    files = (file for file in path.rglob("*") if file.is_file() and file.parent.name != "commit")
    files = (file for file in files if leftovers or not file.name.startswith(fsops.TEMPORARY))
    return {
        str(file.relative_to(path)): file.read_bytes() for file in files if file.name != "environment.json"
    }


def uninterrupted(job: Job, folder: Path) -> dict[str, bytes]:
    job.write(folder / "whole.zarr")
    found = tree(folder / "whole.zarr")
    shutil.rmtree(folder / "whole.zarr")
    return found


def look(job: Job, path: Path) -> tuple[set[int], int]:
    """(row groups that a reader finds done, rows that it would read wrong)."""
    try:
        opened = open_store(path, partial=True)
        written = np.flatnonzero(opened.status)
        return set((written // GROUP_ROWS).tolist()), len(job.wrong_rows(opened, written))
    except (DataError, UsageError):
        return set(), 0
