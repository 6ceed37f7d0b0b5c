"""`mambavl reproduce table1`, `table2`, `table3`: the paper's tables on stores of your own.

    runs/ROW/       the seeds of a row, as `mambavl sweep` makes them
    results.json, results.md

Before anything runs, each row says what it needs, and what makes it where it is not there. What is there is
not made again, so the same command resumes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mambavl.cli.sweeping import run_sweep
from mambavl.configs import find_recipe, override, read_toml
from mambavl.configs.errors import DataError, UsageError, counted
from mambavl.fuse.idle import idle, without
from mambavl.fuse.paired import ClassMeans
from mambavl.fuse.points import Point, expand
from mambavl.fuse.published import published
from mambavl.fuse.result import Result
from mambavl.fuse.run import read_result
from mambavl.fuse.selection import SEED
from mambavl.reproduce import beside, inputs
from mambavl.reproduce.beside import Line
from mambavl.reproduce.hits import Hits, hits, kept
from mambavl.reproduce.rows import Row, Table
from mambavl.reproduce.table import Measured, sources_of, write
from mambavl.reproduce.table import Row as Numbers
from mambavl.terminal import out as console
from mambavl.terminal import progress

SEEDS = 3
INSTEAD = {  # what somebody may want in place of what the commands say
    "oracle": "the paper's questions are a language model's: `--backend llm`, docs/questions.md",
    "predicted": "AVION's own scores will do, too: --scores FILE, docs/questions.md",
}


@dataclass(frozen=True)
class Asked:
    """What a call asks for."""

    table: Table
    stores: Sequence[Path] = ()  # stores, or folders of stores
    only: Sequence[str] = ()  # rows by name; none: all
    sets: Sequence[str] = ()  # changes of every recipe
    seeds: int = SEEDS
    allowed: Sequence[str] = ()  # encoders whose random weights are taken for trained ones

    @property
    def rows(self) -> list[Row]:
        """Raises UsageError for a row that the table does not have."""
        names = [row.name for row in self.table.rows]
        for name in self.only:
            if name not in names:
                raise UsageError(
                    f"--row {name!r}: Table {self.table.number} has no such row, but {', '.join(names)}"
                )
        return [row for row in self.table.rows if not self.only or row.name in self.only]


def plan(asked: Asked) -> None:
    """Say what each row needs and which commands make it, and do nothing."""
    rows = asked.rows
    found = inputs.find(asked.stores, asked.table.wanted, asked.allowed)
    _say_needs(rows, found)
    lacking = [one for row in rows for one in row.stores if not found.fitting(one)]
    if commands := inputs.commands(lacking):
        _say("", f"To make what is not there ({_yours(lacking)}):", "")
        _say(*(f"  {command}" for command in commands))
    again = f"mambavl reproduce table{asked.table.number} --inputs {asked.table.inputs} --stores stores"
    again += "".join(f' --row "{name}"' for name in asked.only)
    _say("", f"Then:  {again}")


def run(asked: Asked, folder: Path, *, workers: int | None = None) -> None:
    """Train the rows whose stores are there, and write published beside measured.

    Raises UsageError for stores that no row reads and settings that no recipe has; DataError, when all is
    written, where a row has no numbers although it has a recipe.
    """
    rows = asked.rows
    found = inputs.find(asked.stores, asked.table.wanted, asked.allowed)
    _say_needs(rows, found)
    trained: dict[str, list[Point]] = {}
    failed: dict[str, str] = {}
    for row in rows:
        if row.recipe and all(found.fitting(one) for one in row.stores):
            out = folder / "runs" / slug(row.name)
            points = expand(recipe_of(asked, row, found), out, row.recipe)
            try:
                points, _ = run_sweep(points, out, chooses=False, workers=workers)
            except DataError as error:
                failed[row.name] = str(error)
                continue
            if errors := [f"{point.name}: {point.error}" for point in points if not point.result]:
                failed[row.name] = "; ".join(errors)
            else:
                trained[row.name] = sorted(points, key=lambda point: point.values[SEED])
    lines = _lines(asked.table, rows, found, trained, failed)
    text = beside.markdown(asked.table, lines, asked.sets)
    written = write(folder, beside.to_dict(asked.table, lines, asked.sets), text)
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    print(f"wrote {written}")
    if without_numbers := [line.name for line in lines if line.nothing and _has_recipe(rows, line.name)]:
        raise DataError(
            f"{counted(len(without_numbers), 'row')} without numbers: {'; '.join(without_numbers)}. "
            f"`mambavl reproduce table{asked.table.number} --plan` says what to make"
        )


def recipe_of(asked: Asked, row: Row, found: inputs.Found) -> dict[str, Any]:
    """The row's recipe over the stores that were found, with a grid of seeds. A change that cannot act on the
    row's head is left out.
    """
    raw = override(read_toml(find_recipe(row.recipe)), [*row.sets, *asked.sets])
    streams = {}
    for name, (features, level) in row.streams.items():
        own = {**raw["streams"].get(name, {}), "level": level}
        if level == "cls":
            own.pop("class_token", None)
        streams[name] = {**own, "store": [str(path) for path in found.fitting(features)]}
    of_top1 = row.published and published()[row.published].measure == "top1"
    raw |= {"streams": streams, "title": row.name, "grid": {SEED: list(range(asked.seeds))}}
    raw = {**without(raw, ["published"]), **({"published": row.published} if of_top1 else {})}
    return without(raw, idle(raw))


def slug(name: str) -> str:
    """A row's name as that of a folder: `mambavl-vit-b`."""
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


