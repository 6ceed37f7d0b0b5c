"""summary.json: written whole, read in its old form too, and refused where it is damaged."""

import json

import pytest

from mambavl.configs.errors import DataError
from mambavl.fuse.result import Selection
from mambavl.fuse.summary import Summary, not_chosen, read_summary, runs_without_folder, write_summary


def line(run, **values):
    measured = {"all_action_top1": 3.0}
    return {"name": run, "run": run, "values": values, "state": "done", "error": "", "metrics": measured}


POINTS = [line("a", **{"train.lr": 1}), line("b", **{"train.lr": 2})]
CHOICE = Selection(among=2, failed=0, on="train_0_of_5", by="all_action_top1", score=3.0)


def test_a_summary_is_read_as_it_was_written(tmp_path):
    written = Summary(points=POINTS, chosen=[line("chosen,b")], selection=CHOICE)
    write_summary(tmp_path, written)
    assert read_summary(tmp_path / "summary.json") == written


def test_the_list_that_older_sweeps_wrote_is_a_summary_without_a_choice(tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps(POINTS))
    assert read_summary(tmp_path / "summary.json") == Summary(points=POINTS, chosen=[], selection=None)
    (tmp_path / "a").mkdir()
    assert runs_without_folder(tmp_path / "summary.json") == {str(tmp_path / "b"): "has not begun"}


def test_a_chosen_run_without_a_folder_is_missed_too(tmp_path):
    failed = {**line("chosen,b"), "error": "no room"}
    write_summary(tmp_path, Summary(points=[], chosen=[failed], selection=CHOICE))
    assert runs_without_folder(tmp_path / "summary.json") == {str(tmp_path / "chosen,b"): "no room"}


@pytest.mark.parametrize(
    "damage", ["{", "3", "{}", '[{"run": 3}]', '{"points": [], "chosen": [], "selection": {}}']
)
def test_a_damaged_summary_is_refused(tmp_path, damage):
    (tmp_path / "summary.json").write_text(damage)
    with pytest.raises(DataError, match=r"summary\.json: is damaged"):
        read_summary(tmp_path / "summary.json")


@pytest.mark.parametrize(
    ("points", "selection", "says"),
    [
        (POINTS, None, True),
        (POINTS, CHOICE, False),
        (POINTS[:1], None, False),
        ([POINTS[0], {**POINTS[1], "metrics": None}], None, False),
        ([line("a", **{"train.seed": 0}), line("b", **{"train.seed": 1})], None, False),
        ([line("a", **{"data.hold_out": "0/2"}), line("b", **{"data.hold_out": "1/2"})], None, False),
    ],
    ids=["not chosen", "chosen", "one", "one left", "seeds", "folds"],
)
def test_candidates_that_were_not_chosen_on_other_rows_are_said(tmp_path, points, selection, says):
    write_summary(tmp_path, Summary(points=points, chosen=[], selection=selection))
    said = not_chosen(tmp_path / "summary.json")
    assert (said is not None) == says
    assert not said or said.startswith(f"2 candidates of sweep {tmp_path.name} were tried")
