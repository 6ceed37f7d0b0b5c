"""The record of spec.json: nothing is lost, nothing is added, and what is damaged is refused by name."""

import json
import re
from pathlib import Path

import pytest

from helpers.tiny import make_dense_store
from mambavl.cache import canonical, open_store
from mambavl.cache.layout import Layout
from mambavl.cache.shards import Level
from mambavl.cache.spec import (
    CLASSES,
    SCHEMA_VERSION,
    SEGMENTS,
    EncoderIdentity,
    FeatureRecipe,
    ImportRecipe,
    Inputs,
    ParentStore,
    Pooling,
    QuestionsProvenance,
    SoundRecipe,
    Spec,
    Windows,
    read_spec,
)
from mambavl.cache.verify import verify
from mambavl.configs.errors import DataError

GOLDEN = sorted((Path(__file__).parents[1] / "data").glob("schema-*/*.zarr"))
FULL = {
    "kind": "video",
    "recipe": {
        "numerics": 1,
        "encoder": {
            "name": "vit", "state": "pretrained", "sha256": "0" * 64, "width": 3, "details": {"depth": 2},
        },
        "pixels": {
            "image_size": 224, "fit": "crop", "crops": 3, "interpolation": "bicubic",
            "mean": [0.5, 0.5, 0], "std": [1, 1.0, 0.25], "colour": "BGR",
        },
        "sampling": {"task": "anticipation", "tau_a": 1.0},
        "decoder": "pyav",
        "precision": "bf16",
        "batch_rows": 4,
        "boxes": {"source": "h5", "transform": "correct"},
        "pooled": {"from": "patch", "to": "frame", "rule": "mean"},
    },
    "inputs": {
        "annotations": {"EPIC_100_train.csv": "1" * 64},
        "splits": ["train"],
        "windows": {"length": 2.0, "stride": 0.5},
        "videos": {"P01_101": [5, 7], "P01_102": None},
        "boxes": {"kind": "h5"},
        "parent": {"store_id": "2" * 64, "spec_sha256": "3" * 64},
    },
    "levels": [Level("frame", "dense", (1, 2, 3), steps=2).to_dict()],
    "frame_pts": [1, 2],
    "rows": 5,
    "rows_per_group": 8,
    "schema": 2,
    "segments_sha256": "4" * 64,
    "classes_sha256": "5" * 64,
}  # fmt: skip
MINIMAL = {**FULL, "recipe": {}, "inputs": {}, "frame_pts": []}


def changed(key, value, base=FULL):
    """A copy of a spec in which the value at `recipe.encoder.name`, say, is another."""
    found = json.loads(json.dumps(base))
    *parents, last = key.split(".")
    place = found
    for parent in parents:
        place = place[int(parent)] if isinstance(place, list) else place[parent]
    place[last] = value
    return found


@pytest.mark.parametrize("store", GOLDEN, ids=lambda store: store.name)
def test_the_specs_of_golden_stores_keep_their_bytes(store):
    assert GOLDEN, "there are golden stores"
    data = (store / "spec.json").read_bytes()
    spec = read_spec(store)
    assert canonical.pretty_json(spec.to_dict()) == data
    assert spec.digest() == json.loads((store / "manifest.json").read_bytes())["spec_sha256"]


@pytest.mark.parametrize("raw", [FULL, MINIMAL], ids=["full", "minimal"])
def test_a_spec_comes_back_as_it_was(raw):
    spec = Spec.from_dict(raw)
    assert canonical.pretty_json(spec.to_dict()) == canonical.pretty_json(raw)
    assert Spec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("from_the_future", {"a": [1, None]}),
        ("recipe.speed", 2.0),
        ("recipe.encoder.licence", "MIT"),
        ("inputs.weather", None),
        ("recipe.encoder.sha256", None),
        ("recipe.pixels.crops", None),
    ],
)
def test_unknown_and_null_keys_survive(key, value):
    raw = changed(key, value)
    assert Spec.from_dict(raw).to_dict() == raw


def test_an_absent_part_is_none_and_is_not_written():
    recipe = Spec.from_dict(MINIMAL).recipe
    assert recipe == FeatureRecipe()
    assert recipe.encoder is None
    assert recipe.to_dict() == {}


def test_parts_have_types_of_their_own():
    spec = Spec.from_dict(FULL)
    assert spec.recipe.pixels.mean == (0.5, 0.5, 0)
    assert spec.recipe.pooled == Pooling(from_level="patch", to="frame", rule="mean")
    assert spec.inputs.splits == ("train",)
    assert spec.inputs.windows == Windows(length=2.0, stride=0.5)
    assert spec.levels[0].width == 3
    assert spec.sha256_of(SEGMENTS) == "4" * 64
    assert spec.sha256_of(CLASSES) == "5" * 64


