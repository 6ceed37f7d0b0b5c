"""A training recipe: which streams, which head, which optimiser; and the head that it stands for."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from mambavl.cache.classes import Classes
from mambavl.configs import Config, model_in
from mambavl.configs.errors import UsageError, did_you_mean
from mambavl.fuse import older
from mambavl.fuse.attentive import AttentiveConfig, AttentiveFusion, AttentiveSettings
from mambavl.fuse.baselines import (
    MLPConfig,
    MLPFusion,
    TransformerConfig,
    TransformerFusion,
    TransformerSettings,
)
from mambavl.fuse.bidirectional import BidirectionalFusion
from mambavl.fuse.counts import COUNTS, Counts, CountsSettings
from mambavl.fuse.cross import CrossConfig, CrossFusion, CrossSettings
from mambavl.fuse.data import DataConfig, FeatureData, check_part
from mambavl.fuse.deep import DeepConfig, DeepFusion, DeepSettings
from mambavl.fuse.drawn import SECTIONS, has_points
from mambavl.fuse.fusion import FusionConfig, FusionSettings, SSMFusion, preset_of
from mambavl.fuse.head import Head, HeadConfig, HeadSettings, StreamShape, check_stream_name, routes
from mambavl.fuse.idle import OWN, Need, flatten, idle, own_sections, without
from mambavl.fuse.metrics import ranked_target
from mambavl.fuse.mixture import MixtureConfig, MixtureFusion, MixtureSettings
from mambavl.fuse.optimizer import TrainConfig, train_faults
from mambavl.fuse.published import figures_of
from mambavl.fuse.sources import StreamSource
from mambavl.fuse.targets import Pairs, RunTargets, TargetConfig, choose, pairs_of


class HeadName(Config):
    """The first key of [head]."""

    # which head is trained; counts: none, past actions are counted. What not all of them have is in sections:
    # [fusion] is for those with an SSM, mambavl, bidirectional, cross, mixture and deep
    name: Literal[
        "mambavl", "bidirectional", "cross", "mixture", "deep", "mlp", "transformer", "attentive", "counts"
    ] = "mambavl"


class HeadSection(HeadSettings, HeadName):
    """[head]: which head, and the settings that all heads have in common."""


class Recipe(Config):
    """All that decides a run. A head's own section is there where that head is trained, or is in the grid."""

    title: str = ""  # name of the run in tables and reports; empty: the name of its folder
    # published top-1 by target in percent, shown next to what is measured; or the name of a row that
    # `mambavl published` lists, which is read as its figures
    published: dict[str, float] = Field(default={})
    streams: dict[str, StreamSource]  # name of a stream -> where its features are
    # names of the streams to use; absent: all of [streams]. A grid over it gives video-only and text-only
    # controls
    use_streams: list[str] | None = None
    # names of the targets to train, such as verb; absent: all that the stores have labels for
    use_targets: list[str] | None = None
    targets: dict[str, TargetConfig] = Field(default={})  # name of a target -> how it is trained
    # for `mambavl sweep`: name of the target that points are compared by, by its top-1, or its mAP where a
    # row may have several classes; TARGET_mean_class_recall5: by that, as anticipation is; absent: the last
    # target, for EK100 action
    rank_by: str | None = None
    data: DataConfig = DataConfig()  # which rows are trained on and scored
    head: HeadSection = HeadSection()  # which head, and what all heads have in common
    fusion: FusionSettings | None = None  # settings of the heads with an SSM
    cross: CrossSettings | None = None  # settings of head cross alone, besides [fusion]
    mixture: MixtureSettings | None = None  # settings of head mixture alone, besides [fusion]
    deep: DeepSettings | None = None  # settings of head deep alone, besides [fusion]
    transformer: TransformerSettings | None = None  # settings of head transformer alone
    attentive: AttentiveSettings | None = None  # settings of head attentive alone
    counts: CountsSettings | None = None  # settings of head counts alone
    train: TrainConfig = TrainConfig()  # the optimiser and its schedule
    grid: dict[str, Any] = Field(default={})  # for `mambavl sweep`: keys of this recipe -> lists of values
    # for `mambavl sweep`: `points`, how many to draw, and `seed`; keys of this recipe -> lists of values, or
    # { low, high, log } of numbers
    random: dict[str, Any] = Field(default={})
    points: list[dict[str, Any]] = Field(default=[])  # for `mambavl sweep`: keys of this recipe -> a value
    # for `mambavl sweep`: `trials`, how many points to propose by how those before did, `seed`, and `prune`,
    # which gives up in the middle what is below the median; keys as of [random]. Needs select_on
    search: dict[str, Any] = Field(default={})
    # i/n, of a sweep's recipe: its points are trained without part i of n of train_split and compared
    # there (data.hold_out_by says whose rows are a part); the best is trained on all rows and scored once
    select_on: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, raw: Any) -> Any:
        """The head's own sections, where there are none, and what its preset gives to [head]. A recipe of an
        older form is refused; `older.recipe` is for those of runs.
        """
        if not isinstance(raw, dict):
            return raw
        refuse(raw, older.moved(raw))
        if isinstance(name := raw.get("published"), str):
            raw = {**raw, "published": _published(raw, name)}
        own, head = own_sections(raw), raw.get("head", {})
        anothers = {section for section in OWN.keys() - own if raw.get(section) == {}}
        raw = {key: value for key, value in raw.items() if key not in anothers}
        for section in own:
            raw.setdefault(section, {})
        if "fusion" in own and isinstance(raw["fusion"], dict) and isinstance(head, dict):
            raw["head"] = {**preset_of(raw["fusion"], HeadSettings.model_fields), **head}
        return raw

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
    def _selects_among_points(self, info: ValidationInfo) -> "Recipe":
        if self.select_on is not None:
            check_part(self.select_on)
            if not self.is_sweep and not (info.context and info.context.get("recorded")):
                raise ValueError("select_on chooses among the points of a [grid], and there is none")
        return self

    @field_validator("use_targets")
    @classmethod
    def _each_once(cls, names: list[str] | None) -> list[str] | None:
        if names and len(set(names)) < len(names):
            raise ValueError(f"names a target twice: {', '.join(names)}")
        return names

    @model_validator(mode="after")
    def _named_streams_exist(self) -> "Recipe":
        named = {
            "use_streams": self.use_streams or (),
            "data.require": self.data.require,
            "train.drop_streams": self.train.drop_streams,
            "train.feature_dropout": self.train.feature_dropout,
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
        faults = list(train_faults(self.train))
        if faults:
            raise ValueError(f"[train] {'; '.join(faults)}")
        return self

    @model_validator(mode="after")
    def _stops_by_held_out_rows(self, info: ValidationInfo) -> "Recipe":
        is_asked = not self.is_sweep and not (info.context and info.context.get("recorded"))
        if is_asked and self.train.stop_after and not self.data.hold_out:
            raise ValueError(
                f"train.stop_after = {self.train.stop_after} watches rows that are not trained on, and "
                "data.hold_out holds none out; set data.hold_out=0/5, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _keys_can_act(self, info: ValidationInfo) -> "Recipe":
        """A grid is checked point by point, by `grid.expand`. A key of the head's own sections may say its
        default where it cannot act: a resolved recipe has all of them.
        """
        if self.is_sweep or (info.context and info.context.get("recorded")):
            return self
        raw = self.model_dump(exclude_unset=True)
        given = flatten(raw)
        refuse(raw, {key: str(need) for key, need in idle(raw).items() if asks(key, given[key], need)})
        return self

    @property
    def is_sweep(self) -> bool:
        """Whether it stands for many runs."""
        return has_points({section: getattr(self, section) for section in SECTIONS})

    @property
    def own(self) -> dict[str, Any]:
        """The settings of its head that others do not have."""
        records = [getattr(self, section) for section, (_, heads) in OWN.items() if self.head.name in heads]
        return {key: value for record in records for key, value in record.model_dump().items()}

    @property
    def sources(self) -> dict[str, StreamSource]:
        """The streams in use."""
        return {n: s for n, s in self.streams.items() if self.use_streams is None or n in self.use_streams}

    def has_stores(self) -> bool:
        """Whether the stores of its streams are all there."""
        return all(store.exists() for source in self.sources.values() for store in source.stores)


# Keys that change no weight: names, what a sweep compares, how many rows without features are tolerated,
# where features are kept and when their bytes are checked, how often a run is scored and saved (scoring draws
# no random number, and the draws of an update depend on its place alone), what is kept in the end, who is
# told; and into how many parts a batch is divided, which like the number of processes changes rounding alone.
WITHOUT_WEIGHT = (
    "title",
    "published",
    "rank_by",
    "data.allow_missing",
    "data.resident",
    "data.verify",
    "train.accumulate",
    "train.eval_every",
    "train.checkpoint_every",
    "train.keep",
    "train.score_dtype",
    "train.trackers",
)


def what_decides(recipe: Recipe) -> dict[str, Any]:
    """The recipe as in its TOML file, defaults filled in, without what changes no weight or cannot act."""
    raw = recipe.model_dump(mode="json", exclude_none=True)
    when_to_stop = ("rank_by", "train.eval_every") if recipe.train.stop_after else ()
    harmless = [key for key in WITHOUT_WEIGHT if key not in when_to_stop]
    found = without(raw, [*harmless, *idle(raw)])
    targets = {name: TargetConfig.model_validate(keys) for name, keys in found["targets"].items()}
    return without(found, [f"targets.{name}" for name, one in targets.items() if one == TargetConfig()])


def asks(key: str, value: Any, need: Need) -> bool:
    """Whether a key that cannot act asks for something. One with its default does not, for a resolved recipe
    has all keys of the sections that its head reads; a section of another head is never read.
    """
    section, name, *rest = key.split(".")
    record = model_in(Recipe.model_fields[section].annotation)
    if section == "targets":  # name is a target's
        record, name = TargetConfig, rest[-1]
    assert record is not None  # NEEDS names keys of sections
    is_anothers = need.key == "head.name" and section in OWN
    return is_anothers or value != record.model_fields[name].default


def _published(raw: dict[str, Any], name: str) -> dict[str, float]:
    try:
        return figures_of(name)
    except ValueError as error:
        refuse(raw, {"published": str(error)})
        raise


def refuse(raw: dict[str, Any], faults: dict[str, str]) -> None:
    """Raises what pydantic takes for faults of these keys: `section.key` -> what is wrong with it."""
    values = flatten(raw)
    lines = [
        InitErrorDetails(
            type=PydanticCustomError("refused", fault), loc=tuple(key.split(".")), input=values.get(key, {})
        )
        for key, fault in faults.items()
    ]
    if lines:
        raise ValidationError.from_exception_data("Recipe", lines)


# `head.name` of a recipe -> its class, its config; of heads that are trained
HEADS: dict[str, tuple[type[Head], type[HeadConfig]]] = {
    "mambavl": (SSMFusion, FusionConfig),
    "bidirectional": (BidirectionalFusion, FusionConfig),
    "cross": (CrossFusion, CrossConfig),
    "mixture": (MixtureFusion, MixtureConfig),
    "deep": (DeepFusion, DeepConfig),
    "mlp": (MLPFusion, MLPConfig),
    "transformer": (TransformerFusion, TransformerConfig),
    "attentive": (AttentiveFusion, AttentiveConfig),
}


def build_head(recipe: Recipe, data: FeatureData, targets: RunTargets) -> Head:
    """The recipe's head for the stores' stream widths and the run's targets; seeded.

    Raises as `make_head` does.
    """
    return make_head(recipe, data.shapes, targets)


def run_targets(recipe: Recipe, data: FeatureData, trained: Classes | None = None) -> RunTargets:
    """What the recipe trains of the stores' targets. trained: the classes of a run that is scored again,
    whose classifiers keep their columns, and which has none for what other stores are labelled with besides.
    Raises UsageError for targets that the stores do not have.
    """
    classes, used = data.classes, recipe.use_targets
    pairs: dict[str, Pairs] = {}
    if any(config.ranked_by == "pairs" for config in recipe.targets.values()):
        pairs = pairs_of(classes, data.labels, data.train)
    if trained:
        # in the run's order, by which its targets are listed and the last of them ranks it
        targets = {name: classes.targets[name] for name in trained.targets}
        derived = {name: classes.derived[name] for name in trained.derived}
        classes = replace(
            classes, targets=targets | dict(classes.targets), derived=derived | dict(classes.derived)
        )
        pairs |= {name: derived.pairs for name, derived in trained.derived.items() if derived.pairs}
        used = list(trained.names) if used is None else used
    found = choose(classes, used, recipe.targets, pairs)
    if recipe.rank_by:
        _refuse_unmeasured(recipe.rank_by, found)
    return found


def _refuse_unmeasured(rank_by: str, targets: RunTargets) -> None:
    """Raises UsageError for a target, or a measure of one, that there is not."""
    name = ranked_target(rank_by)
    if name not in targets.classes.names:
        hint = did_you_mean(name, list(targets.classes.names))
        raise UsageError(f"rank_by = {rank_by}: no such target is measured{hint}")
    if name != rank_by and name in targets.classes.targets and targets.classes.targets[name].kind == "multi":
        raise UsageError(f"rank_by = {rank_by}: rows may have several classes there; write rank_by = {name}")


def _routes(recipe: Recipe, streams: Iterable[str], targets: RunTargets) -> dict[str, list[str]]:
    """Target with a classifier -> the streams that reach it; a derived one, those that reach its parts."""
    routing = recipe.head.question_routing
    given = {name: config.streams for name, config in recipe.targets.items() if config.streams is not None}
    derived = {name: one for name, one in targets.classes.derived.items() if name in targets.outputs}
    direct = [name for name in targets.outputs if name not in derived or name in given]
    found = routes(streams, direct, routing, given, untrained=targets.known)
    for name in derived.keys() - found.keys():
        parts = routes(streams, derived[name].of, routing, given, untrained=targets.known)
        found[name] = [stream for stream in streams if any(stream in reached for reached in parts.values())]
    return {name: found[name] for name in targets.outputs}


def make_head(recipe: Recipe, streams: dict[str, StreamShape], targets: RunTargets) -> Head:
    """The recipe's head for streams of these widths and classifiers of these targets, seeded. Raises
    UsageError where the head cannot be built for these streams.
    """
    if recipe.head.name == COUNTS:
        return Counts(streams, targets)
    head, kind = HEADS[recipe.head.name]
    torch.manual_seed(recipe.train.seed)
    settings = recipe.head.model_dump(exclude={"name"}) | recipe.own
    from_stores = {"streams": streams, "targets": dict(targets.outputs)}
    from_stores["routes"] = _routes(recipe, streams, targets)
    return head(kind.model_validate({**settings, **from_stores}))
