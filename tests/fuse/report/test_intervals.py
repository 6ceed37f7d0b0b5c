"""Intervals of a report are those of `compare`."""

from dataclasses import replace

import numpy as np
import pytest

from helpers.mixing import make_kitchens
from mambavl.fuse import compare, paired
from mambavl.fuse.report import intervals
from mambavl.fuse.report.tables import DASH, Cell
from mambavl.fuse.sides import find_side

ROWS = {one.narration_id: one for one in make_kitchens()}
KEYS = {"all_verb_top1": "top1", "all_noun_top5": "top5", "all_action_mean_class_recall5": "recall5"}


@pytest.mark.parametrize("key", KEYS)
def test_a_difference_is_that_of_compare(contest, swept, key):
    sides = [find_side(f"{swept}/lr={lr},*") for lr in (0.01, 0.001)]
    target, _ = intervals.parted(key)
    found = compare.compare(*sides, measures=[KEYS[key]], targets=[target]).table[0]
    made = intervals.Intervals(draws=compare.DRAWS)
    assert made.difference(*contest, key) == pytest.approx(found.interval)
    assert made.difference(*contest, key).value == pytest.approx(found.a - found.b)


def test_an_interval_of_an_entry_is_over_its_videos_and_seeds(contest):
    """By the label's rank, from the scores themselves."""
    one = contest[1]
    with np.load(one.entry.members[0].scores) as arrays:
        label, videos = (
            arrays["verb_label"],
            [ROWS[name].video_id for name in arrays["narration_id"].tolist()],
        )
    hits = []
    for member in one.entry.members:
        with np.load(member.scores) as arrays:
            hits.append((arrays["verb"].argmax(1) == label).astype(float))
    means = paired.ClassMeans(np.zeros(len(label), int), videos, intervals.DRAWS)
    expected = means.corrected(np.stack(hits), np.zeros((1, len(label))))
    assert intervals.Intervals().of(one, "all_verb_top1") == pytest.approx(expected)
    assert expected.low < 100 * np.mean(hits) < expected.high


def test_draws_are_made_once_for_the_same_rows(contest):
    made = intervals.Intervals(draws=100)
    for one in contest:
        made.of(one, "all_verb_top1")
        made.of(one, "all_noun_top5")
    assert len(made._means) == 1
    made.of(contest[0], "all_verb_mean_class_recall5")
    assert len(made._means) == 2


def test_there_is_none_without_stores_of_few_videos_and_of_map(contest, page):
    made = intervals.Intervals(draws=100)

    assert made.of(replace(contest[0], segments=None), "all_verb_top1") is None
    one_video = [replace(one, video_id="P01_1") for one in contest[0].segments]
    assert made.of(replace(contest[0], segments=one_video), "all_verb_top1") is None
    assert made.of(contest[0], "all_verb_map") is None
    assert made.of(contest[0], "all_tool_top1") is None


def test_rows_are_alike_where_ids_and_labels_are(contest):

    one, other = contest
    assert intervals.are_alike(one, other, ["verb", "action"])
    seen = replace(other.seen[0], ids=other.seen[0].ids[::-1])
    assert not intervals.are_alike(one, replace(other, seen=(seen,)), ["verb"])
    verb = other.seen[0].ranked["verb"]
    changed = {**other.seen[0].ranked, "verb": replace(verb, label=verb.label[::-1])}
    assert not intervals.are_alike(
        one, replace(other, seen=(replace(other.seen[0], ranked=changed),)), ["verb"]
    )


def test_a_cell_says_value_spread_and_ends():
    interval = paired.Interval(2.0, -0.04, 4.0)
    assert intervals.cell(41.25, interval, " ± 0.3") == Cell("41.2 ± 0.3 (-0.0 to 4.0)", 41.25, "interval")
    assert intervals.cell(2.0, interval, form="+.1f").text == "+2.0 (-0.0 to +4.0)"
    assert intervals.cell(2.0, None).text == "2.0"
    assert intervals.cell(None, interval).text == DASH


def test_a_key_of_no_measure_is_refused():
    with pytest.raises(ValueError, match="all_verb_n is of no measure"):
        intervals.parted("all_verb_n")
