"""Who makes which row group: one writer at a time, and nobody after the holder has ended."""

import signal

from helpers.forks import fork
from mambavl.cache.claims import LOCKS, Claims


def claims(folder):
    (folder / "commit").mkdir(exist_ok=True)
    return Claims(folder)


def test_a_row_group_is_one_writers_until_it_is_given_back(tmp_path):
    ours, others = claims(tmp_path), claims(tmp_path)
    assert ours.take(3)
    assert 3 in ours
    assert not others.take(3)
    assert 3 not in others
    assert others.take(4)
    ours.give_back(3)
    assert 3 not in ours
    assert others.take(3)
    others.give_all_back()
    assert ours.take(3)
    assert ours.take(4)


def test_row_groups_that_share_a_lock_are_held_until_the_last_of_them_is_given_back(tmp_path):
    ours, others = claims(tmp_path), claims(tmp_path)
    assert ours.take(3)
    assert ours.take(3 + LOCKS)
    ours.give_back(3)
    assert not others.take(3)
    ours.give_back(3 + LOCKS)
    assert others.take(3)


def test_what_a_killed_process_held_is_free(tmp_path):
    ours = claims(tmp_path)
    marker = tmp_path / "taken"

    def hold():
        assert claims(tmp_path).take(0)
        marker.touch()
        signal.pause()

    child = fork(hold)
    while not marker.exists():
        assert child.poll() is None
    assert not ours.take(0)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert ours.take(0)


def test_waiting_ends_when_the_holder_lets_go(tmp_path):
    others = claims(tmp_path)
    assert others.take(7)
    child = fork(lambda: claims(tmp_path).wait_for(7))
    others.give_back(7)
    assert child.wait() == 0
