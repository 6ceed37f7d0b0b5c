"""Counting in place of learning: what usually follows the actions that were done before.

    P_s(d | h)  = (n(h, d) + prior(d)) / (n(h) + 1)
    score(d)    = log mean_s [ sum_j w_j P_s(d | h_j) / sum_j w_j ] - exponent log prior(d),  w_j = decay^j

h_j is what a row's past action, the j-th before the last, is in the source s: its verb, its noun, or, where
the recipe ranks actions by `pairs`, both together. n(h, d) counts the training rows of class d with h in
their past, each with its weight w_j. decay and exponent are each target's own; an exponent above 0 favours
rare classes, as class-mean recall does. There is a score for each target with a column, and no gradient.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn

from mambavl.configs import Config
from mambavl.configs.errors import UsageError
from mambavl.fuse.data import check_part
from mambavl.fuse.head import Head, HeadConfig, Streams, StreamShape, check_streams
from mambavl.fuse.targets import RunTargets

COUNTS = "counts"  # `head.name` of a recipe
PARTS = ("verb", "noun")  # what a token of a past action holds one after another, each one-hot; then its age


class CountsSettings(Config):
    """[counts] of a recipe: what is compared to choose each target's decay and exponent."""

    # i/n: part i of n nearly equal parts of the training rows, by participant; counts of the others are
    # compared on it by class-mean recall@5, and the best are then made of all training rows
    choose_on: str = "0/5"
    # weights of an action against that of the one after it, to choose from
    decays: list[float] = Field(default=[1.0, 0.9, 0.8, 0.7, 0.5], min_length=1)
    # powers of the prior that scores are divided by, to choose from
    exponents: list[float] = Field(default=[0.0, 0.25, 0.5, 0.75, 1.0], min_length=1)

    @field_validator("choose_on")
    @classmethod
    def _part_of_some(cls, value: str) -> str:
        check_part(value)
        return value

    @field_validator("decays")
    @classmethod
    def _weights(cls, values: list[float]) -> list[float]:
        if not all(0 < value <= 1 for value in values):
            raise ValueError("a decay is above 0 and at most 1")
        return values


class Past(NamedTuple):
    """The past actions of B rows, L at most."""

    ids: dict[str, Tensor]  # source -> (B, L) its class; -1: no action, or a pair that no training row shows
    lag: Tensor  # (B, L) 0 for the last action, 1 for the one before; -1: no action

    def of(self, rows: np.ndarray) -> "Past":
        return Past({name: ids[rows] for name, ids in self.ids.items()}, self.lag[rows])


