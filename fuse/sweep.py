"""`mambavl sweep`: a run for each point of a grid, and with `select_on` (see `selection`) runs of the best.
A point with a result.json is skipped, one that another process trains is left to it.
"""

import gc
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from mambavl.cache import fsops
from mambavl.configs.errors import DataError, Interrupted, MambaVLError, Pruned
from mambavl.fuse.checks import check_finals, check_measure, check_points, fed_by
from mambavl.fuse.chosen import Chosen, final, others, renew_selection
from mambavl.fuse.data import FeatureData
from mambavl.fuse.owner import RunHeld, deaths, last_failure, reason
from mambavl.fuse.pack import packs, train_together
from mambavl.fuse.points import OnChange, Point, find, look_again
from mambavl.fuse.processes import Processes
from mambavl.fuse.recipe import Recipe
from mambavl.fuse.result import Selection
from mambavl.fuse.run import CurveLine, read_result, write_selection
from mambavl.fuse.search import Search
from mambavl.fuse.selection import choose, score_of
from mambavl.fuse.sources import Opened
from mambavl.fuse.summary import SUMMARY, Summary, line_of, write_summary
from mambavl.fuse.train import train

MAX_DEATHS = 2  # processes that end in a point, without an epoch between them, before it is passed over
WAIT = 1.0  # seconds between two looks at points that other processes train

log = logging.getLogger(__name__)


def sweep(
    points: list[Point],
    out: Path,
    *,
    pack: int | None = 1,
    shares: int = 1,
    on_change: OnChange = lambda points: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Point]:
    """Run every unfinished point; returns the points, the best first. summary.json lists them after every one
    that ends.

    pack: how many points at most are trained in one pass (`pack.train_together`), of those that can be; None:
    as many as pay at their width. shares: processes that share the points, this one among them; each of them
    sweeps.

    Stores are opened once, every folder is compared with its recipe and every head is built without memory
    before the first point runs, so that a changed recipe, a wrong width or a missing store stops the sweep at
    once: UsageError or DataError. A point that ends in any other error is marked failed, with its reason; the
    others go on. A point that another process trains is passed over and looked at again later, so several
    sweeps in one folder share its points. Raises Interrupted when `should_stop()` turns true in any process.
    """
    running = _Sweep(points, out, partial(packs, size=pack, shares=shares), on_change, should_stop)
    running.run()
    running.end()
    return running.ranked()


