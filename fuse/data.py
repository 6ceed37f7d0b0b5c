"""Feature stores -> batches for a head: streams joined by narration_id, labels, splits, the training prior.

The stores' rows are joined once, by name; a batch is then a gather from memory-mapped files. The order of an
epoch is a pure function of (seed, epoch), so a restart continues it exactly and any number of processes sees
the same global batches.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from mambavl.cache import Joined, join
from mambavl.cache.classes import Classes, RowGroup
from mambavl.cache.rows import OK, Segment
from mambavl.cache.shards import Level
from mambavl.cache.sources import Resident, Verify
from mambavl.cache.spec import FeatureRecipe
from mambavl.configs import Config
from mambavl.configs.errors import DataError, UsageError
from mambavl.fuse import notices
from mambavl.fuse.head import Streams, StreamShape, modality_of
from mambavl.fuse.missing import Table, describe_failed, failed_rows, spread, usable_rows
from mambavl.fuse.result import RECIPE_PARTS, StreamProvenance
from mambavl.fuse.sources import Opened, StreamSource, last_tokens, open_stores, refuse_longer_past
from mambavl.fuse.targets import is_labelled, read_labels


class DataConfig(Config):
    """Which rows are trained on and scored."""

    train_split: str = "train"  # name of the split that is trained on
    eval_split: str = "validation"  # name of the split that is scored
    # a row without features in some stream (no sound, no text, an empty window). refuse: it is not trained on
    # and is scored by the training prior; mask: it is trained on and scored without that stream
    missing: Literal["refuse", "mask"] = "refuse"
    # of mask: names of streams without which a row is not trained on and is scored by the prior all the same
    require: list[str] = Field(default=[])
    # rows of the two splits for which the prior is all there is, tolerated; an empty window is not counted
    allow_missing: int = Field(default=0, ge=0)
    # i/n: part i (from 0) of n nearly equal parts of train_split is not trained on, and is scored in place of
    # eval_split
    hold_out: str | None = None
    hold_out_by: Literal["participant", "video"] = "participant"  # whose rows never lie in two parts
    # train on oracle text in anticipation, where it names the answer: an upper bound, refused without this
    allow_oracle: bool = False
    # where features are kept. mmap: in memory-mapped files; ram: in memory; device: in the GPU's memory
    resident: Resident = "mmap"
    # what is checked. open: sizes and the manifest, when a store is opened; read: also every checksum, as it
    # is read; none: neither
    verify: Verify = "open"

    @field_validator("hold_out")
    @classmethod
    def _part_of_some(cls, value: str | None) -> str | None:
        if value is not None:
            check_part(value)
        return value

    def required(self, streams: Iterable[str]) -> list[str]:
        """Those of the streams without which a row is not used."""
        return [name for name in streams if self.missing == "refuse" or name in self.require]

    @property
    def held_out(self) -> tuple[int, int] | None:
        """`hold_out` as numbers: (i, n)."""
        if self.hold_out is None:
            return None
        part, parts = self.hold_out.split("/")
        return int(part), int(parts)

    @property
    def scored(self) -> str:
        """What is scored, as results and files of scores name it: a split, or `train_0_of_5` for what was
        held out of it.
        """
        if self.hold_out is None:
            return self.eval_split
        return f"{self.train_split}_{self.hold_out.replace('/', '_of_')}"


class FeatureData:
    """All rows of all streams, in canonical order; `batch` gathers any of them."""

    def __init__(
        self,
        sources: dict[str, StreamSource],
        config: DataConfig,
        *,
        training: bool = True,
        device: torch.device | str = "cpu",
        opened: Opened | None = None,
    ) -> None:
        """`training=False` opens rows to be scored only: the stores need not hold a training split. device:
        batches go there. opened: stores that are open already, as of `open_stores`.
        """
        if not sources:
            raise UsageError("the recipe has no [streams.…]; name at least one, such as [streams.video]")
        self.sources = sources
        self.device = torch.device(device)
        opened = {} if opened is None else opened
        self._joined: Joined = join(
            {
                name: open_stores(name, source, config.resident, config.verify, self.device, opened)
                for name, source in sources.items()
            }
        )
        self.segments: tuple[Segment, ...] = self._joined.segments
        self.classes: Classes = self._joined.classes
        self.streams = self._joined.streams
        self._levels = {
            name: stream.stores[0].levels[sources[name].level] for name, stream in self.streams.items()
        }
        self.views = _views(self._levels)
        self.labels = read_labels(self.segments, self.classes)
        self.split = np.array([segment.split for segment in self.segments])
        self.groups = {name: in_group(self.segments, group) for name, group in self.classes.groups.items()}
        statuses = {name: stream.status for name, stream in self.streams.items()}
        self.has: Table = {name: status == OK for name, status in statuses.items()}
        self.usable = usable_rows(self.has, config.required(self.has))
        in_use = [config.train_split, config.train_split if config.hold_out else config.eval_split]
        failed = failed_rows(statuses, self.usable) & np.isin(self.split, in_use)
        self.failed = int(failed.sum())
        if self.failed > config.allow_missing:
            raise DataError(describe_failed(failed, statuses, self.segments, config.missing))
        self.train = (
            self._rows(config.train_split, labelled=True, usable_only=True)
            if training
            else np.empty(0, np.int64)
        )
        recipes = {name: stream.stores[0].spec.recipe for name, stream in self.streams.items()}
        modalities = {name: shape.modality for name, shape in self.shapes.items()}
        self.text_protocol = notices.text_protocol(recipes, modalities)
        self.history_protocol = notices.history_protocol(recipes)
        self.notice = notices.notice_of(
            recipes, self.text_protocol, self.history_protocol, allow_oracle=config.allow_oracle
        )
        self.evaluation = self._rows(config.train_split if config.hold_out else config.eval_split)
        if config.held_out:
            self._hold_out(config, config.held_out)

    def __len__(self) -> int:
        return len(self.segments)

    @property
    def shapes(self) -> dict[str, StreamShape]:
        """What a head needs to know of the streams."""
        return {
            name: StreamShape(
                width=self._levels[name].width,
                modality=self.sources[name].modality or modality_of(name),
            )
            for name in self.streams
        }

    def refuse_longer_past(self) -> None:
        """As `sources.refuse_longer_past`, of a run that begins: one of before may have been trained so."""
        refuse_longer_past(self.sources, {name: one.recipe for name, one in self.provenance.items()})

    @property
    def provenance(self) -> dict[str, StreamProvenance]:
        """By stream: where its features came from, for the result."""
        found = {}
        for name, stream in self.streams.items():
            recipe = stream.stores[0].spec.recipe.to_dict()
            found[name] = StreamProvenance(
                stores=tuple(str(store.path) for store in stream.stores),
                store_ids=tuple(store.store_id for store in stream.stores),
                level=self.sources[name].level,
                class_token=self.sources[name].class_token,
                views=self._levels[name].views,
                recipe=FeatureRecipe.from_dict({key: recipe[key] for key in RECIPE_PARTS if key in recipe}),
            )
        return found

    def batch(
        self,
        rows: np.ndarray,
        device: torch.device | str | None = None,
        view: int | np.ndarray = 0,
        dropped: Mapping[str, np.ndarray] | None = None,
    ) -> Streams:
        """stream -> (tokens (B, L, D) float32, lengths (B,)) of some rows, in the order given; length ABSENT
        where a row does not have a stream.

        device: where the batch goes; the data's own if None. view: which of the extracted `views`, one for
        all rows or one for each; of a stream with a single view it is always that one. dropped: rows that
        lose a stream, as `draw_dropped` gives them. Raises DataError for rows that are not `usable`.
        """
        if not self.usable[rows].all():
            first = self.segments[rows[~self.usable[rows]][0]].narration_id
            raise DataError(f"row {first} has no features to be trained on or scored with")
        where = torch.device(device) if device else self.device
        found = {}
        for name in self.sources:
            present = self.has[name][rows]
            if dropped and name in dropped:
                present = present & ~dropped[name][rows]
            if present.all():
                tokens, lengths = self._read(name, rows, view)
            else:
                of_present = view if isinstance(view, int) else view[present]
                tokens, lengths = spread(*self._read(name, rows[present], of_present), present)
            found[name] = tokens.to(where, non_blocking=True).float(), lengths.to(where, non_blocking=True)
        return found

    def _read(self, name: str, rows: np.ndarray, view: int | np.ndarray) -> tuple[Tensor, Tensor]:
        """(tokens, lengths) of rows that have the stream, class token included, as the stores keep them."""
        source = self.sources[name]
        seen = view if self._levels[name].views > 1 else 0
        tokens, lengths = self.streams[name].batch(rows, source.level, seen)
        if source.last is not None and tokens.shape[1]:
            tokens, lengths = last_tokens(tokens, lengths, source.last)
        if source.class_token:
            tokens = torch.cat([self.streams[name].batch(rows, "cls", seen)[0], tokens], dim=1)
            lengths = lengths + 1
        return tokens, lengths

    def training_views(self, seed: int, epoch: int) -> np.ndarray:
        """(rows,) the view that each row is seen at in an epoch, a pure function of the arguments."""
        return np.random.default_rng([seed, epoch, self.views]).integers(self.views, size=len(self))

    def _hold_out(self, config: DataConfig, held_out: tuple[int, int]) -> None:
        """Train without part i of n of the training split, and score that part instead."""
        part, parts = held_out
        owners = np.array([getattr(segment, f"{config.hold_out_by}_id") for segment in self.segments])
        part_of = assign_folds(owners[self.evaluation].tolist(), parts)
        is_held = np.array([part_of.get(owner, -1) == part for owner in owners.tolist()])
        self.evaluation, self.train = (
            self.evaluation[is_held[self.evaluation]],
            self.train[~is_held[self.train]],
        )

    def _rows(self, split: str, *, labelled: bool = False, usable_only: bool = False) -> np.ndarray:
        mask = self.split == split
        if not mask.any():
            known = ", ".join(sorted(set(self.split)))
            raise UsageError(f"no row of the stores belongs to split {split!r}; they hold {known}")
        if labelled:
            mask &= np.any([is_labelled(labels) for labels in self.labels.values()], axis=0)
        rows = np.flatnonzero(mask & self.usable if usable_only else mask)
        if not len(rows):
            raise DataError(f"split {split!r} has no row with features and labels")
        return rows


def check_part(value: Any) -> None:
    """Raises ValueError where a value is not `i/n`, part i of n."""
    part, slash, parts = value.partition("/") if isinstance(value, str) else ("", "", "")
    if not (slash and part.isdigit() and parts.isdigit() and int(part) < int(parts) and int(parts) > 1):
        raise ValueError("expected i/n with i from 0 to n-1 and n of 2 or more, for example 0/5")


def assign_folds(owners: list[str], parts: int) -> dict[str, int]:
    """owner (a participant or a video) -> part, of nearly equal numbers of rows: the owner with the most rows
    is assigned first, always to the smallest part.

    Raises UsageError where there are fewer owners than parts.
    """
    counts = Counter(owners)
    if len(counts) < parts:
        raise UsageError(
            f"data.hold_out (select_on of a sweep, counts.choose_on) asks for {parts} parts, and there are "
            f"{len(counts)} to distribute: ask for fewer, or set data.hold_out_by=video"
        )
    sizes, part_of = [0] * parts, {}
    for owner in sorted(counts, key=lambda owner: (-counts[owner], owner)):
        part_of[owner] = min(range(parts), key=lambda part: (sizes[part], part))
        sizes[part_of[owner]] += counts[owner]
    return part_of


def _views(levels: dict[str, Level]) -> int:
    """How many views of a row were extracted. Raises DataError where streams differ: which view goes with
    which?
    """
    several = {name: level.views for name, level in levels.items() if level.views > 1}
    if len(set(several.values())) > 1:
        raise DataError(f"streams of several views must have the same number of them: {several}")
    return max(level.views for level in levels.values())


def in_group(segments: tuple[Segment, ...], group: RowGroup) -> np.ndarray:
    """(rows,) bool."""
    values = set(group.values)
    return np.array([getattr(segment, group.column) in values for segment in segments], bool)


def epoch_batches(rows: np.ndarray, batch_size: int, seed: int, epoch: int) -> Iterator[np.ndarray]:
    """The global batches of an epoch, a pure function of its arguments; the last one may be smaller."""
    order = np.random.default_rng([seed, epoch]).permutation(rows)
    for first in range(0, len(order), batch_size):
        yield order[first : first + batch_size]
