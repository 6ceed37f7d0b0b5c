"""docs/anydata.md: each of its sequences is run, command by command as it stands there, on miniatures."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from helpers import hf
from helpers.cli import call
from helpers.clips import write_video
from helpers.dataset import make_dataset
from helpers.foreign_lists import FRAME_LABELS, HD_EPIC_ROWS, make_frame_labels, make_hd_epic
from helpers.paths import ROOT
from helpers.sounds import ramp, save_audio, write_sound
from mambavl.cache import open_store
from mambavl.fuse.run import read_result

PAGE = (ROOT / "docs" / "anydata.md").read_text()
FENCE = re.compile(r"(?:`([\w.-]+)`:\n\n)?^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def follow(heading: str) -> None:
    """What a reader does who takes a section word for word: write each file that it shows, type each line."""
    [section] = [part for part in PAGE.split("\n## ") if part.startswith(heading)]
    commands = 0
    for name, language, text in FENCE.findall(section):
        if language:
            assert name, f"a block of {language} without the name of its file"
            Path(name).write_text(text)
            continue
        for line in text.splitlines():
            program, *words = shlex.split(line)
            assert program == "mambavl"
            assert call(*words) == 0, line
            commands += 1
    assert commands >= 5


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """An empty folder to work in, with tiny encoders under the names of the page."""
    monkeypatch.chdir(tmp_path)
    hf.save(tmp_path / "models" / "dinov2-small", hf.image_model("dinov2"), hf.square("BitImageProcessor"))
    save_audio(tmp_path / "models" / "wav2vec2-base", "wav2vec2")
    return tmp_path


def test_a_csv_with_three_labels_one_of_many_and_sound(desk, capsys):
    for name in ("a1", "a2", "b1", "c1"):
        write_sound(desk / "videos" / f"{name}.mp4", ramp(), codec="aac")
    follow("Your own rows")
    said = capsys.readouterr().out
    assert "train: 7 rows\nvalidation: 3 rows\n" in said
    assert "seen: 2 classes, any number a row\n" in said
    assert "4 videos, 10 segments: 0 problems\n" in said
    result = read_result(desk / "runs" / "kitchen")
    assert result.targets == ("tool", "grip", "place", "seen")
    assert result.text_protocol == "absent"
    assert {"all_tool_top1", "all_grip_top1", "all_place_top1", "all_seen_map"} <= result.metrics.keys()
    assert result.rows.scored == 3
    page = (desk / "kitchen.html").read_text()
    assert "kitchen, picture and sound" in page
    assert all(word in page for word in ("tool", "grip", "place", "seen"))
    second = open_store("stores/kitchen-audio.zarr").segments[1]
    assert (second.start, second.stop, second.labels) == (
        1.5,
        3.0,
        {"tool": 1, "grip": 1, "place": 0, "seen": (1,)},
    )


def test_labels_a_frame_and_features_with_channels_first(desk, capsys):
    """What a row is given is step by step that of its labels: the features are the number of the frame."""
    make_frame_labels(desk / "gtea")
    (desk / "gtea" / "features").mkdir()
    for video, labels in FRAME_LABELS.items():
        write_video(desk / "gtea" / "videos" / f"{video}.mp4", frames=len(labels), fps=15)
        steps = np.arange(len(labels), dtype=np.float32)
        np.save(desk / "gtea" / "features" / f"{video}.npy", np.stack([steps, -steps, steps / 7, 0 * steps]))
    follow("Labels a frame")
    said = capsys.readouterr().out
    assert "3 classes, one a row" in said
    assert "arrays of gtea/features are read as (D, steps), as the lengths of the videos tell\n" in said
    store = open_store("stores/gtea.zarr")
    assert store.spec.recipe.imported.more["channels_first"] is True
    tokens, _ = store.batch(range(len(store)), "frame")
    for segment, frames in zip(store.segments, tokens[..., 0].tolist(), strict=True):
        shown = {FRAME_LABELS[segment.video_id][int(frame)] for frame in frames}
        names = store.classes.targets["action"].classes
        assert shown == {names[segment.labels["action"]]}
    assert read_result(desk / "runs" / "gtea").rows.scored == 2
    assert "gtea, I3D" in (desk / "gtea.html").read_text()


def ek100_run(desk: Path) -> None:
    """A head of EK100's lists on features of the page's recipe: the two verbs and nouns of the miniature."""
    make_dataset(desk / "ek", videos=3)
    shutil.copytree(desk / "ek" / "annotations", desk / "EK100")
    encoder = ("--encoder", "hf:models/dinov2-small")
    where = ("--annotations", "EK100", "--videos", desk / "ek" / "videos", "--out", "stores/ek100.zarr")
    assert call("extract", "video", *where, *encoder, "--set", "sampling.frames=4") == 0
    recipe = (
        '[streams.video]\nstore = "stores/ek100.zarr"\n[head]\nd_model = 16\n[train]\nepochs = 1\n'
        "warmup_epochs = 0\nbatch_size = 8\n"
    )
    (desk / "ek100.toml").write_text(recipe)
    assert call("train", "ek100.toml", "--out", "runs/ek100") == 0


def test_hd_epic_with_a_head_of_its_own_and_with_one_of_ek100(desk, capsys):
    pytest.importorskip("pandas", reason="it makes the miniature")
    ek100_run(desk)
    theirs = desk / "hd-epic" / "narrations-and-action-segments"
    rows = [
        {**HD_EPIC_ROWS[0], "verbs": ["cut", "put"], "verb_classes": [0, 2], "main_action_classes": [(0, 0)]},
        {
            **HD_EPIC_ROWS[1],
            "verbs": ["wash", "wash"],
            "verb_classes": [1, 1],
            "main_action_classes": [(2, 1)],
        },
        {**HD_EPIC_ROWS[2], "verbs": ["cut"], "verb_classes": [0], "main_action_classes": [(0, 2)]},
    ]
    nouns = {0: ["onion", "cup"], 1: ["cup", "onion"], 2: ["jar"]}
    ids = {"onion": 0, "cup": 1, "jar": 2}
    for place, words in nouns.items():
        rows[place].update(nouns=words, noun_classes=[ids[word] for word in words])
    make_hd_epic(theirs, rows)
    header = "id,key,instances,category\n"
    (theirs / "HD_EPIC_verb_classes.csv").write_text(
        f"{header}0,cut,['cut'],a\n1,wash,['wash'],b\n2,put,['put'],c\n"
    )
    (theirs / "HD_EPIC_noun_classes.csv").write_text(
        f"{header}0,onion,['onion'],a\n1,cup,['cup'],b\n2,jar,['jar'],c\n"
    )
    for video, seconds in (("P01-20240101-101010", 10), ("P02-20240202-090909", 8)):
        write_video(desk / "hd-epic" / "Videos" / video[:3] / f"{video}.mp4", frames=seconds * 10, fps=10)
    before = (desk / "runs" / "ek100" / "result.json").read_bytes()
    follow("HD-EPIC, with a head")
    said = capsys.readouterr().out
    assert "1 row of 3 have a verb that EK100/EPIC_100_verb_classes.csv does not list" in said
    assert "1 row of 3 have a noun that EK100/EPIC_100_noun_classes.csv does not list" in said
    assert read_result(desk / "runs" / "hd-epic").targets == ("verb", "noun", "verbs", "action")
    assert "HD-EPIC, picture alone" in (desk / "hd-epic.html").read_text()
    assert (desk / "runs" / "ek100" / "result.json").read_bytes() == before
    with np.load(desk / "runs" / "ek100" / "scores" / "test.npz") as scores:
        assert scores["verb"].shape == (3, 2)
        assert scores["noun"].shape == (3, 2)
        by_row = dict(zip(scores["narration_id"].tolist(), scores["verb_label"].tolist(), strict=True))
    assert by_row == {
        rows[0]["unique_narration_id"]: 0,
        rows[1]["unique_narration_id"]: -1,
        rows[2]["unique_narration_id"]: 0,
    }
    assert json.loads(before)["split"] == "validation"
