"""Ego4D's long-term anticipation: rows by clip, classes by the taxonomy."""

import json

import pytest

from helpers.foreign_lists import ego4d_row, ego4d_rows, make_ego4d
from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.lists.ego4d import read_ego4d
from mambavl.extract.lists.listing import Request, checked


def read(folder):
    return checked(read_ego4d(folder, Request()), Request())


def test_rows_and_classes_are_what_the_files_say(tmp_path):
    found = read(make_ego4d(tmp_path))
    assert [(row.name, row.start, row.stop, row.split, row.labels, row.text) for row in found.rows] == [
        ("c1_0", 0.5, 2.0, "train", {"verb": 0, "noun": 2}, "take lid"),
        ("c1_1", 2.0, 9.0, "train", {"verb": 1, "noun": 0}, "put_(place) cup"),
        ("c2_0", 1.0, 8.5, "validation", {"verb": 0, "noun": 1}, "take pan"),
    ]
    assert found.classes["verb"].ids == {"take": 0, "put_(place)": 1}
    assert found.durations == {"c1": 10.0, "c2": 10.0}
    assert found.derived == {"action": ("verb", "noun")}


def test_the_test_list_has_no_labels(tmp_path):
    row = {
        k: v
        for k, v in ego4d_row("c3", 0, 1.0, 2.0, 0, 0).items()
        if k not in ("verb", "noun", "verb_label", "noun_label")
    }
    found = read(make_ego4d(tmp_path, {**ego4d_rows(), "fho_lta_test_unannotated.json": [row]}))
    assert (found.rows[-1].split, found.rows[-1].labels, found.rows[-1].text) == ("test", {}, "")


def test_a_taxonomy_of_another_shape_is_named(tmp_path):
    (make_ego4d(tmp_path) / "fho_lta_taxonomy.json").write_text(json.dumps({"verbs": [], "nouns": ["cup"]}))
    with pytest.raises(DataError, match=r"fho_lta_taxonomy\.json\.verbs: names no class"):
        read(tmp_path)


def test_rows_may_be_of_whole_videos(tmp_path):
    """As those of Ego4D's own features are; the clips of the miniature begin at 100 s of theirs."""
    found = read_ego4d(make_ego4d(tmp_path), Request(columns={"video": "video_uid"}))
    assert [(row.video, row.start, row.stop) for row in found.rows] == [
        ("whole-c1", 100.5, 102.0),
        ("whole-c1", 102.0, 109.0),
        ("whole-c2", 101.0, 108.5),
    ]
    assert found.durations == {}  # the list says how long clips are
    for columns in ({"video": "clip"}, {"video": "video_uid", "start": "x"}):
        with pytest.raises(UsageError, match="only video=clip_uid or video=video_uid can be said"):
            read_ego4d(tmp_path, Request(columns=columns))
