"""Which texts may meet: halves of a store, streams of a run, a run and what it is scored on; anticipation;
rows held out.
"""

import itertools
import re

import pytest
import tomli_w

from helpers.cli import call
from helpers.tiny import ROWS, make_dense_store, make_segments, make_text_store, tiny_recipe
from mambavl.cache.scores import best_classes
from mambavl.configs import validate
from mambavl.configs.errors import DataError, UsageError
from mambavl.fuse import evaluate, report
from mambavl.fuse.data import DataConfig, FeatureData, assign_folds
from mambavl.fuse.notices import ACTION_IN_ANTICIPATION, ORACLE_ANTICIPATION
from mambavl.fuse.points import expand
from mambavl.fuse.recipe import Recipe
from mambavl.fuse.run import read_result
from mambavl.fuse.sources import StreamSource
from mambavl.fuse.sweep import sweep
from mambavl.fuse.train import train

PROTOCOLS = ("oracle", "predicted", "generic", "none")
ENCODER = {"name": "fake", "state": "random", "sha256": "0" * 64, "width": 6}
SPLITS = ("validation", "train", "train", "train")
LEVELS = {name: f"{name}/last_hidden" for name in ("verb_question", "noun_question")}


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A text store for each protocol, and video stores for both tasks."""
    folder = tmp_path_factory.mktemp("protocols")
    for protocol in PROTOCOLS:
        make_text_store(folder / f"{protocol}.zarr", ROWS, protocol=protocol)
    for task in ("recognition", "anticipation"):
        make_dense_store(
            folder / f"{task}.zarr",
            ROWS,
            recipe={"encoder": ENCODER, "sampling": {"task": task, "rule": "strict"}},
        )
    inside = {"task": "anticipation", "rule": "inavit"}
    make_dense_store(folder / "inavit.zarr", ROWS, recipe={"encoder": ENCODER, "sampling": inside})
    make_dense_store(folder / "nameless.zarr", ROWS, recipe={"encoder": ENCODER})
    return folder


def recipe(texts, video="anticipation", text="generic", **data):
    streams = {"video": {"store": str(texts / f"{video}.zarr"), "level": "frame"}}
    streams |= {
        name: {"store": str(texts / f"{text}.zarr"), "level": level} for name, level in LEVELS.items()
    }
    raw = tiny_recipe(texts, title="mine", epochs=1).model_dump(mode="json", exclude_none=True)
    return validate({**raw, "streams": streams, "data": data}, Recipe, "mine.toml")


@pytest.mark.parametrize(("one", "other"), list(itertools.permutations(PROTOCOLS, 2)))
def test_no_two_protocols_meet_in_a_run(texts, one, other):
    """In the halves of a stream (train predicted, validation oracle), in its two questions, in training and
    scoring.
    """
    halves = StreamSource(
        store=(texts / f"{one}.zarr", texts / f"{other}.zarr"), level=LEVELS["verb_question"]
    )
    with pytest.raises(DataError, match=f"never mix:\n  questions.protocol: '{one}' -> '{other}'"):
        FeatureData({"verb_question": halves}, DataConfig())
    sources = {
        name: StreamSource(store=texts / f"{protocol}.zarr", level=LEVELS[name])
        for name, protocol in zip(LEVELS, (one, other), strict=True)
    }
    with pytest.raises(DataError, match=f"different protocols: {', '.join(sorted((one, other)))}"):
        FeatureData(sources, DataConfig())


def test_a_head_trained_on_one_protocol_is_never_scored_on_another(texts, tmp_path):
    train(recipe(texts, "recognition", "predicted"), tmp_path / "run")
    moved = dict.fromkeys(LEVELS, texts / "oracle.zarr")
    with pytest.raises(DataError, match=r"questions\.protocol: 'predicted' -> 'oracle'"):
        evaluate.evaluate_run(tmp_path / "run", streams=moved)


@pytest.mark.parametrize("protocol", ["predicted", "generic", "none"])
def test_anticipation_takes_texts_that_know_nothing_of_the_answer(texts, tmp_path, protocol):
    result = train(recipe(texts, text=protocol), tmp_path / "run")
    assert (result.text_protocol, result.notice) == (protocol, None)


def test_recognition_takes_oracle_text_without_being_asked_twice(texts, tmp_path):
    result = train(recipe(texts, "recognition", "oracle"), tmp_path / "run")
    assert (result.text_protocol, result.notice) == ("oracle", None)


def test_oracle_text_in_anticipation_must_be_asked_for_and_is_said_aloud_everywhere(texts, tmp_path, capsys):
    with pytest.raises(
        UsageError, match=r"for anticipation and the text protocol is oracle.*--set data\.allow_oracle=true"
    ):
        train(recipe(texts, text="oracle"), tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    train(recipe(texts, text="oracle", allow_oracle=True), tmp_path / "run")
    train(recipe(texts, text="generic"), tmp_path / "generic")
    result = read_result(tmp_path / "run")
    assert result.notice == ORACLE_ANTICIPATION
    assert call("evaluate", tmp_path / "run") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "mine, validation, oracle text" in said
    assert ORACLE_ANTICIPATION in said
    report.write_report([tmp_path / "run", tmp_path / "generic"], tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert page.count(f"”: {ORACLE_ANTICIPATION}.") == 1
    assert page.count("oracle: upper bound, no forecast") == 1
    sources = recipe(texts).sources  # the loophole: text alone, no video store to say the task
    text_only = {name: source for name, source in sources.items() if name != "video"}
    assert FeatureData(text_only, DataConfig()).notice is None


def test_a_rule_that_shows_the_action_is_said_aloud_beside_oracle_text(texts):
    def notice(text, **data):
        return FeatureData(recipe(texts, "inavit", text, **data).sources, DataConfig(**data)).notice

    assert notice("generic") == ACTION_IN_ANTICIPATION
    assert notice("oracle", allow_oracle=True) == f"{ACTION_IN_ANTICIPATION}. {ORACLE_ANTICIPATION}"


def test_a_sweep_marks_what_is_no_forecast(texts, tmp_path, capsys):
    raw = recipe(texts, text="oracle", allow_oracle=True).model_dump(mode="json", exclude_none=True)
    (tmp_path / "s.toml").write_text(tomli_w.dumps({**raw, "grid": {"train": {"seed": [0, 1]}}}))
    assert call("sweep", tmp_path / "s.toml", "--out", tmp_path / "sweep") == 0
    said = capsys.readouterr().out
    assert said.count("oracle (!)") == 2
    assert "ORACLE TEXT IN ANTICIPATION" in said


def test_texts_of_unknown_making_are_no_generic_texts(texts):
    sources = {
        "video": StreamSource(store=texts / "anticipation.zarr"),
        "verb_question": StreamSource(store=texts / "nameless.zarr"),
    }
    with pytest.raises(UsageError, match="the text protocol is unknown"):
        FeatureData(sources, DataConfig())
    assert FeatureData(sources, DataConfig(allow_oracle=True)).text_protocol == "unknown"


def test_streams_of_two_tasks_never_meet(texts):
    sources = {
        "video": StreamSource(store=texts / "anticipation.zarr"),
        "hands": StreamSource(store=texts / "recognition.zarr"),
    }
    with pytest.raises(DataError, match=r"different tasks \(hands for recognition, video for anticipation\)"):
        FeatureData(sources, DataConfig())


@pytest.fixture(scope="module")
def two_cooks(tmp_path_factory):
    """Train rows of two participants."""
    folder = tmp_path_factory.mktemp("cooks")
    make_dense_store(folder / "video.zarr", ROWS, splits=SPLITS)
    return folder


@pytest.mark.parametrize("by", ["participant", "video"])
def test_parts_held_out_cover_every_train_row_once_and_are_never_trained_on(two_cooks, by):
    parts = 2
    sources = tiny_recipe(two_cooks, text=False).sources
    whole = FeatureData(sources, DataConfig())
    owner = [getattr(segment, f"{by}_id") for segment in whole.segments]
    seen = []
    for part in range(parts):
        data = FeatureData(sources, DataConfig(hold_out=f"{part}/{parts}", hold_out_by=by))
        assert not {owner[row] for row in data.train} & {owner[row] for row in data.evaluation}
        assert sorted([*data.train, *data.evaluation]) == whole.train.tolist()
        seen += data.evaluation.tolist()
    assert sorted(seen) == whole.train.tolist()


def test_owners_are_assigned_evenly_and_always_alike():
    owners = [name for name, count in (("a", 5), ("b", 25), ("c", 30), ("d", 50)) for _ in range(count)]
    assert assign_folds(owners, 2) == assign_folds(owners[::-1], 2) == {"d": 0, "c": 1, "b": 1, "a": 0}
    with pytest.raises(UsageError, match="asks for 5 parts, and there are 4"):
        assign_folds(owners, 5)


@pytest.mark.parametrize("value", ["5/5", "1", "-1/3", "0/1", "a/b", "0/0"])
def test_a_part_that_is_none_is_refused(value):
    with pytest.raises(ValueError, match="expected i/n"):
        DataConfig(hold_out=value)


def test_one_sweep_writes_scores_of_every_train_row_by_heads_that_never_saw_it(two_cooks, tmp_path, capsys):
    """What `questions generate --protocol predicted --train-from` reads."""
    raw = tiny_recipe(two_cooks, text=False, epochs=2).model_dump(mode="json", exclude_none=True)
    raw["data"] = {"eval_split": "validation"}
    raw["grid"] = {"data": {"hold_out": ["0/2", "1/2"]}}
    points = sweep(expand(raw, tmp_path, "folds.toml"), tmp_path)
    files = sorted(tmp_path.glob("*/scores/*.npz"))
    assert [file.name for file in files] == ["train_0_of_2.npz", "train_1_of_2.npz"]
    ids = [name for file in files for name in best_classes(file, num_verbs=3, num_nouns=4).narration_ids]
    assert sorted(ids) == sorted(s.narration_id for s in make_segments(ROWS, SPLITS) if s.split == "train")
    assert {point.result.split for point in points} == {"train_0_of_2", "train_1_of_2"}
    run = files[0].parents[1]
    before = read_result(run)
    assert call("evaluate", run) == 0
    assert re.search(r"wrote .*train_0_of_2\.npz and .*result\.json", capsys.readouterr().out)
    assert read_result(run).metrics == before.metrics
    assert evaluate.evaluate_run(run, split="validation").split == "validation"
    assert read_result(run).split == "train_0_of_2"
    report.write_report([file.parents[1] for file in files], tmp_path / "r.html")
