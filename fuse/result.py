"""result.json as a record: what was measured, and what it must be read with.

    Result
      title, head, seed, epochs, recipe, params     which run
      split, rows, metrics, prior_metrics           what was measured, on which rows
      streams: StreamProvenance, text_protocol, history_protocol, notice      what the head was fed
      trained: Trained, scored: Scored              what ran: who trained the head, who scored it last
      selection: Selection                          what it was chosen among, and on which rows
      fused: Fused                                  of scores of several runs: which, and how they were mixed

`Result.from_dict(found).to_dict() == found` for every result.json of this version; `older.result` brings
those of older ones into its form.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self, TypeVar

from mambavl.cache.spec import EncoderIdentity, FeatureRecipe
from mambavl.configs.errors import UsageError
from mambavl.fuse.fused_record import Fused
from mambavl.fuse.metrics import ranked_target

Value = TypeVar("Value")
Metrics = dict[str, float | None]  # by name, as `metrics.evaluate` gives them; None: no row to measure on

RECIPE_PARTS = ("encoder", "questions", "sampling", "pixels", "boxes", "history")  # of a store's recipe


@dataclass(frozen=True, kw_only=True)
class StreamProvenance:
    """Where the features of a stream came from."""

    stores: tuple[str, ...]  # paths
    store_ids: tuple[str, ...]
    level: str
    class_token: bool
    views: int
    recipe: FeatureRecipe  # RECIPE_PARTS of what made the stores

    @property
    def encoder(self) -> EncoderIdentity:
        """What made the features; `unknown` where the stores do not say."""
        return self.recipe.encoder or EncoderIdentity(name="unknown", state="unknown")

    def to_dict(self) -> dict[str, Any]:
        return {
            "stores": list(self.stores),
            "store_ids": list(self.store_ids),
            "level": self.level,
            "class_token": self.class_token,
            "views": self.views,
            **self.recipe.to_dict(),
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """Raises ValueError, naming the key, where one is missing or of another type."""
        return cls(
            stores=tuple(_get(raw, "stores", list)),
            store_ids=tuple(_get(raw, "store_ids", list)),
            level=_get(raw, "level", str),
            class_token=_get(raw, "class_token", bool),
            views=_get(raw, "views", int),
            recipe=FeatureRecipe.from_dict({key: raw[key] for key in RECIPE_PARTS if key in raw}),
        )


@dataclass(frozen=True, kw_only=True)
class Rows:
    """How many rows were scored."""

    scored: int
    scored_by_prior: int  # without features: they got the training prior
    failed: int  # without features, although their windows were not empty
    missing: dict[str, int] | None = None  # stream -> rows without it; None where it was not counted


@dataclass(frozen=True, kw_only=True)
class Params:
    """Trainable parameters of the head."""

    total: int
    without_classifiers: int


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What ran: recorded, never compared."""

    mambavl: str | None = None
    commit: str | None = None  # of the checkout; None where git does not track it
    python: str | None = None
    torch: str | None = None
    accelerate: str | None = None
    device: str | None = None  # name of the GPU, or `cpu`


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What trained the head, in the process that finished it. Scoring it again changes none of this; only
    `precision` is known of a run whose first result was lost.
    """

    environment: Environment | None = None  # None: not recorded
    scan_backend: str | None = None  # None: not recorded, or a head without a scan
    precision: str  # `fp32` or `bf16`
    train_rows: int | None = None
    train_seconds: float | None = None  # that updates took, also before an interrupt
    processes: int | None = None
    missing: dict[str, int] | None = None  # stream -> rows trained on without it
    stopped: int | None = None  # epochs after which train.stop_after ended it; None: it went to its end
    together: int | None = None  # runs that were trained in one pass over the data, this one among them


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What computed the scores that the result is of."""

    environment: Environment
    scan_backend: str | None  # None: a head without a scan
    precision: str  # that of training


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A sweep chose the run's recipe, on rows that are not those it is scored on."""

    among: int  # candidates that were compared; points that differ in their seed alone are one
    failed: int  # candidates besides that could not be: a point of theirs failed
    on: str  # rows they were compared on, as `split` names them: `train_0_of_5`
    by: str  # measure they were compared by, a mean over seeds
    score: float  # of the one that was chosen
    pruned: int = 0  # candidates besides that a search gave up, by the same rows

    @property
    def in_words(self) -> str:
        left_out = f"; {self.failed} more could not be compared" if self.failed else ""
        left_out += f"; {self.pruned} more were pruned by the same rows" if self.pruned else ""
        return (
            f"chosen among {self.among} on {self.on}, by {spoken(self.by)} ({self.score:.1f} there){left_out}"
        )


