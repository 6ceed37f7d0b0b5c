"""What every trap of EK100's narrations becomes, and that no class is named in any form, in any frame."""

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.leakcheck import PASTS, is_form, particles_left, parts_of, says
from helpers.toyclasses import NOUNS, VERBS, annotations, ask, context, segment
from mambavl.extract.annotations import Segment
from mambavl.extract.questions import MASK, generate, mask
from mambavl.extract.questions.forms import contains_form


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            segment("put down plate on the table", "put", "plate", verb="put-down"),
            "<mask> <mask> on the table",
        ),
        (segment("turn tap on", "turn-on", "tap"), "<mask> <mask>"),
        (segment("switch the tap off", "turn-off", "tap", verb="switch-off"), "<mask> the <mask>"),
        (segment("collect plates from table", "take", "plate", verb="collect-from"), "<mask> <mask> table"),
        (segment("wash chopping board", "brush", "board:chopping", verb="wash"), "<mask> <mask>"),
        (segment("take board chopping", "take", "board:chopping"), "<mask> <mask>"),
        (segment("take wooden cutting boards", "take", "board:chopping"), "<mask> wooden <mask>"),
        (
            segment("chopping potato on chopping board", "cut", "potato", verb="chop"),
            "<mask> <mask> on <mask>",
        ),
        (
            segment("continue peeling potatoes with peeler", "peel", "potato"),
            "continue <mask> <mask> with <mask>",
        ),
        (segment("took knives", "take", "knife"), "<mask> <mask>"),
        (segment("Take bay leaves.", "take", "leaf", noun="leaf:bay"), "<mask> <mask>"),
        (segment("brush brush with water", "brush", "brush"), "<mask> <mask> with water"),
        (segment("water water plant", "water", "water"), "<mask> <mask> plant"),
        (segment("sweep table with brush", "brush", "table", verb="sweep"), "<mask> <mask> with <mask>"),
        (segment("put plate and knife on table", "put", "plate"), "<mask> <mask> and knife on table"),
        (segment("switch off tap-water", "turn-off", "tap", verb="tap-off"), "<mask> <mask>"),
        # no class has that verb
        (segment("continue opening tap", "turn-on", "tap"), "continue opening <mask>"),
        (segment("quickly hang tap", "turn-on", "tap"), "quickly <mask> <mask>"),  # another class has it
        (segment("two plates", "take", "plate"), "two <mask>"),
        (segment("hand knife over", "hang", "knife", verb="hand"), "<mask> <mask> over"),
        (segment("dry hands", "brush", "hand", verb="dry"), "<mask> <mask>"),
        (segment("stir-frying potato", "cook", "potato", verb="stir-fry"), "<mask> <mask>"),
        (segment("take", "take", "plate"), "<mask>"),
        (segment('take "<mask>" {plate}\n', "take", "plate"), "<mask> '<mask>' {<mask>}"),
        (segment("take doohickeys", "take", "plate", noun="doohickey"), "<mask> <mask>"),
        (segment("turn on tap", "turn-on", "tap", words_from_classes=True), "<mask> <mask>"),
        (segment("tap on", "turn-on", "tap"), "<mask> <mask>"),
        (segment("Put it down, then wait", "put", "plate"), "<mask> it, then wait"),
        (segment("put the plate on the table", "put", "plate"), "<mask> the <mask> on the table"),
        (segment("put the plate on the table", "put", "plate", verb="put-on"), "<mask> the <mask> the table"),
        (segment("pick the plate up off the table", "take", "plate"), "<mask> the <mask> off the table"),
        (segment("put onion on table", "put", "table", verb="put-on"), "<mask> onion <mask>"),
        (
            segment("take potato from water-tap", "take", "potato", verb="take"),
            "<mask> <mask> from water-tap",
        ),
        (segment("take the table knife's blade", "take", "knife"), "<mask> the table <mask>'s <mask>"),
        (segment("take TAP_WATER, tap:water", "take", "tap"), "<mask> <mask>, <mask>"),
        (segment("sweep choppingboard", "brush", "board:chopping"), "<mask> <mask>"),
        (segment("sweep potatoknife", "brush", "knife"), "<mask> <mask>"),
        (segment("fork-knives in the knifeboard", "brush", "knife"), "fork-<mask> in the knifeboard"),
        (
            segment("cut chopping board", "cut", "board:chopping", words_from_classes=True),
            "<mask> <mask>",
        ),
    ],
    ids=lambda value: value.narration if isinstance(value, Segment) else None,
)
def test_own_forms_of_both_kinds_are_masked(row, expected):
    question = ask(row)
    assert context(question.noun_question) == expected
    assert context(question.verb_question) == expected


