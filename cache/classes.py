"""What rows are labelled with: targets, their classes, the groups that are measured apart; classes.json.

    Classes
      targets: name -> Target      classes by id, one label a row or several, named sets of classes (`tail`)
      derived: name -> Derived     a target whose classes are combinations of others': action = verb x noun
      groups: name -> RowGroup     named sets of rows: those in kitchens that no training row shows (`unseen`)

EK100's lists are `verb_noun_classes`, and so are the classes.json of schema 2, which knew no others.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mambavl.cache.canonical import JSON, pretty_json

Kind = Literal["single", "multi"]
ALL = "all"  # the group of all rows and all classes

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
# measures, arrays of scores and columns of segments.csv have these names
_RESERVED = {ALL, "relaxed", "narration_id", "pairs", "all_noun"}
_RESERVED_ENDINGS = ("_label", "_pairs", "_class", "_classes")  # as those, and columns of segments.csv
# what a row can be put into a group by: columns of segments.csv
GROUP_COLUMNS = ("participant_id", "video_id", "narration_id")


@dataclass(frozen=True)
class Target:
    """What a row is classified by. single: one class a row (softmax); multi: any number of them (sigmoid)."""

    classes: Mapping[int, str]  # id -> name; ids may have gaps
    count: int  # outputs of a classifier: ids are below it
    kind: Kind = "single"
    sets: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # name of a group -> its classes

    @property
    def ids(self) -> Collection[int]:
        """Its classes; where none has a name, every id below `count` is one."""
        return self.classes or range(self.count)


@dataclass(frozen=True)
class Derived:
    """A target whose classes are the combinations of one class of each part, as an action is a verb and a
    noun.

    Without `pairs` a combination is ranked by the product of its parts' probabilities. With them it has a
    classifier of its own, a column for each of the combinations that `pairs` lists.
    """

    of: tuple[str, ...]  # names of single-label targets
    pairs: tuple[tuple[int, ...], ...] | None = None


@dataclass(frozen=True)
class RowGroup:
    """The rows whose `column` is one of the values."""

    column: str  # of GROUP_COLUMNS
    values: tuple[str, ...]


@dataclass(frozen=True)
class Classes:
    """What the labels of a data set mean. The order counts: classifiers are drawn in that of `targets`. Rows
    that nobody labelled have no targets.
    """

    targets: Mapping[str, Target]
    derived: Mapping[str, Derived] = field(default_factory=dict)
    groups: Mapping[str, RowGroup] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ValueError for names that clash, and for lists that do not fit together."""
        for fault in _faults(self):
            raise ValueError(fault)

    @property
    def names(self) -> tuple[str, ...]:
        """Of all targets, the derived ones last."""
        return (*self.targets, *self.derived)

    @property
    def group_names(self) -> tuple[str, ...]:
        """`all`, the groups of rows, then those of classes."""
        sets = (name for target in self.targets.values() for name in target.sets)
        return tuple(dict.fromkeys((ALL, *self.groups, *sets)))

    def to_json(self, schema: int = 3) -> bytes:
        """classes.json. schema 2: as older stores have it; only where `fits_schema_2`."""
        if schema == 2:
            return pretty_json(_to_schema_2(self))
        targets: list[JSON] = [
            {
                "name": name,
                "kind": target.kind,
                "count": target.count,
                "classes": {str(number): key for number, key in target.classes.items()},
                "sets": [{"name": group, "classes": list(ids)} for group, ids in target.sets.items()],
            }
            for name, target in self.targets.items()
        ]
        derived: list[JSON] = []
        for name, one in self.derived.items():
            pairs = {} if one.pairs is None else {"pairs": [list(pair) for pair in one.pairs]}
            derived.append({"name": name, "of": list(one.of), **pairs})
        groups: list[JSON] = [
            {"name": name, group.column: list(group.values)} for name, group in self.groups.items()
        ]
        return pretty_json({"targets": targets, "derived": derived, "groups": groups})

    @classmethod
    def from_json(cls, data: bytes) -> "Classes":
        """What `to_json` wrote, of either schema. Raises ValueError for anything else."""
        raw = json.loads(data)
        try:
            return _from_schema_2(raw) if "verbs" in raw else _from_schema_3(raw)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a list of classes ({type(error).__name__}: {error})") from None


def verb_noun_classes(
    verbs: Mapping[int, str],
    nouns: Mapping[int, str],
    *,
    num_verbs: int | None = None,
    num_nouns: int | None = None,
    tail_verbs: Iterable[int] = (),
    tail_nouns: Iterable[int] = (),
    unseen_participants: Iterable[str] = (),
) -> Classes:
    """EK100's: a verb and a noun a row, actions derived from both, tail classes, unseen kitchens."""
    found = {}
    for name, names, count, tail in (
        ("verb", verbs, num_verbs, tail_verbs),
        ("noun", nouns, num_nouns, tail_nouns),
    ):
        outputs = max(names, default=-1) + 1 if count is None else count
        found[name] = Target(dict(names), outputs, sets={"tail": tuple(sorted(tail))})
    unseen = RowGroup("participant_id", tuple(sorted(unseen_participants)))
    return Classes(found, {"action": Derived(("verb", "noun"))}, {"unseen": unseen})


