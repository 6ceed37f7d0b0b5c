"""What `extract plan` says, and the exit code where the extraction would be refused."""

import re

import pytest
import typer

from helpers.cli import call
from helpers.dataset import make_dataset
from mambavl.cache import fsops
from mambavl.cli.app import extract_app
from mambavl.cli.options import FLAGS
from mambavl.cli.plan import advice
from mambavl.extract.trial import Estimate


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("plan"))


def words(folder, out):
    where = ("--annotations", folder / "annotations", "--videos", folder / "videos", "--out", out)
    sets = ("--set", "sampling.frames=2", "--set", "image_size=64", "--set", "rows_per_group=8")
    return (*where, "--encoder", "timm:test_resnet", "--weights", "random", *sets)


def test_a_plan_says_rows_bytes_and_time_and_the_extraction_takes_the_same_options(folder, tmp_path, capsys):
    out = tmp_path / "v.zarr"
    assert call("extract", "plan", *words(folder, out), "--seconds", "0.2") == 0
    said = capsys.readouterr().out
    assert "rows: 20 of 4 videos\n" in said
    assert f"{out} (timm:test_resnet): 0 of 20 rows done, 20 to do; 3 row groups of 8 rows\n" in said
    assert re.search(r"  frame: [\d.]+ kB\n", said)
    assert re.search(r"in all: ([\d.]+ kB), \1 to be written", said)
    assert re.search(r"trial: 15 rows of P01_101, P01_103, P01_104, each stage alone, on this machine", said)
    assert re.search(r"  decode: [\d.,]+ rows/s a thread\n", said)
    assert re.search(r"estimate: .+ for 20 rows with \d+ readers? on \d+ cores?, writing ", said)
    assert re.search(r"slowest: (opening|decode|resize|encode|the processor)\. ", said)
    assert list(tmp_path.iterdir()) == []
    assert call("extract", "video", *words(folder, out), "--shard", "0/2") == 0
    capsys.readouterr()
    assert call("extract", "plan", *words(folder, out), "--seconds", "0.2") == 0
    assert "12 of 20 rows done, 8 to do" in capsys.readouterr().out
    assert call("extract", "video", *words(folder, out)) == 0
    capsys.readouterr()
    assert call("extract", "plan", *words(folder, out)) == 0
    said = capsys.readouterr().out
    assert "20 of 20 rows done, 0 to do" in said
    assert "trial" not in said


def test_what_would_be_refused_is_said_with_exit_code_1(tmp_path, capsys, monkeypatch):
    folder, out = make_dataset(tmp_path / "data"), tmp_path / "v.zarr"
    (folder / "videos/P01/videos/P01_102.MP4").unlink()
    asked = ("extract", "plan", *words(folder, out), "--seconds", "0.2")
    assert call(*asked) == 1
    said = capsys.readouterr().out
    assert "missing: 1 video (P01_102), with 5 rows\n" in said
    assert "would be refused, since videos are missing (1); --set allow_missing=true" in said
    assert "estimate: " in said
    assert call(*asked, "--set", "allow_missing=true") == 0
    monkeypatch.setattr(fsops, "free_bytes", lambda path: 10)
    capsys.readouterr()
    assert call(*asked, "--set", "allow_missing=true") == 1
    assert re.search(r"v\.zarr: [\d.]+ kB are to be written and 10 bytes are free", capsys.readouterr().out)


def test_several_encoders_are_planned_as_they_are_extracted(folder, tmp_path, capsys):
    a, b = tmp_path / "a.zarr", tmp_path / "b.zarr"
    asked = (*words(folder, a), "--encoder", "timm:test_vit", "--out", b, "--set", "2:batch_rows=3")
    assert call("extract", "plan", *asked, "--seconds", "0.2") == 0
    said = capsys.readouterr().out
    assert f"{a} (timm:test_resnet): 0 of 20 rows done" in said
    assert f"{b} (timm:test_vit): 0 of 20 rows done" in said
    assert said.count("  encode (timm:test_") == 2
    assert call("extract", "video", *asked) == 0
    assert call("extract", "plan", *asked[:-1], "2:batch_rows=4") == 2
    assert "recipe.batch_rows: 3 -> 4" in capsys.readouterr().err


def test_it_takes_every_option_of_the_extraction():
    extract = typer.main.get_command(extract_app).commands
    names = {name: {param.opts[0] for param in extract[name].params} for name in ("video", "plan")}
    assert names["plan"] - names["video"] == {"--seconds"}
    # who does the work does not matter to a plan, but for the GPUs
    assert names["video"] - names["plan"] == {"--engine", "--workers"}


def test_a_flag_in_set_and_another_recipe_are_refused_as_by_the_extraction(folder, tmp_path, capsys):
    asked = words(folder, tmp_path / "v.zarr")
    assert call("extract", "plan", *asked, "--set", "encoder=minilm") == 2
    assert f"use {FLAGS['encoder']}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            Estimate(60.0, "decode", 2, 1, 4, 3),
            "The encoder waits for it; 3 readers would keep up (--set readers=3)",
        ),
        (
            Estimate(60.0, "decode", 4, 1, 4, 9),
            "The encoder waits for it; 9 readers would keep up "
            "(--set readers=9, and as many cores: there are 4)",
        ),
        (
            Estimate(60.0, "decode", 2, 4, 16, 3),
            "The encoder waits for it; 3 readers in each process would keep up (--set readers=3)",
        ),
        (Estimate(60.0, "encode", 4, 1, 4, 1), "1 reader would keep up with it; more change nothing"),
    ],
)
def test_the_bottleneck_comes_with_how_many_readers_would_change_it(found, said):
    assert advice(found) == said
    assert "more readers change nothing" in advice(Estimate(60.0, "the processor", 2, 1, 2, 1))
