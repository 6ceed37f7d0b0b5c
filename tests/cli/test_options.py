"""What commands share: one way to say each thing, and texts that are read strictly."""

import re
from pathlib import Path

import pytest

from helpers.cli import call
from mambavl.cli.options import gpus_of, one_each, pairs_of, settings_of, shard_of, splits_of
from mambavl.configs.errors import UsageError
from mambavl.configs.settings import settings_of as keys_of
from mambavl.extract.import_job import ImportSettings
from mambavl.extract.options import AudioExtraction, TextExtraction, VideoExtraction
from mambavl.extract.questions.llm.options import LLMSettings
from mambavl.fuse.recipe import Recipe

FLAGS = {"encoder": "orvit", "splits": ("train",), "sampling.task": "anticipation", "weights": None}


def test_flags_and_set_make_one_record():
    options = settings_of(VideoExtraction, FLAGS, ["sampling.frames=4", "batch_rows=2"])
    assert (options.encoder, options.splits, options.weights) == ("orvit", ("train",), None)
    assert (options.sampling.task, options.sampling.frames, options.batch_rows) == ("anticipation", 4, 2)


@pytest.mark.parametrize(
    ("assignment", "flag"),
    [
        ("encoder=avion-vit-b", "--encoder"),
        ("weights=random", "--weights"),  # also where the flag was not given
        ("splits=['validation']", "--split"),
        ("sampling.task=recognition", "--task"),
        ("sampling={task = 'recognition'}", "--task"),
    ],
)
def test_what_has_a_flag_is_refused_in_set(assignment, flag):
    with pytest.raises(UsageError, match=rf"^--set [a-z.]+=\.\.\.: use {flag}$"):
        settings_of(VideoExtraction, FLAGS, [assignment])


def test_a_key_that_there_is_not_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="--set: there is no key `levls`; did you mean `levels`"):
        settings_of(TextExtraction, {"encoder": "minilm"}, ["levls=pooled"])


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (("extract", "video", "--videos", "v", "--encoder", "orvit", "--set", "splits=train"), "--split"),
        (
            ("extract", "audio", "--videos", "v", "--encoder", "audio:x", "--set", "encoder=orvit"),
            "--encoder",
        ),
        (("extract", "text", "--questions", "q", "--encoder", "minilm", "--set", "weights=w"), "--weights"),
        (("cache", "import", "source", "--format", "npy", "--set", "sampling.task=recognition"), "--task"),
        (("questions", "plan", "--model", "m", "--set", "budget=3"), "--budget"),
        (("questions", "generate", "--backend", "llm", "--model", "m", "--set", "model=n"), "--model"),
    ],
)
def test_every_command_names_the_flag(capsys, tmp_path, words, flag):
    assert call(*words, "--annotations", tmp_path, "--out", tmp_path / "out") == 2
    assert f"=...: use {flag}\n" in capsys.readouterr().err


def test_splits_are_named_once_each():
    assert splits_of(" train, validation,") == ("train", "validation")
    for text in (",", "", "train,train"):
        with pytest.raises(UsageError, match="--split"):
            splits_of(text)
    with pytest.raises(UsageError, match=r"^--split val: use train, validation or test$"):
        splits_of("train,val")


def test_a_shard_is_one_of_n():
    assert shard_of("3/4") == (3, 4)
    for text in ("4/4", "-1/4", "1", "1/", "a/b", "0/0"):
        with pytest.raises(UsageError, match="--shard"):
            shard_of(text)


def test_pairs_keep_what_follows_the_first_equals_sign():
    assert pairs_of("--store", ["video=a=b"], "STREAM=PATH", "video=x") == {"video": "a=b"}
    with pytest.raises(
        UsageError, match="--store 'video': expected STREAM=PATH, for example --store video=x"
    ):
        pairs_of("--store", ["video"], "STREAM=PATH", "video=x")


@pytest.mark.parametrize(
    ("words", "record"),
    [
        ("extract video", VideoExtraction),
        ("extract audio", AudioExtraction),
        ("extract text", TextExtraction),
        ("questions generate", LLMSettings),
        ("questions plan", LLMSettings),
        ("cache import", ImportSettings),
        ("train", Recipe),
        ("sweep", Recipe),
    ],
)
def test_the_example_of_set_is_a_key_of_the_command(capsys, words, record):
    assert call(*words.split(), "--help") == 0
    said = re.sub(r"[│\s]+", " ", capsys.readouterr().out)
    example = re.search(r"such as --set (\S+=\S+)\. ", said)[1]
    key = example.partition("=")[0]
    assert key in [setting.key for setting in keys_of(record)]


# --- several encoders


def jobs(*sets, encoders=("timm:a", "timm:b"), stores=("a.zarr", "b.zarr"), weights=None):
    flags = {"splits": ("train",)}
    return one_each(VideoExtraction, list(encoders), [Path(s) for s in stores], weights, flags, list(sets))


def test_each_encoder_has_its_store_and_what_is_set_for_it_alone():
    found = jobs("batch_rows=4", "2:levels=clip", "2:batch_rows=2", "sampling.frames=8")
    assert [path.name for path, _ in found] == ["a.zarr", "b.zarr"]
    assert [options.encoder for _, options in found] == ["timm:a", "timm:b"]
    assert [options.levels for _, options in found] == [("frame",), ("clip",)]
    assert [options.batch_rows for _, options in found] == [4, 2]
    assert [options.sampling.frames for _, options in found] == [8, 8]


@pytest.mark.parametrize(
    ("weights", "expected"), [(None, [None, None]), (["random"], ["random"] * 2), (["w", "v"], ["w", "v"])]
)
def test_weights_are_given_once_or_once_for_each(weights, expected):
    assert [options.weights for _, options in jobs(weights=weights)] == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"stores": ["a.zarr"]}, "2 encoders and 1 store"),
        ({"stores": ["a.zarr", "a.zarr"]}, "2 encoders and 1 store"),
        ({"weights": ["a", "b", "c"]}, "--weights is given 3 times for 2 encoders"),
    ],
)
def test_encoders_stores_and_weights_that_do_not_pair_are_refused(words, message):
    with pytest.raises(UsageError, match=message):
        jobs(**words)


@pytest.mark.parametrize("number", ["0", "3"])
def test_a_setting_of_an_encoder_that_is_not_there_is_refused(number):
    with pytest.raises(UsageError, match=f"there is no encoder {number}; they are counted from 1 to 2"):
        jobs(f"{number}:levels=clip")


@pytest.mark.parametrize(
    ("text", "there", "message"),
    [
        ("all", 0, "0 GPUs can be used"),
        ("3", 2, "2 GPUs can be used"),
        ("0", 2, "use `all` or a number"),
        ("some", 2, "use `all` or a number"),
    ],
)
def test_gpus_that_are_not_there_are_refused(monkeypatch, text, there, message):
    monkeypatch.setattr("torch.cuda.device_count", lambda: there)
    with pytest.raises(UsageError, match=message):
        gpus_of(text)


def test_gpus_are_all_or_so_many(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert [gpus_of(text) for text in (None, "all", "3")] == [None, 4, 3]
