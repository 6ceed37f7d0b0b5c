"""Pairs of entries that differ in one setting."""

import copy
from dataclasses import replace

import pytest

from helpers.tiny import tiny_recipe
from mambavl.fuse import report
from mambavl.fuse.report.controls import controls, setting_apart
from mambavl.fuse.report.intervals import Intervals
from mambavl.fuse.report.measured import measure
from mambavl.fuse.train import train

COLUMNS = [("action top-1", "all_action_top1")]


@pytest.fixture
def entry(page):
    folder, _ = page
    return report.collect([folder / "fused0"])[0]


def changed(entry, **keys):
    """The entry with other keys of its recipe, by `section__key`; None takes a key away."""
    recipe = copy.deepcopy(entry.first.recipe)
    for key, value in keys.items():
        section, _, name = key.partition("__")
        part = recipe.setdefault(section, {})
        if value is None:
            part.pop(name)
        else:
            part[name] = value
    return replace(entry, results=[replace(entry.first, recipe=recipe, head=recipe["head"]["name"])])


def test_one_setting_is_named_with_both_values_and_two_are_none(entry):
    assert setting_apart(entry, changed(entry, head__dropout=0.5)) == ("head.dropout", "0.1", "0.5")
    assert setting_apart(entry, changed(entry, head__dropout=0.5, train__lr=0.1)) is None
    assert setting_apart(entry, changed(entry, train__seed=9)) is None
    assert setting_apart(entry, entry) is None


def test_a_head_with_all_that_is_its_own_is_one_setting(entry):
    mlp = changed(entry, head__name="mlp", train__lr_ssm=None)
    mlp.first.recipe.pop("fusion")
    assert setting_apart(entry, mlp) == ("head", "mambavl", "mlp")
    assert setting_apart(entry, changed(mlp, head__dropout=0.5)) is None


def test_keys_that_two_heads_share_are_settings_of_their_own(entry):
    other = changed(entry, head__name="bidirectional")
    assert setting_apart(entry, other) == ("head", "mambavl", "bidirectional")
    assert setting_apart(entry, changed(other, fusion__d_state=8)) is None


def test_streams_more_or_fewer_are_one_setting_and_others_in_their_place_are_none(entry):
    streams = entry.first.streams
    recipe = copy.deepcopy(entry.first.recipe)
    del recipe["streams"]["noun_question"]
    fewer = {name: one for name, one in streams.items() if name != "noun_question"}
    other = replace(entry, results=[replace(entry.first, streams=fewer, recipe=recipe)])
    assert setting_apart(other, entry) == (
        "streams", "video, verb_question", "video, verb_question, noun_question",
    )  # fmt: skip
    recipe = copy.deepcopy(entry.first.recipe)
    del recipe["streams"]["verb_question"]
    fewer = {name: one for name, one in streams.items() if name != "verb_question"}
    third = replace(entry, results=[replace(entry.first, streams=fewer, recipe=recipe)])
    assert setting_apart(other, third) is None


def test_what_streams_tell_is_one_setting_and_goes_with_no_other(entry):
    moved = {name: replace(one, store_ids=("ff",)) for name, one in entry.first.streams.items()}
    other = replace(entry, results=[replace(entry.first, streams=moved)])
    assert setting_apart(entry, other)[0] == "what streams tell"
    assert setting_apart(entry, changed(other, head__dropout=0.5)) is None
    recipe = copy.deepcopy(entry.first.recipe)
    recipe["streams"]["video"]["last"] = 2
    shorter = replace(entry, results=[replace(entry.first, recipe=recipe)])
    assert setting_apart(entry, shorter)[0] == "what streams tell"


def test_sharing_is_told_of_what_shares_whichever_comes_first(stores, tmp_path):
    recipe = tiny_recipe(stores, title="shares", epochs=1)
    apart = recipe.model_copy(
        update={"title": "apart", "fusion": recipe.fusion.model_copy(update={"share": "none"})}
    )
    train(apart, tmp_path / "apart")
    train(recipe, tmp_path / "shares")
    first, second = report.collect([tmp_path / "apart", tmp_path / "shares"])
    table, [said] = controls([measure(first), measure(second)], COLUMNS, Intervals(draws=50))
    [row] = table.rows
    assert [cell.text for cell in row.cells[:3]] == ["fusion.share: A against none", "shares", "apart"]
    key = "all_action_top1"
    worth = second.mean(key) - first.mean(key)
    assert row.cells[3].value == pytest.approx(worth)
    assert said.startswith(f"Sharing A is worth {worth:+.1f} points of action top-1 here")


def test_differences_have_intervals_and_seeds(contest):
    made = Intervals(draws=50)
    key = "all_verb_top1"
    scored = []
    for one, value in zip(contest, (80.0, 30.0), strict=True):
        results = [replace(result, metrics={key: value}) for result in one.entry.results]
        scored.append(replace(one, entry=replace(one.entry, results=results)))
    table, said = controls(scored, [("verb top-1", key)], made)
    assert not said
    [row] = table.rows
    assert row.cells[3].value == -50
    assert row.cells[0].text == "train.lr: 0.001 against 0.01"
    interval = made.difference(contest[1], contest[0], key)
    assert row.cells[3].text.endswith(f"({interval.low:+.1f} to {interval.high:+.1f})")
    assert row.cells[4].text == "0, 1"


def test_of_several_values_each_stands_beside_the_first(contest):
    one, other = contest
    recipe = changed(other.entry, train__lr=0.5).first.recipe
    results = [replace(result, recipe=recipe) for result in other.entry.results]
    third = replace(other, entry=replace(other.entry, results=results))
    table, _ = controls([one, other, third], [("verb top-1", "all_verb_top1")], Intervals(draws=50))
    assert [row.cells[0].text for row in table.rows] == [
        "train.lr: 0.001 against 0.01",
        "train.lr: 0.5 against 0.01",
    ]


def test_other_seeds_and_other_rows_have_no_difference(contest):
    one, other = contest
    results = [replace(result, seed=result.seed + 7) for result in other.entry.results]
    moved = replace(other, entry=replace(other.entry, results=results))
    table, [said] = controls([one, moved], [("verb top-1", "all_verb_top1")], Intervals(draws=50))
    assert table is None
    assert said.endswith("differ in train.lr alone, but their seeds do not pair: [7, 8] and [0, 1].")
    seen = tuple(replace(found, ids=found.ids[::-1]) for found in other.seen)
    table, [said] = controls([one, replace(other, seen=seen)], [("verb top-1", "all_verb_top1")], Intervals())
    assert said.endswith("but they are scored on other rows or labels.")
