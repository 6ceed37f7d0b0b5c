"""Training a fusion head on frozen features, through Accelerate: devices, precision and DDP are its,
everything else is here.

A run is a folder: recipe.toml (resolved), streams.json (what it was fed), curves.jsonl, checkpoints/, then
model.safetensors, scores/, result.json. Everything random is a function of seed, epoch and row, so a resumed
run continues as if it had not stopped, and several processes train what one would. The learning rate counts
optimiser updates.
"""

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from mambavl.cache import fsops
from mambavl.configs.errors import DataError, Interrupted, UsageError
from mambavl.fuse import checkpoint, evaluate, owner
from mambavl.fuse.data import FeatureData, epoch_batches
from mambavl.fuse.head import Head
from mambavl.fuse.missing import count_missing
from mambavl.fuse.optimizer import Average, build_optimizer, learning_rate
from mambavl.fuse.processes import Processes
from mambavl.fuse.recipe import Recipe, build_head, run_targets
from mambavl.fuse.result import Metrics, Result, Trained
from mambavl.fuse.run import (
    CHECKPOINTS,
    CURVES,
    MODEL,
    RESULT,
    CurveLine,
    environment,
    read_result,
    refuse_other_folder,
    refuse_other_recipe,
    refuse_other_stores,
    write_inputs,
)
from mambavl.fuse.steps import Step, Steps
from mambavl.fuse.targets import RunTargets, is_labelled, log_prior, refuse_unlabelled

OnEpoch = Callable[[CurveLine], None]


