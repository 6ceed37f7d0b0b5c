"""The check of a data set before any work; and data sets that are made of other people's lists."""

import re
import shlex
import shutil

import pytest
from typer.main import get_command

from helpers.cli import call
from helpers.clips import write_video
from helpers.dataset import barcode_record, numbers
from helpers.other_lists import CAMERA, make_lerobot
from helpers.paths import ROOT
from mambavl.cache import open_store
from mambavl.cli.app import app
from mambavl.extract.data_set import read_data_set
from mambavl.extract.encoders import registry
from mambavl.extract.lists.layouts import LAYOUTS


def test_a_data_set_that_is_right_is_counted(road, capsys):
    where = ("--annotations", road / "annotations", "--videos", road / "videos")
    assert call("data", "check", *where) == 0
    said = capsys.readouterr().out
    assert "8 videos, 40 segments: 0 problems" in said
    assert "frames a second: " in said


def test_what_is_missing_gives_a_line_and_exit_code_1(road, tmp_path, capsys):
    shutil.copytree(road / "videos", tmp_path / "videos")
    (tmp_path / "videos" / "P01" / "videos" / "P01_103.MP4").unlink()
    where = ("--annotations", road / "annotations", "--videos", tmp_path / "videos")
    assert call("data", "check", *where) == 1
    said = capsys.readouterr().out
    assert "P01_103: missing (" in said
    assert said.endswith("1 problems\n")


def test_the_scans_of_videos_are_kept_where_it_is_asked_for(road, tmp_path, capsys):
    where = ("--annotations", road / "annotations", "--videos", road / "videos")
    for _ in range(2):
        assert call("data", "check", *where, "--index", tmp_path / "video-index") == 0
        assert len(list((tmp_path / "video-index").iterdir())) == 1  # they are copies of one
        said = capsys.readouterr()
        assert "8 videos, 40 segments: 0 problems" in said.out
        assert "index" not in said.err


def table(folder, scale=1.0):
    """Rows of made-up actions over the toy videos, which last 6 s; lists of any columns."""
    rows = [
        ("P01_101", 0.0, 1.5, "knife", "cup"),
        ("P01_101", 2.0, 5.5, "fork", "cup plate"),
        ("P01_104", 1.0, 4.0, "knife", ""),
    ]
    lines = [f"{v},{s * scale:g},{e * scale:g},{tool},{seen}" for v, s, e, tool, seen in rows]
    (folder / "theirs.csv").write_text("\n".join(["film,from,to,tool,seen", *lines]) + "\n")
    return folder / "theirs.csv"


SAID = ("--column", "video=film", "--column", "start=from", "--column", "stop=to", "--split", "train")
LABELS = ("--target", "tool=tool", "--multi", "things=seen", "--separator", " ")


def test_a_made_up_list_becomes_rows_that_can_be_extracted(road, tmp_path, capsys):
    """From a CSV of any columns to the rows that `extract` reads, and past `data check`."""
    out = tmp_path / "ours"
    flat = tmp_path / "videos"
    flat.mkdir()
    for video in ("P01_101", "P01_104"):
        shutil.copy(road / "videos" / "P01" / "videos" / f"{video}.MP4", flat)
    options = (*SAID, *LABELS, "--unit", "seconds", "--videos", flat)
    assert call("data", "init", table(tmp_path), "--out", out, *options) == 0
    said = capsys.readouterr().out
    assert "train: 3 rows\n" in said
    assert "tool: 2 classes, one a row\nthings: 2 classes, any number a row\n" in said
    assert "note" not in said
    read = read_data_set(out, ("train",))
    assert [(row.narration_id, row.start, row.stop, row.labels) for row in read.segments] == [
        ("P01_101_0", 0.0, 1.5, {"tool": 0, "things": (0,)}),
        ("P01_101_1", 2.0, 5.5, {"tool": 1, "things": (0, 1)}),
        ("P01_104_0", 1.0, 4.0, {"tool": 0}),
    ]
    assert call("data", "check", "--annotations", out, "--videos", flat, "--split", "train") == 0
    assert "2 videos, 3 segments: 0 problems" in capsys.readouterr().out


def test_times_that_the_videos_contradict_are_refused(road, tmp_path, capsys):
    videos = ("--videos", road / "videos" / "P01" / "videos", "--unit", "seconds")
    source = table(tmp_path, scale=1000.0)
    assert call("data", "init", source, "--out", tmp_path / "ours", *SAID, *LABELS, *videos) == 1
    assert "are they milliseconds" in capsys.readouterr().err
    assert not (tmp_path / "ours").exists()


