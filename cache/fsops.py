"""The only code in the store, the journals and the checkpoints that creates, writes, renames, syncs or deletes.

Kept in one place so that every fault of a file system can be put in here, and so that the order
write, fsync, rename, fsync of the folder is written once.
"""

import errno
import os
import re
import shutil
import socket
import uuid
from pathlib import Path

from mambavl.configs.errors import DataError

TEMPORARY = ".partial-"
_WRITER = f"{re.sub(r'[^A-Za-z0-9]', '', socket.gethostname())}-{os.getpid()}"  # so that nobody sweeps a living writer's files


def write_file(path: Path, *pieces: bytes | memoryview) -> None:
    """Put a whole file in place or leave what was there: temporary name, fsync, rename, fsync of the folder."""
    temporary = path.parent / f"{TEMPORARY}{_WRITER}-{uuid.uuid4().hex[:8]}-{path.name}"
    size = sum(memoryview(piece).nbytes for piece in pieces)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            for piece in pieces:
                _write_all(descriptor, piece)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _explained(error, path, size) from error


def append(path: Path, data: bytes) -> None:
    """Add bytes to the end of a file and wait until they are on the disk."""
    is_new = not path.exists()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            _write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if is_new:
            sync_folder(path.parent)
    except OSError as error:
        raise _explained(error, path, len(data)) from error


def truncate(path: Path, length: int) -> None:
    """Cut a file to its first `length` bytes."""
    with open(path, "r+b") as file:
        file.truncate(length)
        os.fsync(file.fileno())


def make_folder(path: Path) -> None:
    """Create a folder and its parents, and make the new entries durable."""
    missing = [p for p in (path, *path.parents) if not p.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        for folder in missing:
            sync_folder(folder.parent)
    except OSError as error:
        raise _explained(error, path, 0) from error


def sweep_temporaries(folder: Path) -> int:
    """Remove what killed processes of this machine left between write and rename; returns their number."""
    host, swept = _WRITER.rpartition("-")[0], 0
    for path in folder.rglob(f"{TEMPORARY}{host}-*"):
        pid = path.name.removeprefix(f"{TEMPORARY}{host}-").partition("-")[0]
        if pid.isdigit() and not _is_alive(int(pid)):
            path.unlink(missing_ok=True)
            swept += 1
    return swept


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody else's
    return True


def rename(source: Path, target: Path) -> None:
    """Move a finished file or folder to its final name within one folder."""
    os.rename(source, target)
    sync_folder(target.parent)


def remove_folder(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)


def drop_write_bits(path: Path) -> None:
    """Make a finished file read-only, so that nothing changes it by accident."""
    path.chmod(0o444)


def sync_folder(path: Path) -> None:
    """Make renames and new names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    view = memoryview(data).cast("B")
    while view.nbytes:
        view = view[os.write(descriptor, view) :]


def _explained(error: OSError, path: Path, size: int) -> DataError:
    hint = {
        errno.ENOSPC: "the disk is full; free some space and run the same command again",
        errno.EDQUOT: "the quota is used up; free some space and run the same command again",
        errno.EROFS: "the file system is read-only",
        errno.EACCES: "permission denied",
        errno.EFBIG: "the file is larger than the file-size limit",
    }.get(error.errno, error.strerror or str(error))
    return DataError(f"{path}: could not be written ({size:,} bytes): {hint}")
