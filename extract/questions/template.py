"""Questions from templates, and the rule of what a question may tell.

An oracle question is built from the segment's own labels, so what it tells is limited by one rule. Neither question
contains a form of the segment's own verb class or noun class: they stand as `<mask>`. What stands is the narration's
other words and a hint, the category of the asked class in our words. `generic` is one fixed pair for all segments;
`none` is two empty texts.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Literal

from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.annotations import Annotations, Segment
from mambavl.extract.questions.file import MASK, Question
from mambavl.extract.questions.forms import KINDS, Form, Kind, class_forms, label_forms, matches, tells, words_of

Protocol = Literal["oracle", "generic", "none"]
BACKEND = "template"
PROMPT_VERSION = "template-1"

# No word below, inflected or not, is a word of any EK100 instance (`use`, `something`, `it`, `hand` are), and none is a
# particle: "turn <mask> on" must not come back through a phrasing. The tests hold this against the real class files.
GENERIC = {"verb": "What is the person doing?", "noun": "Which object does the action involve?"}
PHRASINGS: dict[Kind, tuple[tuple[str, str], ...]] = {  # (question, hint)
    "verb": (
        ('Which action is missing here: "{}"?', " Hint: {}."),
        ('What does the person do: "{}"?', " Clue: {}."),
        ('Someone narrates "{}". Which verb is masked?', " The answer means {}."),
        ('Name the hidden verb: "{}".', " The meaning: {}."),
        ('"{}": which action does this describe?', " Hint: {}."),
    ),
    "noun": (
        ('Which object is missing here: "{}"?', " Hint: {}."),
        ('The person says "{}". Which object do they mean?', " Clue: {}."),
        ('Someone narrates "{}". Which noun is masked?', " The answer is {}."),
        ('Name the hidden object: "{}".', " The answer is {}."),
        ('"{}": which object does this involve?', " Hint: {}."),
    ),
}
BARE = ('"{}"?', " ({}).")  # for a data set whose own classes rule out every phrasing

# EK100's categories in our words; their own names ("hand", "drinks", "retrieve") often are a form of the answer.
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


def generate(annotations: Annotations, protocol: Protocol, segments: Sequence[Segment] | None = None) -> Iterator[Question]:
    """Questions of `segments` (all of them by default), in their order. Oracle questions need labels."""
    segments = annotations.segments if segments is None else segments
    if protocol == "oracle":
        unlabelled = [s for s in segments if s.verb_class is None or s.noun_class is None]
        if unlabelled:
            raise DataError(
                f"{unlabelled[0].narration_id}: has no verb and noun class ({len(unlabelled):,} of {len(segments):,} "
                "rows have none); oracle questions need labels, use `--protocol generic`"
            )
        return (_oracle(annotations, segment) for segment in segments)
    if protocol not in ("generic", "none"):
        raise UsageError(f"templates make no {protocol!r} questions; the protocols are oracle, generic and none")
    texts = GENERIC if protocol == "generic" else {"verb": "", "noun": ""}
    return (_question(segment, protocol, texts) for segment in segments)


def _own_forms(annotations: Annotations, segment: Segment, kind: Kind) -> tuple[frozenset[Form], ...]:
    classes, class_id, word = (
        (annotations.verbs, segment.verb_class, segment.verb)
        if kind == "verb"
        else (annotations.nouns, segment.noun_class, segment.noun)
    )
    key = classes.keys[class_id]
    return (
        class_forms((key, *classes.instances[class_id]), kind),
        class_forms((word,), kind),  # a data set's own column may say a word that its class file forgot
        label_forms(key, kind),
        label_forms(word, kind),
    )


def _oracle(annotations: Annotations, segment: Segment) -> Question:
    own_verb, own_noun = (_own_forms(annotations, segment, kind) for kind in KINDS)
    words = words_of(segment.narration)
    verbs, nouns = _places(words, own_verb, own_noun, annotations)
    context: list[str] = []
    before = None
    for place, word in enumerate(words):
        kind = "verb" if place in verbs else "noun" if place in nouns else None
        if kind is None or kind != before:  # neighbours of a kind are one answer: "chopping board", "pick up"
            context.append(word if kind is None else MASK)
        before = kind
    own = (own_verb, own_noun)
    categories = {
        "verb": annotations.verbs.categories[segment.verb_class],
        "noun": annotations.nouns.categories[segment.noun_class],
    }
    hints = {kind: _hint(kind, categories[kind], own) for kind in KINDS}
    texts = {kind: _phrase(kind, segment.narration_id, " ".join(context), hints[kind], own) for kind in KINDS}
    masked = [word for place, word in enumerate(words) if place in verbs | nouns]
    return _question(segment, "oracle", texts, masked, hints)


def _places(
    words: Sequence[str],
    own_verb: tuple[frozenset[Form], ...],
    own_noun: tuple[frozenset[Form], ...],
    annotations: Annotations,
) -> tuple[set[int], set[int]]:
    """Where the verb and the noun stand; every own form is in one of the two."""
    verbs, nouns = matches(words, own_verb), matches(words, own_noun)
    if verbs <= nouns:  # no own verb but what is also the noun: perhaps the narration has another verb than the label
        others = matches(words, [_any_verb(annotations)]) - nouns
        if not verbs:  # "open tap" is turn-on, all 651 times
            verbs = set(sorted(others)[:1])
        elif others and min(others) < min(nouns):  # "close tap" is turn-off, and turn-off's instance `tap-off` makes "tap" a verb
            verbs = verbs | {min(others)}
    both = verbs & nouns  # "tap-off" makes "tap" a form of turn-off; "turn off tap" must still be two masks
    if both and both == verbs:
        both = both - {min(both)}  # "brush brush": narrations put the verb first
    return verbs - both, nouns - (verbs - both)


def _any_verb(annotations: Annotations) -> frozenset[Form]:
    return class_forms(tuple(instance for names in annotations.verbs.instances.values() for instance in names), "verb")


def _hint(kind: Kind, category: str, own: Sequence[tuple[frozenset[Form], ...]]) -> str | None:
    """The category in our words, or as the data set writes it; None where that would tell the answer."""
    hint = GLOSSES[kind].get(category, " ".join(category.replace("_", " ").split()))
    return None if not hint or any(tells(hint, one) for one in own) else hint


def _phrase(kind: Kind, narration_id: str, context: str, hint: str | None, own: Sequence[tuple[frozenset[Form], ...]]) -> str:
    """A phrasing chosen by the id; one that says a form of the segment's classes is passed over for the next."""
    choices = PHRASINGS[kind]
    first = int.from_bytes(hashlib.sha256(f"{kind}:{narration_id}".encode()).digest()[:8], "big")
    turned = (choices[(first + step) % len(choices)] for step in range(len(choices)))
    safe = (choice for choice in turned if not any(tells(text, one) for text in choice for one in own))
    question, hinted = next(safe, BARE)
    return question.format(context) + (hinted.format(hint) if hint else "")


def _question(
    segment: Segment,
    protocol: str,
    texts: dict[Kind, str],
    masked: Sequence[str] = (),
    hints: dict[Kind, str | None] | None = None,
) -> Question:
    return Question(
        narration_id=segment.narration_id,
        verb_question=texts["verb"],
        noun_question=texts["noun"],
        protocol=protocol,
        backend=BACKEND,
        prompt_version=PROMPT_VERSION,
        masked={f"{kind}_question": list(masked) for kind in KINDS},
        hint={f"{kind}_question": (hints or {}).get(kind) for kind in KINDS},
    )
