"""Trained probes: what they need, what they find, what they leave out."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.toyaudit import CLEAN, DATA, toy_rows, write
from helpers.toyclasses import NOUNS, annotations
from mambavl.configs.errors import UsageError
from mambavl.extract.questions.audit import audit
from mambavl.extract.questions.audit_rows import Rows
from mambavl.extract.questions.probes import probe


def test_the_probes_need_scikit_learn_and_say_so(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    with pytest.raises(UsageError, match=r"pip install -e '\.\[audit\]'"):
        audit([write(tmp_path / "q.jsonl")], DATA)
    audit([tmp_path / "q.jsonl"], DATA, forms_only=True)


def test_pairs_that_mostly_have_one_row_are_fitted_without_a_warning(tmp_path):
    rows = toy_rows(60)
    own = [
        replace(row.labelled(noun=list(NOUNS).index(row.noun)), noun=f"thing{n}")
        for n, row in enumerate(rows)
    ]
    result = audit([write(tmp_path / "q.jsonl", CLEAN[:60])], annotations(segments=tuple(own)))["files"][0]
    fit = result["probes"]["tf-idf"]["fits"]["action"]
    assert fit["classes"] == len({(s.verb, s.noun_class) for s in own if s.split == "train"})
    assert fit["converged"]


class LetterCounts:
    """A text encoder whose states are one-hot letters."""

    name, width = "letters", 26

    def tokenize(self, text):
        return [ord(letter) - ord("a") for letter in text.lower() if "a" <= letter <= "z"]

    def encode(self, ids, levels):
        assert levels == ("last_hidden",)
        return {"last_hidden": [torch.eye(26)[row] for row in ids]}


def test_an_encoder_s_mean_states_tell_what_a_question_says():
    rows = Rows(list(DATA.segments), [])
    said = [
        replace(q, verb_question=s.verb, noun_question="") for s, q in zip(rows.segments, CLEAN, strict=True)
    ]
    rows = Rows(rows.segments, said)
    steps = []
    found = probe(Path("q"), rows.half(True), rows.half(False), LetterCounts(), 0, 0, steps.append)
    assert list(found) == ["tf-idf", "letters"]
    assert found["letters"]["top1"]["verb"]["percent"] == 100
    assert found["letters"]["top1"]["noun"]["percent"] < 40  # six nouns, of which nothing is said
    assert found["letters"]["features"] == 52
    assert "action_direct" in found["tf-idf"]["top1"]
    assert "action_direct" not in found["letters"]["top1"]
    assert steps[-1] == "q: encoder probe, noun"


def test_a_sample_of_the_train_rows_is_drawn_by_its_seed():
    rows = Rows(list(DATA.segments), CLEAN)
    train, test = rows.half(True), rows.half(False)
    one, same, other = (probe(Path("q"), train, test, None, 60, seed, str)["tf-idf"] for seed in (0, 0, 1))
    assert one["train_rows"] == 60
    assert one == same
    assert one["features"] != other["features"]