def test_a_record_writes_the_keys_of_the_file():
    recipe = FeatureRecipe(
        encoder=EncoderIdentity(name="tsn", width=3),
        questions=QuestionsProvenance(protocol="oracle", backend="template", prompt_version="v"),
        sound=SoundRecipe(rate=16000, channels="mean"),
        source="import",
        imported=ImportRecipe(format="npy", more={"fps": 30.0, "dataset": None}),
    )
    assert recipe.to_dict() == {
        "encoder": {"name": "tsn", "width": 3},
        "questions": {"protocol": "oracle", "backend": "template", "prompt_version": "v"},
        "sound": {"rate": 16000, "channels": "mean"},
        "source": "import",
        "import": {"format": "npy", "fps": 30.0, "dataset": None},
    }
    parent = ParentStore(store_id="1", spec={"kind": "video"})
    assert Inputs(sha256="2", parent=parent).to_dict() == {
        "sha256": "2",
        "parent": {"store_id": "1", "spec": {"kind": "video"}},
    }


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("recipe", "none", "recipe is 'none'"),
        ("recipe.encoder", {"width": 3}, "recipe.encoder.name is lacking"),
        ("recipe.encoder.name", None, "recipe.encoder.name is None"),
        ("recipe.encoder.width", "3", "recipe.encoder.width is '3'"),
        ("recipe.encoder.width", True, "recipe.encoder.width is True"),
        ("recipe.pixels.mean", [0.5, "x", 0], "recipe.pixels.mean[1] is 'x'"),
        ("recipe.sampling", [1], "recipe.sampling is [1]"),
        ("inputs.splits", "train", "inputs.splits is 'train'"),
        ("levels", {}, "levels is {}"),
        ("levels", [{"name": "frame"}], "there is no such level: {'name': 'frame'}"),
        ("levels.0.shape", 3, "there is no such level"),
        ("levels.0.dtype", "int8", "there is no such level"),
        ("rows_per_group", 0, "rows_per_group is 0"),
        ("rows", -1, "rows is -1"),
        ("frame_pts", [1, -2], "frame_pts [1, -2]"),
        ("frame_pts", [1, 2.5], "frame_pts[1] is 2.5"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_its_key_and_file(tmp_path, key, value, message):
    raw = changed(key, value)
    with pytest.raises(ValueError, match=re.escape(message)):
        Spec.from_dict(raw)
    (tmp_path / "spec.json").write_bytes(canonical.pretty_json(raw))
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}/spec.json: is damaged (")) as caught:
        read_spec(tmp_path)
    assert message in str(caught.value)
    assert "cache repair" in str(caught.value)


@pytest.mark.parametrize("key", sorted(FULL))
def test_a_spec_that_lacks_a_key_is_refused(tmp_path, key):
    raw = {name: value for name, value in FULL.items() if name != key}
    (tmp_path / "spec.json").write_bytes(canonical.pretty_json(raw))
    with pytest.raises(DataError, match="schema version None" if key == "schema" else f"it lacks {key}"):
        read_spec(tmp_path)


def test_the_record_of_a_store_says_what_its_layout_needs(tmp_path):
    make_dense_store(tmp_path / "s.zarr")
    store = open_store(tmp_path / "s.zarr")
    assert Layout.from_spec(store.spec) == store.layout
    assert store.spec.rows == len(store)
    assert store.spec.recipe.encoder == EncoderIdentity(name="fake", state="random", sha256="0" * 64, width=6)


def test_another_schema_version_is_refused_with_both_values(tmp_path):
    make_dense_store(tmp_path / "s.zarr")
    file = tmp_path / "s.zarr" / "spec.json"
    file.chmod(0o644)
    file.write_text(file.read_text().replace(f'"schema": {SCHEMA_VERSION}', '"schema": 1'))
    for deed in (open_store, verify, make_dense_store):
        with pytest.raises(
            DataError, match=f"has schema version 1; this version of mambavl reads 2, 3, {SCHEMA_VERSION}"
        ):
            deed(tmp_path / "s.zarr")


@pytest.mark.parametrize("content", ["[]", "{}", "{", '{"schema": 99}'])
@pytest.mark.parametrize("name", ["spec.json", "manifest.json"])
def test_metadata_that_says_nothing_is_a_clear_error(tmp_path, name, content):
    make_dense_store(tmp_path / "s.zarr")
    (tmp_path / "s.zarr" / name).chmod(0o644)
    (tmp_path / "s.zarr" / name).write_text(content)
    with pytest.raises(DataError, match=rf"{name}|schema version"):
        open_store(tmp_path / "s.zarr")
    try:
        faults = verify(tmp_path / "s.zarr")
    except DataError as error:
        faults = [str(error)]
    assert any(name in fault or "schema version" in fault for fault in faults)
