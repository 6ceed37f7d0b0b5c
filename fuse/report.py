"""Every result.json -> one self-contained page: what was measured and published, what the text leaks."""

import io
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import jinja2
import numpy as np

from mambavl.configs.errors import DataError, UsageError
from mambavl.fuse.head import KNOWN_STREAMS
from mambavl.fuse.owner import why_unfinished
from mambavl.fuse.result import Result
from mambavl.fuse.run import read_classes, read_curves, read_result, read_scores
from mambavl.fuse.sweep import SUMMARY, points_without_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TARGETS = ("verb", "noun", "action")
ACTION = "all_action_top1"
LINES = ("-", "--", ":", "-.")
CLASSES_SHOWN = 20  # in a confusion matrix; the rest is one row and one column
MEASURES = (
    ("top-1", "all_{}_top1"),
    ("top-5", "all_{}_top5"),
    ("mean class recall@5 (official)", "all_{}_mean_class_recall5"),
    ("unseen kitchens, top-1", "unseen_{}_top1"),
    ("tail classes, top-1", "tail_{}_top1"),
)


@dataclass
class Entry:
    """Runs that differ in their seed alone, measured together."""

    title: str
    runs: list[Path]
    results: list[Result]

    @property
    def first(self) -> Result:
        return self.results[0]

    @property
    def streams(self) -> str:
        """Their names: the known ones in their usual order, then the user's own."""
        names = self.first.streams
        known = [name for name in KNOWN_STREAMS if name in names]
        own = [name for name in names if name not in KNOWN_STREAMS]
        return ", ".join(known + own)

    @property
    def published(self) -> dict[str, float]:
        return self.first.published

    @property
    def notice(self) -> str | None:
        """What must be said whenever the result is shown."""
        return self.first.notice

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
    for file in files:
        if file.name == SUMMARY:
            missing |= points_without_folder(file)
    finished = [run for run in folders if not unfinished[run]]
    if not finished:
        listed = "\n".join(f"  {name}: {why}" for name, why in missing.items())
        raise DataError(f"no run has finished, so there is nothing to show:\n{listed}")
    entries = collect(finished)
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
        missing=missing,
        measures=MEASURES,
        targets=TARGETS,
        priors=_priors(entries),
        leaks=leak_sentences(entries),
        notes=_notes(entries),
        curves=_curves(entries),
        confusions=[(entry, _confusions(entry)) for entry in entries],
        noise=196 * (0.25 / fewest) ** 0.5,  # half of a 95 % interval at 50 %, in points
        rows=fewest,
        published=any(entry.published for entry in entries),
    )
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    Path(target).write_text(page, encoding="utf-8")
    return missing


def collect(runs: list[Path]) -> list[Entry]:
    """Results in the order given; runs that differ in their seed alone (one recipe, the same stores) share an
    entry.
    """
    entries: dict[str, Entry] = {}
    for run in runs:
        result = read_result(run)
        read_scores(run, result.split)  # a run without scores cannot be shown: say so now
        if not result.metrics:
            raise DataError(f"{run}: split {result.split} has no labels, so nothing was measured")
        recipe = {**result.recipe, "train": {**result.recipe["train"], "seed": None}}
        fed = {name: (stream.store_ids, stream.level) for name, stream in result.streams.items()}
        key = json.dumps([recipe, fed, result.split], sort_keys=True)
        entry = entries.setdefault(key, Entry(result.title, [], []))
        if result.seed in entry.seeds:
            other = entry.runs[entry.seeds.index(result.seed)]
            raise UsageError(f"{run} and {other} are the same run; name it once")
        entry.runs.append(run)
        entry.results.append(result)
    return list(entries.values())


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
    verb, noun, prior = entry.mean("all_verb_top1"), entry.mean("all_noun_top1"), entry.first.prior_metrics
    return (
        f"“{entry.title}” never sees a frame and still names {verb:.1f} % of the verbs and {noun:.1f} % of "
        f"the nouns; the most frequent class alone gives {prior['all_verb_top1']:.1f} % and "
        f"{prior['all_noun_top1']:.1f} %. The difference is what the oracle questions leak from the labels: "
        "the category of the answer and the other words of the narration."
    )


def _notes(entries: list[Entry]) -> list[str]:
    notes = []
    for entry in entries:
        rows, streams = entry.first.rows, entry.first.streams
        if rows.scored_by_prior:
            notes.append(
                f"“{entry.title}”: {rows.scored_by_prior} of {rows.scored} rows have no features and "
                "got the training prior."
            )
        random = [name for name, stream in streams.items() if stream.encoder.state == "random"]
        if random:
            notes.append(
                f"“{entry.title}”: the encoder of {', '.join(random)} is untrained (random weights)."
            )
    return notes + _sharing(entries)


def _sharing(entries: list[Entry]) -> list[str]:
    """What sharing A was worth, where both a run and its control that shares nothing were named."""
    controls: dict[str, tuple[Entry, float]] = {}
    for entry in entries:
        score = entry.mean(ACTION)
        if entry.first.shared == "none" and score is not None:
            controls[_apart_from_sharing(entry)] = entry, score
    notes = []
    for entry in entries:
        score = entry.mean(ACTION)
        if entry.first.shared == "A" and score is not None and _apart_from_sharing(entry) in controls:
            control, score_of_control = controls[_apart_from_sharing(entry)]
            notes.append(
                f"Sharing A is worth {score - score_of_control:+.1f} points of action top-1 here: "
                f"{entry.cell(ACTION)} (“{entry.title}”) against {control.cell(ACTION)} with nothing shared."
            )
    return notes


