"""What a form is, what every trap of EK100's narrations becomes, and that no question says its own answer."""

import json
import re
import time
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.annotations import Annotations, ClassList, Segment, read_annotations
from mambavl.extract.questions import MASK, Question, generate, read_questions, write_questions
from mambavl.extract.questions.forms import KINDS, contains_form, forms, inflections, numbers, words_of
from mambavl.extract.questions.template import BARE, GENERIC, GLOSSES, PHRASINGS

EK100 = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "ek100"

VERBS = {  # key: (instances, category)
    "take": (("get", "grab", "pick-up", "take", "take-out", "collect-from"), "retrieve"),
    "put": (("lay", "put", "put-down", "put-on", "set-down"), "leave"),
    "turn-on": (("light", "switch-on", "turn-on"), "access"),
    "turn-off": (("switch-off", "turn-off"), "block"),
    "peel": (("peel", "skin"), "split"),
    "cut": (("chop", "cut", "dice", "slice", "slice-through"), "split"),
    "brush": (("brush", "sweep"), "clean"),
    "water": (("water", "wet"), "manipulate"),
    "hang": (("hand", "hang", "hang-up"), "leave"),
    "cook": (("cook", "fry", "stir-fry"), "manipulate"),
}
NOUNS = {
    "tap": (("tap", "tap:water", "water:tap"), "appliances"),
    "plate": (("plate", "dish", "saucer"), "crockery"),
    "board:chopping": (("board:chopping", "board", "board:cutting"), "utensils"),
    "potato": (("potato", "piece:potato"), "vegetables"),
    "knife": (("knife", "blade"), "cutlery"),
    "leaf": (("leaf", "leaf:bay"), "vegetables"),
    "brush": (("brush", "brush:washing"), "cleaning equipment and material"),
    "water": (("water",), "drinks"),
    "hand": (("hand", "finger"), "hand"),
    "table": (("table",), "furniture"),
}


def class_list(table: dict[str, tuple[tuple[str, ...], str]]) -> ClassList:
    return ClassList(
        keys=dict(enumerate(table)),
        instances={i: instances for i, (instances, _) in enumerate(table.values())},
        categories={i: category for i, (_, category) in enumerate(table.values())},
    )


def annotations(verbs: dict = VERBS, nouns: dict = NOUNS, segments: tuple[Segment, ...] = ()) -> Annotations:
    return Annotations(
        folder=Path("toy"),
        segments=segments,
        verbs=class_list(verbs),
        nouns=class_list(nouns),
        tail_verbs=frozenset(),
        tail_nouns=frozenset(),
        unseen_participants=frozenset(),
        videos={},
    )


def segment(
    narration: str, verb_class: str, noun_class: str, *, verb: str = "", noun: str = "", name: str = "P01_01_0", **more
) -> Segment:
    return Segment(
        narration_id=name,
        participant_id="P01",
        video_id="P01_01",
        narration_timestamp="",
        start=0.0,
        stop=1.0,
        start_frame=1,
        stop_frame=60,
        split="validation",
        narration=narration,
        verb=verb or verb_class,
        verb_class=list(VERBS).index(verb_class),
        noun=noun or noun_class,
        noun_class=list(NOUNS).index(noun_class),
        **more,
    )


def ask(row: Segment, data: Annotations | None = None) -> Question:
    (question,) = generate(data or annotations(), "oracle", [row])
    return question


