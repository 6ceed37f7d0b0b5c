"""Every result.json -> one self-contained page, which opens from disk and asks for nothing."""

import itertools
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup

from mambavl.configs.errors import DataError, UsageError
from mambavl.fuse import pictures
from mambavl.fuse.owner import why_unfinished
from mambavl.fuse.published import said_of
from mambavl.fuse.report.entries import Entry, collect
from mambavl.fuse.report.measures import headlines, measures, priors
from mambavl.fuse.report.notes import leak_sentences, notes, what_ran
from mambavl.fuse.report.rows import rows_section
from mambavl.fuse.report.told import Told
from mambavl.fuse.run import read_curves, read_result, read_scores
from mambavl.fuse.summary import SUMMARY, not_chosen, runs_without_folder

PACKAGE = "mambavl.fuse.report"  # of the templates, styles and scripts
UNTOLD = Told()


def write_report(runs: list[Path], target: Path, told: Told = UNTOLD) -> dict[str, str]:
    """Write the page of the finished ones of some runs; returns why each of the others is not in it, by name.
    A sweep's summary.json names the points that have no folder yet. told: what is known of the rows.

    Raises DataError where none has finished, and for a damaged result or scores, naming the command to run.
    """
    files = [Path(run) for run in runs if Path(run).is_file()]
    folders = [Path(run) for run in runs if not Path(run).is_file()]
    if not folders:
        raise UsageError("no run folder was named; for example `mambavl report runs/* --out report.html`")
    unfinished = {run: why_unfinished(run) for run in folders}
    missing = {str(run): why for run, why in unfinished.items() if why}
    summaries = [file for file in files if file.name == SUMMARY]
    for file in summaries:
        missing |= runs_without_folder(file)
    finished = []
    for run in folders:
        if unfinished[run]:
            continue
        result = read_result(run)
        if result.metrics:
            finished.append(run)
        else:
            missing[str(run)] = f"split {result.split} has no labels, so nothing was measured"
    if not finished:
        listed = "\n".join(f"  {name}: {why}" for name, why in missing.items())
        raise DataError(f"no run has finished and been measured, so there is nothing to show:\n{listed}")
    entries = collect(finished)
    targets = list(dict.fromkeys(itertools.chain(*(entry.first.targets for entry in entries))))
    fewest = min(entry.first.rows.scored for entry in entries)
    page = (
        templates()
        .get_template("page.html.j2")
        .render(
            entries=entries,
            splits=len({entry.first.split for entry in entries}) > 1,
            has_actions="action" in targets,
            missing=missing,
            headlines=headlines(entries, targets),
            measures=measures(entries, targets),
            priors=priors(entries),
            leaks=leak_sentences(entries),
            notes=notes(entries) + [said for said in map(not_chosen, summaries) if said],
            what_ran=what_ran,
            curves=_curves(entries),
            confusions=[(entry, _confusions(entry)) for entry in entries if entry.single],
            noise=196 * (0.25 / fewest) ** 0.5,  # half of a 95 % interval at 50 %, in points
            fewest=fewest,
            rows=rows_section(entries, told),
            sources=sorted({said_of(entry.first.published) for entry in entries if entry.first.published}),
            published=[name for name in targets if any(name in entry.first.published for entry in entries)],
        )
    )
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    Path(target).write_text(page, encoding="utf-8")
    return missing


def templates() -> jinja2.Environment:
    """What is put into a page is escaped; `file` puts a style or a script of this package in as it is."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(PACKAGE, ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: "" if value is None else value,
    )
    environment.globals["file"] = _file
    return environment


def _file(name: str) -> Markup:
    return Markup(resources.files(PACKAGE).joinpath(name).read_text(encoding="utf-8"))


def _curves(entries: list[Entry]) -> str:
    """One line an entry, its first run."""
    lines = [(entry.title, read_curves(entry.runs[0])) for entry in entries]
    measures = {}
    for entry in entries:
        for name, target in entry.classes.targets.items():
            key, kind = ("top1", "top-1") if target.kind == "single" else ("map", "mAP")
            measures[f"{name}_{key}"] = f"{name} {kind}, %"
    return pictures.curves(lines, measures)


def _confusions(entry: Entry) -> str:
    """Of the first seed."""
    scores = read_scores(entry.runs[0], entry.first.split)
    tables = {}
    for name in entry.single:
        labels, known = scores[f"{name}_label"], scores[f"{name}_label"] >= 0
        predicted = scores[name].argmax(1)
        tables[name] = labels[known], predicted[known], entry.classes.targets[name].classes
    return pictures.confusions(tables)
