"""Faults: every call failing, every state that a power cut may leave, full disks, damaged bytes, several
writers.

What must hold each time: no wrong row is readable, no acknowledged row group is lost, an error names the
file, and the next run ends in the bytes of an uninterrupted one. `pytest -m soak` runs the long versions.
"""

import contextlib
import itertools
import json
import math
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.faults import (
    ROWS,
    CrashStates,
    FailingCalls,
    Job,
    Killed,
    Recorder,
    exchanged,
    look,
    materialise,
    tree,
    uninterrupted,
)
from helpers.paths import TESTS
from helpers.tiny import CLASSES, make_segments
from mambavl.cache import journal, open_store
from mambavl.cache.finalize import finalize
from mambavl.cache.repair import repair
from mambavl.cache.verify import verify
from mambavl.cache.writer import StoreWriter
from mambavl.configs.errors import DataError
from mambavl.fuse.checkpoint import load_checkpoint, save_checkpoint

GROUPS = range(4)


@pytest.fixture
def fast_dir(tmp_path) -> Iterator[Path]:
    """Memory where there is some: a disk's own fsync would only slow these tests down."""
    if not Path("/dev/shm").is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def is_damaged(path: Path) -> bool:
    """Whether `verify` finds anything."""
    try:
        return verify(path, deep=True) != []
    except DataError:
        return True


FAULTS = [
    ("EIO", False),
    ("EIO", True),
    ("ENOSPC", False),
    ("ENOSPC", True),
    ("short", False),
    ("short", True),
]


# what a fault may hit, if not all
SUSPECTS = {"short": {"write"}, "ENOSPC": {"open", "write", "fsync", "replace", "mkdir"}}


faults = pytest.mark.parametrize(("fault", "sticky"), FAULTS)


kinds = pytest.mark.parametrize("kind", ["dense", "ragged"])


def each_call(fault: str, sticky: bool = False, first: int = 1, step: int = 1) -> Iterator[FailingCalls]:
    """Call 1 fails, then call 2, ... until a scenario makes no call that fails."""
    for at in itertools.count(first, step):
        calls = FailingCalls(at, fault, sticky=sticky, only=SUSPECTS.get(fault))
        yield calls
        if not calls.failed:
            return


@contextlib.contextmanager
def explained(calls: FailingCalls, path: Path) -> Iterator[None]:
    """A failing call ends in a DataError that names a path (in the store, or a folder above it), and the
    bytes if a write.
    """
    before, error = len(calls.failed), None
    try:
        yield
    except DataError as fault:
        error = str(fault)
    failed = calls.failed[before:]
    if error is None:
        # behind an fsync a failing close loses nothing
        assert calls.fault == "short" or set(failed) <= {"close"}
    else:
        named = Path(error.partition(":")[0])
        assert path in (named, *named.parents) or named in path.parents
        assert failed[0] != "write" or re.search(r"\([\d,]+ bytes\)", error)


@pytest.mark.parametrize(
    ("kind", "fault", "sticky"), [*(("dense", *fault) for fault in FAULTS), ("ragged", "EIO", False)]
)
def test_whichever_call_fails_the_error_names_the_file_and_the_next_run_finishes(
    fast_dir, count, kind, fault, sticky
):
    job = Job(kind)
    expected = uninterrupted(job, fast_dir)
    for calls in each_call(fault, sticky):
        path, acknowledged = fast_dir / "s.zarr", []
        with explained(calls, path), exchanged(calls):
            job.write(path, acknowledged.append)
        done, wrong = look(job, path)
        assert done >= set(acknowledged)
        assert wrong == 0
        job.write(path)
        assert tree(path) == expected
        assert not any((path / name).stat().st_mode & 0o222 for name in expected), (
            "a finished store is read-only"
        )
        shutil.rmtree(path)
    count("calls made to fail", calls.at - 1)