def test_a_verb_that_the_class_does_not_know_is_masked_though_the_noun_looks_like_a_verb():
    """EK100's turn-off has the instance `tap-off`, so "tap" counts as a verb; "close tap" must not show its
    verb for that.
    """
    verbs = {**VERBS, "turn-off": (("tap-off", "turn-off"), "block"), "close": (("close", "shut"), "block")}
    expected = {
        "close tap": "<mask> <mask>",
        "close the tap": "<mask> the <mask>",
        "turn off tap": "<mask> <mask>",
    }
    for words, shown in expected.items():
        row = segment(words, "turn-off", "tap")
        assert context(ask(row, annotations(verbs)).noun_question) == shown, words


def test_a_text_keeps_its_case_and_its_punctuation_and_its_own_masks():
    data, verb, noun = annotations(), [*VERBS].index("put"), [*NOUNS].index("plate")
    asked = "Well, the Person PUTS two Plates (clean ones!) down; which <MASK> do they put?"
    shown = mask(asked, data, verb, noun)
    assert shown.text == "Well, the Person <mask> two <mask> (clean ones!); which <MASK> do they <mask>?"
    assert shown.words == ("PUTS", "Plates", "down", "put")
    assert mask("", data, verb, noun).text == ""


def test_letters_in_disguise_are_read():
    data, verb, noun = annotations(), [*VERBS].index("put"), [*NOUNS].index("tap")
    assert (
        mask("the táp, the t\u00adap, the ｔａｐ, the ta\u0300p", data, verb, noun).text
        == "the <mask>, the <mask>, the <mask>, the <mask>"
    )


def test_a_particle_is_told_from_a_preposition():
    data, verb, noun = annotations(), [*VERBS].index("turn-on"), [*NOUNS].index("tap")
    for text, shown in {
        "Which thing on the table runs?": "Which thing on the table runs?",
        "What is on?": "What is <mask>?",
        "<mask> the doohickey on.": "<mask> the doohickey.",
        "<mask> on the doohickey.": "<mask> the doohickey.",
        "They turn it on. A thing on the table.": "They <mask> it. A thing on the table.",
    }.items():
        assert mask(text, data, verb, noun).text == shown


def test_reveal_leaves_a_kind_readable():
    data, verb, noun = annotations(), [*VERBS].index("turn-on"), [*NOUNS].index("tap")
    shown = {
        kinds: mask("turn the tap on", data, verb, noun, reveal=kinds)
        for kinds in [("verb",), ("noun",), ("verb", "noun")]
    }
    assert shown["verb",].text == "turn the <mask> on"
    assert shown["noun",].text == "<mask> the tap"
    assert shown["verb", "noun"].text == "turn the tap on"
    assert shown["verb", "noun"].words == ()


def test_the_number_of_masks_does_not_tell_a_verb_of_two_words():
    rows = [
        ("turn tap on", "turn-on"),
        ("turn on tap", "turn-on"),
        ("switch tap off", "turn-off"),
        ("peel tap", "peel"),
    ]
    assert {context(ask(segment(words, verb, "tap")).verb_question) for words, verb in rows} == {
        "<mask> <mask>"
    }


VERB_ENDINGS = st.sampled_from(["", "s", "es", "ed", "d", "ing", "er", "ers", "r"])
FILLERS = st.sampled_from(
    ["the", "with", "on", "into", "two", "and", "up", "off", "wooden", "again", "-", ","]
)


@st.composite
def narrations(draw):
    verb, noun = draw(st.sampled_from(list(VERBS))), draw(st.sampled_from(list(NOUNS)))
    words = []
    for _ in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(["verb", "noun", "filler"]))
        if kind == "filler":
            words.append(draw(FILLERS))
        elif kind == "verb":
            head, *rest = draw(st.sampled_from(VERBS[verb][0])).split("-")
            stem = head + head[-1] if draw(st.booleans()) and re.search("[aiou][^aeiouwxy]$", head) else head
            words += [stem.removesuffix("e") + draw(VERB_ENDINGS), draw(FILLERS), *rest]
        else:
            parts = draw(st.sampled_from(NOUNS[noun][0])).split(":")
            words += [
                part + draw(st.sampled_from(["", "s", "es", "'s"])) for part in draw(st.permutations(parts))
            ]
    case = draw(st.sampled_from([str.lower, str.upper, str.title]))
    return segment(case(" ".join(words)), verb, noun)


@settings(max_examples=300, deadline=None)
@given(narrations())
def test_no_own_form_is_left_in_any_narration(row):
    question = ask(row)
    for text in (question.verb_question, question.noun_question):
        left = says(context(text), VERBS[row.verb][0], "verb") + says(
            context(text), NOUNS[row.noun][0], "noun"
        )
        assert not left, (row.narration, text, left)


@settings(max_examples=100, deadline=None)
@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from(["<mask>", "on", "the", "Tap", "turn", "-", ". ", "it", "’s"])).map(" ".join)
)
def test_any_text_can_be_masked_and_holds_no_form_after(text):
    data = annotations()
    shown = mask(text, data, [*VERBS].index("turn-on"), [*NOUNS].index("tap")).text
    assert not contains_form(shown, VERBS["turn-on"][0], "verb")
    assert not contains_form(shown, NOUNS["tap"][0], "noun")


