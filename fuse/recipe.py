"""A training recipe: which streams, which head, which optimiser; and the head that it stands for."""

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, ValidationInfo, field_validator, model_validator

from mambavl.cache.classes import Classes
from mambavl.configs import Config
from mambavl.configs.errors import UsageError, did_you_mean
from mambavl.fuse.baselines import MLPConfig, MLPFusion, TransformerConfig, TransformerFusion
from mambavl.fuse.data import DataConfig, FeatureData
from mambavl.fuse.fusion import FusionConfig, SSMFusion
from mambavl.fuse.head import Head, HeadConfig, StreamShape, check_stream_name, routes
from mambavl.fuse.sources import StreamSource
from mambavl.fuse.targets import RunTargets, TargetConfig, choose, pairs_of


class TrainConfig(Config):
    """The optimiser and its schedule. Defaults are ours for frozen features; the paper's own are in
    configs/fuse/paper.toml.
    """

    epochs: int = Field(default=30, ge=1)  # passes over the training rows
    # rows of an update, over all processes together; the paper does not say whether its 128 is per GPU
    batch_size: int = Field(default=128, ge=1)
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
    momentum: float = Field(default=0.9, ge=0, lt=1)  # of sgd; adamw has its own
    weight_decay: float = Field(default=0.05, ge=0)  # of matrices; biases, norms, A_log and D do not decay
    decay_all: bool = False  # decay A_log, D, biases and norms as well, as the released code does
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)  # share of each label spread over all classes
    clip_norm: float = Field(default=1.0, ge=0)  # largest norm of all gradients together; 0: no clipping
    # names of streams -> probability that a row loses them for an epoch of training. A row that would lose
    # every stream it has loses none
    drop_streams: dict[str, Annotated[float, Field(ge=0, lt=1)]] = Field(default={})
    seed: int = Field(default=0, ge=0, lt=2**63)  # of initial weights, order of rows, views and all dropping
    # of matrix products. auto: bf16 on a GPU that has it, else fp32; the scan's state is float32 always
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    eval_every: int = Field(default=1, ge=1)  # epochs between two scorings while training
    checkpoint_every: int = Field(default=1, ge=1)  # epochs between two checkpoints

    @field_validator("drop_streams")
    @classmethod
    def _that_drop(cls, chances: dict[str, float]) -> dict[str, float]:
        return {name: chance for name, chance in chances.items() if chance}  # a chance of 0 is none


class Recipe(Config):
    """All that decides a run."""

    title: str = ""  # name of the run in tables and reports; empty: the name of its folder
    # published top-1 by target in percent, shown next to what is measured
    published: dict[str, float] = Field(default={})
    # which head is trained: mambavl (settings in [fusion]), mlp (in [mlp]), transformer (in [transformer])
    head: Literal["mambavl", "mlp", "transformer"] = "mambavl"
    streams: dict[str, StreamSource]  # name of a stream -> where its features are
    # names of the streams to use; absent: all of [streams]. A grid over it gives video-only and text-only
    # controls
    use_streams: list[str] | None = None
    # names of the targets to train, such as verb; absent: all that the stores have labels for
    use_targets: list[str] | None = None
    targets: dict[str, TargetConfig] = Field(default={})  # name of a target -> how it is trained
    data: DataConfig = DataConfig()  # which rows are trained on and scored
    fusion: FusionConfig = FusionConfig()  # settings of head mambavl
    mlp: MLPConfig = MLPConfig()  # settings of head mlp
    transformer: TransformerConfig = TransformerConfig()  # settings of head transformer
    train: TrainConfig = TrainConfig()  # the optimiser and its schedule
    grid: dict[str, Any] = Field(default={})  # for `mambavl sweep`: keys of this recipe -> lists of values

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
    def _named_streams_exist(self) -> "Recipe":
        named = {
            "use_streams": self.use_streams or (),
            "data.require": self.data.require,
            "train.drop_streams": self.train.drop_streams,
        }
        for key, names in named.items():
            for name in names:
                if name not in self.streams:
                    hint = did_you_mean(name, list(self.streams))
                    raise ValueError(f"{key} names {name!r}, which is not in [streams]{hint}")
        return self

    @model_validator(mode="after")
    def _schedule_can_be_meant(self, info: ValidationInfo) -> "Recipe":
        if info.context and info.context.get("recorded"):
            return self  # a run that was trained so can still be scored and shown
        faults = list(schedule_faults(self.train))
        if faults:
            raise ValueError(f"[train] {'; '.join(faults)}")
        return self

    @property
    def sources(self) -> dict[str, StreamSource]:
        """The streams in use."""
        return {n: s for n, s in self.streams.items() if self.use_streams is None or n in self.use_streams}

    def has_stores(self) -> bool:
        """Whether the stores of its streams are all there."""
        return all(store.exists() for source in self.sources.values() for store in source.stores)


