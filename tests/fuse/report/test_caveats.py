"""What numbers do not show, said only where it is true."""

import copy
import json
import shutil
from dataclasses import replace

import pytest

from mambavl.fuse import report
from mambavl.fuse.report.caveats import Caveat, caveats
from mambavl.fuse.report.measured import measure
from mambavl.fuse.result import Selection


def said(measured, lead):
    """The texts behind a lead."""
    return [one.text for one in caveats(measured) if one.lead == lead]


@pytest.fixture
def one(page):
    """A run with oracle text, of random weights, one seed."""
    folder, _ = page
    return measure(report.collect([folder / "fused0"])[0])


def with_result(one, **changes):
    entry = replace(one.entry, results=[replace(result, **changes) for result in one.entry.results])
    return replace(one, entry=entry)


def test_oracle_text_and_history_are_called_upper_bounds(one, contest):
    [text] = said([one], "Oracle text is an upper bound.")
    assert one.entry.title in text
    assert not said([with_result(one, text_protocol="generic")], "Oracle text is an upper bound.")
    [text] = said(contest, "Oracle history is an upper bound.")
    assert all(found.entry.title in text for found in contest)
    assert not said([one], "Oracle history is an upper bound.")
    [text] = said([with_result(one, text_protocol="unknown")], "Nobody knows what the text tells.")


def with_state(one, state):
    streams = {}
    for name, stream in one.entry.first.streams.items():
        encoder = replace(stream.encoder, state=state)
        streams[name] = replace(stream, recipe=replace(stream.recipe, encoder=encoder))
    return with_result(one, streams=streams)


def test_untrained_and_unknown_weights_are_named_and_trained_ones_are_not(one):
    found = said([one], "Untrained features.")
    assert [text.partition(" has ")[0] for text in found] == [
        "Encoder fake of every entry", "Encoder fake-text of every entry",
    ]  # fmt: skip
    assert len(said([with_state(one, "unknown")], "Features of unknown origin.")) == 2
    trained = with_state(one, "pretrained")
    assert not said([trained], "Untrained features.")
    assert not said([trained], "Features of unknown origin.")


def test_other_classes_than_ek100s_are_no_ek100(one):
    [text] = said([one], "These are not EK100's classes.")
    assert text.startswith("Rows have 3 classes of verb, 4 classes of noun;")
    targets = {
        name: replace(target, classes={}, count=count)
        for (name, target), count in zip(one.classes.targets.items(), (97, 300), strict=True)
    }
    ek100 = replace(one, entry=replace(one.entry, classes=replace(one.classes, targets=targets)))
    assert not said([ek100], "These are not EK100's classes.")


def test_seeds_are_counted(one, contest):
    assert said([one], "One training each.")
    assert not said([one], "Few seeds.")
    [text] = said(contest, "Few seeds.")
    assert "Of every entry 2 seeds were trained" in text
    assert not said(contest, "One training each.")
    results = [replace(contest[0].entry.first, seed=seed) for seed in range(6)]
    six = replace(
        contest[0], entry=replace(contest[0].entry, results=results, runs=contest[0].entry.runs * 3)
    )
    assert not said([six], "Few seeds.")
    counting = with_result(one, head="counts")
    assert not said([counting], "One training each.")


def test_candidates_of_a_sweep_are_counted_and_what_was_chosen_elsewhere_is_named(contest):
    lead = "The best of many stands out by chance."
    [text] = said(contest, lead)
    assert text.startswith("sweep: 4 runs of 2 candidates, scored after 8 epochs in all, on these rows. None")
    selection = Selection(among=2, failed=0, on="train_0_of_5", by="all_verb_top1", score=1.0)
    [text] = said([with_result(contest[0], selection=selection), contest[1]], lead)
    assert f"Chosen on other rows than these: “{contest[0].entry.title}”; the others were not." in text


def test_scorings_while_training_are_counted_where_they_are_of_these_rows(one):
    lead = "These rows were looked at while training."
    [text] = said([one], lead)
    assert text.startswith("They were scored after 4 epochs of an entry at the most, 4 times in all")
    assert not said([with_result(one, split="test")], lead)


def test_training_that_these_rows_stopped_is_named(one):
    trained = replace(one.entry.first.trained, stopped=3)
    assert said([with_result(one, trained=trained)], "Stopped by the rows it is scored on.")
    assert not said([with_result(one, trained=trained, split="test")], "Stopped by the rows it is scored on.")
    assert not said([one], "Stopped by the rows it is scored on.")


def test_rows_by_the_prior_published_figures_splits_and_commits(one):
    rows = replace(one.entry.first.rows, scored_by_prior=3)
    [text] = said([with_result(one, rows=rows)], "Rows without features.")
    assert text.startswith("3 of 24 rows of “<script>")
    recipe = copy.deepcopy(one.entry.first.recipe) | {"published": {"verb": 70.9}}
    assert said([with_result(one, recipe=recipe)], "Published numbers are of another experiment.")
    assert said([one, with_result(one, split="test")], "Not one set of rows.")
    environment = replace(one.entry.first.trained.environment, commit="abc-dirty")
    dirty = with_result(one, trained=replace(one.entry.first.trained, environment=environment))
    assert said([dirty], "Made by code that nobody else has.")
    clean = replace(environment, commit="abc")
    one = with_result(one, trained=replace(one.entry.first.trained, environment=clean))
    leads = {found.lead for found in caveats([one])}
    assert not leads & {
        "Rows without features.",
        "Published numbers are of another experiment.",
        "Not one set of rows.",
        "Made by code that nobody else has.",
    }


def test_few_rows_and_few_videos_are_called_few(one, contest):
    [text] = said([one], "Few rows.")
    assert text.startswith("24 rows of 5 videos were scored")
    assert "about ±20 points" in text  # 1.96 x sqrt(0.25 / 24)
    many = with_result(one, rows=replace(one.entry.first.rows, scored=9668))
    assert not said([many], "Few rows.")
    assert said(contest, "Intervals are over videos like these.")
    assert not said(contest, "Too few videos for an interval.")
    videos = [replace(segment, video_id="P01_1") for segment in contest[0].segments]
    few = replace(contest[0], segments=videos)
    assert said([few], "Too few videos for an interval.")
    assert not said([few], "Intervals are over videos like these.")
    lost = replace(contest[0], segments=None, why="its store is gone")
    assert said([lost, lost], "No intervals, no participants.") == ["its store is gone."]


def test_a_number_that_its_scores_do_not_give_is_told(one, page, tmp_path):
    lead = "A number that its scores do not give."
    assert not said([one], lead)
    folder, _ = page
    run = shutil.copytree(folder / "fused0", tmp_path / "run")
    raw = json.loads((run / "result.json").read_text())
    true = raw["metrics"]["all_noun_top1"]
    raw["metrics"]["all_noun_top1"] = true + 1
    (run / "result.json").write_text(json.dumps(raw))
    [text] = said([measure(*report.collect([run]))], lead)
    assert f"result.json says {true + 1:.2f} for noun top-1, the scores beside it give {true:.2f}" in text


def test_what_is_known_besides_comes_first(one):
    known = Caveat("It is a toy.", "Rendered.")
    assert caveats([one], [known])[0] is known
