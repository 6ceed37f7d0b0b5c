"""The audit of whole files: leaks are counted, silence tells nothing, and what cannot be audited is named."""

import json
from dataclasses import replace

import pytest

from helpers.cli import call
from helpers.dataset import make_dataset
from helpers.toyaudit import CLEAN, DATA, toy_rows, write
from helpers.toyclasses import annotations
from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.encoders.base import VideoEncoder
from mambavl.extract.questions.audit import audit


def test_a_planted_leak_is_counted_per_class_and_found_by_the_probe(toy_audit):
    clean, leaking, _, _ = toy_audit[0]["files"]
    rows = len(DATA.segments)
    assert clean["survivors"]["rows"] == 0
    assert (
        leaking["survivors"]["rows"],
        leaking["survivors"]["verb_rows"],
        leaking["survivors"]["noun_rows"],
    ) == (rows, rows, 0)
    assert all(c["leaking"] == c["rows"] for c in leaking["survivors"]["by_class"]["verb"].values())
    assert leaking["survivors"]["by_question"]["verb_question says the verb"] == rows
    probe = leaking["probes"]["tf-idf"]
    assert probe["top1"]["verb"]["percent"] == 100
    assert leaking["prior"]["verb"]["percent"] < 60
    assert all(fit["converged"] for fit in probe["fits"].values())


def test_where_nothing_is_said_nothing_is_found(toy_audit):
    for file in toy_audit[0]["files"][2:]:
        for guess in (file["probes"]["tf-idf"]["top1"], file["reader"]["top1"]):
            for target in ("verb", "noun"):
                assert guess[target] == file["prior"][target], (file["protocol"], target)
        assert file["hints"]["verb_question"] == {"rows_with_hint": 0, "distinct": 0, "entropy_bits": 0.0}
        assert file["masks"]["noun_question"]["0"] == 100


def test_entropy_and_mask_counts_by_hand(tmp_path):
    rows = toy_rows(4)
    one, two = {"verb_question": "a", "noun_question": None}, {"verb_question": "b", "noun_question": None}
    questions = [
        replace(q, hint=hint, verb_question="<mask> " * n)
        for q, hint, n in zip(CLEAN, (one, two, one, two), (0, 1, 2, 7), strict=False)
    ]
    result = audit([write(tmp_path / "q.jsonl", questions)], annotations(segments=rows), forms_only=True)[
        "files"
    ][0]
    assert result["hints"]["verb_question"] == {"rows_with_hint": 4, "distinct": 2, "entropy_bits": 1.0}
    assert result["hints"]["noun_question"]["rows_with_hint"] == 0
    assert result["masks"]["verb_question"] == {"0": 25, "1": 25, "2": 25, "3": 0, "4+": 25}
    assert "prior" not in result


def test_files_that_cannot_be_audited_say_why(tmp_path):
    path = write(
        tmp_path / "q.jsonl", [q for q, s in zip(CLEAN, DATA.segments, strict=True) if s.split == "train"]
    )
    with pytest.raises(DataError, match=r"covers 384 train and 0 other rows.*--forms-only"):
        audit([path], DATA)
    assert audit([path], DATA, forms_only=True)["files"][0]["rows_without_question"] == 96
    with pytest.raises(DataError, match=r"1 rows are not in toy \(P09_1_1\)"):
        audit([write(tmp_path / "r.jsonl", [*CLEAN, replace(CLEAN[0], narration_id="P09_1_1")])], DATA)
    with pytest.raises(UsageError, match="named twice"):
        audit([path, path], DATA)


def test_the_command_writes_page_and_numbers_and_fails_on_a_leak(tmp_path, capsys):
    data = make_dataset(tmp_path)
    where = ("--annotations", data / "annotations")
    for protocol in ("oracle", "generic"):
        assert (
            call(
                "questions",
                "generate",
                *where,
                "--protocol",
                protocol,
                "--out",
                tmp_path / f"{protocol}.jsonl",
            )
            == 0
        )
    both = (
        tmp_path / "oracle.jsonl",
        "--against",
        tmp_path / "generic.jsonl",
        "--out",
        tmp_path / "a.html",
        "--json",
        tmp_path / "a.json",
    )
    assert call("questions", "audit", *both, *where) == 0
    numbers_found = json.loads((tmp_path / "a.json").read_text())
    assert [file["protocol"] for file in numbers_found["files"]] == ["oracle", "generic"]
    said = capsys.readouterr().out
    assert "0 of 20 rows say their own verb or noun" in said
    assert "a.html" in said
    text = (tmp_path / "oracle.jsonl").read_text().replace("<mask>", "cutting", 1)
    (tmp_path / "oracle.jsonl").write_text(text)
    assert call("questions", "audit", *both, *where, "--forms-only") == 1
    assert call("questions", "audit", *both, *where, "--weights", "x") == 2


def test_an_encoder_that_reads_no_text_is_refused_before_any_work(tmp_path):
    with pytest.raises(UsageError, match="encoder VideoEncoder reads no text; name a text encoder, such as"):
        audit([tmp_path / "q.jsonl"], DATA, encoder=VideoEncoder())
