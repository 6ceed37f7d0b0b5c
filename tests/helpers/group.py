"""Processes that train together, as torchrun starts them, without a launcher and without its imports."""

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from accelerate.state import AcceleratorState

from helpers.forks import Child, fork


def start_group(deed: Callable[[], object], folder: Path, count: int = 2) -> list[Child]:
    """`deed` in `count` processes of one gloo group; what rank r prints is in `folder/rank-r.log`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def member() -> None:
        AcceleratorState._reset_state(reset_partial_state=True)  # of the tests before, in this process
        deed()

    children = []
    for rank in range(count):
        environment = {
            **os.environ,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "ACCELERATE_USE_CPU": "true",
        }
        log = folder / f"rank-{rank}.log"
        children.append(fork(member, log, log, environment))
    return children


def wait_for_group(children: list[Child]) -> list[int]:
    """Exit codes by rank. Like a launcher, it ends the others when one has failed."""
    while any(child.poll() is None for child in children):
        if any(child.code for child in children):
            for child in children:
                child.send_signal(signal.SIGKILL)
        time.sleep(0.01)
    return [child.wait() for child in children]
