"""Is a head as often right as it is sure? Reliability by bins of confidence, and the expected calibration
error.

    ECE = sum over bins b of  n_b / n  |right_b - confidence_b|

(Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, eq. 3): n_b of n rows are in the b-th of
BINS equal bins of the probability that the head gives the class that it names; right_b is the share of them
that it names rightly, confidence_b the mean of that probability. Of the first seed of an entry.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mambavl.fuse.report.measured import Measured, Top
from mambavl.fuse.report.tables import Cell, Column, Table, number, table

BINS = 10
MEANING = (
    f"Rows are put into {BINS} bins by the probability that a head gives the class that it names. In each "
    "bin that probability, on average, stands beside the share of rows that are right: a head that is as "
    "often right as it is sure lies on the diagonal. The expected calibration error (ECE) is the mean "
    "distance from it over rows, in points. It says nothing of how many rows are right."
)


@dataclass(frozen=True)
class Reliability:
    """Of the bins in turn; shares in percent, NaN of an empty bin."""

    rows: np.ndarray  # (BINS,)
    confidence: np.ndarray
    right: np.ndarray

    @property
    def ece(self) -> float:
        filled = self.rows > 0
        apart = np.abs(self.right - self.confidence)[filled]
        return float((apart * self.rows[filled]).sum() / self.rows.sum())


def reliability(top: Top) -> Reliability:
    """A confidence on a border belongs to the bin above it, 1 to the last."""
    place = np.minimum((top.confidence * BINS).astype(int), BINS - 1)
    rows = np.bincount(place, minlength=BINS)
    with np.errstate(invalid="ignore"):
        confidence, right = (
            100 * np.bincount(place, values, BINS) / rows for values in (top.confidence, top.right)
        )
    return Reliability(rows, confidence, right)


def calibration_table(measured: Sequence[Measured], targets: Sequence[str]) -> Table:
    rows = []
    for one in measured:
        for target in targets:
            if target in one.tops and len(one.tops[target].label):
                top = one.tops[target]
                cells = [Cell(one.entry.title), Cell(target), number(100 * float(top.right.mean()))]
                rows.append(
                    [*cells, number(100 * float(top.confidence.mean())), number(reliability(top).ece)]
                )
    columns = [Column("entry", is_text=True), Column("target", is_text=True), Column("right, %")]
    columns += [Column("mean confidence, %"), Column("ECE, points")]
    return table("calibration", "Calibration of each entry's first seed", columns, rows)


def bins_table(measured: Sequence[Measured], target: str) -> Table:
    """What the reliability diagram of a target shows."""
    rows = []
    for one in measured:
        if target not in one.tops:
            continue
        found = reliability(one.tops[target])
        for at in np.flatnonzero(found.rows):
            cells = [Cell(one.entry.title), Cell(f"{at / BINS:.1f} to {(at + 1) / BINS:.1f}", float(at))]
            cells += [Cell(f"{found.rows[at]:,}", int(found.rows[at]))]
            rows.append([*cells, number(float(found.confidence[at])), number(float(found.right[at]))])
    columns = [Column("entry", is_text=True), Column("confidence", is_text=True), Column("rows")]
    columns += [Column("mean confidence, %"), Column("right, %")]
    return table(f"bins-{target}", f"{target}: bins of the reliability diagram", columns, rows)
