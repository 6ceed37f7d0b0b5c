"""Published numbers on EK100, each with its task, protocol, source, date and tier; and a run's own numbers in
the same form. They are in `configs/published.json`, a row for each model, and nowhere else.

    tier   claimed      a paper or a page says so
           released     its weights are public, so that anybody can measure it
           reproduced   measured here, from a run's own scores
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib import resources
from typing import Any, Literal, get_args

from mambavl.configs.errors import DataError, UsageError, did_you_mean
from mambavl.fuse.result import Result, task_of

Tier = Literal["claimed", "released", "reproduced"]
# name -> what it is called; `relaxed_` as fuse/metrics.py explains
MEASURES = {
    "top1": "top-1",
    "mean_class_recall5": "class-mean recall@5",
    "relaxed_mean_class_recall5": "class-mean recall@5, of actions the relaxed one",
    "map": "mAP",
    "cost": "cost",
}
TASKS = ("recognition", "anticipation")
SPLITS = ("validation", "test", "none")  # none: of a cost
DATE = re.compile(r"\d{4}-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01]))?")
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
FILE = "published.json"


@dataclass(frozen=True, kw_only=True)
class Published:
    """What somebody says that a model reaches."""

    name: str  # by which a recipe names it
    model: str
    task: str
    split: str
    measure: str  # of MEASURES
    protocol: str  # what the model was shown and told
    values: Mapping[str, float]  # target -> percent; of a cost, what it is of -> a number
    source: str
    date: str  # of the source, YYYY-MM or YYYY-MM-DD; of a page without one, of the paper that it goes with
    tier: str
    note: str | None = None

    @property
    def figures(self) -> str:
        """`70.9 / 61.1 / 49.1`, a dash where a target is not there."""
        return " / ".join(_plain(self.values.get(one), self.measure) for one in self.targets)

    @property
    def targets(self) -> tuple[str, ...]:
        """Those of its figures: EK100's in their order, or its own."""
        ek100 = ("verb", "noun", "action")
        return ek100 if set(self.values) <= set(ek100) else tuple(self.values)

    def to_dict(self) -> dict[str, Any]:
        found = asdict(self)
        return found if self.note else {key: value for key, value in found.items() if key != "note"}


def _plain(value: float | None, measure: str) -> str:
    if value is None:
        return "–"
    has_one_decimal = measure != "cost" and value == round(value, 1)
    return f"{value:.1f}" if has_one_decimal else f"{value:g}"


@cache
def published() -> dict[str, Published]:
    """All rows by name."""
    text = resources.files("mambavl.configs").joinpath(FILE).read_text(encoding="utf-8")
    return read_published(text, FILE)


def read_published(text: str, where: str) -> dict[str, Published]:
    """The rows of a file in this form, by name. Raises DataError, naming row and key, where one lacks its
    source, or anything else, or says what it cannot mean.
    """
    try:
        raw = json.loads(text)
        rows = raw["rows"]
        entries = [(number, dict(row)) for number, row in enumerate(rows, 1)]
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{where}: is no list of published numbers ({type(error).__name__}: {error})"
        ) from None
    found: dict[str, Published] = {}
    for number, row in entries:
        name = row.get("name", number)
        if faults := _faults(row):
            raise DataError(f"{where}: row {name}: {'; '.join(faults)}")
        if name in found:
            raise DataError(f"{where}: row {name}: there are two of this name")
        found[row["name"]] = Published(**row)
    return found


def _faults(row: Mapping[str, Any]) -> list[str]:
    known = {part.name for part in fields(Published)}
    faults = [f"there is no key {key}" for key in sorted(row.keys() - known)]
    for key in sorted(known - {"values", "note"}):
        if not isinstance(row.get(key), str) or not row[key].strip():
            faults.append(f"it lacks its {key}")
    if faults:
        return faults
    choices = {"task": TASKS, "split": SPLITS, "measure": tuple(MEASURES), "tier": get_args(Tier)}
    for key, allowed in choices.items():
        if row[key] not in allowed:
            faults.append(f"{key} is {row[key]!r}; it is one of {', '.join(allowed)}")
    for key, pattern in (("date", DATE), ("name", NAME)):
        if not pattern.fullmatch(row[key]):
            faults.append(f"{key} is {row[key]!r}")
    values = row.get("values")
    numbers = list(values.values()) if isinstance(values, dict) else []
    if not numbers or not all(type(one) in (int, float) and one >= 0 for one in numbers):
        faults.append(f"values are {values!r}; they are numbers by target")
    elif row["measure"] != "cost" and max(numbers) > 100:
        faults.append(f"values are {values!r}; they are percent")
    return faults


