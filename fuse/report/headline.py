"""The first table: every entry with its main numbers and their intervals, what it was told, what it read.

Recognition is shown by top-1 and anticipation by class-mean recall@5, the official measures of EK100.
"""

from collections.abc import Sequence

from mambavl.cache.spec import EncoderIdentity
from mambavl.fuse.report.entries import Entry
from mambavl.fuse.report.intervals import Intervals, cell
from mambavl.fuse.report.measured import Measured
from mambavl.fuse.report.measures import priors
from mambavl.fuse.report.tables import DASH, Cell, Column, Row, Table, number, table
from mambavl.fuse.sides import ANTICIPATION

SHORT = 8  # digits of a sha256 or a store's id


def headlines(entries: Sequence[Entry], targets: Sequence[str]) -> list[tuple[str, str]]:
    """A column for each target and measure: its name on the page, and the key of the measure."""
    there = {key for entry in entries for key in entry.first.metrics}
    tasks = {entry.first.task for entry in entries}
    kinds = [("top-1", "top1")] if tasks != {ANTICIPATION} else []
    kinds += [("recall@5", "mean_class_recall5")] if ANTICIPATION in tasks else []
    kinds += [("mAP", "map")]
    found = [(f"{name} {label}", f"all_{name}_{kind}") for label, kind in kinds for name in targets]
    return [(label, key) for label, key in found if key in there]


def headline_table(
    measured: Sequence[Measured], columns: Sequence[tuple[str, str]], intervals: Intervals
) -> Table:
    """columns: those of `headlines`."""
    entries = [one.entry for one in measured]
    published = list(dict.fromkeys(name for entry in entries for name in entry.first.published))
    splits = len({entry.first.split for entry in entries}) > 1
    heads = [Column("entry", is_text=True)]
    heads += [Column(label) for label, _ in columns]
    heads += [Column(f"published {name}", note="top-1, another experiment") for name in published]
    heads += [Column("text", is_text=True), Column("history", is_text=True)]
    heads += [Column("scored on", is_text=True)] if splits else []
    heads += [Column("head", is_text=True), Column("weights", is_text=True), Column("stores", is_text=True)]
    heads += [Column("seeds", is_text=True), Column("parameters")]
    rows: list[Row | list[Cell]] = []
    for one in measured:
        first = one.entry.first
        cells = [Cell(one.entry.title)]
        cells += [
            cell(one.entry.mean(key), intervals.of(one, key), one.entry.spread(key)) for _, key in columns
        ]
        cells += [number(first.published.get(name), "g") for name in published]
        told = f"{first.text_protocol}{': upper bound, no forecast' if one.entry.is_upper_bound else ''}"
        cells += [Cell(told, kind=_kind(first.text_protocol))]
        cells += [Cell(first.history_protocol, kind=_kind(first.history_protocol))]
        cells += [Cell(first.split)] if splits else []
        cells += [Cell(first.head), Cell(weights_of(one.entry)), Cell(stores_of(one.entry))]
        cells += [Cell(", ".join(map(str, one.entry.seeds)), len(one.entry.seeds))]
        cells += [Cell(f"{first.params.total:,}", first.params.total)]
        rows.append(cells)
    for name, prior in priors(entries).items():
        cells = [Cell(name)]
        cells += [Cell(prior[key], float(prior[key])) if key in prior else Cell(DASH) for _, key in columns]
        cells += [Cell(DASH)] * (len(heads) - len(cells) - 1) + [Cell("0", 0)]
        rows.append(Row(tuple(cells), "prior"))
    return table("headline", "Every entry, in percent, with 95 % intervals", heads, rows)


def _kind(protocol: str) -> str:
    return "oracle" if protocol == "oracle" else ""


def weights_of(entry: Entry) -> str:
    """`video: avion-vit-b, pretrained 0a1b2c3d; verb_question, noun_question: ...`."""
    found: dict[str, list[str]] = {}
    for name, stream in entry.ordered.items():
        found.setdefault(encoder_in_words(stream.encoder), []).append(name)
    return "; ".join(f"{', '.join(names)}: {words}" for words, names in found.items()) or DASH


def encoder_in_words(encoder: EncoderIdentity) -> str:
    weights = f", {encoder.state or 'unknown'} {encoder.sha256[:SHORT]}" if encoder.sha256 else ", no weights"
    return f"{encoder.name}{weights}"


def stores_of(entry: Entry) -> str:
    """The first digits of the stores' ids."""
    found: dict[str, list[str]] = {}
    for name, stream in entry.ordered.items():
        found.setdefault(" ".join(one[:SHORT] for one in stream.store_ids), []).append(name)
    return "; ".join(f"{', '.join(names)}: {ids}" for ids, names in found.items()) or DASH
