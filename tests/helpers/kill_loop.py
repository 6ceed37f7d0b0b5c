"""Extractions killed at random moments, each store finished by another process."""

import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

from helpers.forks import Child, fork
from helpers.jobs import run, tree


def extraction(data: Path, out: Path) -> Child:
    """A child that extracts."""
    return fork(lambda: run(data, out, rows_per_group=1))


def kill_extractions(data: Path, folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """How many writers were `killed`, in how many `stores`, and what went `wrong`."""
    since = time.monotonic()
    assert extraction(data, folder / "whole.zarr").wait() == 0
    seconds, expected = time.monotonic() - since, tree(folder / "whole.zarr")
    moments, killed, stores, wrong = random.Random(seed), 0, 0, []
    while killed < kills and stores < 10 * kills:
        out = folder / f"{stores}.zarr"
        stores += 1
        for _ in range(moments.randint(1, 3)):
            child = extraction(data, out)
            time.sleep(moments.uniform(0, seconds))
            child.send_signal(signal.SIGKILL)
            killed += child.wait() == -signal.SIGKILL
        if code := extraction(data, out).wait():
            wrong.append(f"{out.name}: ended with {code}")
        elif tree(out) != expected:
            wrong.append(f"{out.name}: other bytes")
        shutil.rmtree(out)
    return {"killed": killed, "stores": stores, "wrong": wrong}
