"""Who makes which row group of a store: a lock each, so that processes that share a store share the work.

The lock of a process that ends, however it ends, is free again. On a file system without locks (`fsops.lock`)
everybody gets what he asks for: work is then done more than once, and the store is the same.
"""

from pathlib import Path

from mambavl.cache import fsops
from mambavl.cache.spec import LOCK

LOCKS = 1024  # row groups share so many locks, in files commit/lock-0 to lock-1023


class Claims:
    """The row groups that one writer of a store has taken. For one thread."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._held: dict[int, tuple[int, int]] = {}  # lock -> its descriptor, claims it is for

    def __contains__(self, group: int) -> bool:
        """Whether the lock of a row group is ours."""
        return group % LOCKS in self._held

    def take(self, group: int) -> bool:
        """False where another writer has it, or one that shares its lock."""
        if group in self:
            descriptor, claims = self._held[group % LOCKS]
            self._held[group % LOCKS] = descriptor, claims + 1
            return True
        found = fsops.lock(self._path(group), exclusive=True, wait=False)
        if found is not None:
            self._held[group % LOCKS] = found, 1
        return found is not None

    def wait_for(self, group: int) -> None:
        """Take one that is not ours as soon as nobody else has it."""
        self._held[group % LOCKS] = fsops.lock(self._path(group), exclusive=True, wait=True), 1

    def give_back(self, group: int) -> None:
        descriptor, claims = self._held.pop(group % LOCKS)
        if claims > 1:
            self._held[group % LOCKS] = descriptor, claims - 1
        else:
            fsops.unlock(descriptor)

    def give_all_back(self) -> None:
        for descriptor, _ in self._held.values():
            fsops.unlock(descriptor)
        self._held = {}

    def _path(self, group: int) -> Path:
        return self._store / f"{LOCK}-{group % LOCKS}"
