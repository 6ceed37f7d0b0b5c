"""Which replies are accepted, which are not and under what name, and that nothing accepted says its own
labels.
"""

import json
import random
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.llm_server import BAD, ODD, sound, spoiled
from helpers.toyclasses import NOUNS, VERBS, annotations, segment
from mambavl.extract.class_lists import spoken
from mambavl.extract.questions import MASK
from mambavl.extract.questions.forms import KINDS, contains_form
from mambavl.extract.questions.llm.replies import Rejected, is_fenced, judge_description, judge_questions
from mambavl.extract.questions.llm.requests import Reply

ROW = segment("cut potato", "cut", "potato")
VERB_QUESTION = "Which action does the cook perform on the <mask> there?"
NOUN_QUESTION = "Which object does the cook <mask> with such care there?"


def reply(text: str | None, finish_reason: str | None = "stop", refusal: str | None = None) -> Reply:
    return Reply(text, finish_reason, refusal)


def pair(verb: object = VERB_QUESTION, noun: object = NOUN_QUESTION, **more: object) -> Reply:
    return reply(json.dumps({"verb_question": verb, "noun_question": noun, **more}))


def judged(given: Reply):
    return judge_questions(given, annotations(), ROW)


def test_two_sound_questions_are_accepted_as_they_are():
    made = judged(pair())
    assert (made.verb.text, made.noun.text) == (VERB_QUESTION, NOUN_QUESTION)
    assert (made.verb.words, made.noun.words) == ((), ())


def test_own_words_are_masked_and_noted():
    made = judged(
        pair(
            "While the cook is chopping potatoes, which action is to be seen there?",
            "Which object is being cut there?",
        )
    )
    assert made.verb.text == "While the cook is <mask> <mask>, which action is to be seen there?"
    assert made.verb.words == ("chopping", "potatoes")
    assert made.noun.text == "Which object is being <mask> there?"


def test_a_mask_of_the_model_counts_as_ours_however_it_is_written():
    made = judged(pair(VERB_QUESTION.replace(MASK, "<MASK>")))
    assert made.verb.text == VERB_QUESTION


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (reply(None), "empty"),
        (reply("  \n"), "empty"),
        (reply("{}", "length"), "truncated"),
        (reply("{}", None), "unfinished"),
        (reply("{}", "tool_calls"), "unfinished"),
        (reply("{}", "content_filter"), "refused"),
        (reply(None, "stop", "No."), "refused"),
        (reply("I’m sorry, I can’t help with that."), "refused"),
        (reply("As an AI language model I have no eyes."), "refused"),
        (pair("I cannot see which action that is, can you?"), "refused"),
        (reply('{"verb_question": "What'), "malformed"),
        (reply("Here you are: {}"), "malformed"),
        (reply("[" * 5_000), "malformed"),
        (reply('{"verb_question": "a", "verb_question": "b"}'), "malformed"),
        (reply("```json\n{}\n``` and ```json\n{}\n```"), "malformed"),
        (reply("[]"), "fields"),
        (reply('{"verb_question": "Which action is done here?"}'), "fields"),
        (pair(more="this"), "fields"),
        (pair(verb=None), "fields"),
        (pair(verb=[VERB_QUESTION]), "fields"),
        (pair(verb=7), "fields"),
        (reply("x" * 30_000), "length"),
        (pair("Which action?"), "length"),
        (pair("which action " * 30 + "?"), "length"),
        (pair(VERB_QUESTION.removesuffix("?")), "no question"),
        (pair(VERB_QUESTION + " Tell me."), "no question"),
        (pair("Which\x00action is done there?"), "characters"),
        (pair("Which\u202eaction is done there?"), "characters"),
        (pair(NOUN_QUESTION, VERB_QUESTION), "swapped"),
        (pair(VERB_QUESTION, VERB_QUESTION), "swapped"),
        (pair("Why is the cook chopping so very fast there?", "Why is the potato lying there?"), "swapped"),
        (pair("Does the cook cut potato, chop potatoes, dice potato?"), "leaking"),
        (pair("Cutting potatoes, cut potato, or slicing potatoes?"), "leaking"),
    ],
)  # fmt: skip
def test_bad_replies_are_rejected_by_name(given, kind):
    with pytest.raises(Rejected) as rejected:
        judged(given)
    assert rejected.value.kind == kind
    assert len(str(rejected.value)) < 1_000


@pytest.mark.parametrize("text", ["", "one " * 100, "I'm sorry, no."])
def test_a_description_has_a_length_and_is_no_refusal(text):
    with pytest.raises(Rejected):
        judge_description(reply(json.dumps({"description": text})))


def test_one_fenced_block_is_taken_for_what_it_holds():
    fenced = reply(f"```json\n{pair().text}\n```")
    assert is_fenced(fenced)
    assert not is_fenced(pair())
    assert judged(fenced) == judged(pair())


@pytest.mark.parametrize("fault", [*BAD, *ODD])
def test_the_scripted_server_s_replies_are_bad_or_sound_as_their_names_say(fault):
    """The fault tests rest on this: what the server calls bad is rejected in both stages, what it calls odd
    is accepted.
    """
    for asked in (
        {"narration": "cut potato", "verb": "cut", "noun": "potato"},
        {"description": "d", "verb": "cut", "noun": "potato"},
    ):
        choice = spoiled(fault, asked)
        given = Reply(choice["message"]["content"], choice["finish_reason"], choice["message"].get("refusal"))
        judge = judge_description if "narration" in asked else judged
        if fault in ODD:
            judge(given)
        else:
            with pytest.raises(Rejected):
                judge(given)


def test_every_class_planted_in_every_place_is_masked_or_rejected():
    data, planted, caught = annotations(), 0, 0
    for verb, (verbs, _) in VERBS.items():
        for noun, (nouns, _) in NOUNS.items():
            row = segment("x", verb, noun)
            for word in (*map(spoken, verbs), *map(spoken, nouns)):
                for frame in (
                    "Which action with {} is shown there?",
                    "{}: what is done there, and why so?",
                    "Why is there {}?",
                ):
                    planted += 1
                    try:
                        made = judge_questions(pair(frame.format(word), NOUN_QUESTION), data, row)
                    except Rejected:
                        caught += 1
                        continue
                    own = {"verb": verbs, "noun": nouns}
                    assert not any(
                        contains_form(q.text, own[kind], kind)
                        for q in (made.verb, made.noun)
                        for kind in KINDS
                    )
                    caught += bool(made.verb.words)
    assert caught == planted > 1_500


@settings(deadline=None, max_examples=300)
@given(
    st.text(max_size=300)
    | st.recursive(st.none() | st.text(), lambda t: st.dictionaries(st.text(), t) | st.lists(t)).map(
        json.dumps
    )
)
def test_no_reply_breaks_the_judge(text):
    for judge in (judged, judge_description):
        with suppress(Rejected):
            judge(reply(text))


def test_a_sound_reply_with_one_letter_changed_is_accepted_or_rejected_and_never_breaks_the_judge():
    dice, text = random.Random(0), json.dumps(sound({"description": "d", "verb": "cut", "noun": "potato"}))
    accepted = 0
    for _ in range(500):
        place = dice.randrange(len(text))
        try:
            judged(reply(text[:place] + dice.choice('a"\\{}?:,\n<é') + text[place + 1 :]))
            accepted += 1
        except Rejected:
            pass
    assert 0 < accepted < 500