def verb_forms(head: str) -> set[str]:
    """The forms of a verb, made without the module."""
    stem = head.removesuffix("e")
    found = {head, head + "s", stem + "ed", stem + "ing", stem + "er"}
    if re.search("(s|x|z|ch|sh)$", head):
        found |= {head + "es"}
    if re.search("[^aeiou]y$", head):
        found |= {head[:-1] + end for end in ("ies", "ied", "ier")}
    if head.endswith(("ee", "ie")):
        found = {head, head + "s", head + "d", head[:-2] + "ying" if head.endswith("ie") else head + "ing"}
    if re.search("[^aeiou][aeiou][^aeiouwxy]$", head):
        found |= {head + head[-1] + end for end in ("ed", "ing", "er")}
    return found | {form for base, *pasts in PASTS if base == head for form in pasts}


def test_every_form_of_every_verb_instance_is_masked_in_every_frame(ek100):
    """What is left is exactly the frame: nothing of the verb, and nothing masked besides."""
    noun = next(i for i, key in ek100.nouns.keys.items() if key == "camera")
    frames = (
        "They {0} the doohickey {1}.",
        "{0} {1} the doohickey.",
        "{0}-{1} the Doohickey; {0}_{1} THEN",
        "They {0}. They {2} it {3}, again",
    )
    text, count = " / ".join(frames), 0
    for verb_class in ek100.verbs.keys:
        for instance in (ek100.verbs.keys[verb_class], *ek100.verbs.instances[verb_class]):
            head, *rest = parts_of(instance)
            for form in verb_forms(head):
                particle = " ".join(rest)
                said = text.format(form, particle, form.upper(), particle.upper())
                left = re.findall("[A-Za-z]+", mask(said, ek100, verb_class, noun).text.replace(MASK, ""))
                assert left == re.findall("[A-Za-z]+", text), (instance, form, left)
                count += 1
    assert count > 5_000


def test_every_noun_instance_is_masked_in_both_orders_and_numbers(ek100):
    verb = next(i for i, key in ek100.verbs.keys.items() if key == "bend")
    count = 0
    for noun_class in ek100.nouns.keys:
        for instance in (ek100.nouns.keys[noun_class], *ek100.nouns.instances[noun_class]):
            head, *rest = parts_of(instance)
            many = re.sub(
                "(?<=[^aeiou])y$",
                "ie",
                re.sub("fe?$", "ve", head) if head in ("knife", "leaf", "half", "loaf", "shelf") else head,
            )
            many += "es" if re.search("(s|x|z|ch|sh)$", many) else "s"
            for one in (head, many):
                spoken = [*reversed(rest), one]
                frame = "see the {} there, {}'s thing, ({}), the {} there, {}’s thing, ({})"
                text = frame.format(
                    " ".join(spoken),
                    " ".join(spoken).upper(),
                    "-".join(spoken),
                    ":".join([one, *rest]),
                    "_".join(spoken).title(),
                    " ".join([one, *rest]),
                )
                shown = mask(text, ek100, verb, noun_class, noun_word=instance).text
                assert shown == frame.format(*[MASK] * 6), (text, shown)
                count += 6
    assert count > 5_000


def test_no_question_of_any_real_row_says_its_own_classes(ek100):
    """All 76,885 rows; those that read alike are asked once. `pytest -s` shows what else is masked."""
    alike = {
        (row.narration, row.verb, row.noun, row.verb_class, row.noun_class): row for row in ek100.segments
    }
    assert len(ek100.segments) == 76_885
    assert len(alike) > 19_000
    leaks, apart, beside, hidden = [], [], [], 0
    for row, question in zip(alike.values(), generate(ek100, "oracle", [*alike.values()]), strict=True):
        own = {
            "verb": (row.verb, ek100.verbs.keys[row.verb_class], *ek100.verbs.instances[row.verb_class]),
            "noun": (row.noun, ek100.nouns.keys[row.noun_class], *ek100.nouns.instances[row.noun_class]),
        }
        shown = context(question.verb_question)
        assert f'"{shown}"' in question.noun_question
        text = f"{question.verb_question} | {question.noun_question.replace(shown, '')}"
        leaks += [
            (row.narration, text, kind, left)
            for kind, names in own.items()
            if (left := says(text, names, kind))
        ]
        apart += [
            (row.narration, shown, left)
            for left in particles_left(row.narration, shown, own["verb"][:2], own["verb"][2:])
        ]
        masked = question.masked["verb_question"]
        hidden += len(masked)
        beside += [
            (word, row.narration)
            for word in masked
            if not any(is_form(word, names, kind) for kind, names in own.items())
        ]
    print(f"{len(beside)} of {hidden} masked words are no form to the checker; 30 of them:")
    for word, narration in random.Random(0).sample(beside, min(30, len(beside))):
        print(f"  {word}: {narration}")
    assert not leaks, (len(leaks), leaks[:5])
    assert not apart, (len(apart), apart[:5])
    assert len(beside) < 0.01 * hidden
