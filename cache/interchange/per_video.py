"""A store of windows over whole videos, as programs for detection and segmentation read features: a file a
video, with its windows in the order of time, float32.

    actionformer   VIDEO_ID.npz   ActionFormer, OpenTAD: `feats` (T, D); what their recipes ask for, `fps`
                                  and in frames `feat_stride`, `num_frames`; in seconds `stride`, `window`
    mstcn          VIDEO_ID.npy   MS-TCN and what followed it: (D, T)
    ego4d          VIDEO_ID.pt    Ego4D's own features: a tensor (T, D)

T windows, D channels; of several views the mean. windows.json says which store, level, window and stride they
are of. These forms have no place for a window without features, so a video that has one is left out whole.
"""

import io
import re
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from mambavl.cache import canonical, fsops
from mambavl.cache.canonical import JSON
from mambavl.cache.reader import FeatureStore
from mambavl.cache.rows import OK, STATUS
from mambavl.cache.shards import Level
from mambavl.cache.spec import Windows
from mambavl.configs.errors import DataError, UsageError, counted

PerVideo = Literal["actionformer", "mstcn", "ego4d"]
PER_VIDEO = get_args(PerVideo)
SUFFIX: dict[PerVideo, str] = {"actionformer": ".npz", "mstcn": ".npy", "ego4d": ".pt"}
WINDOWS = "windows.json"
NAME_IN_EXPORT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")  # what may become a file name
EXACT = 1e-6  # seconds, or frames, by which a number may be off that was rounded to a float

# the rows of each row group, and their values by level
Groups = Iterator[tuple[range, dict[str, np.ndarray]]]


def refuse_names(store: FeatureStore, instead: str = "") -> None:
    """Raises DataError for a video_id that cannot be a file name. instead: what else there is to do."""
    for video, _ in _videos(store):
        if not NAME_IN_EXPORT.fullmatch(video):
            raise DataError(
                f"{store.path}: video_id {video!r} cannot be a file name (letters, digits, _ and -){instead}"
            )


def incomplete(store: FeatureStore) -> dict[str, str]:
    """video_id -> what is wrong with a video that has a window without features."""
    reasons = {narration_id: reason for narration_id, _, reason in store.failures}
    found = {}
    for video, rows in _videos(store):
        lacking = [row for row in rows if store.status[row] != OK]
        if lacking:
            first, status = store.segments[lacking[0]], STATUS[int(store.status[lacking[0]])]
            found[video] = (
                f"{counted(len(lacking), 'window')} of {len(rows):,} without features, the first at "
                f"{first.start:.2f} s ({status}: {reasons[first.narration_id]})"
            )
    return found


def write_videos(
    store: FeatureStore, folder: Path, level: Level, groups: Groups, form: PerVideo, fps: float
) -> int:
    """Write each whole video of a store of windows; returns the number of rows written.

    fps: actionformer counts window and stride in frames of 1 / fps seconds. Raises UsageError where the store
    or its level does not fit, DataError where no video is whole.
    """
    refuse_names(store)
    windows = _windows(store)
    left_out = incomplete(store)
    lengths = {video: len(rows) for video, rows in _videos(store) if video not in left_out}
    if level.kind != "dense" or len(level.shape) != 2:
        raise UsageError(
            f"{store.path}: level {level.name} has several vectors a window, and {form} takes one: export "
            f"level clip, or make it with `mambavl cache pool {store.path} --to clip --out STORE`"
        )
    if not lengths:
        video, why = next(iter(left_out.items()))
        raise DataError(f"{store.path}: no video is whole; {video}: {why}")
    frames = _in_frames(windows, fps) if form == "actionformer" else {}
    encode = _encoder(form, {**frames, "window": windows.length, "stride": windows.stride})
    fsops.make_folder(folder)
    for video, features in _whole_videos(store, level, groups, lengths):
        fsops.write_file(folder / f"{video}{SUFFIX[form]}", encode(features))
    said: dict[str, JSON] = {
        "store_id": store.store_id,
        "level": level.name,
        "views": level.views,
        "window": windows.length,
        "stride": windows.stride,
        **frames,
        "videos": dict(lengths),
        "left_out": dict(left_out),
    }
    fsops.write_file(folder / WINDOWS, canonical.pretty_json(said))
    return sum(lengths.values())


def _encoder(form: PerVideo, numbers: dict[str, float]) -> Callable[[np.ndarray], bytes]:
    """What makes a file of the features (T, D) of a video."""

    def encode(features: np.ndarray) -> bytes:
        data = io.BytesIO()
        if form == "actionformer":
            arrays: dict[str, Any] = {"feats": features, **numbers}
            np.savez(data, **arrays)
        elif form == "mstcn":
            np.save(data, np.ascontiguousarray(features.T))
        else:
            torch.save(torch.from_numpy(features), data)
        return data.getvalue()

    return encode


def _videos(store: FeatureStore) -> Iterator[tuple[str, list[int]]]:
    """Each video and its rows: those of one video lie together, by their start."""
    for video, rows in groupby(range(len(store)), key=lambda row: store.segments[row].video_id):
        yield video, list(rows)


def _windows(store: FeatureStore) -> Windows:
    """Of which length the rows are, and how far apart. Raises UsageError where they are no windows, DataError
    where they are not where the spec says.
    """
    windows = store.spec.inputs.windows
    if windows is None:
        raise UsageError(
            f"{store.path}: its rows are no windows over whole videos; `mambavl extract dense` makes such a "
            "store, and npy exports this one"
        )
    for _, rows in _videos(store):
        for number, row in enumerate(rows):
            segment, start = store.segments[row], number * windows.stride
            if abs(segment.start - start) > EXACT or abs(segment.stop - start - windows.length) > EXACT:
                raise DataError(
                    f"{store.path}: {segment.narration_id} is from {segment.start:g} to {segment.stop:g} s, "
                    f"where window {number} would be; is this segments.csv of another store?"
                )
    return windows


def _in_frames(windows: Windows, fps: float) -> dict[str, float]:
    """Window and stride as ActionFormer counts them. Raises UsageError where they are no whole frames, which
    OpenTAD would cut off.
    """
    if not _is_whole(windows, fps):
        fitting = next((rate for rate in range(1, 1001) if _is_whole(windows, rate)), None)
        hint = f"; --fps {fitting} would do" if fitting else ""
        raise UsageError(
            f"a window of {windows.length:g} s every {windows.stride:g} s is no whole number of frames at "
            f"{fps:g} a second{hint}"
        )
    return {
        "fps": float(fps),
        "feat_stride": round(windows.stride * fps),
        "num_frames": round(windows.length * fps),
    }


def _is_whole(windows: Windows, fps: float) -> bool:
    frames = (windows.length * fps, windows.stride * fps)
    return all(abs(number - round(number)) < EXACT for number in frames)


def _whole_videos(
    store: FeatureStore, level: Level, groups: Groups, lengths: dict[str, int]
) -> Iterator[tuple[str, np.ndarray]]:
    """The videos of `lengths` with their features, (T, D). At most one is in memory, and a row group."""
    parts: list[np.ndarray] = []
    for rows, values in groups:
        vectors = values[level.name].astype(np.float32).mean(axis=1)  # over the views
        for video, part in groupby(rows, key=lambda row: store.segments[row].video_id):
            if video not in lengths:
                continue
            numbers = np.array(list(part)) - rows.start
            parts.append(vectors[numbers])
            if sum(map(len, parts)) == lengths[video]:
                yield video, np.concatenate(parts)
                parts = []
