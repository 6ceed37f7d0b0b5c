"""Pictures of rows, and what is said of those that have none."""

import base64

import numpy as np

from helpers.tiny import make_segments
from mambavl.cache.classes import verb_noun_classes
from mambavl.cache.licences import terms_of
from mambavl.fuse.report.clips import WHY
from mambavl.fuse.report.pictured import Choice, pictured, said_of_pictures
from mambavl.fuse.report.told import Told

ROWS = make_segments(6)
EK100 = terms_of(verb_noun_classes({}, {}, num_verbs=97, num_nouns=300))
IDS = [row.narration_id for row in ROWS]
SEGMENTS = {row.narration_id: row for row in ROWS}
CHOICE = Choice(np.zeros((1, 6), int), np.ones((1, 6)), np.zeros((1, 6), bool), np.ones(6, bool), None)


def strips(wanted):
    """The id as a picture; of every second row a reason."""
    return {
        row.narration_id: row.narration_id.encode() if number % 2 == 0 else "P01_101: cut off"
        for number, (row, _) in enumerate(wanted)
    }


def test_strips_are_told_by_line_with_their_reason_and_moments():
    found = pictured(IDS, SEGMENTS, CHOICE, Told(strips=strips), 6)
    assert sorted(found.clips) == [0, 2, 4]
    for row, (line, why, times, before) in found.clips.items():
        assert base64.b64decode(found.lines[line]).decode() == IDS[row]
        assert WHY[why] == ("confident mistakes" if row < 2 else "drawn at random")
        start, stop = 100 * ROWS[row].start, 100 * ROWS[row].stop
        parts = (1 / 8, 3 / 8, 5 / 8, 7 / 8)
        assert times == [round(start + (stop - start) * part) for part in parts]
        assert before == 0
    assert found.lost == dict.fromkeys([IDS[1], IDS[3], IDS[5]], "P01_101: cut off")


def test_rows_of_which_nobody_knows_where_they_are_are_never_chosen():
    some = {IDS[number]: ROWS[number] for number in (1, 3, 4)}
    found = pictured(IDS, some, CHOICE, Told(strips=strips), 2)
    assert {*found.clips} | {IDS.index(name) for name in found.lost} <= {1, 3, 4}
    assert len(found.clips) + len(found.lost) == 2
    assert pictured(IDS, {}, CHOICE, Told(strips=strips), 2).clips == {}


def test_without_videos_the_page_says_which_command_adds_pictures():
    found = pictured(IDS, SEGMENTS, CHOICE, Told(), 6)
    assert found.lines == []
    [said] = said_of_pictures([found], 6, Told(), EK100)
    assert "`mambavl report ... --annotations DIR --videos DIR` adds them" in said


def test_lost_pictures_are_counted_by_reason_and_whose_the_others_are_is_said():
    told = Told(strips=strips)
    found = pictured(IDS, SEGMENTS, CHOICE, told, 6)
    chosen, lost, licence = said_of_pictures([found], 6, told, EK100)
    assert chosen.startswith("3 of 6 rows have pictures: ")
    assert "3 rows should have some and have none" in lost
    assert "P01_101: cut off (3 rows)" in lost
    assert "CC BY-NC 4.0" in licence
    assert "EPIC" not in said_of_pictures([found], 6, told, None)[2]


def test_of_pictures_of_all_rows_no_choice_is_told():
    told = Told(strips=lambda wanted: {row.narration_id: b"x" for row, _ in wanted})
    found = pictured(IDS, SEGMENTS, CHOICE, told, 6)
    assert said_of_pictures([found], 6, told, None)[0] == "All rows have pictures."


def test_many_reasons_are_cut_short():
    told = Told(strips=lambda wanted: {row.narration_id: f"fault {row.narration_id}" for row, _ in wanted})
    rows = make_segments(30)
    none, sure = np.zeros((1, 30), int), np.ones((1, 30))
    choice = Choice(none, sure, none > 0, np.ones(30, bool), None)
    segments = {row.narration_id: row for row in rows}
    found = pictured(list(segments), segments, choice, told, 30)
    _, lost = said_of_pictures([found], 30, told, EK100)
    assert lost.count("fault") == 20
    assert lost.endswith("and 10 more reasons.")
