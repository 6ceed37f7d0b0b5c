"""The only code in the store, the journals and the checkpoints that creates, writes, renames, syncs or
deletes.

Kept in one place so that the order write, fsync, rename, fsync of the folder is written once, and so that
every fault of a file system can be put in: all of it goes through `calls`, which tests exchange for system
calls that fail or that keep a record.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, overload

from mambavl.cache import lock_keeper
from mambavl.configs.errors import DataError

TEMPORARY = ".partial-"
# a name may hold anything, and two may look alike
HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]

HINTS = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.EDQUOT: "the quota is used up; free some space and run the same command again",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EFBIG: "the file is larger than the file-size limit (ulimit -f)",
    errno.EIO: "input/output error; check the disk, then run the same command again",
}


class Calls:
    """The system calls that change a disk, one method each. Signals are not faults here: Python repeats what
    EINTR cut short.
    """

    def open(self, path: Path, flags: int) -> int:
        return os.open(path, flags, 0o644)

    def write(self, descriptor: int, data: memoryview) -> int:
        return os.write(descriptor, data)

    def truncate(self, descriptor: int, length: int) -> None:
        os.ftruncate(descriptor, length)

    def fsync(self, descriptor: int) -> None:
        os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def replace(self, source: Path, target: Path) -> None:
        os.replace(source, target)

    def mkdir(self, path: Path) -> None:
        os.mkdir(path)

    def unlink(self, path: Path) -> None:
        os.unlink(path)

    def rmdir(self, path: Path) -> None:
        os.rmdir(path)

    def chmod(self, path: Path, mode: int) -> None:
        os.chmod(path, mode)


calls = Calls()
named: set[Path] = set()  # files and folders whose names this process knows to be on the disk


def write_file(path: Path, *pieces: bytes | memoryview) -> None:
    """Put a whole file in place or leave what was there: temporary name, fsync, rename, fsync of the folder.

    Raises DataError, as everything here does, naming the path, the bytes and what to do.
    """
    temporary = temporary_name(path)
    size = sum(memoryview(piece).nbytes for piece in pieces)
    with _explained(path, "written", size):
        try:
            with _opened(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as descriptor:
                for piece in pieces:
                    _write_all(descriptor, piece)
                calls.fsync(descriptor)
            calls.replace(temporary, path)
        except OSError:
            # the first fault is the one to report; what stays is swept by the next writer
            with contextlib.suppress(OSError):
                calls.unlink(temporary)
            raise
        _sync_folder(path.parent)


@contextlib.contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yields where to write a file piece by piece, or by another library; what is there in the end becomes
    `path`, durably. Nothing is left where that fails.
    """
    temporary = temporary_name(path)
    try:
        yield temporary
        with _explained(path, "written"):
            with _opened(temporary, os.O_RDONLY) as descriptor:
                calls.fsync(descriptor)
            calls.replace(temporary, path)
            _sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):  # mostly: it is in place already
            calls.unlink(temporary)


def append(path: Path, data: bytes) -> None:
    """Add bytes to the end of a file and wait until they are on the disk; after a fault the file is cut back,
    if it can be.
    """
    with _explained(path, "written", len(data)):
        with _opened(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) as descriptor:
            before = os.fstat(descriptor).st_size
            try:
                _write_all(descriptor, data)
                calls.fsync(descriptor)
            except OSError:
                with contextlib.suppress(OSError):
                    calls.truncate(descriptor, before)
                raise
        if not before or path not in named:  # a killed process may have made the file, and its name be lost
            _sync_folder(path.parent)
            named.add(path)


def truncate(path: Path, length: int) -> None:
    """Cut a file to its first `length` bytes."""
    with _explained(path, "cut"), _opened(path, os.O_WRONLY) as descriptor:
        calls.truncate(descriptor, length)
        calls.fsync(descriptor)


def make_folder(path: Path) -> None:
    """Create a folder and its parents, and make the entries durable: also those that a killed process had
    made and not synced.
    """
    with _explained(path, "created"):
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        path = path.absolute()
        for folder in reversed((path, *path.parents[:-1])):
            if not folder.exists():
                with contextlib.suppress(FileExistsError):  # another writer was faster
                    calls.mkdir(folder)
                _sync_folder(folder.parent)
            elif folder not in named and os.access(folder.parent, os.R_OK | os.W_OK):
                _sync_folder(folder.parent)
            named.add(folder)


def rename(source: Path, target: Path) -> None:
    """Move a finished file or folder to its final name within one folder."""
    with _explained(target, "put in place"):
        calls.replace(source, target)
        _sync_folder(target.parent)


def remove(path: Path) -> None:
    """Delete a file, for good; one that is not there is not a fault."""
    with _explained(path, "deleted"):
        try:
            calls.unlink(path)
        except FileNotFoundError:
            return
        _sync_folder(path.parent)


