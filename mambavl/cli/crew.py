"""How a command's extraction is done by processes: one, one for each GPU, or those of a Ray cluster."""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, TypeVar

from mambavl.cache.fill import FillResult, together
from mambavl.cli.options import gpus_of
from mambavl.configs.errors import UsageError
from mambavl.extract.options import AudioExtraction, VideoExtraction
from mambavl.extract.ray_engine import ray_crew
from mambavl.extract.workers import Worker, crew
from mambavl.terminal import progress, stop_on_signal

Options = TypeVar("Options", VideoExtraction, AudioExtraction)


class Crew:
    """The processes of a command."""

    def __init__(
        self,
        gpus: str | None,
        retry_failed: bool,
        engine: Literal["processes", "ray"] = "processes",
        workers: int | None = None,
    ) -> None:
        """gpus: as `--gpus` says; None: one process, on the device that the settings name. workers: of Ray.

        Raises UsageError for what the engine does not have.
        """
        if engine == "ray" and gpus is not None:
            raise UsageError(f"--gpus {gpus} is of this machine; --engine ray takes --workers N")
        if engine != "ray" and workers is not None:
            raise UsageError("--workers goes with --engine ray; here, --gpus says how many")
        self._gpus = gpus_of(gpus)
        self._retry_failed = retry_failed
        self._is_ray, self._workers = engine == "ray", workers

    def settings(self, worker: Worker, options: Options) -> Options:
        """The settings of one of the processes: its GPU, and its part of the cores.

        Raises UsageError where a device is named as well.
        """
        if self._gpus is None and not self._is_ray:
            return options
        if options.device != "auto":
            engine = "--engine ray" if self._is_ray else "--gpus"
            raise UsageError(f"{engine} gives each process its device; leave out device = {options.device}")
        if self._gpus is None:  # Ray shows a process no GPU but its own
            return options.model_copy(update={"readers": options.readers or worker.cores})
        readers = options.readers or max(1, len(os.sched_getaffinity(0)) // self._gpus)
        return options.model_copy(update={"device": f"cuda:{worker.number}", "readers": readers})

    def retries(self, worker: Worker) -> bool:
        """Whether a process opens failed rows again: one for all."""
        return self._retry_failed and worker.number == 0 and not worker.is_successor

    def extract(
        self,
        jobs: Sequence[tuple[Path, Options]],
        shard: tuple[int, int],
        extract: Callable[..., list[FillResult]],
    ) -> list[FillResult]:
        """What the processes did of each store, which is to be made with the settings beside it.

        extract: takes jobs with the settings of a process, and by name shard, retry_failed, progress and
        should_stop. Raises as `run`.
        """

        def work(worker: Worker) -> list[FillResult]:
            return extract(
                [(store, self.settings(worker, options)) for store, options in jobs],
                shard=shard,
                retry_failed=self.retries(worker),
                progress=worker.progress,
                should_stop=worker.should_stop,
            )

        return self.run(work)

    def run(self, work: Callable[[Worker], list[FillResult]]) -> list[FillResult]:
        """What the processes did, by store. Raises what they raise; Interrupted after a signal."""
        found: list[list[FillResult]]
        with (
            stop_on_signal() as should_stop,
            self._crew(work) as workers,
            progress("extracting", "rows") as update,
        ):
            found = workers.wait(update, should_stop)
        return [together(parts) for parts in zip(*found, strict=True)]

    def _crew(self, work: Callable[[Worker], list[FillResult]]) -> AbstractContextManager[Any]:
        # failed rows are opened again while nobody else has the store
        if self._is_ray:
            return ray_crew(work, self._workers, first_alone=self._retry_failed)
        return crew(work, self._gpus or 1, first_alone=self._retry_failed)
