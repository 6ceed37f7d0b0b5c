"""How a sweep is run: in processes of its own, so that a point that crashes one ends alone, here or on the
nodes of a Ray cluster. They share its points by the locks of the runs.
"""

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch

from mambavl.cli.show import show_sweep
from mambavl.configs.errors import UsageError
from mambavl.configs.progress import ShouldStop, unseen
from mambavl.extract.ray_engine import ray_crew
from mambavl.extract.workers import Worker, crew
from mambavl.fuse.chosen import Chosen
from mambavl.fuse.points import OnChange, Point, find
from mambavl.fuse.search import Search
from mambavl.fuse.sweep import search_and_choose, sweep, sweep_and_choose
from mambavl.terminal import stop_on_signal

Ended = tuple[list[Point], Chosen | None]
Engine = Literal["processes", "ray"]
GRACE = 600.0  # seconds that a run has, after a signal, to end its step or its scoring and save
LEFT = ("waiting", "running", "elsewhere")  # states of points that are not done


def run_sweep(
    points: list[Point] | Search,
    out: Path,
    *,
    chooses: bool,
    pack: int | None = 1,
    engine: Engine = "processes",
    workers: int | None = None,
) -> Ended:
    """The points as they ended, and what was chosen among them. points: or the search that proposes them.

    workers: how many processes train them; None: one, of Ray one for each GPU or node. One that crashes is
    replaced; a point at which that happens again is failed (`sweep.MAX_DEATHS`) and the others go on. Under a
    launcher of several processes, which ends all of them when one fails, there is no other. pack: as of
    `sweep`. Raises as `sweep` does, and UsageError for workers under a launcher.
    """

    def run(on_change: OnChange, should_stop: ShouldStop) -> Ended:
        if isinstance(points, Search):
            return search_and_choose(points, out, on_change=on_change, should_stop=should_stop)
        if chooses:
            return sweep_and_choose(
                points, out, pack=pack, shares=workers or 1, on_change=on_change, should_stop=should_stop
            )
        ended = sweep(
            points, out, pack=pack, shares=workers or 1, on_change=on_change, should_stop=should_stop
        )
        return ended, None

    def work(worker: Worker) -> Ended:
        begun = False
        _take_part(worker, workers or 1, engine)
        with show_sweep() if worker.number == 0 else nullcontext(lambda changed: None) as show:

            def on_change(changed: list[Point]) -> None:
                nonlocal begun
                show(changed)
                if not begun and any(point.state == "running" for point in changed):
                    begun = True
                    worker.progress(0, _left(changed, points), "")

            return run(on_change, worker.should_stop)

    with stop_on_signal() as should_stop:
        if os.environ.get("WORLD_SIZE", "1") != "1":
            if engine == "ray" or workers:
                raise UsageError("a launcher has started several processes; leave out --workers and --engine")
            with show_sweep() as on_change:
                return run(on_change, should_stop)
        if not isinstance(points, Search):
            # before the first process: what failed since then is not tried again by the next
            find(points, out)
        with _crew(work, engine, workers) as found:
            # each waits for the points of the others, so the first to end has all of them
            return found.wait(unseen, should_stop)[0]


def _crew(work: Any, engine: Engine, workers: int | None) -> AbstractContextManager[Any]:
    if engine == "ray":
        return ray_crew(work, workers)
    return crew(work, workers or 1, grace=GRACE, remedy=" with the sweep")


def _take_part(worker: Worker, workers: int, engine: Engine) -> None:
    """A worker's GPU, and its part of the cores."""
    if engine == "ray":  # which shows a process no GPU but its own
        torch.set_num_threads(worker.cores or torch.get_num_threads())
    elif workers > 1:
        if gpus := torch.cuda.device_count():  # which uses none yet
            os.environ["CUDA_VISIBLE_DEVICES"] = _visible(worker.number % gpus)
        torch.set_num_threads(max(1, torch.get_num_threads() // workers))


def _visible(number: int) -> str:
    """The name of one of the GPUs that this process may use."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return given.split(",")[number] if given else str(number)


def _left(points: list[Point], asked: list[Point] | Search) -> int:
    """How many points are not done, those that a search has not proposed yet included."""
    total = asked.settings.trials if isinstance(asked, Search) else len(points)
    return total - sum(point.state not in LEFT for point in points)
