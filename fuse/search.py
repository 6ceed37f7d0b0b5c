"""The trials of a search: each is a point of the sweep, with a folder like any other's.

search.journal in the sweep's folder says which there are and how they ended (`study`); whoever works there
reads and writes it under one lock, search.lock, so that there are as many as asked for and each is told once.
A trial that is in no end, because a process died, is taken up before a new one is asked for.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mambavl.cache import fsops
from mambavl.configs.errors import DataError, Pruned
from mambavl.fuse.owner import last_failure
from mambavl.fuse.points import Point, expand, find, point_at
from mambavl.fuse.run import RESULT, read_classes, read_curves, read_result, why_pruned, write_pruning
from mambavl.fuse.selection import score_of
from mambavl.fuse.stopping import measured
from mambavl.fuse.study import WHY, Study, samples, settings_of

if TYPE_CHECKING:
    import optuna

LOCK = "search.lock"


class Search:
    """The trials of a folder, and which point comes next."""

    def __init__(self, data: dict[str, Any], out: Path, source: str, assignments: Sequence[str] = ()) -> None:
        """Nothing is written. Raises UsageError as `settings_of` and `points.expand` do."""
        self.out, self.settings = out, settings_of(data, source)
        self.left = 0  # trials that others were training when `take` had nothing to give
        self._point_at = lambda values: point_at(data, values, out, source, assignments)
        # what is checked before anything runs, in place of points that nobody knows yet
        self.samples = expand({**data, "points": samples(self.settings)}, out, source, assignments)
        self._points: dict[int, Point] = {}  # number of a trial -> its point, or that of an equal one
        self._passed_over: set[int] = set()  # trials that others were found to train
        self._opened: Study | None = None

    @property
    def points(self) -> list[Point]:
        """Of the trials that differ, in their order."""
        return [point for number, point in self._points.items() if point.trial == number]

    def begin(self) -> list[Point]:
        """Open the journal, or begin one; returns the points that it has. Raises UsageError where it is
        another search's.
        """
        with self._study() as study:
            self._look(study)
        return self.points

    def take(self) -> Point | None:
        """The next point to train: of a trial that is in no end, else of a new one. None where none is left,
        or others train those that are.
        """
        with self._study() as study:
            asked = None
            while True:
                running = self._look(study)
                for number in running:
                    point = self._points[number]
                    if number == asked and point.trial == number:
                        point.failure_before = last_failure(point.run)  # of another sweep: no end of ours
                    if point.trial != number:
                        self._end_twin(study, number)
                    elif number not in self._passed_over:
                        return point
                if len(self._points) >= self.settings.trials:
                    break
                asked = study.ask()
            self._passed_over.clear()
            self.left = len(self._look(study))
            return None

    def refuse_ended(self, point: Point) -> None:
        """Of a folder that has become ours: raises Pruned or DataError where whoever had it before was at an
        end, and has not told it.
        """
        if why := why_pruned(point.run):
            raise Pruned(why)
        failure = last_failure(point.run)
        if failure and failure != point.failure_before:
            raise DataError(failure["error"])

    def report(self, point: Point) -> None:
        """An epoch of a point is done. Raises Pruned where it is given up."""
        assert point.trial is not None
        rank_by = point.recipe.rank_by or read_classes(point.run).names[-1]
        found = {line["epoch"]: measured(line, rank_by) for line in read_curves(point.run)}
        last, epochs = max(found), point.recipe.train.epochs
        with self._study() as study:
            trial = study.trials()[point.trial]
            if trial.state.is_finished():
                return
            for epoch, value in found.items():
                if value is not None and epoch not in trial.intermediate_values:
                    study.report(point.trial, epoch, value)
            may_prune = self.settings.prune and last < epochs and found[last] is not None
            if may_prune and study.is_below_median(point.trial):
                why = f"after epoch {last} of {epochs}: below the median of earlier trials there"
                write_pruning(point.run, last, why)
                raise Pruned(why)

    def tell(self, point: Point) -> None:
        """What came of a point, once; nothing where it is at no end."""
        assert point.trial is not None
        self._points[point.trial] = point
        with self._study() as study:
            if study.trials()[point.trial].state.is_finished():
                return  # told by whoever found its folder when it was at its end
            score = score_of(point.result, point.recipe.rank_by)
            if point.state == "elsewhere":
                self._passed_over.add(point.trial)
            elif point.state == "pruned":
                study.end(point.trial, "PRUNED", why=point.error)
            elif point.state == "failed":
                study.end(point.trial, "FAIL", why=point.error)
            elif score is None:
                study.end(point.trial, "FAIL", why="nothing could be measured on the rows held out")
            else:
                study.end(point.trial, "COMPLETE", score)

    # --- under the lock

    @contextlib.contextmanager
    def _study(self) -> Iterator[Study]:
        lock = fsops.lock(self.out / LOCK, exclusive=True, wait=True)
        try:
            if self._opened is None:
                self._opened = Study(self.out, self.settings)
            self._opened.cut_half_line()
            yield self._opened
        finally:
            fsops.unlock(lock)

    def _look(self, study: Study) -> list[int]:
        """Take up what is new in the journal; returns the trials that are in no end."""
        trials = study.trials()
        by_name = {point.name: point for point in self._points.values()}
        new: list[Point] = []
        for number in range(len(self._points), len(trials)):
            point = self._point_at(study.values(number))
            self._points[number] = by_name.setdefault(point.name, point)
            if self._points[number] is point:
                point.trial, point.is_found = number, True
                new.append(point)
        if len(new) > 1:
            find(new, self.out)  # by their recipes, whatever their folders are called
        for point in new:
            point.state = "skipped" if (point.run / RESULT).exists() else "waiting"
        for number, trial in enumerate(trials):
            if trial.state.is_finished() and self._points[number].trial == number:
                _take_over(self._points[number], trial)
        return [number for number, trial in enumerate(trials) if not trial.state.is_finished()]

    def _end_twin(self, study: Study, number: int) -> None:
        """A trial that equals one before it: what came of that one is true of both."""
        point = self._points[number]
        score = score_of(point.result, point.recipe.rank_by)
        if score is None:
            study.end(number, "FAIL", why=f"equals trial {point.trial}")
        else:
            study.end(number, "COMPLETE", score)


def _take_over(point: Point, trial: "optuna.trial.FrozenTrial") -> None:
    """A trial has been told, here or by another process."""
    if point.state in ("done", "failed", "pruned") or point.result is not None:
        return
    why = str(trial.user_attrs.get(WHY, ""))
    if trial.state.name == "PRUNED":
        point.state, point.error, point.epoch = "pruned", why, trial.last_step or 0
    elif trial.state.name == "FAIL":
        point.state, point.error = "failed", why
    else:
        try:
            point.result = read_result(point.run)
        except DataError as error:  # the folder is gone, or was touched
            point.state, point.error = "failed", str(error)
        else:
            point.state = "skipped" if point.state == "skipped" else "done"
            point.error = ""
