"""What a question must not say: every form of the segment's own verb class and noun class stands as `<mask>`.

The rules, in the order of the code:

1. Every form of every instance of the two classes, and of the row's own words (forms.py: inflections, both
   orders of `board:chopping`); a part of the key or of the row's own word also when it stands alone.
2. A form written as one word or as two: "choppingboard", "dish washer". Likewise the closed compound of two
   class words that ends in a form: "teaspoon" is a spoon, "dishwasher" washes. One that only begins with a
   form has another meaning ("cupboard" is not a cup) and stays.
3. The open compound that the class list itself names and that has a form as one of its words: "chopping
board"
   goes whole when the answer is a cut, because "<mask> board" would give it away.
4. A particle that belongs to the verb: turn the tap *on*, put it *down*. Before an object the same word is a
   preposition (put it *on* the table) and stays, unless it is part of the row's own label ("put-on").

The number of masks must tell little as well. Neighbours of one kind are one mask, and a particle that stands
apart from its verb is taken out without a mask of its own, so "turn tap on", "turn on tap" and "take plate"
all read "<mask> <mask>".
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from mambavl.extract import MASK
from mambavl.extract.annotations import Annotations
from mambavl.extract.questions.forms import (
    CLAUSE_WORDS,
    PARTICLES,
    Form,
    Kind,
    Word,
    class_forms,
    inflections,
    label_forms,
    matches,
    numbers,
    plain,
    words_in,
    words_of,
)


@dataclass(frozen=True)
class Masked:
    """A text that may be shown, and the words that it hides, in reading order."""

    text: str
    words: tuple[str, ...]


def mask(
    text: str,
    annotations: Annotations,
    verb_class: int,
    noun_class: int,
    *,
    verb_word: str = "",
    noun_word: str = "",
    reveal: Collection[Kind] = (),
) -> Masked:
    """Hide every form of a verb class and a noun class in any English text; all else stays as it is.

    `verb_word` and `noun_word` are the row's own words, which a class file may have forgotten. `reveal` names
    kinds that stay readable: for comparisons only. A `<mask>` that the text already has stays one.
    """
    text = plain(text)
    words = words_in(text)
    names = [word.name for word in words]
    own_verb = own_forms(annotations, "verb", verb_class, verb_word)
    own_noun = own_forms(annotations, "noun", noun_class, noun_word)
    verbs, nouns = matches(names, own_verb), matches(names, own_noun)
    known = _known(annotations.verbs.names, annotations.nouns.names)
    for places, own in ((verbs, own_verb), (nouns, own_noun)):
        places |= {place for place, name in enumerate(names) if _is_closed_form(name, known.words, own)}
        for place, (first, second) in enumerate(pairwise(names)):
            if any((first + second,) in forms for forms in own):
                places |= {place, place + 1}
    compounds = [place for place, pair in enumerate(pairwise(names)) if pair in known.compounds]
    for place in [place for place in compounds if {place, place + 1} & nouns]:
        nouns |= {place, place + 1}
    verb_label = annotations.verbs.keys[verb_class], verb_word
    particles = _particles(text, words, verbs, verb_label, annotations.verbs.instances[verb_class])
    verbs, nouns = _one_kind_each(names, verbs | particles.keys(), nouns, known.nouns, reveal)
    # "wash bowl" is not a compound, though a narration has made an instance of it; "washing bowl" is
    verbs |= {place + 1 for place in compounds if place in verbs and names[place].endswith("ing")} - nouns
    return _written(text, words, verbs, nouns, {place for place, follows in particles.items() if follows})


@lru_cache(maxsize=1 << 14)
def _own_forms(instances: tuple[str, ...], key: str, word: str, kind: Kind) -> tuple[frozenset[Form], ...]:
    parts: set[Form] = set()
    for name in (*words_of(key), *words_of(word)):
        if kind == "noun" or name not in PARTICLES:
            parts |= label_forms(name, kind)
    return class_forms((key, *instances), kind), class_forms((word,), kind), frozenset(parts)


def own_forms(
    annotations: Annotations, kind: Kind, class_id: int, word: str = ""
) -> tuple[frozenset[Form], ...]:
    """All that may not be said for a class, but for the particles, which depend on where they stand."""
    classes = annotations.verbs if kind == "verb" else annotations.nouns
    return _own_forms(classes.instances[class_id], classes.keys[class_id], word, kind)


def _particles(
    text: str, words: Sequence[Word], verbs: set[int], label: tuple[str, str], instances: tuple[str, ...]
) -> dict[int, bool]:
    """The places of particles that belong to the verb, and whether the verb went before, in the same
    sentence.
    """
    of_label = PARTICLES.intersection(words_of(" ".join(label)))
    of_head = _particles_of_heads((*label, *instances))
    found: dict[int, bool] = {}
    heads: list[str] = []  # own verbs, and masks that the text came with, so far in this sentence
    for place, word in enumerate(words):
        gap = text[word.stop : words[place + 1].start] if place + 1 < len(words) else "."
        alone = bool(gap.strip(" -")) or words[place + 1].name in CLAUSE_WORDS | PARTICLES
        if word.name == MASK or (place in verbs and word.name not in PARTICLES):
            heads.append(word.name)
        elif place in verbs:
            found[place] = bool(heads)
        elif word.name in of_label:
            said = any(head != MASK for head in heads)
            if said or alone or place + 1 in verbs or (place and words[place - 1].name == MASK):
                found[place] = bool(heads)
        elif alone and any(word.name in of_head.get(head, ()) for head in heads):
            found[place] = True
        if re.search(r"[.!?;]\s", gap):
            heads = []
    return found


@lru_cache(maxsize=1 << 14)
def _particles_of_heads(instances: tuple[str, ...]) -> dict[str, frozenset[str]]:
    """By every form of a head: the particles that some instance gives it."""
    found: dict[str, frozenset[str]] = {}
    for head, *rest in filter(None, map(words_of, instances)):
        for form in inflections(head):
            found[form] = found.get(form, frozenset()) | PARTICLES.intersection(rest)
    return found


@dataclass(frozen=True)
class _Known:
    """What all class lists together say, in both numbers."""

    words: frozenset[str]  # of three letters or more
    nouns: frozenset[str]  # of one word
    compounds: frozenset[Form]  # nouns of two words in speaking order: `board:chopping` -> (chopping, board)


@lru_cache(maxsize=8)
def _known(verbs: tuple[str, ...], nouns: tuple[str, ...]) -> _Known:
    words: set[str] = set()
    for name in (*verbs, *nouns):
        words.update(word for word in words_of(name) if len(word) > 2)
    single: set[str] = set()
    compounds: set[Form] = set()
    for name in nouns:
        match words_of(name):
            case [noun]:
                single |= numbers(noun)
            case [head, other]:
                compounds.update((other, form) for form in numbers(head))
    return _Known(frozenset(words), frozenset(single), frozenset(compounds))


@lru_cache(maxsize=1 << 16)
def _is_closed_form(name: str, vocabulary: frozenset[str], own: tuple[frozenset[Form], ...]) -> bool:
    """Whether a word is a class word and a form in one (dish|washer), or a form of two words
    (chopping|board).
    """
    for cut in range(3, len(name) - 2):
        first, last = name[:cut], name[cut:]
        if any((first, last) in forms or (first in vocabulary and (last,) in forms) for forms in own):
            return True
    return False


def _one_kind_each(
    names: Sequence[str],
    verbs: set[int],
    nouns: set[int],
    noun_words: frozenset[str],
    reveal: Collection[Kind],
) -> tuple[set[int], set[int]]:
    """Each place given to one kind. Both are masked; the kind decides which neighbours are one mask."""
    if "verb" in reveal:
        return set(), set() if "noun" in reveal else nouns
    if "noun" in reveal:
        return verbs, set()
    heads = {place for place in verbs if names[place] not in PARTICLES}
    # `tap-off` and `water-on` are verbs in EK100; "turn off tap" and "turn on water" must still be two masks
    both = {place for place in heads if place in nouns or (names[place] in noun_words and place > min(heads))}
    if both == heads and both:
        both = both - {min(both)}  # "brush brush": narrations put the verb first
    return verbs - both, nouns - (verbs - both) | both


def _written(
    text: str, words: Sequence[Word], verbs: set[int], nouns: set[int], following: set[int]
) -> Masked:
    """The text with masks; a particle of `following` joins the mask of its verb, wherever it stood."""
    shown, hidden = "", []
    end, before = 0, ""  # how far the text is written, and the kind of a mask that it ends with
    for place, word in enumerate(words):
        kind = "verb" if place in verbs else "noun" if place in nouns else ""
        gap = text[end : word.start]
        joins = kind == before and re.fullmatch(r"[\s:_/-]*", gap)
        if kind:
            hidden.append(text[word.start : word.stop])
        if not kind:
            shown += gap + text[word.start : word.stop]
        elif kind == "verb" and place in following and not joins:
            kept = gap.rstrip(" -")
            shown, end, before = shown + kept, word.stop, "" if kept else before
            continue
        elif not joins:
            shown += gap + MASK
        end, before = word.stop, kind
    return Masked(shown + text[end:], tuple(hidden))