def sweep_and_choose(
    points: list[Point],
    out: Path,
    *,
    pack: int | None = 1,
    shares: int = 1,
    on_change: OnChange = lambda points: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[list[Point], Chosen]:
    """`sweep` with points of a recipe with `select_on`, which hold rows out; then the best candidate is
    trained on all rows and scored, in a folder `chosen,POINT` for each of its seeds.

    The folder is named after what was chosen: another choice, among points that were added or had failed,
    never touches the runs of an earlier one. The choice waits for the points of other processes.
    """
    running = _Sweep(points, out, partial(packs, size=pack, shares=shares), on_change, should_stop)
    running.prepare_choice()
    running.check_measure()
    running.run()
    chosen = running.choose()
    running.end()
    return running.ranked(), chosen


def search_and_choose(
    search: Search,
    out: Path,
    *,
    on_change: OnChange = lambda points: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[list[Point], Chosen]:
    """`sweep_and_choose` with points that a search proposes, one after the other. One that it prunes is no
    candidate.
    """
    running = _Sweep([], out, partial(packs, size=1), on_change, should_stop)
    running.search_points(search)
    running.prepare_choice()
    chosen = running.choose()
    running.end()
    return running.ranked(), chosen


class _Sweep:
    def __init__(
        self,
        points: list[Point],
        out: Path,
        into_packs: Callable[[list[Recipe]], list[list[int]]],
        on_change: OnChange,
        should_stop: Callable[[], bool],
    ) -> None:
        self.points, self.out, self.into_packs, self.should_stop = points, out, into_packs, should_stop
        self.processes = Processes()
        self.on_change = on_change if self.processes.is_main else lambda points: None
        self.opened: dict[str, FeatureData] = {}
        self.stores: Opened = {}  # each once, whatever rows of it are read
        self.compared: list[Point] = []  # points that may be chosen
        self.finals: list[Point] = []  # of each of these: what is run if it is chosen
        self.chosen: list[Point] = []
        self.selection: Selection | None = None
        self.search: Search | None = None

    def search_points(self, search: Search) -> None:
        """Train what is proposed, until there are as many trials as asked for and all have ended. Samples of
        what may be proposed are checked before the first, as the points of a grid are.
        """
        self.search, samples = search, search.samples
        self.processes.every(lambda: check_points(samples, self._data))
        self.processes.every(lambda: check_measure(samples, self.out, self._data))
        self.processes.once(lambda: fsops.make_folder(self.out))
        self.points = self.processes.once(search.begin)
        self.processes.every(lambda: check_points(self.points, self._data))
        self.processes.every(lambda: check_finals([final(point) for point in samples]))
        while True:
            point = self.processes.once(search.take)
            self.points = self.processes.once(lambda: search.points)
            if point is not None:
                self._run(point)
                self.processes.once(partial(search.tell, point))
            elif left := self.processes.once(lambda: search.left):
                self._wait(left)
            else:
                break

    def run(self) -> None:
        self._find(self.points)
        self.processes.every(lambda: check_points(self.points, self._data))
        self.processes.once(self._make_folder)
        self._run_all(self.points)

    def end(self) -> None:
        self.processes.once(self._write_summary)

    def _make_folder(self) -> None:
        fsops.make_folder(self.out)
        if not (self.out / SUMMARY).exists():  # whoever looks on sees what there will be
            self._write_summary()

    def prepare_choice(self) -> None:
        """Find and check what may be run in the end, before the first update."""
        self.compared = [point for point in self.points if point.state != "pruned"]
        self.finals = [final(point) for point in self.compared]
        self._find(self.finals)
        self.processes.every(lambda: check_finals(self.finals))

    def check_measure(self) -> None:
        """Raises, before the first update, UsageError where points would be compared by different targets,
        DataError where the rows held out have no label of theirs.
        """
        self.processes.every(lambda: check_measure(self.points, self.out, self._data))

    def choose(self) -> Chosen:
        values, results = zip(*((point.values, point.result) for point in self.compared), strict=True)
        rank_by, pruned = self.compared[0].recipe.rank_by, len(self.points) - len(self.compared)
        choice = self.processes.once(lambda: choose(values, results, rank_by, pruned))
        if choice is None:
            return Chosen(selection=None, runs=[], earlier=[])
        self.selection = choice.selection
        self.chosen = [self.finals[place] for place in choice.points]
        for point in self.chosen:
            point.selection = choice.selection
        self.opened.clear()  # no more is read of the rows without those held out
        _free_memory()
        self._run_all(self.chosen)
        earlier = self.processes.once(lambda: others(self.out, self.chosen))
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
        for places in self.into_packs([point.recipe for point in left]):
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
            point.state, point.error = ("failed", reason(error, point.run)) if error else ("done", "")
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
        if self.search and point.trial is not None:
            search = self.search
            self.processes.once(lambda: search.refuse_ended(point))
        point.state, point.error = "running", ""
        if selection := point.selection:  # its result will say it, and do so when it is made again
            self.processes.once(lambda: write_selection(point.run, selection))
        self._changed()

    def _report(self, point: Point, line: CurveLine) -> None:
        point.epoch = line["epoch"]
        self._changed()
        if self.search and point.trial is not None:
            self.search.report(point)

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
                found, selection = point.result, point.selection
                point.result = self.processes.once(lambda: renew_selection(point.run, found, selection))
            if point.state != "skipped":
                point.state, point.error = "done", ""
        except Interrupted:
            raise
        except Pruned as why:
            point.state, point.error = "pruned", str(why)
        except RunHeld as busy:
            point.state, point.error = "elsewhere", f"{busy.holder} works on it"
        except Exception as error:
            if self.processes.count > 1 and not isinstance(error, MambaVLError):
                raise  # of this process alone: the others wait in the middle of an exchange
            point.state, point.error = "failed", reason(error, point.run)
        if point.state == "failed":
            _free_memory()
        if (point.state, point.error) != before:
            self.processes.once(self._write_summary)
            self._changed()

    def _changed(self) -> None:
        if self.processes.count == 1 and not self.search:
            look_again(self.points)
        self.on_change([*self.points, *self.chosen])

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
        points, chosen = ([line_of(point) for point in some] for some in (self.ranked(), self.chosen))
        write_summary(self.out, Summary(points=points, chosen=chosen, selection=self.selection))


def _free_memory() -> None:
    """What the failed point still holds; the next one may need all there is."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _score(point: Point) -> float:
    score = score_of(point.result, point.recipe.rank_by)
    return -1.0 if score is None else score
