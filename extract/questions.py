"""Verb and noun questions for every segment, from templates; and the JSONL file that carries them.

An oracle question is built from the segment's own labels, so what it tells is limited by one rule. Neither question
contains a form of the segment's own verb class or noun class: they stand as `<mask>`. What stands is the narration's
other words and a hint, the category of the asked class in our words. `generic` is one fixed pair for all segments;
`none` is two empty texts.

A form is a tuple of words: an instance of the class, inflected. No language library, no corpus, no network: masking too
much ("counter" is a form of "count" here) costs a word of context, masking too little costs the result.
"""

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache, lru_cache
from itertools import permutations, product
from pathlib import Path
from typing import Literal

from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.annotations import Annotations, Segment

Kind = Literal["verb", "noun"]
Protocol = Literal["oracle", "generic", "none"]
Form = tuple[str, ...]

PROTOCOLS = ("oracle", "predicted", "generic", "none")  # what a file may say; predicted text needs a recogniser first
BACKEND = "template"
PROMPT_VERSION = "template-1"
MASK = "<mask>"  # each text encoder puts its own mask token there
KINDS: tuple[Kind, Kind] = ("verb", "noun")

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


@dataclass(frozen=True)
class Question:
    """The two questions of one segment, and how they were made. The fields are the keys of a JSONL line, in order."""

    narration_id: str
    verb_question: str
    noun_question: str
    protocol: str
    backend: str
    prompt_version: str
    masked: dict[str, list[str]]  # by question: the words that `<mask>` stands for, in reading order
    hint: dict[str, str | None]  # by question: what was told of the answer


QUESTION_KEYS = ("verb_question", "noun_question")
FIELDS = tuple(field.name for field in fields(Question))


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


def write_questions(path: Path, questions: Iterable[Question]) -> int:
    """Write one JSON line a question and return their number; the file appears whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; name the file to write, such as {path / 'questions.jsonl'}")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    count = 0
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            for question in questions:
                file.write(json.dumps(asdict(question), ensure_ascii=False) + "\n")
                count += 1
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def read_questions(path: Path) -> dict[str, Question]:
    """The questions of a JSONL file by narration_id, in file order; one protocol a file."""
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); `mambavl questions generate` makes it") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    questions: dict[str, Question] = {}
    lines: dict[str, int] = {}
    for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):  # splitlines() would cut at U+2028 too
        where = f"{path}:{number}"
        question = _parse(where, line)
        first = next(iter(questions.values()), question)
        if question.narration_id in questions:
            raise DataError(
                f"{where}: narration_id {question.narration_id} is already on line {lines[question.narration_id]}; "
                "keep one of the two"
            )
        for field in ("protocol", "backend", "prompt_version"):
            if getattr(question, field) != getattr(first, field):
                raise DataError(
                    f"{where}: {field} {getattr(question, field)!r}, but line 1 says {getattr(first, field)!r}; "
                    "keep questions of one making in a file of their own"
                )
        questions[question.narration_id], lines[question.narration_id] = question, number
    return questions


def contains_form(text: str, instances: Iterable[str], kind: Kind) -> bool:
    """Whether any form of the class stands in `text`; `<mask>` is no word."""
    own = (forms(instances, kind),)
    return any(_tells(part, own) for part in text.split(MASK))


def forms(instances: Iterable[str], kind: Kind) -> frozenset[Form]:
    """All forms of a class, as tuples of lower-case words.

    verb: every inflection, and the head of a hyphenated instance alone ("pick-up" also stands as "pick the plate up").
    noun: singular and plural of every part, in any order of the parts ("board:chopping" -> "chopping boards").
    """
    return _class_forms(tuple(instances), kind)


@cache
def _class_forms(instances: tuple[str, ...], kind: Kind) -> frozenset[Form]:
    make = _verb_phrases if kind == "verb" else _noun_phrases
    return frozenset(form for instance in instances for form in make(tuple(words_of(instance))))


def _verb_phrases(words: Form) -> Iterator[Form]:
    if words:
        heads = inflections(words[0])
        yield from ((head,) for head in heads)
        yield from ((head, *words[1:]) for head in heads)
        yield from ((*words[:-1], last) for last in inflections(words[-1]))  # stir fried, lever opening


def _noun_phrases(words: Form) -> Iterator[Form]:
    orders = permutations(words) if len(words) <= 4 else (words, words[::-1], (*words[1:], words[0]))
    for order in set(orders):
        yield from product(*(numbers(word) for word in order))


@cache
def _label_forms(label: str, kind: Kind) -> frozenset[Form]:
    """The words of a segment's own label one by one: a particle or a part of a colon noun may stand apart."""
    one_word = inflections if kind == "verb" else numbers
    return frozenset((form,) for word in words_of(label) for form in one_word(word))


