"""The surface forms of a class: every way in which its words can stand in a text.

A form is a tuple of words: an instance of the class, inflected. Masking too much ("counter" is a form of
"count" here) costs a word of context, masking too little costs the result.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, lru_cache
from itertools import permutations, product
from typing import Literal, NamedTuple

from mambavl.extract import MASK

Kind = Literal["verb", "noun"]
Form = tuple[str, ...]
KINDS: tuple[Kind, Kind] = ("verb", "noun")

# Closed classes of English words. One of the second group makes a particle before it stand alone: "put it
# down *and* go".
_PARTICLES = """
about above across acros after against ahead along apart around aside at away back behind between by down
for forward from if in inside into of off on onto out outside over past round so that through to together
towards under unto up upon with within without
"""
PARTICLES = frozenset(_PARTICLES.split())
CLAUSE_WORDS = frozenset(
    {"again", "and", "as", "because", "before", "but", "or", "then", "until", "when", "while"}
)


def contains_form(text: str, instances: Iterable[str], kind: Kind) -> bool:
    """Whether any form of the class stands in `text`; `<mask>` is not a word."""
    own = (forms(instances, kind),)
    return any(tells(part, own) for part in text.split(MASK))


def forms(instances: Iterable[str], kind: Kind) -> frozenset[Form]:
    """All forms of a class, as tuples of lower-case words.

    verb: every inflection, and the head of a hyphenated instance alone ("pick-up" also stands as "pick the
    plate up"). noun: singular and plural of every part, in any order of the parts ("board:chopping" ->
    "chopping boards").
    """
    return class_forms(tuple(instances), kind)


@cache
def class_forms(instances: tuple[str, ...], kind: Kind) -> frozenset[Form]:
    """`forms` of a tuple, remembered."""
    make = _verb_phrases if kind == "verb" else _noun_phrases
    found: set[Form] = set()
    for instance in instances:
        if words := tuple(words_of(instance)):
            found.update(make(words))
    return frozenset(found)


def _verb_phrases(words: Form) -> Iterator[Form]:
    heads = inflections(words[0])
    yield from ((head,) for head in heads)
    yield from ((head, *words[1:]) for head in heads)
    if words[-1] not in PARTICLES:  # "onion" is not a form of put-on
        yield from ((*words[:-1], last) for last in inflections(words[-1]))  # stir fried, lever opening


def _noun_phrases(words: Form) -> Iterator[Form]:
    orders = permutations(words) if len(words) <= 4 else (words, words[::-1], (*words[1:], words[0]))
    for order in set(orders):
        yield from product(*(numbers(word) for word in order))


@cache
def label_forms(label: str, kind: Kind) -> frozenset[Form]:
    """The words of a segment's own label one by one: a particle or a part of a colon noun may stand alone."""
    one_word = inflections if kind == "verb" else numbers
    found: set[Form] = set()
    for word in words_of(label):
        found.update((form,) for form in one_word(word))
    return frozenset(found)


@cache
def inflections(verb: str) -> frozenset[str]:
    """The forms a verb takes, by dictionary and by rule. Words that the rules make up match nothing."""
    found: set[str] = set()
    for base in {verb, *_lemmas(verb, "VERB")}:
        found |= _spelled(base) | _inflected(base, "VERB")
        for prefix in ("re", "un", "over"):  # unfroze, overtook
            if base.startswith(prefix):
                found |= {prefix + form for form in _inflected(base[len(prefix) :], "VERB")}
    return frozenset(found)


def _spelled(verb: str) -> set[str]:
    found = {verb, *(verb + end for end in (*VERB_ENDINGS, "s", "es"))}
    found |= {verb + end for end in NOUN_ENDINGS}
    if verb.endswith("e"):
        found |= {verb + end for end in ("d", "r", "rs")} | {verb[:-1] + end for end in ("ing", "ings")}
        if len(verb) > 3:  # removal, closure; not "seal" from "see"
            found |= {verb[:-1] + end for end in NOUN_ENDINGS}
    if verb.endswith("ie"):
        found.add(verb[:-2] + "ying")
    if re.search(r"[^aeiou]y$", verb):
        found |= {verb[:-1] + end for end in ("ies", "ied", "ier", "iers")}
    if re.search(r"[aeiou][^aeiouwxy]$", verb):
        found |= {verb + verb[-1] + end for end in VERB_ENDINGS}
    return found