def _apart_from_sharing(entry: Entry) -> str:
    """The recipe without title, seed and `share`: equal for a run and its control."""
    recipe = entry.first.recipe
    fusion = {key: value for key, value in recipe["fusion"].items() if key != "share"}
    train = {key: value for key, value in recipe["train"].items() if key != "seed"}
    return json.dumps({**recipe, "title": "", "fusion": fusion, "train": train}, sort_keys=True)


def _priors(entries: list[Entry]) -> dict[str, dict[str, str]]:
    """A row for every distinct training prior: its name, and its cells by measure."""
    keys = [key.format(target) for _, key in MEASURES for target in TARGETS]
    rows: dict[str, dict[str, str]] = {}
    for entry in entries:
        measured = entry.first.prior_metrics
        cells = {key: "–" if measured.get(key) is None else f"{measured[key]:.1f}" for key in keys}
        if cells not in rows.values():
            rows[f"training prior, {entry.first.split}" + (f" ({len(rows) + 1})" if rows else "")] = cells
    return rows


def _curves(entries: list[Entry]) -> str:
    """Loss, verb and noun top-1 by epoch, one line an entry (its first run), as SVG."""
    plt = _pyplot()
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6))
    lines, titles = [], []
    for entry in entries:
        epochs = read_curves(entry.runs[0])
        if not epochs:
            continue
        lines += axes[0].plot([e["epoch"] for e in epochs], [e["loss"] for e in epochs])
        titles.append(entry.title)
        scored = [e for e in epochs if "verb_top1" in e]
        axes[1].plot([e["epoch"] for e in scored], [e["verb_top1"] for e in scored])
        axes[2].plot([e["epoch"] for e in scored], [e["noun_top1"] for e in scored])
    for number in range(len(lines)):  # two runs may lie on each other: let the lower one show through
        for axis in axes:
            axis.lines[number].set_linestyle(LINES[number % len(LINES)])
    for axis, title in zip(axes, ("training loss", "verb top-1, %", "noun top-1, %"), strict=True):
        axis.set_title(title)
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    if lines:
        figure.legend(lines, titles, loc="outside lower center", ncols=4, fontsize=8)
    return _svg(plt, figure)


def _confusions(entry: Entry) -> str:
    """Verbs and nouns of the first seed: rows are labels, columns predictions, shares of each row."""
    plt = _pyplot()
    run, result = entry.runs[0], entry.first
    scores = read_scores(run, result.split)
    classes = read_classes(run)
    names = {"verb": classes.verbs, "noun": classes.nouns}
    figure, axes = plt.subplots(1, 2, figsize=(13, 6))
    for axis, target in zip(axes, ("verb", "noun"), strict=True):
        labels, predicted = scores[f"{target}_label"], scores[target].argmax(1)
        known = labels >= 0
        matrix, ticks = confusion(labels[known], predicted[known], names[target])
        shares = axis.imshow(100 * matrix, vmin=0, vmax=100, cmap="viridis")
        figure.colorbar(shares, ax=axis, shrink=0.7, label="% of the label's rows")
        axis.set_xticks(range(len(ticks)), ticks, rotation=90, fontsize=7)
        axis.set_yticks(range(len(ticks)), ticks, fontsize=7)
        axis.set_title(f"{target}: label (row) and prediction (column)")
    return _svg(plt, figure)


def confusion(
    labels: np.ndarray, predicted: np.ndarray, names: dict[int, str]
) -> tuple[np.ndarray, list[str]]:
    """(matrix, class names): rows sum to 1; the most frequent classes of the labels, everything else as
    `other`.
    """
    classes, counts = np.unique(labels, return_counts=True)
    shown = sorted(classes[np.argsort(-counts, kind="stable")][:CLASSES_SHOWN].tolist())
    place = {c: i for i, c in enumerate(shown)}
    matrix = np.zeros((len(shown) + 1, len(shown) + 1))
    for label, guess in zip(labels.tolist(), predicted.tolist(), strict=True):
        matrix[place.get(label, len(shown)), place.get(guess, len(shown))] += 1
    ticks = [names.get(c, str(c)) for c in shown] + ["other"]
    if not matrix[-1].any() and not matrix[:, -1].any():
        matrix, ticks = matrix[:-1, :-1], ticks[:-1]
    return matrix / np.maximum(matrix.sum(1, keepdims=True), 1), ticks


def _pyplot() -> ModuleType:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams["text.parse_math"] = False  # a title with a dollar sign is a title
    plt.rcParams["svg.hashsalt"] = "mambavl"  # the same runs give the same page
    plt.rcParams["figure.constrained_layout.use"] = True
    return plt


def _svg(plt: ModuleType, figure: "Figure") -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    plt.close(figure)
    return text.getvalue()[text.getvalue().index("<svg") :]
