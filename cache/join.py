"""Several stores -> one table of rows: the same segments by a video encoder, two questions, a microphone.

Rows are joined by narration_id once; a batch is then a gather from each store. Nothing is dropped in silence:
a row that is in one stream and not in another, or that is labelled otherwise there, ends the join, and the
error names every such row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mambavl.cache.classes import Classes
from mambavl.cache.reader import FeatureStore
from mambavl.cache.rows import Segment, label_column
from mambavl.configs.errors import DataError, UsageError

ROWS_SHOWN = 50


class JoinError(DataError):
    """Rows that do not match. `rows`: (narration_id, what is wrong with it), all of them; the text shows the
    first fifty.
    """

    def __init__(self, rows: list[tuple[str, str]]) -> None:
        self.rows = rows
        listed = [f"{narration_id}: {what}" for narration_id, what in rows[:ROWS_SHOWN]]
        more = [f"... and {len(rows) - ROWS_SHOWN:,} more"] if rows[ROWS_SHOWN:] else []
        advice = "extract all streams from the same annotations and splits"
        super().__init__("\n  ".join([f"{len(rows):,} rows do not match; {advice}:", *listed, *more]))

    def __reduce__(self) -> tuple:
        return JoinError, (self.rows,)


@dataclass(frozen=True)
class JoinedStream:
    """One stream's stores, and where each joined row lies in them."""

    stores: tuple[FeatureStore, ...]
    store_of: np.ndarray  # (rows,) which store
    row_of: np.ndarray  # (rows,) which row of it
    status: np.ndarray  # (rows,) uint8

    def batch(self, rows: np.ndarray, level: str, view: int | np.ndarray = 0) -> tuple[Tensor, Tensor]:
        """(tokens (B, L, D), lengths (B,)) of some joined rows, in the order given; zeros from each length
        on.

        view: which of a dense level's views, one for all or one a row.
        """
        rows = np.asarray(rows)
        if len(self.stores) == 1 or not len(rows):
            return self.stores[0].batch(self.row_of[rows] if len(rows) else [], level, view=view)
        view = np.broadcast_to(view, rows.shape)
        wanted = self.store_of[rows]
        parts = [(np.flatnonzero(wanted == number), store) for number, store in enumerate(self.stores)]
        found = [
            (torch.from_numpy(where), *store.batch(self.row_of[rows[where]], level, view=view[where]))
            for where, store in parts
            if len(where)
        ]
        if len(found) == 1:  # all from one store, in order already
            return found[0][1:]
        like = found[0][1]
        tokens = like.new_zeros(len(rows), max(part.shape[1] for _, part, _ in found), like.shape[2])
        lengths = torch.zeros(len(rows), dtype=torch.int64, device=like.device)
        for where, part, part_lengths in found:
            tokens[where.to(like.device), : part.shape[1]] = part
            lengths[where.to(like.device)] = part_lengths
        return tokens, lengths


@dataclass(frozen=True)
class Joined:
    """The rows that all streams have, in the order of the first."""

    segments: tuple[Segment, ...]
    classes: Classes
    streams: dict[str, JoinedStream]

    def __len__(self) -> int:
        return len(self.segments)

    def batch(self, rows: np.ndarray, levels: dict[str, str]) -> dict[str, tuple[Tensor, Tensor]]:
        """stream -> (tokens, lengths) of some rows; levels: stream -> level."""
        return {name: self.streams[name].batch(rows, level) for name, level in levels.items()}


def join(streams: dict[str, FeatureStore | Sequence[FeatureStore]]) -> Joined:
    """Join streams by narration_id; each is one store, or several that hold different rows (train and
    validation halves).

    Raises JoinError, which names every row that does not match, DataError where the lists of classes differ.
    """
    if not streams:
        raise UsageError("there are no streams to join; name at least one store")
    opened = {
        name: (stores,) if isinstance(stores, FeatureStore) else tuple(stores)
        for name, stores in streams.items()
    }
    first = next(iter(opened))
    segments = tuple(segment for store in opened[first] for segment in store.segments)
    classes = opened[first][0].classes
    for stores in opened.values():
        for store in stores:
            if store.classes != classes:
                raise DataError(
                    f"{store.path}: its classes differ from those of stream {first}; "
                    "extract both from the same files"
                )
    wrong = _mismatches(first, segments, opened)
    if wrong:
        raise JoinError(wrong)
    row_of = {segment.narration_id: row for row, segment in enumerate(segments)}
    return Joined(segments, classes, {name: _locate(stores, row_of) for name, stores in opened.items()})


def _mismatches(
    first: str, segments: tuple[Segment, ...], opened: dict[str, tuple[FeatureStore, ...]]
) -> list[tuple[str, str]]:
    wrong, known = [], {segment.narration_id: segment for segment in segments}
    for name, stores in opened.items():
        seen: set[str] = set()
        for store in stores:
            for segment in store.segments:
                row = segment.narration_id
                if row in seen:
                    wrong.append((row, f"is in stream {name} twice"))
                elif row not in known:
                    wrong.append((row, f"is in stream {name} and not in stream {first}"))
                elif (what := _differs(segment, known[row])) is not None:
                    wrong.append(
                        (row, f"{what} in stream {name} and not so in stream {first} ({store.path})")
                    )
                seen.add(row)
        wrong += [(row, f"is in stream {first} and not in stream {name}") for row in known if row not in seen]
    return wrong


def _differs(segment: Segment, other: Segment) -> str | None:
    if segment.split != other.split:
        return f"has split {segment.split!r}"
    if segment.labels != other.labels:
        for target in (*segment.labels, *other.labels):
            label = segment.labels.get(target)
            if label != other.labels.get(target):
                return f"has {label_column(target, isinstance(label, tuple))} {label!r}"
    return None


def _locate(stores: tuple[FeatureStore, ...], row_of: dict[str, int]) -> JoinedStream:
    store_of, place, status = (np.zeros(len(row_of), dtype) for dtype in (np.int64, np.int64, np.uint8))
    for number, store in enumerate(stores):
        where = np.array([row_of[segment.narration_id] for segment in store.segments], np.int64)
        store_of[where], place[where], status[where] = number, np.arange(len(store)), store.status
    return JoinedStream(stores, store_of, place, status)
