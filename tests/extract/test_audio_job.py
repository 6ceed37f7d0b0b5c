"""The audio job on small videos with sound, and a head that trains on three modalities."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers.models.hubert.modeling_hubert import HubertEncoder

from helpers.cli import call
from helpers.dataset import barcode_record, make_dataset
from helpers.jobs import make_roberta, text_run, tree
from helpers.sounds import RATE, save_audio, write_sound
from mambavl.cache import open_store
from mambavl.cache.rows import EMPTY_WINDOW, FLAG_SILENCE, OK, STATUS
from mambavl.configs import validate
from mambavl.configs.errors import Interrupted, UsageError
from mambavl.extract import sound
from mambavl.extract.annotations import read_annotations
from mambavl.extract.audio_job import extract_audio
from mambavl.extract.encoders import registry
from mambavl.extract.options import AudioExtraction, VideoExtraction
from mambavl.extract.questions import generate, write_questions
from mambavl.extract.video_job import extract_video
from mambavl.fuse.recipe import Recipe
from mambavl.fuse.train import train


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Twenty rows; each action sounds like its verb: low for 0, high for 1."""
    folder = make_dataset(tmp_path_factory.mktemp("data"))
    for number in range(4):
        write_sound(folder / "videos" / "P01" / "videos" / f"P01_{101 + number}.MP4", voices(number))
    return folder


