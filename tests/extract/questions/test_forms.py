"""Forms of a class: inflections, numbers, words of a text."""

import pytest

from mambavl.extract.questions import MASK
from mambavl.extract.questions.forms import contains_form, forms, inflections, numbers, words_of


@pytest.mark.parametrize(
    ("verb", "expected"),
    [
        ("put", "puts putting putter"),
        ("chop", "chops chopped chopping chopper choppers"),
        ("peel", "peels peeled peeling peelings peeler peelers"),
        ("dice", "dices diced dicing dicer"),
        ("wash", "washes washed washing washer"),
        ("dry", "dries dried drying drier dryer"),
        ("tie", "ties tied tying"),
        ("take", "takes took taken taking taker"),
        ("hold", "holds held holding holder"),
        ("shake", "shakes shook shaken shaking shaker"),
        ("cut", "cut cuts cutting cutter"),
        ("unfreeze", "unfroze unfrozen unfreezing"),
        ("grind", "ground grinding grinder"),
        ("mix", "mixes mixed mixing mixer"),
        ("transfer", "transferred transferring"),
    ],
)
def test_a_verb_takes_its_inflections(verb, expected):
    assert set(expected.split()) <= inflections(verb)


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("plate", "plates"),
        ("dish", "dishes"),
        ("potato", "potatoes"),
        ("knife", "knives"),
        ("leaf", "leaves"),
        ("shelf", "shelves"),
        ("half", "halves"),
        ("berry", "berries"),
        ("box", "boxes"),
        ("tray", "trays"),
        ("mouse", "mice"),
        ("spread", "spreads"),
    ],
)
def test_a_noun_takes_its_other_number_whichever_was_given(one, many):
    assert many in numbers(one)
    assert one in numbers(many)


def test_a_noun_is_not_inflected_like_a_verb_and_cloth_is_not_the_singular_of_clothes():
    assert "brushing" not in numbers("brush")
    assert "cloth" not in numbers("clothes")
    assert "glas" not in numbers("glass")


def test_forms_are_tuples_of_words():
    verb_forms = forms(["pick-up"], "verb")
    assert {("pick", "up"), ("picking", "up"), ("picked",)} <= verb_forms
    assert ("up",) not in verb_forms
    noun_forms = forms(["board:chopping", "lid:milk:bottle"], "noun")
    assert {("chopping", "board"), ("board", "chopping"), ("chopping", "boards")} <= noun_forms
    assert ("milk", "bottle", "lids") in noun_forms
    assert ("board",) not in noun_forms


def test_contains_form_reads_words_not_letters_and_no_mask():
    assert contains_form("Two Chopping-Boards!", ["board:chopping"], "noun")
    assert contains_form("the knife’s edge", ["knife"], "noun")
    assert not contains_form("plateau", ["plate"], "noun")
    assert not contains_form(f"a {MASK} here", ["mask"], "noun")
    assert not contains_form(f"chopping {MASK} board", ["board:chopping"], "noun")


def test_words_of_reads_case_hyphens_and_apostrophes():
    assert words_of("Turn-ON the tap's water, don't_stop.") == [
        "turn",
        "on",
        "the",
        "tap",
        "water",
        "don't",
        "stop",
    ]