class Counts(Head):
    """The tables of counts, and what they say of a row's past."""

    def __init__(self, streams: Mapping[str, StreamShape], targets: RunTargets) -> None:
        """Raises UsageError for other streams than one of past classes, and for other targets than verbs,
        nouns and pairs of them.
        """
        nn.Module.__init__(self)  # of the base's parts, projections and classifiers, it has none
        self.config = HeadConfig(streams=dict(streams), targets=dict(targets.outputs))
        self.routes = {name: list(streams) for name in targets.outputs}
        self.sizes = {name: targets.classes.targets[name].count for name in PARTS if name in targets.outputs}
        width = sum(self.sizes.values()) + 1
        if len(self.sizes) < len(PARTS) or [one.width for one in streams.values()] != [width]:
            found = ", ".join(f"{name} of {one.width} channels" for name, one in streams.items())
            raise UsageError(
                f"head counts reads one stream of past verbs and nouns ({width} channels, encoder classes of "
                f"`mambavl extract history`), and the recipe has {found}; name it in use_streams"
            )
        self.pairs = {
            name: targets.classes.derived[name].pairs for name in targets.outputs.keys() - self.sizes
        }
        for name, pairs in self.pairs.items():
            if targets.classes.derived[name].of != PARTS or pairs is None:
                raise UsageError(f"head counts knows verbs, nouns and pairs of them, and not {name}")
            column = torch.full((self.sizes["verb"] * self.sizes["noun"],), -1)
            verb, noun = torch.tensor(pairs).T
            column[verb * self.sizes["noun"] + noun] = torch.arange(len(pairs))
            self.register_buffer(f"{name}_column", column, persistent=False)
        self.tables = nn.ParameterDict()  # probabilities (classes of the source, columns)
        for source, size in targets.outputs.items():
            for target, columns in targets.outputs.items():
                self.tables[f"{target}_after_{source}"] = _constant(torch.zeros(size, columns))
        outputs = targets.outputs.items()
        self.prior = nn.ParameterDict({name: _constant(torch.zeros(columns)) for name, columns in outputs})
        self.decay = nn.ParameterDict({name: _constant(torch.ones(())) for name in targets.outputs})
        self.exponent = nn.ParameterDict({name: _constant(torch.zeros(())) for name in targets.outputs})

    @property
    def classifiers(self) -> dict[str, nn.Linear]:
        return {}

    def past(self, streams: Streams) -> Past:
        """What the tokens (B, L, verbs + nouns + 1) of past actions hold."""
        check_streams(streams, self.config.streams)
        ((tokens, lengths),) = streams.values()
        place = torch.arange(tokens.shape[1], device=tokens.device)
        lag = torch.where(place < lengths[:, None], lengths[:, None] - 1 - place, -1)
        verbs = self.sizes["verb"]
        ids = {"verb": _class_of(tokens[..., :verbs]), "noun": _class_of(tokens[..., verbs:-1])}
        for name in self.pairs:
            column = self.get_buffer(f"{name}_column")
            ids[name] = column[ids["verb"] * self.sizes["noun"] + ids["noun"]]
        return Past({name: torch.where(lag >= 0, ids[name], -1) for name in self.config.targets}, lag)

    def count(
        self,
        past: Past,
        labels: Mapping[str, np.ndarray],
        decay: Mapping[str, float],
        exponent: Mapping[str, float],
    ) -> None:
        """Fill the tables from some rows. labels: target -> (B,) its column, -1 for none."""
        lag = past.lag.numpy()
        for target, columns in self.config.targets.items():
            label = np.broadcast_to(labels[target][:, None], lag.shape)
            known = labels[target][labels[target] >= 0]
            prior = (np.bincount(known, minlength=columns) + 1.0) / (len(known) + columns)
            weight = np.power(decay[target], lag)
            for source, size in self.config.targets.items():
                ids = past.ids[source].numpy()
                seen = (ids >= 0) & (label >= 0)
                cells = ids[seen].astype(np.int64) * columns + label[seen]
                found = np.bincount(cells, weight[seen], size * columns).reshape(size, columns)
                found = (found + prior) / (found.sum(1, keepdims=True) + 1.0)
                _fill(self.tables[f"{target}_after_{source}"], found)
            _fill(self.prior[target], prior)
            _fill(self.decay[target], np.array(decay[target]))
            _fill(self.exponent[target], np.array(exponent[target]))

    def log_means(self, past: Past, target: str) -> Tensor:
        """(B, columns): the logarithm of the mean over sources, without the exponent's part."""
        weight = torch.where(past.lag >= 0, self.decay[target] ** past.lag.clamp(min=0), 0.0)
        means: list[Tensor] = []
        for source in self.config.targets:
            ids = past.ids[source]
            own = torch.where(ids >= 0, weight, 0.0)
            table = self.tables[f"{target}_after_{source}"]
            summed = F.embedding_bag(ids.clamp(min=0), table, per_sample_weights=own, mode="sum")
            whole = own.sum(1, keepdim=True)
            means.append(torch.where(whole > 0, summed / whole.clamp(min=1e-9), self.prior[target]))
        return torch.stack(means).mean(0).log()

    def forward(
        self, streams: Streams, keys: Tensor | None = None, shares: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Scores (B, columns) by target; keys and shares are of training, which this has none of."""
        past = self.past(streams)
        return {name: self.scores(self.log_means(past, name), name) for name in self.config.targets}

    def scores(self, log_means: Tensor, target: str, exponent: float | None = None) -> Tensor:
        """(B, columns), by the exponent of the target or another."""
        power = self.exponent[target] if exponent is None else exponent
        return log_means - power * self.prior[target].log()


def _class_of(one_hot: Tensor) -> Tensor:
    """(B, L, classes) -> (B, L)."""
    return one_hot.argmax(-1) if one_hot.shape[1] else torch.zeros(one_hot.shape[:2], dtype=torch.long)


def _constant(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=False)


def _fill(parameter: nn.Parameter, values: np.ndarray) -> None:
    parameter.data.copy_(torch.from_numpy(np.asarray(values)))


def joined(parts: Sequence[Past], longest: int) -> Past:
    """Batches of rows as one; longest: actions of the row with the most."""

    def wide(ids: Tensor) -> Tensor:
        return F.pad(ids, (0, longest - ids.shape[1]), value=-1)

    ids = {name: torch.cat([wide(part.ids[name]) for part in parts]) for name in parts[0].ids}
    return Past(ids, torch.cat([wide(part.lag) for part in parts]))