def context(text: str) -> str:
    return re.search(r'"(.*)"', text).group(1)


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
    assert words_of("Turn-ON the tap's water, don't_stop.") == ["turn", "on", "the", "tap", "water", "don't", "stop"]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (segment("put down plate on the table", "put", "plate", verb="put-down"), "<mask> <mask> on the table"),
        (segment("turn tap on", "turn-on", "tap"), "<mask> <mask> <mask>"),
        (segment("switch the tap off", "turn-off", "tap", verb="switch-off"), "<mask> the <mask> <mask>"),
        (segment("collect plates from table", "take", "plate", verb="collect-from"), "<mask> <mask> <mask> table"),
        (segment("wash chopping board", "brush", "board:chopping", verb="wash"), "<mask> <mask>"),
        (segment("take board chopping", "take", "board:chopping"), "<mask> <mask>"),
        (segment("take wooden cutting boards", "take", "board:chopping"), "<mask> wooden <mask>"),
        (segment("chopping potato on chopping board", "cut", "potato", verb="chop"), "<mask> <mask> on <mask> board"),
        (segment("continue peeling potatoes with peeler", "peel", "potato"), "continue <mask> <mask> with <mask>"),
        (segment("took knives", "take", "knife"), "<mask> <mask>"),
        (segment("Take bay leaves.", "take", "leaf", noun="leaf:bay"), "<mask> <mask>"),
        (segment("brush brush with water", "brush", "brush"), "<mask> <mask> with water"),
        (segment("water water plant", "water", "water"), "<mask> <mask> plant"),
        (segment("sweep table with brush", "brush", "table", verb="sweep"), "<mask> <mask> with <mask>"),
        (segment("put plate and knife on table", "put", "plate"), "<mask> <mask> and knife on table"),
        (segment("switch off tap-water", "turn-off", "tap", verb="tap-off"), "<mask> <mask>"),
        (segment("continue opening tap", "turn-on", "tap"), "continue opening <mask>"),  # no class has that verb
        (segment("quickly hang tap", "turn-on", "tap"), "quickly <mask> <mask>"),  # another class has it
        (segment("two plates", "take", "plate"), "two <mask>"),
        (segment("hand knife over", "hang", "knife", verb="hand"), "<mask> <mask> over"),
        (segment("dry hands", "brush", "hand", verb="dry"), "<mask> <mask>"),
        (segment("stir-frying potato", "cook", "potato", verb="stir-fry"), "<mask> <mask>"),
        (segment("take", "take", "plate"), "<mask>"),
        (segment('take "<mask>" {plate}\n', "take", "plate"), "<mask> mask <mask>"),
        (segment("take doohickeys", "take", "plate", noun="doohickey"), "<mask> <mask>"),
        (segment("turn on tap", "turn-on", "tap", words_from_classes=True), "<mask> <mask>"),
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
    """EK100's turn-off has the instance `tap-off`, so "tap" counts as a verb; "close tap" must not show its verb for that."""
    verbs = {**VERBS, "turn-off": (("tap-off", "turn-off"), "block"), "close": (("close", "shut"), "block")}
    expected = {"close tap": "<mask> <mask>", "close the tap": "<mask> the <mask>", "turn off tap": "<mask> <mask>"}
    for words, shown in expected.items():
        row = segment(words, "turn-off", "tap")
        assert context(ask(row, annotations(verbs)).noun_question) == shown, words


def test_what_was_masked_and_what_was_told_are_recorded():
    question = ask(segment("turn tap on", "turn-on", "tap"))
    assert question.masked == {"verb_question": ["turn", "tap", "on"], "noun_question": ["turn", "tap", "on"]}
    assert question.hint == {
        "verb_question": GLOSSES["verb"]["access"],
        "noun_question": GLOSSES["noun"]["appliances"],
    }
    assert question.hint["verb_question"] in question.verb_question
    assert question.hint["noun_question"] in question.noun_question
    assert (question.protocol, question.backend) == ("oracle", "template")


def test_a_category_that_is_the_answer_is_glossed_or_dropped():
    assert "hand" not in words_of(ask(segment("wash hands", "brush", "hand", verb="wash")).noun_question)
    assert "drink" not in words_of(ask(segment("take water", "take", "water")).noun_question)
    strange = dict(NOUNS, hand=(("hand", "finger"), "things of the hands"), tap=(("tap",), "metal_things"))
    data = annotations(nouns=strange)
    dropped = ask(segment("take hand", "take", "hand"), data)
    assert dropped.hint["noun_question"] is None
    assert dropped.noun_question.count('"') == 2
    assert not re.search("Hint|Clue|answer|None", dropped.noun_question)
    assert ask(segment("take tap", "take", "tap"), data).hint["noun_question"] == "metal things"


