"""Questions from the shell: audited, and imported from others."""

import json

from helpers.cli import call
from mambavl.extract.questions import read_questions


def test_an_audit_of_forms_writes_a_page_and_numbers(road, tmp_path, capsys):
    page, numbers = tmp_path / "a" / "audit.html", tmp_path / "n.json"
    words = ("questions", "audit", road / "q.jsonl", "--annotations", road / "annotations", "--forms-only")
    assert call(*words, "--out", page, "--json", numbers) == 0
    said = capsys.readouterr().out
    assert "0 of 40 rows say their own verb or noun" in said
    assert f"wrote {page} and {numbers}" in said
    assert json.loads(numbers.read_text())["rows"] == 40
    assert page.stat().st_size > 1_000
    assert call(*words, "--out", tmp_path) == 2
    assert "is a folder; name the file to write" in capsys.readouterr().err


def test_a_probe_wants_a_text_encoder(road, tmp_path, capsys):
    words = ("questions", "audit", road / "q.jsonl", "--annotations", road / "annotations")
    words += ("--out", tmp_path / "audit.html")
    assert call(*words, "--weights", "random") == 2
    assert "name it with --encoder" in capsys.readouterr().err
    assert call(*words, "--encoder", "timm:test_resnet", "--weights", "random") == 2
    assert "reads video; a probe reads text" in capsys.readouterr().err


def write_theirs(road, path, verb):
    names = list(read_questions(road / "q.jsonl"))
    path.write_text("uid,verb_question,noun_question\n" + "".join(f"{n},{verb},What is it?\n" for n in names))


def test_questions_of_others_are_imported_by_their_columns(road, tmp_path, capsys):
    write_theirs(road, tmp_path / "theirs.csv", "What is done?")
    words = ("questions", "import", tmp_path / "theirs.csv", "--annotations", road / "annotations")
    words += ("--protocol", "generic", "--out", tmp_path / "q.jsonl")
    assert call(*words, "--column", "narration_id") == 2
    assert "expected OURS=THEIRS, for example --column narration_id=uid" in capsys.readouterr().err
    assert call(*words, "--column", "narration_id=uid") == 0
    assert "wrote 40 question pairs (generic protocol, imported)" in capsys.readouterr().out
    assert len(read_questions(tmp_path / "q.jsonl")) == 40


def test_questions_that_leak_are_written_on_demand_alone(road, tmp_path, capsys):
    write_theirs(road, tmp_path / "theirs.csv", "Does she wash or cut or take it?")
    words = ("questions", "import", tmp_path / "theirs.csv", "--annotations", road / "annotations")
    words += ("--protocol", "oracle", "--column", "narration_id=uid", "--out", tmp_path / "q.jsonl")
    assert call(*words) == 1
    said = capsys.readouterr()
    assert "rows leak; nothing was written" in said.err
    assert "verb_question says its verb" in said.out
    assert not (tmp_path / "q.jsonl").exists()
    assert call(*words, "--allow-leaks") == 0
    assert (tmp_path / "q.jsonl").exists()