def remove_folder(path: Path) -> None:
    """Delete a folder and all that is in it; links are deleted, not followed."""
    named.difference_update([name for name in named if name.is_relative_to(path.absolute())])
    if not path.exists():
        return
    with _explained(path, "deleted"):
        for folder, folders, files in os.walk(path, topdown=False):
            for name in files:
                calls.unlink(Path(folder, name))
            for name in folders:
                entry = Path(folder, name)
                (calls.unlink if entry.is_symlink() else calls.rmdir)(entry)
        calls.rmdir(path)


def drop_write_bits(path: Path) -> None:
    """Make a finished file read-only, so that nothing changes it by accident."""
    with _explained(path, "made read-only"):
        if path.stat().st_mode & 0o222:
            calls.chmod(path, 0o444)


def sync_folder(path: Path) -> None:
    """Make renames and new names in a folder durable."""
    with _explained(path, "synced"):
        _sync_folder(path)


def sync_file(path: Path) -> None:
    """Make what another process wrote durable, its name too."""
    with _explained(path, "synced"):
        with _opened(path, os.O_RDONLY) as descriptor:
            calls.fsync(descriptor)
        _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    with _opened(path, os.O_RDONLY) as descriptor:
        try:
            calls.fsync(descriptor)
        except OSError as error:
            # file systems that cannot sync a folder say so like this
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise


def temporary_name(path: Path) -> Path:
    """A name next to `path` that says whose it is; see `temporaries`."""
    return path.parent / f"{TEMPORARY}{HOST}-{os.getpid()}-{uuid.uuid4().hex[:8]}-{path.name}"


def temporaries(folder: Path) -> Iterator[tuple[Path, bool]]:
    """What writers have between write and rename: (file, whether its writer is known to be dead: a process of
    this host).
    """
    ours = f"{TEMPORARY}{HOST}-"  # then the pid: nobody sweeps a living writer's files
    for path in sorted(folder.rglob(f"{TEMPORARY}*")):
        pid = path.name.removeprefix(ours).partition("-")[0]
        yield path, path.name.startswith(ours) and pid.isdigit() and not is_alive(int(pid))


def sweep_temporaries(folder: Path) -> int:
    """Remove what killed processes of this machine left between write and rename; returns their number."""
    dead = [path for path, is_dead in temporaries(folder) if is_dead]
    for path in dead:
        remove(path)
    return len(dead)


@overload
def lock(path: Path, *, exclusive: bool, wait: Literal[True]) -> int: ...
@overload
def lock(path: Path, *, exclusive: bool, wait: Literal[False]) -> int | None: ...
def lock(path: Path, *, exclusive: bool, wait: bool) -> int | None:
    """Lock a file until `unlock` or the end of the process, however it ends; None where others hold it and
    `wait` is off.

    Any number may hold it shared, one exclusively. Advisory (flock): it keeps mambavl's own processes apart.
    On a file system without locks everybody is let in; then nobody may finish or repair a store that others
    still write. Where there is a keeper (`lock_keeper`), he is asked, too.
    """
    with _explained(path, "locked"):
        descriptor = calls.open(path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(
                descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | (0 if wait else fcntl.LOCK_NB)
            )
        except BlockingIOError:
            calls.close(descriptor)
            return None
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK):
                calls.close(descriptor)
                raise
        if not lock_keeper.take(path, descriptor, exclusive=exclusive, wait=wait):
            unlock(descriptor)
            return None
        return descriptor


def sign(path: Path, descriptor: int, data: bytes) -> None:
    """Write who holds a lock into its file: `lock` of the same path gave the descriptor."""
    with _explained(path, "written", len(data)):
        _write_all(descriptor, data)
        calls.truncate(descriptor, len(data))


def note(path: Path, descriptor: int, place: int, data: bytes) -> None:
    """Write into a file that `lock` opened, without waiting for the disk: what the crash of a process must
    not lose, and that of the machine may.
    """
    with _explained(path, "written", len(data)):
        os.pwrite(descriptor, data, place)


def unlock(descriptor: int) -> None:
    lock_keeper.give_back(descriptor)
    with contextlib.suppress(OSError):  # nothing was written through it
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing would not do where a forked child still has it
    with contextlib.suppress(OSError):
        calls.close(descriptor)


def free_bytes(path: Path) -> int:
    """Bytes that may still be written where `path` is, or will be."""
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    return shutil.disk_usage(there).free


def is_alive(pid: int) -> bool:
    """Whether this host has a process of that number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody else's
    return True


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = calls.open(path, flags)
    try:
        yield descriptor
    finally:
        calls.close(descriptor)


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    view = memoryview(data).cast("B")
    while view.nbytes:
        written = calls.write(descriptor, view)
        if written <= 0:
            raise OSError(errno.EIO, "the system wrote nothing")
        view = view[written:]


@contextlib.contextmanager
def _explained(path: Path, deed: str, size: int | None = None) -> Iterator[None]:
    """Turn a fault of the file system into a DataError that says what, where, how much, and what to do."""
    try:
        yield
    except OSError as error:
        hint = HINTS.get(error.errno or 0, error.strerror or str(error))
        bytes_ = "" if size is None else f" ({size:,} bytes)"
        raise DataError(f"{path}: could not be {deed}{bytes_}: {hint}") from error
