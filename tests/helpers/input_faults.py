"""Errors of the system to put under `input_files`, and pauses that nobody waits through."""

import errno
import json
import multiprocessing
import os
from collections.abc import Container
from functools import partial
from typing import Any

from mambavl.extract import input_files
from mambavl.extract.clips import ClipReader, ClipReading
from mambavl.extract.watch import At

ERRNOS = ("EIO", "ESTALE", "ETIMEDOUT", "ENOTCONN", "ENOENT", "EACCES", "EMFILE", "ENOMEM")


class FailingReads:
    """Stands in for `input_files.calls`: the calls from the `first`-th on fail, `times` of them (None: all).

    only: the methods that are counted. A read gives `most` bytes, so that small files take many. `waits` are
    the pauses, in seconds.
    """

    def __init__(
        self,
        error: str = "EIO",
        first: int = 1,
        times: int | None = None,
        only: Container[str] = ("open", "stat", "read"),
        most: int = 1000,
    ) -> None:
        self.most = most
        self.error, self.first, self.times, self.only = error, first, times, only
        self.inner = input_files.Calls()
        self.made = 0
        self.failed = 0
        self.opened: list[Any] = []  # paths
        self.left_open: set[int] = set()  # descriptors
        self.waits: list[float] = []

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)

    def __getattr__(self, method: str) -> Any:
        return partial(self._call, method)

    def _call(self, method: str, *arguments: Any) -> Any:
        if method == "open":
            self.opened.append(arguments[0])
        if method in self.only:
            self.made += 1
            if self.made >= self.first and (self.times is None or self.failed < self.times):
                self.failed += 1
                code = getattr(errno, self.error)
                raise OSError(code, os.strerror(code))
        if method == "read":
            descriptor, size, position = arguments
            arguments = (descriptor, min(size, self.most), position)
        answer = getattr(self.inner, method)(*arguments)
        if method == "open":
            self.left_open.add(answer)
        elif method == "close":
            self.left_open.discard(arguments[0])
        return answer


FAULTS = "MAMBAVL_TEST_READ_FAULTS"  # variable: settings of the FailingReads of children, as JSON


class FaultyInChildren(ClipReading):
    """Its calls fail where rows are read in a process of their own."""

    def open(self, at: At) -> ClipReader:
        if multiprocessing.parent_process():
            input_files.calls = FailingReads(**json.loads(os.environ[FAULTS]))
        return super().open(at)
