"""Workers of one command on the nodes of a Ray cluster: each is a task that does what a forked worker does,
until nothing of the stores is left to do.

The stores lie on a disk that all nodes share, and their locks say who makes which row group. They may not
reach from node to node, so the command's `Board` keeps each of them, too (`lock_keeper`). What a lost worker
held is free again as soon as Ray says that it is lost.
"""

import logging
import math
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from mambavl.cache import lock_keeper
from mambavl.configs.errors import DataError, Interrupted, MambaVLError, UsageError, to_install
from mambavl.configs.progress import Progress, ShouldStop, say
from mambavl.extract.ray_board import Board
from mambavl.extract.ray_places import places
from mambavl.extract.workers import GRACE, IN_VAIN, POLL, Worker

Result = TypeVar("Result")
PATIENCE = 30.0  # seconds without a worker, after which people are told


@dataclass
class RayCrew(Generic[Result]):
    """The workers of a command. Like `workers.Crew`, but they come and go with the cluster's nodes."""

    work: Any  # in Ray's store: the function that a worker runs
    # what Ray should give another worker beside so many, num_cpus and num_gpus; None: no more are wanted
    another: Callable[[int], dict[str, float] | None]
    board: Any  # the actor
    first_alone: bool = False  # the others begin when the first has said how much there is to do
    first: int = 0  # its number
    tasks: dict[Any, int] = field(default_factory=dict)  # a task -> the number of its worker
    results: list[Result] = field(default_factory=list)
    started: int = 0
    losses: int = 0  # in vain, one after another
    least: float = math.inf  # rows that were to be done when the last worker was lost that was not in vain
    since: int = 0  # the first worker that begins after the last loss
    total: int = 0  # rows that were to be done at the beginning
    is_all_done: bool = False  # a worker has found nothing left, and none was lost since

    def wait(self, progress: Progress, should_stop: ShouldStop) -> list[Result]:
        """The results of the workers, when nothing is left to do.

        Raises what the first of them raised, when the others have ended, too; Interrupted where
        `should_stop()` turns true; DataError where worker after worker is lost.
        """
        import ray

        patience = time.monotonic() + PATIENCE
        while True:
            if should_stop():
                said = self.end()
                raise next((one for one in said if not isinstance(one, Interrupted)), None) or next(
                    iter(said), Interrupted("stopped; the same command resumes")
                )
            heard = ray.get(self.board.heard.remote())
            while share := self._place(heard):
                self._start(share)
            for task in self._over(POLL):
                self._ended(task)
            heard = ray.get(self.board.heard.remote())
            self._show(heard, progress)
            if self.is_all_done and not any(self._is_needed(number, heard) for number in self.tasks.values()):
                self.end()
                return self.results
            if not heard and time.monotonic() > patience:
                say("the cluster has given no worker yet; `ray status` says what is free and what is asked")
                patience = math.inf

    def _place(self, heard: dict[int, tuple[int, int, str]]) -> dict[str, float] | None:
        """What another worker is given; None where none should begin now."""
        if self.is_all_done or (self.tasks and self._is_first_alone(heard)):
            return None
        return self.another(len(self.tasks))

    def _is_first_alone(self, heard: dict[int, tuple[int, int, str]]) -> bool:
        _, total, _ = heard.get(self.first, (0, 0, ""))
        is_over = self.started > self.first and self.first not in self.tasks.values()
        return self.first_alone and not total and not is_over

    def _is_needed(self, number: int, heard: dict[int, Any]) -> bool:
        """Whether a worker is waited for when another has found nothing left: it has begun, or is the first,
        which opens failed rows again.
        """
        return number == self.first or number in heard

    def _start(self, share: dict[str, float]) -> None:
        import ray

        # a process for each, so that one that ends leaves nothing on its GPU
        options = {"max_calls": 1, "max_retries": 0, "scheduling_strategy": "SPREAD", **share}
        serve = ray.remote(**options)(_serve)
        number, self.started = self.started, self.started + 1
        worker = number, number - self.first, max(1, int(share["num_cpus"]))
        self.tasks[serve.remote(self.work, *worker, self.board, os.getcwd())] = number

    def _over(self, seconds: float, *, every: bool = False) -> list[Any]:
        """The tasks that are over after so many seconds, or as soon as one is, or every one."""
        import ray

        if not self.tasks:
            time.sleep(0 if every else seconds)  # no node has a place
            return []
        tasks = list(self.tasks)
        over, _ = ray.wait(tasks, num_returns=len(tasks) if every else 1, timeout=seconds)
        return list(over)

    def _ended(self, task: Any) -> None:
        """Raises what the worker raised."""
        import ray

        number = self.tasks.pop(task)
        _, total, _ = ray.get(self.board.heard.remote()).get(number, (0, 0, ""))
        ray.get(self.board.lost.remote(number))
        try:
            kind, said = ray.get(task)
        except ray.exceptions.RayError as error:
            self._was_lost(number, total, _why(error))
            return
        if kind == "error":
            self.end()
            raise said
        self.results.append(said)
        self.is_all_done = True

    def _was_lost(self, number: int, total: int, why: str) -> None:
        """total: rows that the worker had before it, its own not taken off."""
        self.is_all_done = False
        if self.first_alone and number == self.first and not total:
            self.first = self.started  # what was the first's to do, and may not be done, is the next one's
        if 0 < total < self.least:  # rows have come to the disk since
            self.losses, self.least = 0, total
        if number >= self.since:  # not one of many that are lost at once
            self.losses, self.since = self.losses + 1, self.started
        if self.losses == IN_VAIN:
            self.end()
            raise DataError(
                f"{IN_VAIN} workers in a row were lost before a row was done, the last so: {why}; "
                "the same command resumes"
            )
        say(f"worker {number} was lost ({why}); its row groups are done by others")

    def _show(self, heard: dict[int, tuple[int, int, str]], progress: Progress) -> None:
        done = sum(rows for rows, _, _ in heard.values())
        # a worker's own number falls with what others do
        self.total = max(self.total, *(rows for _, rows, _ in heard.values()), 0)
        notes = [heard[number][2] for number in self.tasks.values() if number in heard and heard[number][2]]
        if self.total:
            progress(min(done, self.total), self.total, notes[0] if notes else "")

    def end(self) -> list[BaseException]:
        """Ask the workers to end, and kill those that do not. What they raise."""
        import ray

        ray.get(self.board.stop.remote())
        heard = ray.get(self.board.heard.remote())
        waiting = [task for task, number in self.tasks.items() if number not in heard]
        for task in waiting:
            ray.cancel(task, force=True)
            del self.tasks[task]
        ended, others = (
            ray.wait(list(self.tasks), num_returns=len(self.tasks), timeout=GRACE) if self.tasks else ([], [])
        )
        for task in others:
            say(f"worker {self.tasks[task]} did not end within {GRACE:.0f} s and is killed")
            ray.cancel(task, force=True)
        self.tasks = {}
        said: list[BaseException] = []
        for task in ended:
            with suppress(ray.exceptions.RayError):
                kind, what = ray.get(task)
                if kind == "error":
                    said.append(what)
        return said