def test_durations_may_be_a_list(tmp_path, capsys):
    (tmp_path / "long.csv").write_text("video_id,duration\nP01_101,6\nP01_104,40\n")
    known = ("--durations", tmp_path / "long.csv", "--unit", "seconds")
    assert call("data", "init", table(tmp_path, 0.5), "--out", tmp_path / "a", *SAID, *LABELS, *known) == 1
    assert "add --sparse" in capsys.readouterr().err
    assert (
        call(
            "data", "init", table(tmp_path, 0.5), "--out", tmp_path / "a", *SAID, *LABELS, *known, "--sparse"
        )
        == 0
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "--unit seconds|milliseconds|clock"),
        (("--fps", "0"), "--fps 0: expected a rate above 0"),
        (("--split-as", "val=dev"), "--split-as dev: use train, validation, test"),
        (("--layout", "egtea"), "--layout egtea takes no --column"),
        (("--target", "tool"), "--target 'tool': expected NAME=COLUMN"),
        (("--without", "P09"), "--unit"),
    ],
)
def test_a_call_that_is_not_whole_says_what_to_type(tmp_path, capsys, words, said):
    assert call("data", "init", table(tmp_path), "--out", tmp_path / "ours", *SAID, *LABELS, *words) == 2
    assert said in capsys.readouterr().err


def test_episodes_in_shared_files_are_seen_where_they_lie(tmp_path, capsys, monkeypatch):
    """LeRobot's: frame n of the shared file shows n, so that what a row saw is known."""
    pytest.importorskip("pyarrow", reason="it makes the miniature")
    theirs = make_lerobot(tmp_path / "robot")
    videos = theirs / "videos" / CAMERA
    write_video(videos / "chunk-000" / "file-000.mp4", frames=100, fps=10)
    out, store = tmp_path / "ours", tmp_path / "v.zarr"
    where = ("--annotations", out, "--videos", videos)
    assert call("data", "init", theirs, "--layout", "lerobot", "--videos", videos, "--out", out) == 0
    assert "task: 2 classes, one a row" in capsys.readouterr().out
    assert call("data", "check", *where) == 0
    options = ("--set", "fit=squash", "--set", 'levels=["patch"]', "--set", "sampling.frames=2")
    monkeypatch.setitem(registry.ENCODERS, "barcode", barcode_record())
    assert call("extract", "video", *where, "--encoder", "barcode", *options, "--out", store) == 0
    tokens, _ = open_store(store).batch(range(4), "patch")
    # two frames of each row, in the middle of its halves
    assert [numbers(row) for row in tokens] == [[10, 30], [45, 55], [62, 67], [77, 92]]


def test_names_and_rates_of_columns_go_through_the_command(tmp_path, capsys):
    (tmp_path / "rows.csv").write_text(
        "v,f,t,rate,verb_id,verb\na,30,60,30,7,open\nb,30,90,15,3,put\n", encoding="utf-8"
    )
    columns = [
        word
        for pair in ("video=v", "start_frame=f", "stop_frame=t", "fps=rate")
        for word in ("--column", pair)
    ]
    labels = ("--target", "verb=verb_id", "--names", "verb=verb", "--split", "train")
    out = tmp_path / "ours"
    assert call("data", "init", tmp_path / "rows.csv", "--out", out, *columns, *labels) == 0
    assert "the length of no video is known" in capsys.readouterr().out
    read = read_data_set(out, ("train",))
    assert [(row.video_id, row.start, row.stop, row.labels) for row in read.segments] == [
        ("a", 1.0, 2.0, {"verb": 7}),
        ("b", 2.0, 6.0, {"verb": 3}),
    ]
    assert read.classes.targets["verb"].classes == {3: "put", 7: "open"}


def test_the_help_names_every_layout():
    [layout] = [
        one for one in get_command(app).commands["data"].commands["init"].params if one.name == "layout"
    ]
    assert set(LAYOUTS) <= set(re.findall(r"[a-z0-9-]+", layout.help))


def test_epic_sounds_are_read_as_the_page_says(tmp_path, monkeypatch, capsys):
    [line] = [
        one for one in (ROOT / "docs" / "data.md").read_text().splitlines() if " data init epic-sounds" in one
    ]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "epic-sounds").mkdir()
    header = (
        "annotation_id,participant_id,video_id,start_timestamp,stop_timestamp,start_sample,stop_sample,"
        "description,class,class_id\n"
    )
    rows = {
        "train": "P01_101_0,P01,P01_101,00:00:00.466,00:00:05.315,22368,255120,paper rustle,rustle,4\n",
        "validation": "P02_102_0,P02,P02_102,00:00:01.000,00:00:04.000,48000,192000,,metal collision,0\n",
    }
    for split, text in rows.items():
        (tmp_path / "epic-sounds" / f"EPIC_Sounds_{split}.csv").write_text(header + text)
    for video in ("P01_101", "P02_102"):
        write_video(tmp_path / "VIDEOS" / video[:3] / "videos" / f"{video}.MP4", frames=60, fps=10)
    assert call(*shlex.split(line)[1:]) == 0
    assert "train: 1 row\nvalidation: 1 row\nsound: 2 classes, one a row\n" in capsys.readouterr().out
    read = read_data_set(tmp_path / "sounds")
    assert [(row.narration_id, row.start, row.stop, row.labels) for row in read.segments] == [
        ("P01_101_0", 0.466, 5.315, {"sound": 4}),
        ("P02_102_0", 1.0, 4.0, {"sound": 0}),
    ]
    assert read.classes.targets["sound"].classes == {0: "metal collision", 4: "rustle"}
