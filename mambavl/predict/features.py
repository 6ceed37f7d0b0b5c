"""The features of a video's moments, and what a head reads of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mambavl.cache import canonical
from mambavl.cache.reader import FeatureStore
from mambavl.cache.rows import OK, STATUS, Segment
from mambavl.configs.errors import DataError, differs
from mambavl.fuse.head import Streams
from mambavl.fuse.missing import spread, usable_rows
from mambavl.fuse.result import RECIPE_PARTS
from mambavl.predict.trained import Stream, Trained

LATE = 1e-5  # seconds that a frame's time may lie after the end of a window: rounding


@dataclass(frozen=True)
class StreamRows:
    """Where the features of a stream are: the row of a store for each moment."""

    stream: Stream
    store: FeatureStore
    rows: np.ndarray  # (moments,)

    def __post_init__(self) -> None:
        """Raises DataError where the store's features are not like those that the head was trained on."""
        name, known = self.stream.name, self.stream.store
        faults = _differences(known, self.store, self.stream.source.level)
        if faults:
            raise DataError(
                f"stream {name}: {self.store.path} holds other features than the head was trained on. "
                f"{differs(faults, 'trained on -> there')}"
            )

    @property
    def has(self) -> np.ndarray:
        """(moments,) bool: which have features."""
        return self.store.status[self.rows] == OK

    @property
    def is_constant(self) -> bool:
        """Whether it is a question that is the same at every moment."""
        return self.stream.is_text and len(set(self.rows.tolist())) == 1

    def status(self, moment: int) -> str:
        """`ok`, or the name of what is wrong."""
        return STATUS[int(self.store.status[self.rows[moment]])]

    def reason(self, moment: int) -> str:
        """Why a moment has no features."""
        name = self.store.segments[self.rows[moment]].narration_id
        return next((str(why) for row, _, why in self.store.failures if row == name), "")

    def read(self, moments: np.ndarray, view: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens (B, L, D) and lengths (B,) of moments that have features, the class token included."""
        rows, source = self.rows[moments], self.stream.source
        seen = view if self.stream.level.views > 1 else 0
        tokens, lengths = self.store.batch(rows, source.level, view=seen)
        if source.class_token:
            tokens = torch.cat([self.store.batch(rows, "cls", view=seen)[0], tokens], dim=1)
            lengths = lengths + 1
        return tokens, lengths


class Features:
    """All streams of a run at some moments."""

    def __init__(self, trained: Trained, streams: Mapping[str, StreamRows]) -> None:
        self.streams = {name: streams[name] for name in trained.streams}  # in the head's order
        self.device = trained.device
        self.has = {name: rows.has for name, rows in self.streams.items()}
        # (moments,) bool: those that the head can say something of
        self.usable = usable_rows(self.has, trained.recipe.data.required(self.has))
        # streams that are the same at every moment
        self.constant = [name for name, rows in self.streams.items() if rows.is_constant]

    def batch(self, moments: np.ndarray, view: int) -> Streams:
        """stream -> (tokens (B, L, D) float32, lengths (B,)), as `FeatureData.batch` gives them."""
        found = {}
        for name, rows in self.streams.items():
            present = self.has[name][moments]
            tokens, lengths = rows.read(moments[present], view)
            if not present.all():
                tokens, lengths = spread(tokens, lengths, present)
            found[name] = tokens.to(self.device).float(), lengths.to(self.device)
        return found

    def fault(self, moment: int) -> tuple[str, str]:
        """(status, reason) of a moment without features: those of the first stream that lacks them."""
        for name, rows in self.streams.items():
            if not self.has[name][moment]:
                return rows.status(moment), f"stream {name}: {rows.reason(moment) or rows.status(moment)}"
        raise AssertionError(f"moment {moment} has every stream")


def rows_of(stream: Stream, store: FeatureStore, video_id: str) -> list[int]:
    """The rows of a video, by the time at which they begin. Raises DataError where there is none."""
    rows = [row for row, segment in enumerate(store.segments) if segment.video_id == video_id]
    if not rows:
        known = sorted({segment.video_id for segment in store.segments})
        listed = f"{', '.join(known[:5])}{', ...' if len(known) > 5 else ''}"
        raise DataError(
            f"{store.path}: has no row of video {video_id} for stream {stream.name}; its videos are {listed}"
        )
    return sorted(rows, key=lambda row: (store.segments[row].start, row))


def look_up(stream: Stream, store: FeatureStore, segments: Sequence[Segment]) -> StreamRows:
    """The rows of a store that are these segments, by their names. Raises DataError where it lacks one."""
    row_of = {segment.narration_id: row for row, segment in enumerate(store.segments)}
    missing = [segment.narration_id for segment in segments if segment.narration_id not in row_of]
    if missing:
        raise DataError(
            f"{store.path}: has no row {missing[0]} for stream {stream.name} "
            f"({len(missing)} of {len(segments)} rows of this video are not there)"
        )
    return StreamRows(stream, store, np.array([row_of[segment.narration_id] for segment in segments]))


def refuse_later_frames(rows: StreamRows, ends: np.ndarray) -> None:
    """Raises DataError where frames later than the end of a moment's window were looked at. ends: (moments,)
    seconds.
    """
    if not rows.store.spec.frame_pts:
        return
    pts = rows.store.row_array("frame_pts")[rows.rows].reshape(len(ends), -1)
    latest = np.where(np.isnan(pts), -np.inf, pts).max(1)
    late = np.flatnonzero(latest > ends + LATE)
    if len(late):
        rule = (rows.store.spec.recipe.sampling or {}).get("rule")
        raise DataError(
            f"stream {rows.stream.name}: sampling rule {rule} looked at a frame at {latest[late[0]]:.3f} s "
            f"for what is to be said at {ends[late[0]]:.3f} s; give a longer --window"
        )


def _differences(trained_on: FeatureStore, store: FeatureStore, level: str) -> list[str]:
    """In what the features of two stores differ, at a level; the questions that were asked may."""
    parts = [part for part in RECIPE_PARTS if part != "questions"]
    sides: list[dict[str, Any]] = []
    for one in (trained_on, store):
        recipe, found = one.spec.recipe.to_dict(), one.level(level)
        shapes = {"kind": found.kind, "shape": list(found.shape), "steps": found.steps}
        sides.append({**{key: recipe.get(key) for key in parts}, f"level {level}": shapes})
    return canonical.differences(sides[0], sides[1])
