"""Ego4D's short-term anticipation: a row begins at the frame and ends at the first contact."""

import pytest

from helpers.other_lists import make_sta, sta_rows
from mambavl.extract.lists.ego4d_sta import read_sta
from mambavl.extract.lists.listing import Request, checked
from mambavl.extract.sampling import Sampling, window


def read(folder):
    return checked(read_sta(folder, Request()), Request())


def test_rows_and_labels_are_what_the_lists_say(tmp_path):
    found = read(make_sta(tmp_path))
    assert [(row.name, row.video, row.start, row.stop, row.split) for row in found.rows] == [
        ("c1_60", "c1", 2.0, 2.5, "train"),
        ("c1_240", "c1", 8.0, 8.75, "train"),
        ("c2_180", "c2", 6.0, 7.0, "validation"),
        ("c3_90", "c3", 3.0, pytest.approx(91 / 30), "test"),
    ]
    assert [row.labels for row in found.rows] == [
        {"verb": 0, "noun": 0, "verbs": (0,), "nouns": (0,)},
        {"verb": 0, "noun": 1, "verbs": (1, 0), "nouns": (2, 1)},  # the pan is touched first
        {"verb": 0, "verbs": (0,), "nouns": (1, 2)},  # pan and lid at once: no single noun
        {},
    ]
    assert found.classes["noun"].ids == {"cup": 0, "pan": 1, "lid": 2}
    assert found.derived == {"action": ("verb", "noun")}
    assert "boxes are not kept" in found.notes[0]


def test_each_video_has_the_rate_that_is_said_of_it(tmp_path):
    assert read(make_sta(tmp_path, rate=60.0)).rows[1].start == 4.0


def test_a_video_may_be_called_by_either_key(tmp_path):
    """The first version says video_id, the second video_uid."""
    rows = sta_rows()
    make_sta(tmp_path, rows)
    text = (tmp_path / "fho_sta_val.json").read_text()
    (tmp_path / "fho_sta_val.json").write_text(text.replace('"video_id"', '"video_uid"'))
    assert len(read(tmp_path).rows) == 4


def test_rows_may_be_of_whole_videos(tmp_path):
    """The clips begin at frame 3,000 of theirs."""
    found = read_sta(make_sta(tmp_path), Request(columns={"video": "video_uid"}))
    assert [(row.video, row.start, row.stop) for row in found.rows][:2] == [
        ("whole-c1", 102.0, 102.5),
        ("whole-c1", 108.0, 108.75),
    ]


def test_nothing_after_the_frame_is_seen(tmp_path):
    for row in read(make_sta(tmp_path)).rows:
        seen = window(row.start, row.stop, Sampling(task="anticipation", tau_a=0.0, frames=4))
        assert max(seen.times) <= row.start
