"""Recipes: every fault is refused with its place and the nearest name; overrides and the written-back form
are exact.
"""

import random
import re
import string
import tomllib

import pytest
from pydantic import BaseModel

from mambavl.configs import dump, find_recipe, load, model_in, override, read_toml, validate
from mambavl.configs.errors import UsageError, edit_distance
from mambavl.extract.options import AudioExtraction, TextExtraction, VideoExtraction
from mambavl.fuse.recipe import Recipe

STREAMS = {"video": {"store": "v.zarr", "level": "frame"}}
PACKAGED = (
    "fuse/default",
    "fuse/paper",
    "fuse/released",
    "fuse/table3",
    "fuse/sharing",
    "fuse/controls",
    "fuse/demo",
    "fuse/folds",
    "fuse/attentive",
    "fuse/heads",
)


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_recipes_are_valid_and_open_with_their_claim(name):
    recipe = load(name, Recipe)
    assert recipe.streams
    head = find_recipe(name).read_text().split("\n[")[0]
    assert re.search("Published.*:", head)
    assert re.search("Measured.*:", head)
    assert "mambavl " in head


def test_the_packaged_extraction_recipe_is_valid():
    assert validate(read_toml(find_recipe("extract/demo")), VideoExtraction, "demo").image_size == 160


def keys(model: type[BaseModel], path=()):
    """Every key of a recipe with its section; entries of dicts of models get the name `video`."""

    for name, field in model.model_fields.items():
        if field.exclude:
            continue
        yield path, name
        inner = model_in(field.annotation)
        if inner:
            step = (name, "video") if name in ("streams", "targets") else (name,)
            yield from keys(inner, path + step)


def misspelled(word: str, seed: int) -> str:
    """One letter dropped, doubled, replaced or swapped with its neighbour."""
    rng = random.Random(f"{word}{seed}")
    while True:
        i = rng.randrange(len(word))
        other = rng.choice(
            [
                word[:i] + word[i + 1 :],
                word[:i] + word[i] + word[i:],
                word[:i] + rng.choice(string.ascii_lowercase) + word[i + 1 :],
                word[: max(i - 1, 0)] + word[max(i - 1, 0) : i + 1][::-1] + word[i + 1 :],
            ]
        )
        if other not in (word, ""):
            return other


@pytest.mark.parametrize("kind", [Recipe, VideoExtraction, TextExtraction, AudioExtraction])
def test_every_key_mistyped_by_one_letter_is_refused_with_the_right_suggestion(kind):
    tried = 0
    for path, name in keys(kind):
        siblings = {other for other_path, other in keys(kind) if other_path == path}
        for seed in range(4):
            wrong = misspelled(name, seed)
            nearest = {s for s in siblings if edit_distance(wrong, s) <= 1}
            if wrong in siblings or nearest != {name}:
                continue  # the typo is as near to another key
            data = override(
                {"streams": STREAMS} if kind is Recipe else {"encoder": "x"},
                [f"{'.'.join([*path, wrong])}=1"],
            )
            with pytest.raises(UsageError, match=rf"`{wrong}`.*did you mean `{name}`"):
                validate(data, kind, "recipe.toml")
            tried += 1
    assert tried > 20


def test_a_fault_of_an_override_is_said_to_be_of_set_and_of_no_file(tmp_path):
    (tmp_path / "mine.toml").write_text("[train]\nepochs = 0\n[streams.video]\nstore = 'v.zarr'\n")
    with pytest.raises(UsageError) as error:
        load(tmp_path / "mine.toml", Recipe, ["train.lrr=3", "fusion={d_sate = 4}", "data.allow_missing=-1"])
    assert [line.split(":")[0] for line in sorted(str(error.value).split("\n"))] == [
        "--set [data]", "--set [fusion]", "--set [train]", "mine.toml [train]",
    ]  # fmt: skip


def test_a_value_in_place_of_a_section_is_answered_with_a_key():
    for assignment, hint in (
        ("fusion=3", "fusion = 3: [fusion] is a section: set its keys, such as fusion.preset"),
        ("streams=3", "streams = 3: [streams] is a section: set its keys, such as streams.NAME.store"),
        ("published=3", "published = 3: [published] is a section: set its keys, such as published.NAME"),
    ):
        with pytest.raises(UsageError) as error:
            validate(override({"streams": STREAMS}, [assignment]), Recipe, "--set")
        assert str(error.value) == f"--set: {hint}"
    with pytest.raises(UsageError, match=r"such as streams\.video\.store$"):
        validate({"streams": {"video": 2}}, Recipe, "r")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("train.trackers=[tensorboard, wandb]", """'train.trackers=["tensorboard", "wandb"]'"""),
        ("use_streams=video", """'use_streams=["video"]'"""),
        ("counts.decays=0.5", "'counts.decays=[0.5]'"),
    ],
)
def test_text_in_place_of_a_list_is_answered_with_the_list(given, meant):
    """bash takes the quotes of train.trackers=["wandb"], and what is left is text."""
    with pytest.raises(UsageError) as error:
        validate(override({"streams": STREAMS}, [given]), Recipe, "--set")
    assert str(error.value).endswith(f": expected a list, such as --set {meant}")
    said = str(error.value).partition(" such as --set '")[2].rstrip("'")
    head = "counts" if said.startswith("counts") else "mambavl"
    assert validate(override({"streams": STREAMS}, [f"head.name={head}", said]), Recipe, "--set")


