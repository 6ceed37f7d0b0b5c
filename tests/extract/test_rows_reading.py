"""Threads that hang are replaced, and what they hung at is read where it can be killed."""

import os
import time

import pytest

from helpers.lost import Losing
from helpers.tiny import make_segments
from mambavl.configs.errors import SystemFault
from mambavl.extract.rows_reading import RowsReading
from mambavl.extract.suspects import Suspects

ROWS = make_segments(8)
NAMES = [row.narration_id for row in ROWS]
SILENCE = 5.0


@pytest.fixture
def start(tmp_path):
    begun = []

    def make(threads=1, **losing):
        for folder in (tmp_path / "commit", tmp_path / "tried"):
            folder.mkdir(exist_ok=True)
        reading = Losing(tmp_path / "tried", **losing)
        begun.append(RowsReading(reading, threads, SILENCE, Suspects(tmp_path, ROWS, 4)))
        return begun[-1], reading

    yield make
    for reading in begun:
        reading.close()


def result(reading, task):
    while not task.result.done():
        reading.look_after()
        time.sleep(0.05)
    return task.result.result()


def test_a_row_that_hangs_once_is_read_by_another_process_and_the_thread_is_replaced(start, capsys):
    reading, losing = start(rows={NAMES[1]: "once-hang"})
    first, second = reading.submit(0, ROWS[:4]), reading.submit(4, ROWS[4:])
    assert result(reading, first) == [NAMES[:4]]
    assert result(reading, second) == [NAMES[4:]]
    said = f"{ROWS[1].video_id}: nothing came for 5 s (frame of {NAMES[1]}); it is tried again"
    assert said in capsys.readouterr().err
    assert losing.tried(NAMES[1]) == 2
    assert not reading.close()  # a thread that hangs does not end


def test_what_a_dead_process_was_reading_goes_to_another_process_at_once(start, tmp_path):
    (tmp_path / "commit").mkdir()
    (tmp_path / "commit" / "dead.reading").write_text("4" + " " * 15)
    reading, losing = start(rows={NAMES[5]: "crash"})
    first, second = reading.submit(0, ROWS[:4]), reading.submit(4, ROWS[4:])
    assert result(reading, first) == [NAMES[:4]]
    (clips,) = result(reading, second)
    assert clips[:1] + clips[2:] == NAMES[4:5] + NAMES[6:]
    assert clips[1].startswith("damaged_frame: ")
    # from now on all rows of that video do
    third = reading.submit(0, ROWS[:4])
    assert result(reading, third) == [NAMES[:4]]
    assert len({name.rpartition("-")[2] for name in os.listdir(losing.folder)}) > 2
    assert (tmp_path / "commit" / "lost-decoders.jsonl").exists()
    assert reading.close()


def test_what_could_not_be_read_stays_suspect(start, tmp_path):
    (tmp_path / "commit").mkdir()
    (tmp_path / "commit" / "dead.reading").write_text("4" + " " * 15)
    reading, _ = start(rows={NAMES[5]: "fault"})
    with pytest.raises(SystemFault):
        result(reading, reading.submit(4, ROWS[4:]))
    suspects = Suspects(tmp_path, ROWS, 4)
    assert suspects.holds(4)
    suspects.close()