@cache
def inflections(verb: str) -> frozenset[str]:
    """The forms a verb takes by rule or by table, with some that no dictionary has: they match nothing."""
    found = {verb, *(verb + end for end in ("s", "es", "ed", "er", "ers", "ing", "ings"))}
    if verb.endswith("e"):
        found |= {verb + end for end in ("d", "r", "rs")} | {verb[:-1] + end for end in ("ing", "ings")}
    if verb.endswith("ie"):
        found.add(verb[:-2] + "ying")
    if re.search(r"[^aeiou]y$", verb):
        found |= {verb[:-1] + end for end in ("ies", "ied", "ier", "iers")}
    if re.search(r"[aeiou][^aeiouwxy]$", verb):
        found |= {verb + verb[-1] + end for end in ("ed", "er", "ers", "ing", "ings")}
    for prefix in ("", "re", "un", "over"):
        if verb.startswith(prefix):
            found |= {prefix + form for form in IRREGULAR_VERBS.get(verb[len(prefix) :], ())}
    return frozenset(found)


@cache
def numbers(noun: str) -> frozenset[str]:
    """Singular and plural of a noun, whichever was given."""
    found = {noun, noun + "s", noun + "es", *IRREGULAR_NOUNS.get(noun, ())}
    if re.search(r"[^aeiou]y$", noun):
        found.add(noun[:-1] + "ies")
    if noun.endswith(("f", "fe")):
        found.add(noun.removesuffix("e")[:-1] + "ves")
    if len(noun) > 3 and noun.endswith("s") and not noun.endswith("ss"):
        found.add(noun[:-1])
    if re.search(r"(s|x|z|ch|sh|o)es$", noun):
        found.add(noun[:-2])
    if noun.endswith("ies"):
        found.add(noun[:-3] + "y")
    if noun.endswith("ves"):
        found |= {noun[:-3] + "f", noun[:-3] + "fe"}
    return frozenset(found)


def words_of(text: str) -> list[str]:
    """Lower-case words. Hyphens, colons and underscores part words; `knife's` and `knives'` lose their ending."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    return [re.sub(r"'s$", "", word) for word in _WORD.findall(text)]


_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def _matches(words: Sequence[str], own: Iterable[frozenset[Form]]) -> set[int]:
    """The places of all words that belong to some form in `own`; overlapping forms all count."""
    places: set[int] = set()
    for start in range(len(words)):
        for stop in range(start + 1, len(words) + 1):
            form = tuple(words[start:stop])
            if any(form in known for known in own):
                places.update(range(start, stop))
    return places


@lru_cache(maxsize=1 << 17)  # the same few phrasings and hints meet the same classes in every row
def _tells(text: str, own: tuple[frozenset[Form], ...]) -> bool:
    return bool(_matches(words_of(text), own))


def _own_forms(annotations: Annotations, segment: Segment, kind: Kind) -> tuple[frozenset[Form], ...]:
    classes, class_id, word = (
        (annotations.verbs, segment.verb_class, segment.verb)
        if kind == "verb"
        else (annotations.nouns, segment.noun_class, segment.noun)
    )
    key = classes.keys[class_id]
    return (
        _class_forms((key, *classes.instances[class_id]), kind),
        _class_forms((word,), kind),  # a data set's own column may say a word that its class file forgot
        _label_forms(key, kind),
        _label_forms(word, kind),
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
    verbs, nouns = _matches(words, own_verb), _matches(words, own_noun)
    if verbs <= nouns:  # no own verb but what is also the noun: perhaps the narration has another verb than the label
        others = _matches(words, [_any_verb(annotations)]) - nouns
        if not verbs:  # "open tap" is turn-on, all 651 times
            verbs = set(sorted(others)[:1])
        elif others and min(others) < min(nouns):  # "close tap" is turn-off, and turn-off's instance `tap-off` makes "tap" a verb
            verbs = verbs | {min(others)}
    both = verbs & nouns  # "tap-off" makes "tap" a form of turn-off; "turn off tap" must still be two masks
    if both and both == verbs:
        both = both - {min(both)}  # "brush brush": narrations put the verb first
    return verbs - both, nouns - (verbs - both)


def _any_verb(annotations: Annotations) -> frozenset[Form]:
    return _class_forms(tuple(instance for names in annotations.verbs.instances.values() for instance in names), "verb")


def _hint(kind: Kind, category: str, own: Sequence[tuple[frozenset[Form], ...]]) -> str | None:
    """The category in our words, or as the data set writes it; None where that would tell the answer."""
    hint = GLOSSES[kind].get(category, " ".join(category.replace("_", " ").split()))
    return None if not hint or any(_tells(hint, one) for one in own) else hint


def _phrase(kind: Kind, narration_id: str, context: str, hint: str | None, own: Sequence[tuple[frozenset[Form], ...]]) -> str:
    """A phrasing chosen by the id; one that says a form of the segment's classes is passed over for the next."""
    choices = PHRASINGS[kind]
    first = int.from_bytes(hashlib.sha256(f"{kind}:{narration_id}".encode()).digest()[:8], "big")
    turned = (choices[(first + step) % len(choices)] for step in range(len(choices)))
    safe = (choice for choice in turned if not any(_tells(text, one) for text in choice for one in own))
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