@pytest.mark.parametrize("word", ["object", "person", "action", "verb", "mean", "hint", "name", "hide"])
def test_a_phrasing_that_says_a_class_of_another_data_set_is_passed_over(word):
    data = annotations(verbs=dict(VERBS, take=((word,), "retrieve")), nouns=dict(NOUNS, plate=((word, "which"), "crockery")))
    for number in range(20):
        question = ask(segment("take plate", "take", "plate", name=f"P01_01_{number}"), data)
        for text in (question.verb_question, question.noun_question):
            assert not contains_form(text, [word], "verb")
            assert not contains_form(text, [word, "which"], "noun")


def test_the_phrasing_follows_from_the_id_alone_and_all_are_used():
    rows = [segment("take plate", "take", "plate", name=f"P01_01_{number}") for number in range(200)]
    first, again = ([*generate(annotations(), "oracle", rows)] for _ in range(2))
    assert first == again
    assert [*generate(annotations(), "oracle", rows[::-1])] == first[::-1]
    assert {len({q.verb_question for q in first}), len({q.noun_question for q in first})} == {5}
    known = ask(segment("take plate", "take", "plate", name="P01_11_0"))  # a stable hash: the same on every machine
    assert known.verb_question == 'Name the hidden verb: "<mask> <mask>". The meaning: obtaining a thing.'
    assert known.noun_question == 'Which object is missing here: "<mask> <mask>"? Hint: a dining vessel.'


def test_generic_is_one_pair_and_none_is_empty_and_neither_needs_labels():
    rows = [segment("take plate", "take", "plate"), Segment("P01_01_1", "P01", "P01_01", "", 0.0, 1.0, 1, 60, "test")]
    for protocol, texts in (("generic", GENERIC), ("none", {"verb": "", "noun": ""})):
        questions = list(generate(annotations(segments=tuple(rows)), protocol))
        assert [q.narration_id for q in questions] == ["P01_01_0", "P01_01_1"]
        for question in questions:
            assert (question.verb_question, question.noun_question) == (texts["verb"], texts["noun"])
            assert question.protocol == protocol
            assert question.masked == {"verb_question": [], "noun_question": []}
            assert question.hint == {"verb_question": None, "noun_question": None}
    with pytest.raises(DataError, match=r"P01_01_1: has no verb and noun class \(1 of 2 .* use `--protocol generic`"):
        generate(annotations(), "oracle", rows)
    with pytest.raises(UsageError, match="no 'predicted' questions"):
        generate(annotations(), "predicted", rows)


_PASTS = """
take took taken, shake shook shaken, hold held, break broke broken, tear tore torn, throw threw thrown, get got,
find found, hang hung, leave left, lay laid, eat ate, wear wore, see saw, choose chose, make made, bring brought,
draw drew, drink drank drunk, sweep swept, grind ground, slide slid, feel felt
"""
PASTS = [row.split() for row in _PASTS.split(",")]


def shape_of(word: str) -> set[str]:
    """What a word may be a form of, by taking endings off: the other way round than the module works."""
    found = {word}
    for ending in ("ings", "ing", "ers", "er", "ed", "es", "s", "d", "r", "rs"):
        stem = word.removesuffix(ending)
        if len(stem) < 2 or stem == word or (ending in ("d", "r", "rs") and not stem.endswith("e")):
            continue
        found.add(stem)
        if ending not in ("s", "es", "d", "r", "rs"):
            found.add(stem + "e")
            if stem[-1] == stem[-2]:
                found.add(stem[:-1])
        if stem.endswith("i"):
            found.add(stem[:-1] + "y")
        if stem.endswith("y"):
            found.add(stem[:-1] + "ie")
        if stem.endswith("v"):
            found |= {stem[:-1] + "f", stem[:-1] + "fe"}
        if stem.endswith("ve"):
            found |= {stem[:-2] + "f", stem[:-2] + "fe"}
    return found | {base for base, *pasts in PASTS if word in pasts}


