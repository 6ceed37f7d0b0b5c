"""Does the file system under a folder keep what the store promises? Real writers, killed at random; two at
once; a full count.

The promise rests on four things that a file system may lack: rename is atomic, fsync of a file and of a
folder are obeyed, a process sees what another wrote, and locks keep processes apart. A kill shows the first
and the third; locks and writers at the same time are tried by processes; fsync can only be timed here:
whether it survives a power cut, only a power cut shows.
"""

import hashlib
import os
import signal
import statistics
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mambavl.cache import fsops
from mambavl.cache.classes import Classes, Target
from mambavl.cache.layout import Layout, committed_groups
from mambavl.cache.rows import OK, Segment
from mambavl.cache.shards import Level
from mambavl.cache.spec import COMMIT, ENVIRONMENT, LOCK, MANIFEST, FeatureRecipe, Spec, read_spec
from mambavl.cache.verify import verify
from mambavl.cache.writer import RowGroup, StoreWriter
from mambavl.configs.errors import DataError, Interrupted, UsageError
from mambavl.configs.progress import Progress, ShouldStop, never, unseen

ROWS, GROUP_ROWS = 64, 8
LEVEL = Level("frame", "dense", (1, 16, 32), "float16", steps=16)
CLASSES = Classes({"thing": Target({0: "a thing"}, 1)})
DEADLINE = 120.0  # seconds after which a writer counts as hanging


class Check(NamedTuple):
    """What was tried and what came of it."""

    name: str
    passed: bool
    said: str


def selftest(
    folder: Path,
    kills: int = 20,
    seed: int = 0,
    progress: Progress = unseen,
    should_stop: ShouldStop = never,
) -> Iterator[Check]:
    """Try the store's promises in a new folder under `folder`, which is deleted afterwards; one Check after
    another.

    Forks, so call it from a process without threads. Raises UsageError where `folder` is not there, DataError
    where nothing can be written at all, Interrupted when `should_stop()` turns true between two kills.
    """
    if not Path(folder).exists():
        raise UsageError(f"{folder}: there is no such folder; name one on the file system to test")
    place = Path(folder) / f"mambavl-selftest-{uuid.uuid4().hex[:8]}"
    fsops.make_folder(place)
    try:
        seconds = _write(place / "whole.zarr", None)
        expected = content(place / "whole.zarr")
        size = sum(map(len, expected.values()))
        yield Check(
            "write",
            not verify(place / "whole.zarr", deep=True),
            f"{size / 1e6:.1f} MB in {seconds:.2f} s, verified",
        )
        yield _fsync_check(place)
        yield _lock_check(place)
        # of three: one may take long on a busy machine, and each kill would wait as long in vain
        lifetime = min(_lifetime(place / f"timed-{turn}.zarr") for turn in range(3))
        yield _kill_check(place, expected, kills, seed, lifetime, progress, should_stop)
        yield _two_writers_check(place, expected)
    finally:
        fsops.remove_folder(place)


def content(store: Path) -> dict[str, bytes]:
    """A finished store by file name: the same for every road that leads to it. Journals and the environment
    tell of the road.
    """
    files = (
        file
        for file in sorted(store.rglob("*"))
        if file.is_file() and COMMIT not in file.relative_to(store).parts
    )
    return {str(file.relative_to(store)): file.read_bytes() for file in files if file.name != ENVIRONMENT}


def _kill_check(
    place: Path,
    expected: dict[str, bytes],
    kills: int,
    seed: int,
    lifetime: float,
    progress: Progress,
    should_stop: ShouldStop,
) -> Check:
    """SIGKILL at a random moment, then resume, which may be killed as well; the finished store is the
    uninterrupted one.
    """
    rng, wrong, killed, trial = np.random.default_rng(seed), [], 0, 0
    while killed < kills and trial < 10 * kills:
        trial += 1
        path = place / f"killed-{trial}.zarr"
        while killed < kills and not (path / MANIFEST).exists():
            if should_stop():
                raise Interrupted(f"{place.parent}: stopped after {killed} kills; nothing is left there")
            before = _done(path)
            child = _fork(partial(_write, path, None))
            time.sleep(rng.uniform(0, lifetime))
            os.kill(child, signal.SIGKILL)
            killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
            if not before <= _done(path):
                wrong.append(f"store {trial}: a finished row group was lost")
            progress(killed, kills)
        _write(path, None)
        if content(path) != expected:
            wrong.append(f"store {trial}: another store than without a kill")
        fsops.remove_folder(path)
    said = f"{killed} writers killed at random moments; {trial} stores, each finished to the same bytes"
    return Check("kill -9", not wrong and killed >= kills, "; ".join(wrong[:3]) or said)


