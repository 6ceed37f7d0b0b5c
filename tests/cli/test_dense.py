"""Dense extraction from the shell: the features of `extract video`, bit for bit; calls that are refused."""

import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.cli import call
from helpers.clips import write_video
from helpers.own import GOOD
from mambavl.cache import open_store

RECIPES = {
    "image": (
        "timm:test_resnet",
        "image_size=64",
        "sampling.frames=4",
        'levels=["clip", "frame", "grid", "patch"]',
    ),
    "video": (
        "tubelets:build",
        "image_size=32",
        "sampling.frames=4",
        'levels=["clip", "frame", "grid", "patch"]',
    ),
    "views": (
        "tubelets:build",
        "image_size=32",
        "sampling.frames=4",
        "sampling.views=2",
        "crops=3",
        "levels=patch",
    ),
    "mf_dense": ("timm:test_resnet", "image_size=64", "sampling.frames=4", "sampling.rule=mf_dense"),
}


@pytest.fixture
def videos(tmp_path, monkeypatch) -> Path:
    """A folder of two videos; an own encoder `tubelets:build`, whose tokens see two frames each."""
    (tmp_path / "tubelets.py").write_text(GOOD)
    monkeypatch.syspath_prepend(tmp_path)
    write_video(tmp_path / "videos" / "P01" / "A.mp4", frames=55)
    write_video(tmp_path / "videos" / "P02" / "B.mp4", frames=73, fps=15)
    return tmp_path / "videos"


def words(videos: Path, recipe: str) -> tuple[object, ...]:
    encoder, *sets = RECIPES[recipe]
    weights = ("--weights", "random") if encoder.startswith("timm") else ()
    common = ("--videos", videos, "--encoder", encoder, *weights, "--set", "batch_rows=3")
    return (*common, *(word for one in sets for word in ("--set", one)))


def write_list(folder: Path, rows: list[tuple[object, ...]]) -> Path:
    """The rows as anybody would list them: own names, in no order, one label."""
    folder.mkdir()
    (folder / "targets.toml").write_text("[targets.kind]\n")
    (folder / "kind_classes.csv").write_text("id,key\n0,window\n")
    lines = ["narration_id,participant_id,video_id,start_timestamp,stop_timestamp,kind_class"]
    for number, row in enumerate(rows):
        lines.append(",".join(map(str, (f"x{number}", *row, 0))))
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("recipe", RECIPES)
def test_windows_have_the_features_that_extract_video_gives_their_segments(videos, tmp_path, recipe):
    times = ("--window", "1.5s", "--stride", "0.4s")
    assert call("extract", "dense", *words(videos, recipe), *times, "--out", tmp_path / "d.zarr") == 0
    # by hand: 5.5 s hold windows from 0, 0.4, ..., 4; 73 / 15 s those up to 3.2
    rows = [("P01", "A", k * 4 / 10, k * 4 / 10 + 1.5) for k in range(11)]
    rows += [("P02", "B", k * 4 / 10, k * 4 / 10 + 1.5) for k in range(9)]
    shuffled = random.Random(0).sample(rows, len(rows))
    lists = write_list(tmp_path / "lists", shuffled)
    segments = ("--annotations", lists, "--split", "train", "--out", tmp_path / "v.zarr")
    assert call("extract", "video", *words(videos, recipe), *segments) == 0
    dense, video = open_store(tmp_path / "d.zarr"), open_store(tmp_path / "v.zarr")
    assert [(s.participant_id, s.video_id, s.start, s.stop) for s in dense.segments] == rows
    assert dense.spec.recipe == video.spec.recipe
    assert dense.levels == video.levels
    distinct = {}
    for name, level in dense.levels.items():
        for view in range(level.views):
            (ours, lengths), (theirs, others) = (
                store.batch(range(len(rows)), name, view=view) for store in (dense, video)
            )
            assert torch.equal(ours, theirs)
            assert torch.equal(lengths, others)
            distinct[name, view] = len(torch.unique(ours, dim=0))
    assert min(distinct[name, 0] for name in dense.levels) > 5  # the right of a frame is mostly black
    assert (dense.row_array("frame_pts") == video.row_array("frame_pts")).all()
    assert call("cache", "verify", "--deep", tmp_path / "d.zarr") == 0


