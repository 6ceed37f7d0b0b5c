"""The optimiser and its schedule: the keys of [train], parameter groups, the learning rate of an update; and
averages of weights.
"""

import copy
import math
from collections.abc import Iterator
from typing import Annotated, Literal

import torch
from pydantic import Field, field_validator

from mambavl.configs import Config
from mambavl.fuse.head import Head

Tracker = Literal[
    "aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb"
]
ScoreDtype = Literal["float32", "float16"]


class TrainConfig(Config):
    """The optimiser and its schedule. Defaults are ours for frozen features; the paper's own are in
    configs/fuse/paper.toml.
    """

    epochs: int = Field(default=30, ge=1)  # passes over the training rows
    # rows of an update, over all processes together; the paper does not say whether its 128 is per GPU
    batch_size: int = Field(default=128, ge=1)
    # parts of a batch that each process computes one after the other: less memory, the same update
    accumulate: int = Field(default=1, ge=1)
    optimizer: Literal["adamw", "sgd"] = "adamw"  # sgd: with Nesterov momentum
    lr: float = Field(default=1e-3, gt=0)  # peak learning rate of everything but the SSM
    lr_ssm: float = Field(default=3e-3, gt=0)  # peak learning rate of the SSM, A included
    # learning rate at which the warm-up begins, at most `lr` and on its scale; lr_ssm keeps its ratio to lr
    # throughout
    lr_start: float = Field(default=1e-6, ge=0)
    # learning rate at which the cosine ends, at most `lr` and on its scale (the paper prints its peak, a
    # misprint)
    lr_end: float = Field(default=1e-5, ge=0)
    # epochs of linear warm-up, fewer than `epochs`; half a cosine follows
    warmup_epochs: float = Field(default=2.0, ge=0)
    # the cosine begins at its peak where the warm-up ends; false: it runs from epoch 0 on, and the warm-up
    # ends on it, below the peak (as in the released code)
    cosine_after_warmup: bool = True
    momentum: float = Field(default=0.9, ge=0, lt=1)  # of sgd; adamw has its own
    weight_decay: float = Field(default=0.05, ge=0)  # of matrices; biases, norms, A_log and D do not decay
    decay_all: bool = False  # decay A_log, D, biases and norms as well, as the released code does
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)  # share of each label spread over all classes
    clip_norm: float = Field(default=1.0, ge=0)  # largest norm of all gradients together; 0: no clipping
    # decay of a moving average of the weights, which is then what is scored and saved; 0: none
    ema: float = Field(default=0.0, ge=0, lt=1)
    # names of streams -> probability that a row loses them for an epoch of training. A row that would lose
    # every stream it has loses none
    drop_streams: dict[str, Annotated[float, Field(ge=0, lt=1)]] = Field(default={})
    # names of streams -> probability that a row loses a channel of their features, in all tokens, for an
    # epoch of training
    feature_dropout: dict[str, Annotated[float, Field(ge=0, lt=1)]] = Field(default={})
    # alpha of mixup: pairs of rows are mixed by a share that is Beta(alpha, alpha), right before the
    # classifiers; 0: none
    mixup: float = Field(default=0.0, ge=0)
    # of initial weights and dropout; without an order_seed of what a batch is as well
    seed: int = Field(default=0, ge=0, lt=2**63)
    # of what a batch is: order of rows, views, mixup, dropped streams and channels; absent: `seed`. A sweep
    # can train runs that have it in common in one pass, whatever their seeds
    order_seed: int | None = Field(default=None, ge=0, lt=2**63)
    # of matrix products. auto: bf16 on a GPU that has it, else fp32; the scan's state is float32 always
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    eval_every: int = Field(default=1, ge=1)  # epochs between two scorings while training
    # epochs without a better top-1 (or mAP) of the target that rank_by names, on the rows of data.hold_out,
    # after which training stops; absent: it does not. Which epochs are scored says eval_every
    stop_after: int | None = Field(default=None, ge=1)
    checkpoint_every: int = Field(default=1, ge=1)  # epochs between two checkpoints
    # what a finished run keeps besides its result. weights: its head and its scores; scores: no head, for the
    # points of a sweep, of which there may be hundreds (what select_on chooses keeps its head all the same)
    keep: Literal["weights", "scores"] = "weights"
    # number format of the scores that are kept and measured; float16 takes half the space, and some classes
    # that differ by less than 0.1 % of their log-probability are equal in it
    score_dtype: ScoreDtype = "float32"
    # names of trackers that the lines of curves.jsonl are sent to, by Accelerate
    trackers: list[Tracker] = Field(default=[])

    @property
    def order(self) -> int:
        """The seed of what a batch is."""
        return self.seed if self.order_seed is None else self.order_seed

    @field_validator("drop_streams", "feature_dropout")
    @classmethod
    def _that_drop(cls, chances: dict[str, float]) -> dict[str, float]:
        return {name: chance for name, chance in chances.items() if chance}  # a chance of 0 is none


