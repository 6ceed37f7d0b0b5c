"""Which questions go with a video that nobody has narrated."""

from types import SimpleNamespace

import pytest

from mambavl.cache.spec import QuestionsProvenance
from mambavl.configs.errors import UsageError
from mambavl.extract.questions import read_questions
from mambavl.extract.questions.template import GENERIC, PROMPT_VERSION
from mambavl.predict.asked import MASKED, asked


def run(protocol=None, backend="template", version=PROMPT_VERSION, kinds=("verb", "noun")):
    """A run that reads video, and questions of a protocol if one is given."""
    streams = {"video": SimpleNamespace(is_text=False)}
    made = (
        None
        if protocol in (None, "unknown")
        else QuestionsProvenance(protocol=protocol, backend=backend, prompt_version=version)
    )
    store = SimpleNamespace(spec=SimpleNamespace(recipe=SimpleNamespace(questions=made)))
    for kind in kinds if protocol else ():
        source = SimpleNamespace(level=f"{kind}_question/last_hidden")
        streams[f"{kind}_question"] = SimpleNamespace(is_text=True, store=store, source=source)
    return SimpleNamespace(run="RUN", streams=streams)


def test_questions_that_were_the_same_for_all_are_asked_again():
    assert asked(run("generic"), []).texts == GENERIC
    none = asked(run("none"), [])
    assert (none.protocol, none.texts) == ("none", {"verb": "", "noun": ""})


@pytest.mark.parametrize(
    ("trained", "why"),
    [
        (run("oracle"), r"from what the narrator said of each action \(oracle\)"),
        (run("predicted"), r"another recogniser's guesses at each action \(predicted\)"),
        (run("generic", backend="mine"), "two questions of mine that its store does not repeat"),
        (run("generic", version="template-0"), "that its store does not repeat"),
        (run("unknown"), "of unknown origin"),
    ],
)
def test_questions_that_nobody_can_ask_of_this_video_are_refused(trained, why):
    with pytest.raises(UsageError, match=why) as error:
        asked(trained, [])
    for choice in ("generic", "masked", "none", "'verb="):
        assert f"--questions {choice}" in str(error.value)


def test_each_may_be_asked_in_the_place_of_another():
    for protocol in ("oracle", "generic", "none", "predicted", "unknown"):
        assert asked(run(protocol), ["generic"]).texts == GENERIC
        assert asked(run(protocol), ["none"]).protocol == "none"
        assert asked(run(protocol), ["masked"]).texts == MASKED
        assert asked(run(protocol), ["noun=B?", "verb=A?"]).texts == {"verb": "A?", "noun": "B?"}


def test_masked_questions_say_nothing_but_masks():
    assert MASKED == {
        "verb": 'Which action is missing here: "<mask> <mask>"?',
        "noun": 'Which object is missing here: "<mask> <mask>"?',
    }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["oracle"], "--questions 'oracle': "),
        (["What?"], "--questions 'What\\?': "),
        (["tool=What?", "verb=A?"], "--questions 'tool=What\\?': "),
        (["verb= ", "noun=B?"], "--questions 'verb= ': "),
        (["verb=A?"], "asks nothing about the noun"),
        (["verb=A?", "verb=C?", "noun=B?"], "asks the verb twice"),
        (["generic", "none"], "--questions 'generic': "),
    ],
)
def test_what_is_no_question_is_refused(given, said):
    with pytest.raises(UsageError, match=said):
        asked(run("generic"), given)


def test_a_run_that_reads_one_question_is_asked_one():
    assert asked(run("oracle", kinds=("verb",)), ["verb=A=B?"]).texts == {"verb": "A=B?", "noun": ""}


def test_a_run_without_text_is_asked_nothing():
    assert asked(run(), []) is None
    with pytest.raises(UsageError, match="reads no text, only video"):
        asked(run(), ["generic"])


@pytest.mark.parametrize("given", [["generic"], ["none"], ["masked"], ["verb=A?", "noun=B?"]])
def test_they_make_a_question_file(tmp_path, given):
    questions = asked(run("oracle"), given)
    questions.write(tmp_path / "q.jsonl", "v_0")
    [question] = read_questions(tmp_path / "q.jsonl").values()
    assert question.narration_id == "v_0"
    assert question.protocol == questions.protocol
    assert {"verb": question.verb_question, "noun": question.noun_question} == questions.texts
