"""The one loop that fills a store: make a row group, commit it, and finish the store behind the last.

Extraction, imports and pooled stores differ only in how a row group is made. What it becomes depends on the
row group alone, so a run may be killed at any instant, and several may share the work.
"""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from mambavl.cache import fsops
from mambavl.cache.rows import EMPTY_WINDOW, NOT_RETRIED, STATUS
from mambavl.cache.writer import RowGroup, StoreWriter
from mambavl.configs.errors import DataError, Interrupted, counted
from mambavl.configs.progress import Progress, ShouldStop, never, unseen

SHOWN = 10  # failures in a message
MEND_VIDEOS = (
    "put sound videos in place of these, or allow more, and run the same command again; --retry-failed tries "
    "failed rows again"
)


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
    max_failed: int | None = None,
    uncounted: Collection[int] = NOT_RETRIED,
    advice: str = MEND_VIDEOS,
    progress: Progress = unseen,
    should_stop: ShouldStop = never,
) -> FillResult:
    """Commit every pending row group and finish the store; the writer is closed afterwards, whatever happens.

    make: the rows of a group -> what they become; it may add its stages' times to the result.
    shard (i, n): do every n-th row group only. progress counts the rows of this run. max_failed: rows of the
    whole store that may fail; None: any number. uncounted: statuses that are no failures in this. advice:
    what to do where more have failed, for the message.

    Raises DataError where the disk has no room for what is still to be written, and as soon as more rows have
    failed than may: what is done stays done, and the store is not finished. Interrupted when `should_stop()`
    turns true between two row groups.
    """
    result, layout = FillResult(), writer.layout
    try:
        mine = [group for group in writer.pending() if group % shard[1] == shard[0]]
        _refuse_full_disk(writer, mine)

        def refuse(failures: list[list[Any]]) -> None:
            failed = [failure for failure in failures if failure[1] not in uncounted]
            if max_failed is not None and len(failed) > max_failed:
                raise _too_many(writer, failed, max_failed, advice)

        failures = [] if writer.is_final else writer.failures()
        refuse(failures)
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
            refuse(failures := failures + writer.failures_of(group, made))
        if not writer.is_final:
            refuse(writer.failures())  # those of other writers, too
        if manifest := writer.finish():
            result.store_id, result.failures = manifest["store_id"], manifest["failures"]
    finally:
        writer.close()
    return result


def _too_many(writer: StoreWriter, failed: list[list[Any]], most: int, advice: str) -> DataError:
    first = [f"{narration_id}: {STATUS[status]}: {reason}" for narration_id, status, reason in failed[:SHOWN]]
    listed = "\n  ".join(first + ["..."] * (len(failed) > SHOWN))
    return DataError(
        f"{writer.path}: {counted(len(failed), 'row')} failed, but max_failed is {most:,} "
        f"(--set max_failed=N allows N). What is done is kept and the store is not finished: {advice}.\n"
        f"  {listed}"
    )


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