def _why(error: Exception) -> str:
    """One line of what Ray says of a lost worker. Of one that could not begin, where the project is not
    installed for example, that is the end of a traceback.
    """
    import ray

    lines = str(error).strip().splitlines()
    return f"{error.ip}: {lines[-1]}" if isinstance(error, ray.exceptions.RayTaskError) else lines[0]


@contextmanager
def ray_crew(
    work: Callable[[Worker], Result], workers: int | None, *, first_alone: bool = False
) -> Iterator[RayCrew[Result]]:
    """Workers that do `work` on the cluster that this machine belongs to; none is left at the end.

    workers: how many; None: one for each GPU of the cluster, also those that join; without GPUs one for each
    node. first_alone: the others begin when the first has the store and has said how much there is to do.
    Raises UsageError where Ray is not installed, and where there is no cluster.
    """
    try:
        import ray
    except ImportError as error:
        raise UsageError(f"--engine ray needs the package ray ({error}); {to_install('ray')}") from None
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    was_connected = ray.is_initialized()
    if not was_connected:
        _connect()
    try:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        board = ray.remote(Board).options(num_cpus=0, scheduling_strategy=here).remote()
        another = places(_nodes, workers).another
        found = RayCrew[Result](ray.put(work), another, board, first_alone)
        try:
            yield found
        finally:
            found.end()
            ray.kill(board)
    finally:
        if not was_connected:
            ray.shutdown()


