"""The pipeline: what it gives follows from the rows alone, whatever the batches, units, threads and memory;
reading goes on while it encodes, over the borders of row groups; and no more is read than may be.

Its stages are waited for by events, never by a clock.
"""

import itertools
import threading
from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from helpers.tiny import CLASSES, make_segments
from mambavl.cache import open_store
from mambavl.cache.shards import Level
from mambavl.cache.spec import Spec
from mambavl.cache.worker_log import reports
from mambavl.cache.writer import RowGroup, StoreWriter
from mambavl.configs.errors import Interrupted, UsageError
from mambavl.configs.progress import never, unseen
from mambavl.extract import pipeline
from mambavl.extract.options import Reading
from mambavl.extract.pipeline import Target, run_pipeline

ROWS = 50
SEGMENTS = make_segments(ROWS)
NUMBER = {segment.narration_id: row for row, segment in enumerate(SEGMENTS)}
LONG = 30  # seconds that a test waits for what must come


class Reader:
    """A row's clip for store k is its number + 1000 k."""

    def __init__(self, stores, log, hook):
        self.stores, self.log, self.hook, self.seconds = stores, log, hook, {}

    def read(self, rows):
        numbers = [NUMBER[segment.narration_id] for segment in rows]
        self.log.append((numbers[0], numbers[-1] + 1))
        self.hook(numbers)
        return [[number + 1000 * store for number in numbers] for store in range(self.stores)]

    def close(self):
        pass


class Numbers:
    def __init__(self, *words):
        self.words = words

    def open(self, at):
        return Reader(*self.words)


class Encoder:
    """Features are the numbers; with how many others a row was encoded is kept as well."""

    def __init__(self, log, hook=lambda clips: None):
        self.log, self.hook = log, hook

    def start(self, clips):
        self.log.append([clip % 1000 for clip in clips])
        self.hook(clips)
        values = np.array([[[clip, len(clips)]] for clip in clips], np.float32)
        return lambda: {"clip": values}

    def row_group(self, clips, features):
        rows = len(clips)
        assert [int(value) for value in features["clip"][:, 0, 0]] == list(clips)
        return RowGroup(
            levels=features,
            lengths={"length": np.ones(rows, int)},
            status=np.ones(rows, np.uint8),
            flags=np.zeros(rows, np.uint8),
        )


def make_writer(path, per_group):
    level = Level("clip", "dense", (1, 2), "float32")
    return StoreWriter(
        path, Spec(kind="video", levels=(level,), rows_per_group=per_group), SEGMENTS, CLASSES, {}
    )


def run(
    folder,
    stores=((8, 3),),
    *,
    unit_rows=4,
    threads=2,
    row_mb=1,
    room_mb=1000,
    reading=lambda numbers: None,
    encoding=lambda clips: None,
    shard=(0, 1),
    should_stop=never,
):
    """stores: (rows of a row group, of a batch). Returns the results, the units and the batches by store."""
    writers = [make_writer(folder / f"{number}.zarr", each[0]) for number, each in enumerate(stores)]
    units, batches = [], [[] for _ in stores]
    targets = [
        Target(writer.layout, batch, Encoder(log, encoding))
        for writer, (_, batch), log in zip(writers, stores, batches, strict=True)
    ]
    results = run_pipeline(
        SEGMENTS,
        writers,
        targets,
        Numbers(len(stores), units, reading),
        Reading(readers=threads, read_ahead_mb=room_mb),
        unit_rows=unit_rows,
        row_bytes=row_mb * 10**6,
        shard=shard,
        progress=unseen,
        should_stop=should_stop,
    )
    return results, units, batches


def cut(rows, size):
    return [list(range(first, min(first + size, rows.stop))) for first in range(rows.start, rows.stop, size)]


