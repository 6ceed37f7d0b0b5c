"""A training recipe: which streams, which head, which optimiser; and the head that it stands for."""

from typing import Any, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import nn

from mambavl.configs import Config, did_you_mean
from mambavl.configs.errors import UsageError
from mambavl.fuse.baselines import MLPConfig, MLPFusion, TransformerConfig, TransformerFusion
from mambavl.fuse.data import DataConfig, FeatureData, StreamSource
from mambavl.fuse.fusion import FusionConfig, SSMFusion
from mambavl.fuse.head import StreamShape, check_stream_name


class TrainConfig(Config):
    """The optimiser and its schedule. Defaults are ours for frozen features; the paper's own are in
    configs/fuse/paper.toml.
    """

    epochs: int = Field(default=30, ge=1)
    # over all processes; the paper does not say whether its 128 is per GPU
    batch_size: int = Field(default=128, ge=1)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(default=1e-3, gt=0)  # peak, of everything but the SSM
    lr_ssm: float = Field(default=3e-3, gt=0)  # peak of the SSM, A included
    # where the warm-up begins, for `lr`; lr_ssm keeps its ratio to lr
    lr_start: float = Field(default=1e-6, ge=0)
    # where the cosine ends (the paper prints its peak again, a misprint)
    lr_end: float = Field(default=1e-5, ge=0)
    warmup_epochs: float = Field(default=2.0, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)  # sgd only
    weight_decay: float = Field(default=0.05, ge=0)
    decay_all: bool = False  # also A_log, D, biases and norms, as the release does
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    clip_norm: float = Field(default=1.0, ge=0)  # 0: no clipping
    seed: int = Field(default=0, ge=0, lt=2**63)
    # auto: bf16 autocast on a GPU; the scan's state is float32 always
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    eval_every: int = Field(default=1, ge=1)  # epochs
    checkpoint_every: int = Field(default=1, ge=1)  # epochs


class Recipe(Config):
    """All of a run."""

    title: str = ""
    # shown beside what is measured
    published: dict[Literal["verb", "noun", "action"], float] = Field(default={})
    head: Literal["mambavl", "mlp", "transformer"] = "mambavl"
    streams: dict[str, StreamSource]
    # absent: all of [streams]; a grid over it gives video-only and text-only controls
    use_streams: list[str] | None = None
    data: DataConfig = DataConfig()
    fusion: FusionConfig = FusionConfig()
    mlp: MLPConfig = MLPConfig()
    transformer: TransformerConfig = TransformerConfig()
    train: TrainConfig = TrainConfig()
    grid: dict[str, Any] = Field(default={})  # for `mambavl sweep`: any keys -> lists of values

    @field_validator("streams")
    @classmethod
    def _known_names(cls, streams: dict[str, StreamSource]) -> dict[str, StreamSource]:
        for name in streams:
            try:
                check_stream_name(name)
            except UsageError as error:
                raise ValueError(str(error)) from None
        return streams

    @model_validator(mode="after")
    def _used_streams_exist(self) -> "Recipe":
        for name in self.use_streams or ():
            if name not in self.streams:
                raise ValueError(
                    f"use_streams names {name!r}, which is not in [streams]{did_you_mean(name, list(self.streams))}"
                )
        return self

    @property
    def sources(self) -> dict[str, StreamSource]:
        """The streams in use."""
        return {n: s for n, s in self.streams.items() if self.use_streams is None or n in self.use_streams}


HEADS = {
    "mambavl": ("fusion", SSMFusion),
    "mlp": ("mlp", MLPFusion),
    "transformer": ("transformer", TransformerFusion),
}


def build_head(recipe: Recipe, data: FeatureData) -> nn.Module:
    """The recipe's head, its stream widths and class counts taken from the stores; seeded."""
    return make_head(recipe, data.shapes, data.classes.num_verbs, data.classes.num_nouns)


def make_head(recipe: Recipe, streams: dict[str, StreamShape], num_verbs: int, num_nouns: int) -> nn.Module:
    """The recipe's head for streams of these widths, seeded. Raises UsageError where the recipe has other
    class counts.
    """
    section, head = HEADS[recipe.head]
    config = getattr(recipe, section)
    found = {"streams": streams, "num_verbs": num_verbs, "num_nouns": num_nouns}
    for key in found.keys() & config.model_fields_set:
        if key != "streams" and getattr(config, key) != found[key]:
            raise UsageError(
                f"[{section}] {key} = {getattr(config, key)}, but the stores have {found[key]}; leave it out"
            )
    torch.manual_seed(recipe.train.seed)
    return head(type(config).model_validate({**config.model_dump(), **found}))
