"""The checker: every planted form is found, a clean file stays clean, and nothing hides a word."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.toyaudit import CLEAN, DATA, TABLES
from mambavl.extract.questions import generate
from mambavl.extract.questions.forms import KINDS, forms, numbers
from mambavl.extract.questions.leaks import Checker, Names, words
from mambavl.extract.questions.masking import mask
from mambavl.extract.questions.template import GENERIC


@st.composite
def plants(draw):
    row, question = draw(st.sampled_from([*zip(DATA.segments, CLEAN, strict=True)]))
    kind, key = draw(st.sampled_from(KINDS)), draw(st.sampled_from(["verb_question", "noun_question"]))
    form = draw(st.sampled_from(sorted(forms(TABLES[kind][getattr(row, kind)][0], kind))))
    text = getattr(question, key).split(" ")
    place = draw(st.integers(0, len(text)))
    said = draw(st.sampled_from([str.lower, str.upper, str.title]))(
        draw(st.sampled_from([" ", "-"])).join(form)
    )
    return (
        row,
        kind,
        replace(
            question,
            **{key: " ".join([*text[:place], said + draw(st.sampled_from(["", ",", "'s"])), *text[place:]])},
        ),
    )


@settings(max_examples=500, deadline=None)
@given(plants())
def test_any_form_planted_anywhere_in_a_clean_question_is_found(plant):
    row, kind, question = plant
    assert kind in {leak.kind for leak in Checker(DATA).leaks(row, question)}, question


def test_a_clean_file_is_clean_and_the_placeholder_is_no_word():
    checker = Checker(DATA)
    assert not [leak for row, q in zip(DATA.segments, CLEAN, strict=True) for leak in checker.leaks(row, q)]
    assert words("A <mask> Knife's\u2019 stir-fry_2") == ["a", "\0", "knife", "s", "stir", "fry", "2"]
    names = Names("noun", {0: ("board:chopping",)})
    assert names.find("two chopping-boards") == {0: "chopping boards"}
    assert names.find("the board chopping") == {0: "board chopping"}
    assert not names.find("chopping <mask> board")
    assert not Names("noun", {0: ("clothes",), 1: ("plate",)}).find("a cloth on the plateau")


@pytest.mark.parametrize(
    ("text", "kind", "found"),
    [
        ("picking the plate up", "verb", "picking"),
        ("what was turned on with it", "verb", "turned"),
        ("the peelings in the bin", "verb", "peelings"),
        ("they took it", "verb", "took"),
        ("it hung there", "verb", "hung"),
        ("bay leaves", "noun", "leaves"),
        ("a water-tap", "noun", "water tap"),
    ],
)
def test_what_the_reader_sees_in_a_text(text, kind, found):
    names = Names(
        kind, {i: (key, *instances) for i, (key, (instances, _)) in enumerate(TABLES[kind].items())}
    )
    assert found in names.find(text).values()


def test_every_form_of_every_ek100_class_is_found_and_no_masked_question_raises_an_alarm(
    ek100_validation, count
):
    """The two readers work in opposite directions and share no table; they agree on 58,000 forms and 9,668
    rows.
    """
    data = ek100_validation
    checker = Checker(data)
    planted, missed = 0, []
    for kind, classes, names in (("verb", data.verbs, checker.verbs), ("noun", data.nouns, checker.nouns)):
        for class_id, key in classes.keys.items():
            # all 582,663 were tried once: none is missed
            own = sorted(forms((key, *classes.instances[class_id]), kind))[::10]
            planted += len(own)
            missed += [
                form
                for form in own
                if class_id not in names.find(f"What is the {' '.join(form)} here, <mask>?")
            ]
    assert not missed, (len(missed), missed[:5])
    assert planted > 40_000
    count("planted forms of EK100 classes", planted)
    questions = list(generate(data, "oracle"))
    alarms = [leak for row, q in zip(data.segments, questions, strict=True) for leak in checker.leaks(row, q)]
    assert not alarms, (len(alarms), alarms[:5])


DERIVED = ("", "s", "ing", "ed", "er", "ers", "able", "age", "al", "ation", "ations", "ion", "ions", "ment",
           "ments", "ture", "tures", "ure", "ures")  # fmt: skip


def test_what_the_checker_would_find_is_masked_in_any_text(ek100_validation):
    """Deeds as things, which a language model may write: movement, replacements, closure."""
    data = ek100_validation
    checker, noun_class = Checker(data), next(iter(data.nouns.keys))
    tried, left = 0, []
    for class_id, key in data.verbs.keys.items():
        for name in {words(name)[0] for name in (key, *data.verbs.instances[class_id])}:
            for stem, ending in [
                (stem, ending) for stem in {name, name.removesuffix("e")} for ending in DERIVED
            ]:
                text = f"Which {stem}{ending} of it is seen?"
                if class_id in checker.verbs.find(text):
                    tried += 1
                    if class_id in checker.verbs.find(mask(text, data, class_id, noun_class).text):
                        left.append(stem + ending)
    assert tried > 3_000
    assert not left, (len(left), left[:20])


def test_accents_and_invisible_characters_hide_nothing():
    checker = Checker(DATA)
    for text in ("t\u200bake it", "Ta\u0301ke it", "t\u00adake it"):
        assert checker.verbs.find(text), text


def test_numbers_and_generic_words_say_no_class():
    """The fixed pair is read by the same checker: it must name no class of the table."""
    checker = Checker(DATA)
    assert not any(names.find(text) for names in (checker.verbs, checker.nouns) for text in GENERIC.values())
    assert numbers("plate") <= {word for word in numbers("plate") if checker.nouns.find(word)}
