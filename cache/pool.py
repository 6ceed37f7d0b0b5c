"""Smaller levels from larger ones, without the videos: patch -> grid -> frame -> clip.

A cell, a frame or a clip is the mean of the tokens that it covers, as stage one computes `grid` and `frame`.
A `clip` made here is the mean over all tokens too; an encoder's own clip feature may be another (a class
token, attention).
"""

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from mambavl.cache import shards
from mambavl.cache.fill import fill
from mambavl.cache.reader import FeatureStore
from mambavl.cache.rows import OK
from mambavl.cache.shards import Level
from mambavl.cache.spec import ParentStore, Pooling, Spec
from mambavl.cache.writer import RowGroup, StoreWriter
from mambavl.configs.errors import UsageError
from mambavl.configs.progress import Progress, ShouldStop, never, unseen

FINEST_FIRST = ("patch", "grid", "frame")


def pool(
    parent: FeatureStore,
    out: Path,
    to: str,
    *,
    progress: Progress = unseen,
    should_stop: ShouldStop = never,
) -> str:
    """Write (or resume) a store with the one level `to` (`clip`, `frame`, `grid4`, any grid) of a finished
    store; its store id.

    It names its parent in its spec. Rows without features stay so, with their reasons. Raises UsageError
    where the parent holds no finer level or `out` is something else, Interrupted when `should_stop()` turns
    true between two row groups.
    """
    if not parent.store_id:
        raise UsageError(f"{parent.path}: is not finished; only finished stores are pooled")
    source, level = _source(parent, to), _target(parent, to)
    pooled = Pooling(from_level=source.name, to=to, rule="mean")
    of = ParentStore(store_id=parent.store_id, spec_sha256=parent.layout.spec_sha256)
    spec = Spec(
        kind=parent.spec.kind,
        recipe=replace(parent.spec.recipe, pooled=pooled),
        inputs=replace(parent.spec.inputs, parent=of),
        levels=(level,),
        frame_pts=parent.spec.frame_pts,
        rows_per_group=shards.rows_per_group(level.chunk_bytes),
    )
    writer = StoreWriter(out, spec, parent.segments, parent.classes, {"made_by": "mambavl cache pool"})
    reasons = {narration_id: reason for narration_id, _, reason in parent.failures}

    def make(rows: range) -> RowGroup:
        return _row_group(parent, source, level, np.array(rows), reasons)

    return fill(writer, make, stage="pool", progress=progress, should_stop=should_stop).store_id


def _source(parent: FeatureStore, to: str) -> Level:
    """The finest level that is finer than `to`."""
    for name in FINEST_FIRST:
        level = parent.levels.get(name)
        if level and name != re.sub(r"\d+$", "", to):
            return level
        if level and name == to:
            break
    raise UsageError(
        f"{parent.path}: holds {', '.join(parent.levels)}; "
        f"{to} needs a finer level, one of {', '.join(FINEST_FIRST)}"
    )


def _target(parent: FeatureStore, to: str) -> Level:
    source = _source(parent, to)
    views, steps, width = source.views, source.steps, source.width
    grid = re.fullmatch(r"grid([1-9]\d?)", to)
    if to == "clip":
        return Level("clip", "dense", (views, width), source.dtype)
    if to == "frame":
        return Level("frame", "dense", (views, steps, width), source.dtype, steps=steps)
    if not grid:
        raise UsageError(f"--to {to}: use clip, frame, or grid with a number of cells, such as grid4")
    cells, (height, _) = int(grid[1]), _map_size(source)
    if source.name != "patch" or cells > height:
        raise UsageError(f"{parent.path}: {to} needs level patch with at least {cells} patches a side")
    return Level("grid", "dense", (views, steps, cells, cells, width), source.dtype, steps=steps)


def _map_size(level: Level) -> tuple[int, int]:
    """Tokens down and across a frame; images are square here."""
    if level.name == "grid":
        return level.shape[2], level.shape[3]
    side = math.isqrt(level.tokens // level.steps)
    if side * side * level.steps != level.tokens:
        raise UsageError(
            f"level {level.name} has {level.tokens} tokens in {level.steps} steps, which is not a square map"
        )
    return side, side


def _row_group(
    parent: FeatureStore, source: Level, level: Level, rows: np.ndarray, reasons: dict[str, str]
) -> RowGroup:
    status, steps = parent.row_array("status")[rows], parent.row_array("length")[rows]
    values = np.full((len(rows), *level.shape), np.nan, level.dtype)
    ok = np.flatnonzero(status == OK)
    for view in range(level.views if len(ok) else 0):
        tokens, _ = parent.batch(rows[ok], source.name, view=view)
        pooled = _pool(tokens.float(), source, level, torch.from_numpy(steps[ok].astype(np.int64)))
        values[ok, view] = pooled.numpy().astype(level.dtype)
    segments = parent.segments
    return RowGroup(
        levels={level.name: values},
        lengths={"length": steps},
        status=status,
        flags=parent.row_array("flags")[rows],
        frame_pts=parent.row_array("frame_pts")[rows] if parent.layout.frame_pts else None,
        reasons={
            i: reasons[segments[row].narration_id]
            for i, row in enumerate(rows)
            if segments[row].narration_id in reasons
        },
    )


def _pool(tokens: Tensor, source: Level, level: Level, steps: Tensor) -> Tensor:
    """(B, T h w, D) float32 -> (B, *level.shape[1:]); steps (B,): behind them NaN, or no part of the mean."""
    frames = tokens.unflatten(1, (source.steps, -1))  # (B, T, h w, D)
    behind = torch.arange(source.steps) >= steps[:, None]  # (B, T)
    if level.name == "clip":
        counted = frames.mean(2).masked_fill(behind[..., None], 0)
        return counted.sum(1) / steps[:, None]
    if level.name == "frame":
        return frames.mean(2).masked_fill(behind[..., None], torch.nan)
    cells = pool_cells(frames.unflatten(2, _map_size(source)), level.shape[2])
    return cells.masked_fill(behind[..., None, None, None], torch.nan)


def pool_cells(patches: Tensor, cells: int) -> Tensor:
    """(B, T, h, w, D) -> (B, T, cells, cells, D): each cell is the mean of the patches that it covers."""
    maps = patches.flatten(0, 1).permute(0, 3, 1, 2)  # (B T, D, h, w)
    pooled = adaptive_avg_pool2d(maps, cells).permute(0, 2, 3, 1)
    return pooled.unflatten(0, patches.shape[:2])
