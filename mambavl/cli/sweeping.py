"""How a sweep is run: in a process of its own, so that a point that crashes it ends alone."""

import os
from pathlib import Path

from mambavl.cli.show import show_sweep
from mambavl.configs.progress import ShouldStop, unseen
from mambavl.extract.workers import Worker, crew
from mambavl.fuse.points import OnChange, Point, find
from mambavl.fuse.sweep import Chosen, sweep, sweep_and_choose
from mambavl.terminal import stop_on_signal

Ended = tuple[list[Point], Chosen | None]
GRACE = 600.0  # seconds that a run has, after a signal, to end its step or its scoring and save
LEFT = ("waiting", "running", "elsewhere")  # states of points that are not done


def run_sweep(points: list[Point], out: Path, *, chooses: bool, pack: int | None = 1) -> Ended:
    """The points as they ended, and what was chosen among them.

    The process that trains them is replaced where it crashes; a point at which that happens again is failed
    (`sweep.MAX_DEATHS`) and the others go on. Under a launcher of several processes the launcher ends all of
    them. pack: as of `sweep`. Raises as `sweep` does.
    """

    def run(on_change: OnChange, should_stop: ShouldStop) -> Ended:
        if chooses:
            return sweep_and_choose(points, out, pack=pack, on_change=on_change, should_stop=should_stop)
        return sweep(points, out, pack=pack, on_change=on_change, should_stop=should_stop), None

    def work(worker: Worker) -> Ended:
        begun = False
        with show_sweep() as show:

            def on_change(changed: list[Point]) -> None:
                nonlocal begun
                show(changed)
                if not begun and any(point.state == "running" for point in changed):
                    begun = True
                    worker.progress(0, sum(point.state in LEFT for point in changed), "")

            return run(on_change, worker.should_stop)

    with stop_on_signal() as should_stop:
        if os.environ.get("WORLD_SIZE", "1") != "1":
            with show_sweep() as on_change:
                return run(on_change, should_stop)
        find(points, out)  # before the first process: what failed since then is not tried again by the next
        with crew(work, 1, grace=GRACE, remedy=" with the sweep") as workers:
            [ended] = workers.wait(unseen, should_stop)
    return ended
