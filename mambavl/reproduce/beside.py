"""A table of the paper, published beside measured, as JSON and Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from mambavl.fuse.published import MEASURES, Published, published
from mambavl.reproduce import rows
from mambavl.reproduce.table import Row, cells

RELAXED = "relaxed_action_mean_class_recall5"


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row as it came out."""

    name: str
    published: str | None  # which row of configs/published.json
    measured: Row | None = None
    relaxed: float | None = None  # of anticipation: the easier recall@5 of actions, a mean over seeds
    protocol: str = ""  # what the text knew
    notice: str | None = None  # what must be said with the numbers
    streams: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # encoder, weights, sha256, store
    nothing: str = ""  # why nothing was measured

    @property
    def print_of(self) -> Published | None:
        return published()[self.published] if self.published else None

    @property
    def weights(self) -> str:
        """`avion-vit-b ek100-finetuned, roberta-base pretrained`."""
        found = [f"{one['encoder']} {one['weights']}" for one in self.streams.values()]
        return ", ".join(dict.fromkeys(found))

    def to_dict(self) -> dict[str, Any]:
        found = {
            key: getattr(self, key) for key in ("name", "relaxed", "protocol", "notice", "streams", "nothing")
        }
        found["measured"] = asdict(self.measured) if self.measured else None
        return found | {"published": self.print_of.to_dict() if self.print_of else None}


def to_dict(table: rows.Table, lines: Sequence[Line], sets: Sequence[str]) -> dict[str, Any]:
    """results.json. sets: what the call changed of the recipes."""
    return {
        "table": table.number,
        "inputs": table.inputs,
        "task": table.task,
        "measure": table.measure,
        "sets": list(sets),
        "rows": [line.to_dict() for line in lines],
    }


def markdown(table: rows.Table, lines: Sequence[Line], sets: Sequence[str]) -> str:
    """results.md: the table, then where nothing was measured, and what the features are."""
    said = [
        f"**Table {table.number} of the paper**, {table.task}, {MEASURES[table.measure]} in percent, inputs "
        f"`{table.inputs}`. Published (verb / noun / action): with the encoder fine-tuned along, on EK100's "
        "validation list. Measured: heads on frozen features, mean over seeds; in brackets the middle 95 % "
        "of draws of videos."
    ]
    if sets:
        said.append(f"The recipes were changed: {', '.join(f'`{one}`' for one in sets)}.")
    if table.task == "anticipation":
        said.append(
            "`relaxed` asks for the verb among the best five verbs and the noun among the best five nouns, "
            "as the published rows of ORViT and MambaVL do; `action` is EK100's own measure."
        )
    if table.beside:
        said.append(
            f"Behind a number stands its difference to {table.beside}: **bold** where its interval lies on "
            "one side of 0 and the signs of six seeds do, too, so with fewer seeds never."
        )
    found = [" ".join(said), "", *_table(table, lines)]
    if missing := [line for line in lines if line.nothing]:
        found += ["", "Nothing was measured:", "", *(f"- {one.name}: {one.nothing}" for one in missing)]
    if streams := [text for line in lines for text in _streams(line)]:
        found += ["", "Features:", "", *dict.fromkeys(streams)]
    if notices := dict.fromkeys(f"- {line.name}: {line.notice}" for line in lines if line.notice):
        found += ["", "To be said with the numbers:", "", *notices]
    return "\n".join([*found, ""])


def _table(table: rows.Table, lines: Sequence[Line]) -> list[str]:
    targets = ("verb", "noun", "action")
    beside = [f"- {table.beside}"] if table.beside else []
    columns = [column for target in targets for column in (target, *beside)]
    relaxed = ["relaxed"] if table.task == "anticipation" else []
    head = ["", "published", *columns, *relaxed, "text", "weights", "seeds", "rows"]
    found = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for line in lines:
        row, print_of = line.measured, line.print_of
        numbers = ["–"] * (len(columns) + len(relaxed))
        if row:
            numbers = [cell for target in targets for cell in _numbers(table, row, target)]
            numbers += [f"{line.relaxed:.1f}" if line.relaxed is not None else "–" for _ in relaxed]
        sizes = [str(row.seeds), f"{row.rows:,}"] if row else ["", ""]
        figures = print_of.figures if print_of else "–"
        found.append(f"| {' | '.join([line.name, figures, *numbers, line.protocol, line.weights, *sizes])} |")
    return found


def _numbers(table: rows.Table, row: Row, target: str) -> list[str]:
    value, apart = cells(row.measured[target]).split(" | ")
    return [value, apart] if table.beside else [value]


def _streams(line: Line) -> list[str]:
    found = []
    for name, one in line.streams.items():
        sha256 = f", sha256 {one['sha256'][:12]}" if one["sha256"] else ""
        stores = ", ".join(str(store)[:12] for store in one["store"])
        found.append(f"- `{name}`: {one['encoder']} ({one['weights']}{sha256}), store {stores}")
    return found