# Keys that change no weight: names, where features are kept and when their bytes are checked, how often a run
# is scored and saved (scoring draws no random number, and the draws of an update depend on its place alone).
WITHOUT_WEIGHT = (
    "title",
    "published",
    "data.resident",
    "data.verify",
    "train.eval_every",
    "train.checkpoint_every",
)


def what_decides(recipe: Recipe) -> dict[str, Any]:
    """The recipe as in its TOML file, defaults filled in, without the keys that change no weight."""
    found = recipe.model_dump(mode="json", exclude_none=True)
    own = {name: config for name, config in recipe.targets.items() if config != TargetConfig()}
    found["targets"] = {name: found["targets"][name] for name in own}  # a section of defaults says nothing
    for key in WITHOUT_WEIGHT:
        *sections, name = key.split(".")
        owner = found
        for section in sections:
            owner = owner[section]
        owner.pop(name, None)
    return found


def schedule_faults(train: TrainConfig) -> Iterator[str]:
    """Why a schedule cannot be meant: it never reaches its peak, or begins or ends above it."""
    if train.warmup_epochs >= train.epochs:
        yield (
            f"warmup_epochs = {train.warmup_epochs:g} is not below epochs = {train.epochs}, so training "
            f"would end before it reaches lr; set train.warmup_epochs={train.epochs / 2:g}, or more epochs"
        )
    for key in ("lr_start", "lr_end"):
        rate = getattr(train, key)
        if rate > train.lr:
            yield f"{key} = {rate:g} is above the peak lr = {train.lr:g}; set train.{key} to at most that"


HEADS: dict[str, tuple[str, type[Head]]] = {  # `head` of a recipe -> its section, its class
    "mambavl": ("fusion", SSMFusion),
    "mlp": ("mlp", MLPFusion),
    "transformer": ("transformer", TransformerFusion),
}


def build_head(recipe: Recipe, data: FeatureData, targets: RunTargets) -> Head:
    """The recipe's head for the stores' stream widths and the run's targets; seeded.

    Raises as `make_head` does.
    """
    return make_head(recipe, data.shapes, targets)


def run_targets(recipe: Recipe, data: FeatureData, trained: Classes | None = None) -> RunTargets:
    """What the recipe trains of the stores' targets. trained: the classes of a run that is scored again,
    whose classifiers keep their columns. Raises UsageError for targets that the stores do not have.
    """
    pairs = pairs_of(data.classes, data.labels, data.train)
    if trained:
        pairs |= {name: derived.pairs for name, derived in trained.derived.items() if derived.pairs}
    return choose(data.classes, recipe.use_targets, recipe.targets, pairs)


def _routes(recipe: Recipe, streams: Iterable[str], targets: RunTargets) -> dict[str, list[str]]:
    """Target with a classifier -> the streams that reach it; a derived one, those that reach its parts."""
    routing = getattr(recipe, HEADS[recipe.head][0]).question_routing
    given = {name: config.streams for name, config in recipe.targets.items() if config.streams is not None}
    derived = {name: one for name, one in targets.classes.derived.items() if name in targets.outputs}
    direct = [name for name in targets.outputs if name not in derived or name in given]
    known = targets.classes.targets
    found = routes(streams, direct, routing, given, untrained=known)
    for name in derived.keys() - found.keys():
        parts = routes(streams, derived[name].of, routing, given, untrained=known)
        found[name] = [stream for stream in streams if any(stream in reached for reached in parts.values())]
    return {name: found[name] for name in targets.outputs}


def make_head(recipe: Recipe, streams: dict[str, StreamShape], targets: RunTargets) -> Head:
    """The recipe's head for streams of these widths and classifiers of these targets, seeded. Raises
    UsageError where the head cannot be built for these streams.
    """
    section, head = HEADS[recipe.head]
    config: HeadConfig = getattr(recipe, section)
    torch.manual_seed(recipe.train.seed)
    from_stores = {"streams": streams, "targets": dict(targets.outputs)}
    from_stores["routes"] = _routes(recipe, streams, targets)
    return head(type(config).model_validate({**config.model_dump(), **from_stores}))
