"""Does a text say a class? The audit's own reader, which shares nothing with the masking that it checks.

forms.py goes from a class to every form that it may take. This goes the other way round: endings are taken
off the words of the text, and what is left is looked up among the names of the classes. Where the two
disagree, one of them is wrong.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Literal

from mambavl.cache.rows import Segment
from mambavl.extract import MASK
from mambavl.extract.annotations import Annotations
from mambavl.extract.questions.file import QUESTION_KEYS, Question
from mambavl.extract.questions.labels import classes_of

Kind = Literal["verb", "noun"]
GAP = "\0"  # a placeholder's place among the words: what stands on its two sides does not belong together


class Names:
    """All classes of a kind, to be looked up by the words of a text.

    A verb is said by the head of any of its names in any inflection: "pick-up" by "picking the plate up", and
    by "picked". A noun is said by all parts of a name next to each other, in any order and number:
    "board:chopping" by "chopping boards".
    """

    def __init__(self, kind: Kind, names: Mapping[int, Iterable[str]]) -> None:
        self.kind = kind
        self._by_part: dict[str, list[tuple[int, tuple[frozenset[str], ...]]]] = {}
        for class_id, own in names.items():
            for name in own:
                parts = words(name)[:1] if kind == "verb" else words(name)
                if parts:
                    roots = tuple(_roots(part, kind) for part in parts)
                    for root in roots[0]:
                        self._by_part.setdefault(root, []).append((class_id, roots))

    @lru_cache(maxsize=1 << 17)  # noqa: B019  the few Names of an audit live as long as it does
    def find(self, text: str) -> dict[int, str]:
        """class -> the words that say it (the first such words), for every class that `text` says."""
        read = words(text)
        stems = [_stems(word, self.kind) for word in read]
        anywhere = frozenset().union(*stems)
        found: dict[int, str] = {}
        for place, own in enumerate(stems):
            for stem in own:
                for class_id, roots in self._by_part.get(stem, ()):
                    if class_id in found or (len(roots) > 1 and anywhere.isdisjoint(roots[1])):
                        continue  # most names of several parts: the second stands nowhere in the text
                    if span := _span(stems, place, roots):
                        found[class_id] = " ".join(read[span.start : span.stop])
        return found


def _span(stems: Sequence[frozenset[str]], place: int, roots: Sequence[frozenset[str]]) -> range | None:
    """Where around `place`, where its first part stands, all parts of a name stand next to each other."""
    size = len(roots)
    if size == 1:
        return range(place, place + 1)
    for start in range(max(0, place - size + 1), min(place, len(stems) - size) + 1):
        if _pair_up(roots, stems[start : start + size]):
            return range(start, start + size)
    return None


def _pair_up(roots: Sequence[frozenset[str]], stems: Sequence[frozenset[str]]) -> bool:
    """Whether every part finds a word of its own."""
    if not roots:
        return True
    first, rest = roots[0], roots[1:]
    return any(first & word and _pair_up(rest, [*stems[:i], *stems[i + 1 :]]) for i, word in enumerate(stems))


@dataclass(frozen=True)
class Leak:
    """Words of a question that say the segment's own verb or noun class."""

    narration_id: str
    question: str  # verb_question or noun_question
    kind: Kind
    words: str


