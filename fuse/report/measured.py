"""What an entry's saved scores say of its rows, read once for every part of the report.

Entry -> Measured     where the labels stand in each of its runs, and of which videos the rows are
Measured -> Top       what its first run says of a target: one class a row, and how sure it is of it
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mambavl.cache.classes import Classes
from mambavl.cache.rows import Segment
from mambavl.configs.errors import DataError
from mambavl.fuse.aligned import Seen, see, segments_of
from mambavl.fuse.metrics import log_softmax
from mambavl.fuse.report.entries import Entry
from mambavl.fuse.report.told import UNTOLD, Told
from mambavl.fuse.scored import read_scores_file


@dataclass(frozen=True)
class Top:
    """The n labelled rows of a target; those of a derived one are numbered by `numbered`."""

    label: np.ndarray  # (n,)
    predicted: np.ndarray  # (n,) of equals the first
    confidence: np.ndarray  # (n,) its probability
    right: np.ndarray  # (n,) 0 to 1: among equals the label counts with its share, as in top-1
    among5: np.ndarray  # (n,) likewise, of the best five


@dataclass(frozen=True)
class Measured:
    """segments are of the rows as `ids` has them; None, and why, where the stores cannot be asked."""

    entry: Entry
    seen: tuple[Seen, ...]  # of each run, by `Entry.runs`
    tops: Mapping[str, Top]  # target -> of the first run
    segments: Sequence[Segment] | None
    why: str = ""

    @property
    def ids(self) -> tuple[str, ...]:
        return self.seen[0].ids

    @property
    def classes(self) -> Classes:
        return self.entry.classes

    def hits(self, target: str, *, five: bool) -> np.ndarray:
        """(runs, n): whether the label is the best, or among the best five."""
        found = [one.of(target, self.ids) for one in self.seen]
        return np.stack([one.best5 if five else one.best1 for one in found])

    def label(self, target: str) -> np.ndarray:
        return self.seen[0].ranked[target].label

    def rows(self, target: str) -> np.ndarray:
        """(n,) of all rows, those that have a label."""
        return self.seen[0].ranked[target].rows

    def class_name(self, target: str, number: int) -> str:
        return class_name(self.classes, target, number)


def measure(entry: Entry, told: Told = UNTOLD) -> Measured:
    """Read the scores of all runs of an entry. told: of its rows, where that is more than its stores know.
    Raises DataError for damaged ones, and for seeds that were
    scored on other rows than the first.
    """
    seen = tuple(see(member, None) for member in entry.members)
    for one in seen[1:]:
        if set(one.ids) != set(seen[0].ids):
            raise DataError(
                f"{seen[0].member.path} and {one.member.path}: seeds of one recipe that are scored on other "
                "rows; evaluate both again"
            )
    segments, why = _segments(entry, seen[0].ids, told)
    return Measured(entry, seen, _tops(entry, seen[0]), segments, why)


def _segments(entry: Entry, ids: Sequence[str], told: Told) -> tuple[Sequence[Segment] | None, str]:
    if all(name in told.segments for name in ids):
        return [told.segments[name] for name in ids], ""
    try:
        return segments_of(entry.members[0], ids, None), ""
    except DataError as error:
        return None, str(error)


def _tops(entry: Entry, seen: Seen) -> dict[str, Top]:
    file = read_scores_file(entry.members[0].scores, entry.classes)
    found: dict[str, Top] = {}
    best: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # target -> class and its probability, of every row
    for name, one in seen.ranked.items():
        if name in file.scores:
            logs = log_softmax(file.scores[name])
            column = logs.argmax(1)
            sure = np.exp(np.take_along_axis(logs, column[:, None], 1)[:, 0])
            if pairs := name in file.classes.derived and file.classes.derived[name].pairs:
                column = numbered(entry.classes, name, np.array(pairs)[column])
            best[name] = column, sure
        else:
            best[name] = _of_parts(entry.classes, name, best)
        predicted, confidence = best[name]
        found[name] = Top(one.label, predicted[one.rows], confidence[one.rows], one.best1, one.best5)
    return found


def _of_parts(
    classes: Classes, name: str, best: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """The best of each part together are the best combination, by the product of their probabilities."""
    parts = classes.derived[name].of
    columns = np.stack([best[part][0] for part in parts], 1)
    sure = np.prod([best[part][1] for part in parts], axis=0)
    return numbered(classes, name, columns), sure


def numbered(classes: Classes, name: str, columns: np.ndarray) -> np.ndarray:
    """Classes of the parts of a derived target (N, parts) -> (N,), numbered as by `metrics.ranked`."""
    number = np.zeros(len(columns), np.int64)
    for place, part in enumerate(classes.derived[name].of):
        number = number * classes.targets[part].count + columns[:, place]
    return number


def class_name(classes: Classes, target: str, number: int) -> str:
    """Of a derived target the names of its parts, in words: `take cup`. A class without a name is told by its
    number.
    """
    if target in classes.targets:
        return classes.targets[target].classes.get(number, f"{target} {number}")
    words: list[str] = []
    for part in reversed(classes.derived[target].of):
        number, own = divmod(number, classes.targets[part].count)
        words.insert(0, class_name(classes, part, own))
    return " ".join(words)