@faults
def test_a_writer_whose_commit_failed_goes_on_and_hides_nothing(fast_dir, count, fault, sticky):
    """The same object retries: a record torn in the middle of its journal must not hide the records behind
    it.
    """
    job = Job()
    expected = uninterrupted(job, fast_dir)
    for calls in each_call(fault, sticky):
        path, acknowledged = fast_dir / "s.zarr", []
        writer = job.start(path)
        with exchanged(calls):
            for group in GROUPS:
                with explained(calls, path):
                    writer.commit(group, job.row_group(group))
                    acknowledged.append(group)
        assert set(acknowledged).isdisjoint(writer.pending())
        for group in writer.pending():
            writer.commit(group, job.row_group(group))
            acknowledged.append(group)
            assert set(acknowledged).isdisjoint(writer.pending())
        writer.finalize()
        assert tree(path, leftovers=False) == expected
        shutil.rmtree(path)
    count("calls made to fail", calls.at - 1)


@faults
def test_a_journal_keeps_what_it_acknowledged_and_takes_a_retry(fast_dir, count, fault, sticky):
    for calls in each_call(fault, sticky):
        path, acknowledged = fast_dir / "a.journal", []
        path.unlink(missing_ok=True)
        with explained(calls, path), exchanged(calls):
            for i in range(3):
                journal.append(path, {"i": i})
                acknowledged.append(i)
        found = [record["i"] for record in journal.read(path)] if path.exists() else []
        assert found[: len(acknowledged)] == acknowledged
        journal.cut_torn_tail(path)
        journal.append(path, {"i": "again"})
        assert [record["i"] for record in journal.read(path)] == [*found, "again"]
    count("calls made to fail", calls.at - 1)


def checkpoint(step: int) -> tuple[dict, dict, dict]:
    weights = {"w": torch.arange(5.0) + step}
    optimizer = {
        "state": {0: {"step": torch.tensor(1.0 * step), "exp_avg": weights["w"] / 2}},
        "param_groups": [{"params": [0]}],
    }
    return weights, optimizer, {"epoch": step}


def loaded_step(folder: Path) -> int:
    """The step of the newest checkpoint, every value of it compared; 0 where there is none."""
    found = load_checkpoint(folder)
    if found is None:
        return 0
    step = found[2]["step"]
    weights, optimizer, _ = checkpoint(step)
    assert torch.equal(found[0]["w"], weights["w"])
    assert all(
        torch.equal(found[1]["state"][0][name], value) for name, value in optimizer["state"][0].items()
    )
    assert found[2] == {"epoch": step, "step": step}
    return step


@faults
def test_a_checkpoint_is_whole_or_the_one_before_it_whichever_call_fails(fast_dir, count, fault, sticky):
    for calls in each_call(fault, sticky):
        folder = fast_dir / "checkpoints"
        for step in (1, 2):
            save_checkpoint(folder, step, *checkpoint(step))
        with explained(calls, folder), exchanged(calls):
            save_checkpoint(folder, 3, *checkpoint(3))
        assert loaded_step(folder) in (2, 3)
        save_checkpoint(folder, 3, *checkpoint(3))
        assert loaded_step(folder) == 3
        shutil.rmtree(folder)
    count("calls made to fail", calls.at - 1)


BAD = ("wrong rows readable", "acknowledged groups lost", "finished stores lost", "resumed otherwise")


SAMPLED = "prefixes with more states than were tried"