class Checker:
    """Finds in a segment's questions the forms of its own classes: by class file, and by the segment's own
    verb and noun.
    """

    def __init__(self, annotations: Annotations) -> None:
        self.verbs = Names(
            "verb", {i: (key, *annotations.verbs.instances[i]) for i, key in annotations.verbs.keys.items()}
        )
        self.nouns = Names(
            "noun", {i: (key, *annotations.nouns.instances[i]) for i, key in annotations.nouns.keys.items()}
        )
        self._keys = {"verb": annotations.verbs.keys, "noun": annotations.nouns.keys}

    def leaks(self, segment: Segment, question: Question) -> list[Leak]:
        """At most one for each question and kind. Raises DataError for a segment without labels."""
        found = []
        for key in QUESTION_KEYS:
            text = getattr(question, key)
            for kind, names, class_id, word in self._own(segment):
                said = names.find(text).get(class_id) or _one(kind, word).find(text).get(0)
                if said:
                    found.append(Leak(segment.narration_id, key, kind, said))
        return found

    def parts(self, segment: Segment, question: Question) -> list[Leak]:
        """Lesser traces: a particle of the own verb ("on" of turn-on), a part of the own noun ("board" of
        board:chopping).

        Many are innocent ("on the table"), so they are counted separately and refuse nothing. Raises
        DataError for a segment without labels.
        """
        found = []
        for key in QUESTION_KEYS:
            text = getattr(question, key)
            for kind, _, class_id, word in self._own(segment):
                pieces = _pieces(kind, (self._keys[kind][class_id], word))
                said = [_one(kind, piece).find(text).get(0) for piece in pieces]
                found += [Leak(segment.narration_id, key, kind, words) for words in said if words]
        return found

    def _own(self, segment: Segment) -> tuple[tuple[Kind, Names, int, str], ...]:
        verb_class, noun_class = classes_of(segment)
        return (
            ("verb", self.verbs, verb_class, segment.verb),
            ("noun", self.nouns, noun_class, segment.noun),
        )


@cache
def _one(kind: Kind, name: str) -> Names:
    return Names(kind, {0: (name,)})