@cache
def numbers(noun: str) -> frozenset[str]:
    """Singular and plural of a noun, whichever was given, and what fills it ("spoonful")."""
    found = {noun, noun + "s", noun + "es", noun + "ful", noun + "fuls", *_inflected(noun, "NOUN")}
    for base in _lemmas(noun, "NOUN"):
        found |= {base, *_inflected(base, "NOUN")}
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


# The dictionary has the irregular forms (took, knives, mice, chilies). It has no agent nouns (peeler), and no
# entry at all for 25 verbs and 250 noun words of EK100 (unclip, pan, hob), so the rules of spelling above
# stay.
VERB_ENDINGS = ("ed", "er", "ers", "ing", "ings")
# what is done, as a thing: movement, mixtures
_DEEDS = ("able", "age", "al", "ation", "ion", "ment", "ture", "ure")
NOUN_ENDINGS = (*_DEEDS, *(ending + "s" for ending in _DEEDS))
MISSING = {"lie": {"lain"}, "melt": {"molten"}, "spin": {"span"}, "person": {"people"}, "people": {"person"}}


def _inflected(word: str, part: Literal["VERB", "NOUN"]) -> set[str]:
    from lemminflect import getAllInflections  # reads its tables on the first call, 0.3 s

    return set().union(*getAllInflections(word, part).values(), MISSING.get(word, ()))


def _lemmas(word: str, part: Literal["VERB", "NOUN"]) -> set[str]:
    from lemminflect import getAllLemmas

    return set().union(*getAllLemmas(word, part).values())


class Word(NamedTuple):
    """A word of a text: as it is compared, and where it stands. `<mask>` is one that no form equals."""

    name: str
    start: int
    stop: int


def plain(text: str) -> str:
    """The words of a `plain` text. Hyphens, colons and underscores part words; `knife's` is knife."""
    if text.isascii():
        return text
    return "".join(char for char in unicodedata.normalize("NFKC", text) if unicodedata.category(char) != "Cf")


def words_in(text: str) -> list[Word]:
    """The words of a text in `plain` form. Hyphens, colons and underscores part words; `knife's` is knife."""
    found = []
    for match in _WORD.finditer(text):
        name = match.group()
        if not name.isascii():  # crème is creme
            name = "".join(
                char for char in unicodedata.normalize("NFKD", name) if not unicodedata.combining(char)
            )
        name = name.casefold().replace("’", "'")
        stop = match.end() - 2 * name.endswith("'s")
        found.append(Word(name.removesuffix("'s"), match.start(), stop))
    return found


def words_of(text: str) -> list[str]:
    """Lower-case words, without what only decorates them."""
    return [word.name for word in words_in(plain(text))]


_LETTER = r"(?:[^\W_][\u0300-\u036f]*)"
_WORD = re.compile(rf"{MASK}|{_LETTER}+(?:['’]{_LETTER}+)*", re.IGNORECASE)


def matches(words: Sequence[str], own: Iterable[frozenset[Form]]) -> set[int]:
    """The places of all words that belong to some form in `own`; overlapping forms all count."""
    places: set[int] = set()
    for known in own:
        longest = _longest(known)
        for start, word in enumerate(words):
            for stop in range(start + 1, min(len(words), start + longest.get(word, 0)) + 1):
                if tuple(words[start:stop]) in known:
                    places.update(range(start, stop))
    return places


@cache
def _longest(known: frozenset[Form]) -> dict[str, int]:
    """By first word: the length of the longest form that begins with it."""
    longest: dict[str, int] = {}
    for form in known:
        longest[form[0]] = max(len(form), longest.get(form[0], 0))
    return longest


@lru_cache(maxsize=1 << 17)  # the same few phrasings and hints meet the same classes in every row
def tells(text: str, own: tuple[frozenset[Form], ...]) -> bool:
    """Whether any form in `own` stands in a text."""
    return bool(matches(words_of(text), own))