def test_each_encoder_has_its_store_and_the_command_resumes(videos, tmp_path, capsys):
    call_words = ("extract", "dense", "--videos", videos / "P01" / "A.mp4", "--window", "2", "--stride", "1")
    call_words += ("--encoder", "timm:test_resnet", "--out", tmp_path / "r.zarr")
    call_words += ("--encoder", "timm:test_vit", "--out", tmp_path / "v.zarr", "--weights", "random")
    call_words += ("--set", "image_size=64", "--set", "sampling.frames=2")
    assert call(*call_words) == 0
    said = capsys.readouterr().out
    assert said.count("wrote 4 rows") == 2
    encoders = [open_store(tmp_path / name).spec.recipe.encoder.name for name in ("r.zarr", "v.zarr")]
    assert encoders == ["timm:test_resnet", "timm:test_vit"]
    assert call(*call_words) == 0
    assert capsys.readouterr().out.count("wrote 0 rows") == 2
    assert call("cache", "info", tmp_path / "r.zarr") == 0
    assert re.search(r"windows *│ 2 s, one every 1 s", capsys.readouterr().out)
    assert call("cache", "info", tmp_path / "v.zarr") == 0


def test_short_and_broken_videos_are_named(videos, tmp_path, capsys):
    write_video(videos / "P02" / "S.mp4", frames=12)
    start = ("extract", "dense", *words(videos, "image"), "--window", "2", "--stride", "1")
    assert call(*start, "--out", tmp_path / "d.zarr") == 0
    assert "S: lasts 1.20 s, less than a window: no rows" in capsys.readouterr().out
    (videos / "P01" / "A.mp4").write_bytes(b"no video")
    assert call(*start, "--out", tmp_path / "e.zarr") == 1
    assert "1 video cannot be opened, but max_failed is 0" in capsys.readouterr().err
    assert not (tmp_path / "e.zarr").exists()
    assert call(*start, "--out", tmp_path / "e.zarr", "--set", "max_failed=1") == 0
    assert "A_w000000: unreadable_video: " in capsys.readouterr().out


def test_windows_are_read_by_others_as_they_stand_in_the_store(videos, tmp_path):
    """From video to file, through a pooled store: numpy and torch alone, against means taken by hand."""
    times = ("--window", "1.5s", "--stride", "0.4s")
    sets = ("--set", "levels=frame", "--set", "dtype=float32")
    assert (
        call("extract", "dense", *words(videos, "mf_dense"), *times, *sets, "--out", tmp_path / "f.zarr") == 0
    )
    assert call("cache", "pool", tmp_path / "f.zarr", "--to", "clip", "--out", tmp_path / "c.zarr") == 0
    for form in ("actionformer", "mstcn", "ego4d"):
        assert call("cache", "export", tmp_path / "c.zarr", "--to", form, "--out", tmp_path / form) == 0
    frames = open_store(tmp_path / "f.zarr").batch(range(20), "frame")[0].numpy()
    clips = frames.mean(axis=1)
    for video, rows in (("A", slice(0, 11)), ("B", slice(11, 20))):
        with np.load(tmp_path / "actionformer" / f"{video}.npz") as file:
            np.testing.assert_allclose(file["feats"], clips[rows], rtol=1e-6, strict=True)
            assert (file["fps"], file["feat_stride"], file["num_frames"]) == (30, 12, 45)
            feats = file["feats"]
        np.testing.assert_array_equal(np.load(tmp_path / "mstcn" / f"{video}.npy"), feats.T)
        tensor = torch.load(tmp_path / "ego4d" / f"{video}.pt", weights_only=True)
        np.testing.assert_array_equal(tensor.numpy(), feats)
    assert call("cache", "export", tmp_path / "f.zarr", "--to", "mstcn", "--out", tmp_path / "no") == 2


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--window", "2m", "--stride", "1"), "--window '2m': expected seconds"),
        (("--window", "2", "--stride", "0"), "--stride '0': expected seconds"),
        (("--window", "2", "--stride", "1", "--split", "test"), "--split chooses among the lists"),
        (("--window", "2", "--stride", "1", "--encoder", "minilm"), "2 encoders and 1 store: give each"),
        (("--window", "2", "--stride", "1", "--out", "y"), "1 encoder and 2 stores: give each"),
        (
            ("--window", "2", "--stride", "1", "--weights", "random", "--weights", "random"),
            "--weights is given 2 times for 1 encoder",
        ),
        (
            ("--window", "2", "--stride", "1", "--set", "sampling.task=anticipation"),
            "takes sampling.task = recognition",
        ),
        (
            ("--window", "2", "--stride", "1", "--retry-failed", "--shard", "0/2"),
            "--retry-failed goes without --shard",
        ),
    ],
)
def test_calls_that_cannot_be_meant_are_refused(tmp_path, capsys, monkeypatch, more, said):
    monkeypatch.chdir(tmp_path)
    start = ("extract", "dense", "--videos", tmp_path, "--encoder", "timm:test_resnet", "--out", "x")
    assert call(*start, *more) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
