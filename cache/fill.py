"""The one loop that fills stores: claim a row group, make it, commit it, and finish the store at the end.

Extraction, imports and pooled stores differ only in how a row group is made. What it becomes depends on the
row group alone, so a run may be killed at any instant, and any number of runs share the work: each takes what
nobody else has taken, and what a dead one had is free again. Several stores of the same rows may be filled at
once: then a `Block`, the unit that is claimed, is a row group of the store with the largest ones.
"""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from mambavl.cache import fsops
from mambavl.cache.rows import EMPTY_WINDOW, NOT_RETRIED, STATUS
from mambavl.cache.work import Work
from mambavl.cache.worker_log import WorkerLog, sweep
from mambavl.cache.writer import RowGroup, StoreWriter
from mambavl.configs.errors import DataError, Interrupted, counted
from mambavl.configs.progress import Progress, ShouldStop, never, unseen

SHOWN = 10  # failures in a message
MEND_VIDEOS = (
    "put sound videos in place of these, or allow more, and run the same command again; --retry-failed tries "
    "failed rows again"
)
Made = tuple[int, int, RowGroup]  # number of the store, of its row group, what that became


@dataclass
class FillResult:
    """What a run did."""

    rows: int = 0  # written by this run
    bytes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)  # busy time by stage; stages overlap
    stalled: float = 0.0  # seconds that the encoder waited for rows to be read
    store_id: str = ""  # of the finished store; "" while others have a part of it still to do
    left: int = 0  # rows of an unfinished store that nobody has done yet
    # [narration_id, status, reason] of the whole store, once it is finished
    failures: list[list[Any]] = field(default_factory=list)
    unused: int = 0  # imports: arrays of the source that belong to no row
    is_turned: bool = False  # imports: arrays of the source are (D, steps)

    @property
    def finalized(self) -> bool:
        return bool(self.store_id)

    @property
    def state(self) -> str:
        """Of the store, for people."""
        if self.finalized:
            return "finished store"
        if self.left:
            return f"unfinished store, {counted(self.left, 'row')} still to do"
        return "complete store, which another process is about to finish"

    @property
    def failed(self) -> list[list[Any]]:
        """Failures that are the data's fault; an anticipation window with nothing to observe is not."""
        return [failure for failure in self.failures if failure[1] != EMPTY_WINDOW]

    @property
    def empty(self) -> int:
        """Rows before which there was nothing to observe."""
        return len(self.failures) - len(self.failed)


def together(parts: Sequence[FillResult]) -> FillResult:
    """What several runs did of one store."""
    last = next((part for part in parts if part.finalized), parts[-1])
    found = FillResult(store_id=last.store_id, left=min(part.left for part in parts), failures=last.failures)
    for part in parts:
        found.rows += part.rows
        found.bytes += part.bytes
        for stage, seconds in part.seconds.items():
            found.seconds[stage] = found.seconds.get(stage, 0.0) + seconds
        found.stalled += part.stalled
    return found


@dataclass(frozen=True)
class MayFail:
    """How many rows may fail, and what is said when more do."""

    most: int | None = None  # of a whole store; None: any number
    uncounted: Collection[int] = NOT_RETRIED  # statuses that are no failures in this
    advice: str = MEND_VIDEOS  # what to do where more have failed

    def refuse(self, writer: StoreWriter, failures: Sequence[list[Any]]) -> int:
        """How many rows have failed. Raises DataError where they are too many."""
        failed = [failure for failure in failures if failure[1] not in self.uncounted]
        if self.most is None or len(failed) <= self.most:
            return len(failed)
        shown = [f"{row}: {STATUS[status]}: {reason}" for row, status, reason in failed[:SHOWN]]
        listed = "\n  ".join(shown + ["..."] * (len(failed) > SHOWN))
        raise DataError(
            f"{writer.path}: {counted(len(failed), 'row')} failed, but max_failed is {self.most:,} "
            "(--set max_failed=N allows N). What is done is kept and the store is not finished: "
            f"{self.advice}.\n  {listed}"
        )


def fill(
    writer: StoreWriter,
    make: Callable[[range], RowGroup],
    *,
    stage: str = "read",
    shard: tuple[int, int] = (0, 1),
    may_fail: MayFail = MayFail(),
    progress: Progress = unseen,
    should_stop: ShouldStop = never,
) -> FillResult:
    """As `fill_all`, of one store whose row groups are made one after another. make: the rows of a group ->
    what they become; stage: what that is called where times are shown.
    """

    def one_by_one(work: Work) -> Iterator[Made]:
        while (block := work.take(wait=True)) is not None:
            for group in block.groups[0]:
                rows = writer.layout.rows_of(group)
                work.at = writer.segments[rows.start].video_id
                since = time.perf_counter()
                made = make(rows)
                work.timed(stage, time.perf_counter() - since)
                work.encoded(0, len(rows))
                yield 0, group, made

    (result,) = fill_all(
        [writer], one_by_one, shard=shard, may_fail=may_fail, progress=progress, should_stop=should_stop
    )
    return result


