"""What each class reaches: its rows, how often it is the best and among the best five, head or tail."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mambavl.fuse.report.measured import Measured
from mambavl.fuse.report.tables import Cell, Column, Row, Table, table

MOST = 400  # classes of a target that are shown: the most frequent; combinations are thousands
TAIL = "tail"


@dataclass(frozen=True)
class OfClasses:
    """The C classes of a target that rows have, the most frequent first; values are means over seeds."""

    names: tuple[str, ...]
    rows: np.ndarray  # (C,)
    is_tail: np.ndarray  # (C,) bool
    recall1: np.ndarray  # (C,) percent of the class's rows
    recall5: np.ndarray
    there: int  # classes that rows have, shown or not


def of_classes(one: Measured, target: str) -> OfClasses:
    label = one.label(target)
    classes, index, counts = np.unique(label, return_inverse=True, return_counts=True)
    recalls = [
        100 * np.bincount(index, one.hits(target, five=five).mean(0), len(classes)) / counts
        for five in (False, True)
    ]
    order = np.argsort(-counts, kind="stable")[:MOST]
    is_in_tail = one.seen[0].ranked[target].sets.get(TAIL, np.zeros(len(label), bool))
    tail = np.zeros(len(classes), bool)
    tail[index] = is_in_tail
    return OfClasses(
        names=tuple(one.class_name(target, int(number)) for number in classes[order]),
        rows=counts[order],
        is_tail=tail[order],
        recall1=recalls[0][order],
        recall5=recalls[1][order],
        there=len(classes),
    )


def classes_table(one: Measured, target: str, name: str) -> Table:
    found = of_classes(one, target)
    rows = []
    for place, class_ in enumerate(found.names):
        values = found.recall1[place], found.recall5[place]
        is_tail = bool(found.is_tail[place])
        cells = [Cell(class_), Cell(f"{found.rows[place]:,}", int(found.rows[place]))]
        cells += [Cell(TAIL if is_tail else "head", kind=TAIL if is_tail else "")]
        cells += [Cell(f"{value:.1f}", round(float(value), 1), bar=float(value) / 100) for value in values]
        rows.append(Row(tuple(cells)))
    columns = [Column(target, is_text=True), Column("rows"), Column("head or tail", is_text=True)]
    columns += [Column("recall@1, %"), Column("recall@5, %")]
    shown = f"the {len(rows):,} most frequent of " if found.there > len(rows) else ""
    shown += f"{found.there:,}"
    return table(name, f"{target}: {shown} classes that rows have, by “{one.entry.title}”", columns, rows)


def classes_data(measured: Sequence[Measured], targets: Sequence[str]) -> dict[str, Any]:
    """What the page's script fills the tables with for another entry. target -> lists: columns of (names,
    rows, 1 for tail), once for entries that share them; entries of null, or [caption, number of columns,
    recall@1, recall@5].
    """
    found: dict[str, Any] = {}
    for target in targets:
        lists: list[list[list[Any]]] = []
        entries: list[list[Any] | None] = []
        for one in measured:
            if target not in one.tops:
                entries.append(None)
                continue
            made = classes_table(one, target, target)
            names, counts, tails, *recalls = zip(*(row.cells for row in made.rows), strict=True)
            own = [[cell.text for cell in names], [cell.value for cell in counts]]
            own.append([int(cell.text == TAIL) for cell in tails])
            if own not in lists:
                lists.append(own)
            values = [[cell.value for cell in cells] for cells in recalls]
            entries.append([made.caption, lists.index(own), *values])
        found[target] = {"lists": lists, "entries": entries}
    return found
