"""result.json as a record: the same bytes out as in, and nothing half-read."""

import dataclasses
import json

import pytest

from helpers.tiny import make_dense_store, make_text_store, tiny_recipe
from mambavl.cache import canonical
from mambavl.fuse.result import Result, Selection, StreamProvenance, Trained, spoken
from mambavl.fuse.train import train


@pytest.fixture(scope="module", params=["mambavl", "mlp"])
def written(request, stores, tmp_path_factory):
    """The bytes of a run's result.json."""
    run = tmp_path_factory.mktemp("run") / request.param
    train(tiny_recipe(stores, head=request.param, epochs=1), run)
    return (run / "result.json").read_bytes()


def test_a_result_is_written_as_it_was_read_to_the_byte(written):
    assert canonical.pretty_json(Result.from_dict(json.loads(written)).to_dict()) == written


def test_a_result_names_what_the_file_names(written):
    raw, result = json.loads(written), Result.from_dict(json.loads(written))
    assert result.metrics == raw["metrics"]
    assert dataclasses.asdict(result.params) == raw["params"]
    assert dataclasses.asdict(result.trained) == raw["trained"]
    assert dataclasses.asdict(result.scored) == raw["scored"]
    assert result.trained.environment == result.scored.environment
    assert (result.trained.precision, result.trained.train_rows, result.trained.processes) == ("fp32", 24, 1)
    assert result.selection is None
    assert result.streams["video"].encoder.name == raw["streams"]["video"]["encoder"]["name"]
    assert result.shared == ("A" if raw["head"] == "mambavl" else None)


def test_a_run_is_ranked_by_its_last_target_unless_its_recipe_names_another(written):
    raw = json.loads(written)
    assert Result.from_dict(raw).main_measure == "all_action_top1"
    raw["recipe"]["rank_by"] = "verb"
    assert Result.from_dict(raw).main_measure == "all_verb_top1"
    raw["metrics"]["all_verb_map"] = 1.0
    assert Result.from_dict(raw).main_measure == "all_verb_map"
    raw["recipe"]["rank_by"] = "noun_mean_class_recall5"
    assert Result.from_dict(raw).main_measure == "all_noun_mean_class_recall5"


def test_measures_are_spoken_as_people_do():
    measures = ("all_verb_top1", "all_scene_map", "all_action_mean_class_recall5")
    assert [spoken(one) for one in measures] == ["verb top-1", "scene mAP", "action mean class recall@5"]


def test_rows_without_a_stream_are_unknown_where_an_older_version_did_not_count_them(written):
    raw = json.loads(written)
    assert Result.from_dict(raw).rows.missing == {"video": 0, "verb_question": 0, "noun_question": 0}
    del raw["rows"]["missing"]
    assert Result.from_dict(raw).rows.missing is None


def test_what_a_lost_result_took_with_it_is_not_recorded(written):
    lost = Trained(precision="fp32")
    result = dataclasses.replace(Result.from_dict(json.loads(written)), trained=lost)
    assert result.to_dict()["trained"]["environment"] is None
    assert Result.from_dict(result.to_dict()) == result


def test_a_selection_is_read_as_it_was_written(written):
    chosen = Selection(among=3, failed=1, on="train_0_of_5", by="all_action_top1", score=12.5)
    result = dataclasses.replace(Result.from_dict(json.loads(written)), selection=chosen)
    again = json.loads(canonical.pretty_json(result.to_dict()))
    assert again["selection"] == dataclasses.asdict(chosen)
    assert Result.from_dict(again) == result
    del again["selection"]["failed"]
    with pytest.raises(ValueError, match="it has no failed"):
        Result.from_dict(again)


@pytest.mark.parametrize("block", ["trained", "scored"])
def test_a_block_without_a_precision_is_refused(written, block):
    raw = json.loads(written)
    del raw[block]["precision"]
    with pytest.raises(ValueError, match="it has no precision"):
        Result.from_dict(raw)


@pytest.mark.parametrize(
    "key", ["metrics", "streams", "split", "seed", "rows", "recipe", "targets", "trained", "scored"]
)
def test_a_result_without_a_key_is_refused_by_its_name(written, key):
    raw = json.loads(written)
    del raw[key]
    with pytest.raises(ValueError, match=f"it has no {key}"):
        Result.from_dict(raw)


@pytest.mark.parametrize(("key", "value"), [("metrics", []), ("seed", "0"), ("title", None)])
def test_a_value_of_another_type_is_refused_by_its_key(written, key, value):
    with pytest.raises(ValueError, match=f"{key} is"):
        Result.from_dict({**json.loads(written), key: value})


@pytest.mark.parametrize("level", ["frame", "cls"])
def test_a_stream_names_every_part_of_the_recipe_that_its_stores_name(level):
    raw = {
        "stores": ["a.zarr", "b.zarr"],
        "store_ids": ["1", "2"],
        "level": level,
        "class_token": False,
        "views": 3,
        "encoder": {"name": "orvit", "state": "ek100", "sha256": "0" * 64, "width": 768},
        "boxes": {"source": "given", "transform": "as the frame"},
        "sampling": {"task": "recognition", "frames": 16},
    }
    found = StreamProvenance.from_dict(raw)
    assert found.to_dict() == raw
    assert found.recipe.boxes.source == "given"
    assert found.recipe.questions is None


def test_stores_that_name_no_encoder_are_of_an_unknown_one():
    bare = {"stores": [], "store_ids": [], "level": "frame", "class_token": False, "views": 1}
    assert StreamProvenance.from_dict(bare).encoder.name == "unknown"
    assert StreamProvenance.from_dict(bare).to_dict() == bare


def test_provenance_is_written_next_to_the_result_and_says_the_same(tmp_path):
    make_dense_store(tmp_path / "video.zarr", 48)
    make_text_store(tmp_path / "text.zarr", 48)
    train(tiny_recipe(tmp_path, epochs=1), tmp_path / "run")
    streams = json.loads((tmp_path / "run" / "streams.json").read_text())
    assert streams == json.loads((tmp_path / "run" / "result.json").read_text())["streams"]
    assert streams["verb_question"]["questions"]["protocol"] == "oracle"