def survey(job: Job, states: CrashStates, folder: Path, expected: dict, resume_every: int = 1) -> Counter:
    """Look into every state as a reader, and into every so many as the next run; counts what was seen and
    what was wrong.
    """
    seen, before, path = Counter(dict.fromkeys(BAD, 0)), {}, folder / "crashed" / "s.zarr"
    path.parent.mkdir()
    for number, (state, notes) in enumerate(states):
        materialise(state, path.parent, before)
        before = state
        acknowledged = {int(note.removeprefix("acknowledged ")) for note in notes if note != "finalised"}
        done, wrong = look(job, path)
        found = Counter({"crash states": 1, "wrong rows readable": wrong})
        found["finished stores lost"] = "finalised" in notes and is_damaged(path)
        if number % resume_every == 0 or not acknowledged <= done:
            found["resumed"] = 1
            try:
                writer = job.start(path)
                found["acknowledged groups lost"] = len(acknowledged & set(writer.pending()))
                job.finish(writer)
                found["resumed otherwise"] = tree(path, leftovers=False) != expected
            except Exception:  # counted as a state that cannot be resumed, which fails the test
                traceback.print_exc()
                found["resumed otherwise"] = 1
            shutil.rmtree(path.parent)
            path.parent.mkdir()
            before = {}
        if any(found[what] for what in BAD):
            print(f"state {number}, after {notes}: {+found}")
        seen.update(found)
    shutil.rmtree(path.parent)
    seen[SAMPLED] += states.sampled
    return seen


def go_on(job: Job, writer: StoreWriter, recorder: Recorder) -> int:
    """Finish with the same writer, each failed commit tried once more; returns the place in the record of the
    last failure.
    """
    failed = 0
    for group in writer.pending():
        try:
            writer.commit(group, job.row_group(group))
        except DataError:
            failed = len(recorder.record)
            writer.commit(group, job.row_group(group))
        recorder.note(f"acknowledged {group}")
    writer.finalize()
    return failed


def recorded(job: Job, folder: Path, faulty: FailingCalls | None = None) -> tuple[list[tuple], int]:
    """(the record of a run, where in it the fault was). After a kill the next process goes on, after an error
    the same writer.
    """
    path = folder / "recorded" / "s.zarr"
    path.parent.mkdir()
    recorder, since = Recorder(path.parent), 0
    if faulty:
        faulty.inner = recorder
        try:
            with exchanged(faulty):
                since = go_on(job, job.start(path), recorder)
        except (Killed, DataError):
            since = len(recorder.record)
    with exchanged(recorder):
        job.write(path, lambda group: recorder.note(f"acknowledged {group}"))
    recorder.note("finalised")
    shutil.rmtree(path.parent)
    return recorder.record, since


def assert_sound(seen: Counter, count) -> None:
    for what in ("crash states", "resumed", SAMPLED, *BAD):
        count(what, seen[what])
    assert not any(seen[what] for what in BAD), seen


@kinds
def test_no_power_cut_shows_a_wrong_row_or_loses_an_acknowledged_one(fast_dir, count, kind):
    """Every state there is: a cut at any call of creation, four commits and finalize."""
    job = Job(kind)
    record, _ = recorded(job, fast_dir)
    seen = survey(job, CrashStates(record), fast_dir, uninterrupted(job, fast_dir))
    assert_sound(seen, count)
    assert seen[SAMPLED] == 0


def promises(record: list[tuple], since: int, draws: int) -> set[int]:
    """Prefixes of a record: those that end in an acknowledgement, and some drawn from the rest."""
    rest = range(since, len(record) + 1)
    noted = {number for number, event in enumerate(record, 1) if event[0] == "note" and number in rest}
    return noted | set(random.Random(0).sample(rest, min(draws, len(rest))))


def survey_after_faults(job: Job, folder: Path, each: Iterator[FailingCalls], draws: int | None) -> Counter:
    """A call fails, then a power cut: after each later acknowledgement and at `draws` other calls, or at
    every one.
    """
    seen, expected = Counter(), uninterrupted(job, folder)
    for calls in each:
        record, since = recorded(job, folder, calls)
        prefixes = range(since, len(record) + 1) if draws is None else promises(record, since, draws)
        found = survey(job, CrashStates(record, prefixes), folder, expected, resume_every=8)
        if any(found[what] for what in BAD):
            print(f"{calls.fault} at call {calls.at} ({calls.failed[0]}), then a power cut: {found}")
        seen.update(found)
    return seen


