"""Streams that a row does not have: no sound, no text, no past. Which rows those are, and what training takes
from all of them at random, streams and channels.

A row has a stream where the stream's store has features of it (status `ok`). Heads learn of the others by the
length ABSENT. `has` is such a table: stream -> (rows,) bool.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from mambavl.cache.rows import EMPTY_WINDOW, OK, STATUS, Segment
from mambavl.fuse.dropout import dropout, keys_at
from mambavl.fuse.head import ABSENT, Streams

Table = dict[str, np.ndarray]  # stream -> (rows,) bool


def usable_rows(has: Mapping[str, np.ndarray], required: Iterable[str] = ()) -> np.ndarray:
    """(rows,) bool: those that have every required stream, and any at all; the others get the prior."""
    has_any = np.logical_or.reduce(list(has.values()))
    return np.logical_and.reduce([has_any, *(has[name] for name in required)])


def count_missing(has: Mapping[str, np.ndarray], rows: np.ndarray) -> dict[str, int]:
    """stream -> how many of some rows do not have it."""
    return {name: int((~of_all[rows]).sum()) for name, of_all in has.items()}


def failed_rows(statuses: Mapping[str, np.ndarray], usable: np.ndarray) -> np.ndarray:
    """(rows,) bool: the rows that are not usable, and not for want of anything to observe. statuses: stream
    -> (rows,).
    """
    return ~usable & np.logical_or.reduce([is_broken(status) for status in statuses.values()])


def is_broken(status: np.ndarray) -> np.ndarray:
    return (status != OK) & (status != EMPTY_WINDOW)


def describe_failed(
    failed: np.ndarray, statuses: Mapping[str, np.ndarray], segments: Sequence[Segment], missing: str
) -> str:
    """What to tell the user of `failed` (rows,) bool, some rows, with what can be done about them."""
    count, first = int(failed.sum()), int(failed.argmax())
    stream = next(name for name, status in statuses.items() if is_broken(status)[first])
    what = STATUS[int(statuses[stream][first])]
    said = (
        f"{count} rows lack a stream that they need (first: {segments[first].narration_id}, {what} in stream "
        f"{stream}); extract them, or accept it with --set data.allow_missing={count}"
    )
    have_some = any((status[failed] == OK).any() for status in statuses.values())
    if missing == "refuse" and have_some:
        said += ", or use what they have, with --set data.missing=mask"
    return said


def draw_dropped(has: Mapping[str, np.ndarray], chances: Mapping[str, float], seed: int, epoch: int) -> Table:
    """The rows that lose a stream in an epoch, for each of the `chances` (stream -> probability) whose stream
    is there: a pure function of seed, epoch, row and the stream's name.

    A row that would lose every stream it has loses none.
    """
    lost = {}
    for name, chance in chances.items():
        if name in has:
            drawn = np.random.default_rng([seed, epoch, *name.encode()]).random(len(has[name]))
            lost[name] = has[name] & (drawn < chance)
    if lost:
        left = usable_rows(
            {name: of_all & ~lost[name] if name in lost else of_all for name, of_all in has.items()}
        )
        lost = {name: rows & left for name, rows in lost.items()}
    return lost


def drop_channels(streams: Streams, chances: Mapping[str, float], keys: Tensor) -> Streams:
    """The streams (tokens (B, L, D), lengths (B,)) without some of their channels, each lost with the
    probability of its stream in all tokens of a row, the others scaled to keep the expectation. keys: (B,),
    as `row_keys` gives them. Streams without a chance stay as they are.
    """
    found = dict(streams)
    for name, chance in chances.items():
        if name in streams:
            tokens, lengths = streams[name]
            ones = tokens.new_ones(len(tokens), tokens.shape[2])
            kept = dropout(ones, chance, keys_at(keys, f"channels of {name}"))
            found[name] = tokens * kept[:, None], lengths
    return found


def spread(tokens: Tensor, lengths: Tensor, present: np.ndarray) -> tuple[Tensor, Tensor]:
    """Tokens (P, L, D) and lengths (P,) of the rows that are `present` (B,) -> those of all, (B, L, D) and
    (B,): zeros and ABSENT for the others.
    """
    where = torch.from_numpy(np.flatnonzero(present)).to(tokens.device)
    all_tokens = tokens.new_zeros(len(present), *tokens.shape[1:])
    all_lengths = torch.full((len(present),), ABSENT, dtype=lengths.dtype, device=lengths.device)
    all_tokens[where], all_lengths[where] = tokens, lengths
    return all_tokens, all_lengths
