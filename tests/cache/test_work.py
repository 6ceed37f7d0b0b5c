"""Blocks of work: each is taken once, by whoever comes first, and what a dead one had is taken over."""

import numpy as np
import pytest

from helpers.tiny import CLASSES, make_segments, shortened
from mambavl.cache.shards import Level
from mambavl.cache.spec import Spec
from mambavl.cache.work import Work, slowest, spread
from mambavl.cache.writer import RowGroup, StoreWriter
from mambavl.configs.errors import Interrupted
from mambavl.configs.progress import never, unseen


def writer(path, rows=32, per_group=4):
    level = Level("frame", "dense", (1, 4, 6), "float32", steps=4)
    spec = Spec(kind="video", levels=(level,), rows_per_group=per_group)
    return StoreWriter(path, spec, make_segments(rows), CLASSES, {})


def group_of(rows):
    group = RowGroup(
        levels={"frame": np.zeros((32, 1, 4, 6), np.float32)},
        lengths={"length": np.full(32, 4)},
        status=np.ones(32, np.uint8),
        flags=np.zeros(32, np.uint8),
    )
    group.frame_pts = np.zeros((32, 1))
    made = shortened(group, rows)
    made.frame_pts = None
    return made


def work(*writers, shard=(0, 1), should_stop=never, **more):
    return Work(writers, shard, unseen, should_stop, **more)


def all_of(found):
    taken = []
    while block := found.take(wait=False):
        taken.append(block.groups)
    return taken


def test_one_alone_takes_them_in_order(tmp_path):
    found = work(writer(tmp_path / "s.zarr"))
    assert all_of(found) == [([group],) for group in range(8)]
    assert found.is_over
    assert found.total == 32


def test_who_comes_later_begins_in_the_middle_and_nothing_is_taken_twice(tmp_path):
    first, second, third = (work(writer(tmp_path / "s.zarr")) for _ in range(3))
    order = [[], [], []]
    for _ in range(3):
        for seen, each in zip(order, (first, second, third), strict=True):
            block = each.take(wait=False)
            seen.append(block.groups[0][0] if block else None)
    # the second begins in the middle of 0 to 7, the third a quarter in
    assert order == [[0, 1, 6], [4, 5, 7], [2, 3, None]]
    assert first.take(wait=False) is None
    assert not first.is_over  # others may die yet


def test_what_others_have_done_meanwhile_is_dropped_and_counted(tmp_path):
    ours, others = writer(tmp_path / "s.zarr"), writer(tmp_path / "s.zarr")
    found = work(ours)
    others.commit(1, group_of(4))
    others.commit(2, group_of(4))
    assert all_of(found) == [([group],) for group in (0, 3, 4, 5, 6, 7)]
    assert (found.done, found.total) == (0, 24)
    assert [group for group in range(8) if group not in ours.claims] == [1, 2]  # nothing is to be done there


def test_what_a_dead_one_had_is_taken_over(tmp_path):
    other = writer(tmp_path / "s.zarr")
    dead = work(other)
    for _ in range(5):
        dead.take(wait=False)
    waits = []

    def wait(seconds):
        waits.append(seconds)
        other.close()  # as the system does for a process that ends

    found = work(writer(tmp_path / "s.zarr"), wait=wait)
    taken = []
    while block := found.take(wait=True):
        taken += block.groups[0]
    assert sorted(taken) == list(range(8))
    assert len(waits) == 1


def test_a_shard_is_every_nth_block(tmp_path):
    assert all_of(work(writer(tmp_path / "s.zarr"), shard=(1, 3))) == [([1],), ([4],), ([7],)]


def test_blocks_of_several_stores_have_the_rows_of_the_largest_row_group(tmp_path):
    large, small = writer(tmp_path / "a.zarr", per_group=12), writer(tmp_path / "b.zarr", per_group=8)
    small.commit(1, group_of(8))
    found = work(large, small)
    # rows 0-11, 12-23, 24-31; row groups of b begin at 0, (8), 16 and 24
    assert all_of(found) == [([0], [0]), ([1], [2]), ([2], [3])]
    assert found.total == 32 + 24


def test_a_block_that_one_store_has_and_the_other_has_not_is_not_taken(tmp_path):
    others = writer(tmp_path / "b.zarr", per_group=8)
    assert others.claims.take(1)
    found = work(writer(tmp_path / "a.zarr", per_group=16), writer(tmp_path / "b.zarr", per_group=8))
    assert all_of(found) == [([1], [2, 3])]
    other = writer(tmp_path / "a.zarr", per_group=16)
    assert other.claims.take(0)  # what was taken of the first block was given back


def test_blocks_have_at_least_so_many_rows(tmp_path):
    found = work(writer(tmp_path / "s.zarr"), block_rows=10)
    assert all_of(found) == [([0, 1, 2],), ([3, 4],), ([5, 6, 7],)]


def test_a_run_that_should_stop_takes_nothing(tmp_path):
    found = work(writer(tmp_path / "s.zarr"), should_stop=lambda: True)
    with pytest.raises(Interrupted):
        found.take(wait=True)
    assert work(writer(tmp_path / "s.zarr")).take(wait=False).groups == ([0],)


def test_what_is_shown_has_the_failures_and_the_slowest_stage(tmp_path):
    said = []
    found = Work([writer(tmp_path / "s.zarr")], (0, 1), lambda *each: said.append(each), never)
    found.timed("decode", 2.0)
    found.timed("encode", 1.5)
    found.timed("encode", 1.0)
    found.failed[0] = 3
    found.encoded(0, 4)
    assert said == [(0, 32, ""), (4, 32, "3 failed, slowest: encode")]


def test_counts_are_kept_by_store_and_waiting_is_known(tmp_path):
    a, b = writer(tmp_path / "a.zarr"), writer(tmp_path / "b.zarr", per_group=8)
    other = writer(tmp_path / "b.zarr", per_group=8)
    waits = []

    def wait(seconds):
        waits.append(found.is_waiting)
        other.commit(0, group_of(8))
        other.close()

    found = work(a, b, wait=wait)
    assert (found.totals, found.total) == ([32, 32], 64)
    assert other.claims.take(0)
    assert len(all_of(found)) == 3
    assert not found.is_waiting
    assert found.take(wait=True).groups == ([0, 1], [])
    assert (waits, found.is_waiting) == ([True], False)
    found.encoded(0, 8)
    assert (found.made, found.by_others, found.done) == ([8, 0], [0, 8], 8)


@pytest.mark.parametrize(
    ("seconds", "stalled", "stage"),
    [
        ({}, 0.0, ""),
        ({"read": 3.0, "write": 4.0}, 0.0, "write"),
        # eight threads that decode: the encoder is what all wait for
        ({"decode": 80.0, "resize": 20.0, "encode": 10.0, "write": 1.0}, 0.9, "encode"),
        ({"decode": 8.0, "resize": 20.0, "encode": 10.0}, 1.1, "resize"),
        ({"encode": 10.0, "write": 20.0}, 5.0, "write"),
    ],
)
def test_the_slowest_stage_is_the_one_that_the_others_wait_for(seconds, stalled, stage):
    assert slowest(seconds, stalled) == stage


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 100])
def test_places_are_spread_and_each_comes_once(count):
    places = list(spread(count))
    assert sorted(places) == list(range(count))
    assert places[:4] == {1: [0], 2: [0, 1], 3: [0, 1, 2], 7: [0, 3, 1, 5], 8: [0, 4, 2, 6]}.get(
        count, [0, 50, 25, 75]
    )
