"""From blocks of work to row groups: rows are read ahead by threads, encoded in batches, put together.

    unit    a few neighbouring rows that one thread reads at once
    batch   rows of one row group of one store that are encoded at once

Units are cut by row numbers and batches by row groups, so what a row becomes depends neither on threads, nor
on speed, nor on what else is read or encoded. Several stores may be filled from one reading: a unit is kept
until the last batch that it belongs to has been encoded.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from mambavl.cache.fill import FillResult, Made, MayFail, fill_all
from mambavl.cache.layout import Layout
from mambavl.cache.rows import Segment
from mambavl.cache.work import Block, Work
from mambavl.cache.writer import RowGroup, StoreWriter
from mambavl.configs.errors import UsageError
from mambavl.configs.progress import Progress, ShouldStop
from mambavl.extract import job
from mambavl.extract import options as settings
from mambavl.extract.ahead import Task
from mambavl.extract.isolated import Reading
from mambavl.extract.rows_reading import RowsReading
from mambavl.extract.suspects import Suspects

POLL = 0.5  # seconds between two looks at what takes long

Clip = TypeVar("Clip")
Encoded = TypeVar("Encoded", contravariant=True)
Features = dict[str, np.ndarray]  # by level, (B, ...)


class BatchEncoder(Protocol[Encoded]):
    """Encodes clips for one store."""

    def start(self, clips: Sequence[Encoded]) -> Callable[[], Features]:
        """Begin to encode a batch; what it returns waits for the features. On a GPU the next batch may be
        read and brought there meanwhile.
        """
        ...

    def row_group(self, clips: Sequence[Encoded], features: Features) -> RowGroup: ...


@dataclass(frozen=True)
class Target(Generic[Clip]):
    """A store that is to be filled."""

    layout: Layout
    batch_rows: int
    encoder: BatchEncoder[Clip]


@dataclass(eq=False)
class _Unit(Generic[Clip]):
    rows: range
    waiting: int = 0  # batches that still need it
    task: "Task[list[list[Clip]]] | None" = None  # its clips, by store and row


@dataclass(eq=False)
class _Batch(Generic[Clip]):
    store: int
    group: int
    rows: range
    units: list[_Unit[Clip]]
    is_last: bool  # of its row group


@dataclass
class _Begun(Generic[Clip]):
    """A row group of which some batches have been encoded."""

    clips: list[Clip] = field(default_factory=list)
    features: dict[str, list[np.ndarray]] = field(default_factory=dict)


class Pipeline(Generic[Clip]):
    """Reads, encodes and puts together. For one thread, beside those that read."""

    def __init__(
        self,
        segments: Sequence[Segment],
        targets: Sequence[Target[Clip]],
        reading: RowsReading[Clip],
        *,
        unit_rows: int,
        row_bytes: int,
        most_bytes: int,
        most_units: int,
    ) -> None:
        """row_bytes: what a row takes once it is read, at most. most_bytes: what all that is read and not
        encoded may take; most_units: as many units are in work or wait.

        Raises UsageError where not even one batch fits.
        """
        self._segments, self._targets, self._rows_reading = segments, targets, reading
        self._unit_rows, self._row_bytes = unit_rows, row_bytes
        self._most_bytes, self._most_units = most_bytes, most_units
        needed = max(self._units_of_largest_batch(target) for target in targets) * unit_rows * row_bytes
        if needed > most_bytes:
            raise UsageError(
                f"a batch of rows takes up to {needed / 1e6:,.0f} MB of memory before it is encoded, and "
                f"read_ahead_mb allows {most_bytes / 1e6:,.0f}; set batch_rows lower or read_ahead_mb higher"
            )
        self._batches: deque[_Batch[Clip]] = deque()  # to be encoded, in this order
        self._unread: deque[_Unit[Clip]] = deque()  # of these batches, not yet handed to a thread
        self._reading = 0  # units that are in work or wait to be encoded
        self._last: _Unit[Clip] | None = None  # the one cut last: the next block may begin in it
        self._begun: dict[tuple[int, int], _Begun[Clip]] = {}

    def _units_of_largest_batch(self, target: Target[Clip]) -> int:
        units = 1
        for group in range(target.layout.groups):
            for rows in _batches(target, group):
                units = max(units, len(self._numbers(rows)))
        return units

    def _numbers(self, rows: range) -> range:
        """The units that some rows are in."""
        return range(rows.start // self._unit_rows, (rows.stop - 1) // self._unit_rows + 1)

    def run(self, work: Work) -> Iterator[Made]:
        """What the row groups of the work become.

        Raises as the readers do; Interrupted where the work should stop, between two batches.
        """
        flying: tuple[_Batch[Clip], list[Clip], Callable[[], Features]] | None = None
        while True:
            self._read_on(work)
            batch = self._batches[0] if self._batches else None
            if flying and (work.should_stop() or not (batch and _is_read(batch))):
                yield from self._land(work, *flying)
                flying = None
            if batch is None:
                if work.is_over:
                    return
                work.pause()
                continue
            work.ask_to_stop()
            self._await(batch, work)
            self._batches.popleft()
            clips = self._clips_of(batch)
            since = time.perf_counter()
            wait_for = self._targets[batch.store].encoder.start(clips)
            work.timed("encode", time.perf_counter() - since)
            self._let_go(batch)
            if flying:
                yield from self._land(work, *flying)
            flying = batch, clips, wait_for

    def _read_on(self, work: Work) -> None:
        """Give the threads as many units as there is room for."""
        while self._reading < self._most_units:
            while not self._unread:  # a block may be in a unit that is being read already
                if work.is_over or (block := work.take(wait=False)) is None:
                    return
                self._cut(block)
            unit = self._unread[0]
            if self._reading and not self._has_room(unit):
                return
            self._unread.popleft()
            self._hand_over(unit)

    def _has_room(self, unit: _Unit[Clip]) -> bool:
        return (self._reading * self._unit_rows + len(unit.rows)) * self._row_bytes <= self._most_bytes

    def _hand_over(self, unit: _Unit[Clip]) -> None:
        rows = self._segments[unit.rows.start : unit.rows.stop]
        unit.task = self._rows_reading.submit(unit.rows.start, rows)
        self._reading += 1

    def _cut(self, block: Block) -> None:
        """Batches and units of a block, in the order of their rows."""
        batches: list[tuple[int, int, int, range, bool]] = []
        for store, groups in enumerate(block.groups):
            target = self._targets[store]
            for group in groups:
                last = target.layout.rows_of(group).stop
                batches += [
                    (rows.stop, store, group, rows, rows.stop == last) for rows in _batches(target, group)
                ]
        units: dict[int, _Unit[Clip]] = {}
        if self._last and self._last.waiting:  # the block before may end in the middle of it
            units[self._last.rows.start // self._unit_rows] = self._last
        for _, store, group, rows, is_last in sorted(batches, key=lambda batch: batch[:3]):
            needed: list[_Unit[Clip]] = []
            for number in self._numbers(rows):
                if number not in units:
                    first = number * self._unit_rows
                    unit = _Unit[Clip](range(first, min(first + self._unit_rows, len(self._segments))))
                    units[number] = self._last = unit
                    self._unread.append(unit)
                units[number].waiting += 1
                needed.append(units[number])
            self._batches.append(_Batch(store, group, rows, needed, is_last))

    def _await(self, batch: _Batch[Clip], work: Work) -> None:
        """Wait until all of a batch is read. Raises as the readers do."""
        for unit in batch.units:
            while unit.task is None:  # no room for it, and nothing that will be encoded before
                self._hand_over(self._unread.popleft())
            work.at, since = self._segments[unit.rows.start].video_id, time.perf_counter()
            while not wait([unit.task.result], timeout=POLL).done:
                work.ask_to_stop()
                work.show()
                self._rows_reading.look_after()
            work.stalled += time.perf_counter() - since
            unit.task.result.result()
            for stage, seconds in unit.task.seconds.items():
                work.timed(stage, seconds)
            unit.task.seconds = {}

    def _clips_of(self, batch: _Batch[Clip]) -> list[Clip]:
        clips: list[Clip] = []
        for unit in batch.units:
            assert unit.task
            found = unit.task.result.result()[batch.store]
            clips += found[max(batch.rows.start - unit.rows.start, 0) : batch.rows.stop - unit.rows.start]
        return clips

    def _let_go(self, batch: _Batch[Clip]) -> None:
        for unit in batch.units:
            unit.waiting -= 1
            if not unit.waiting:
                self._reading -= 1
                unit.task = None

    def _land(
        self, work: Work, batch: _Batch[Clip], clips: list[Clip], wait_for: Callable[[], Features]
    ) -> Iterator[Made]:
        """Take what the encoder made of a batch; the row group, where it was the last of one."""
        since = time.perf_counter()
        found = wait_for()
        work.timed("encode", time.perf_counter() - since)
        begun = self._begun.setdefault((batch.store, batch.group), _Begun())
        begun.clips += clips
        for level, values in found.items():
            begun.features.setdefault(level, []).append(values)
        work.encoded(batch.store, len(batch.rows))
        if batch.is_last:
            del self._begun[batch.store, batch.group]
            joined = {level: np.concatenate(parts) for level, parts in begun.features.items()}
            made = self._targets[batch.store].encoder.row_group(begun.clips, joined)
            yield batch.store, batch.group, made


def run_pipeline(
    segments: Sequence[Segment],
    writers: Sequence[StoreWriter],
    targets: Sequence[Target[Clip]],
    reading: Reading[Clip],
    options: settings.Reading,
    *,
    unit_rows: int,
    row_bytes: int,
    shard: tuple[int, int],
    progress: Progress,
    should_stop: ShouldStop,
) -> list[FillResult]:
    """Fill stores through threads and a pipeline. Raises as `fill_all`, `Pipeline` and the readers do."""
    threads = job.reading_threads(options)
    batch_units = -(-max(target.batch_rows for target in targets) // unit_rows)
    unfinished = [writer.path for writer in writers if not writer.is_final]
    suspects = Suspects(unfinished[0], segments, unit_rows) if unfinished else None
    rows_reading = RowsReading(reading, threads, options.decoder_timeout, suspects)
    try:
        pipeline = Pipeline(
            segments,
            targets,
            rows_reading,
            unit_rows=unit_rows,
            row_bytes=row_bytes,
            most_bytes=options.read_ahead_mb * 10**6,
            # those of the batch that is encoded and of the next one; of each thread one in work and one read:
            # threads that began together are ready together, and should not wait for the encoder then
            most_units=2 * batch_units + 2 * threads,
        )
        return fill_all(
            writers,
            pipeline.run,
            shard=shard,
            block_rows=unit_rows,
            may_fail=MayFail(options.max_failed),
            progress=progress,
            should_stop=should_stop,
        )
    finally:
        rows_reading.close()


def _batches(target: Target[Any], group: int) -> list[range]:
    """The rows of each batch of a row group."""
    rows = target.layout.rows_of(group)
    firsts = range(rows.start, rows.stop, target.batch_rows)
    return [range(first, min(first + target.batch_rows, rows.stop)) for first in firsts]


def _is_read(batch: _Batch[Any]) -> bool:
    """Whether all of a batch is there; not where reading has failed."""
    tasks = [unit.task for unit in batch.units]
    return all(task is not None and task.result.done() and not task.result.exception() for task in tasks)
