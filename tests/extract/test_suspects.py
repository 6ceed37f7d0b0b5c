"""What is remembered of a process that died while it read. Here each unit of four rows is a video."""

import signal
from dataclasses import replace

from helpers.forks import fork
from helpers.tiny import make_segments
from mambavl.cache import fsops
from mambavl.extract.suspects import SLOT, Suspects

ROWS = [replace(row, video_id=f"P01_{101 + number // 4}") for number, row in enumerate(make_segments(40))]


def store(folder):
    (folder / "commit").mkdir()
    return folder


def test_what_a_dead_process_was_reading_is_suspect_and_what_it_had_read_is_not(tmp_path):
    store(tmp_path)

    def die():
        suspects = Suspects(tmp_path, ROWS, 4)
        suspects.begins(0, 8)
        suspects.begins(3, 16)
        suspects.begins(1, 0)
        suspects.ends(1)
        suspects.begins(0, 24)
        signal.raise_signal(signal.SIGKILL)

    assert fork(die).wait() == -signal.SIGKILL
    suspects = Suspects(tmp_path, ROWS, 4)
    assert [first for first in range(0, 40, 4) if suspects.holds(first)] == [16, 24]
    suspects.cleared(24)
    assert [first for first in range(0, 40, 4) if suspects.holds(first)] == [16]
    suspects.close()
    assert not list((tmp_path / "commit").glob("*.reading"))


def test_what_a_living_process_reads_is_not(tmp_path):
    living = Suspects(store(tmp_path), ROWS, 4)
    living.begins(0, 8)
    other = Suspects(tmp_path, ROWS, 4)
    assert not other.holds(8)
    other.close()
    assert (tmp_path / "commit").joinpath(living._path.name).read_bytes() == f"{8:<{SLOT}}".encode()
    living.close()


def die_reading(folder, first):
    """A process begins to read rows and is killed."""

    def die():
        Suspects(folder, ROWS, 4).begins(0, first)
        signal.raise_signal(signal.SIGKILL)

    assert fork(die).wait() == -signal.SIGKILL


def test_those_that_live_learn_at_once_of_one_that_dies(tmp_path):
    """Else each of them would take over its work and crash, too."""
    living = [Suspects(store(tmp_path), ROWS, 4), Suspects(tmp_path, ROWS, 4)]
    assert not living[0].holds(8)
    die_reading(tmp_path, 8)
    assert [suspects.holds(8) for suspects in living] == [True, True]
    living[1].cleared(8)
    assert [suspects.holds(8) for suspects in living] == [False, False]
    for suspects in living:
        suspects.close()


def test_what_is_suspect_stays_so_when_who_knew_it_dies(tmp_path):
    """Else two bad videos would take turns in crashing one process after the other."""
    store(tmp_path)
    for first in (8, 16, 8):
        die_reading(tmp_path, first)
    suspects = Suspects(tmp_path, ROWS, 4)
    assert [first for first in range(0, 40, 4) if suspects.holds(first)] == [8, 16]
    suspects.close()


def test_a_file_that_was_taken_for_a_dead_ones_is_begun_again(tmp_path, monkeypatch):
    store(tmp_path)
    begun, lock = [], fsops.lock

    def taken_away(path, **how):
        found = lock(path, **how)
        if not begun:
            path.unlink()
        begun.append(path)
        return found

    monkeypatch.setattr(fsops, "lock", taken_away)
    suspects = Suspects(tmp_path, ROWS, 4)
    suspects.begins(0, 8)
    assert suspects._path.read_bytes().split() == [b"8"]
    assert len(set(begun)) == 2
    suspects.close()


def test_videos_at_which_decoders_were_lost_stay_known(tmp_path):
    suspects = Suspects(store(tmp_path), ROWS, 4)
    assert not suspects.holds(0)
    suspects.lost(ROWS[0].video_id)
    suspects.lost(ROWS[0].video_id)
    assert suspects.holds(0)
    suspects.cleared(0)
    assert suspects.holds(0)  # whatever it said
    suspects.close()
    file = tmp_path / "commit" / "lost-decoders.jsonl"
    assert file.read_text().splitlines() == [f'{{"video": "{ROWS[0].video_id}"}}']
    file.write_text(file.read_text() + '{"vid')  # torn by a kill
    later = Suspects(tmp_path, ROWS, 4)
    assert [first for first in range(0, 40, 4) if later.holds(first)] == [0]
    later.lost(ROWS[8].video_id)
    later.close()
    last = Suspects(tmp_path, ROWS, 4)
    assert [first for first in range(0, 40, 4) if last.holds(first)] == [0, 8]
    last.close()


def test_all_of_a_video_that_a_dead_process_was_reading_is_suspect_until_that_was_read(tmp_path):
    """Else its other rows, which threads may come to first, would crash the process again and again."""
    (store(tmp_path) / "commit" / "dead.reading").write_text("4" + " " * 15)
    rows = make_segments(20)  # several units of a video
    suspect = rows[4].video_id
    same = [
        first for first in range(0, 20, 4) if suspect in {row.video_id for row in rows[first : first + 4]}
    ]
    assert len(same) > 1
    suspects = Suspects(tmp_path, rows, 4)
    assert [first for first in range(0, 20, 4) if suspects.holds(first)] == same
    suspects.cleared(4)
    assert not any(suspects.holds(first) for first in range(0, 20, 4))
    suspects.close()
