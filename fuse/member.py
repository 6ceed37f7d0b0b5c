"""A run on its way through its epochs: head and optimiser, how far they are, the curve and the checkpoints.

What makes its updates is a loop: that of `train`, for one run, or that of `pack`, for several in one pass.
"""

import json
import math
from pathlib import Path

import numpy as np

from mambavl.cache import fsops
from mambavl.configs.errors import DataError, Interrupted
from mambavl.fuse import checkpoint, evaluate
from mambavl.fuse.data import FeatureData
from mambavl.fuse.head import Head
from mambavl.fuse.metrics import ranked_target
from mambavl.fuse.missing import count_missing
from mambavl.fuse.optimizer import Average, build_optimizer, learning_rate
from mambavl.fuse.processes import Processes
from mambavl.fuse.recipe import Recipe
from mambavl.fuse.result import Trained
from mambavl.fuse.run import CHECKPOINTS, CURVES, MODEL, CurveLine, Scores, environment
from mambavl.fuse.stopping import has_stalled, refuse_unmeasured
from mambavl.fuse.targets import RunTargets, is_labelled, log_prior


class Member:
    """One run, in a folder that is ours."""

    def __init__(
        self, recipe: Recipe, run: Path, data: FeatureData, targets: RunTargets, head: Head, precision: str
    ) -> None:
        self.recipe, self.config, self.run = recipe, recipe.train, run
        self.data, self.targets, self.head, self.precision = data, targets, head, precision
        self.labels = {name: targets.labels(data.labels, name) for name in targets.outputs}
        self.rows = data.train[np.any([is_labelled(one)[data.train] for one in self.labels.values()], axis=0)]
        self.prior = log_prior(targets, data.labels, self.rows)
        self.updates_per_epoch = math.ceil(len(self.rows) / self.config.batch_size)
        self.optimizer = build_optimizer(head, self.config)
        self.average = Average(head, self.config.ema) if self.config.ema else None
        self.epoch, self.batch, self.loss_sum = 0, 0, 0.0  # batch: updates that are made of this epoch
        self.curve: list[CurveLine] = []  # lines of the epochs before
        self.seconds = 0.0
        self.scores: Scores | None = None  # of the evaluation rows, where its last epoch was scored
        if self.config.stop_after:
            refuse_unmeasured(ranked_target(self._watched), targets, data)

    @property
    def is_done(self) -> bool:
        patience = self.config.stop_after
        has_stopped = patience is not None and has_stalled(self.curve, self._watched, patience)
        return has_stopped or self.epoch >= self.config.epochs

    @property
    def _watched(self) -> str:
        """The target, or the measure of one, that says when to stop."""
        return self.recipe.rank_by or self.targets.classes.names[-1]

    @property
    def updates(self) -> int:
        """Made so far."""
        return self.epoch * self.updates_per_epoch + self.batch

    @property
    def scored(self) -> Head:
        """The head with the weights that are scored and saved."""
        return self.average.head if self.average else self.head

    def factor(self, update: int) -> float:
        """What the peak rates are multiplied with at an update, counted from 0."""
        return learning_rate(update / self.updates_per_epoch, self.config) / self.config.lr

    def diverged(
        self, rows: np.ndarray, views: np.ndarray, loss: float, norm: float, batch: int | None = None
    ) -> DataError:
        """What to raise for a loss or gradient that is not finite, of a batch of this epoch, counted from 1;
        None: of the update that comes next. Raises DataError where the features are at fault.
        """
        evaluate.refuse_broken_features(self.run, self.data, rows, [views[rows]])
        ids = ", ".join(self.data.segments[row].narration_id for row in rows[:5])
        return DataError(
            f"{self.run}: diverged: loss {loss:.4g}, gradient norm {norm:.4g} in epoch {self.epoch + 1}, "
            f"batch {batch or self.batch + 1} (rows {ids}, ...); lower {evaluate.rates_of(self.head)}"
        )

    def interrupted(self) -> Interrupted:
        """What to raise once it is saved."""
        return Interrupted(f"{self.run}: stopped in epoch {self.epoch + 1}; the same command resumes")

    @property
    def is_due(self) -> bool:
        """Whether the epoch that all updates are made of is scored."""
        return (self.epoch + 1) % self.config.eval_every == 0 or self.epoch + 1 == self.config.epochs

    def line(self, scores: Scores | None = None) -> CurveLine:
        """What curves.jsonl says of the epoch that all updates are made of. scores: where it is due and has
        been scored with others.
        """
        line: CurveLine = {
            "epoch": self.epoch + 1,
            "loss": self.loss_sum / max(self.batch, 1),
            "lr": self.config.lr * self.factor(self.updates - 1),
            "seconds": round(self.seconds, 3),
        }
        self.scores = (scores or self._score()) if self.is_due else None
        if self.scores is None:
            return line
        measured = evaluate.measure(self.data, self.targets, self.data.evaluation, self.scores)
        for name in self.targets.classes.names:
            for key in (f"{name}_top1", f"{name}_map"):
                if f"all_{key}" in measured:
                    line[key] = measured[f"all_{key}"]
        if self._watched not in line and f"all_{self._watched}" in measured:
            line[self._watched] = measured[f"all_{self._watched}"]
        return line

    def _score(self) -> Scores:
        return evaluate.score(
            self.scored,
            self.data,
            self.targets,
            self.data.evaluation,
            self.prior,
            self.precision,
            self.config.batch_size,
            run=self.run,
        )

    def begin_next(self, line: CurveLine) -> None:
        """The updates of an epoch are made, and this is its line."""
        self.curve.append(line)
        self.epoch, self.batch, self.loss_sum = self.epoch + 1, 0, 0.0

    def record(self, line: CurveLine) -> None:
        """Write the line of the epoch before, and a checkpoint where one is due."""
        with open(self.run / CURVES, "a", encoding="utf-8") as curves:
            curves.write(json.dumps(line) + "\n")
        if self.epoch % self.config.checkpoint_every == 0 and not self.is_done:
            self.save()

    def save(self) -> None:
        position = {
            "epoch": self.epoch,
            "batch": self.batch,
            "loss_sum": self.loss_sum,
            "seconds": self.seconds,
        }
        checkpoint.save_checkpoint(
            self.run / CHECKPOINTS,
            self.updates,
            self.head.state_dict(),
            self.optimizer.state_dict(),
            position,
            self.average.head.state_dict() if self.average else None,
        )

    def resume(self) -> list[str]:
        """Go on from the newest sound checkpoint, if there is one; returns what was wrong with those passed
        over.
        """
        found = checkpoint.load_checkpoint(self.run / CHECKPOINTS)
        if found is None:
            return []
        self.head.load_state_dict(found.model)
        self.optimizer.load_state_dict(found.optimizer)
        if self.average and found.average:
            self.average.head.load_state_dict(found.average)
        state = found.state
        self.epoch, self.batch = state["epoch"], state["batch"]
        self.loss_sum, self.seconds = state["loss_sum"], state["seconds"]
        return found.complaints

    def cut_curves(self) -> list[CurveLine]:
        """Keep the lines of epochs that the checkpoint has behind it, and return them; those after it are
        trained again.
        """
        if (self.run / CURVES).exists():
            lines = (self.run / CURVES).read_text(encoding="utf-8").splitlines(keepends=True)[: self.epoch]
            fsops.write_file(self.run / CURVES, "".join(lines).encode())
            self.curve = [json.loads(line) for line in lines]
        return self.curve

    def finish(self, processes: Processes, together: int = 1) -> None:
        """Write the weights, if they are kept, score them, write the result; the checkpoints have served.
        together: runs that were trained in one pass.
        """
        trained = Trained(
            environment=environment(processes.device),
            scan_backend=self.head.scan_backend,
            precision=self.precision,
            train_rows=len(self.rows),
            train_seconds=round(self.seconds, 2),
            processes=processes.count,
            missing=count_missing(self.data.has, self.rows),
            stopped=self.epoch if self.epoch < self.config.epochs else None,
            together=together,
        )
        if self.config.keep == "weights":
            checkpoint.save_weights(self.run / MODEL, self.scored.state_dict())
        evaluate.evaluate_head(
            self.scored,
            self.data,
            self.targets,
            self.recipe,
            self.run,
            self.prior,
            trained,
            scores=self.scores,
        )
        fsops.remove_folder(self.run / CHECKPOINTS)