def test_a_key_without_its_section_is_answered_with_it():
    for given, said in (
        ("lr=3", "there is no key `lr`; did you mean `train.lr`?"),
        ("share=A", "there is no key `share`; did you mean `fusion.share`?"),
        ("num_heads=3", "there is no key `num_heads`; known: title, "),  # of two sections
        ("store=3", "there is no key `store`; known: title, "),  # of every stream
        ("model.lr=3", "there is no key `model`; known: title, "),
    ):
        with pytest.raises(UsageError) as error:
            validate(override({"streams": STREAMS}, [given]), Recipe, "r.toml", [given])
        assert str(error.value).startswith(f"--set: {said}")


def test_a_mistyped_stream_is_refused():
    """A stream may have any name, but a near miss of a known one would be routed wrongly without a word."""
    for wrong, right in (
        ("vidoe", "video"),
        ("verb_qestion", "verb_question"),
        ("noun_questions", "noun_question"),
    ):
        with pytest.raises(UsageError, match=f"did you mean `{right}`"):
            validate({"streams": {wrong: STREAMS["video"]}}, Recipe, "recipe.toml")
    assert validate({"streams": {"depth": STREAMS["video"]}}, Recipe, "recipe.toml").streams


def test_all_faults_are_reported_at_once_with_file_and_section():
    data = {"streams": STREAMS, "train": {"epochs": 0, "lr": "fast"}, "fusion": {"d_sate": 4}}
    with pytest.raises(UsageError) as error:
        validate(data, Recipe, "mine.toml")
    text = str(error.value)
    assert text.count("mine.toml") == 3
    assert "[train]: epochs = 0" in text
    assert "[fusion]: there is no key `d_sate`; did you mean `d_state`?" in text


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_numbers_that_are_not_finite_are_refused(value):
    with pytest.raises(UsageError, match="finite"):
        validate(override({"streams": STREAMS}, [f"train.lr={value}"]), Recipe, "r")


def test_an_override_without_a_value_takes_the_key_out():
    raw = {"train": {"stop_after": 5, "lr": 1.0}, "title": "a", "streams": {"video": {"store": "v"}}}
    sets = ["train.stop_after=", "title= ", "streams.video=", "train.lr=2.0"]
    assert override(raw, sets) == {"train": {"lr": 2.0}, "streams": {}}
    assert raw["title"] == "a"
    assert override({"title": "a"}, ['title=""']) == {"title": ""}
    for key in ("train.stop_afte", "trains.lr", "title.of"):
        with pytest.raises(UsageError, match=f"--set {key}=: there is no {key} to take out"):
            override(raw, [f"{key}="])


def test_overrides_are_toml_values_and_else_text():
    data = override({"a": {"b": 1}}, ["a.b=1e-3", "a.c=true", "a.d=x/y.zarr", "a.e=[1, 2]", 'a.f="3"'])
    assert data == {"a": {"b": 1e-3, "c": True, "d": "x/y.zarr", "e": [1, 2], "f": "3"}}
    with pytest.raises(UsageError, match="key=value"):
        override({}, ["train.lr"])
    with pytest.raises(UsageError, match=r"^--set a\.b: a = 1 is a value, not a section"):
        override({"a": 1}, ["a.b=2"])


def test_the_written_back_recipe_reads_as_the_same_recipe():
    recipe = load("fuse/paper", Recipe, ["train.seed=3", "data.allow_missing=2"])
    again = validate(tomllib.loads(dump(recipe)), Recipe, "again")
    assert again == recipe
    assert again.fusion.mixer == "plain"  # the preset's choices are written out


def test_unknown_files_and_broken_toml_are_named(tmp_path):
    with pytest.raises(UsageError, match="did you mean `fuse/default`"):
        find_recipe("fuse/defalt")
    with pytest.raises(UsageError) as error:
        find_recipe("nofile.toml")
    assert str(error.value).count("fuse/default") == 1
    assert "extract/demo" not in str(error.value)
    broken = tmp_path / "broken.toml"
    broken.write_text("a = [1,\nb = 2")
    with pytest.raises(UsageError, match=r"broken\.toml.*not valid TOML"):
        read_toml(broken)
