"""From rows to requests and back: which rows share one, which are refused, what is attached."""

import pytest

from helpers.dataset import make_dataset
from helpers.llm_runs import ROWS, TWICE, run, settings
from helpers.toyclasses import annotations
from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.annotations import read_annotations
from mambavl.extract.questions import read_questions
from mambavl.extract.questions.llm.generate import generate_with_llm, write_outcome


def test_each_distinct_narration_is_asked_once_and_serves_all_its_rows(server, tmp_path):
    found = run(server, tmp_path, rows=TWICE)
    assert not found.written.failures
    assert [q.narration_id for q in found.written.questions] == [row.narration_id for row in TWICE]
    assert len(server.lines()) == found.tally.calls == 12  # 6 descriptions, 6 pairs
    write_outcome(tmp_path / "q.jsonl", found.written, settings(server))
    questions = read_questions(tmp_path / "q.jsonl")
    one, other = questions["P01_01_0"], questions["P01_02_0"]
    assert one.verb_question == other.verb_question
    assert (one.protocol, one.backend, one.prompt_version) == ("oracle", "llm:good", "describe-1+ask-1")
    assert one.hint == {"verb_question": None, "noun_question": None}
    assert 'model = "good"' in (tmp_path / "q.jsonl.toml").read_text()


def test_rows_without_labels_and_other_protocols_are_refused(server, tmp_path):
    bare = ROWS[0].labelled(verb=None)
    with pytest.raises(DataError, match="P01_01_0: has no verb and noun class"):
        run(server, tmp_path, rows=[bare])
    with pytest.raises(UsageError, match="makes no 'generic' questions"):
        generate_with_llm(annotations(), ROWS, settings(server), tmp_path, protocol="generic")


def test_frames_of_the_clip_are_attached_row_by_row_and_only_when_asked(server, tmp_path):
    folder = make_dataset(tmp_path / "data", videos=2)
    read = read_annotations(folder / "annotations")
    knobs = settings(server, frames=3, frame_side=64, structured="none")
    found = generate_with_llm(read, read.segments, knobs, tmp_path / "cache", videos=folder / "videos")
    assert not found.written.failures
    pictured = [line for line in server.lines() if line["images"]]
    assert len(pictured) == len(read.segments) == 10
    assert {line["images"] for line in pictured} == {3}
    (folder / "videos").rename(folder / "elsewhere")  # what is answered needs no video any more
    (folder / "videos").mkdir()
    again = generate_with_llm(read, read.segments, knobs, tmp_path / "cache", videos=folder / "videos")
    assert (again.tally.calls, len(again.written.questions)) == (0, 10)
    lost = generate_with_llm(
        read, read.segments, settings(server, frames=2), tmp_path / "cache", videos=folder / "videos"
    )
    assert all("no frames: P01_10" in reason for reason in lost.written.failures.values())
    assert lost.ledger.spent == pytest.approx(found.ledger.spent)
    with pytest.raises(UsageError, match="frames go with videos"):
        generate_with_llm(read, read.segments, settings(server, frames=2), tmp_path / "cache")