def _connect() -> None:
    """Raises UsageError where there is no cluster."""
    import ray

    ours = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        ray.init(address="auto", logging_level=logging.WARNING)
    except ConnectionError:
        raise UsageError(
            "--engine ray: no Ray cluster is running here; begin one with `ray start --head`, join one with "
            "`ray start --address=HOST:6379`, or let RAY_ADDRESS name it. One machine needs none: leave out "
            "--engine"
        ) from None
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)


def _nodes() -> list[dict[str, float]]:
    """The resources of each node."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


# --- on a node


def _serve(
    work: Callable[[Worker], Result], number: int, place: int, cores: int, board: Any, folder: str
) -> tuple[str, Any]:
    """The life of a worker: ("result", ...) or ("error", ...). number: as the board knows it; place: among
    the workers, 0 for the first; folder: where the command was begun.
    """
    try:
        with _Line(board, number) as line, lock_keeper.kept_by(line):
            if not Path(folder).is_dir():
                raise DataError(
                    f"{folder}: is not on node {os.uname().nodename}; begin the command in a folder that all "
                    "nodes share, like the videos and the stores"
                )
            os.chdir(folder)  # what paths are relative to
            return "result", work(Worker(place, False, line.progress, line.should_stop, cores))
    except Exception as error:
        if not isinstance(error, MambaVLError):
            traceback.print_exc()  # the command knows only its own
        return "error", _portable(error)


def _portable(error: Exception) -> Exception:
    """An error as the command can unpack it: that of a library may need what only the node has, or arguments
    that it does not keep.
    """
    if isinstance(error, MambaVLError) or type(error).__module__ == "builtins":
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")


class _Line:
    """A worker's line to the board; without the board it should stop."""

    def __init__(self, board: Any, number: int) -> None:
        self._board, self._number = board, number
        self._last: tuple[int, int, str] = 0, 0, ""
        self._stops = False
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._talk, name="board", daemon=True)

    def __enter__(self) -> "_Line":
        self._tell()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        self._tell()

    def progress(self, done: int, total: int, note: str = "") -> None:
        self._last = done, total, note

    def should_stop(self) -> bool:
        return self._stops

    def take(self, path: Path, descriptor: int, *, exclusive: bool) -> bool:
        """Raises Interrupted where this worker should stop."""
        if self._stops:
            raise Interrupted("stopped between two units of work")
        return bool(self._ask(self._board.take.remote(self._number, str(path), descriptor, exclusive)))

    def give_back(self, descriptor: int) -> None:
        with suppress(Interrupted):  # a board that is gone holds nothing
            self._ask(self._board.give_back.remote(self._number, descriptor))

    def _talk(self) -> None:
        while not self._is_over.wait(POLL):
            self._tell()

    def _tell(self) -> None:
        try:
            self._stops = self._ask(self._board.tell.remote(self._number, *self._last)) or self._stops
        except Interrupted:
            self._stops = True

    def _ask(self, answer: Any) -> Any:
        import ray

        try:
            return ray.get(answer)
        except ray.exceptions.RayError:
            raise Interrupted(
                "the command that began this worker is gone; the same command resumes"
            ) from None