def train(
    recipe: Recipe,
    run: Path,
    *,
    data: FeatureData | None = None,
    on_start: Callable[[], None] = lambda: None,
    on_epoch: OnEpoch = lambda line: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Result:
    """Train, score and write `run`; returns its result. A finished run is left as it is, and its result
    returned.

    Raises UsageError when the folder belongs to another recipe or was fed from other stores, DataError when
    training diverges, Interrupted (after saving a checkpoint) when `should_stop()` turns true in any process.
    One job at a time in a folder: RunHeld, a UsageError, names the process that has it. on_start: called once
    it is ours.
    """
    if recipe.is_sweep:
        raise UsageError("this recipe has a [grid], [random] or [[points]]; run it with `mambavl sweep`")
    run = Path(run)
    processes = Processes()
    is_finished = processes.once(lambda: _is_finished(run, recipe))
    if is_finished and not processes.once(recipe.has_stores):
        return processes.once(lambda: read_result(run))  # the stores have moved on, the run stands
    opened = data or processes.every(
        lambda: FeatureData(recipe.sources, recipe.data, device=processes.device)
    )
    processes.once(lambda: refuse_other_stores(run, opened))
    if not is_finished:
        with _owned(run, processes):
            # whoever held the folder until now may have finished, or begun another recipe
            if not processes.once(lambda: _is_finished(run, recipe)):
                on_start()
                _train(recipe, run, opened, processes, on_epoch, should_stop)
    return processes.once(lambda: read_result(run))


def _is_finished(run: Path, recipe: Recipe) -> bool:
    refuse_other_folder(run)
    refuse_other_recipe(run, recipe)
    return (run / RESULT).exists()


@contextlib.contextmanager
def _owned(run: Path, processes: Processes) -> Iterator[None]:
    """The main process holds the folder; where it cannot, all raise RunHeld."""
    with contextlib.ExitStack() as stack:
        processes.once(lambda: stack.enter_context(owner.owned(run)))
        yield


def _train(
    recipe: Recipe,
    run: Path,
    data: FeatureData,
    processes: Processes,
    on_epoch: OnEpoch,
    should_stop: Callable[[], bool],
) -> None:
    """Everything from the first update to result.json, in a folder that is ours."""
    processes.once(lambda: _refuse_stores_and_forget_failure(run, data))
    targets = processes.every(lambda: run_targets(recipe, data))
    processes.once(lambda: refuse_unlabelled(targets, data.labels, data.train))
    head = processes.every(lambda: build_head(recipe, data, targets).to(processes.device))
    trainer = _Trainer(recipe, run, data, targets, head, processes)
    processes.once(lambda: write_inputs(run, recipe, data, targets, trainer.prior))
    seconds = trainer.fit(on_epoch, should_stop)
    trained = Trained(
        environment=environment(processes.device),
        scan_backend=head.scan_backend,
        precision=trainer.steps.precision,
        train_rows=len(trainer.rows),
        train_seconds=round(seconds, 2),
        processes=processes.count,
        missing=count_missing(data.has, trainer.rows),
    )
    processes.once(lambda: trainer.finish(trained))


def _refuse_stores_and_forget_failure(run: Path, data: FeatureData) -> None:
    refuse_other_stores(run, data)
    owner.forget_failure(run)


class _Trainer:
    def __init__(
        self,
        recipe: Recipe,
        run: Path,
        data: FeatureData,
        targets: RunTargets,
        head: Head,
        processes: Processes,
    ) -> None:
        self.recipe, self.config, self.run, self.data = recipe, recipe.train, run, data
        self.targets = targets
        labels = {name: targets.labels(data.labels, name) for name in targets.outputs}
        self.rows = data.train[np.any([is_labelled(one)[data.train] for one in labels.values()], axis=0)]
        self.prior = log_prior(targets, data.labels, self.rows)
        self.processes, self.accelerator = processes, processes.accelerator
        self.updates_per_epoch = math.ceil(len(self.rows) / self.config.batch_size)
        self.model, self.optimizer = self.accelerator.prepare(head, build_optimizer(head, self.config))
        self.head: Head = self.accelerator.unwrap_model(self.model)
        self.average = Average(self.head, self.config.ema) if self.config.ema else None
        self.steps = Steps(self.model, data, targets, labels, self.config, processes)
        self.epoch, self.batch, self.loss_sum = 0, 0, 0.0
        self.seconds = 0.0
        processes.every(self._resume)
        processes.once(self._cut_curves)

    def fit(self, on_epoch: OnEpoch, should_stop: Callable[[], bool]) -> float:
        """Train to the last epoch; returns the seconds spent, earlier parts of a resumed run included."""
        while self.epoch < self.config.epochs:
            since = time.perf_counter()
            self._one_epoch(should_stop)
            self.seconds += time.perf_counter() - since
            line = self.processes.once(self._line)
            self.epoch, self.batch, self.loss_sum = self.epoch + 1, 0, 0.0
            self.processes.once(partial(self._record, line, on_epoch))
        return self.seconds

    def finish(self, trained: Trained) -> None:
        """Write the weights, score them, write the result; the checkpoints have served."""
        head = self.scored
        checkpoint.save_weights(self.run / MODEL, head.state_dict())
        evaluate.evaluate_head(head, self.data, self.targets, self.recipe, self.run, self.prior, trained)
        fsops.remove_folder(self.run / CHECKPOINTS)

    @property
    def scored(self) -> Head:
        """The head with the weights that are scored and saved."""
        return self.average.head if self.average else self.head

    def _record(self, line: CurveLine, on_epoch: OnEpoch) -> None:
        with open(self.run / CURVES, "a", encoding="utf-8") as curves:
            curves.write(json.dumps(line) + "\n")
        if self.epoch % self.config.checkpoint_every == 0 and self.epoch < self.config.epochs:
            self._save()
        on_epoch(line)

    def _one_epoch(self, should_stop: Callable[[], bool]) -> None:
        self.steps.begin(self.epoch)
        batches = epoch_batches(self.rows, self.config.batch_size, self.config.seed, self.epoch)
        for number, rows in enumerate(batches):
            if number < self.batch:
                continue  # done before the run was interrupted
            step = self.processes.step(partial(self.steps.forward, rows), stop=should_stop())
            if step is None:  # every process stops at the same batch
                self.processes.once(self._save)
                raise Interrupted(f"{self.run}: stopped in epoch {self.epoch + 1}; the same command resumes")
            self.loss_sum += self._update(number, rows, step)
            self.batch = number + 1

    def _update(self, number: int, rows: np.ndarray, step: Step) -> float:
        """One optimiser update; returns the batch's mean loss.

        From here to its end a step is one exchange between the processes. An error of one alone cannot be
        agreed upon: it ends that process, and the launcher ends the others.
        """
        update = self.epoch * self.updates_per_epoch + number
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * self._factor(update)
        self.accelerator.backward(step.last)
        limit = self.config.clip_norm or math.inf
        norm = float(self.accelerator.clip_grad_norm_(self.model.parameters(), limit))
        value = self.processes.sum([float(step.value)])[0] / self.processes.count
        # gradients are averaged, so all processes see the same
        if not (math.isfinite(norm) and math.isfinite(value)):
            evaluate.refuse_broken_features(self.run, self.data, rows, [self.steps.views[rows]])
            ids = ", ".join(self.data.segments[row].narration_id for row in rows[:5])
            raise DataError(
                f"{self.run}: diverged: loss {value}, gradient norm {norm} in epoch {self.epoch + 1}, "
                f"batch {number + 1} (rows {ids}, ...); lower {evaluate.rates_of(self.head)}"
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average:
            self.average.update(self.head, update + 1)
        return value

    def _factor(self, update: int) -> float:
        return learning_rate(update / self.updates_per_epoch, self.config) / self.config.lr

    def _line(self) -> CurveLine:
        line: CurveLine = {
            "epoch": self.epoch + 1,
            "loss": self.loss_sum / max(self.batch, 1),
            "lr": self.config.lr * self._factor(self.epoch * self.updates_per_epoch + self.batch - 1),
            "seconds": round(self.seconds, 3),
        }
        is_due = (self.epoch + 1) % self.config.eval_every == 0 or self.epoch + 1 == self.config.epochs
        measured = self._measure() if is_due else {}
        for name in self.targets.classes.names:
            for key in ("top1", "map"):
                if f"all_{name}_{key}" in measured:
                    line[f"{name}_{key}"] = measured[f"all_{name}_{key}"]
        return line

    def _measure(self) -> Metrics:
        rows = self.data.evaluation
        scores = evaluate.score(
            self.scored,
            self.data,
            self.targets,
            rows,
            self.prior,
            self.steps.precision,
            self.config.batch_size,
            run=self.run,
        )
        return evaluate.measure(self.data, self.targets, rows, scores)

    def _save(self) -> None:
        position = {
            "epoch": self.epoch,
            "batch": self.batch,
            "loss_sum": self.loss_sum,
            "seconds": self.seconds,
        }
        checkpoint.save_checkpoint(
            self.run / CHECKPOINTS,
            self.epoch * self.updates_per_epoch + self.batch,
            self.head.state_dict(),
            self.optimizer.state_dict(),
            position,
            self.average.head.state_dict() if self.average else None,
        )

    def _resume(self) -> None:
        found = checkpoint.load_checkpoint(self.run / CHECKPOINTS)
        if found is None:
            return
        for complaint in found.complaints:
            self.accelerator.print(f"passed over a checkpoint: {complaint}")
        self.head.load_state_dict(found.model)
        self.optimizer.load_state_dict(found.optimizer)
        if self.average and found.average:
            self.average.head.load_state_dict(found.average)
        state = found.state
        self.epoch, self.batch = state["epoch"], state["batch"]
        self.loss_sum, self.seconds = state["loss_sum"], state["seconds"]

    def _cut_curves(self) -> None:
        """Keep the lines of epochs that the checkpoint has behind it; those after it are trained again."""
        if (self.run / CURVES).exists():
            lines = (self.run / CURVES).read_text(encoding="utf-8").splitlines(keepends=True)
            fsops.write_file(self.run / CURVES, "".join(lines[: self.epoch]).encode())