def figures_of(name: str) -> dict[str, float]:
    """The top-1 by target of a row, as a recipe shows it next to its own. Raises ValueError for a row that
    there is not, or that is of something else.
    """
    rows = published()
    shown = [one for one, row in rows.items() if row.measure == "top1"]
    if name not in rows:
        raise ValueError(f"there is no published row {name!r}{did_you_mean(name, shown)}")
    if name not in shown:
        raise ValueError(f"the published row {name} is of {MEASURES[rows[name].measure]}, not of top-1")
    return dict(rows[name].values)


def said_of(values: Mapping[str, float]) -> str:
    """Where the figures of a recipe are from: of the row that has them; otherwise the recipe itself."""
    for row in published().values():
        if row.measure == "top1" and row.values == values:
            return f"{row.figures}: {row.model}, {row.protocol}; {row.source} ({row.date}, {row.tier})"
    figures = ", ".join(f"{target} {value:g}" for target, value in values.items())
    return f"{figures}: the recipe's own figures, of no source that is listed"


def rows_of(result: Result, name: str, date: str, task: str | None = None) -> list[Published]:
    """A run's numbers over all rows, in the same form: a row for each kind of measure.

    name: of the run; date: of the day; task: where the run's streams do not say it. Raises UsageError where
    nothing was measured, and as `task_of` does.
    """
    if not result.metrics:
        raise UsageError(f"{name}: split {result.split} has no labels, so nothing was measured")
    told_task = task_of(result, task, name)
    name = "-".join(re.findall("[a-z0-9]+", name.lower()))
    scored = result.scored.environment
    commit = f" at commit {scored.commit}" if scored.commit else ""
    told = [f"{result.text_protocol} text"] if result.text_protocol != "absent" else []
    told += [f"{result.history_protocol} history"] if result.history_protocol != "absent" else []
    found = []
    for kind in ("top1", "mean_class_recall5", "map"):
        keys = {target: f"all_{target}_{kind}" for target in result.targets}
        measured = {target: result.metrics.get(key) for target, key in keys.items()}
        values = {target: round(value, 2) for target, value in measured.items() if value is not None}
        if values:
            found.append(
                Published(
                    name=f"{name}-{kind.replace('_', '-')}",
                    model=result.title,
                    task=told_task,
                    split=result.split,
                    measure=kind,
                    protocol=", ".join([*result.streams, *told]),
                    values=values,
                    source=f"mambavl {scored.mambavl}{commit}, seed {result.seed}",
                    date=date,
                    tier="reproduced",
                    note=result.notice,
                )
            )
    return found


def to_json(rows: Iterable[Published]) -> str:
    """A file of rows, one a line, that `read_published` reads."""
    lines = ",\n".join(json.dumps(row.to_dict(), ensure_ascii=False) for row in rows)
    return f'{{"schema": 1, "rows": [\n{lines}\n]}}\n'


def groups_of(rows: Iterable[Published]) -> dict[str, list[Published]]:
    """Rows that may stand in one table, by its title."""
    found: dict[str, list[Published]] = {}
    for row in rows:
        split = "" if row.split == "none" else f", {row.split}"
        found.setdefault(f"{row.task.capitalize()}{split}, {MEASURES[row.measure]}", []).append(row)
    return found


def to_markdown(rows: Sequence[Published]) -> str:
    """docs/published.md."""
    lines = [
        "# Published numbers",
        "",
        "Generated by `mambavl published --markdown` from `configs/published.json`, where every number "
        "stands once. In percent, unless it is a cost. The tier says what a number rests on: *claimed*, a "
        "paper or a page says so; *released*, the weights are public, so that anybody can measure it; "
        "*reproduced*, measured here. Of EK100's videos nothing has been reproduced yet.",
        "",
        "Numbers of different tables do not compare, nor do those of different protocols: oracle text is "
        "written from the labels, and InAViT's loader shows frames of the action that is to be foreseen.",
    ]
    for title, group in groups_of(rows).items():
        targets = " / ".join(one.replace("_", " ") for one in group[0].targets)
        lines += [
            "",
            f"## {title}",
            "",
            f"| model | {targets} | protocol | tier | source |",
            "|---|---|---|---|---|",
        ]
        for row in group:
            model = f"{row.model} ({row.note})" if row.note else row.model
            cells = (model, row.figures, row.protocol, row.tier, f"{row.source}, {row.date}")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