def _lifetime(path: Path) -> float:
    """Seconds that a child takes which writes the whole store."""
    since = time.perf_counter()
    os.waitpid(_fork(lambda: _write(path, None)), 0)
    return time.perf_counter() - since


def _two_writers_check(place: Path, expected: dict[str, bytes]) -> Check:
    """Two processes that do every row group at the same time, then two that share them."""
    wrong = []
    for name, shares in (("same", (None, None)), ("shared", (0, 1))):
        path = place / f"{name}.zarr"
        children = [_fork(partial(_write, path, share)) for share in shares]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        if any(codes):
            wrong.append(f"{name} row groups: a writer ended with {codes}")
        elif content(path) != expected:
            wrong.append(f"{name} row groups: another store than one writer makes")
        elif faults := verify(path, deep=True):
            wrong.append(f"{name} row groups: {faults[0]}")
    return Check(
        "two writers",
        not wrong,
        "; ".join(wrong) or "on the same row groups and on shared ones: nothing lost",
    )


def _lock_check(place: Path) -> Check:
    """A lock held by another process is seen, and is free again once that process was killed."""
    path = place / "whole.zarr" / LOCK
    read_end, write_end = os.pipe()

    def hold() -> None:
        fsops.lock(path, exclusive=True, wait=True)
        os.close(write_end)  # says that the lock is held
        time.sleep(DEADLINE)

    child = _fork(hold)
    os.close(write_end)
    os.read(read_end, 1)  # returns when nobody can write any more
    mine = fsops.lock(path, exclusive=False, wait=False)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(read_end)
    after = fsops.lock(path, exclusive=True, wait=False) if mine is None else None
    for descriptor in (mine, after):
        if descriptor is not None:
            fsops.unlock(descriptor)
    if mine is not None:
        return Check(
            "locks", False, "not kept here: let no two commands finish or repair one store at the same time"
        )
    return Check(
        "locks",
        after is not None,
        "kept, and freed by a kill" if after is not None else "a killed process keeps its lock",
    )


def _fsync_check(place: Path) -> Check:
    times = []
    for i in range(20):
        since = time.perf_counter()
        fsops.write_file(place / "synced", bytes([i]) * 4096)
        times.append(time.perf_counter() - since)
    return Check(
        "fsync",
        True,
        "a small file is written, synced, renamed and its folder synced "
        f"in {statistics.median(times) * 1e3:.1f} ms",
    )


def _fork(deed: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(int(DEADLINE))  # a writer that hangs ends, and is reported
            deed()
            code = 0
        finally:
            os._exit(code)  # whatever happened: nothing of the parent's may run twice
    return child


def _write(path: Path, share: int | None) -> float:
    """Write or resume a small store whose rows follow from their numbers; seconds taken. share: every other
    row group only.
    """
    since = time.perf_counter()
    spec = Spec(
        kind="video",
        recipe=FeatureRecipe(more={"selftest": 1}),
        levels=(LEVEL,),
        frame_pts=(1, 16),
        rows_per_group=GROUP_ROWS,
    )
    segments = tuple(
        Segment(f"P01_01_{i}", "P01", "P01_01", "", float(i), i + 1.0, 1, 2, "train") for i in range(ROWS)
    )
    writer = StoreWriter(path, spec, segments, CLASSES, {})
    for group in writer.pending():
        if share is None or group % 2 == share:
            writer.commit(group, _row_group(writer.layout, group))
    writer.finish()
    return time.perf_counter() - since


def _row_group(layout: Layout, group: int) -> RowGroup:
    rows = np.array(layout.rows_of(group))
    seed = int.from_bytes(hashlib.sha256(str(group).encode()).digest()[:4], "little")
    values = np.random.default_rng(seed).standard_normal((len(rows), *LEVEL.shape)).astype(LEVEL.dtype)
    ok, none = np.full(len(rows), OK, np.uint8), np.zeros(len(rows), np.uint8)
    return RowGroup(
        {"frame": values}, {"length": np.full(len(rows), 16)}, ok, none, np.zeros((len(rows), 1, 16))
    )


def _done(path: Path) -> set[int]:
    """Row groups that are done; none where the store is not yet one."""
    try:
        return set(committed_groups(path, Layout.from_spec(read_spec(path))))
    except DataError:
        return set()
