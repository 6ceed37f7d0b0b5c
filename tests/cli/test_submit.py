"""`mambavl submit`, from the shell."""

import shutil

import pytest

from helpers.cli import call
from helpers.dataset import COLUMNS, stamp, write
from helpers.submissions import IDS, LEVELS, make_submittable, submission, written
from mambavl.cache import open_store
from mambavl.fuse import submitting
from mambavl.fuse.submission import examine

SLS = ("--sls-pt", 2, "--sls-tl", 3, "--sls-td", 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The runs, and EK100's files of their test rows."""
    found = make_submittable(tmp_path_factory.mktemp("submittable"))
    lists = found / "annotations"
    lists.mkdir()
    for kind, count in (("verb", 97), ("noun", 300)):
        rows = [(number, f"{kind}{number}", f"['{kind}{number}']", "any") for number in range(count)]
        write(lists / f"EPIC_100_{kind}_classes.csv", ("id", "key", "instances", "category"), rows)
        write(lists / f"EPIC_100_tail_{kind}s.csv", (kind,), [(1,)])
    rows = [row for row in open_store(found / "video.zarr").segments if row.split == "test"]
    cells = [
        (
            *(row.narration_id, row.participant_id, row.video_id, "00:00:01.000"),
            *(stamp(row.start), stamp(row.stop), 1, 2),
        )
        for row in rows
    ]
    write(lists / "EPIC_100_test_timestamps.csv", COLUMNS[:8], cells)
    write(lists / "EPIC_100_unseen_participant_ids_test.csv", ("participant_id",), [("P02",)])
    info = [(one, 60.0, 50.0, "456x256") for one in sorted({row.video_id for row in rows})]
    write(lists / "EPIC_100_video_info.csv", ("video_id", "duration", "fps", "resolution"), info)
    return found


def test_a_run_is_written_held_against_the_list_and_checked(folder, tmp_path, capsys):
    lists = ("--annotations", folder / "annotations")
    assert call("submit", folder / "pairs", *SLS, "--out", tmp_path / "s.zip", *lists) == 0
    said = capsys.readouterr().out
    assert "pairs: text protocol absent" in said
    assert (
        f"wrote 156 rows of test to {tmp_path / 's.zip'}: action_recognition, its own ranking of pairs"
        in said
    )
    assert dict(examine(tmp_path / "s.zip").levels) == LEVELS
    assert call("submit", "--check", tmp_path / "s.zip", *lists) == 0
    said = capsys.readouterr().out
    assert "action_recognition, 156 rows, with actions, sls_pt 2, sls_tl 3, sls_td 3: no fault found" in said
    assert "not held against a list" not in said
    assert call("submit", folder / "product", *SLS, "--out", tmp_path / "p.zip", *lists) == 0
    assert "no actions: they are ranked by the products" in capsys.readouterr().out


def test_the_ids_of_a_file_are_held_against_a_run_s(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(submitting.ROWS, "test", 156)
    assert call("submit", folder / "product", *SLS, "--out", tmp_path / "s.zip") == 0
    assert call("submit", folder / "product", "--check", tmp_path / "s.zip") == 0
    assert "not held against" not in capsys.readouterr().out
    assert call("submit", folder / "product", "--check", tmp_path / "s.zip", "--split", "validation") == 1
    assert "rows of the list not in the file" in capsys.readouterr().err


def test_faults_are_listed_and_end_with_1(tmp_path, capsys):
    raw = submission()
    raw["sls_pt"] = 7
    raw["results"][IDS[0]]["noun"].pop("299")
    path = written(tmp_path / "s.zip", raw)
    assert call("submit", "--check", path) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0] == f"mambavl: {path}: 2 faults in 3 rows:"
    assert {line[:8] for line in said[1:]} == {'  row "P', "  sls_pt"}
    assert call("submit", "--check", written(path, submission())) == 0
    said = capsys.readouterr().out
    assert "3 rows, no actions" in said
    assert "its rows were not held against a list; --annotations DIR --split test does that" in said
    assert call("submit", "--check", path, "--task", "anticipation") == 1
    assert 'it is "action_anticipation"' in capsys.readouterr().err


def test_wrong_calls_say_what_to_type(folder, tmp_path, capsys):
    path = written(tmp_path / "s.zip", submission())
    for words, says in (
        ((), "name a run folder, whose scores are written, or a file with --check"),
        (
            (folder / "pairs",),
            "add --sls-pt (pretraining: 2 public images and videos, 5 private data), --sls-tl",
        ),
        ((folder / "pairs", *SLS[:4]), "add --sls-td (training data"),
        (("--check", path, "--sls-pt", 2), "leave the --sls options out"),
        ((folder / "pairs", *SLS[:4], "--sls-td", 6), "equal to 5"),
        ((folder / "pairs", *SLS, "--split", "train"), "train"),
    ):
        assert call("submit", *words) == 2, words
        assert says in capsys.readouterr().err, words


def test_what_must_be_said_of_a_run_is_said(folder, tmp_path, monkeypatch, capsys):
    run = shutil.copytree(folder / "product", tmp_path / "run")
    told = (run / "result.json").read_text().replace('"text_protocol": "absent"', '"text_protocol": "oracle"')
    told = told.replace('"notice": null', '"notice": "AN UPPER BOUND [x]"')
    (run / "result.json").write_text(told)
    lists = ("--annotations", folder / "annotations")
    assert call("submit", run, *SLS, "--out", tmp_path / "s.zip", *lists) == 2
    assert "text protocol is oracle" in capsys.readouterr().err
    assert not (tmp_path / "s.zip").exists()
    monkeypatch.setitem(submitting.ROWS, "validation", 162)
    assert call("submit", run, *SLS, "--out", tmp_path / "s.zip", "--split", "validation") == 0
    said = capsys.readouterr().out
    assert "text protocol oracle" in said
    assert "AN UPPER BOUND [x]" in said
