"""Every result.json -> one self-contained page, which opens from disk and asks for nothing."""

import itertools
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from mambavl.fuse import pictures
from mambavl.fuse.published import said_of
from mambavl.fuse.report.calibration import MEANING, bins_table, calibration_table, reliability
from mambavl.fuse.report.caveats import Caveat, caveats
from mambavl.fuse.report.classes import classes_data, classes_table
from mambavl.fuse.report.confusion import matrices, most_confused
from mambavl.fuse.report.controls import controls
from mambavl.fuse.report.cost import CostOf, cost_table
from mambavl.fuse.report.entries import Entry, collect, finished_of
from mambavl.fuse.report.headline import headline_table, headlines
from mambavl.fuse.report.intervals import Intervals
from mambavl.fuse.report.measured import Measured, measure
from mambavl.fuse.report.measures import measures_table
from mambavl.fuse.report.notes import leak_sentences, notes, what_ran
from mambavl.fuse.report.people import people_table
from mambavl.fuse.report.provenance import recipe_text, result_text
from mambavl.fuse.report.rows import rows_section
from mambavl.fuse.report.tables import HIDDEN, Table, plain, write_tables
from mambavl.fuse.report.told import UNTOLD, Told
from mambavl.fuse.run import read_curves
from mambavl.fuse.summary import not_chosen

PACKAGE = "mambavl.fuse.report"  # of the templates, styles and scripts
CLOSER = 20  # entries that are looked at class by class: as many lines can be told apart


def write_report(
    runs: list[Path],
    target: Path,
    told: Told = UNTOLD,
    *,
    tables: Path | None = None,
    cost_of: CostOf | None = None,
    known: Sequence[Caveat] = (),
) -> dict[str, str]:
    """Write the page of the finished ones of some runs; returns why each of the others is not in it, by name.
    A sweep's summary.json names the points that have no folder yet.

    told: what is known of the rows; tables: a folder for each table as CSV and LaTeX; cost_of: as of
    `cost_table`; known: what is known of the data that no run records. Raises DataError where no run has
    finished, and for a damaged result or scores, naming the command to run.
    """
    finished, missing, summaries = finished_of(runs)
    entries = collect(finished)
    shown = _shown([measure(entry, told) for entry in entries], cost_of, known)
    shown["rows"] = rows_section(entries, told)
    shown["notes"] += [said for said in map(not_chosen, summaries) if said]
    page = templates().get_template("page.html.j2").render(missing=missing, **shown)
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    Path(target).write_text(page, encoding="utf-8")
    if tables:
        write_tables(_tables_in(shown), tables)
    return missing


def _shown(measured: list[Measured], cost_of: CostOf | None, known: Sequence[Caveat]) -> dict[str, Any]:
    """What the template is filled with."""
    entries = [one.entry for one in measured]
    targets = list(dict.fromkeys(itertools.chain(*(entry.first.targets for entry in entries))))
    closer = measured[:CLOSER]
    ranked = [name for name in targets if any(name in one.tops for one in closer)]
    single = [name for name in ranked if any(name in one.classes.targets for one in closer)]
    intervals, columns = Intervals(), headlines(entries, targets)
    pairs, said_of_pairs = controls(measured, columns, intervals)
    cost, said_of_cost = cost_table(entries, cost_of)
    return {
        "entries": entries,
        "titles": [entry.title for entry in entries],
        "caveats": caveats(measured, known),
        "has_actions": "action" in targets,
        "headline": headline_table(measured, columns, intervals),
        "sources": sorted({said_of(entry.first.published) for entry in entries if entry.first.published}),
        "controls": pairs,
        "said_of_controls": said_of_pairs,
        "measures": measures_table(entries, targets),
        "leaks": leak_sentences(entries),
        "notes": notes(entries),
        "closer": len(closer),
        "curves": _curves(entries[:CLOSER]),
        "legend": [(one.entry.title, *pictures.style(number)) for number, one in enumerate(closer)],
        "classes": {name: classes_table(_first(closer, name), name, f"classes-{name}") for name in ranked},
        "classes_data": classes_data(closer, ranked),
        "confused": {name: most_confused(closer, name) for name in ranked},
        "matrices": matrices(closer, single),
        "confusions": {name: _matrix(_first(closer, name), name) for name in single},
        "calibration": calibration_table(closer, ranked),
        "calibration_means": MEANING,
        "reliabilities": _reliabilities(closer, ranked) if ranked else "",
        "bins": [bins_table(closer, name) for name in ranked],
        "people": people_table(closer, _main_top1(entries, ranked)) if ranked else None,
        "cost": cost,
        "said_of_cost": said_of_cost,
        "what_ran": what_ran,
        "recipe_text": recipe_text,
        "result_text": result_text,
    }