@pytest.mark.parametrize(("fault", "first"), [("kill", 1), ("EIO", 2)])
def test_no_power_cut_after_a_fault_and_going_on_loses_anything(fast_dir, count, fault, first):
    """At every eighth call; all of them, and all states, are in the long version."""
    assert_sound(survey_after_faults(Job(), fast_dir, each_call(fault, first=first, step=8), draws=3), count)


@pytest.mark.soak
@pytest.mark.timeout(0)
@kinds
@pytest.mark.parametrize("fault", ["kill", "EIO", "ENOSPC"])
def test_no_power_cut_at_any_call_after_a_fault_loses_anything(fast_dir, count, fault, kind):
    assert_sound(survey_after_faults(Job(kind), fast_dir, each_call(fault), draws=None), count)


@pytest.mark.parametrize("dropped", ["fsync file", "fsync folder"])
def test_the_crash_states_show_what_a_store_without_fsync_would_lose(fast_dir, count, dropped):
    """A test of the harness: with one kind of fsync taken out of the record it must find losses."""
    job = Job()
    record = [event for event in recorded(job, fast_dir)[0] if event[0] != dropped]
    states = CrashStates(record, promises(record, 0, 0), limit=16)
    seen = survey(job, states, fast_dir, uninterrupted(job, fast_dir), resume_every=8)
    count("crash states of a store without fsync, to test the harness", seen["crash states"])
    assert seen["acknowledged groups lost"] > 0
    assert seen["finished stores lost"] > 0


def step_by_step(folder: Path, fault: str, step: Callable, check: Callable) -> int:
    """Three steps, one call of which fails; that step is tried again. Then a power cut; returns the number of
    states.

    check(folder, n) must hold in every state in which n steps were acknowledged.
    """
    states, root, crashed = 0, folder / "recorded", folder / "crashed"
    for calls in each_call(fault):
        root.mkdir()
        crashed.mkdir()
        recorder = calls.inner = Recorder(root)
        with exchanged(calls):
            for i in (1, 2, 3):
                try:
                    step(root, i)
                except (DataError, Killed):
                    calls.at = math.inf
                    step(root, i)
                recorder.note(str(i))
        before = {}
        for state, notes in CrashStates(recorder.record, promises(recorder.record, 0, 5)):
            materialise(state, crashed, before)
            before = state
            check(crashed, len(notes))
            states += 1
        shutil.rmtree(root)
        shutil.rmtree(crashed)
    return states


retried = pytest.mark.parametrize("fault", ["kill", "EIO"])


@retried
def test_no_power_cut_after_a_fault_and_a_retry_loses_a_record(fast_dir, count, fault):
    def step(folder, i):
        journal.cut_torn_tail(folder / "a.journal")
        journal.append(folder / "a.journal", {"i": i})

    def check(folder, acknowledged):
        found = journal.read(folder / "a.journal") if (folder / "a.journal").exists() else []
        assert {record["i"] for record in found} >= set(range(1, acknowledged + 1))

    count("crash states of a journal", step_by_step(fast_dir, fault, step, check))


@retried
def test_no_power_cut_after_a_fault_and_a_retry_loses_a_checkpoint(fast_dir, count, fault):
    def check(folder, acknowledged):
        try:
            assert loaded_step(folder / "run") >= acknowledged
        except DataError:
            assert not acknowledged

    step = lambda folder, i: save_checkpoint(folder / "run", i, *checkpoint(i))
    count("crash states of checkpoints", step_by_step(fast_dir, fault, step, check))