def train_faults(train: TrainConfig) -> Iterator[str]:
    """Why settings cannot be meant: a schedule never reaches its peak, or begins or ends above it; or rows
    are to be mixed, and each is alone in its batch.
    """
    if train.warmup_epochs >= train.epochs:
        yield (
            f"warmup_epochs = {train.warmup_epochs:g} is not below epochs = {train.epochs}, so training "
            f"would end before it reaches lr; set train.warmup_epochs={train.epochs / 2:g}, or more epochs"
        )
    for key in ("lr_start", "lr_end"):
        rate = getattr(train, key)
        if rate > train.lr:
            yield f"{key} = {rate:g} is above the peak lr = {train.lr:g}; set train.{key} to at most that"
    if train.mixup and train.batch_size == 1:
        yield "mixup mixes rows of a batch, and batch_size = 1; set train.batch_size=2, or more"


def learning_rate(epoch: float, config: TrainConfig) -> float:
    """The rate of the group whose peak is `lr`, at a fractional epoch: linear warm-up, then half a cosine."""
    if epoch < config.warmup_epochs:
        top = config.lr if config.cosine_after_warmup else _cosine(config.warmup_epochs, config)
        return config.lr_start + (top - config.lr_start) * epoch / config.warmup_epochs
    return _cosine(epoch, config)


def _cosine(epoch: float, config: TrainConfig) -> float:
    begin = config.warmup_epochs if config.cosine_after_warmup else 0.0
    progress = min(1.0, (epoch - begin) / max(config.epochs - begin, 1e-9))
    return config.lr_end + (config.lr - config.lr_end) * (1 + math.cos(math.pi * progress)) / 2


def build_optimizer(head: Head, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW or SGD over the head's `parameter_groups`, each with its peak rate and weight decay."""
    described = [
        {
            "params": group.parameters,
            "peak": config.lr_ssm if group.is_ssm else config.lr,
            "lr": 0.0,  # set before every update
            "weight_decay": config.weight_decay if group.decays else 0.0,
        }
        for group in head.parameter_groups(decay_all=config.decay_all)
    ]
    if config.optimizer == "sgd":
        nesterov = config.momentum > 0
        return torch.optim.SGD(
            described, lr=config.lr, momentum=config.momentum, nesterov=nesterov, foreach=True
        )
    # foreach: the same numbers as a loop over parameters, with fewer calls; fused ones differ in the last bit
    return torch.optim.AdamW(described, lr=config.lr, betas=(0.9, 0.999), foreach=True)


class Average:
    """A copy of a head whose weights are moving averages of its own. After update t, with the decay d,

        average = sum_i d^(t - i) w_i / sum_i d^(t - i), over the updates i = 1 .. t

    so the random start is no part of it, as with Adam's moments (Kingma and Ba, 2015, section 3).
    """

    def __init__(self, head: Head, decay: float) -> None:
        self.head, self.decay = copy.deepcopy(head), decay

    @torch.no_grad()
    def update(self, head: Head, number: int) -> None:
        """Take in the weights after an update; number: which one, from 1."""
        share = (1 - self.decay) / (1 - self.decay**number)
        for average, weight in zip(self.head.parameters(), head.parameters(), strict=True):
            average.lerp_(weight, share)
