"""Questions from templates: the narration with both answers masked (masking.py), in one of many phrasings,
with a hint.

An oracle question is built from the segment's own labels, so what it tells is limited: neither question
contains a form of the segment's own verb class or noun class. What stands is the narration's other words and
the category of the answer in our words, if enough classes share it. The phrasing follows from the row's
id. `generic` is one fixed pair for all segments; `none` is two empty texts.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mambavl.cache.rows import Segment
from mambavl.configs.errors import UsageError
from mambavl.extract.annotations import Annotations
from mambavl.extract.class_lists import ClassList
from mambavl.extract.questions.file import Protocol, Question
from mambavl.extract.questions.forms import (
    KINDS,
    PARTICLES,
    Form,
    Kind,
    class_forms,
    label_forms,
    matches,
    tells,
    words_of,
)
from mambavl.extract.questions.labels import classes_of, refuse_unlabelled
from mambavl.extract.questions.masking import Masked, mask, own_forms

BACKEND = "template"
UNMASKED_BACKEND = "template-unmasked"  # the audit's comparison; its questions say their own answers
PROMPT_VERSION = "template-2"

# No word below, inflected or not, is a word of any EK100 instance (`use`, `something`, `it`, `hand` are), and
# none is a particle: "turn <mask> on" must not come back through a phrasing. The tests hold this against the
# real class files.
GENERIC: dict[Kind, str] = {
    "verb": "What is the person doing?",
    "noun": "Which object does the action involve?",
}
EMPTY: dict[Kind, str] = {"verb": "", "noun": ""}  # of protocol none
PHRASINGS: dict[Kind, tuple[tuple[str, str], ...]] = {  # (question, hint)
    "verb": (
        ('Which action is missing here: "{}"?', " Hint: {}."),
        ('What does the person do: "{}"?', " Clue: {}."),
        ('Someone narrates "{}". Which verb is masked?', " The answer means {}."),
        ('Name the hidden verb: "{}".', " The meaning: {}."),
        ('"{}": which action does this describe?', " Hint: {}."),
        ('Guess the action: "{}".', " The answer denotes {}."),
        ('The narrator says "{}". What does the person do?', " They are {}."),
        ('Please give the masked verb: "{}".', " Clue: {}."),
        ('Which verb was withheld: "{}"?', " The verb expresses {}."),
        ('Identify the unnamed action: "{}".', " Hint: {}."),
        ('"{}". What action is shown?', " The scene shows {}."),
        ('Here is a narration: "{}". Which verb is hidden?', " Clue: {}."),
        ('Infer the omitted verb: "{}".', " The answer means {}."),
        ('What is happening: "{}"?', " The person is {}."),
        ('Which deed does the narrator mention: "{}"?', " The deed: {}."),
        ('"{}": name the action.', " The meaning is {}."),
        ('One verb is unknown: "{}". Which verb is meant?', " Hint: {}."),
        ('Say which action occurs: "{}".', " The action is {}."),
        ('What activity does "{}" describe?', " The activity: {}."),
        ('The caption is "{}". Which verb is absent?', " The verb means {}."),
        ('Recall the concealed verb: "{}".', " Clue: {}."),
        ('Considering "{}", what is the person doing?', " They are {}."),
        ('Deduce the action: "{}".', " The answer: {}."),
        ('Which unspoken verb belongs here: "{}"?', " The verb denotes {}."),
    ),
    "noun": (
        ('Which object is missing here: "{}"?', " Hint: {}."),
        ('The person says "{}". Which object do they mean?', " Clue: {}."),
        ('Someone narrates "{}". Which noun is masked?', " The answer is {}."),
        ('Name the hidden object: "{}".', " The answer is {}."),
        ('"{}": which object does this involve?', " Hint: {}."),
        ('Guess the object: "{}".', " The answer denotes {}."),
        ('The narrator says "{}". Which thing is meant?', " The thing is {}."),
        ('Please give the masked noun: "{}".', " Clue: {}."),
        ('Which noun was withheld: "{}"?', " The noun denotes {}."),
        ('Identify the unnamed object: "{}".', " Hint: {}."),
        ('"{}". What object is shown?', " The scene shows {}."),
        ('Here is a narration: "{}". Which noun is hidden?', " Clue: {}."),
        ('Infer the omitted noun: "{}".', " The answer is {}."),
        ('What object does the action concern: "{}"?', " The object is {}."),
        ('Which thing does the narrator mention: "{}"?', " The thing: {}."),
        ('"{}": name the object.', " The meaning is {}."),
        ('One noun is unknown: "{}". Which noun is meant?', " Hint: {}."),
        ('Say which object appears: "{}".', " The object is {}."),
        ('What thing does "{}" describe?', " The thing: {}."),
        ('The caption is "{}". Which noun is absent?', " The noun means {}."),
        ('Recall the concealed object: "{}".', " Clue: {}."),
        ('Considering "{}", which object does the person mean?', " They mean {}."),
        ('Deduce the object: "{}".', " The answer: {}."),
        ('Which unspoken noun belongs here: "{}"?', " The noun denotes {}."),
    ),
}
BARE = ('"{}"?', " ({}).")  # for a data set whose own classes rule out every phrasing
# A hint that fits two classes leaves a coin to toss, one that fits one is the answer; and so does the lack of
# a hint. In EK100 this silences the nouns `hand` (1 class) and `storage` (2), the verbs `order` (2) and, not
# to leave it alone, `transition` (3).
MIN_CANDIDATES = 3

# EK100's categories in our words; their own names ("hand", "drinks", "retrieve") often are a form of the
# answer.
GLOSSES: dict[Kind, dict[str, str]] = {
    "verb": {
        "retrieve": "obtaining a thing",
        "leave": "depositing a thing elsewhere",
        "clean": "eliminating grime or moisture",
        "access": "exposing or enabling a thing",
        "block": "obstructing, shielding or disabling a thing",
        "split": "severing, dismantling or isolating a thing",
        "merge": "uniting two things",
        "transition": "conveying a thing or travelling",
        "manipulate": "physically altering a thing",
        "monitor": "observing or correcting a condition",
        "distribute": "dispersing a substance widely",
        "order": "neatening things",
        "sense": "perceiving a thing bodily",
    },
    "noun": {
        "appliances": "household equipment",
        "cutlery": "a dining implement",
        "crockery": "a dining vessel",
        "storage": "an area where things are kept",
        "furniture": "an interior furnishing",
        "containers": "a portable receptacle or accessory",
        "cookware": "culinary hardware",
        "utensils": "a culinary implement",
        "vegetables": "a savoury crop",
        "meat and substitute": "animal flesh or an imitation",
        "prepared food": "a ready meal",
        "fruits and nuts": "an orchard crop",
        "spices and herbs and sauces": "a culinary additive",
        "drinks": "a beverage",
        "dairy and eggs": "cow or hen produce",
        "baked goods and grains": "a starchy staple",
        "rubbish": "unwanted debris",
        "materials": "a pliable material",
        "cleaning equipment and material": "a hygiene supply",
        "hand": "human anatomy",
        "other": "a miscellaneous thing",
    },
}


def generate(
    annotations: Annotations,
    protocol: Protocol,
    segments: Sequence[Segment] | None = None,
    *,
    masked: bool = True,
    hints: bool = True,
) -> Iterator[Question]:
    """Questions of `segments` (all of them by default), in their order. Oracle questions need labels.

    `hints=False` leaves out the category of the answer, which tells much of it; the prompt version then says
    so. `masked=False` leaves the answer in oracle questions, for an audit to measure what masking hides;
    their backend is `template-unmasked`. Raises DataError for a row without labels, UsageError for what
    templates cannot make.
    """
    segments = annotations.segments if segments is None else segments
    if protocol not in ("oracle", "generic", "none"):
        raise UsageError(
            f"templates make no {protocol!r} questions; the protocols are oracle, generic and none"
        )
    if protocol != "oracle":
        if not masked:
            raise UsageError(
                f"{protocol} questions have no answer to leave unmasked; masked=False is for `oracle`"
            )
        texts = GENERIC if protocol == "generic" else EMPTY
        return (_question(segment, protocol, texts) for segment in segments)
    refuse_unlabelled(segments, "oracle questions need labels")
    wording = _wording(annotations)
    if not hints:
        wording = replace(wording, hints={kind: {} for kind in KINDS}, version=f"{PROMPT_VERSION}, no hints")
    known: dict[tuple[str | int | None, ...], Masked] = {}
    return (_oracle(annotations, segment, wording, masked, known) for segment in segments)


@dataclass(frozen=True)
class _Wording:
    """What our own words may say with a data set. It is settled once: no row may choose by its own answer."""

    phrasings: dict[Kind, tuple[tuple[str, str], ...]]
    hints: dict[Kind, dict[str, str]]  # by category
    version: str = PROMPT_VERSION


def _wording(annotations: Annotations) -> _Wording:
    taken = _every_form(annotations)
    by_kind: dict[Kind, ClassList] = {"verb": annotations.verbs, "noun": annotations.nouns}
    phrasings: dict[Kind, tuple[tuple[str, str], ...]] = {}
    for kind in KINDS:
        allowed = [pair for pair in PHRASINGS[kind] if not any(tells(text, taken) for text in pair)]
        phrasings[kind] = tuple(allowed) or (BARE,)
    return _Wording(phrasings, {kind: _hints(kind, classes, taken) for kind, classes in by_kind.items()})


def _hints(kind: Kind, classes: ClassList, taken: tuple[frozenset[Form], ...]) -> dict[str, str]:
    """By category, the hint that it gives; a category that is missing gives none."""
    sizes = Counter(classes.categories.values())
    hints: dict[str, str] = {}
    for category, candidates in sizes.items():
        hint = GLOSSES[kind].get(category, " ".join(category.replace("_", " ").split()))
        if hint and candidates >= MIN_CANDIDATES and not tells(hint, taken):
            hints[category] = hint
    smallest = sorted(hints, key=lambda category: (sizes[category], category))
    silent = sum(sizes[category] for category in sizes if category not in hints)
    while (
        smallest and 0 < silent < MIN_CANDIDATES
    ):  # the lack of a hint is a hint: it must fit as many classes
        category = smallest.pop(0)
        del hints[category]
        silent += sizes[category]
    return hints


def _every_form(annotations: Annotations) -> tuple[frozenset[Form], ...]:
    """All forms of all classes, and of all words that rows give as their own, each also word by word."""
    rows = annotations.segments
    labels: dict[Kind, set[str]] = {
        "verb": {*annotations.verbs.keys.values(), *(row.verb for row in rows if row.verb)},
        "noun": {*annotations.nouns.keys.values(), *(row.noun for row in rows if row.noun)},
    }
    single_words: set[Form] = set()
    for kind in KINDS:
        for label in labels[kind]:
            single_words |= label_forms(label, kind)
    return (
        class_forms(annotations.verbs.names, "verb"),
        class_forms(annotations.nouns.names, "noun"),
        frozenset(single_words),
    )


def _oracle(
    annotations: Annotations,
    segment: Segment,
    wording: _Wording,
    masked: bool,
    known: dict[tuple[str | int | None, ...], Masked],
) -> Question:
    """`known` remembers masked narrations: three of four train rows read like another row."""
    same = (segment.narration, segment.verb, segment.verb_class, segment.noun, segment.noun_class)
    if same not in known:
        known[same] = _hide(annotations, segment, masked)
    hidden = known[same]
    verb_class, noun_class = classes_of(segment)
    categories: dict[Kind, str] = {
        "verb": annotations.verbs.categories[verb_class],
        "noun": annotations.nouns.categories[noun_class],
    }
    hints = {kind: wording.hints[kind].get(categories[kind]) for kind in KINDS}
    texts = {kind: _phrase(kind, segment.narration_id, hidden.text, hints[kind], wording) for kind in KINDS}
    backend = BACKEND if masked else UNMASKED_BACKEND
    return _question(segment, "oracle", texts, hidden.words, hints, backend, wording.version)


def _hide(annotations: Annotations, segment: Segment, masked: bool) -> Masked:
    """The narration without quotes and final punctuation, its answers masked unless `masked` is off."""
    narration = " ".join(segment.narration.split()).replace('"', "'").rstrip(" .,;:!?")
    verb_class, noun_class = classes_of(segment)
    return mask(
        narration,
        annotations,
        verb_class,
        noun_class,
        verb_word=_verb_said(annotations, segment),
        noun_word=segment.noun,
        reveal=() if masked else KINDS,
    )


def _verb_said(annotations: Annotations, segment: Segment) -> str:
    """The row's own verb or, where the narration has no form of it, the first word there that is some class's
    verb.

    Rows without a verb column need it: "open tap" is turn-on.
    """
    words = words_of(segment.narration)
    verb_class, noun_class = classes_of(segment)
    verbs = matches(words, own_forms(annotations, "verb", verb_class, segment.verb))
    nouns = matches(words, own_forms(annotations, "noun", noun_class, segment.noun))
    said = matches(words, [class_forms((segment.verb,), "verb")]) - nouns
    if not said and verbs <= nouns | matches(words, [class_forms(annotations.nouns.names, "noun")]):
        # turn-off's instances `tap-off` and `water-off` make verbs of nouns; "close tap" must not say "close"
        # for that
        others = matches(words, [class_forms(annotations.verbs.names, "verb")]) - verbs - nouns
        others -= {place for place in others if place and words[place] in PARTICLES}  # "back away" moves
        if others and (not verbs or min(others) < min(verbs | nouns)):
            return words[min(others)]
    return segment.verb


def _phrase(kind: Kind, narration_id: str, context: str, hint: str | None, wording: _Wording) -> str:
    """A phrasing that follows from the id alone: not from the labels, nor from the machine."""
    number = int.from_bytes(hashlib.sha256(f"{kind}:{narration_id}".encode()).digest()[:8], "big")
    question, hinted = wording.phrasings[kind][number % len(wording.phrasings[kind])]
    return question.format(context) + (hinted.format(hint) if hint else "")


def _question(
    segment: Segment,
    protocol: str,
    texts: dict[Kind, str],
    masked: Sequence[str] = (),
    hints: dict[Kind, str | None] | None = None,
    backend: str = BACKEND,
    prompt_version: str = PROMPT_VERSION,
) -> Question:
    return Question(
        narration_id=segment.narration_id,
        verb_question=texts["verb"],
        noun_question=texts["noun"],
        protocol=protocol,
        backend=backend,
        prompt_version=prompt_version,
        masked={f"{kind}_question": list(masked) for kind in KINDS},
        hint={f"{kind}_question": (hints or {}).get(kind) for kind in KINDS},
    )
