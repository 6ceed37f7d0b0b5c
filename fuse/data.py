"""Feature stores -> batches for a head: streams joined by narration_id, labels, splits, and the training prior.

The stores' rows are joined once, by name; a batch is then a gather from memory-mapped files. The order of an epoch is a pure
function of (seed, epoch), so a restart continues it exactly and any number of processes sees the same global batches.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from mambavl.cache import FeatureStore, open_store, schema
from mambavl.cache.schema import Classes, Segment
from mambavl.configs import Config
from mambavl.configs.errors import DataError, UsageError
from mambavl.fuse.fusion import Streams, StreamShape, modality_of

MISMATCHES_SHOWN = 10


class StreamSource(Config):
    """Where a stream's features come from: one store, or several of the same recipe (train and validation halves, say)."""

    store: Path | tuple[Path, ...]
    level: str = "frame"
    modality: str = ""  # absent: `text` for questions, else the stream's own name

    @field_validator("store", mode="before")
    @classmethod
    def _path_or_paths(cls, value: Any) -> Any:
        paths = value if isinstance(value, (list, tuple)) else [value]
        if not paths or not all(isinstance(path, (str, Path)) and str(path) for path in paths):
            raise ValueError("expected the path of a store, or a list of such paths")
        return value

    @property
    def stores(self) -> tuple[Path, ...]:
        return self.store if isinstance(self.store, tuple) else (self.store,)


class DataConfig(Config):
    """Which rows are trained on and scored."""

    train_split: str = "train"
    eval_split: str = "validation"
    allow_missing: int = Field(default=0, ge=0)  # rows without features (failed, not empty windows) that are tolerated


@dataclass(frozen=True)
class _Stream:
    """One stream's stores, and where each joined row lies in them."""

    stores: tuple[FeatureStore, ...]
    level: str
    store_of: np.ndarray  # (rows,) which store
    row_of: np.ndarray  # (rows,) which row of it
    status: np.ndarray  # (rows,)