def _parse(where: str, line: str) -> Question:
    again = "mend the line, or make the file again with `mambavl questions generate`"
    try:
        row = json.loads(line, object_pairs_hook=_no_twice)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: is not valid JSON ({error}); {again}") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: is not a JSON object; {again}")
    missing = [key for key in FIELDS if key not in row]
    unknown = [key for key in row if key not in FIELDS]
    if missing or unknown:
        faults = [f"has no {', '.join(missing)}"] * bool(missing) + [f"has unknown {', '.join(unknown)}"] * bool(unknown)
        raise DataError(f"{where}: {' and '.join(faults)}; the keys are {', '.join(FIELDS)}; {again}")
    for key in FIELDS[:6]:
        if not isinstance(row[key], str):
            raise DataError(f"{where}: {key} is {row[key]!r}, not a text; {again}")
    if not row["narration_id"]:
        raise DataError(f"{where}: narration_id is empty; {again}")
    if row["protocol"] not in PROTOCOLS:
        raise DataError(f"{where}: protocol {row['protocol']!r} is none of {', '.join(PROTOCOLS)}; {again}")
    for key, is_right, right in (
        ("masked", lambda v: isinstance(v, list) and all(isinstance(w, str) for w in v), "a list of words"),
        ("hint", lambda v: v is None or isinstance(v, str), "a text or null"),
    ):
        value = row[key]
        if not isinstance(value, dict) or set(value) != set(QUESTION_KEYS) or not all(map(is_right, value.values())):
            raise DataError(f"{where}: {key} is {value!r}; it holds {' and '.join(QUESTION_KEYS)}, each {right}; {again}")
    return Question(**row)


def _no_twice(pairs: list[tuple[str, object]]) -> dict[str, object]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("a key occurs twice")
    return row


_VERB_TABLE = """
bear bore borne; beat beaten; begin began begun; bend bent; bind bound; bite bit bitten; blow blew blown; break
broke broken; bring brought; build built; burn burnt; buy bought; catch caught; choose chose chosen; come came; dig
dug; do did does done; draw drew drawn; drink drank drunk; drive drove driven; eat ate eaten; fall fell fallen; feed
fed; feel felt; find found; fly flew flown; freeze froze frozen; get got gotten; give gave given; go goes went gone;
grind ground; grow grew grown; hang hung; have has had; hear heard; hide hid hidden; hold held; keep kept; know knew
known; lay laid; lead led; leave left; lie lay lain; light lit; lose lost; make made; mean meant; melt molten; pay
paid; ride rode ridden; ring rang rung; rise rose risen; run ran; saw sawn; say said; see saw seen; send sent; sew
sewn; shake shook shaken; show shown; shrink shrank shrunk; sink sank sunk; sit sat; slide slid; smell smelt; speak
spoke spoken; spill spilt; spin span spun; spoil spoilt; stand stood; steal stole stolen; stick stuck; strike
struck; sweep swept; swell swollen; swing swung; take took taken; tear tore torn; tell told; think thought; throw
threw thrown; wear wore worn; weave wove woven; wind wound; wring wrung; write wrote written
"""  # those that stay as they are (cut, put, set, shut, split, spread) need no line
_NOUN_TABLE = """
mouse mice; tooth teeth; foot feet; goose geese; man men; woman women; child children; person people; die dice;
penny pence
"""  # knives, leaves, loaves, halves and potatoes follow rules
_VERB_ROWS = [row.split() for row in _VERB_TABLE.split(";")]
_NOUN_ROWS = [row.split() for row in _NOUN_TABLE.split(";")]
IRREGULAR_VERBS = {base: tuple(rest) for base, *rest in _VERB_ROWS}
IRREGULAR_NOUNS = {one: (other,) for row in _NOUN_ROWS for one, other in (row, row[::-1])}
