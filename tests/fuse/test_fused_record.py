"""What a result says of a mixture, out and in."""

import json
from dataclasses import replace

import pytest

from helpers.mixing import mixed
from mambavl.configs.errors import DataError
from mambavl.fuse.fused import Choice
from mambavl.fuse.fused_record import Fused, FusedInput
from mambavl.fuse.run import read_result

CHOICE = Choice(weights=(1.0,), exponent=0.5, recall5=12.34, among=5, equal=3, rows=1200)
RECORD = Fused(
    rule="loglinear",
    inputs=(FusedInput(run="a", title="A", sha256="1", held_run="h", held_sha256="2"),),
    on="train_0_of_5",
    participants=("P01", "P02"),
    known=("P02",),
    chosen={"verb": CHOICE},
)


def test_a_choice_is_said_with_its_rows_and_its_ties():
    assert RECORD.in_words == [
        "loglinear mixture of A",
        "chosen on other videos of participants that were trained on, too: P02",
        "verb: weights 1, exponent 0.5, chosen among 5 on train_0_of_5, by class-mean recall@5 (12.3 there, "
        "1,200 rows); 2 others are as good, the first was taken",
    ]


def test_a_rule_without_an_exponent_does_not_name_one():
    one = replace(RECORD, rule="rrf", known=(), per=("verb",))
    assert one.in_words[1].startswith("verb: weights 1, chosen among 5 on train_0_of_5")
    assert Fused.from_dict(json.loads(json.dumps(one.to_dict()))) == one


def test_runs_weigh_alike_where_nothing_was_chosen():
    two = replace(RECORD, inputs=RECORD.inputs * 2, chosen={"verb": CHOICE, "noun": CHOICE})
    chosen = {"verb": replace(CHOICE, weights=(0.2, 0.8)), "noun": replace(CHOICE, weights=(0.6, 0.4))}
    two = replace(two, chosen=chosen)
    assert [two.weights(name) for name in ("verb", "noun", "action")] == [(0.2, 0.8), (0.6, 0.4), (0.5, 0.5)]


def test_mixtures_are_the_same_by_rule_scores_and_what_is_chosen_for():
    others = [replace(RECORD, rule="mean"), replace(RECORD, per=("verb",)), replace(RECORD, inputs=())]
    assert replace(RECORD, chosen={}).sources == RECORD.sources
    assert all(one.sources != RECORD.sources for one in others)


def test_a_record_of_another_kind_is_refused():
    raw = json.loads(json.dumps(RECORD.to_dict()))
    assert Fused.from_dict(raw) == RECORD
    for spoilt in ({}, {**raw, "inputs": [{"run": "a"}]}, {**raw, "chosen": 3}, {**raw, "more": 1}):
        with pytest.raises(ValueError, match="fused is damaged"):
            Fused.from_dict(spoilt)


def test_a_record_is_read_as_it_was_written(mixable, tmp_path):
    mixed(mixable, tmp_path / "out")
    raw = json.loads((tmp_path / "out" / "result.json").read_bytes())
    assert read_result(tmp_path / "out").to_dict() == raw
    del raw["fused"]["inputs"][0]["sha256"]
    (tmp_path / "out" / "result.json").write_text(json.dumps(raw))
    with pytest.raises(DataError, match=r"is damaged \(fused is damaged"):
        read_result(tmp_path / "out")
