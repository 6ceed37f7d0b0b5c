"""What data sets allow for what is made from them: features, and weights that learnt from those.

A data set is told by how many classes its targets have, or by the names of its annotation files. Of one that
is not in TERMS nobody knows here what it allows, so that whoever hands something on must say it.
"""

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mambavl.cache.classes import Classes
from mambavl.configs.errors import UsageError


@dataclass(frozen=True)
class Terms:
    """What a data set allows."""

    name: str
    counts: tuple[Mapping[str, int], ...]  # target -> classes, of each of its lists of classes
    files: tuple[str, ...]  # patterns of the names of its annotation files
    licence: str  # as model hubs spell it, unless another is asked for
    word: str  # what every other licence must have in its name
    why: str  # in the words of an error: `NAME, ...; name ...`
    says: str  # in the words of a card
    is_public: bool = True  # whether it may be handed on to everybody


# HD-EPIC has EK100's lists of classes and its licence, too. Ego4D's lists are of forecasting, v1 and v2.
TERMS = (
    Terms(
        "EPIC-KITCHENS-100",
        counts=({"verb": 97, "noun": 300},),
        files=("EPIC_100_*.csv",),
        licence="cc-by-nc-4.0",
        word="-nc",
        why="which is CC BY-NC 4.0 and not for commercial use; leave --licence out, which names "
        "cc-by-nc-4.0, or name another with -nc",
        says="EPIC-KITCHENS-100 (CC BY-NC 4.0): not for commercial use.",
    ),
    Terms(
        "Ego4D",
        counts=({"verb": 115, "noun": 478}, {"verb": 117, "noun": 521}),
        files=("fho_*.json", "ego4d*.json"),
        licence="other",
        word="other",
        why="whose licence each user signs and which cannot be exchanged for another; leave --licence out",
        says="Ego4D, whose licence each user signs and which forbids handing its data on: keep this "
        "private, among people who have signed.",
        is_public=False,
    ),
)


def terms_of(classes: Classes, files: Iterable[str] = ()) -> Terms | None:
    """Of the data set with these classes, or with annotation files of these names; None for any other."""
    counts = {name: target.count for name, target in classes.targets.items()}
    names = list(files)
    for terms in TERMS:
        alike = any(one.items() <= counts.items() for one in terms.counts)
        if alike or any(fnmatch.filter(names, pattern) for pattern in terms.files):
            return terms
    return None


def licence_of(terms: Terms | None, asked: str | None, where: object) -> str:
    """The licence, as model hubs spell it, of what was made from data of these terms. where: what it is, for
    an error.

    Raises UsageError for one that the data do not allow, and where nothing is known and nothing was asked
    for.
    """
    if asked is not None and not (asked.strip() and asked.isprintable()):
        raise UsageError(f"{where}: --licence {asked!r}: name it as model hubs do, for example cc-by-4.0")
    if terms is None:
        if asked is None:
            raise UsageError(
                f"{where}: of its data set no licence is known here; say with --licence under which its data "
                "let it be, for example --licence cc-by-4.0"
            )
        return asked
    if asked is not None and terms.word not in asked.lower():
        raise UsageError(f"{where}: --licence {asked}: it was made from {terms.name}, {terms.why}")
    return asked or terms.licence


def refuse_public(terms: Terms | None, where: object) -> None:
    """Raises UsageError where the data forbid that everybody may read what was made from them."""
    if terms and not terms.is_public:
        raise UsageError(f"{where}: was made from {terms.says} A public place is refused; add --private")
