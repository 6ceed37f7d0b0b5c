"""Every result.json -> one self-contained page: what was measured and published, what the text leaks."""

import itertools
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import jinja2
import numpy as np

from mambavl.cache.classes import Classes
from mambavl.configs.errors import DataError, UsageError
from mambavl.fuse import pictures
from mambavl.fuse.decided import decided
from mambavl.fuse.head import KNOWN_STREAMS
from mambavl.fuse.notices import ORACLE_HISTORY
from mambavl.fuse.owner import why_unfinished
from mambavl.fuse.published import said_of
from mambavl.fuse.result import Environment, Result, spoken
from mambavl.fuse.run import read_classes, read_curves, read_result, read_scores
from mambavl.fuse.summary import SUMMARY, not_chosen, runs_without_folder

MEASURES = (
    ("top-1", "all_{}_top1"),
    ("top-5", "all_{}_top5"),
    ("mean class recall@5 (official)", "all_{}_mean_class_recall5"),
    ("mAP", "all_{}_map"),
)
GROUPS = {"unseen": "unseen kitchens", "tail": "tail classes"}  # EK100's, as people know them


@dataclass
class Entry:
    """Runs that differ in their seed alone, measured together."""

    title: str
    runs: list[Path]
    results: list[Result]
    classes: Classes  # of its first run

    @property
    def first(self) -> Result:
        return self.results[0]

    @property
    def single(self) -> list[str]:
        """Its targets of one class a row that have labels of their own."""
        return [name for name, target in self.classes.targets.items() if target.kind == "single"]

    @property
    def streams(self) -> str:
        """Their names: the known ones in their usual order, then the user's own."""
        names = self.first.streams
        known = [name for name in KNOWN_STREAMS if name in names]
        own = [name for name in names if name not in KNOWN_STREAMS]
        return ", ".join(known + own)

    @property
    def notice(self) -> str | None:
        """What must be said whenever the result is shown."""
        return self.first.notice

    @property
    def is_upper_bound(self) -> bool:
        """Whether the head knew of the action that it was to foresee."""
        return self.notice is not None and self.notice != ORACLE_HISTORY

    @property
    def seeds(self) -> list[int]:
        return [result.seed for result in self.results]

    def values(self, key: str) -> list[float]:
        found = [result.metrics.get(key) for result in self.results]
        return [value for value in found if value is not None]

    def mean(self, key: str) -> float | None:
        values = self.values(key)
        return float(np.mean(values)) if values else None

    def cell(self, key: str) -> str:
        """`mean`, or `mean ± standard deviation` over seeds; a dash where nothing was measured."""
        values = self.values(key)
        if not values:
            return "–"
        return f"{np.mean(values):.1f}" + (f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else "")