def fill_all(
    writers: Sequence[StoreWriter],
    make: Callable[[Work], Iterator[Made]],
    *,
    shard: tuple[int, int] = (0, 1),
    block_rows: int = 1,
    may_fail: MayFail = MayFail(),
    progress: Progress = unseen,
    should_stop: ShouldStop = never,
) -> list[FillResult]:
    """Commit every pending row group of stores of the same rows and finish the stores; the writers are closed
    afterwards, whatever happens. While a row group is written, the next ones are made.

    make: takes blocks of the work, and yields what their row groups become, in any order.
    shard (i, n): do every n-th block only; block_rows: rows of a block, at least. progress counts the rows of
    all stores that were pending.

    Raises DataError where the disk has no room for what is still to be written, and as soon as more rows of a
    store have failed than may: what is done stays done, and the store is not finished. Interrupted when
    `should_stop()` turns true between two units of the work.
    """
    results = [FillResult() for _ in writers]
    try:
        failures = [[] if writer.is_final else writer.failures() for writer in writers]
        for writer, known in zip(writers, failures, strict=True):
            may_fail.refuse(writer, known)
        work = Work(writers, shard, progress, should_stop, block_rows=block_rows)
        for result in results:
            result.seconds = work.seconds
        _refuse_full_disk(writers, work)
        try:
            with WorkerLog(writers, work):
                _commit_all(writers, make(work), work, results, failures, may_fail)
        except Interrupted:
            paths = ", ".join(str(writer.path) for writer in writers)
            raise Interrupted(
                f"{paths}: stopped after {sum(work.written):,} rows; the same command resumes"
            ) from None
        for writer, result in zip(writers, results, strict=True):
            result.stalled = work.stalled
            if not writer.is_final:
                may_fail.refuse(writer, writer.failures())  # those of other writers, too
            if manifest := writer.finish():
                result.store_id, result.failures = manifest["store_id"], manifest["failures"]
                with suppress(DataError):  # the next run tries again
                    sweep(writer.path, time.time(), every=True)
            else:
                result.left = sum(len(writer.layout.rows_of(group)) for group in writer.pending())
    finally:
        for writer in writers:
            writer.close()
    return results


def _commit_all(
    writers: Sequence[StoreWriter],
    found: Iterator[Made],
    work: Work,
    results: list[FillResult],
    failures: list[list[list[Any]]],
    may_fail: MayFail,
) -> None:
    """failures: of each store, so far."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="commit") as committer:
        writing: _Writing | None = None

        def settle() -> None:
            nonlocal writing
            if writing:
                done, writing = writing, None
                done.settle(work, results)

        work.before_pause = settle
        try:
            for store, group, made in found:
                settle()
                writer = writers[store]
                writing = _Writing(store, group, writer, committer.submit(_commit, writer, group, made))
                failures[store] += writer.failures_of(group, made)
                work.failed[store] = may_fail.refuse(writer, failures[store])
        finally:
            settle()


@dataclass(frozen=True)
class _Writing:
    """A row group on its way to the disk."""

    store: int
    group: int
    writer: StoreWriter
    done: "Future[tuple[int, float]]"

    def settle(self, work: Work, results: list[FillResult]) -> None:
        """Wait until it is there. Raises as StoreWriter.commit does."""
        size, seconds = self.done.result()
        self.writer.claims.give_back(self.group)
        results[self.store].bytes += size
        results[self.store].rows += len(self.writer.layout.rows_of(self.group))
        work.timed("write", seconds)
        work.written[self.store] = results[self.store].rows
        work.bytes[self.store] = results[self.store].bytes


def _commit(writer: StoreWriter, group: int, made: RowGroup) -> tuple[int, float]:
    """The bytes written, and the seconds that it took."""
    since = time.perf_counter()
    return writer.commit(group, made), time.perf_counter() - since


def _refuse_full_disk(writers: Sequence[StoreWriter], work: Work) -> None:
    """Before hours of work: is there room for what it will write? Compressed shards, whose sizes are not
    known, do not count.
    """
    needed = 0
    for writer, groups in zip(writers, work.pending, strict=True):
        sizes = [size for group in groups for size in writer.layout.file_sizes(group).values() if size]
        needed, free = needed + sum(sizes), fsops.free_bytes(writer.path)
        if needed > free:
            raise DataError(
                f"{writer.path}: {needed:,} bytes are still to be written and {free:,} are free; "
                "make room, store a smaller level, or use another --out"
            )
