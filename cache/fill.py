"""The one loop that fills a store: make a row group, commit it, and finish the store behind the last.

Extraction, imports and pooled stores differ only in how a row group is made. What it becomes depends on the
row group alone, so a run may be killed at any instant, and several may share the work.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mambavl.cache import fsops
from mambavl.cache.rows import EMPTY_WINDOW
from mambavl.cache.writer import RowGroup, StoreWriter
from mambavl.configs.errors import DataError, Interrupted
from mambavl.configs.progress import Progress, ShouldStop, never, unseen


@dataclass
class FillResult:
    """What a run did."""

    rows: int = 0  # written by this run
    bytes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)  # busy time by stage; stages overlap
    store_id: str = ""  # of the finished store; "" while others have a part of it still to do
    # [narration_id, status, reason] of the whole store, once it is finished
    failures: list[list[Any]] = field(default_factory=list)
    unused: int = 0  # imports: arrays of the source that belong to no row

    @property
    def finalized(self) -> bool:
        return bool(self.store_id)

    @property
    def failed(self) -> list[list[Any]]:
        """Failures that are the data's fault; an anticipation window with nothing to observe is not."""
        return [failure for failure in self.failures if failure[1] != EMPTY_WINDOW]

    def timed(self, stage: str, since: float) -> None:
        """Add the time from `since`, of time.perf_counter, until now to a stage."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - since


def fill(
    writer: StoreWriter,
    make: Callable[[range, FillResult], RowGroup],
    *,
    shard: tuple[int, int] = (0, 1),
    progress: Progress = unseen,
    should_stop: ShouldStop = never,
) -> FillResult:
    """Commit every pending row group and finish the store; the writer is closed afterwards, whatever happens.

    make: the rows of a group -> what they become; it may add its stages' times to the result.
    shard (i, n): do every n-th row group only. progress counts the rows of this run.

    Raises DataError where the disk has no room for what is still to be written, Interrupted when
    `should_stop()` turns true between two row groups.
    """
    result, layout = FillResult(), writer.layout
    try:
        mine = [group for group in writer.pending() if group % shard[1] == shard[0]]
        _refuse_full_disk(writer, mine)
        total = sum(len(layout.rows_of(group)) for group in mine)
        progress(0, total)
        for group in mine:
            if should_stop():
                raise Interrupted(
                    f"{writer.path}: stopped after {result.rows:,} rows; the same command resumes"
                )
            rows = layout.rows_of(group)
            made = make(rows, result)
            since = time.perf_counter()
            result.bytes += writer.commit(group, made)
            result.timed("write", since)
            result.rows += len(rows)
            progress(result.rows, total)
        if manifest := writer.finish():
            result.store_id, result.failures = manifest["store_id"], manifest["failures"]
    finally:
        writer.close()
    return result


def _refuse_full_disk(writer: StoreWriter, groups: list[int]) -> None:
    """Before hours of work: is there room for what it will write? Compressed shards, whose sizes are not
    known, do not count.
    """
    sizes = [size for group in groups for size in writer.layout.file_sizes(group).values() if size]
    needed, free = sum(sizes), fsops.free_bytes(writer.path)
    if needed > free:
        raise DataError(
            f"{writer.path}: {needed:,} bytes are still to be written and {free:,} are free; "
            "make room, store a smaller level, or use another --out"
        )
