"""What a text says of a class, by brute force: endings are taken off the words of the text.

The modules under test work the other way round, from the class to its forms; nothing of theirs is used here.
"""

import re
from functools import cache
from itertools import permutations

_PASTS = """
take took taken, shake shook shaken, hold held, break broke broken, tear tore torn, throw threw thrown,
get got gotten, find found, hang hung, leave left, lay laid, eat ate eaten, wear wore worn, see saw seen,
choose chose chosen, make made, bring brought, draw drew drawn, drink drank drunk, sweep swept,
grind ground, slide slid, feel felt, light lit, begin began begun, catch caught, have had, lie lain,
spin spun, stick stuck, blow blew blown, bite bit bitten, bend bent, fall fell fallen, wring wrung,
rise rose risen, unfreeze unfroze unfrozen, sit sat, stand stood, cling clung, freeze froze frozen,
read read
"""
PASTS = [row.split() for row in _PASTS.split(",")]
# After one of these, or at the end, a particle belongs to its verb and not to what follows.
_AFTER_A_PARTICLE = "and then while before on in into to from of with onto off up out for by at under"
AFTER_A_PARTICLE = set(_AFTER_A_PARTICLE.split())


@cache
def shape_of(word: str) -> set[str]:
    """What a word may be a form of."""
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


@cache
def number_of(word: str) -> set[str]:
    found = {word, word + "s", word.removesuffix("s"), word.removesuffix("es")}
    if word.endswith("ves"):
        found |= {word[:-3] + "f", word[:-3] + "fe"}
    if word.endswith("ies"):
        found.add(word[:-3] + "y")
    return found - {"cloth"} | {word}  # "clothes" is no plural of "cloth"


def plain_words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+|\|", text.replace("<mask>", " | ").lower().replace("'s", ""))


@cache
def parts_of(name: str) -> tuple[str, ...]:
    return tuple(re.split("[-: ]", name))


def says(text: str, names: tuple[str, ...], kind: str) -> list[str]:
    """The names of a class that `text` says in some form: a verb's head, all parts of a noun in any order."""
    plain = plain_words(text)
    shapes = [shape_of(word) for word in plain] if kind == "verb" else [number_of(word) for word in plain]
    anywhere = set().union(*shapes)
    if kind == "verb":
        return [name for name in names if parts_of(name)[0] in anywhere]
    return [
        name for name in names if anywhere.issuperset(parts_of(name)) and _in_a_row(parts_of(name), shapes)
    ]


def _in_a_row(parts: tuple[str, ...], shapes: list[set[str]]) -> bool:
    places = range(len(shapes) - len(parts) + 1)
    return any(
        all(part in shapes[at + step] for step, part in enumerate(order))
        for order in permutations(parts)
        for at in places
    )


def particles_left(
    narration: str, shown: str, label: tuple[str, ...], instances: tuple[str, ...]
) -> list[str]:
    """The particles of a verb that were in a narration and are still in what is shown of it.

    Those of the row's own label may stand nowhere; those of another instance not where they close a phrase.
    """
    before, after = plain_words(narration), plain_words(shown)
    left = [part for name in label for part in parts_of(name)[1:] if part in after]
    for instance in instances:
        head, *particles = parts_of(instance)
        if not any(particle in after for particle in particles):
            continue
        said = [at for at, word in enumerate(before) if head in shape_of(word)]
        for particle in particles:
            for at, word in enumerate(after):
                closes = at + 1 == len(after) or after[at + 1] in AFTER_A_PARTICLE
                if said and word == particle and closes and particle in before[said[0] + 1 :]:
                    left.append(f"{instance}: {particle}")
    return left


def is_form(word: str, names: tuple[str, ...], kind: str) -> bool:
    """Whether a masked word has to do with a class at all: it is a form of some part of some name."""
    shapes = shape_of(word.lower()) if kind == "verb" else number_of(word.lower())
    return any(part in shapes for name in names for part in parts_of(name))