def expected_batches(per_group, batch):
    groups = [range(first, min(first + per_group, ROWS)) for first in range(0, ROWS, per_group)]
    return [rows for group in groups for rows in cut(group, batch)]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("per_group", "batch", "unit"),
    [(8, 8, 8), (8, 3, 4), (1, 1, 8), (5, 5, 8), (50, 7, 4), (512, 64, 8), (20, 8, 1), (7, 2, 3)],
)
def test_a_row_becomes_the_same_however_it_is_cut(tmp_path, per_group, batch, unit, threads):
    (result,), units, (batches,) = run(
        tmp_path, ((per_group, batch),), unit_rows=unit, threads=threads, room_mb=2 * (batch + 2 * unit)
    )
    assert result.finalized
    assert result.rows == ROWS
    assert batches == expected_batches(per_group, batch)
    # every unit once, cut by row numbers
    assert sorted(units) == [(rows[0], rows[-1] + 1) for rows in cut(range(ROWS), unit)]
    found = open_store(tmp_path / "0.zarr").batch(list(range(ROWS)), "clip")[0]
    assert found[:, 0, 0].tolist() == list(range(ROWS))
    sizes = {row: len(rows) for rows in expected_batches(per_group, batch) for row in rows}
    assert found[:, 0, 1].tolist() == [sizes[row] for row in range(ROWS)]


def test_what_the_encoder_waits_for_is_counted_and_the_video_in_work_is_known(tmp_path, monkeypatch):
    """By a clock that goes on by a second whenever it is looked at: each wait and each batch takes one."""
    clock = SimpleNamespace(perf_counter=partial(next, itertools.count()))
    monkeypatch.setattr(pipeline, "time", clock)
    (result,), _, (batches,) = run(tmp_path, ((8, 8),), unit_rows=4, shard=(0, 2))
    assert len(batches) == 4  # rows 0-7, 16-23, 32-39, 48-49
    assert result.stalled == 2 + 2 + 2 + 1  # units
    assert result.seconds["encode"] == 2 * 4  # begun, and waited for
    ((_, report),) = reports(tmp_path / "0.zarr")
    assert (report.stalled, report.done, report.total) == (7.0, 26, 26)
    assert report.video == SEGMENTS[48].video_id


def test_each_store_has_its_own_rows_in_its_log(tmp_path):
    run(tmp_path, ((8, 8), (25, 5)), shard=(0, 2))  # blocks of 25 rows
    found = [report for store in ("0.zarr", "1.zarr") for _, report in reports(tmp_path / store)]
    # of the first the row groups that begin in rows 0 to 24, up to row 31
    assert [(report.made, report.written, report.total) for report in found] == [(32, 32, 32), (25, 25, 25)]


def test_several_stores_are_filled_from_one_reading(tmp_path):
    stores = ((16, 5), (7, 7), (50, 3))
    results, units, batches = run(tmp_path, stores, unit_rows=4)
    assert [result.finalized for result in results] == [True] * 3
    assert [result.rows for result in results] == [ROWS] * 3
    assert sorted(units) == [(rows[0], rows[-1] + 1) for rows in cut(range(ROWS), 4)]
    for number, (per_group, batch) in enumerate(stores):
        assert batches[number] == expected_batches(per_group, batch)
        found = open_store(tmp_path / f"{number}.zarr").batch(list(range(ROWS)), "clip")[0]
        assert found[:, 0, 0].tolist() == [row + 1000 * number for row in range(ROWS)]


def test_a_resume_reads_what_any_store_lacks(tmp_path):
    seen = []
    with pytest.raises(Interrupted):
        run(
            tmp_path,
            ((8, 8), (16, 16)),
            unit_rows=8,
            threads=1,
            encoding=seen.append,
            should_stop=lambda: len(seen) >= 5,  # batches of 8, 8, 16, 8, 8
        )
    results, units, batches = run(tmp_path, ((8, 8), (16, 16)), unit_rows=8)
    assert [result.finalized for result in results] == [True, True]
    assert [rows[0] for rows in batches[0]] == [32, 40, 48]
    assert [rows[0] for rows in batches[1]] == [16, 32, 48]
    assert min(units) == (16, 24)


