"""Grids over the tiny recipe, and what watches them being trained."""

import os
import time
from collections import Counter

from helpers.forks import fork
from helpers.tiny import tiny_recipe
from mambavl.fuse import train as training
from mambavl.fuse.owner import owned
from mambavl.fuse.points import expand


def grid_of(stores, out, grid, *, top=None, **train_keys):
    """The points of a grid over the tiny recipe without a title, as people write them. top: further keys."""
    text = (stores / "text.zarr").exists()
    recipe = tiny_recipe(stores, title="", text=text, **train_keys)
    data = recipe.model_dump(mode="json", exclude_none=True)
    del data["title"]
    return expand({**data, **(top or {}), "grid": grid}, out, "tiny.toml")


def count_updates(monkeypatch, log):
    """Every update appends the name of its run to `log`, in forks too; returns what counts them."""
    log.touch()
    update = training._Trainer._update

    def counted(self, *args):
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
        os.write(descriptor, f"{self.run.name}\n".encode())
        os.close(descriptor)
        return update(self, *args)

    monkeypatch.setattr(training._Trainer, "_update", counted)
    return lambda: Counter(log.read_text().split())


def states(points):
    return {point.name: point.state for point in points}


def wait_for(path):
    while not path.exists():
        time.sleep(0.01)


def held_by_another(run, release, deed):
    """A process that holds a run until there is a file `release`, then does `deed` in it."""

    def hold():
        with owned(run):
            wait_for(release)
            deed()

    child = fork(hold)
    wait_for(run / "lock")
    while not (run / "lock").read_bytes():
        time.sleep(0.01)
    return child
