"""What a report is of: runs that differ in their seed alone, together."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mambavl.cache.classes import Classes
from mambavl.configs import validate
from mambavl.configs.errors import DataError, UsageError
from mambavl.fuse.decided import decided
from mambavl.fuse.head import KNOWN_STREAMS
from mambavl.fuse.idle import flatten
from mambavl.fuse.notices import ORACLE_HISTORY
from mambavl.fuse.owner import why_unfinished
from mambavl.fuse.recipe import Recipe
from mambavl.fuse.report.tables import plain
from mambavl.fuse.result import Result, StreamProvenance
from mambavl.fuse.run import read_classes, read_result, read_scores
from mambavl.fuse.sides import Member, Side
from mambavl.fuse.summary import SUMMARY, runs_without_folder

SHORT = 48  # letters
SETTINGS = 3  # in a title; where more differ, the folder says it


@dataclass
class Entry:
    """Runs that differ in their seed alone, measured together."""

    title: str
    runs: list[Path]
    results: list[Result]
    classes: Classes  # of its first run

    @property
    def short(self) -> str:
        """Its title, where there is little room."""
        return self.title if len(self.title) <= SHORT else f"{self.title[: SHORT - 1]}…"

    @property
    def first(self) -> Result:
        return self.results[0]

    @property
    def single(self) -> list[str]:
        """Its targets of one class a row that have labels of their own."""
        return [name for name, target in self.classes.targets.items() if target.kind == "single"]

    @property
    def recipe(self) -> Recipe | None:
        """None of a mixture, which has several."""
        if self.first.fused:
            return None
        return validate(self.first.recipe, Recipe, f"recipe of “{self.title}”", recorded=True)

    @property
    def members(self) -> tuple[Member, ...]:
        return tuple(Member(run, result) for run, result in zip(self.runs, self.results, strict=True))

    @property
    def side(self) -> Side:
        """As `mambavl compare` knows it."""
        return Side(self.title, self.members)

    @property
    def streams(self) -> str:
        return ", ".join(self.ordered)

    @property
    def ordered(self) -> dict[str, StreamProvenance]:
        """The known streams in their usual order, then the user's own."""
        found = self.first.streams
        own = [name for name in found if name not in KNOWN_STREAMS]
        return {name: found[name] for name in (*KNOWN_STREAMS, *own) if name in found}

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
        mean = self.mean(key)
        return "–" if mean is None else f"{mean:.1f}{self.spread(key)}"

    def spread(self, key: str) -> str:
        """`± standard deviation` over seeds, a space before it; nothing of one."""
        values = self.values(key)
        return f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""


def finished_of(runs: Sequence[Path]) -> tuple[list[Path], dict[str, str], list[Path]]:
    """The folders of finished runs that were measured, why others are not among them, by name, and the
    summary.json of sweeps.

    Raises UsageError where no folder is named, DataError where none has finished.
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
    return finished, missing, summaries


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
            found = Entry(plain(title), [], [], read_classes(run))
            alike.append(found)
        found.runs.append(run)
        found.results.append(result)
    return _told_apart([entry for alike in entries.values() for entry in alike])


def _told_apart(entries: list[Entry]) -> list[Entry]:
    """Points of a sweep bear one title: each is told by the settings in which they differ, or where there are
    none, by the folder of its first run.
    """
    for title in {entry.title for entry in entries}:
        alike = [entry for entry in entries if entry.title == title]
        settings = [flatten(decided(entry.first, "train.seed")) for entry in alike]
        keys = [key for key in dict.fromkeys(itertools.chain(*settings)) if _varies(key, settings)]
        words = [", ".join(f"{key} {one.get(key, '–')}" for key in keys) for one in settings]
        for entry, said in zip(alike, words, strict=True):
            if len(alike) > 1:
                is_told = words.count(said) == 1 and len(keys) <= SETTINGS
                entry.title = f"{title} ({said if is_told else entry.runs[0].name})"
    return entries


def _varies(key: str, settings: list[dict[str, Any]]) -> bool:
    """Whether a key is a setting in which some differ; where the features lie is none."""
    return not key.endswith(".store") and any(one.get(key) != settings[0].get(key) for one in settings)
