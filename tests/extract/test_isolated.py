"""Reading in a process of its own: what hangs or crashes there costs its rows and nothing else."""

import os
import threading
import time

import pytest

from helpers.lost import Losing, Unborn
from helpers.tiny import make_segments
from mambavl.configs.errors import DataError, SystemFault
from mambavl.extract import isolated as isolated_module
from mambavl.extract.ahead import Task
from mambavl.extract.isolated import Isolated

ROWS = make_segments(8)
NAMES = [row.narration_id for row in ROWS]
VIDEO = ROWS[0].video_id
SILENCE = 5.0
LONG = 300


@pytest.fixture
def read(tmp_path):
    lost, begun = [], []

    def run(*units, silence=SILENCE, **losing):
        (tmp_path / "tried").mkdir(exist_ok=True)
        isolated = Isolated(Losing(tmp_path / "tried", **losing), silence, lost.append)
        begun.append(isolated)
        tasks = [Task(0, rows) for rows in units]
        for task in tasks:
            isolated.submit(task)
        return [task.result.result(LONG) for task in tasks], lost

    yield run
    for isolated in begun:
        isolated.close()


def pids(folder):
    return {name.rpartition("-")[2] for name in os.listdir(folder)}


def test_sound_rows_are_read_by_one_other_process(read, tmp_path):
    found, lost = read(ROWS[:4], ROWS[4:])
    assert found == [[NAMES[:4]], [NAMES[4:]]]
    assert not lost
    (pid,) = pids(tmp_path / "tried")
    assert int(pid) != os.getpid()


@pytest.mark.parametrize("deed", ["crash", "hang"])
def test_a_row_at_which_a_decoder_is_lost_fails_and_the_others_do_not(read, deed, capsys):
    ((clips,),), lost = read(ROWS, rows={NAMES[2]: deed})
    why = "was ended by signal 11" if deed == "crash" else "gave nothing for 5 s"
    assert clips[:2] + clips[3:] == NAMES[:2] + NAMES[3:]
    assert clips[2] == f"damaged_frame: {VIDEO}: the decoder {why} (frame of {NAMES[2]})"
    assert lost == [VIDEO, VIDEO]
    assert capsys.readouterr().err.count(why) == 2


def test_a_decoder_that_is_lost_once_costs_nothing(read):
    ((clips,),), _ = read(ROWS, rows={NAMES[2]: "once-crash"})
    assert clips == NAMES


def test_a_video_that_cannot_be_opened_is_given_up_after_two_tries(read, tmp_path):
    found, _ = read(ROWS[:4], ROWS[4:], videos={VIDEO: "crash"})
    assert all(clip.startswith("unreadable_video: ") for unit in found for clip in unit[0])
    assert len([name for name in os.listdir(tmp_path / "tried") if name.startswith(VIDEO)]) == 2


def test_a_video_at_which_it_is_lost_too_often_is_given_up(read, tmp_path):
    ((clips,),), _ = read(ROWS, rows=dict.fromkeys(NAMES, "crash"))
    # together, then five alone
    assert [clip.split(":")[0] for clip in clips] == ["damaged_frame"] * 5 + ["unreadable_video"] * 3
    assert "hung or crashed 6 times, the last time: was ended by signal 11" in clips[-1]
    assert len([name for name in os.listdir(tmp_path / "tried") if name.startswith(NAMES[7])]) == 0


def test_a_disk_that_does_not_answer_is_waited_for(read):
    ((clips,),), lost = read(ROWS[:2], rows={NAMES[0]: "disk"}, slow=6.0, silence=3.0)
    assert clips == NAMES[:2]
    assert not lost


def test_a_decoder_that_goes_on_may_take_longer_than_it_may_be_silent(read):
    ((clips,),), lost = read(ROWS[:2], rows={NAMES[0]: "work"}, slow=7.0, silence=3.0)
    assert clips == NAMES[:2]
    assert not lost


def test_what_its_reader_raises_is_raised_here(read):
    with pytest.raises(SystemFault, match="the disk is away"):
        read(ROWS, rows={NAMES[2]: "fault"})


def test_a_reader_that_cannot_be_opened_is_no_fault_of_the_rows(read):
    with pytest.raises(SystemFault, match="the boxes are away"):
        read(ROWS, opens=False)


def test_a_job_that_ends_does_not_wait_for_what_hangs(tmp_path):
    isolated = Isolated(Losing(tmp_path, rows={NAMES[0]: "hang"}), 1000.0, lambda video: None)
    isolated.submit(Task(0, ROWS))
    while not list(tmp_path.glob(f"{NAMES[0]}-*")):
        time.sleep(0.05)
    (pid,) = pids(tmp_path)
    isolated.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


@pytest.mark.parametrize("deed", [{}, {"rows": {NAMES[0]: "hang"}}], ids=["done", "hanging"])
def test_a_process_is_ended_and_its_pipe_closed_by_the_thread_that_reads_from_it(tmp_path, monkeypatch, deed):
    closed_by, close = [], isolated_module._Child.close

    def record(child):
        closed_by.append(threading.current_thread().name)
        close(child)

    monkeypatch.setattr(isolated_module._Child, "close", record)
    isolated = Isolated(Losing(tmp_path, **deed), 1000.0, lambda video: None)
    task = Task(0, ROWS)
    isolated.submit(task)
    if not deed:
        task.result.result(LONG)
    while not (begun := pids(tmp_path)):
        time.sleep(0.05)
    isolated.close()
    assert closed_by == ["isolated"]
    with pytest.raises(ProcessLookupError):
        os.kill(int(begun.pop()), 0)


def test_a_process_that_does_not_come_to_begin_fails_no_row(tmp_path):
    isolated = Isolated(Unborn(tmp_path), SILENCE, lambda video: pytest.fail("a decoder was blamed"))
    task = Task(0, ROWS)
    isolated.submit(task)
    with pytest.raises(DataError, match=r"could not start: it ended with exit code 3.*__main__"):
        task.result.result(LONG)
    isolated.close()