def write_report(runs: list[Path], target: Path) -> dict[str, str]:
    """Write the page of the finished ones of some runs; returns why each of the others is not in it, by name.
    A sweep's summary.json names the points that have no folder yet.

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
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: "" if value is None else value,
    )
    template = resources.files("mambavl.fuse").joinpath("report.html.j2").read_text(encoding="utf-8")
    page = environment.from_string(template).render(
        entries=entries,
        splits=len({entry.first.split for entry in entries}) > 1,
        has_actions="action" in targets,
        missing=missing,
        headlines=_headlines(entries, targets),
        measures=_measures(entries, targets),
        priors=_priors(entries),
        leaks=leak_sentences(entries),
        notes=_notes(entries) + [said for said in map(not_chosen, summaries) if said],
        what_ran=what_ran,
        curves=_curves(entries),
        confusions=[(entry, _confusions(entry)) for entry in entries if entry.single],
        noise=196 * (0.25 / fewest) ** 0.5,  # half of a 95 % interval at 50 %, in points
        rows=fewest,
        sources=sorted({said_of(entry.first.published) for entry in entries if entry.first.published}),
        published=[name for name in targets if any(name in entry.first.published for entry in entries)],
    )
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    Path(target).write_text(page, encoding="utf-8")
    return missing


def collect(runs: list[Path]) -> list[Entry]:
    """Results in the order given; runs that differ in their seed alone (one recipe, the same stores) share an
    entry. A run made again, on another device for example, is shown beside the first in an entry of its own.
    Raises UsageError for one that is named twice.
    """
    entries: dict[str, list[Entry]] = {}  # one entry, and those of repeats
    for number, run in enumerate(runs):
        for other in runs[:number]:
            if run.samefile(other):
                raise UsageError(f"{run} and {other} are the same run; name it once")
        result = read_result(run)
        read_scores(run, result.split)  # a run without scores cannot be shown: say so now
        recipe = decided(result, "train.seed")
        fed = {name: (stream.store_ids, stream.level) for name, stream in result.streams.items()}
        key = json.dumps(
            [result.recipe.get("title"), result.published, recipe, fed, result.split], sort_keys=True
        )
        alike = entries.setdefault(key, [])
        found = next((entry for entry in alike if result.seed not in entry.seeds), None)
        if found is None:
            title = f"{result.title}, repeat {len(alike)} ({run.name})" if alike else result.title
            found = Entry(title, [], [], read_classes(run))
            alike.append(found)
        found.runs.append(run)
        found.results.append(result)
    return [entry for alike in entries.values() for entry in alike]


def leak_sentences(entries: list[Entry]) -> list[str]:
    """What the questions gave away, in words and in numbers measured here."""
    with_oracle = [entry for entry in entries if entry.first.text_protocol == "oracle"]
    said = [f"“{entry.title}”: {entry.notice}." for entry in entries if entry.notice]
    said += [_text_alone(entry) for entry in with_oracle if "video" not in entry.first.streams]
    if with_oracle:
        said.append(
            "Oracle questions are written from each row's own labels, validation rows included. Where no "
            "label exists, at deployment or on a test server, they do not exist either: the rows marked "
            "“oracle” are upper bounds for a reader who already knows part of the answer, and the honest "
            "comparison is against generic text or none."
        )
    return said


def _text_alone(entry: Entry) -> str:
    prior = entry.first.prior_metrics
    keys = {name: f"all_{name}_top1" for name in entry.single}
    named = " and ".join(f"{entry.mean(key):.1f} % of the {name}s" for name, key in keys.items())
    guessed = " and ".join(f"{prior[key]:.1f} %" for key in keys.values())
    return (
        f"“{entry.title}” never sees a frame and still names {named}; the most frequent class alone gives "
        f"{guessed}. The difference is what the oracle questions leak from the labels: "
        "the category of the answer and the other words of the narration."
    )


def _notes(entries: list[Entry]) -> list[str]:
    notes = []
    for entry in entries:
        rows, streams = entry.first.rows, entry.first.streams
        if rows.scored_by_prior:
            notes.append(
                f"“{entry.title}”: {rows.scored_by_prior} of {rows.scored} rows lack a stream that they need "
                "and got the training prior."
            )
        lacking = [f"{name} {count}" for name, count in (rows.missing or {}).items() if count]
        if lacking:
            notes.append(f"“{entry.title}”: rows without a stream, of {rows.scored}: {', '.join(lacking)}.")
        if entry.first.selection:
            notes.append(f"“{entry.title}”, on {entry.first.split}: {entry.first.selection.in_words}.")
        if entry.first.fused:
            notes += [f"“{entry.title}”, {line}." for line in entry.first.fused.in_words]
        random = [name for name, stream in streams.items() if stream.encoder.state == "random"]
        if random:
            notes.append(
                f"“{entry.title}”: the encoder of {', '.join(random)} is untrained (random weights)."
            )
    return notes + _sharing(entries)


def what_ran(result: Result) -> list[str]:
    """What trained the head, and what scored it where that is not the same."""
    trained, scored = result.trained, result.scored
    by_scorer = _named(scored.environment, scored.scan_backend)
    if trained.environment is None:
        return ["what trained it: not recorded", f"scored {by_scorer}"]
    by_trainer = _named(trained.environment, trained.scan_backend)
    if by_trainer == by_scorer:
        return [f"trained and scored {by_trainer}"]
    return [f"trained {by_trainer}", f"scored {by_scorer}"]


def _named(environment: Environment, scan_backend: str | None) -> str:
    commit = f" at commit {environment.commit[:12]}" if environment.commit else ""
    return (
        f"on {environment.device} with mambavl {environment.mambavl}{commit}, torch {environment.torch}, "
        f"scan backend {scan_backend or 'none'}"
    )


def _sharing(entries: list[Entry]) -> list[str]:
    """What sharing A was worth, where both a run and its control that shares nothing were named."""
    controls: dict[str, tuple[Entry, float]] = {}
    for entry in entries:
        score = entry.mean(entry.first.main_measure)
        if entry.first.shared == "none" and score is not None:
            controls[_apart_from_sharing(entry)] = entry, score
    notes = []
    for entry in entries:
        main = entry.first.main_measure
        score = entry.mean(main)
        if entry.first.shared == "A" and score is not None and _apart_from_sharing(entry) in controls:
            control, score_of_control = controls[_apart_from_sharing(entry)]
            notes.append(
                f"Sharing A is worth {score - score_of_control:+.1f} points of {spoken(main)} here: "
                f"{entry.cell(main)} (“{entry.title}”) against {control.cell(main)} with nothing shared."
            )
    return notes


def _apart_from_sharing(entry: Entry) -> str:
    """The recipe without title, seed and `share`: equal for a run and its control."""
    return json.dumps(decided(entry.first, "train.seed", "fusion.share"), sort_keys=True)


def _headlines(entries: list[Entry], targets: list[str]) -> list[tuple[str, str]]:
    """A column for each target: its name on the page, and the key of its measure."""
    found = []
    for name in targets:
        is_multi = any(f"all_{name}_map" in entry.first.metrics for entry in entries)
        found.append(
            (f"{name} {'mAP' if is_multi else 'top-1'}", f"all_{name}_{'map' if is_multi else 'top1'}")
        )
    return found


def _measures(entries: list[Entry], targets: list[str]) -> list[tuple[str, list[tuple[str, str]]]]:
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


def _priors(entries: list[Entry]) -> dict[str, dict[str, str]]:
    """A row for every distinct training prior: its name, and its cells by measure."""
    rows: dict[str, dict[str, str]] = {}
    for entry in entries:
        measured = entry.first.prior_metrics
        cells = {key: f"{value:.1f}" for key, value in measured.items() if value is not None}
        if cells not in rows.values():
            rows[f"training prior, {entry.first.split}" + (f" ({len(rows) + 1})" if rows else "")] = cells
    return rows


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
