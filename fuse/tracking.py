"""`train.trackers`: the lines of curves.jsonl, sent to TensorBoard and its kind as well, by Accelerate.

A tracker that needs a folder has `trackers/` in the run's; the others are told the run's name where they take
one. What they are told is in curves.jsonl whoever listens.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from accelerate import tracking

from mambavl.configs.errors import DataError, UsageError
from mambavl.fuse.idle import flatten
from mambavl.fuse.owner import reason
from mambavl.fuse.processes import Processes
from mambavl.fuse.recipe import Recipe
from mambavl.fuse.run import TRACKERS, CurveLine

PROJECT = "mambavl"
NAMED = {"mlflow": "run_name", "swanlab": "experiment_name", "trackio": "name", "wandb": "name"}


def refuse_missing(trackers: Sequence[str]) -> None:
    """Raises UsageError for a tracker that is not installed."""
    installed = {str(one) for one in tracking.get_available_trackers()}
    missing = [name for name in trackers if name not in installed]
    if missing:
        raise UsageError(
            f"train.trackers names {', '.join(missing)}, which is not installed here; "
            f"`pip install {' '.join(missing)}`, or leave it out: curves.jsonl has the same lines"
        )


@contextlib.contextmanager
def tracked(processes: Processes, recipe: Recipe, run: Path) -> Iterator[Callable[[CurveLine], None]]:
    """What sends a line to the recipe's trackers, to be called in the main process. Raises DataError where a
    tracker fails.
    """
    accelerator, names = processes.accelerator, recipe.train.trackers
    if not names:
        yield lambda line: None
        return

    def begin() -> None:
        accelerator.project_configuration.logging_dir = str(run / TRACKERS)
        accelerator.log_with = tracking.filter_trackers(names, accelerator.logging_dir)
        called = {name: {key: run.name} for name, key in NAMED.items()}
        accelerator.init_trackers(PROJECT, _plain(recipe), called)

    def send(line: CurveLine) -> None:
        values = {key: value for key, value in line.items() if key != "epoch" and value is not None}
        accelerator.log(values, step=line["epoch"])

    def end() -> None:  # Accelerator.end_training would end the group of processes, too
        for tracker in accelerator.trackers:
            tracker.finish()

    processes.once(lambda: _asked(run, begin))
    try:
        yield lambda line: _asked(run, lambda: send(line))
    except BaseException:
        # the error may be of this process alone, so nothing is agreed upon; and it is the one to be seen
        with contextlib.suppress(Exception):
            end()
        raise
    processes.once(lambda: _asked(run, end))


def _asked(run: Path, deed: Callable[[], None]) -> None:
    try:
        deed()
    except Exception as error:  # whatever a tracker raises: no account, no network, a full disk
        raise DataError(
            f"{run}: a tracker of train.trackers failed: {reason(error)}; the same command goes on from the "
            "last checkpoint, with --set train.trackers=[] without them"
        ) from error


def _plain(recipe: Recipe) -> dict[str, str | int | float | bool]:
    """Key of the recipe -> its value, or that as JSON: trackers take numbers and text."""
    flat = flatten(recipe.model_dump(mode="json", exclude_none=True))
    return {
        key: value if isinstance(value, str | int | float | bool) else json.dumps(value)
        for key, value in flat.items()
    }
