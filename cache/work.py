"""What is to be done of some stores, as whoever makes their row groups sees it: blocks to take, and a count
of what was done.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from mambavl.cache.writer import StoreWriter
from mambavl.configs.errors import Interrupted
from mambavl.configs.progress import Progress, ShouldStop

ASK_AGAIN = 0.5  # seconds, where others have taken all that is left
TOO_LONG = 0.1  # of its own time, that the encoder may wait for what is read


@dataclass(frozen=True)
class Block:
    """Neighbouring rows that are claimed together, mostly a row group of the store with the largest ones: of
    each store, the row groups that begin there and were neither done nor taken.
    """

    groups: tuple[list[int], ...]  # by store


class Work:
    """The pending row groups of stores of the same rows. For one thread.

    A run begins with the first block, or, where somebody else is at work from there, in the middle of what is
    left, a quarter, ..., and goes on from there: so runs that share the work read other videos.
    """

    def __init__(
        self,
        writers: Sequence[StoreWriter],
        shard: tuple[int, int],
        progress: Progress,
        should_stop: ShouldStop,
        *,
        block_rows: int = 1,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        """shard (i, n): every n-th block only, from the i-th on. block_rows: rows of a block, at least."""
        self._writers, self._progress, self._wait = writers, progress, wait
        self.should_stop = should_stop
        step = max(block_rows, *(writer.layout.rows_per_group for writer in writers))
        self._blocks: dict[int, tuple[list[int], ...]] = {}  # those that are left, in order
        self.pending: tuple[list[int], ...] = tuple([] for _ in writers)  # row groups of each store
        for store, writer in enumerate(writers):
            for group in writer.pending():
                block = writer.layout.rows_of(group).start // step
                if block % shard[1] == shard[0]:
                    self._blocks.setdefault(block, tuple([] for _ in writers))[store].append(group)
                    self.pending[store].append(group)
        self._blocks = dict(sorted(self._blocks.items()))
        self._place: int | None = None  # the block taken last
        # of each store: rows that were pending, rows encoded by this run, rows done by others meanwhile
        self.totals = [self._rows(store, groups) for store, groups in enumerate(self.pending)]
        self.made, self.by_others = [0 for _ in writers], [0 for _ in writers]
        # of each store: rows and bytes that this run has on the disk, and rows that have failed
        self.written, self.bytes = [0 for _ in writers], [0 for _ in writers]
        self.failed = [0 for _ in writers]
        self.seconds: dict[str, float] = {}  # busy time by stage; of several threads together
        self.stalled = 0.0  # seconds that the encoder waited for rows to be read
        self.at = ""  # the video in work
        self.is_waiting = False  # for others, who have taken what is left
        # brings to the disk what was made, so that nobody waits for this run while it waits
        self.before_pause: Callable[[], None] = lambda: None
        self.show()

    def take(self, *, wait: bool) -> Block | None:
        """The next block, claimed for this run. None where there is none: nothing is left, or (unless `wait`)
        others have taken what is; see `is_over`.

        Raises as `pause`.
        """
        while self._blocks:
            self.ask_to_stop()
            for block in list(self._order()):
                if (taken := self._try(block)) is not None:
                    self._place, self.is_waiting = block, False
                    return taken
            if not wait or not self._blocks:
                return None
            self.pause()
        return None

    @property
    def total(self) -> int:
        """Rows of all stores that were pending, less those that others have done meanwhile."""
        return sum(self.totals) - sum(self.by_others)

    @property
    def done(self) -> int:
        """Those that this run has encoded."""
        return sum(self.made)

    @property
    def is_over(self) -> bool:
        """Whether all is done or taken by this run."""
        return not self._blocks

    def pause(self) -> None:
        """Wait for others. Raises Interrupted where the run should stop, and as StoreWriter.commit does."""
        self.ask_to_stop()
        self.before_pause()
        self.is_waiting = True
        self._wait(ASK_AGAIN)
        self.show()

    def ask_to_stop(self) -> None:
        """Raises Interrupted where the run should stop."""
        if self.should_stop():
            raise Interrupted("stopped between two units of work")

    def encoded(self, store: int, rows: int) -> None:
        self.made[store] += rows
        self.show()

    def timed(self, stage: str, seconds: float) -> None:
        """Add to the busy time of a stage."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def show(self) -> None:
        """Say how far the run is."""
        notes = []
        if any(self.failed):
            notes.append(f"{sum(self.failed):,} failed")
        if stage := slowest(self.seconds, self.stalled):
            notes.append(f"slowest: {stage}")
        self._progress(self.done, self.total, ", ".join(notes))

    def _order(self) -> Iterator[int]:
        """The blocks that are left, in the order in which they are tried."""
        left = list(self._blocks)
        if self._place is None:
            return (left[place] for place in spread(len(left)))
        place = self._place
        return chain((block for block in left if block > place), (block for block in left if block < place))

    def _try(self, block: int) -> Block | None:
        """Take a block, or what others have left of it; None where they have it, or have done it."""
        taken: list[tuple[StoreWriter, int]] = []
        wanted = self._blocks[block]
        for writer, groups in zip(self._writers, wanted, strict=True):
            for group in groups:
                if not writer.claims.take(group):
                    for other, held in taken:
                        other.claims.give_back(held)
                    return None
                taken.append((writer, group))
        del self._blocks[block]
        left: list[list[int]] = []
        for store, (writer, groups) in enumerate(zip(self._writers, wanted, strict=True)):
            done = {group for group in groups if writer.is_done(group)}
            left.append([group for group in groups if group not in done])
            for group in done:
                writer.claims.give_back(group)
                self.by_others[store] += len(writer.layout.rows_of(group))
        return Block(tuple(left)) if any(left) else None

    def _rows(self, store: int, groups: Sequence[int]) -> int:
        return sum(len(self._writers[store].layout.rows_of(group)) for group in groups)


def slowest(seconds: Mapping[str, float], stalled: float) -> str:
    """The stage that holds up the others; "" as long as nothing was done. Many threads may be busy with
    reading and the encoder still be what all wait for: `stalled` tells. seconds: busy time by stage; stalled:
    seconds that the encoder waited.
    """
    names = set(seconds)
    if "encode" in names:
        reading = names - {"encode", "write"}
        is_late = stalled > TOO_LONG * seconds["encode"]
        names = reading if reading and is_late else names - reading
    return max(sorted(names), key=lambda stage: seconds[stage], default="")


def spread(count: int) -> Iterator[int]:
    """0 to count - 1, each once: the beginning, the middle, the quarters, the eighths, ..."""
    seen: set[int] = set()
    parts = 1
    while len(seen) < count:
        for part in range(parts):
            place = count * part // parts
            if place not in seen:
                seen.add(place)
                yield place
        parts *= 2