@dataclass(frozen=True, kw_only=True)
class Result:
    """A finished run, scored on one split; or the scores of several runs as one."""

    title: str
    head: str
    split: str
    text_protocol: str  # `oracle`, `predicted`, `generic`, `none`; `unknown`; `absent`: no text stream
    history_protocol: str = "absent"  # `oracle`, `predicted`; `absent`: no stream of past actions
    notice: str | None  # what must be said whenever the result is shown
    streams: dict[str, StreamProvenance]
    targets: tuple[str, ...]  # what was measured, in the order of the stores; derived targets last
    metrics: Metrics
    prior_metrics: Metrics  # of guessing the training prior on every row
    rows: Rows
    params: Params
    seed: int
    epochs: int
    recipe: dict[str, Any]  # the resolved recipe, as its TOML file has it; of fused scores `runs`, a list
    trained: Trained
    scored: Scored
    selection: Selection | None = None  # None: no sweep chose it
    fused: Fused | None = None  # None: the scores of one run

    @property
    def protocols(self) -> str:
        """What the head was told and by whom, for people: `generic`, `absent, oracle history`."""
        history = "" if self.history_protocol == "absent" else f", {self.history_protocol} history"
        return self.text_protocol + history

    @property
    def task(self) -> str | None:
        """What its streams were extracted for, recognition or anticipation; past actions alone are for the
        second. None: they do not say.
        """
        samplings = [stream.recipe.sampling for stream in self.streams.values() if stream.recipe.sampling]
        found = [str(one["task"]) for one in samplings if "task" in one]
        return found[0] if found else "anticipation" if self.history_protocol != "absent" else None

    @property
    def main_measure(self) -> str:
        """The measure that the run is ranked by, as its recipe says."""
        return self.measure_of(self.recipe.get("rank_by"))

    def measure_of(self, rank_by: str | None) -> str:
        """A target's top-1 over all rows, or its mAP; None: that of the last target. A derived one, such as
        EK100's action, is the last. rank_by: a target, or with it a measure (`metrics.ranked_target`).
        """
        name = rank_by or self.targets[-1]
        if ranked_target(name) != name:
            return f"all_{name}"
        return f"all_{name}_map" if f"all_{name}_map" in self.metrics else f"all_{name}_top1"

    @property
    def published(self) -> dict[str, float]:
        """Published top-1 by target, as the recipe gives it; often nothing."""
        return self.recipe.get("published", {})

    @property
    def shared(self) -> str | None:
        """What MambaVL's head shares between modalities; None for the other heads."""
        return self.recipe["fusion"]["share"] if self.head == "mambavl" else None

    def to_dict(self) -> dict[str, Any]:
        found = {part.name: getattr(self, part.name) for part in fields(self)}
        for key in ("rows", "params", "trained", "scored"):
            found[key] = asdict(found[key])
        streams = {name: stream.to_dict() for name, stream in self.streams.items()}
        chosen = self.selection and asdict(self.selection)
        fused = found.pop("fused")
        found |= {"streams": streams, "targets": list(self.targets), "selection": chosen}
        return found | ({"fused": fused.to_dict()} if fused else {})

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """Raises ValueError, naming the key, where one is missing or of another type."""
        streams, rows, params, trained, scored = (
            _get(raw, key, dict) for key in ("streams", "rows", "params", "trained", "scored")
        )
        chosen = raw.get("selection")
        return cls(
            title=_get(raw, "title", str),
            head=_get(raw, "head", str),
            split=_get(raw, "split", str),
            text_protocol=_get(raw, "text_protocol", str),
            history_protocol=_get(raw, "history_protocol", str),
            notice=raw.get("notice"),
            streams={name: StreamProvenance.from_dict(stream) for name, stream in streams.items()},
            targets=tuple(_get(raw, "targets", list)),
            metrics=_get(raw, "metrics", dict),
            prior_metrics=_get(raw, "prior_metrics", dict),
            rows=Rows(
                scored=_get(rows, "scored", int),
                scored_by_prior=_get(rows, "scored_by_prior", int),
                failed=_get(rows, "failed", int),
                missing=rows.get("missing"),
            ),
            params=Params(**{part.name: _get(params, part.name, int) for part in fields(Params)}),
            seed=_get(raw, "seed", int),
            epochs=_get(raw, "epochs", int),
            recipe=_get(raw, "recipe", dict),
            trained=Trained(
                environment=_environment(trained) if trained.get("environment") else None,
                scan_backend=trained.get("scan_backend"),
                precision=_get(trained, "precision", str),
                train_rows=trained.get("train_rows"),
                train_seconds=trained.get("train_seconds"),
                processes=trained.get("processes"),
                missing=trained.get("missing"),
                stopped=trained.get("stopped"),
                together=trained.get("together"),
            ),
            scored=Scored(
                environment=_environment(scored),
                scan_backend=scored.get("scan_backend"),
                precision=_get(scored, "precision", str),
            ),
            selection=None if chosen is None else selection_of(chosen),
            fused=Fused.from_dict(raw["fused"]) if raw.get("fused") else None,
        )


def task_of(result: Result, asked: str | None, run: Path | str) -> str:
    """The run's, or where its streams do not say it, what was asked for. Raises UsageError where nobody says
    it, and where they say another.
    """
    if result.task is None and asked is None:
        raise UsageError(f"{run}: its stores do not say what they were extracted for; say it with --task")
    if result.task and asked and result.task != asked:
        raise UsageError(f"{run}: --task {asked}: its streams were extracted for {result.task}")
    return result.task or str(asked)


def spoken(measure: str) -> str:
    """A measure over all rows as people say it: `all_action_top1` -> `action top-1`."""
    name = measure.removeprefix("all_")
    if (target := ranked_target(name)) != name:
        return f"{target} mean class recall@5"
    target, _, kind = name.rpartition("_")
    return f"{target} {'mAP' if kind == 'map' else 'top-1'}"


def selection_of(raw: Mapping[str, Any]) -> Selection:
    """Raises ValueError, naming the key, where one is missing or of another type."""
    return Selection(
        among=_get(raw, "among", int),
        failed=_get(raw, "failed", int),
        on=_get(raw, "on", str),
        by=_get(raw, "by", str),
        score=_get(raw, "score", float),
        pruned=_get({"pruned": 0, **raw}, "pruned", int),
    )


def _environment(raw: Mapping[str, Any]) -> Environment:
    found = _get(raw, "environment", dict)
    return Environment(**{part.name: found.get(part.name) for part in fields(Environment)})


def _get(raw: Mapping[str, Any], key: str, kind: type[Value]) -> Value:
    if key not in raw:
        raise ValueError(f"it has no {key}")
    value = raw[key]
    if not isinstance(value, kind):
        raise ValueError(f"{key} is {value!r}")
    return value
