"""The processes that train a run together: how they find each other, and what they decide as one.

torchrun and `accelerate launch` start one program several times. The main process decides and writes; what it
finds, a value or an error, all of them get. So none waits for another that has given up, and all of them end
a run, or go on with the next, together.
"""

import atexit
import os
from collections.abc import Callable
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    GradientAccumulationPlugin,
    broadcast_object_list,
    gather_object,
)
from torch import Tensor

from mambavl.configs.errors import DataError, MambaVLError, UsageError
from mambavl.fuse.owner import reason

Value = TypeVar("Value")

ACCUMULATION = "ACCELERATE_GRADIENT_ACCUMULATION_STEPS"
# one is set where WORLD_SIZE counts
RANKS = (
    "RANK",
    "PMI_RANK",
    "OMPI_COMM_WORLD_RANK",
    "MV2_COMM_WORLD_RANK",
)


class Processes:
    """Accelerate's processes, devices and DDP; alone where no launcher started several."""

    def __init__(self) -> None:
        """Raises UsageError where the environment asks for processes or updates that there cannot be."""
        self.accelerator = _accelerator()
        self.count = self.accelerator.num_processes
        self.index = self.accelerator.process_index
        self.is_main = self.accelerator.is_main_process
        self.device = self.accelerator.device

    def once(self, deed: Callable[[], Value]) -> Value:
        """Do something on the main process alone; what it returns or raises there, all return or raise.

        With several processes an error that is not written for users arrives as a DataError.
        """
        if self.count == 1:
            return deed()
        outcome: list[tuple[Value, None] | tuple[None, MambaVLError] | None] = [None]
        cause: Exception | None = None
        if self.is_main:
            try:
                outcome = [(deed(), None)]
            except Exception as error:  # raised again below, by all
                cause, outcome = error, [(None, _portable(error))]
        broadcast_object_list(outcome)
        assert outcome[0] is not None
        value, failure = outcome[0]
        if failure is not None:
            raise failure from cause
        return value  # type: ignore[return-value]  # the first of the two kinds of outcome

    def every(self, deed: Callable[[], Value]) -> Value:
        """Do something on each process; where it fails on one, the first error is raised on all.

        `deed` may not itself exchange anything with the other processes.
        """
        if self.count == 1:
            return deed()
        found, own = _attempt(deed)
        self._raise_together(own)
        return found[0]

    def step(self, deed: Callable[[], Value], *, stop: bool) -> Value | None:
        """Like `every`, for what is done often: one small reduction each time. None where any process asks to
        stop; alone, nothing is done then.
        """
        if self.count == 1:
            return None if stop else deed()
        found, own = _attempt(deed)
        stops, failures = self.sum([float(stop), float(own is not None)])
        if failures:
            self._raise_together(own)
        return None if stops else found[0]

    def any(self, wish: bool) -> bool:
        """Whether it is true on any process."""
        return self.sum([float(wish)])[0] > 0

    def sum(self, values: list[float]) -> list[float]:
        """Each value summed over all processes."""
        if self.count == 1:
            return values
        total = self.accelerator.reduce(torch.tensor(values, device=self.device), "sum")
        return [float(value) for value in total]

    def total(self, value: Tensor) -> Tensor:
        """A number summed over all processes, on the device."""
        return value if self.count == 1 else self.accelerator.reduce(value, "sum")

    def _raise_together(self, own: Exception | None) -> None:
        errors = gather_object([None if own is None else _portable(own)])
        for error in errors:
            if error is not None:
                raise error from own


def _attempt(deed: Callable[[], Value]) -> tuple[list[Value], Exception | None]:
    """What a deed returned, alone in a list, or the error that it ended in."""
    try:
        return [deed()], None
    except Exception as error:  # raised again by the caller, in all processes
        return [], error


def _portable(error: Exception) -> MambaVLError:
    """An error that can be sent to other processes."""
    return error if isinstance(error, MambaVLError) else DataError(reason(error))


def _accelerator() -> Accelerator:
    """Devices and DDP. Precision is ours (evaluate.autocast), so that runs of one sweep may differ in it."""
    steps = os.environ.get(ACCUMULATION, "1")
    if steps != "1":
        raise UsageError(
            f"{ACCUMULATION}={steps}: an update is one batch of train.batch_size rows, in as many parts as "
            "train.accumulate says; unset the variable"
        )
    wanted = _world_size()
    # Accelerate would start one process of each, all of them writing into one folder
    on_cpu = wanted > 1 and not torch.accelerator.is_available()
    accelerator = Accelerator(
        cpu=on_cpu,
        mixed_precision="no",
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    if accelerator.num_processes > 1:
        # threads of the group that outlive Python's end abort the process, and its exit code with it
        atexit.register(_leave_group)
    if accelerator.num_processes < wanted:
        raise UsageError(
            f"WORLD_SIZE={wanted}, but {accelerator.num_processes} process is in the group on "
            f"{accelerator.device}; set ACCELERATE_USE_CPU=true to train on the CPU, or start one process"
        )
    return accelerator


def _leave_group() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _world_size() -> int:
    """The number of processes that a launcher says it has started."""
    text = os.environ.get("WORLD_SIZE", "1")
    wanted = int(text) if text.isdigit() else 0
    if wanted < 1:
        raise UsageError(f"WORLD_SIZE={text}: expected a number of processes; unset the variable")
    if wanted > 1 and not any(name in os.environ for name in RANKS):
        raise UsageError(
            f"WORLD_SIZE={wanted}, but RANK is not set: no launcher has started this process; use torchrun "
            "or `accelerate launch`, or unset WORLD_SIZE"
        )
    return wanted
