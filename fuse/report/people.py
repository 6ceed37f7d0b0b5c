"""How the entries do for each participant: whose kitchen is hard, and for whom."""

from collections.abc import Sequence

import numpy as np

from mambavl.fuse.data import in_group
from mambavl.fuse.report.intervals import parted
from mambavl.fuse.report.measured import Measured
from mambavl.fuse.report.tables import Cell, Column, Table, number, table

UNSEEN = "unseen"


def people_table(measured: Sequence[Measured], key: str) -> Table | None:
    """key: of a measure over all rows, top-1 or another: then top-5 is shown. A column for each entry that
    has the rows of the first one whose stores are there; None where there is none.
    """
    target, measure = parted(key)
    known = [one for one in measured if one.segments is not None and target in one.tops]
    if not known:
        return None
    first = known[0]
    shown = [one for one in known if one.ids == first.ids]
    assert first.segments is not None
    segments = tuple(first.segments[row] for row in first.rows(target))
    people = np.array([segment.participant_id for segment in segments])
    videos = np.array([segment.video_id for segment in segments])
    group = first.classes.groups.get(UNSEEN)
    unseen = in_group(segments, group) if group else np.zeros(len(segments), bool)
    hits = [one.hits(target, five=measure != "top1").mean(0) for one in shown]
    rows = []
    for person in np.unique(people).tolist():
        own = people == person
        kitchen = UNSEEN if unseen[own].any() else "seen"
        cells = [Cell(person or "unnamed"), Cell(kitchen), Cell(f"{own.sum():,}", int(own.sum()))]
        cells += [Cell(f"{len(set(videos[own])):,}", len(set(videos[own])))]
        rows.append([*cells, *(number(100 * float(one[own].mean())) for one in hits)])
    columns = [Column("participant", is_text=True), Column("kitchen", is_text=True), Column("rows")]
    columns += [Column("videos"), *(Column(one.entry.short) for one in shown)]
    words = "top-1" if measure == "top1" else "top-5"
    return table(
        "participants", f"{target} {words} by participant, in percent, means over seeds", columns, rows
    )