def templates() -> jinja2.Environment:
    """What is put into a page is escaped, and turns no direction of reading. `file` puts a style or a script
    of this package in as it is; `data` a value for scripts to read.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(PACKAGE, ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_shown_as,
    )
    environment.filters["plain"] = plain
    environment.filters["coded"] = coded
    environment.globals |= {"file": _file, "data": data_script}
    return environment


def _shown_as(value: Any) -> Any:
    if value is None:
        return ""
    return HIDDEN.sub("", value) if isinstance(value, str) and not isinstance(value, Markup) else value


def coded(text: str) -> Markup:
    """A sentence whose `commands` stand between backticks."""
    parts = [escape(HIDDEN.sub("", part)) for part in text.split("`")]
    if len(parts) % 2 == 0:  # one is alone: it is no mark of ours
        return Markup("`").join(parts)
    marked = [
        Markup("<code>{}</code>").format(part) if place % 2 else part for place, part in enumerate(parts)
    ]
    return Markup("").join(marked)


def _file(name: str) -> Markup:
    return Markup(resources.files(PACKAGE).joinpath(name).read_text(encoding="utf-8"))


def data_script(name: str, value: Any) -> Markup:
    """A value as JSON that no text in it can end."""
    text = json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(f'<script type="application/json" id="{name}">{text}</script>')


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, Mapping):
        return {plain(key): _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _tables_in(shown: Any) -> list[Table]:
    """Every table of the page, once."""
    if isinstance(shown, Table):
        return [shown]
    if isinstance(shown, Mapping):
        shown = list(shown.values())
    return list(itertools.chain(*map(_tables_in, shown))) if isinstance(shown, list | tuple) else []


def _with(measured: Sequence[Measured], target: str) -> list[tuple[int, Measured]]:
    return [(number, one) for number, one in enumerate(measured) if target in one.tops]


def _first(measured: Sequence[Measured], target: str) -> Measured:
    return _with(measured, target)[0][1]


def _main_top1(entries: Sequence[Entry], ranked: Sequence[str]) -> str:
    """Of the target that the first entry is ranked by, or of the last one that has a label a row."""
    keys = [f"all_{name}_top1" for name in ranked]
    main = entries[0].first.main_measure
    return main if main in keys else keys[-1]


def _curves(entries: Sequence[Entry]) -> Markup:
    """One line an entry, its first run."""
    measures = {}
    for entry in entries:
        for name, target in entry.classes.targets.items():
            key, kind = ("top1", "top-1") if target.kind == "single" else ("map", "mAP")
            measures[f"{name}_{key}"] = f"{name} {kind}, %"
    return Markup(pictures.curves([read_curves(entry.runs[0]) for entry in entries], measures))


def _reliabilities(measured: Sequence[Measured], targets: Sequence[str]) -> Markup:
    found = {}
    for name in targets:
        bins = {number: reliability(one.tops[name]) for number, one in _with(measured, name)}
        found[name] = {number: (one.confidence, one.right) for number, one in bins.items()}
    return Markup(pictures.reliabilities(found))


def _matrix(one: Measured, target: str) -> tuple[str, Markup]:
    """Title and picture, for a page without scripts."""
    top, names = one.tops[target], one.classes.targets[target].classes
    shares, shown = pictures.confusion(top.label, top.predicted, names)
    title = f"{target}, label by prediction: {one.entry.title}"
    return title, Markup(pictures.matrix(shares, [plain(name) for name in shown], plain(title)))
