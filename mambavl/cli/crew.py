"""How a command's extraction is done by processes: one, or one for each GPU."""

import os
from collections.abc import Callable
from typing import TypeVar

from mambavl.cache.fill import FillResult, together
from mambavl.cli.options import gpus_of
from mambavl.configs.errors import UsageError
from mambavl.extract.options import AudioExtraction, VideoExtraction
from mambavl.extract.workers import Worker, crew
from mambavl.terminal import progress, stop_on_signal

Options = TypeVar("Options", VideoExtraction, AudioExtraction)


class Crew:
    """The processes of a command."""

    def __init__(self, gpus: str | None, retry_failed: bool) -> None:
        """gpus: as `--gpus` says; None: one process, on the device that the settings name."""
        self._gpus = gpus_of(gpus)
        self._retry_failed = retry_failed

    def settings(self, worker: Worker, options: Options) -> Options:
        """The settings of one of the processes: its GPU, and its part of the cores.

        Raises UsageError where a device is named as well.
        """
        if self._gpus is None:
            return options
        if options.device != "auto":
            raise UsageError(f"--gpus gives each process its device; leave out device = {options.device}")
        readers = options.readers or max(1, len(os.sched_getaffinity(0)) // self._gpus)
        return options.model_copy(update={"device": f"cuda:{worker.number}", "readers": readers})

    def retries(self, worker: Worker) -> bool:
        """Whether a process opens failed rows again: one for all."""
        return self._retry_failed and worker.number == 0 and not worker.is_successor

    def run(self, work: Callable[[Worker], list[FillResult]]) -> list[FillResult]:
        """What the processes did, by store. Raises what they raise; Interrupted after a signal."""
        with (
            stop_on_signal() as should_stop,
            # failed rows are opened again while nobody else has the store
            crew(work, self._gpus or 1, first_alone=self._retry_failed) as workers,
            progress("extracting", "rows") as update,
        ):
            found = workers.wait(update, should_stop)
        return [together(parts) for parts in zip(*found, strict=True)]
