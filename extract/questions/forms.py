"""The surface forms of a class: every way in which its words can stand in a text.

A form is a tuple of words: an instance of the class, inflected. Masking too much ("counter" is a form of "count" here) costs
a word of context, masking too little costs the result.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, lru_cache
from itertools import permutations, product
from typing import Literal

from mambavl.extract.questions.file import MASK

Kind = Literal["verb", "noun"]
Form = tuple[str, ...]
KINDS: tuple[Kind, Kind] = ("verb", "noun")


def contains_form(text: str, instances: Iterable[str], kind: Kind) -> bool:
    """Whether any form of the class stands in `text`; `<mask>` is no word."""
    own = (forms(instances, kind),)
    return any(tells(part, own) for part in text.split(MASK))


def forms(instances: Iterable[str], kind: Kind) -> frozenset[Form]:
    """All forms of a class, as tuples of lower-case words.

    verb: every inflection, and the head of a hyphenated instance alone ("pick-up" also stands as "pick the plate up").
    noun: singular and plural of every part, in any order of the parts ("board:chopping" -> "chopping boards").
    """
    return class_forms(tuple(instances), kind)


@cache
def class_forms(instances: tuple[str, ...], kind: Kind) -> frozenset[Form]:
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
def label_forms(label: str, kind: Kind) -> frozenset[Form]:
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


def matches(words: Sequence[str], own: Iterable[frozenset[Form]]) -> set[int]:
    """The places of all words that belong to some form in `own`; overlapping forms all count."""
    places: set[int] = set()
    for start in range(len(words)):
        for stop in range(start + 1, len(words) + 1):
            form = tuple(words[start:stop])
            if any(form in known for known in own):
                places.update(range(start, stop))
    return places


@lru_cache(maxsize=1 << 17)  # the same few phrasings and hints meet the same classes in every row
def tells(text: str, own: tuple[frozenset[Form], ...]) -> bool:
    return bool(matches(words_of(text), own))


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
