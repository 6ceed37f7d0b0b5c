"""How the labels of the same rows are ranked by the members of two sides: what a comparison is made from.

    member -> Seen                  whose labels are among whose best
    Seen of A, Seen of B -> Aligned     the same of the rows that all have, in one order

One file of scores is read at a time, and nothing of it is kept but where the labels stand.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mambavl.cache import open_store
from mambavl.cache.classes import Classes
from mambavl.cache.rows import Segment
from mambavl.configs.errors import DataError, counted, some
from mambavl.fuse.data import in_group
from mambavl.fuse.metrics import Ranked, ranked
from mambavl.fuse.run import read_classes
from mambavl.fuse.scored import PairsOf, read_scores_file
from mambavl.fuse.sides import Allowed, Member
from mambavl.fuse.targets import read_labels


@dataclass(frozen=True)
class Listed:
    """The rows of an annotation list, and what their labels mean."""

    segments: Sequence[Segment]
    classes: Classes
    pairs_of: PairsOf | None = None


@dataclass(frozen=True)
class Seen:
    """How one member ranks the labels of its rows."""

    member: Member
    ids: tuple[str, ...]
    ranked: Mapping[str, Ranked]  # by target; those with one label a row
    classes: Classes
    sha256: str  # of the file of scores
    unlisted: tuple[str, ...]  # rows that the list lacks, where there is one: they are not seen

    def of(self, target: str, ids: Sequence[str]) -> Ranked:
        """The same of some rows that it has, in their order."""
        one, place = self.ranked[target], {name: row for row, name in enumerate(self.ids)}
        labelled = np.full(len(self.ids), -1)
        labelled[one.rows] = np.arange(len(one.rows))
        at = labelled[[place[name] for name in ids]]
        rows, at = np.flatnonzero(at >= 0), at[at >= 0]
        sets = {name: own[at] for name, own in one.sets.items()}
        return Ranked(rows, one.label[at], one.best1[at], one.best5[at], sets)


@dataclass(frozen=True)
class Target:
    """The n labelled rows of a target, and how each member of A and of B ranks their labels."""

    first: Ranked  # of A's first
    a: tuple[np.ndarray, np.ndarray]  # best1, best5 of `Ranked`: (members, n) each
    b: tuple[np.ndarray, np.ndarray]

    def hits(self, measure: str) -> tuple[np.ndarray, np.ndarray]:
        """(members, n) of A and of B: what top1, top5 and recall5 are means of."""
        which = 0 if measure == "top1" else 1
        return self.a[which], self.b[which]


@dataclass(frozen=True)
class Aligned:
    """The rows that are compared."""

    segments: tuple[Segment, ...]  # N
    targets: Mapping[str, Target]
    group_names: tuple[str, ...]  # `all`, groups of rows, groups of classes
    groups: Mapping[str, np.ndarray]  # group of rows -> (N,) bool
    left_out: int  # rows that not all members have
    not_compared: tuple[str, ...]  # targets that one side lacks, or that have several labels a row


def see(member: Member, listed: Listed | None) -> Seen:
    """Read the scores of a member. listed: the annotations, where they are given: their labels count then."""
    if member.result:
        classes = read_classes(member.path)
    else:
        assert listed is not None  # files come with a list
        classes = listed.classes
    file = read_scores_file(member.scores, classes, pairs_of=listed.pairs_of if listed else None)
    scores, labels, ids, unlisted = file.scores, file.labels, file.ids, set[str]()
    if listed:
        place = {name: row for row, name in enumerate(file.ids)}
        there = tuple(one for one in listed.segments if one.narration_id in place)
        rows = np.array([place[one.narration_id] for one in there], np.int64)
        scores = {name: one[rows] for name, one in file.scores.items()}
        labels, ids = read_labels(there, file.classes), tuple(one.narration_id for one in there)
        unlisted = set(file.ids) - set(ids)
    names = [name for name, one in file.classes.targets.items() if one.kind == "single" and name in labels]
    names += [name for name, one in file.classes.derived.items() if set(one.of) <= set(names)]
    found = {name: ranked(name, file.classes, scores, labels) for name in names}
    return Seen(member, ids, found, file.classes, file.sha256, tuple(sorted(unlisted)))


def align(
    a: Sequence[Seen], b: Sequence[Seen], listed: Listed | None, allowed: Collection[Allowed]
) -> Aligned:
    """The rows that all have, in the order of the list, or of the first. Raises DataError where classes or
    labels differ, and rows, unless that is `allowed`; and where there is nothing to compare.
    """
    everyone = [*a, *b]
    first = everyone[0]
    for one in everyone:
        if "rows" not in allowed:
            _refuse_other_rows(first, one)
        _refuse_other_classes(first, one)
    have = [set(one.ids) for one in everyone]
    shared = set.intersection(*have)
    ids = [name for name in first.ids if name in shared]
    if not ids:
        raise DataError(f"{first.member.path} and the others have no row in common")
    names = [name for name in first.classes.names if all(name in one.ranked for one in everyone)]
    targets = {name: _target(name, a, b, ids) for name in names}
    targets = {name: one for name, one in targets.items() if len(one.first.rows)}
    if not targets:
        raise DataError("A and B have no target in common that rows have one label of")
    segments = segments_of(first.member, ids, listed)
    classes = listed.classes if listed else first.classes
    every = dict.fromkeys(name for one in everyone for name in one.classes.names)
    return Aligned(
        segments=segments,
        targets=targets,
        group_names=classes.group_names,
        groups={name: in_group(segments, group) for name, group in classes.groups.items()},
        left_out=len(set.union(*have)) - len(ids),
        not_compared=tuple(name for name in every if name not in targets),
    )


def _target(name: str, a: Sequence[Seen], b: Sequence[Seen], ids: Sequence[str]) -> Target:
    of_a, of_b = ([one.of(name, ids) for one in side] for side in (a, b))
    first = of_a[0]
    for seen, own in zip([*a, *b], [*of_a, *of_b], strict=True):
        if np.array_equal(own.rows, first.rows) and np.array_equal(own.label, first.label):
            continue
        labels = np.full((2, len(ids)), -1)
        labels[0, first.rows], labels[1, own.rows] = first.label, own.label
        row = ids[int(np.argmax(labels[0] != labels[1]))]
        raise DataError(
            f"{a[0].member.path} and {seen.member.path}: were scored against other labels of {name}, the "
            f"first of row {row}; with --annotations both are measured against one list"
        )
    best = [
        (np.stack([one.best1 for one in side]), np.stack([one.best5 for one in side]))
        for side in (of_a, of_b)
    ]
    return Target(first, *best)


def _refuse_other_rows(one: Seen, other: Seen) -> None:
    if other.unlisted:
        raise DataError(
            f"{other.member.path}: {counted(len(other.unlisted), 'row')} of it not in the list "
            f"({some(other.unlisted)}); --split says which list, --allow rows leaves them out"
        )
    if apart := sorted(set(one.ids) ^ set(other.ids)):
        raise DataError(
            f"{one.member.path} and {other.member.path}: have other rows, {len(one.ids):,} and "
            f"{len(other.ids):,}, not in both {some(apart)}; --allow rows compares those that both have"
        )


def _refuse_other_classes(one: Seen, other: Seen) -> None:
    where = f"{one.member.path} and {other.member.path}"
    for name in one.ranked.keys() & other.ranked.keys():
        if name in one.classes.derived:
            is_same = one.classes.derived[name].of == other.classes.derived[name].of
        else:
            mine, theirs = one.classes.targets[name], other.classes.targets[name]
            is_same = (dict(mine.classes), mine.count) == (dict(theirs.classes), theirs.count)
        if not is_same:
            raise DataError(f"{where}: have other classes of {name}")


def segments_of(member: Member, ids: Sequence[str], listed: Listed | None) -> tuple[Segment, ...]:
    """The rows themselves: of the list, or of the run's stores. Raises DataError where neither is there."""
    found = {one.narration_id: one for one in listed.segments} if listed else {}
    stores = next(iter(member.result.streams.values())).stores if member.result and not listed else ()
    for path in stores:
        if not Path(path).exists():
            raise DataError(
                f"{member.path}: its store {path} is gone, which says of which video each row is; name the "
                "lists with --annotations"
            )
        found |= {one.narration_id: one for one in open_store(path, verify="none").segments}
    if lost := [name for name in ids if name not in found]:
        raise DataError(
            f"{member.path}: its stores do not hold {counted(len(lost), 'row')} that it scored "
            f"({some(lost)}); name the lists with --annotations"
        )
    return tuple(found[name] for name in ids)
