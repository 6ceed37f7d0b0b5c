"""What the workers of a cluster and their command tell each other: how far they are, whether to stop, and who
holds which lock. It lives in one process, where one question after another is answered.
"""


class Board:
    """Workers are known by their numbers; those that the command has lost hold nothing any more."""

    def __init__(self) -> None:
        self._told: dict[int, tuple[int, int, str]] = {}  # worker -> done, total, note
        self._stops = False
        self._lost: set[int] = set()
        # path -> who holds it, by which of his descriptors -> whether alone
        self._locks: dict[str, dict[tuple[int, int], bool]] = {}

    # --- for workers

    def tell(self, worker: int, done: int, total: int, note: str) -> bool:
        """Take how far a worker is, and answer whether it should stop."""
        self._told[worker] = done, total, note
        return self._stops or worker in self._lost

    def take(self, worker: int, path: str, descriptor: int, exclusive: bool) -> bool:
        """Any number may hold a lock together, or one alone. False where that is not so, and for a worker
        that was lost: one that lives on, cut off, must not do what others do now.
        """
        holders = self._locks.get(path, {})
        if worker in self._lost or any(holders.values()) or (exclusive and holders):
            return False
        self._locks.setdefault(path, {})[worker, descriptor] = exclusive
        return True

    def give_back(self, worker: int, descriptor: int) -> None:
        self._release({(worker, descriptor)})

    # --- for the command

    def heard(self) -> dict[int, tuple[int, int, str]]:
        """What each worker that has begun told last."""
        return self._told

    def stop(self) -> None:
        """Every worker should stop."""
        self._stops = True

    def lost(self, worker: int) -> None:
        """A worker has ended, or is lost with its node: what it held is free."""
        self._lost.add(worker)
        self._release({who for holders in self._locks.values() for who in holders if who[0] == worker})

    def _release(self, gone: set[tuple[int, int]]) -> None:
        for path in [path for path, holders in self._locks.items() if holders.keys() & gone]:
            for who in gone & self._locks[path].keys():
                del self._locks[path][who]
            if not self._locks[path]:
                del self._locks[path]
