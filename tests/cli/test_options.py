"""What commands share: one way to say each thing, and texts that are read strictly."""

import re

import pytest

from helpers.cli import call
from mambavl.cli.options import pairs_of, settings_of, shard_of, splits_of
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
