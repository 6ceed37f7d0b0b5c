"""Reading the files that rows are made from, so that what the system says is never taken for what the bytes
say.

An error of the system (EIO, ESTALE, EMFILE, ENOENT of a file that was there, ...) mostly passes. It is tried
again after growing pauses, the file opened anew; one that stays is a SystemFault, which ends the command and
becomes no row's status. Every call goes through `calls`, which tests exchange, as those of `cache.fsops`.
"""

import contextlib
import errno
import io
import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path
from stat import S_ISDIR
from typing import TypeVar

from mambavl.configs.errors import DataError, SystemFault
from mambavl.extract import watch

BLOCK = 2**24  # bytes read at a time
PAUSE, LONGEST_PAUSE = 5.0, 60.0  # seconds: pauses are 1, 5, 25, 60, 60, ...

Read = TypeVar("Read")


class Calls:
    """The system calls that read, and the clock that a pause waits on."""

    def open(self, path: Path) -> int:
        return os.open(path, os.O_RDONLY)

    def stat(self, descriptor: int) -> os.stat_result:
        return os.fstat(descriptor)

    def read(self, descriptor: int, size: int, position: int) -> bytes:
        return os.pread(descriptor, size, position)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def is_folder(self, path: Path) -> bool:
        return S_ISDIR(os.stat(path).st_mode)

    def names(self, folder: Path) -> list[str]:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_file()]

    def size(self, path: Path) -> int:
        return os.stat(path).st_size

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)


calls = Calls()


def patiently(path: Path, retries: int, read: Callable[[], Read]) -> Read:
    """What `read` gives; after an error of the system it is tried again, up to `retries` times.

    Raises SystemFault, naming the file, for an error that stays.
    """
    for tried in itertools.count():
        try:
            with watch.disk():
                return read()
        except (OSError, SystemFault) as error:
            if tried == retries:
                raise _fault(path, error, tried + 1) from error
        with watch.disk():
            calls.wait(min(PAUSE**tried, LONGEST_PAUSE))
    raise AssertionError("itertools.count ends")


def _fault(path: Path, error: OSError | SystemFault, times: int) -> SystemFault:
    if isinstance(error, OSError):
        said = error.strerror or str(error)
    else:  # from `arrays.readable`, in these words
        said = str(error).removeprefix(f"{path}: cannot be read (").removesuffix(")")
    often = f", tried {times} times" if times > 1 else ""
    return SystemFault(
        f"{path}: cannot be read ({said}){often}. That is no fault of its content, and no row was "
        "failed for it: mend the disk, the connection or the limit, then run the same command again"
    )


def is_folder(path: Path, retries: int = 0) -> bool:
    """Raises SystemFault, also where nothing is there."""
    return patiently(path, retries, lambda: calls.is_folder(path))


def names_in(folder: Path, retries: int = 0) -> list[str]:
    """The files in a folder, in no order. Raises SystemFault."""
    return patiently(folder, retries, lambda: calls.names(folder))


def size_of(path: Path, retries: int = 0) -> int:
    """Bytes of a file. Raises SystemFault."""
    return patiently(path, retries, lambda: calls.size(path))


def read_whole(path: Path, retries: int = 0) -> bytes:
    """All bytes of a file. Raises SystemFault."""
    file = InputFile(path, retries)
    try:
        data = b"".join(iter(lambda: file.read(BLOCK), b""))
        file.check()
    finally:
        file.close()
    return data


def try_twice(
    path: Path, retries: int, read: Callable[[], Read], failures: tuple[type[Exception], ...]
) -> Read:
    """What a library gives that reads the file by itself, and whose failures may be the system's or the
    content's: one is the content's where the whole file can be read and `read` fails again.

    Raises SystemFault where the file cannot be read.
    """
    try:
        return read()
    except failures:
        read_whole(path, retries)
        return read()


class InputFile:
    """An open file as PyAV reads it: `name`, `read`, `seek`, `tell`.

    FFmpeg keeps no word of what went wrong: after a fault demuxers call the content invalid, or take it for
    the end. So a fault that stays is kept here and the file then seems to end, and whoever takes anything
    from FFmpeg, a frame, an error or the end, asks `check` first.
    """

    def __init__(self, path: Path, retries: int = 0) -> None:
        """Raises SystemFault where the file cannot be opened."""
        self.path, self.name = path, str(path)
        self.retries = retries
        self._descriptor: int | None = None
        self._known: tuple[int, int] | None = None  # size and time of change
        self._position = 0
        self._fault: DataError | None = None
        patiently(path, retries, self._open)

    def __del__(self) -> None:
        self.close()

    @property
    def size(self) -> int:
        assert self._known
        return self._known[0]

    @property
    def changed(self) -> int:
        """When it was last changed, in nanoseconds."""
        assert self._known
        return self._known[1]

    def check(self, error: Exception | None = None) -> None:
        """Raises SystemFault where reading has failed, and where an `error` of FFmpeg's is a lack of memory;
        DataError where the file was exchanged meanwhile.
        """
        if self._fault:
            raise self._fault
        if getattr(error, "errno", None) == errno.ENOMEM:
            raise SystemFault(
                f"{self.path}: FFmpeg got no memory for it; run the same command again where more is free, "
                "or take the file away if it asks for more than any machine has"
            ) from None

    def read(self, size: int) -> bytes:
        """Up to `size` of the next bytes; none at the end, and after a fault."""
        size = min(size, self.size - self._position)  # headers of a broken file may ask for anything
        if self._fault or size <= 0:
            return b""
        try:
            data = patiently(self.path, self.retries, lambda: self._read(size))
        except DataError as fault:
            self._fault = fault
            return b""
        self._position += len(data)
        return data

    def _read(self, size: int) -> bytes:
        try:
            data = calls.read(self._open(), size, self._position)
            if not data:
                raise OSError(errno.EIO, f"it ends at byte {self._position:,} of {self.size:,}")
            return data
        except OSError:
            self.close()  # a handle that is stale stays so
            raise

    def _open(self) -> int:
        """The descriptor, opened if there is none."""
        if self._descriptor is None:
            self._descriptor = calls.open(self.path)
            try:
                stat = calls.stat(self._descriptor)
            except OSError:
                self.close()
                raise
            found = (stat.st_size, stat.st_mtime_ns)
            if self._known not in (None, found):
                raise DataError(
                    f"{self.path}: was exchanged while it was being read; run the same command again"
                )
            self._known = found
        return self._descriptor

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        if start + offset < 0:  # a damaged index may ask for it; not moved, as the system does
            return -errno.EINVAL
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with contextlib.suppress(OSError):  # nothing was written through it
                calls.close(descriptor)
