"""What entries cost: parameters, multiply-adds of a row, tokens, seconds of training and on what."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mambavl.configs.errors import DataError, UsageError
from mambavl.fuse.recipe import Recipe
from mambavl.fuse.report.entries import Entry
from mambavl.fuse.report.tables import DASH, Cell, Column, Table, table


@dataclass(frozen=True)
class RowCost:
    """Of one row through a head, classifiers included."""

    macs: float  # multiply-adds of products and convolutions, without the scan
    scan: int  # operations of selective scans
    tokens: str  # stream by stream: `video 16x768, text 40x384`


CostOf = Callable[[Recipe], RowCost]


def cost_table(entries: Sequence[Entry], cost_of: CostOf | None) -> tuple[Table, list[str]]:
    """The table, and why entries have no count in it. cost_of: what counts a head, at the longest row of its
    stores; it raises UsageError or DataError where these are gone.
    """
    rows, said = [], []
    for entry in entries:
        found: RowCost | None = None
        if cost_of and (recipe := entry.recipe) and entry.side.has_seeds:
            try:
                found = cost_of(recipe)
            except (DataError, UsageError) as error:
                said.append(f"“{entry.title}”: multiply-adds could not be counted: {error}")
        params = entry.first.params
        cells = [Cell(entry.title), Cell(f"{params.total:,}", params.total)]
        cells += [Cell(f"{params.without_classifiers:,}", params.without_classifiers)]
        cells += [Cell(f"{found.macs / 1e6:,.2f}", found.macs) if found else Cell(DASH)]
        cells += [Cell(f"{found.scan / 1e6:,.2f}", found.scan) if found else Cell(DASH)]
        cells += [Cell(found.tokens if found else DASH), *_of_training(entry)]
        rows.append(cells)
    columns = [Column("entry", is_text=True), Column("parameters"), Column("without classifiers")]
    columns += [Column("M multiply-adds a row"), Column("M scan operations a row")]
    columns += [
        Column("tokens of the longest row", is_text=True),
        Column("epochs"),
        Column("seconds to train"),
    ]
    columns += [Column("on", is_text=True)]
    return table("cost", "Cost of the heads; encoders are not in it", columns, rows), said


def _of_training(entry: Entry) -> list[Cell]:
    trained = entry.first.trained
    seconds = [one.trained.train_seconds for one in entry.results if one.trained.train_seconds is not None]
    mean = float(np.mean(seconds)) if seconds else None
    epochs = trained.stopped or entry.first.epochs
    place = trained.environment.device if trained.environment else None
    words = [place or "not recorded", trained.precision]
    words += [f"{trained.processes} processes"] if (trained.processes or 1) > 1 else []
    words += [f"{trained.together} runs in one pass"] if (trained.together or 1) > 1 else []
    time = Cell(DASH) if mean is None else Cell(f"{mean:,.1f}", mean)
    return [Cell(f"{epochs:,}", epochs), time, Cell(", ".join(words))]
