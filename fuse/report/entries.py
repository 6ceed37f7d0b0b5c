"""What a report is of: runs that differ in their seed alone, together."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mambavl.cache.classes import Classes
from mambavl.configs.errors import UsageError
from mambavl.fuse.decided import decided
from mambavl.fuse.head import KNOWN_STREAMS
from mambavl.fuse.notices import ORACLE_HISTORY
from mambavl.fuse.result import Result
from mambavl.fuse.run import read_classes, read_result, read_scores


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
