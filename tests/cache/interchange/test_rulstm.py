"""RULSTM's LMDB: which frame is on display, whatever the keys look like, and files that were cut."""

import contextlib
import sys

import lmdb
import numpy as np
import pytest

from helpers.tiny import make_segments
from mambavl.cache.interchange.lookup import Fault, SamplingTimes
from mambavl.cache.interchange.rulstm import KeyForm, need_lmdb, rulstm
from mambavl.configs.errors import DataError, UsageError

SEGMENTS = make_segments(12)  # ten of P01_101, two of P01_102, all of P01
VIDEOS = ("P01_101", "P01_102")
RULSTM = "{v}_frame_{n:010d}.jpg"


def write(folder, key=RULSTM, numbers=range(1, 301)):
    """The value of frame n is (n, video)."""
    with lmdb.open(str(folder), map_size=2**24) as env, env.begin(write=True) as transaction:
        for index, video in enumerate(VIDEOS):
            for n in numbers:
                value = np.array([n, index], np.float32).tobytes()
                transaction.put(key.format(v=video, p="P01", n=n).encode(), value)


def taken(folder, times, fps=30.0, **durations):
    """(rows, T) the numbers of the frames that each row gets."""
    moments = SamplingTimes({"task": "recognition"}, times, durations=durations)
    with contextlib.ExitStack() as stack:
        found = rulstm(folder, SEGMENTS, moments, fps, stack)
        values = [found.read(row)[0] for row in range(len(SEGMENTS))]
    assert [set(value[:, 1]) for value in values] == [{0.0}] * 10 + [{1.0}] * 2
    return np.stack(values)[..., 0]


@pytest.mark.parametrize(
    "key",
    [
        RULSTM,
        "{v}_frame_{n:010d}.png",
        "{v}_frame_{n:06d}",
        "{p}/{v}/frame_{n:010d}.jpg",
        "{v}/frame_{n:010d}.jpg",
        "{p}/{v}_frame_{n:010d}.jpg",
    ],
)
@pytest.mark.parametrize("first", [0, 1])
def test_keys_of_others_are_taken_and_count_from_0_or_1(tmp_path, key, first):
    write(tmp_path, key, range(first, 300))
    times = np.tile([0.0, 0.99 / 30, 1 / 30, 5.01, 9.93], (12, 1))
    assert (taken(tmp_path, times) == np.array([0, 0, 1, 150, 297]) + first).all()


@pytest.mark.parametrize("key", ["{v}_{n}", "frame_{n:010d}.jpg", "{v}_frame_{n:010d}.jpg:rgb"])
def test_keys_that_say_no_video_or_frame_are_refused_by_name(tmp_path, key):
    write(tmp_path, key, range(1, 3))
    with pytest.raises(
        DataError, match=r"expected keys such as P01_01_frame_0000000001\.jpg, found '.*' with 8 b"
    ):
        taken(tmp_path, np.ones((12, 1)))


def test_what_is_no_frame_may_stand_before_the_frames(tmp_path):
    write(tmp_path)
    with lmdb.open(str(tmp_path), map_size=2**24) as env, env.begin(write=True) as transaction:
        transaction.put(b"LENGTH", b"300")
    assert taken(tmp_path, np.full((12, 1), 2.0))[0].tolist() == [61]


def test_a_file_without_a_key_is_refused(tmp_path):
    write(tmp_path, numbers=())
    with pytest.raises(DataError, match=r"holds no float32 vectors of frames; expected .*, found nothing"):
        taken(tmp_path, np.ones((12, 1)))


def test_a_key_is_made_and_read_in_one_form():
    form = KeyForm.of("P09/P09_01/frame_0000000012.jpg")
    key = form.key(SEGMENTS[0], 7)
    assert key == b"P01/P01_101/frame_0000000007.jpg"
    assert form.number(SEGMENTS[0], key) == 7
    assert form.number(SEGMENTS[11], key) is None


@pytest.mark.parametrize("share", [0.9999, 0.999, 0.99, 0.9, 0.6, 0.3])
def test_a_file_that_was_cut_is_refused_before_it_is_read(tmp_path, share):
    """Reading behind its end would end the process with SIGBUS."""
    write(tmp_path)
    file = tmp_path / "data.mdb"
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataError, match=rf"its pages take {len(content):,}: it was cut off; copy it again"):
        taken(tmp_path, np.ones((12, 1)))


@pytest.mark.parametrize("size", [0, 100, 4096])
def test_the_beginning_of_a_file_is_no_lmdb(tmp_path, size):
    write(tmp_path)
    file = tmp_path / "data.mdb"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(DataError, match="cannot be read"):
        taken(tmp_path, np.ones((12, 1)))


def test_frames_at_another_rate_than_the_one_said_are_refused(tmp_path):
    """300 frames of videos of 10 s are 30 a second."""
    write(tmp_path)
    times = np.tile([0.0, 9.5], (12, 1))
    durations = dict.fromkeys(VIDEOS, 10.0)
    assert taken(tmp_path, times, **durations)[0].tolist() == [1, 286]
    for wrong in (15, 60):
        with pytest.raises(DataError, match=r"2 videos of 2 .*; --set fps=(30|29\.97) would fit"):
            taken(tmp_path, times, wrong, **durations)
    with pytest.raises(Fault, match=r"no frame of P01_101 in the second up to 9\.50 s"):
        taken(tmp_path, times, 60)


def test_frames_behind_the_last_row_need_not_be_there(tmp_path):
    write(tmp_path)
    assert taken(tmp_path, np.full((12, 1), 2.0), P01_101=100.0)[0].tolist() == [61]


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(UsageError, match=r"pip install -e '\.\[lmdb\]'"):
        need_lmdb()
