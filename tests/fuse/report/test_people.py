"""Scores by participant, against a loop over rows."""

from dataclasses import replace

import numpy as np

from helpers.mixing import make_kitchens
from mambavl.fuse.report.people import people_table

KITCHENS = {one.narration_id: one for one in make_kitchens()}


def test_each_participant_has_its_rows_videos_and_scores(contest):
    table = people_table(contest, "all_verb_top1")
    assert [column.label for column in table.columns][4:] == [one.entry.short for one in contest]
    for person, kitchen, rows, videos, *values in table.texts[1:]:
        own = [name for name in contest[0].ids if KITCHENS[name].participant_id == person]
        assert kitchen == ("unseen" if person == "P03" else "seen")
        assert int(rows) == len(own)
        assert int(videos) == len({KITCHENS[name].video_id for name in own})
        for one, value in zip(contest, values, strict=True):
            hits = one.hits("verb", five=False).mean(0)
            expected = np.mean([hits[one.ids.index(name)] for name in own])
            assert value == f"{100 * expected:.1f}"
    assert sum(int(row[2]) for row in table.texts[1:]) == len(contest[0].ids)


def test_where_recall_is_the_measure_the_best_five_are_shown(contest):
    verb = contest[0].seen[0].ranked["verb"]
    ranked = {"verb": replace(verb, best5=np.full_like(verb.best5, 0.25))}
    one = replace(contest[0], seen=(replace(contest[0].seen[0], ranked=ranked),))
    table = people_table([one], "all_verb_mean_class_recall5")
    assert table.caption.startswith("verb top-5 by participant")
    assert {row[4] for row in table.texts[1:]} == {"25.0"}


def test_entries_on_other_rows_or_without_stores_are_left_out(contest):
    one, other = contest
    lost = replace(other, segments=None)
    assert len(people_table([lost, one], "all_verb_top1").columns) == 5
    assert people_table([lost], "all_verb_top1") is None
    seen = tuple(replace(found, ids=found.ids[::-1]) for found in other.seen)
    assert len(people_table([one, replace(other, seen=seen)], "all_verb_top1").columns) == 5
