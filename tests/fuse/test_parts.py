"""Rows in parts: how many, of how many rows, for how many threads."""

import pytest
import torch

from mambavl.fuse.parts import cut, parts_of, threads_for


def test_a_thread_is_made_for_enough_work_only(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert [threads_for(work, 100) for work in (0, 99, 100, 250, 799, 800, 10**9)] == [1, 1, 1, 2, 7, 8, 8]


@pytest.mark.parametrize(
    ("rows", "steps", "threads", "expected"),
    [
        (33, 40, 1, 1),  # one thread, one part
        (128, 16, 2, 8),  # 2,048 steps: 4 parts a thread
        (33, 40, 2, 8),
        (33, 40, 3, 9),  # 1,320 steps: 3 parts a thread of 128 steps or more
        (33, 40, 7, 7),
        (8, 1569, 2, 8),  # a row each
        (3, 1569, 2, 2),  # no row is torn
        (1, 5, 8, 1),
        (0, 5, 8, 0),
        (5, 0, 2, 2),
    ],
)
def test_parts_are_all_rows_in_order(rows, steps, threads, expected):
    found = parts_of(rows, steps, threads)
    assert len(found) == expected
    assert [row for first, end in found for row in range(first, end)] == list(range(rows))


def test_runs_are_of_nearly_the_same_length():
    assert cut(10, 4) == [(0, 2), (2, 5), (5, 7), (7, 10)]
    assert cut(0, 0) == []
