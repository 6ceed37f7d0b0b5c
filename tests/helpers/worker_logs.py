"""Lines of the logs that runs keep of themselves, as a run on this host would write them."""

import json
import os
import socket
from pathlib import Path
from typing import Any

from helpers import forks
from mambavl.cache.spec import COMMIT


def report(**changed: Any) -> dict[str, Any]:
    """A line of this process, at second 1000."""
    line = {
        "time": 1000.0,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "state": "working",
        "done": 0,
        "total": 32,
        "made": 0,
        "written": 0,
        "rows_per_s": 0.0,
        "failed": 0,
        "bytes": 0,
        "seconds": {},
        "stalled": 0.0,
        "video": "",
    }
    return line | changed


def put(store: Path, name: str, *lines: dict[str, Any] | str) -> None:
    """Make a log of whole lines, or of texts as they are."""
    texts = [line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines]
    (store / COMMIT / f"{name}.progress.jsonl").write_text("".join(texts))


def dead() -> int:
    """The number of a process that was and is no more."""
    child = forks.fork(lambda: None)
    child.wait()
    return child.pid
