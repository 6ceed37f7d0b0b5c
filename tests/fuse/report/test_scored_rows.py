"""Which runs may stand beside each other."""

from dataclasses import replace

import numpy as np
import pytest

from helpers.reported import write_run
from helpers.tiny import CLASSES, make_segments
from mambavl.cache.classes import Classes, Target
from mambavl.configs.errors import DataError
from mambavl.fuse.report.entries import collect
from mambavl.fuse.report.scored_rows import scored, segments_of, tables_of
from mambavl.fuse.report.told import Told

IDS = [segment.narration_id for segment in make_segments(9)]


def make(folder, name, ids=IDS, *, classes=CLASSES, labels=None, split="validation", seed=0):
    rng = np.random.default_rng(len(name))
    scores = {one: rng.normal(size=(len(ids), target.count)) for one, target in classes.targets.items()}
    number = [IDS.index(one) if one in IDS else 0 for one in ids]
    given = labels or {
        one: np.array([row % target.count for row in number]) for one, target in classes.targets.items()
    }
    return write_run(folder / name, classes, ids, scores, given, title=name, split=split, seed=seed)


def tables(*runs):
    return tables_of([scored(entry) for entry in collect(list(runs))])


def test_rows_of_one_split_and_meaning_share_a_table_in_the_order_of_the_first(tmp_path):
    more = make(tmp_path, "more", [IDS[8], "own", *IDS[:3]])
    [table] = tables(make(tmp_path, "all"), more)
    assert table.title == "validation"
    assert table.ids == [*IDS, "own"]
    assert [run.entry.title for run in table.runs] == ["all", "more"]
    assert table.runs[1].place[IDS[8]] == 0
    assert table.labels("verb")[:4] == [(0,), (1,), (2,), (0,)]
    assert table.labels("action")[4] == (1 * 4 + 0,)
    assert list(table.targets) == ["verb", "noun", "action"]


def test_seeds_are_one_run_the_first(tmp_path):
    [table] = tables(make(tmp_path, "same", seed=3), make(tmp_path / "again", "same", seed=4))
    assert [run.entry.seeds for run in table.runs] == [[3, 4]]


def test_runs_of_other_targets_share_what_they_have_in_common(tmp_path):
    verbs = Classes({"verb": CLASSES.targets["verb"]})
    [table] = tables(make(tmp_path, "verbs", classes=verbs), make(tmp_path, "all"))
    assert list(table.targets) == ["verb", "noun", "action"]
    assert table.labels("noun")[1] == (1,)
    assert list(table.runs[0].answers) == ["verb"]


@pytest.mark.parametrize("other", ["split", "rows", "labels", "names", "count", "targets"])
def test_what_cannot_be_compared_has_a_table_of_its_own(tmp_path, other):
    renamed = replace(CLASSES.targets["noun"], classes={0: "leek", 1: "cup", 2: "pan", 3: "lid"})
    changes = {
        "split": {"split": "train_0_of_5"},
        "rows": {"ids": ["x", "y", "z"]},
        "labels": {"labels": {name: np.zeros(9, int) for name in ("verb", "noun")}},
        "names": {"classes": replace(CLASSES, targets={**CLASSES.targets, "noun": renamed})},
        "count": {"classes": Classes({"verb": Target(CLASSES.targets["verb"].classes, 5)})},
        "targets": {"classes": Classes({"tool": Target({}, 3)})},
    }[other]
    first, second = tables(make(tmp_path, "all"), make(tmp_path, "other", **changes))
    assert len(first.runs) == len(second.runs) == 1
    assert second.title == (
        "train_0_of_5" if other == "split" else "validation (2: other rows, labels or classes)"
    )


def test_groups_that_are_measured_apart_do_not_part_rows(tmp_path):
    """They name the same classes."""
    without = replace(CLASSES, groups={})
    assert len(tables(make(tmp_path, "all"), make(tmp_path, "other", classes=without))) == 1


def test_whoever_asks_knows_rows_better_than_stores_and_what_nobody_knows_is_not_there(tmp_path):
    [table] = tables(make(tmp_path, "all"))
    known = {one.narration_id: one for one in make_segments(4)}
    found, faults = segments_of(table, Told(segments={**known, "other": make_segments(1)[0]}))
    assert found == known
    assert faults == []


def test_damaged_scores_are_refused(tmp_path):
    run = make(tmp_path, "all")
    [entry] = collect([run])
    (run / "scores" / "validation.npz").write_bytes(b"x")
    with pytest.raises(DataError, match="makes it again"):
        scored(entry)