def says(text: str, instances: tuple[str, ...], kind: str) -> list[str]:
    """The instances that `text` says in some form, by brute force."""
    plain = re.findall(r"[a-z0-9]+", text.replace(MASK, " | ").lower().replace("'s", ""))
    shapes = [shape_of(word) for word in plain] if kind == "verb" else [number_of(word) for word in plain]
    anywhere = set().union(*shapes)
    found = []
    for instance in instances:
        parts = re.split("[-:]", instance)
        if kind == "verb":
            parts = parts[:1]
        if anywhere.issuperset(parts):
            for order in permutations(parts):
                for at in range(len(shapes) - len(order) + 1):
                    if all(part in shapes[at + step] for step, part in enumerate(order)):
                        found.append(instance)
    return found


def number_of(word: str) -> set[str]:
    found = {word, word + "s", word.removesuffix("s"), word.removesuffix("es")}
    if word.endswith("ves"):
        found |= {word[:-3] + "f", word[:-3] + "fe"}
    if word.endswith("ies"):
        found.add(word[:-3] + "y")
    return found - {"cloth"} | {word}  # "clothes" is no plural of "cloth"


VERB_ENDINGS = st.sampled_from(["", "s", "es", "ed", "d", "ing", "er", "ers", "r"])
FILLERS = st.sampled_from(["the", "with", "on", "into", "two", "and", "up", "off", "wooden", "again", "-", ","])


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
            words += [part + draw(st.sampled_from(["", "s", "es", "'s"])) for part in draw(st.permutations(parts))]
    case = draw(st.sampled_from([str.lower, str.upper, str.title]))
    return segment(case(" ".join(words)), verb, noun)


@settings(max_examples=300, deadline=None)
@given(narrations())
def test_no_own_form_is_left_in_any_narration(row):
    question = ask(row)
    for text in (question.verb_question, question.noun_question):
        left = says(context(text), VERBS[row.verb][0], "verb") + says(context(text), NOUNS[row.noun][0], "noun")
        assert not left, (row.narration, text, left)


def test_jsonl_comes_back_as_it_went(tmp_path):
    rows = [segment("put plate on tablé\u2028", "put", "plate", name=f"P01_01_{number}") for number in range(3)]
    questions = list(generate(annotations(), "oracle", rows))
    path = tmp_path / "new" / "questions.jsonl"
    assert write_questions(path, iter(questions)) == 3
    assert [*read_questions(path).values()] == questions
    assert [p.name for p in path.parent.iterdir()] == ["questions.jsonl"]
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3
    assert list(json.loads(lines[0])) == [
        "narration_id",
        "verb_question",
        "noun_question",
        "protocol",
        "backend",
        "prompt_version",
        "masked",
        "hint",
    ]
    assert "tablé" in lines[0]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text("old")

    def broken():
        yield ask(segment("take plate", "take", "plate"))
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError):
        write_questions(path, broken())
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def line(**changes) -> str:
    row = {
        "narration_id": "P01_01_0",
        "verb_question": "",
        "noun_question": "",
        "protocol": "none",
        "backend": "template",
        "prompt_version": "template-1",
        "masked": {"verb_question": [], "noun_question": []},
        "hint": {"verb_question": None, "noun_question": None},
    } | changes
    return json.dumps({key: value for key, value in row.items() if value != "gone"})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", "is not valid JSON"),
        ("", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ('{"backend": 1, "backend": 2}', "a key occurs twice"),
        ("[]", "is not a JSON object"),
        (line(hint="gone", backend="gone"), "has no backend, hint; the keys are narration_id"),
        (line(hints=1), "has unknown hints"),
        (line(), "narration_id P01_01_0 is already on line 1"),
        (line(narration_id="b", protocol="generic"), "protocol 'generic', but line 1 says 'none'"),
        (line(narration_id="b", protocol="magic"), "protocol 'magic' is none of oracle"),
        (line(narration_id=7), "narration_id is 7, not a text"),
        (line(narration_id=""), "narration_id is empty"),
        (line(narration_id="b", verb_question=None), "verb_question is None, not a text"),
        (line(narration_id="b", masked={"verb_question": []}), "masked is .* each a list of words"),
        (line(narration_id="b", masked={"verb_question": [1], "noun_question": []}), "each a list of words"),
        (line(narration_id="b", hint=None), "hint is None; .* each a text or null"),
    ],
)
def test_a_bad_line_is_named_by_file_and_line(tmp_path, bad, message):
    path = tmp_path / "questions.jsonl"
    path.write_text(f"{line()}\n{bad}\n", encoding="utf-8")
    with pytest.raises(DataError, match=rf"questions\.jsonl:2: .*{message}"):
        read_questions(path)


