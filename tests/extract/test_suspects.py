"""What is remembered of a process that died while it read."""

import signal

from helpers.forks import fork
from helpers.tiny import make_segments
from mambavl.extract.suspects import SLOT, Suspects

ROWS = make_segments(20)


def store(folder):
    (folder / "commit").mkdir()
    return folder


def test_what_a_dead_process_was_reading_is_suspect_and_what_it_had_read_is_not(tmp_path):
    store(tmp_path)

    def die():
        suspects = Suspects(tmp_path)
        suspects.begins(0, 8)
        suspects.begins(3, 16)
        suspects.begins(1, 0)
        suspects.ends(1)
        suspects.begins(0, 24)
        signal.raise_signal(signal.SIGKILL)

    assert fork(die).wait() == -signal.SIGKILL
    suspects = Suspects(tmp_path)
    assert [first for first in range(0, 40, 8) if suspects.holds(first, [])] == [16, 24]
    suspects.close()
    assert not list((tmp_path / "commit").glob("*.reading"))


def test_what_a_living_process_reads_is_not(tmp_path):
    living = Suspects(store(tmp_path))
    living.begins(0, 8)
    other = Suspects(tmp_path)
    assert not other.holds(8, [])
    other.close()
    assert (tmp_path / "commit").joinpath(living._path.name).read_bytes() == f"{8:<{SLOT}}".encode()
    living.close()


def test_videos_at_which_decoders_were_lost_stay_known(tmp_path):
    suspects = Suspects(store(tmp_path))
    assert not suspects.holds(0, ROWS[:2])
    suspects.lost(ROWS[0].video_id)
    suspects.lost(ROWS[0].video_id)
    assert suspects.holds(0, ROWS[:2])
    suspects.close()
    file = tmp_path / "commit" / "lost-decoders.jsonl"
    assert file.read_text().splitlines() == [f'{{"video": "{ROWS[0].video_id}"}}']
    file.write_text(file.read_text() + '{"vid')  # torn by a kill
    later = Suspects(tmp_path)
    assert later.holds(100, ROWS[:1])
    assert not later.holds(100, [row for row in ROWS if row.video_id != ROWS[0].video_id])
    later.close()
