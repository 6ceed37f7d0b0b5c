"""Who holds which lock, as the board of a Ray cluster's workers keeps it."""

from mambavl.extract.ray_board import Board


def test_a_lock_is_held_by_many_together_or_by_one_alone():
    board = Board()
    assert board.take(0, "s/lock", 5, False)
    assert board.take(1, "s/lock", 5, False)
    assert not board.take(2, "s/lock", 5, True)
    board.give_back(0, 5)
    assert not board.take(2, "s/lock", 5, True)
    board.give_back(1, 5)
    assert board.take(2, "s/lock", 5, True)
    assert not board.take(1, "s/lock", 5, False)
    assert board.take(1, "s/lock-1", 5, True)


def test_a_worker_does_not_hold_a_lock_twice_alone():
    """As with flock: each descriptor is a holder."""
    board = Board()
    assert board.take(0, "s/lock", 5, True)
    assert not board.take(0, "s/lock", 6, True)
    board.give_back(0, 6)  # not held
    assert not board.take(0, "s/lock", 6, True)
    board.give_back(0, 5)
    assert board.take(0, "s/lock", 6, True)


def test_what_a_lost_worker_held_is_free_and_it_gets_nothing_more():
    board = Board()
    assert board.take(0, "s/lock-1", 5, True)
    assert board.take(0, "s/lock", 6, False)
    assert board.take(1, "s/lock", 6, False)
    board.lost(0)
    assert board.take(1, "s/lock-1", 5, True)
    assert not board.take(0, "s/lock-2", 7, True)
    assert not board.take(2, "s/lock", 6, True)  # the other's is left
    board.give_back(1, 6)
    assert board.take(2, "s/lock", 6, True)


def test_workers_are_told_to_stop_and_the_lost_ones_before():
    board = Board()
    assert not board.tell(0, 0, 0, "")
    assert not board.tell(1, 3, 20, "slowest: decode")
    board.lost(0)
    assert board.tell(0, 1, 20, "")
    assert not board.tell(1, 4, 20, "")
    board.stop()
    assert board.tell(1, 5, 20, "")
    assert board.heard() == {0: (1, 20, ""), 1: (5, 20, "")}
