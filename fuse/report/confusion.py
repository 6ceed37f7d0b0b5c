"""What was taken for what: counts of (label, prediction), and the pairs that are confused most. Of the first
seed of an entry.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mambavl.fuse.report.measured import Measured
from mambavl.fuse.report.tables import Cell, Column, Table, table

PAIRS = 10  # most confused ones that are listed of an entry
CLASSES = 400  # of a matrix: the most frequent; all others are one


def counted_pairs(label: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n,), (n,) -> labels, predictions and counts of the P pairs that occur, in order."""
    pairs, counts = np.unique(np.stack([label, predicted], 1), axis=0, return_counts=True)
    return pairs[:, 0], pairs[:, 1], counts


def most_confused(measured: Sequence[Measured], target: str) -> Table:
    """By rows; of equals the one of the lower class."""
    rows = []
    for one in measured:
        if target in one.tops:
            rows += [[Cell(one.entry.title), *cells] for cells in _confused(one, target)]
    columns = [Column("entry", is_text=True), Column(target, is_text=True)]
    columns += [Column("taken for", is_text=True), Column("rows"), Column("% of its rows")]
    caption = f"{target}: the {PAIRS} pairs that each entry confuses most"
    return table(f"confused-{target}", caption, columns, rows)


def _confused(one: Measured, target: str) -> Iterator[list[Cell]]:
    top = one.tops[target]
    labels, predicted, counts = counted_pairs(top.label, top.predicted)
    wrong = np.flatnonzero(labels != predicted)
    of_label = dict(zip(*np.unique(top.label, return_counts=True), strict=True))
    for at in wrong[np.argsort(-counts[wrong], kind="stable")][:PAIRS]:
        names = (one.class_name(target, int(number)) for number in (labels[at], predicted[at]))
        share = 100 * float(counts[at]) / of_label[labels[at]]
        yield [*map(Cell, names), Cell(f"{counts[at]:,}", int(counts[at])), Cell(f"{share:.1f}", share)]


def matrix_data(one: Measured, target: str) -> dict[str, Any]:
    """names: of the classes that occur, the most frequent label first, `other` last where classes are left
    out; cells: label * len(names) + prediction and count in turn, the first as its
    difference from the one before.
    """
    top = one.tops[target]
    classes, counts = np.unique(np.concatenate([top.label, top.predicted]), return_counts=True)
    of_label = np.array([(top.label == one).sum() for one in classes])
    order = np.lexsort([classes, -counts, -of_label])[:CLASSES]
    shown = classes[order].tolist()
    names = [one.class_name(target, number) for number in shown]
    if len(classes) > len(shown):
        names.append("other")
    place = {number: at for at, number in enumerate(shown)}
    at = [
        np.array([place.get(number, len(shown)) for number in of.tolist()])
        for of in (top.label, top.predicted)
    ]
    cells, number = np.unique(at[0] * len(names) + at[1], return_counts=True)
    pairs = np.stack([np.diff(cells, prepend=0), number], 1)
    return {"names": names, "cells": pairs.ravel().tolist()}


def matrices(measured: Sequence[Measured], targets: Sequence[str]) -> dict[str, dict[str, Any]]:
    """For the page's script. target -> names of all classes, and entries: null, or [places of `matrix_data`'s
    names among them, its cells].
    """
    found: dict[str, dict[str, Any]] = {}
    for target in targets:
        place: dict[str, int] = {}
        entries: list[list[list[int]] | None] = []
        for one in measured:
            made = matrix_data(one, target) if target in one.tops else None
            own = [place.setdefault(name, len(place)) for name in made["names"]] if made else []
            entries.append([own, made["cells"]] if made else None)
        found[target] = {"names": list(place), "entries": entries}
    return found