class FeatureData:
    """All rows of all streams, in canonical order; `batch` gathers any of them."""

    def __init__(self, sources: dict[str, StreamSource], config: DataConfig, *, training: bool = True) -> None:
        """`training=False` opens rows to be scored only: the stores need not hold a training split."""
        if not sources:
            raise UsageError("the recipe has no [streams.…]; name at least one, such as [streams.video]")
        self.sources = sources
        opened = {name: _open(name, source) for name, source in sources.items()}
        reference = next(iter(opened.values()))
        self.segments: tuple[Segment, ...] = tuple(segment for store in reference for segment in store.segments)
        self.classes: Classes = reference[0].classes
        ids = {segment.narration_id: row for row, segment in enumerate(self.segments)}
        self._check_joined(ids, opened)
        self.streams = {name: self._join(ids, opened[name], sources[name].level) for name in sources}
        self.verb = _labels(self.segments, "verb_class")
        self.noun = _labels(self.segments, "noun_class")
        self.split = np.array([segment.split for segment in self.segments])
        unseen = set(self.classes.unseen_participants)
        self.unseen = np.array([segment.participant_id in unseen for segment in self.segments])
        statuses = np.stack([stream.status for stream in self.streams.values()])
        self.usable = (statuses == schema.OK).all(0)
        self._check_missing(statuses, config)
        self.train = self._rows(config.train_split, labelled=True, usable_only=True) if training else np.empty(0, np.int64)
        self.text_protocol = self._protocol()
        self.evaluation = self._rows(config.eval_split, labelled=False, usable_only=False)

    def __len__(self) -> int:
        return len(self.segments)

    @property
    def shapes(self) -> dict[str, StreamShape]:
        """What a head needs to know of the streams."""
        return {
            name: StreamShape(
                width=stream.stores[0].levels[stream.level].width,
                modality=self.sources[name].modality or modality_of(name),
            )
            for name, stream in self.streams.items()
        }

    @property
    def provenance(self) -> dict[str, dict[str, Any]]:
        """By stream: what a result has to name: stores, spec, encoder and its weights, questions and their protocol."""
        found = {}
        for name, stream in self.streams.items():
            recipe = stream.stores[0].spec["recipe"]
            found[name] = {
                "stores": [str(store.path) for store in stream.stores],
                "store_ids": [store.store_id for store in stream.stores],
                "level": stream.level,
                **{key: recipe[key] for key in ("encoder", "questions", "sampling") if key in recipe},
            }
        return found

    def _protocol(self) -> str:
        """oracle, predicted, generic or none (empty texts); `absent` where no stream is text."""
        protocols = {entry["questions"]["protocol"] for entry in self.provenance.values() if "questions" in entry}
        if len(protocols) > 1:
            raise DataError(f"the text streams were made under different protocols: {', '.join(sorted(protocols))}")
        return protocols.pop() if protocols else "absent"

    def batch(self, rows: np.ndarray, device: torch.device | str = "cpu") -> Streams:
        """stream -> (tokens (B, L, D) float32, lengths (B,)) of some rows, in the order given."""
        return {name: self._gather(stream, rows, device) for name, stream in self.streams.items()}

    def labels(self, rows: np.ndarray, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """(verb (B,), noun (B,)) int64."""
        return torch.from_numpy(self.verb[rows]).to(device), torch.from_numpy(self.noun[rows]).to(device)

    def log_prior(self) -> tuple[np.ndarray, np.ndarray]:
        """Log-probabilities (verbs,), (nouns,) of the training labels, float64; one is added to each count."""
        counts = (
            np.bincount(self.verb[self.train], minlength=self.classes.num_verbs) + 1.0,
            np.bincount(self.noun[self.train], minlength=self.classes.num_nouns) + 1.0,
        )
        return np.log(counts[0] / counts[0].sum()), np.log(counts[1] / counts[1].sum())

    def _gather(self, stream: _Stream, rows: np.ndarray, device: torch.device | str) -> tuple[Tensor, Tensor]:
        if len(stream.stores) == 1:
            tokens, lengths = stream.stores[0].batch(stream.row_of[rows], stream.level)
            return tokens.to(device).float(), lengths.to(device)
        parts = [(np.flatnonzero(stream.store_of[rows] == number), store) for number, store in enumerate(stream.stores)]
        found = [(where, *store.batch(stream.row_of[rows[where]], stream.level)) for where, store in parts if len(where)]
        tokens = torch.zeros(len(rows), max(t.shape[1] for _, t, _ in found), found[0][1].shape[2])
        lengths = torch.zeros(len(rows), dtype=torch.int64)
        for where, part, part_lengths in found:
            tokens[torch.from_numpy(where), : part.shape[1]] = part.float()
            lengths[torch.from_numpy(where)] = part_lengths
        return tokens.to(device), lengths.to(device)

    def _rows(self, split: str, *, labelled: bool, usable_only: bool) -> np.ndarray:
        mask = self.split == split
        if not mask.any():
            raise UsageError(f"no row of the stores belongs to split {split!r}; they hold {', '.join(sorted(set(self.split)))}")
        if labelled:
            mask &= (self.verb >= 0) & (self.noun >= 0)
        rows = np.flatnonzero(mask & self.usable if usable_only else mask)
        if not len(rows):
            raise DataError(f"split {split!r} has no row with features and labels")
        return rows

    def _check_joined(self, ids: dict[str, int], opened: dict[str, tuple[FeatureStore, ...]]) -> None:
        if len(ids) < len(self.segments):
            raise DataError(f"stream {next(iter(opened))}: its stores hold the same narration_id twice")
        for name, stores in opened.items():
            own = [segment.narration_id for store in stores for segment in store.segments]
            first = next(iter(opened))
            lacking, extra = sorted(ids.keys() - set(own)), sorted(set(own) - ids.keys())
            for missing, there, absent in ((lacking, first, name), (extra, name, first)):
                if missing:
                    shown = ", ".join(missing[:MISMATCHES_SHOWN])
                    raise DataError(
                        f"{len(missing)} rows are in stream {there} and not in stream {absent}: {shown}"
                        f"{', ...' if missing[MISMATCHES_SHOWN:] else ''}; extract both from the same annotations and splits"
                    )
            for store in stores:
                if store.classes != self.classes:
                    raise DataError(
                        f"{store.path}: its classes differ from those of stream {first}; extract both from the same files"
                    )

    def _join(self, ids: dict[str, int], stores: tuple[FeatureStore, ...], level: str) -> _Stream:
        rows = len(self.segments)
        store_of, row_of = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
        status = np.zeros(rows, np.uint8)
        for number, store in enumerate(stores):
            where = np.array([ids[segment.narration_id] for segment in store.segments])
            for row, segment in zip(where, store.segments, strict=True):
                mine = self.segments[row]
                if (segment.verb_class, segment.noun_class, segment.split) != (
                    mine.verb_class,
                    mine.noun_class,
                    mine.split,
                ):
                    raise DataError(
                        f"{store.path}: row {segment.narration_id} has other labels or another split than the first stream's"
                    )
            store_of[where], row_of[where], status[where] = number, np.arange(len(store)), store.status
        return _Stream(stores, level, store_of, row_of, status)

    def _check_missing(self, statuses: np.ndarray, config: DataConfig) -> None:
        failed = ((statuses != schema.OK) & (statuses != schema.EMPTY_WINDOW)).any(0)
        failed &= np.isin(self.split, [config.train_split, config.eval_split])
        self.failed = int(failed.sum())
        if self.failed > config.allow_missing:
            first = int(np.flatnonzero(failed)[0])
            worst = next(int(s) for s in statuses[:, first] if s not in (schema.OK, schema.EMPTY_WINDOW))
            raise DataError(
                f"{self.failed} rows have no features (first: {self.segments[first].narration_id}, {schema.STATUS[worst]}); "
                f"extract them, or accept it with --set data.allow_missing={self.failed}"
            )


def _open(name: str, source: StreamSource) -> tuple[FeatureStore, ...]:
    stores = tuple(open_store(path) for path in source.stores)
    for store in stores:
        store.layout.level(source.level)
        faults = schema.differences(stores[0].spec["recipe"], store.spec["recipe"])
        faults += schema.differences(stores[0].spec["levels"][0]["dtype"], store.spec["levels"][0]["dtype"], "dtype")
        if faults:
            raise DataError(
                f"stream {name}: {store.path} and {stores[0].path} were made by different recipes and never mix:\n  "
                + "\n  ".join(faults[:20])
            )
    return stores


def _labels(segments: tuple[Segment, ...], column: str) -> np.ndarray:
    """(rows,) int64; -1 where the data set gives no label."""
    return np.array([-1 if (label := getattr(segment, column)) is None else label for segment in segments], np.int64)


def epoch_batches(rows: np.ndarray, batch_size: int, seed: int, epoch: int) -> Iterator[np.ndarray]:
    """The global batches of an epoch, a pure function of its arguments; the last one may be smaller."""
    order = np.random.default_rng([seed, epoch]).permutation(rows)
    for first in range(0, len(order), batch_size):
        yield order[first : first + batch_size]