def test_a_file_that_is_missing_empty_or_not_utf8_is_one_clear_line(tmp_path):
    path = tmp_path / "questions.jsonl"
    with pytest.raises(DataError, match=r"cannot be read .*; `mambavl questions generate` makes it"):
        read_questions(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"questions\.jsonl:1: is not valid JSON"):
        read_questions(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="byte 0 is not UTF-8"):
        read_questions(path)


def our_words() -> dict[str, str]:
    """Every word that a phrasing, the generic pair or a gloss says, and where."""
    texts = [*GENERIC.values(), *(text for kind in KINDS for pair in PHRASINGS[kind] for text in pair), *BARE]
    texts += [gloss for kind in KINDS for gloss in GLOSSES[kind].values()]
    return {word: text for text in texts for word in re.findall(r"[a-z]+", text.lower())}


def instance_words(verbs: ClassList, nouns: ClassList) -> set[str]:
    """One-word verbs, heads of hyphenated verbs, all parts of nouns."""
    heads = {name.split("-")[0] for i in verbs.keys for name in (verbs.keys[i], *verbs.instances[i])}
    parts = {part for i in nouns.keys for name in (nouns.keys[i], *nouns.instances[i]) for part in name.split(":")}
    return heads | parts


def test_no_word_of_ours_is_a_word_of_a_small_class_list():
    taken = instance_words(class_list(VERBS), class_list(NOUNS))
    assert not {word: text for word, text in our_words().items() if shape_of(word) & taken}


shared = pytest.mark.skipif(not EK100.is_dir(), reason=f"needs EK100's annotations in {EK100}")


@pytest.fixture(scope="module")
def ek100() -> Annotations:
    return read_annotations(EK100, ("validation",))


@shared
@pytest.mark.shared
def test_no_word_of_ours_is_an_instance_or_a_particle_of_ek100(ek100):
    taken = instance_words(ek100.verbs, ek100.nouns)
    assert len(taken) > 1_000
    assert not {word: text for word, text in our_words().items() if shape_of(word) & taken}
    particles = {part for i in ek100.verbs.keys for name in ek100.verbs.instances[i] for part in name.split("-")[1:]}
    assert not particles & set(our_words())
    assert set(GLOSSES["verb"]) == set(ek100.verbs.categories.values())
    assert set(GLOSSES["noun"]) == set(ek100.nouns.categories.values())


@shared
@pytest.mark.shared
def test_no_question_of_the_validation_split_says_its_own_classes(ek100):
    begin = time.perf_counter()
    questions = list(generate(ek100, "oracle"))
    seconds = time.perf_counter() - begin
    assert len(questions) == 9_668
    leaks, apart = [], []
    for row, question in zip(ek100.segments, questions, strict=True):
        own = {
            "verb": (row.verb, ek100.verbs.keys[row.verb_class], *ek100.verbs.instances[row.verb_class]),
            "noun": (row.noun, ek100.nouns.keys[row.noun_class], *ek100.nouns.instances[row.noun_class]),
        }
        for text in (question.verb_question, question.noun_question):
            leaks += [(row.narration, text, kind, left) for kind in KINDS if (left := says(text, own[kind], kind))]
            particles = {part for name in own["verb"][:2] for part in name.split("-")[1:]}
            apart += [(row.narration, text)] * bool(particles & set(re.findall("[a-z]+", text.lower())))
    assert not leaks, (len(leaks), leaks[:5])
    assert not apart, (len(apart), apart[:5])
    hints = [hint for question in questions for hint in question.hint.values()]
    coverage = sum(hint is not None for hint in hints) / len(hints)
    print(f"hints: {coverage:.1%}; {seconds:.1f} s")
    assert coverage > 0.8
    assert seconds < 60
