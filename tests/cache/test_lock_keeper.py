"""A second lock, of somebody whom several hosts can ask, where the file system's lets everybody in."""

import fcntl
import os

import pytest

from mambavl.cache import fsops, lock_keeper


class Keeper:
    """As another host sees it: what it holds is held."""

    def __init__(self, held=(), patience=10**6):
        self.held, self.ours, self.asked = set(held), {}, 0
        self.patience = patience  # questions after which the other host lets go

    def take(self, path, descriptor, *, exclusive):
        self.asked += 1
        if self.asked > self.patience:
            self.held.clear()
        if str(path) in self.held:
            return False
        self.ours[descriptor] = str(path), exclusive
        return True

    def give_back(self, descriptor):
        self.ours.pop(descriptor, None)


@pytest.fixture
def lock(tmp_path, monkeypatch):
    """A file whose locks reach nobody."""
    monkeypatch.setattr(fcntl, "flock", lambda descriptor, operation: None)
    monkeypatch.setattr(lock_keeper, "ASK_AGAIN", 0.0)
    return tmp_path / "lock"


def test_what_the_file_system_gives_and_the_keeper_does_not_is_not_ours(lock):
    before = len(os.listdir("/proc/self/fd"))
    with lock_keeper.kept_by(Keeper({str(lock)})):
        assert fsops.lock(lock, exclusive=True, wait=False) is None
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_keeper_is_told_what_is_taken_and_given_back(lock, monkeypatch):
    monkeypatch.chdir(lock.parent)
    keeper = Keeper()
    with lock_keeper.kept_by(keeper):
        held = fsops.lock(lock.relative_to(lock.parent), exclusive=False, wait=True)
        assert keeper.ours == {held: (str(lock), False)}
        fsops.unlock(held)
        assert keeper.ours == {}
    assert fsops.lock(lock, exclusive=True, wait=False) is not None
    assert keeper.asked == 1


def test_waiting_goes_on_until_the_other_host_lets_go(lock):
    keeper = Keeper({str(lock)}, patience=3)
    with lock_keeper.kept_by(keeper):
        assert fsops.lock(lock, exclusive=True, wait=True) in keeper.ours
    assert keeper.asked == 4


def test_the_keeper_is_asked_only_for_what_the_file_system_gives(tmp_path):
    held = fsops.lock(tmp_path / "lock", exclusive=True, wait=True)
    keeper = Keeper()
    with lock_keeper.kept_by(keeper):
        assert fsops.lock(tmp_path / "lock", exclusive=True, wait=False) is None
    assert keeper.asked == 0
    fsops.unlock(held)
