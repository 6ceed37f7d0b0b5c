"""The rows of Tables 1 to 3: all that the paper prints, and heads of the size that it counts."""

import re

import pytest

from helpers.tables import make_store
from mambavl.complexity.count import recipe_cost, table_4
from mambavl.configs import validate
from mambavl.fuse.published import published
from mambavl.fuse.recipe import Recipe
from mambavl.reproduce.inputs import find
from mambavl.reproduce.rows import QUESTIONS, table
from mambavl.reproduce.tables import Asked, recipe_of

BOTH = ("matched", "released")
WIDTH = {"avion-vit-l": 1024, "lavila-tsf-l": 1024}  # of the encoders' tokens


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    """(table, inputs, row) -> its recipe at its own size, over made-up stores that fit."""
    found = {}
    for inputs in BOTH:
        for number in (1, 2, 3):
            folder = tmp_path_factory.mktemp(f"{inputs}{number}")
            one = table(number, inputs)
            for place, wanted in enumerate(one.wanted):
                make_store(folder / f"{place}.zarr", wanted)
            stores = find([folder], one.wanted, ())
            for row in one.rows:
                if row.recipe:
                    raw = recipe_of(Asked(one), row, stores)
                    raw.pop("grid")
                    found[number, inputs, row.name] = validate(raw, Recipe, row.name)
    return found


@pytest.mark.parametrize("number", [1, 2, 3])
def test_every_row_that_the_paper_prints_is_there(number):
    def is_of(row):
        quoted = re.search(r"2409\.11513v1, Tables? ([\d, and]+)", row.source)
        return quoted is not None and str(number) in re.findall(r"\d", quoted[1])

    printed = {name for name, row in published().items() if is_of(row)}
    # the paper quotes AVION ViT-B with other figures than AVION's own
    assert {row.published for row in table(number, "matched").rows} - {None} == printed


def test_a_row_has_a_recipe_or_says_why_not(recipes):
    for number in (1, 2, 3):
        for row in table(number, "matched").rows:
            assert bool(row.recipe) != bool(row.why_not)
            assert ((number, "matched", row.name) in recipes) == bool(row.recipe)


def test_matched_heads_read_the_same_tokens_and_released_ones_do_not(recipes):
    names = ("MambaVL", "MLP, 2 layers", "Transformer 6x4", "Transformer 12x12")
    matched = [recipes[3, "matched", name] for name in names]
    assert len({str(recipe.streams) for recipe in matched}) == 1
    assert {recipe.train.model_dump_json() for recipe in matched[1:]} == {
        # its SSM's own rate is all that the others do not have
        matched[0].train.model_copy(update={"lr_ssm": matched[1].train.lr_ssm}).model_dump_json()
    }
    assert {(recipe.head.input_norm, recipe.head.dropout) for recipe in matched} == {(False, 0.0)}
    assert {(recipe.head.video_mlp_layers, recipe.head.text_mlp_layers) for recipe in matched} == {(2, 2)}
    main, *others = [recipes[3, "released", name] for name in names]
    assert (main.streams["video"].level, main.streams["video"].class_token) == ("patch", True)
    assert {main.streams[name].level for name in QUESTIONS} == {
        f"{name}/embedding_layer" for name in QUESTIONS
    }
    for recipe in others:
        assert (recipe.streams["video"].level, recipe.streams["video"].class_token) == ("cls", False)
        assert {recipe.streams[name].level for name in QUESTIONS} == {f"{name}/pooled" for name in QUESTIONS}


def test_the_controls_differ_from_the_main_row_in_what_they_say(recipes):
    for inputs in BOTH:
        main = recipes[3, inputs, "MambaVL"]
        assert set(recipes[3, inputs, "video only"].streams) == {"video"}
        assert set(recipes[3, inputs, "text only"].streams) == set(QUESTIONS)
        assert recipes[3, inputs, "share none"].fusion.share == "none"
        assert main.fusion.share == "A"
        untrained = recipes[3, inputs, "random text encoder"]
        assert untrained.streams["video"] == main.streams["video"]
        assert untrained.streams["verb_question"].store != main.streams["verb_question"].store


def test_released_heads_have_the_parameters_of_table_4(recipes):
    """The head's own, without classifiers: counted there from models built by hand, here from the recipes."""
    rows = table_4()
    known = {
        "MLP, 2 layers": "mlp",
        "Transformer 6x4": "transformer_6x4",
        "Transformer 12x12": "transformer_12x12",
        "MambaVL": "mambavl",
    }
    pre_logits = 768 * 768 + 768  # ORViT's own there, the head's here
    for name, of_table in known.items():
        given = dict.fromkeys(("video", *QUESTIONS), (1, 768))
        head, _ = recipe_cost(recipes[3, "released", name], given)
        [there] = [part for part in rows[of_table] if part.name == "head"]
        mine = head.cost.trainable - (pre_logits if name == "MambaVL" else 0)
        assert mine == there.cost.trainable, name


def test_the_published_row_is_in_the_recipe_where_it_is_of_top1(recipes):
    assert recipes[1, "matched", "MambaVL (ViT-L)"].published == {"verb": 74.3, "noun": 67.1, "action": 55.0}
    assert recipes[2, "matched", "MambaVL (ORViT)"].published == {}
    assert recipes[3, "matched", "share none"].published == {}


def test_inputs_are_those_of_paper_and_release(recipes):
    for number in (1, 2, 3):
        for row in table(number, "released").rows:
            if row.recipe:
                assert row.recipe == "fuse/released"
    paper = recipes[1, "matched", "MambaVL (ViT-B)"]
    assert (paper.fusion.preset, paper.streams["video"].level) == ("paper", "frame")
    avion = recipes[1, "released", "MambaVL (ViT-B)"]
    assert not avion.fusion.pre_logits  # it is ORViT's
    assert recipes[1, "released", "MambaVL (ORViT)"].fusion.pre_logits
    rules = {one.rule for one in table(2, "matched").wanted if one.kind == "video"}
    assert rules == {"strict"}
    assert {one.rule for one in table(2, "released").wanted if one.kind == "video"} == {"inavit"}
    for inputs in BOTH:
        assert {one.protocol for one in table(2, inputs).wanted if one.kind == "text"} == {"predicted"}
        for row in table(1, inputs).rows:
            if row.recipe:
                encoder = row.streams["video"][0].encoder
                assert recipes[1, inputs, row.name].head.d_model == WIDTH.get(encoder, 768), row.name