# bytes: less than a row array, a shard, the journal
@pytest.mark.parametrize("limit", [1, 100, 500, 900, 1500])
def test_a_file_size_limit_stops_with_the_file_and_its_bytes_and_the_next_run_finishes(fast_dir, limit):
    """RLIMIT_FSIZE from the third row group on; Python ignores SIGXFSZ, so that the call fails instead."""
    job, path = Job(), fast_dir / "s.zarr"
    expected = uninterrupted(job, fast_dir)
    writer = job.start(path)
    for group in (0, 1):
        writer.commit(group, job.row_group(group))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        with pytest.raises(DataError) as full:
            writer.commit(2, job.row_group(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert re.match(rf"{path}/\S+: could not be written \([\d,]+ bytes\): .*ulimit -f", str(full.value))
    assert look(job, path) == ({0, 1}, 0)
    writer.close()
    job.write(path)
    assert tree(path) == expected


FULL = """
import json, re, subprocess
from pathlib import Path
from helpers.faults import Job
from helpers.faults import look, tree, uninterrupted
from mambavl.configs.errors import DataError
job, disk, stops = Job(), Path(sys.argv[1]), []
mount = lambda *words: subprocess.run(["mount", *words, str(disk)], check=True)
expected = uninterrupted(job, Path(sys.argv[2]))
for size in range(8, 400, 4):  # KiB
    path, acknowledged = disk / "s.zarr", []
    mount("-t", "tmpfs", "-o", f"size={size}k", "none")
    try:
        job.write(path, acknowledged.append)
        break
    except DataError as full:
        assert re.match(rf"{disk}/\\S+: could not be .*the disk is full", str(full)), full
        stops.append(len(acknowledged))
    done, wrong = look(job, path)
    assert done >= set(acknowledged) and wrong == 0, (size, done, acknowledged, wrong)
    mount("-o", "remount,size=4m")
    job.write(path)
    assert tree(path) == expected, size
    subprocess.run(["umount", "--lazy", str(disk)], check=True)
print(json.dumps(stops))
"""


def test_a_full_disk_stops_with_the_file_and_the_next_run_finishes(fast_dir, count):
    """A tmpfs of 8 KiB, 12 KiB, ... in a user namespace, until the store fits."""
    disk = fast_dir / "disk"
    disk.mkdir()
    allowed = ["unshare", "-Urm", "mount", "-t", "tmpfs", "-o", "size=96k", "none", str(disk)]
    if (
        shutil.which("unshare") is None
        or subprocess.run(allowed, capture_output=True, check=False).returncode
    ):
        pytest.skip("needs `unshare -Urm` and mount: user namespaces are not permitted here")
    command = [
        "unshare",
        "-Urm",
        sys.executable,
        "-c",
        f"import sys; sys.path.insert(0, {str(TESTS)!r})\n{FULL}",
        disk,
        fast_dir,
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    stops = json.loads(done.stdout)
    assert {0, 3} <= set(stops)  # full while creating, and in the last commit or at the manifest
    count("full disks", len(stops))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Per kind, two finished stores of the same rows and other values; two writers took part, so each has two
    journals.
    """
    folder = tmp_path_factory.mktemp("finished")
    for kind, seed in itertools.product(("dense", "ragged"), (0, 1)):
        job, path = Job(kind, seed), folder / f"{kind}{seed}.zarr"
        writer = job.start(path)
        for group in (0, 2):
            writer.commit(group, job.row_group(group))
        writer.close()
        job.write(path)
    return folder


def files_of(path: Path) -> dict[str, bytes]:
    """All but `commit/lock`, which is empty and says nothing."""
    files = {
        str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()
    }
    return {name: data for name, data in files.items() if data}


def kind_of(name: str) -> str:
    """The files that a corruption chooses between evenly: one kind first, then one file of it."""
    array, chunk, _ = name.partition("/c") if "zarr.json" not in name else ("", "", "")
    return "journal" if name.endswith(".journal") else array if chunk else Path(name).name


def corruption(
    draw: random.Random, files: dict[str, bytes], twin: dict[str, bytes]
) -> tuple[str, str, dict[str, bytes | None]]:
    """(damage, kind of file, file -> its new bytes, None where it is deleted)."""
    of_kind: dict[str, list[str]] = {}
    for name in files:
        of_kind.setdefault(kind_of(name), []).append(name)
    kind = draw.choice(sorted(of_kind))
    name = draw.choice(of_kind[kind])
    data, size = files[name], len(files[name])
    damage = draw.choice(
        ["bit", "cut", "emptied", "zeros", "deleted", "swapped", "other store", "other group"]
    )
    if damage == "bit":
        position = draw.randrange(size)
        changed = data[:position] + bytes([data[position] ^ 1 << draw.randrange(8)]) + data[position + 1 :]
    elif damage == "cut":
        changed = data[: draw.randrange(size)]
    elif damage == "zeros":
        first = draw.randrange(size)
        length = draw.randint(1, size - first)
        changed = data[:first] + bytes(length) + data[first + length :]
    elif damage == "swapped":
        other = draw.choice(sorted(files))
        return damage, kind, {name: files[other], other: data}
    elif damage == "other store":  # journals are named by their writers
        alike = [other for other in twin if kind_of(other) == "journal"] if kind == "journal" else [name]
        changed = twin[draw.choice(alike)]
    elif damage == "other group":
        changed = files[draw.choice(of_kind[kind])]
    else:
        changed = b"" if damage == "emptied" else None
    return damage, kind, {name: changed}


def put(path: Path, files: dict[str, bytes | None], mode: int = 0o644) -> None:
    for name, data in files.items():
        (path / name).unlink(missing_ok=True)
        if data is not None:
            (path / name).write_bytes(data)
            (path / name).chmod(mode)


def reads_true_or_raises(job: Job, path: Path) -> bool:
    try:
        opened = open_store(path, verify="read")
        rows = job.wrong_rows(opened, np.arange(ROWS))
        return not len(rows) and opened.segments == make_segments(ROWS) and opened.classes == CLASSES
    except DataError:
        return True


def corrupt(finished: Path, kind: str, cases: int, seed: int, count) -> None:
    draw, job, path = random.Random(seed), Job(kind), finished / f"{kind}0.zarr"
    files, twin = files_of(path), files_of(finished / f"{kind}1.zarr")
    assert not is_damaged(path)
    missed, wrong, tracebacks, tried = [], [], [], Counter()
    while tried.total() < cases:
        damage, what, changed = corruption(draw, files, twin)
        if all(files[name] == data for name, data in changed.items()):
            continue  # zeros over zeros, or swapped with its equal: nothing is damaged
        tried[damage, what] += 1
        put(path, changed)
        try:
            if not is_damaged(path):
                missed.append((damage, *changed))
            if not reads_true_or_raises(job, path):
                wrong.append((damage, *changed))
        except Exception as error:  # only DataError may come out; anything else fails the test below
            tracebacks.append((damage, *changed, repr(error)))
        finally:
            put(path, {name: files[name] for name in changed}, mode=0o444)
    count("corruptions", cases)
    count("corruptions missed by verify", len(missed))
    count("corruptions read as features", len(wrong))
    assert not missed, f"{len(missed)} of {cases}: {Counter(missed).most_common(20)}"
    assert not tracebacks, f"{len(tracebacks)} of {cases}: {Counter(tracebacks).most_common(20)}"
    assert not wrong, f"{len(wrong)} of {cases}: {Counter(wrong).most_common(20)}"


@kinds
def test_every_damaged_byte_is_found_and_never_read_as_features(finished, count, kind):
    corrupt(finished, kind, 1000, 0, count)


@pytest.mark.soak
@pytest.mark.timeout(0)
@kinds
def test_each_of_very_many_damages_is_found(finished, count, kind):
    corrupt(finished, kind, 25_000, 1, count)


WRITERS = """
import json, os, traceback
from pathlib import Path
from helpers.faults import Job
def write(path, seed, groups):
    job = Job("dense", seed)
    writer = job.start(Path(path))
    for group in [group for group in groups if group in writer.pending()]:
        writer.commit(group, job.row_group(group))
    writer.close()
for line in sys.stdin:
    path, shares = json.loads(line)
    gate, opener = os.pipe()
    pids = []
    for seed, groups in shares:
        pid = os.fork()
        if pid == 0:
            os.close(opener)
            os.read(gate, 1)  # until everybody is there
            try:
                write(path, seed, groups)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        pids.append(pid)
    os.close(opener)
    print(json.dumps([os.waitpid(pid, 0)[1] for pid in pids]), flush=True)
    os.close(gate)
"""


@pytest.fixture(scope="module")
def write_together() -> Iterator[Callable]:
    """write_together(path, (seed, row groups), ...): a process each, all let go at the same time. Torch is
    imported once.
    """
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(TESTS)!r})\n{WRITERS}"]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def start(path: Path, *shares: tuple[int, list[int]]) -> None:
        server.stdin.write(json.dumps([str(path), shares]) + "\n")
        server.stdin.flush()
        assert json.loads(server.stdout.readline()) == [0] * len(shares)

    yield start
    server.kill()
    server.wait()
    server.stdin.close()
    server.stdout.close()


ROUNDS = 15


@pytest.mark.parametrize(
    "shares", [[[0], [1], [2], [3]], [[0, 1, 2, 3]] * 2, [[0, 1, 2, 3], [3, 2, 1, 0]] * 2]
)
def test_writers_at_the_same_time_lose_nothing(fast_dir, count, write_together, shares):
    """Four on a row group each, two on the same ones, four in opposite orders; whoever is first creates the
    store.
    """
    job = Job()
    expected = uninterrupted(job, fast_dir)
    for i in range(ROUNDS):
        path = fast_dir / f"{i}.zarr"
        write_together(path, *((0, groups) for groups in shares))
        finalize(path)
        assert verify(path, deep=True) == []
        assert tree(path) == expected
    count("rounds of several writers", ROUNDS)


def origin(path: Path, jobs: list[Job]) -> list[set[int]]:
    """Per row group, the seeds of the jobs whose values all of its rows are."""
    opened = open_store(path)
    return [
        {job.seed for job in jobs if not len(job.wrong_rows(opened, np.arange(ROWS)[job.rows_of(group)]))}
        for group in GROUPS
    ]


def test_of_two_writers_with_other_values_each_row_group_is_wholly_ones(fast_dir, count, write_together):
    jobs = [Job(seed=0), Job(seed=1)]
    for i in range(ROUNDS):
        path = fast_dir / f"{i}.zarr"
        write_together(path, (0, [0, 1, 2, 3]), (1, [0, 1, 2, 3]))
        jobs[0].write(path)  # what the two left mixed is done again
        assert verify(path, deep=True) == []
        assert all(len(seeds) == 1 for seeds in origin(path, jobs))
    count("rounds of several writers", ROUNDS)


def test_a_row_group_half_overwritten_with_other_values_is_done_again(fast_dir, count):
    """A second writer, with other values, is killed at each call within a row group that is done."""
    jobs = [Job(seed=0), Job(seed=1)]
    for at in itertools.count(1):
        path, calls = fast_dir / "s.zarr", FailingCalls(at, "kill")
        first, second = (job.start(path) for job in jobs)
        first.commit(0, jobs[0].row_group(0))
        with contextlib.suppress(Killed), exchanged(calls):
            second.commit(0, jobs[1].row_group(0))
        first.close()
        second.close()  # as the end of its process does
        try:
            jobs[0].write(path)
        except DataError:  # finish has seen it
            repair(path)
            jobs[0].write(path)
        assert verify(path, deep=True) == [], f"killed at call {at}"
        assert all(len(seeds) == 1 for seeds in origin(path, jobs))
        shutil.rmtree(path)
        if not calls.failed:
            break
    count("calls made to fail", at - 1)