@cache
def _pieces(kind: Kind, names: tuple[str, ...]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for name in names:
        parts = words(name)
        if len(parts) > 1:
            found |= dict.fromkeys(parts[1:] if kind == "verb" else parts)
    return tuple(found)


def words(text: str) -> list[str]:
    """Lower-case words; hyphens, colons, underscores and apostrophes part them; GAP for a placeholder."""
    plain = unicodedata.normalize("NFKD", text.replace(MASK, f" {GAP} ")).casefold()
    if not plain.isascii():  # accents and what nobody sees would hide a word
        plain = "".join(char for char in plain if unicodedata.category(char) not in ("Mn", "Cf"))
    return re.findall(rf"[^\W_]+|{GAP}", plain)


@cache
def _stems(word: str, kind: Kind) -> frozenset[str]:
    """What a word of a text may be a form of."""
    if kind == "verb":
        return _verb_stems(word)
    return _singulars(word) | {word.removesuffix("s"), word.removesuffix("es")}


@cache
def _roots(part: str, kind: Kind) -> frozenset[str]:
    """What a part of a name is looked up by. A name may stand in the plural; "cloth" is not the singular of
    "clothes".
    """
    return frozenset({part}) if kind == "verb" else _singulars(part)


def _verb_stems(word: str) -> frozenset[str]:
    found = {word}
    for ending in ("ings", "ing", "iers", "ier", "ers", "er", "ied", "ed", "ies", "es", "s", "rs", "r", "d"):
        stem = word.removesuffix(ending)
        if stem == word or len(stem) < 2:
            continue
        found.add(stem)
        if ending[0] == "i" and ending[:2] != "in":
            found |= {stem + "y", stem + "ie"}
        if ending not in ("s", "rs", "r", "d"):
            found.add(stem + "e")
            if stem[-1] == stem[-2]:
                found.add(stem[:-1])
            if stem.endswith("y"):
                found.add(stem[:-1] + "ie")  # tying
    # movement, mixture: the deed as a thing
    for ending in ("able", "age", "al", "ation", "ion", "ment", "ture", "ure"):
        stem = word.removesuffix("s").removesuffix(ending)
        if stem not in (word, word.removesuffix("s")) and len(stem) > 2:
            found |= {stem, stem + "e"}
    for prefix in ("", "re", "un", "over"):
        if word.startswith(prefix):
            found |= {prefix + base for base in _BASES.get(word[len(prefix) :], ())}
    for stem in tuple(found):  # a class may be named by what is another verb's past: lay, and lie
        found.update(_PASTS_OF.get(stem, ()))
    return frozenset(found)


def _singulars(word: str) -> frozenset[str]:
    found = {word, *_ONE_OF.get(word, ())}
    if len(word.removesuffix("s").removesuffix("ful")) < len(word.removesuffix("s")):  # spoonful
        found |= _singulars(word.removesuffix("s").removesuffix("ful"))
    if word.endswith("s") and not word.endswith("ss") and len(word) > 2:
        found.add(word[:-1])
    if re.search(r"(s|x|z|ch|sh|o)es$", word):
        found.add(word[:-2])
    if word.endswith("ies"):
        found.add(word[:-3] + "y")
    if word.endswith("ves"):
        found |= {word[:-3] + "f", word[:-3] + "fe"}
    return frozenset(found)


# base and past forms; "lay" is a base of its own and the past of "lie"
_VERBS = """
awake awoke awoken| bear bore borne born| beat beaten| become became| begin began begun| bend bent|
bind bound| bite bit bitten| bleed bled| blend blent| blow blew blown| break broke broken| bring brought|
build built| burn burnt| buy bought| catch caught| choose chose chosen| cling clung| come came|
creep crept| deal dealt| dig dug| do did does done| draw drew drawn| drink drank drunk| drive drove driven|
eat ate eaten| fall fell fallen| feed fed| feel felt| fight fought| find found| flee fled| fling flung|
fly flew flown| freeze froze frozen| get got gotten| give gave given| go goes went gone| grind ground|
grow grew grown| hang hung| have has had| hear heard| hide hid hidden| hold held| keep kept| kneel knelt|
know knew known| lay laid| lead led| lean leant| leap leapt| leave left| lend lent| lie lay lain|
light lit| lose lost| make made| mean meant| meet met| melt molten| pay paid| ride rode ridden|
ring rang rung| rise rose risen| run ran| saw sawn| say said| see saw seen| seek sought| sell sold|
send sent| sew sewn| shake shook shaken| shave shaven| shine shone| shoot shot| show shown|
shrink shrank shrunk| sink sank sunk| sit sat| sleep slept| slide slid| smell smelt| speak spoke spoken|
spill spilt| spin span spun| spoil spoilt| spring sprang sprung| stand stood| steal stole stolen|
stick stuck| stink stank stunk| strike struck stricken| strip stript| sweep swept| swell swollen|
swim swam swum| swing swung| take took taken| teach taught| tear tore torn| tell told| think thought|
throw threw thrown| wake woke woken| wear wore worn| weave wove woven| weep wept| win won| wind wound|
wring wrung| write wrote written
"""
# forms of one word that may name the same thing
_NOUNS = """
mouse mice| tooth teeth| foot feet| goose geese| man men| woman women| child children| person people|
die dice| penny pence| spatula spatulae| pasta pastae| camera camerae| gas gasses| chilli chili|
chilli chile| chilli chilies| chilli chiles| chilli chilis
"""


def _rows(table: str) -> list[list[str]]:
    return [row.split() for row in table.split("|")]


def _bases_by_past() -> dict[str, list[str]]:
    """took -> take"""
    found: dict[str, list[str]] = {}
    for base, *pasts in _rows(_VERBS):
        for past in pasts:
            found.setdefault(past, []).append(base)
    return found


def _others_by_noun() -> dict[str, list[str]]:
    """mice -> mouse, and mouse -> mice"""
    found: dict[str, list[str]] = {}
    for one, other in _rows(_NOUNS):
        found.setdefault(one, []).append(other)
        found.setdefault(other, []).append(one)
    return found


_BASES = _bases_by_past()
_PASTS_OF = {base: pasts for base, *pasts in _rows(_VERBS)}
_ONE_OF = _others_by_noun()