def voices(number: int) -> np.ndarray:
    times = np.arange(6 * RATE) / RATE
    verbs = np.minimum(times // 1.1, 4) % 2  # as make_dataset's rows begin
    noise = np.random.default_rng(number).normal(scale=0.01, size=len(times))
    return (0.3 * np.sin(2 * np.pi * np.where(verbs == 1, 2000, 200) * times) + noise)[:, None]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_audio(tmp_path_factory.mktemp("hubert"), "hubert")


def run(dataset, out, model, **changes):
    hooks = {
        key: changes.pop(key)
        for key in ("shard", "should_stop", "retry_failed", "progress")
        if key in changes
    }
    options = {
        "encoder": f"audio:{model}",
        "rows_per_group": 8,
        "batch_rows": 3,
        "steps": 4,
        "dtype": "float32",
        "max_failed": 1000,
        **changes,
    }
    read = read_annotations(dataset / "annotations")
    return extract_audio(read, dataset / "videos", out, AudioExtraction.model_validate(options), **hooks)


def test_every_row_holds_the_states_of_its_own_sound(dataset, model, tmp_path):
    summary = run(dataset, tmp_path / "a.zarr", model, levels=["clip", "frame"])
    assert summary.finalized
    assert not summary.failures
    store, encoder = open_store(tmp_path / "a.zarr"), registry.build(f"audio:{model}")
    assert (store.spec.kind, store.levels["frame"].shape) == ("audio", (1, 4, 16))
    for row in (0, 7, 19):
        segment = store.segments[row]
        reader = sound.SoundReader(dataset / "videos" / "P01" / "videos" / f"{segment.video_id}.MP4")
        heard = reader.window(segment.start, round((segment.stop - segment.start) * 16_000), 16_000)
        reader.close()
        (states,) = encoder.encode([heard.samples])
        tokens, lengths = store.batch([row], "frame")
        assert lengths.tolist() == [4]
        torch.testing.assert_close(
            tokens[0], torch.nn.functional.adaptive_avg_pool1d(states.T, 4).T, rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(store.batch([row], "clip")[0][0, 0], states.mean(0), rtol=1e-4, atol=1e-5)


def test_the_rows_of_a_batch_run_together_though_each_lasts_differently(
    dataset, model, tmp_path, monkeypatch
):
    """Row groups of 8, 8 and 4 rows in batches of 3: eight runs for twenty rows."""
    read = read_annotations(dataset / "annotations")
    shorter = tuple(replace(row, stop=row.stop - 0.05 * i) for i, row in enumerate(read.segments))
    real, runs = HubertEncoder.forward, []

    def counted(self, states, **named):
        runs.append(len(states))
        return real(self, states, **named)

    monkeypatch.setattr(HubertEncoder, "forward", counted)
    options = AudioExtraction(encoder=f"audio:{model}", rows_per_group=8, batch_rows=3)
    extract_audio(replace(read, segments=shorter), dataset / "videos", tmp_path / "a.zarr", options)
    assert runs[1:] == [3, 3, 2, 3, 3, 2, 3, 1]  # the first tells the encoder's width


def test_anticipation_hears_nothing_after_start_minus_tau(dataset, model, tmp_path):
    """What sounds later than every observed window of a row is made loud: not a bit of the row changes."""
    hearing = {"task": "anticipation"}
    summary = run(dataset, tmp_path / "plain.zarr", model, sampling=hearing)
    plain = open_store(tmp_path / "plain.zarr")
    row = next(
        i for i, segment in enumerate(plain.segments) if segment.video_id == "P01_102" and segment.start > 2
    )
    limit = plain.segments[row].start - 1.0
    changed, loud = tmp_path / "copy", voices(1)
    loud[round((limit + sound.SEAM) * RATE) :] = 0.9
    shutil.copytree(dataset, changed)
    write_sound(changed / "videos" / "P01" / "videos" / "P01_102.MP4", loud)
    run(changed, tmp_path / "loud.zarr", model, sampling=hearing)
    other = open_store(tmp_path / "loud.zarr")
    assert torch.equal(plain.batch([row], "frame")[0], other.batch([row], "frame")[0])
    assert not torch.equal(plain.batch([row + 1], "frame")[0], other.batch([row + 1], "frame")[0])
    starts = np.array([segment.start for segment in plain.segments])
    assert (plain.status[starts <= 1.0] == EMPTY_WINDOW).all()
    assert (plain.status[starts > 1.0] == OK).all()
    assert not summary.failed
    partial = plain.row_array("flags")[starts > 1.0] & FLAG_SILENCE > 0
    assert partial.tolist() == (starts[starts > 1.0] - 1.0 - 64 / 30 < 0).tolist()


def test_a_reader_that_hears_too_much_is_caught(dataset, model, tmp_path, monkeypatch):
    real = sound.SoundReader.window
    monkeypatch.setattr(
        sound.SoundReader, "window", lambda self, start, *rest: real(self, start + 0.01, *rest)
    )
    with pytest.raises(AssertionError, match="lies after start - tau_a"):
        run(dataset, tmp_path / "a.zarr", model, sampling={"task": "anticipation"})


def test_interrupted_or_sharded_gives_the_same_bytes(dataset, model, tmp_path):
    run(dataset, tmp_path / "whole.zarr", model)
    seen = [0]
    with pytest.raises(Interrupted, match="resumes"):
        run(
            dataset,
            tmp_path / "resumed.zarr",
            model,
            progress=lambda done, total, note: seen.append(done),
            should_stop=lambda: seen[-1] >= 11,
        )
    assert 0 < run(dataset, tmp_path / "resumed.zarr", model).rows < 20
    assert not run(dataset, tmp_path / "sharded.zarr", model, shard=(1, 2)).finalized
    assert run(dataset, tmp_path / "sharded.zarr", model, shard=(0, 2)).finalized
    assert tree(tmp_path / "resumed.zarr") == tree(tmp_path / "sharded.zarr") == tree(tmp_path / "whole.zarr")


def test_videos_that_cannot_be_heard_are_named_failures_and_the_others_stay_the_same(
    dataset, model, tmp_path
):
    run(dataset, tmp_path / "good.zarr", model)
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    videos = copy / "videos" / "P01" / "videos"
    write_sound(videos / "P01_101.MP4", None)
    (videos / "P01_102.MP4").unlink()
    write_sound(videos / "P01_103.MP4", voices(2)[: 3 * RATE])
    summary = run(copy, tmp_path / "v.zarr", model, allow_missing=True)
    good, store = open_store(tmp_path / "good.zarr"), open_store(tmp_path / "v.zarr")
    found = {s.video_id: set() for s in store.segments}
    for segment, status in zip(store.segments, store.status, strict=True):
        found[segment.video_id].add(STATUS[int(status)])
    assert found == {
        "P01_101": {"no_soundtrack"},
        "P01_102": {"missing_video"},
        "P01_103": {"ok", "short_video"},
        "P01_104": {"ok"},
    }
    assert len(summary.failed) == (store.status != OK).sum()
    same = [
        i
        for i, s in enumerate(store.segments)
        if s.video_id == "P01_104" or (s.video_id == "P01_103" and s.stop < 2.9)
    ]
    assert torch.equal(store.batch(same, "frame")[0], good.batch(same, "frame")[0])


def test_encoders_of_other_kinds_are_refused(dataset, model, tmp_path):
    with pytest.raises(UsageError, match="use `mambavl extract text`"):
        run(dataset, tmp_path / "a.zarr", model, encoder="minilm")
    read, options = read_annotations(dataset / "annotations"), VideoExtraction(encoder=f"audio:{model}")
    with pytest.raises(UsageError, match="use `mambavl extract audio`"):
        extract_video(read, dataset / "videos", tmp_path / "v.zarr", options)


@pytest.fixture(scope="module")
def stores(dataset, model, tmp_path_factory):
    """The same twenty rows as video, text and audio, each through its own job."""
    folder = tmp_path_factory.mktemp("stores")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.ENCODERS, "barcode", barcode_record())
        options = VideoExtraction(encoder="barcode", fit="squash", sampling={"frames": 4})
        extract_video(
            read_annotations(dataset / "annotations"), dataset / "videos", folder / "video.zarr", options
        )
    write_questions(folder / "q.jsonl", generate(read_annotations(dataset / "annotations"), "generic"))
    text_run(
        dataset, folder / "text.zarr", make_roberta(tmp_path_factory.mktemp("roberta")), folder / "q.jsonl"
    )
    run(dataset, folder / "audio.zarr", model)
    return folder


@pytest.mark.parametrize("names", [("audio",), ("video", "verb_question", "noun_question", "audio")])
def test_a_head_trains_on_sound_alone_and_on_three_modalities(stores, tmp_path, names):
    levels = {"video": "frame", "audio": "frame"}
    streams = {
        name: {
            "store": str(stores / ("text.zarr" if name.endswith("question") else f"{name}.zarr")),
            "level": levels.get(name, f"{name}/last_hidden"),
        }
        for name in names
    }
    recipe = {
        "title": "sound", "streams": streams,
        "head": {"d_model": 16, "dropout": 0.0}, "fusion": {"d_state": 4},
        "train": {"epochs": 30, "batch_size": 8, "lr": 2e-2, "lr_ssm": 2e-2, "warmup_epochs": 1},
    }  # fmt: skip
    lines = []
    result = train(validate(recipe, Recipe, "sound.toml"), tmp_path / "run", on_epoch=lines.append)
    assert lines[-1]["loss"] < 0.7 * lines[0]["loss"]
    assert result.streams["audio"].encoder.name.startswith("audio:")
    assert any("audio" in name for name in load_file(tmp_path / "run" / "model.safetensors"))
    if names == ("audio",):
        # the sound tells the verb, on a video that was never trained on
        assert result.metrics["all_verb_top1"] == 100.0


def test_the_command_fills_a_store_and_counts_what_cannot_be_heard(dataset, model, tmp_path, capsys):
    words = ["extract", "audio", "--annotations", dataset / "annotations", "--videos", dataset / "videos"]
    words += [
        "--encoder",
        f"audio:{model}",
        "--task",
        "anticipation",
        "--set",
        "steps=2",
        "--out",
        tmp_path / "a.zarr",
    ]
    assert call(*words) == 0
    assert "wrote 20 rows" in capsys.readouterr().out
    store = open_store(tmp_path / "a.zarr")
    assert store.levels["frame"].shape == (1, 2, 16)
    assert store.spec.recipe.sampling["task"] == "anticipation"
    silent = make_dataset(tmp_path / "silent", videos=2)  # its videos have no sound
    words[3:6:2] = silent / "annotations", silent / "videos"
    words[-1] = tmp_path / "b.zarr"
    assert call(*words[:-4], *words[-2:]) == 1
    assert "no_soundtrack" in capsys.readouterr().err
