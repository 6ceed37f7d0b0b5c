"""What lists, videos and question files tell a report, from the command to the page."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from helpers.cli import call
from helpers.clips import write_video
from helpers.dataset import make_dataset
from helpers.reported import write_run
from helpers.tiny import make_segments
from mambavl.configs.errors import DataError
from mambavl.extract.annotations import read_annotations
from mambavl.extract.questions import generate, write_questions
from mambavl.extract.video_folder import VideoFolder
from mambavl.told import read_told, splits_scored, strips_of, told_of

ROW = make_segments(1)[0]


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory):
    """A toy data set with questions, and runs that were scored on its 15 train rows, of three videos, and on
    its five validation rows.
    """
    folder = tmp_path_factory.mktemp("told")
    make_dataset(folder, videos=4)
    lists = read_annotations(folder / "annotations")
    write_questions(folder / "q.jsonl", generate(lists, "generic"))
    rng, targets = np.random.default_rng(0), lists.classes.targets
    for split in ("train", "validation"):
        rows = [one for one in lists.segments if one.split == split]
        scores = {name: rng.normal(size=(len(rows), targets[name].count)) for name in targets}
        labels = {name: np.array([row.labels[name] for row in rows]) for name in targets}
        ids = [row.narration_id for row in rows]
        write_run(folder / split, lists.classes, ids, scores, labels, split=split)
    return folder


def test_the_command_shows_pictures_and_questions_of_the_rows(kitchen, capsys):
    lists, page = kitchen / "annotations", kitchen / "r.html"
    asked = ("--questions", kitchen / "q.jsonl")
    asked += ("--annotations", lists, "--videos", kitchen / "videos", "--clips", "2")
    assert call("report", kitchen / "validation", "--out", page, *asked) == 0
    assert "2 of 5 rows have pictures" in page.read_text()
    assert call("report", kitchen / "validation", "--out", page, "--annotations", lists) == 0
    assert "No row has pictures" in page.read_text()
    assert "only the scores are known" not in page.read_text()
    assert call("report", kitchen / "validation", "--out", page) == 0
    assert "Of 5 rows of validation only the scores are known" in page.read_text()
    capsys.readouterr()
    assert call("report", kitchen / "validation", "--out", page, "--clips", "2") == 2
    assert "name their folder with --videos" in capsys.readouterr().err
    assert call("report", kitchen / "validation", "--out", page, "--videos", kitchen / "videos") == 1
    assert "name their lists with --annotations" in capsys.readouterr().err


def test_one_unreadable_video_costs_its_pictures_and_is_named(kitchen, tmp_path, capsys):
    videos = shutil.copytree(kitchen / "videos", tmp_path / "videos")
    [broken] = videos.rglob("P01_102.MP4")
    broken.write_bytes(b"cut")
    page = tmp_path / "r.html"
    asked = ("--annotations", kitchen / "annotations", "--videos", videos)
    assert call("report", kitchen / "train", "--out", page, *asked) == 0
    said = capsys.readouterr().err
    assert f"no pictures of 5 rows: {broken}" in said
    text = page.read_text()
    assert "10 of 15 rows have pictures" in text
    assert "5 rows should have some and have none" in text
    assert str(broken) in text


def test_rows_are_those_of_the_splits_that_were_scored(kitchen, tmp_path):
    assert splits_scored([kitchen / "validation"]) == ("validation",)
    assert {
        one.split for one in read_told([kitchen / "validation"], kitchen / "annotations").segments.values()
    } == {"validation"}
    assert splits_scored([tmp_path / "none"]) == ("train", "validation")
    held = tmp_path / "held"
    shutil.copytree(kitchen / "validation", held)
    text = (held / "result.json").read_text()
    (held / "result.json").write_text(text.replace('"validation"', '"train_0_of_5"'))
    assert splits_scored([held]) == ("train",)
    assert splits_scored([held, kitchen / "validation"]) == ("train", "validation")


def test_questions_are_told_by_row_and_by_how_they_were_made(kitchen):
    [found] = told_of(None, (), [kitchen / "q.jsonl"]).questions
    assert (found.protocol, found.backend) == ("generic", "template")
    assert set(found.texts) == {"verb_question", "noun_question"}
    assert len(found.texts["verb_question"]) == 20


def test_a_folder_without_any_of_the_videos_is_a_mistake(tmp_path):
    (tmp_path / "videos").mkdir()
    with pytest.raises(DataError, match=r"of 1 video that the page is to show none is there.*expected"):
        strips_of([(ROW, [0.0])], VideoFolder((tmp_path / "videos",)))
    with pytest.raises(DataError, match="no such folder"):
        told_of(None, [tmp_path / "nowhere"])


def test_a_video_that_is_there_twice_or_not_at_all_costs_its_own_pictures(tmp_path, capsys):
    rows = [replace(ROW, narration_id=name, video_id=name) for name in ("once", "twice", "never")]
    for name in ("once.mp4", "twice.mp4", "twice.mkv"):
        write_video(tmp_path / name)
    found = strips_of([(row, [0.5]) for row in rows], VideoFolder((tmp_path,)))
    assert isinstance(found["once"], bytes)
    assert "keep one of them" in found["twice"]
    assert found["never"] == "never: its video is not there"
    assert capsys.readouterr().err.count("no pictures of 1 row: ") == 2
    wanted = [(row, [0.5]) for row in (rows[0], rows[2])]
    assert strips_of(wanted, VideoFolder((tmp_path,)))["once"] == found["once"]  # one of two is enough
