"""A table of results with intervals and verdicts, as JSON, Markdown and a picture."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mambavl.cache import canonical, fsops
from mambavl.fuse import pictures
from mambavl.fuse.paired import DRAWS, Difference, Interval
from mambavl.fuse.run import read_result
from mambavl.reproduce.hits import TARGETS


@dataclass(frozen=True)
class Measured:
    """Class-mean recall@5 of one target: the mean over seeds."""

    interval: Interval
    difference: Difference | None  # to the row that this one is compared with


@dataclass(frozen=True)
class Row:
    name: str
    seeds: int
    rows: int  # scored
    measured: dict[str, Measured]  # by target
    seconds: int  # of training, of all seeds
    parameters: int  # of one, its classifiers left out


@dataclass(frozen=True)
class Table:
    """What `mambavl reproduce history` found."""

    held: list[Row]  # on training kitchens held out, each beside the first
    held_less_prior: list[Row]  # the same, of scores less the prior (`hits.less_prior`)
    validation: list[Row]  # beside the counts
    chosen: str  # among the rows held out
    among: int
    earlier: list[str]  # what was chosen before, among fewer points, and scored on validation, too
    streams: dict[str, dict[str, Any]]  # name -> encoder, its weights, sha256 of these, stores

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "Table":
        """What `to_dict` gave, also by way of JSON."""
        rows = {key: [_row(one) for one in raw[key]] for key in ("held", "held_less_prior", "validation")}
        return cls(**{**raw, **rows})


def _row(raw: Mapping[str, Any]) -> Row:
    measured = {}
    for target in TARGETS:  # the order of JSON's keys is another
        if (one := raw["measured"].get(target)) is None:
            continue
        apart = one["difference"] and Difference(Interval(*one["difference"][0]), one["difference"][1])
        measured[target] = Measured(Interval(*one["interval"]), apart)
    return Row(**{**raw, "measured": measured})


def sources_of(run: Path) -> dict[str, dict[str, Any]]:
    """What the streams of a run are: encoder, its weights and the store."""
    return {
        name: {
            "encoder": one.encoder.name,
            "weights": one.encoder.state,
            "sha256": one.encoder.sha256,
            "store": list(one.store_ids),
        }
        for name, one in read_result(run).streams.items()
    }


def write(folder: Path, raw: Mapping[str, Any], text: str, drawn: str | None = None) -> str:
    """results.json, results.md and, where it is drawn, results.svg; says what was written."""
    fsops.make_folder(folder)
    fsops.write_file(folder / "results.json", canonical.pretty_json(dict(raw)))
    fsops.write_file(folder / "results.md", text.encode())
    if drawn:
        fsops.write_file(folder / "results.svg", drawn.encode())
    return f"{folder}/results.md{', .json and .svg' if drawn else ' and .json'}"


def markdown(table: Table) -> str:
    """Both tables, with what must be said of them."""
    base = table.held[0].name
    return "\n".join(
        [
            f"**Official validation list**, {table.validation[0].rows:,} rows, class-mean recall@5, oracle "
            "history (the past is told by its true labels):",
            "",
            *_lines(table.validation, "counts"),
            "",
            f"`head` is `{table.chosen}`, the best of {table.among} candidates on training kitchens that "
            "were held out, trained on all of them. `less prior` is log p - e log prior: class-mean recall "
            "asks for rare classes as often as for frequent ones, and training does not. Its exponent e, "
            "those of counts and mixture, the decay and the weights were chosen on these kitchens, too. "
            f"Validation was scored by these rows{_earlier(table)}.",
            "",
            f"**Training kitchens held out**, {table.held[0].rows:,} rows, all {table.among} candidates and "
            "two controls:",
            "",
            *_lines(table.held, base),
            "",
            "The same runs, their scores less the prior, its exponent chosen for each on one half of the "
            "participants for the rows of the other:",
            "",
            *_lines(table.held_less_prior, base),
            "",
            "Parameters are those before the classifiers, seconds of training those of all seeds, one after "
            "the other. Mean over seeds; in brackets the middle 95 % of "
            f"{DRAWS:,} draws of videos. Behind it the "
            "difference to the row named in the head of the column: **bold** where its interval lies on one "
            "side of 0 and the signs of six seeds do, too (p < 0.05). Where nothing differs, some are bold "
            "all the same: `mambavl compare` draws seeds as well as videos, and asks for more.",
            "",
            *(
                f"Stream `{name}`: {one['encoder']} ({one['weights']}"
                f"{', sha256 ' + one['sha256'][:12] if one['sha256'] else ''})."
                for name, one in table.streams.items()
            ),
            "",
        ]
    )


def _earlier(table: Table) -> str:
    if not table.earlier:
        return " alone"
    named = " and ".join(f"`{one}`" for one in table.earlier)
    return f", and before, when {named} had been chosen among fewer points, by that head"


def _lines(rows: Sequence[Row], beside: str) -> list[str]:
    targets = list(rows[0].measured)
    columns = [f"{target} | - {beside}" for target in targets]
    lines = [
        f"| | seeds | parameters | {' | '.join(columns)} | training, s |",
        "|---|" + "---|" * (2 * len(targets) + 3),
    ]
    for row in rows:
        found = " | ".join(cells(row.measured[target]) for target in targets)
        lines.append(f"| {row.name} | {row.seeds} | {row.parameters:,} | {found} | {row.seconds:,} |")
    return lines


def cells(one: Measured) -> str:
    """`14.5 (13.0 to 16.0) | **+0.5**`: the measure with its interval, and its difference; two cells."""
    value, low, high = one.interval
    shown = f"{value:.1f} ({low:.1f} to {high:.1f})"
    if one.difference is None:
        return f"{shown} | "
    apart = f"{one.difference.interval.value:+.1f}"
    return f"{shown} | {f'**{apart}**' if one.difference.is_real else apart}"


def picture(table: Table) -> str:
    """Intervals of the last target, validation above the kitchens held out."""
    target = list(table.validation[0].measured)[-1]
    groups = {
        "validation": table.validation,
        "training kitchens held out": table.held,
        "training kitchens held out, less prior": table.held_less_prior,
    }
    shown: dict[str, dict[str, tuple[float, float, float]]] = {}
    for title, rows in groups.items():
        shown[title] = {row.name: row.measured[target].interval for row in rows}
    return pictures.intervals(shown, f"{target}, class-mean recall@5, %")