def fits_schema_2(classes: Classes) -> bool:
    """Whether the lists are EK100's in kind, which is all that classes.json of schema 2 could say."""
    return list(classes.targets) == ["verb", "noun"] and Classes.from_json(classes.to_json(2)) == classes


def _to_schema_2(classes: Classes) -> dict[str, Any]:
    verb, noun = classes.targets["verb"], classes.targets["noun"]
    unseen = classes.groups.get("unseen", RowGroup("participant_id", ()))
    return {
        "verbs": dict(verb.classes),
        "nouns": dict(noun.classes),
        "num_verbs": verb.count,
        "num_nouns": noun.count,
        "tail_verbs": list(verb.sets.get("tail", ())),
        "tail_nouns": list(noun.sets.get("tail", ())),
        "unseen_participants": list(unseen.values),
    }


def _from_schema_2(raw: Mapping[str, Any]) -> Classes:
    names = {kind: {int(key): name for key, name in raw[kind].items()} for kind in ("verbs", "nouns")}
    return verb_noun_classes(**{**raw, **names})


def _from_schema_3(raw: Mapping[str, Any]) -> Classes:
    targets = {
        one["name"]: Target(
            {int(key): name for key, name in one["classes"].items()},
            one["count"],
            one["kind"],
            {group["name"]: tuple(group["classes"]) for group in one["sets"]},
        )
        for one in raw["targets"]
    }
    derived = {}
    for one in raw["derived"]:
        pairs = tuple(tuple(pair) for pair in one["pairs"]) if "pairs" in one else None
        derived[one["name"]] = Derived(tuple(one["of"]), pairs)
    groups = {}
    for one in raw["groups"]:
        ((column, values),) = ((key, value) for key, value in one.items() if key != "name")
        groups[one["name"]] = RowGroup(column, tuple(values))
    return Classes(targets, derived, groups)


def name_faults(name: str) -> Iterable[str]:
    """Why something cannot name a target or a group, if so."""
    if not _NAME.fullmatch(name) or name in _RESERVED or name.endswith(_RESERVED_ENDINGS):
        yield (
            f"{name!r} cannot name a target or a group: a name is made of lower-case letters, digits and "
            f"single _, is none of {', '.join(sorted(_RESERVED))}, and does not end in "
            f"{' or '.join(_RESERVED_ENDINGS)}"
        )


def _faults(classes: Classes) -> Iterable[str]:
    names = [*classes.targets, *classes.derived]
    sets = [group for target in classes.targets.values() for group in target.sets]
    for name in (*names, *classes.groups, *sets):
        yield from name_faults(name)
    for name in names:
        if names.count(name) > 1:
            yield f"{name} names a target and a derived target"
    for name in sets:
        if name in classes.groups:
            yield f"{name} names a group of rows and a group of classes"
    yield from _clashes(classes)
    for name, target in classes.targets.items():
        yield from _target_faults(name, target)
    for name, derived in classes.derived.items():
        yield from _derived_faults(name, derived, classes.targets)
    for name, group in classes.groups.items():
        if group.column not in GROUP_COLUMNS:
            yield f"group {name}: rows are grouped by {', '.join(GROUP_COLUMNS)}, not by {group.column}"


def _target_faults(name: str, target: Target) -> Iterable[str]:
    if target.kind not in ("single", "multi"):
        yield f"target {name}: kind is single or multi, not {target.kind!r}"
    if target.count < 1:
        yield f"target {name}: has no class"
    known = target.ids
    for where, ids in (("classes", target.classes), *target.sets.items()):
        unknown = [number for number in ids if number not in known or not 0 <= number < target.count]
        if unknown:
            yield f"target {name}: {where} name class {unknown[0]}, which is not among its classes"


def _clashes(classes: Classes) -> Iterable[str]:
    """Measures are called GROUP_TARGET_MEASURE: two of a group and a target may not read the same."""
    seen: dict[str, tuple[str, str]] = {}
    for group in classes.group_names:
        for target in classes.names:
            other = seen.setdefault(f"{group}_{target}", (group, target))
            if other != (group, target):
                yield (
                    f"group {group} of target {target} and group {other[0]} of target {other[1]} would have "
                    f"measures of one name, {group}_{target}_...; call one of them otherwise"
                )


def _derived_faults(name: str, derived: Derived, targets: Mapping[str, Target]) -> Iterable[str]:
    if len(derived.of) < 2 or len(set(derived.of)) < len(derived.of):
        yield f"derived target {name}: needs two or more different targets, not {', '.join(derived.of)}"
    for part in derived.of:
        if part not in targets:
            yield f"derived target {name}: there is no target {part}; there are {', '.join(targets)}"
        elif targets[part].kind != "single":
            yield f"derived target {name}: {part} is multi-label; the parts have one class a row"
    if derived.pairs is None:
        return
    if not derived.pairs or len(set(derived.pairs)) < len(derived.pairs):
        yield f"derived target {name}: pairs are a list of combinations, each once"
    for pair in derived.pairs:
        parts = zip(derived.of, pair, strict=False)
        if len(pair) != len(derived.of) or not all(c in targets[part].ids for part, c in parts):
            yield f"derived target {name}: {list(pair)} is no combination of classes of its parts"