# --- what is said


def _say(*lines: str) -> None:
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _say_needs(rows: Sequence[Row], found: inputs.Found) -> None:
    for row in rows:
        print_of = published()[row.published] if row.published else None
        figures = f"published {print_of.figures}" if print_of else "a control, published nowhere"
        if not row.recipe:
            _say(f"{row.name}: {figures}; {row.why_not}")
            continue
        changed = "".join(f" --set {one}" for one in row.sets)
        _say(f"{row.name}: {figures}; recipe {row.recipe}{changed}")
        for wanted in row.stores:
            paths = ", ".join(str(path) for path in found.fitting(wanted))
            _say(f"  {wanted.said} (weights: {wanted.weights}): {paths or 'not there'}")


def _yours(lacking: Sequence[inputs.Features]) -> str:
    names = f"{inputs.LISTS}, {inputs.VIDEOS}, {inputs.BOXES} and FILE are yours to fill in"
    notes = [INSTEAD[one.protocol] for one in lacking if one.protocol in INSTEAD]
    return "; ".join([names, *dict.fromkeys(notes)])


def _why_nothing(row: Row, found: inputs.Found) -> str:
    """`needs video by ..., make it by ...`, with what keeps the stores that were named from being that."""
    said = []
    for wanted in row.stores:
        if not found.fitting(wanted):
            near = "".join(f" ({why})" for why in found.why_not(wanted))
            said.append(f"needs {wanted.said}{near}, make it by `{wanted.commands()[-1]}`")
    return "; ".join(said)


def _has_recipe(rows: Sequence[Row], name: str) -> bool:
    return any(row.recipe for row in rows if row.name == name)


# --- what is measured


def _lines(
    table: Table,
    rows: Sequence[Row],
    found: inputs.Found,
    trained: dict[str, list[Point]],
    failed: dict[str, str],
) -> list[Line]:
    runs = {name: [point.run for point in points] for name, points in trained.items()}
    measured: dict[str, dict[str, Hits]] = {}
    with progress("measuring", "rows") as update:
        for done, (name, paths) in enumerate(runs.items(), 1):
            measured[name] = hits(paths, kept)
            update(done, len(runs))
    lines = []
    for row in rows:
        if row.name not in runs:
            nothing = row.why_not or failed.get(row.name) or _why_nothing(row, found)
            lines.append(Line(name=row.name, published=row.published, nothing=nothing))
            continue
        results = [read_result(path) for path in runs[row.name]]
        base = measured.get(table.beside) if table.beside and table.beside != row.name else None
        lines.append(
            Line(
                name=row.name,
                published=row.published,
                measured=_numbers(table, row.name, measured[row.name], base, results),
                relaxed=_mean([result.metrics.get(beside.RELAXED) for result in results]),
                protocol=results[0].protocols,
                notice=results[0].notice,
                streams=sources_of(runs[row.name][0]),
            )
        )
    return lines


def _numbers(
    table: Table, name: str, own: dict[str, Hits], base: dict[str, Hits] | None, results: list[Result]
) -> Numbers:
    measured = {}
    for target, one in own.items():
        is_top1 = table.measure == "top1"
        label = np.zeros_like(one.label) if is_top1 else one.label  # of one class for all: shares of rows
        means = ClassMeans(label, one.video)
        mine = one.best1 if is_top1 else one.best5
        other = base and base[target]
        apart = None
        if other and np.array_equal(other.label, one.label) and other.video == one.video:
            apart = means.difference(mine, other.best1 if is_top1 else other.best5)
        measured[target] = Measured(means.interval(mine), apart)
    first = next(iter(own.values()))
    return Numbers(
        name, len(results), results[0].rows.scored, measured, round(first.seconds), first.parameters
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None
