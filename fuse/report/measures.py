"""The columns of a report's tables of measures, and what the training prior reaches in them."""

import itertools

from mambavl.fuse.report.entries import Entry
from mambavl.fuse.report.tables import DASH, Cell, Column, Row, Table, table

MEASURES = (
    ("top-1", "all_{}_top1"),
    ("top-5", "all_{}_top5"),
    ("recall@5, official", "all_{}_mean_class_recall5"),
    ("mAP", "all_{}_map"),
)
GROUPS = {"unseen": "unseen kitchens", "tail": "tail classes"}  # EK100's, as people know them


def measures(entries: list[Entry], targets: list[str]) -> list[tuple[str, list[tuple[str, str]]]]:
    """What was measured of anything: its name on the page, and (target, key) for each of its columns."""
    groups = dict.fromkeys(itertools.chain(*(entry.classes.group_names[1:] for entry in entries)))
    asked = list(MEASURES)
    for group in groups:
        label = GROUPS.get(group, group)
        asked += [(f"{label}, top-1", f"{group}_{{}}_top1"), (f"{label}, mAP", f"{group}_{{}}_map")]
    there = set(itertools.chain(*(entry.first.metrics for entry in entries)))
    found = []
    for label, template in asked:
        columns = [(name, template.format(name)) for name in targets if template.format(name) in there]
        if columns:
            found.append((label, columns))
    relaxed = [(name, f"relaxed_{name}_mean_class_recall5") for name in targets]
    columns = [(name, key) for name, key in relaxed if key in there]
    return [*found, ("relaxed recall@5", columns)] if columns else found


def measures_table(entries: list[Entry], targets: list[str]) -> Table:
    """Means over seeds, with their deviation."""
    asked = [
        (f"{label}, {name}", key) for label, columns in measures(entries, targets) for name, key in columns
    ]
    rows: list[Row | list[Cell]] = [
        [Cell(entry.title), *(Cell(entry.cell(key), entry.mean(key)) for _, key in asked)]
        for entry in entries
    ]
    for name, prior in priors(entries).items():
        cells = [Cell(prior[key], float(prior[key])) if key in prior else Cell(DASH) for _, key in asked]
        rows.append(Row((Cell(name), *cells), "prior"))
    columns = [Column("entry", is_text=True), *(Column(label) for label, _ in asked)]
    return table("measures", "All measures, in percent, means over seeds", columns, rows)


def priors(entries: list[Entry]) -> dict[str, dict[str, str]]:
    """A row for every distinct training prior: its name, and its cells by measure."""
    rows: dict[str, dict[str, str]] = {}
    for entry in entries:
        measured = entry.first.prior_metrics
        cells = {key: f"{value:.1f}" for key, value in measured.items() if value is not None}
        if cells not in rows.values():
            rows[f"training prior, {entry.first.split}" + (f" ({len(rows) + 1})" if rows else "")] = cells
    return rows
