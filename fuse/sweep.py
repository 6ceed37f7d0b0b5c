"""`mambavl sweep`: a run for each point of a grid, and with `select_on` (see `selection`) runs of the best.
A point with a result.json is skipped, one that another process trains is left to it.
"""

import gc
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mambavl.cache import fsops
from mambavl.configs.errors import DataError, Interrupted, MambaVLError
from mambavl.fuse.checks import check_finals, check_measure, check_points, fed_by
from mambavl.fuse.data import FeatureData
from mambavl.fuse.owner import RunHeld, deaths, held, last_failure, reason
from mambavl.fuse.pack import packs, train_together
from mambavl.fuse.points import OnChange, Point, find, folder_name
from mambavl.fuse.processes import Processes
from mambavl.fuse.recipe import Recipe
from mambavl.fuse.result import Result, Selection
from mambavl.fuse.run import (
    RESULT,
    CurveLine,
    read_result,
    write_result,
    write_selection,
)
from mambavl.fuse.selection import choose, on_all_rows, score_of
from mambavl.fuse.sources import Opened
from mambavl.fuse.summary import Line, Summary, write_summary
from mambavl.fuse.train import train

CHOSEN = "chosen"  # begins the names of runs of what was chosen
MAX_DEATHS = 2  # processes that end in a point, without an epoch between them, before it is passed over
WAIT = 1.0  # seconds between two looks at points that other processes train

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What was chosen among the points of a sweep."""

    selection: Selection | None  # None: no candidate has a score at all its points
    runs: list[Point]  # of what was chosen: trained on all rows, one a seed
    earlier: list[Path]  # finished runs of what was chosen before, among other points


def sweep(
    points: list[Point],
    out: Path,
    *,
    pack: int | None = 1,
    on_change: OnChange = lambda points: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Point]:
    """Run every unfinished point; returns the points, the best first. summary.json lists them after every one
    that ends.

    pack: how many points at most are trained in one pass (`pack.train_together`), of those that can be; None:
    as many as pay at their width.

    Stores are opened once, every folder is compared with its recipe and every head is built without memory
    before the first point runs, so that a changed recipe, a wrong width or a missing store stops the sweep at
    once: UsageError or DataError. A point that ends in any other error is marked failed, with its reason; the
    others go on. A point that another process trains is passed over and looked at again later, so several
    sweeps in one folder share its points. Raises Interrupted when `should_stop()` turns true in any process.
    """
    running = _Sweep(points, out, pack, on_change, should_stop)
    running.run()
    running.end()
    return running.ranked()


def sweep_and_choose(
    points: list[Point],
    out: Path,
    *,
    pack: int | None = 1,
    on_change: OnChange = lambda points: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[list[Point], Chosen]:
    """`sweep` with points of a recipe with `select_on`, which hold rows out; then the best candidate is
    trained on all rows and scored, in a folder `chosen,POINT` for each of its seeds.

    The folder is named after what was chosen: another choice, among points that were added or had failed,
    never touches the runs of an earlier one. The choice waits for the points of other processes.
    """
    running = _Sweep(points, out, pack, on_change, should_stop)
    running.prepare_choice()
    running.check_measure()
    running.run()
    chosen = running.choose()
    running.end()
    return running.ranked(), chosen


class _Sweep:
    def __init__(
        self,
        points: list[Point],
        out: Path,
        pack: int | None,
        on_change: OnChange,
        should_stop: Callable[[], bool],
    ) -> None:
        self.points, self.out, self.pack, self.should_stop = points, out, pack, should_stop
        self.processes = Processes()
        self.on_change = on_change if self.processes.is_main else lambda points: None
        self.opened: dict[str, FeatureData] = {}
        self.stores: Opened = {}  # each once, whatever rows of it are read
        self.finals: list[Point] = []  # of each point: what is run if it is chosen
        self.chosen: list[Point] = []
        self.selection: Selection | None = None

    def run(self) -> None:
        self._find(self.points)
        self.processes.every(lambda: check_points(self.points, self._data))
        self.processes.once(lambda: fsops.make_folder(self.out))
        self._run_all(self.points)

    def end(self) -> None:
        self.processes.once(self._write_summary)

    def prepare_choice(self) -> None:
        """Find and check what may be run in the end, before the first update."""
        for point in self.points:
            name = f"{CHOSEN},{point.name}"
            recipe = on_all_rows(point.recipe)
            self.finals.append(Point(name, point.values, recipe, self.out / folder_name(name, point.values)))
        self._find(self.finals)
        self.processes.every(lambda: check_finals(self.finals))

    def check_measure(self) -> None:
        """Raises, before the first update, UsageError where points would be compared by different targets,
        DataError where the rows held out have no label of theirs.
        """
        self.processes.every(lambda: check_measure(self.points, self.out, self._data))

    def choose(self) -> Chosen:
        values, results = [point.values for point in self.points], [point.result for point in self.points]
        choice = self.processes.once(lambda: choose(values, results, self.points[0].recipe.rank_by))
        if choice is None:
            return Chosen(selection=None, runs=[], earlier=[])
        self.selection = choice.selection
        self.chosen = [self.finals[place] for place in choice.points]
        for point in self.chosen:
            point.selection = choice.selection
        self.opened.clear()  # no more is read of the rows without those held out
        _free_memory()
        self._run_all(self.chosen)
        names = {point.run.name for point in self.chosen}
        there = self.processes.once(lambda: sorted(self.out.glob(f"{CHOSEN},*/{RESULT}")))
        earlier = [path.parent for path in there if path.parent.name not in names]
        return Chosen(selection=choice.selection, runs=self.chosen, earlier=earlier)

    def _run_all(self, points: list[Point]) -> None:
        died = self.processes.once(lambda: [deaths(point.run) for point in points])
        # first those that are passed over, so that their number is known
        ahead = [points[i] for i in sorted(range(len(points)), key=lambda i: died[i] < MAX_DEATHS)]
        while ahead:
            for pack in self._packs(ahead):
                if len(pack) > 1:
                    self._run_together(pack)
                for point in pack:
                    self._run(point)
            ahead = [point for point in points if point.state == "elsewhere"]
            if ahead:
                self._wait(len(ahead))

    def _find(self, points: list[Point]) -> None:
        def found() -> list[Point]:
            find(points, self.out)
            return points

        for point, as_found in zip(points, self.processes.once(found), strict=True):
            point.run, point.recipe, point.state = as_found.run, as_found.recipe, as_found.state
            point.failure_before, point.is_found = as_found.failure_before, True

    def _packs(self, points: list[Point]) -> list[list[Point]]:
        """The points pack by pack: those of one are trained in one pass. Finished ones first."""
        if self.processes.count > 1:
            return [[point] for point in points]
        # a point in which a process died may have been one of a pack: alone, it does no harm to others
        alone = [point.state == "skipped" or deaths(point.run) > 0 for point in points]
        found = [[point] for point, is_alone in zip(points, alone, strict=True) if is_alone]
        left = [point for point, is_alone in zip(points, alone, strict=True) if not is_alone]
        for places in packs([point.recipe for point in left], self.pack):
            found.append([left[place] for place in places])
        return found

    def _run_together(self, pack: list[Point]) -> None:
        """As many of a pack as can be trained in one pass. What came of each, `_run` finds in its folder; it
        trains those that are left.
        """
        # one that failed in another sweep since this one began is not tried again
        pack = [point for point in pack if last_failure(point.run) == point.failure_before]

        def ended(place: int, error: Exception | None) -> None:
            point = pack[place]
            point.state, point.error = ("failed", reason(error)) if error else ("done", "")
            point.result = None if error else read_result(point.run)
            self._write_summary()
            self._changed()

        try:
            train_together(
                [point.recipe for point in pack],
                [point.run for point in pack],
                self._data(pack[0].recipe),
                on_start=lambda place: self._started(pack[place]),
                on_epoch=lambda place, line: self._report(pack[place], line),
                on_end=ended,
                should_stop=self.should_stop,
            )
        except Interrupted:
            raise
        except Exception as error:
            log.warning("%d points go on one by one; in one pass they met %s", len(pack), reason(error))
        _free_memory()

    def _started(self, point: Point) -> None:
        point.state, point.error = "running", ""
        if point.selection:
            self._say_chosen(point.run, point.selection)
        self._changed()

    def _report(self, point: Point, line: CurveLine) -> None:
        point.epoch = line["epoch"]
        self._changed()

    def _run(self, point: Point) -> None:
        before = point.state, point.error
        try:
            failure = self.processes.once(lambda: last_failure(point.run))
            if failure and failure != point.failure_before:
                raise DataError(failure["error"])  # in another sweep, since this one began
            has_stores = self.processes.once(point.recipe.has_stores)
            point.result = train(
                point.recipe,
                point.run,
                data=self._data(point.recipe) if has_stores else None,
                on_start=lambda: self._started(point),
                on_epoch=lambda line: self._report(point, line),
                should_stop=self.should_stop,
                max_deaths=MAX_DEATHS,
            )
            if point.selection:
                point.result = self._renew_selection(point.run, point.result, point.selection)
            if point.state != "skipped":
                point.state, point.error = "done", ""
        except Interrupted:
            raise
        except RunHeld as busy:
            point.state, point.error = "elsewhere", f"{busy.holder} works on it"
        except Exception as error:
            if self.processes.count > 1 and not isinstance(error, MambaVLError):
                raise  # of this process alone: the others wait in the middle of an exchange
            point.state, point.error = "failed", reason(error)
        if point.state == "failed":
            _free_memory()
        if (point.state, point.error) != before:
            self.processes.once(self._write_summary)
            self._changed()

    def _changed(self) -> None:
        self.on_change([*self.points, *self.chosen])

    def _say_chosen(self, run: Path, selection: Selection) -> None:
        """In the run's folder, which is ours: its result will say it, and do so when it is made again."""
        self.processes.once(lambda: write_selection(run, selection))

    def _renew_selection(self, run: Path, result: Result, selection: Selection) -> Result:
        """The same candidate was chosen again: its result says among how many, at most. A choice among fewer
        points does not undo that it stood out among more.
        """
        before = result.selection
        if before == selection or (before and before.among > selection.among):
            return result
        renewed = replace(result, selection=selection)

        def write() -> None:
            with held(run):
                write_selection(run, selection)
                write_result(run, renewed)

        self.processes.once(write)
        return renewed

    def _wait(self, number: int) -> None:
        if self.processes.any(self.should_stop()):
            raise Interrupted(
                f"{self.out}: stopped while other processes train {number} of the points; "
                "the same command resumes"
            )
        time.sleep(WAIT)

    def _data(self, recipe: Recipe) -> FeatureData:
        """The recipe's streams; points that read the same ones share them."""
        key = fed_by(recipe)
        if key not in self.opened:
            device = self.processes.device
            self.opened[key] = FeatureData(recipe.sources, recipe.data, device=device, opened=self.stores)
        return self.opened[key]

    def ranked(self) -> list[Point]:
        return sorted(self.points, key=_score, reverse=True)

    def _write_summary(self) -> None:
        points, chosen = ([_line(point) for point in some] for some in (self.ranked(), self.chosen))
        write_summary(self.out, Summary(points=points, chosen=chosen, selection=self.selection))


def _line(point: Point) -> Line:
    return {
        "name": point.name,
        "run": point.run.name,
        "values": point.values,
        "state": point.state,
        "error": point.error,
        "metrics": point.result.metrics if point.result else None,
    }


def _free_memory() -> None:
    """What the failed point still holds; the next one may need all there is."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _score(point: Point) -> float:
    score = score_of(point.result, point.recipe.rank_by)
    return -1.0 if score is None else score