def test_reading_goes_on_while_a_batch_is_encoded_over_the_borders_of_row_groups(tmp_path):
    """With a batch a row group, nothing overlapped once."""
    begun = [threading.Event() for _ in range(ROWS // 5 + 1)]

    def reading(numbers):
        begun[numbers[0] // 5].set()

    def encoding(clips):
        following = clips[0] // 5 + 1
        if following < ROWS // 5:
            assert begun[following].wait(LONG), f"rows {5 * following} to ... are not read meanwhile"

    (result,), _, _ = run(tmp_path, ((5, 5),), unit_rows=5, threads=1, reading=reading, encoding=encoding)
    assert result.finalized


def test_all_threads_read_while_a_batch_is_encoded(tmp_path):
    threads = 4
    begun = [threading.Event() for _ in range(ROWS // 5 + 1)]
    encoded = threading.Event()

    def reading(numbers):
        begun[numbers[0] // 5].set()
        if numbers[0] >= 5:
            assert encoded.wait(LONG)

    def encoding(clips):
        if clips[0] == 0:
            for following in range(1, threads + 1):
                assert begun[following].wait(LONG), f"unit {following} is not read meanwhile"
            encoded.set()

    (result,), _, _ = run(
        tmp_path, ((5, 5),), unit_rows=5, threads=threads, reading=reading, encoding=encoding
    )
    assert result.finalized


def test_threads_that_are_ready_all_at_once_read_on_all_at_once(tmp_path):
    """As those do that began together, of rows alike; what they have read waits for the encoder meanwhile."""
    threads = 4
    begun = [threading.Event() for _ in range(ROWS // 5 + 1)]

    def reading(numbers):
        begun[numbers[0] // 5].set()

    def encoding(clips):
        if clips[0] == 0:
            for unit in range(2 * threads):
                assert begun[unit].wait(LONG), f"unit {unit} is not read while the first batch is encoded"

    (result,), _, _ = run(
        tmp_path, ((5, 5),), unit_rows=5, threads=threads, reading=reading, encoding=encoding
    )
    assert result.finalized


@pytest.mark.parametrize(("room_mb", "most"), [(8, 8), (12, 12), (20, 20)])
def test_no_more_is_read_than_may_wait(tmp_path, room_mb, most):
    """Units of 4 rows, 1 MB a row."""
    lock, held, peaks = threading.Lock(), set(), []

    def reading(numbers):
        with lock:
            held.update(numbers)
            peaks.append(len(held))

    def encoding(clips):
        with lock:
            peaks.append(len(held))
            held.difference_update(clips)

    run(tmp_path, ((8, 8),), threads=8, room_mb=room_mb, reading=reading, encoding=encoding)
    assert max(peaks) <= most


def test_what_cannot_hold_a_batch_is_refused_before_the_work(tmp_path):
    with pytest.raises(UsageError, match="read_ahead_mb allows 7; set batch_rows lower"):
        run(tmp_path, ((8, 8),), room_mb=7)
    assert run(tmp_path, ((8, 8),), room_mb=8)[0][0].finalized


def test_a_stop_keeps_every_row_group_that_was_encoded(tmp_path):
    seen = []

    def encoding(clips):
        seen.append(clips)

    with pytest.raises(Interrupted, match="stopped after 16 rows"):
        run(tmp_path, ((8, 4),), encoding=encoding, should_stop=lambda: len(seen) >= 5)
    (result,), _, _ = run(tmp_path, ((8, 4),))
    assert result.rows == ROWS - 16


def test_what_a_reader_raises_ends_the_run_and_what_was_encoded_stays(tmp_path):
    def reading(numbers):
        if 24 in numbers:
            raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        run(tmp_path, ((8, 8),), unit_rows=8, reading=reading)
    (result,), units, _ = run(tmp_path, ((8, 8),), unit_rows=8)
    assert result.finalized
    assert min(units) == (24, 32)


def test_batches_come_in_the_order_of_their_rows(tmp_path):
    _, _, batches = run(tmp_path, ((8, 3), (50, 9)))
    for found in batches:
        assert all(one[-1] < other[0] for one, other in pairwise(found))
