"""Runs whose answers can stand beside each other, row by row.

Those that were scored on one split, with the same classes and the same labels, share a table. Of an entry's
seeds it is the first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mambavl.cache.classes import Classes, Derived, Target
from mambavl.cache.rows import Segment
from mambavl.fuse.report.answers import Answers, answers_of
from mambavl.fuse.report.entries import Entry
from mambavl.fuse.report.told import Told, rows_of_stores
from mambavl.fuse.run import read_scores


@dataclass(frozen=True)
class Scored:
    """What one run answers."""

    entry: Entry
    classes: Classes
    ids: list[str]
    answers: Mapping[str, Answers]  # by target

    @property
    def place(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.ids)}


@dataclass
class Table:
    """Rows that several runs answered, in the order of the first of them."""

    title: str
    ids: list[str] = field(default_factory=list)
    runs: list[Scored] = field(default_factory=list)
    targets: dict[str, Target | Derived] = field(default_factory=dict)

    def add(self, scored: Scored) -> None:
        known = set(self.ids)
        self.ids += [name for name in scored.ids if name not in known]
        self.runs.append(scored)
        for name in scored.answers:
            self.targets.setdefault(name, _meaning(scored.classes, name))

    def labels(self, target: str) -> list[tuple[int, ...]]:
        """(N,) those of a target, as the first run has them that has the row."""
        found: dict[str, tuple[int, ...]] = {}
        for run in self.runs:
            if target in run.answers:
                found = dict(zip(run.ids, run.answers[target].labels, strict=True)) | found
        return [found.get(name, ()) for name in self.ids]


def tables_of(runs: Sequence[Scored]) -> list[Table]:
    """Runs whose answers can stand beside each other, row by row."""
    tables: list[Table] = []
    for run in runs:
        table = next((one for one in tables if _belongs(run, one)), None)
        if table is None:
            split = run.entry.first.split
            before = sum(one.runs[0].entry.first.split == split for one in tables)
            table = Table(split + (f" ({before + 1}: other rows, labels or classes)" if before else ""))
            tables.append(table)
        table.add(run)
    return tables


def scored(entry: Entry) -> Scored:
    """What an entry answers, by its first seed. Raises DataError for damaged scores."""
    scores = read_scores(entry.runs[0], entry.first.split)
    classes = entry.classes
    answers = {name: answers_of(name, classes, scores) for name in classes.names}
    return Scored(entry, classes, scores["narration_id"].tolist(), answers)


def _meaning(classes: Classes, name: str) -> Target | Derived:
    return classes.derived[name] if name in classes.derived else classes.targets[name]


def _belongs(run: Scored, table: Table) -> bool:
    """Whether a run has rows of a table, and means the same by its classes and labels."""
    other = table.runs[0]
    place = other.place
    shared = [(row, place[name]) for row, name in enumerate(run.ids) if name in place]
    if run.entry.first.split != other.entry.first.split or not shared:
        return False
    for name in run.answers.keys() & other.answers.keys():
        if not _mean_the_same(run.classes, other.classes, name):
            return False
        own, others = run.answers[name].labels, other.answers[name].labels
        if any(own[row] != others[there] for row, there in shared):
            return False
    return bool(run.answers.keys() & other.answers.keys())


def _mean_the_same(one: Classes, other: Classes, name: str) -> bool:
    """Whether a target of both has the same classes; which of them are measured apart is another matter."""
    if (name in one.derived) != (name in other.derived):
        return False
    if name in one.derived:
        parts, others = one.derived[name].of, other.derived[name].of
        return parts == others and all(_mean_the_same(one, other, part) for part in parts)
    here, there = one.targets[name], other.targets[name]
    return (here.kind, here.count, dict(here.classes)) == (there.kind, there.count, dict(there.classes))


def segments_of(table: Table, told: Told) -> tuple[dict[str, Segment], list[str]]:
    """narration_id -> row, of those that are known: from whoever asks, else from the runs' stores; and what
    is wrong with stores that cannot be read.
    """
    found = {name: told.segments[name] for name in table.ids if name in told.segments}
    faults: list[str] = []
    for run in table.runs:
        missing = [name for name in table.ids if name not in found]
        if not missing:
            break
        known, more = rows_of_stores(run.entry.first)
        found |= {name: known[name] for name in missing if name in known}
        faults += more
    return found, faults
