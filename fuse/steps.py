"""The loss of a training batch: whose rows are whose, what they are seen without, how targets add up.

A global batch is the same whatever the number of processes: each takes every n-th row of it, or pair of
rows, and what is random about a row is a function of seed, epoch and row.
"""

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mambavl.configs.errors import UsageError
from mambavl.fuse.data import FeatureData
from mambavl.fuse.dropout import row_keys
from mambavl.fuse.evaluate import autocast
from mambavl.fuse.head import Streams
from mambavl.fuse.losses import loss as target_loss
from mambavl.fuse.missing import draw_dropped, drop_channels
from mambavl.fuse.mixup import PAIR, draw_shares, partners
from mambavl.fuse.optimizer import TrainConfig
from mambavl.fuse.processes import Processes
from mambavl.fuse.targets import Labels, RunTargets, is_labelled


class Step(NamedTuple):
    """What one process finds of an update's batch; both times the number of processes."""

    last: Tensor  # loss of its last part, whose backward pass is still to come
    value: Tensor  # loss of all its parts, without gradient


class Steps:
    """The losses of one epoch after the other. model: a head, or DDP's around one."""

    views: np.ndarray  # (rows,) the view at which each row is seen in this epoch

    def __init__(
        self,
        model: nn.Module,
        data: FeatureData,
        targets: RunTargets,
        labels: Labels,
        config: TrainConfig,
        processes: Processes,
    ) -> None:
        """labels: target with a classifier -> its columns, as `RunTargets.labels` gives them. Raises
        UsageError where the launcher asks for a precision that heads are not trained in.
        """
        self.model, self.data, self.targets, self.labels = model, data, targets, labels
        self.config, self.processes = config, processes
        self.precision = choose_precision(config, processes.device)

    def begin(self, epoch: int) -> None:
        """Begin an epoch, counted from 0: draw the views that rows are seen at, the streams that they lose,
        and what they keep of themselves where they are mixed.
        """
        order = self.config.order
        self.epoch = epoch
        self.views = self.data.training_views(order, epoch)
        self.dropped = draw_dropped(self.data.has, self.config.drop_streams, order, epoch)
        self.shares = draw_shares(self.config.mixup, order, epoch, len(self.data))
        self.model.train()

    def forward(self, rows: np.ndarray) -> Step:
        """The losses of this process's parts of a global batch, at most `accumulate` of them, one after the
        other. The backward pass of all but the last is done here, without an exchange between processes.
        """
        *before, last = self._parts(len(rows))
        value: Tensor | float = 0.0
        for part in before:
            with self.processes.accelerator.no_sync(self.model):
                loss = self._loss(rows, part)
                loss.backward()
            value = value + loss.detach()
        loss = self._loss(rows, last)
        return Step(loss, loss.detach() + value)

    def _parts(self, rows: int) -> list[np.ndarray]:
        """Which of a batch's rows this process computes, part by part; at least one part. Partners stay
        together.
        """
        together = 1 if self.shares is None else PAIR
        firsts = np.arange(0, rows, together)[self.processes.index :: self.processes.count]
        parts = np.array_split(firsts, min(self.config.accumulate, max(len(firsts), 1)))
        places = [(part[:, None] + np.arange(together)).ravel() for part in parts]
        return [part[part < rows] for part in places]

    def _loss(self, rows: np.ndarray, part: np.ndarray) -> Tensor:
        """What a part adds to the loss of a global batch, times the number of processes: the mean over them
        is the loss, of each target a mean over its labelled rows.
        """
        share = {}
        for name, labels in self.labels.items():
            # DDP averages over processes, the loss over labelled rows
            labelled = is_labelled(labels[rows])
            share[name] = labelled[part].sum() * self.processes.count / max(labelled.sum(), 1)
        # the last batch may be smaller than the number of processes: take part all the same, at weight 0
        mine = rows[part] if len(part) else rows[:1]
        streams, keys = self.batch(mine), self.keys(mine, [self.config.seed])[:, 0]
        kept = None
        if self.shares is not None:
            kept = torch.from_numpy(self.shares[mine]).to(keys.device, non_blocking=True)
        with autocast(self.processes.device, self.precision):
            out = self.model(streams, keys, kept)
        losses = []
        for name, logits in out.items():
            own = self._own_loss(name, logits, self.labels[name][mine], kept)
            losses.append(float(share[name]) * self.targets.weights[name] * own)
        return torch.stack(losses).sum()

    def _own_loss(self, name: str, logits: Tensor, labels: np.ndarray, kept: Tensor | None) -> Tensor:
        """The mean over the labelled rows of a part. A mixed row is asked for its partner's label too; as
        many rows have a partner with a label as have one themselves.
        """
        smoothing = self.config.label_smoothing
        if kept is None:
            return target_loss(name, self.targets, logits, labels, smoothing)
        of_partners = labels[partners(len(labels))]
        own = target_loss(name, self.targets, logits, labels, smoothing, kept)
        return own + target_loss(name, self.targets, logits, of_partners, smoothing, 1 - kept)

    def batch(self, rows: np.ndarray) -> Streams:
        """Some rows as they are seen in this epoch."""
        streams = self.data.batch(rows, self.processes.device, self.views[rows], self.dropped)
        if not self.config.feature_dropout:
            return streams
        return drop_channels(streams, self.config.feature_dropout, self.keys(rows, [self.config.order])[:, 0])

    def keys(self, rows: np.ndarray, seeds: Sequence[int]) -> Tensor:
        """(B, seeds): what dropout is drawn from for some rows in this epoch, under each of some seeds."""
        keys = torch.stack([row_keys(seed, self.epoch, rows) for seed in seeds], 1)
        return keys.to(self.processes.device, non_blocking=True)


def choose_precision(config: TrainConfig, device: torch.device) -> str:
    """`auto`: what Accelerate's launcher was given; else bfloat16 on a GPU that has it, float32 elsewhere.
    Raises UsageError where the launcher asks for one that heads are not trained in.
    """
    if config.precision != "auto":
        return config.precision
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched not in ("no", "bf16"):
        raise UsageError(
            f"accelerate was launched with mixed precision {launched!r}; heads train in fp32 or bf16"
        )
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return "bf16" if launched == "bf16" or has_bf16 else "fp32"
