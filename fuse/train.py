"""Training a fusion head on frozen features, through Accelerate: devices, precision and DDP are its,
everything else is here.

A run is a folder: recipe.toml (resolved), streams.json (what it was fed), curves.jsonl, checkpoints/, then
model.safetensors, scores/, result.json. Everything random is a function of seed, epoch and row, so a resumed
run continues as if it had not stopped, and several processes train what one would. The learning rate counts
optimiser updates.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from mambavl.cache import fsops
from mambavl.configs.errors import Pruned, UsageError
from mambavl.fuse import owner
from mambavl.fuse.counting import count
from mambavl.fuse.counts import COUNTS
from mambavl.fuse.data import FeatureData, epoch_batches
from mambavl.fuse.member import Member
from mambavl.fuse.processes import Processes
from mambavl.fuse.recipe import Recipe, build_head, run_targets
from mambavl.fuse.result import Result
from mambavl.fuse.run import (
    CHECKPOINTS,
    RECIPE,
    RESULT,
    CurveLine,
    read_result,
    refuse_other_folder,
    refuse_other_recipe,
    refuse_other_stores,
    write_inputs,
)
from mambavl.fuse.steps import Step, Steps, choose_precision
from mambavl.fuse.targets import refuse_unlabelled
from mambavl.fuse.tracking import refuse_missing, tracked

OnEpoch = Callable[[CurveLine], None]
OnStep = Callable[[int, int], None]  # updates made, of so many

# Updates between two looks at losses and norms, by device. Whoever looks waits for the device, and could have
# read the next batch meanwhile.
READ_EVERY = {"cpu": 1}
ELSEWHERE = 50


def train(
    recipe: Recipe,
    run: Path,
    *,
    data: FeatureData | None = None,
    on_start: Callable[[], None] = lambda: None,
    on_step: OnStep = lambda done, total: None,
    on_epoch: OnEpoch = lambda line: None,
    should_stop: Callable[[], bool] = lambda: False,
    max_deaths: int | None = None,
) -> Result:
    """Train, score and write `run`; returns its result. A finished run is left as it is, and its result
    returned.

    Raises UsageError when the folder belongs to another recipe or was fed from other stores, DataError when
    training diverges, Interrupted (after saving a checkpoint) when `should_stop()` turns true in any process,
    Pruned (likewise) when `on_epoch` does.
    One job at a time in a folder: RunHeld, a UsageError, names the process that has it. on_start: called once
    it is ours. on_step: after each update, on_epoch: after each epoch, both in the main process. max_deaths:
    as of `owner.owned`.
    """
    if recipe.is_sweep:
        raise UsageError("this recipe is a sweep's; run it with `mambavl sweep`")
    run = Path(run)
    processes = Processes()
    is_finished = processes.once(lambda: _is_finished(run, recipe))
    if is_finished:
        processes.once(lambda: _clear(run))
    if is_finished and not processes.once(recipe.has_stores):
        return processes.once(lambda: read_result(run))  # the stores have moved on, the run stands
    opened = data or processes.every(
        lambda: FeatureData(recipe.sources, recipe.data, device=processes.device)
    )
    processes.once(lambda: refuse_other_stores(run, opened))
    if not is_finished:
        with _owned(run, processes, max_deaths):
            # whoever held the folder until now may have finished, or begun another recipe
            if not processes.once(lambda: _is_finished(run, recipe)):
                on_start()
                _train(recipe, run, opened, processes, on_step, on_epoch, should_stop)
    return processes.once(lambda: read_result(run))


def _is_finished(run: Path, recipe: Recipe) -> bool:
    refuse_other_folder(run)
    refuse_other_recipe(run, recipe)
    return (run / RESULT).exists()


def _clear(run: Path) -> None:
    """A process that was killed right after it wrote the result has left its checkpoints."""
    if (run / CHECKPOINTS).exists():
        with contextlib.suppress(owner.RunHeld), owner.held(run):  # else whoever holds it is about to do so
            fsops.remove_folder(run / CHECKPOINTS)


@contextlib.contextmanager
def _owned(run: Path, processes: Processes, max_deaths: int | None) -> Iterator[None]:
    """The main process holds the folder; where it cannot, all raise RunHeld."""
    with contextlib.ExitStack() as stack:
        processes.once(lambda: stack.enter_context(owner.owned(run, max_deaths)))
        yield


def _train(
    recipe: Recipe,
    run: Path,
    data: FeatureData,
    processes: Processes,
    on_step: OnStep,
    on_epoch: OnEpoch,
    should_stop: Callable[[], bool],
) -> None:
    """Everything from the first update to result.json, in a folder that is ours."""
    processes.once(lambda: _refuse_stores_and_forget_failure(run, data))
    processes.once(lambda: refuse_missing(recipe.train.trackers))  # before the folder is this recipe's
    if recipe.head.name == COUNTS:
        processes.once(lambda: count(recipe, run, data))
        return
    targets = processes.every(lambda: run_targets(recipe, data))
    processes.once(lambda: refuse_unlabelled(targets, data.labels, data.train))
    head = processes.every(lambda: build_head(recipe, data, targets).to(processes.device))
    member = Member(recipe, run, data, targets, head, choose_precision(recipe.train, processes.device))
    trainer = _Trainer(member, processes, on_step)
    processes.once(lambda: write_inputs(run, recipe, data, targets, member.prior))
    with tracked(processes, recipe, run) as track:

        def tell(line: CurveLine) -> None:
            track(line)
            on_epoch(line)

        trainer.fit(tell, should_stop)
    processes.once(lambda: member.finish(processes))


def _refuse_stores_and_forget_failure(run: Path, data: FeatureData) -> None:
    refuse_other_stores(run, data)
    if not (run / RECIPE).exists():
        data.refuse_longer_past()
    owner.forget_failure(run)


class _Trainer:
    """The loop over the updates of one run, in any number of processes."""

    def __init__(self, member: Member, processes: Processes, on_step: OnStep) -> None:
        self.member, self.config, self.run = member, member.config, member.run
        self.processes, self.accelerator = processes, processes.accelerator
        self.on_step = on_step if processes.is_main else lambda done, total: None
        self.model, self.optimizer = self.accelerator.prepare(member.head), member.optimizer
        self.parameters = list(member.head.parameters())
        self.steps = Steps(self.model, member.data, member.targets, member.labels, self.config, processes)
        self.read_every = READ_EVERY.get(processes.device.type, ELSEWHERE)
        # of updates since the last look: their rows, and on the device the loss of all processes and the norm
        self.unread: list[tuple[np.ndarray, torch.Tensor]] = []
        for complaint in processes.every(member.resume):
            self.accelerator.print(f"passed over a checkpoint: {complaint}")
        member.curve = processes.once(member.cut_curves)

    def fit(self, on_epoch: OnEpoch, should_stop: Callable[[], bool]) -> None:
        """Train to the last epoch, or until it stops early."""
        member = self.member
        while not member.is_done:
            self._one_epoch(should_stop)
            line = self.processes.once(member.line)
            member.begin_next(line)
            self.processes.once(partial(self._record, line, on_epoch))

    def _record(self, line: CurveLine, on_epoch: OnEpoch) -> None:
        self.member.record(line)
        try:
            on_epoch(line)
        except Pruned:
            if self.config.keep == "weights":
                self.member.save()  # it can be taken up again
            else:
                fsops.remove_folder(self.run / CHECKPOINTS)  # there may be hundreds
            raise

    def _one_epoch(self, should_stop: Callable[[], bool]) -> None:
        member, since = self.member, time.perf_counter()
        total = member.updates_per_epoch * self.config.epochs
        self.steps.begin(member.epoch)
        batches = epoch_batches(member.rows, self.config.batch_size, self.config.order, member.epoch)
        for number, rows in enumerate(batches):
            if number < member.batch:
                continue  # done before the run was interrupted
            step = self.processes.step(partial(self.steps.forward, rows), stop=should_stop())
            if step is None:  # every process stops at the same batch
                self._read()
                member.seconds += time.perf_counter() - since
                self.processes.once(member.save)
                raise member.interrupted()
            self._update(rows, step)
            self.on_step(member.updates, total)
        self._read()
        member.seconds += time.perf_counter() - since

    def _update(self, rows: np.ndarray, step: Step) -> None:
        """One optimiser update.

        From here to its end a step is one exchange between the processes. An error of one alone cannot be
        agreed upon: it ends that process, and the launcher ends the others.
        Accelerate's own backward, clipping and step end in these, after looking for what is not in use here.
        """
        factor = self.member.factor(self.member.updates)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        step.last.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm or math.inf)
        self.unread.append((rows, torch.stack([self.processes.total(step.value), norm])))
        self.member.batch += 1
        if len(self.unread) == self.read_every:
            self._read()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.member.average:
            self.member.average.update(self.member.head, self.member.updates)

    def _read(self) -> None:
        """Wait for the device, and add up what the updates since the last look have cost. Raises DataError
        for the first of them whose loss or gradient is not finite.
        """
        unread, self.unread = self.unread, []
        if not unread:
            return
        found = torch.stack([values for _, values in unread]).tolist()
        first = self.member.batch - len(unread) + 1
        for number, ((rows, _), (total, norm)) in enumerate(zip(unread, found, strict=True), first):
            value = total / self.processes.count
            # gradients are averaged, so all processes see the same
            if not (math.isfinite(norm) and math.isfinite(value)):
                raise self.member.diverged(rows, self.steps.views, value, norm, number)
            self.member.loss_sum += value
