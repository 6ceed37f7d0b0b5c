"""Features that others made -> a feature store: found by the row's name, or by time in the features of its video.

    hdf5, safetensors   one array a row, named after its narration_id: (D,) is level `clip`, (T, D) `frame`, (T, g, g, D) `grid`
    npy                 VIDEO_ID.npy or .npz, (steps, D): step i saw the frames [i stride, i stride + window) at `fps` a second
    lmdb                RULSTM's: VIDEO_ID_frame_0000000001.jpg -> one float32 vector; frame n shows second (n - 1) / fps

float16 stays float16, all else becomes float32. A row that cannot be served gets a status and a reason, never
the features of another moment.
"""

import contextlib
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from mambavl.cache import canonical, shards
from mambavl.cache.fill import FillResult, fill
from mambavl.cache.interchange.arrays import (
    HDF5_SUFFIXES,
    NPY_SUFFIXES,
    Arrays,
    hdf5_arrays,
    npy_arrays,
    readable,
    safetensors_arrays,
)
from mambavl.cache.rows import OK, STATUS_CODE, Classes, Segment
from mambavl.cache.shards import Level
from mambavl.cache.spec import EncoderIdentity, FeatureRecipe, ImportRecipe, Inputs, Spec
from mambavl.cache.writer import RowGroup, StoreWriter
from mambavl.configs.errors import DataError, Interrupted, UsageError, to_install
from mambavl.configs.progress import Progress, ShouldStop, never, unseen

Format = Literal["hdf5", "npy", "lmdb", "safetensors"]
OPTIONS = {
    "hdf5": {"dataset"},
    "npy": {"dataset", "fps", "window", "stride"},
    "lmdb": {"fps"},
    "safetensors": set(),
}
BY_TIME = ("npy", "lmdb")  # these need to know when each row is looked at
LEVEL_OF = {1: "clip", 2: "frame", 4: "grid"}  # by the number of axes
AXES = {1: "(D,)", 2: "(steps, D)", 4: "(steps, g, g, D)"}
FILES = {"hdf5": HDF5_SUFFIXES, "npy": (*NPY_SUFFIXES, ".csv", ".json")}  # those that make a folder a source
EXPECTED = {
    "hdf5": "an HDF5 file, or a folder of NARRATION_ID.h5",
    "npy": "a folder of VIDEO_ID.npy",
    "lmdb": "a folder with data.mdb",
    "safetensors": "a .safetensors file",
}
FLOATS = ("float16", "bfloat16", "float32", "float64")
RULSTM_FPS = 30.0
RULSTM_KEY = "{}_frame_{:010d}.jpg"
NEAR = 1e-6  # of a frame or a step: what rounding may move
BLOCK = 16 * 2**20


@dataclass(frozen=True)
class SamplingTimes:
    """When each row is looked at. What is found by name knows its own moments; of this it needs
    `sampling["task"]` alone.
    """

    sampling: dict[str, Any]  # the rule, for the spec
    times: np.ndarray | None = None  # (rows, T) seconds, NaN where there is nothing to observe
    flags: np.ndarray | None = None  # (rows,) uint8


def import_features(
    source: Path,
    format: Format,
    out: Path,
    segments: tuple[Segment, ...],
    classes: Classes,
    moments: SamplingTimes,
    *,
    encoder: str = "unknown",
    dtype: Literal["float16", "float32"] | None = None,
    dataset: str | None = None,
    fps: float | None = None,
    window: int | None = None,
    stride: int | None = None,
    content_sha256: str | None = None,
    progress: Progress = unseen,
    should_stop: ShouldStop = never,
) -> FillResult:
    """Write (or resume) a store of the features in `source`, a row for every segment.

    dtype: absent, float16 if all of the source is, else float32. dataset: which array of an HDF5 or npz file.
    fps, window, stride: npy needs all three; lmdb takes fps, 30 if absent. content_sha256: of
    `source_sha256`, where it is known.

    npy, recognition: the step whose centre is nearest. Anticipation: the last step that has *ended* at that
    time; where none has, the first, if it ends by start - tau_a, else the row is an empty window. `frame_pts`
    keeps the centre of what was taken. lmdb: the frame on display, or the nearest earlier one within a
    second, never a later one.

    Raises DataError for a source that is not what it should be, UsageError for options that do not fit,
    Interrupted when `should_stop()` turns true between two row groups.
    """
    source, options = Path(source), check_options(format, dataset, fps, window, stride)
    if format in BY_TIME and len(moments.times) != len(segments):
        raise ValueError(f"{len(moments.times)} rows of times for {len(segments)} segments")
    content_sha256 = content_sha256 or source_sha256(source, format)
    with contextlib.ExitStack() as stack:
        if format == "lmdb":
            found = _rulstm(source, segments, moments, options["fps"], stack)
        elif format == "npy":
            found = _by_time(npy_arrays(source, dataset), source, segments, moments, fps, window, stride)
        else:
            arrays = (
                safetensors_arrays(source, stack)
                if format == "safetensors"
                else hdf5_arrays(source, dataset, stack)
            )
            found = _by_name(arrays, source, segments)
        level = found.level(dtype)
        by_name = {"task": moments.sampling["task"], "rule": "unknown", "frames": found.steps}
        spec = Spec(
            kind="video",
            recipe=FeatureRecipe(
                source="import",
                encoder=EncoderIdentity(name=encoder, state="unknown", sha256="unknown", width=level.width),
                sampling=moments.sampling if format in BY_TIME else by_name,
                imported=ImportRecipe(format=format, more=options),
            ),
            # not the recipe: a train half and a validation half come in files of their own
            inputs=Inputs(sha256=content_sha256),
            levels=(level,),
            frame_pts=(1, found.steps) if format in BY_TIME else (),
            rows_per_group=shards.rows_per_group(level.chunk_bytes),
        )
        writer = StoreWriter(
            out, spec, segments, classes, {"made_by": "mambavl cache import", "source": str(source)}
        )
        flags = np.zeros(len(segments), np.uint8) if moments.flags is None else moments.flags

        def make(rows: range, _: FillResult) -> RowGroup:
            return _row_group(found, level, rows, flags)

        done = fill(writer, make, progress=progress, should_stop=should_stop)
    done.unused = found.unused
    return done


def source_sha256(
    source: Path,
    format: Format,
    progress: Progress = unseen,
    should_stop: ShouldStop = never,
) -> str:
    """Of one file its sha256, as sha256sum prints it; of a folder a digest of its files' names and contents."""
    files = _files(Path(source), format)
    total, done, entries = sum(file.stat().st_size for file in files), 0, []
    for file in files:
        content = hashlib.sha256()
        with open(file, "rb") as opened:
            while block := opened.read(BLOCK):
                if should_stop():
                    raise Interrupted(f"{source}: stopped while reading it; the same command starts anew")
                content.update(block)
                done += len(block)
                progress(done, total)
        entries.append([file.name, content.hexdigest()])
    return entries[0][1] if len(entries) == 1 else canonical.digest(entries)


def _files(source: Path, format: Format) -> list[Path]:
    """What a source consists of."""
    if not source.exists():
        raise DataError(f"{source}: no such file or folder")
    if source.is_dir() and format in FILES:
        return sorted(path for path in source.iterdir() if path.suffix in FILES[format] and path.is_file())
    file = source / "data.mdb" if source.is_dir() and format == "lmdb" else source
    if format == "npy" or not file.is_file():
        raise DataError(f"{source}: --format {format} expects {EXPECTED[format]}")
    return [file]


def check_options(
    format: Format,
    dataset: str | None = None,
    fps: float | None = None,
    window: int | None = None,
    stride: int | None = None,
) -> dict[str, Any]:
    """How a source is read, for the spec. Raises UsageError where an option is missing or of no use."""
    if format == "lmdb" and fps is None:
        fps = RULSTM_FPS
    options = {"dataset": dataset, "fps": fps, "window": window, "stride": stride}
    given = {name for name, value in options.items() if value is not None}
    if beyond := sorted(given - OPTIONS[format]):
        raise UsageError(f"--format {format} has no use for {beyond[0]}; leave it out")
    if missing := sorted(OPTIONS[format] - {"dataset"} - given):
        wanted = " ".join(f"--set {name}=N" for name in missing)
        raise UsageError(
            f"--format {format} needs {wanted}: step i saw the frames [i stride, i stride + window) at fps a second"
        )
    for name in sorted(given - {"dataset"}):
        if not (math.isfinite(options[name]) and options[name] > 0):
            raise UsageError(f"{name} = {options[name]:g}: expected a number above 0")
    return options


# --- from values to rows


class _Fault(Exception):
    """Why a row cannot be served."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class _Found(NamedTuple):
    """What a source has for the rows."""

    shape: tuple[int, ...]  # of a row: (D,), (T, D) or (T, g, g, D), T the longest
    is_half: bool  # all of it is float16
    # row -> values, and the seconds of its steps; raises _Fault
    read: Callable[[int], tuple[np.ndarray, np.ndarray | float]]
    unused: int = 0

    @property
    def steps(self) -> int:
        return self.shape[0] if len(self.shape) > 1 else 1

    def level(self, dtype: str | None) -> Level:
        name, steps = LEVEL_OF[len(self.shape)], self.steps if len(self.shape) > 1 else 0
        return Level(
            name, "dense", (1, *self.shape), dtype or ("float16" if self.is_half else "float32"), steps=steps
        )


def _row_group(found: _Found, level: Level, rows: range, flags: np.ndarray) -> RowGroup:
    values = np.full((len(rows), *level.shape), np.nan, level.dtype)
    frame_pts = np.full((len(rows), 1, found.steps), np.nan)
    status, lengths, reasons = np.full(len(rows), OK, np.uint8), np.zeros(len(rows), np.int64), {}
    for i, row in enumerate(rows):
        try:
            array, seconds = found.read(row)
            with np.errstate(over="ignore"):  # a value past the range becomes infinite and is refused here
                array = array.astype(level.dtype)
            if not np.isfinite(array).all():
                raise _Fault("nonfinite_features", f"holds NaN, infinity or what {level.dtype} cannot hold")
        except _Fault as fault:
            status[i], reasons[i] = STATUS_CODE[fault.status], str(fault)
            continue
        lengths[i] = len(array) if level.steps else 1
        values[i, 0, : len(array)] = array
        frame_pts[i] = seconds
    return RowGroup(
        {level.name: values}, {"length": lengths}, status, flags[rows.start : rows.stop], frame_pts, reasons
    )


def _common_shape(
    arrays: Arrays, source: Path, names: list[str], axes: tuple[int, ...]
) -> tuple[tuple[int, ...], bool]:
    """The shape of all arrays with these names, the first axis that of the longest; and whether all are
    float16.
    """
    present = {name: arrays.describe(name) for name in dict.fromkeys(names) if name in arrays.names}
    if not present:
        found = ", ".join(sorted(arrays.names)[:3]) or "nothing"
        raise DataError(
            f"{source}: has nothing for any row; expected names such as {names[0]}, found {found}"
        )
    model, (first, _) = next(iter(present.items()))
    for name, (shape, dtype) in present.items():
        if dtype not in FLOATS or len(shape) not in axes or 0 in (shape[1:] or shape):
            expected = " or ".join(AXES[n] for n in axes)
            raise DataError(
                f"{source}: {name} is {dtype} {shape}; expected floating-point numbers {expected}"
            )
        if len(shape) != len(first) or shape[1:] != first[1:] or (len(shape) == 1 and shape != first):
            raise DataError(
                f"{source}: {name} is {shape}, {model} is {first}; all must have one form and one width"
            )
    longest = max(shape[0] for shape, _ in present.values())
    return (max(longest, 1), *first[1:]), all(dtype == "float16" for _, dtype in present.values())


# --- by name


def _by_name(arrays: Arrays, source: Path, segments: tuple[Segment, ...]) -> _Found:
    names = [segment.narration_id for segment in segments]
    shape, is_half = _common_shape(arrays, source, names, (1, 2, 4))

    def read(row: int) -> tuple[np.ndarray, float]:
        if names[row] not in arrays.names:
            raise _Fault("missing_video", f"no features for it in {source.name}")
        array = arrays.read(names[row])
        if not len(array):
            raise _Fault("short_video", f"no step of it in {source.name}")
        return array, math.nan

    return _Found(shape, is_half, read, len(arrays.names - set(names)))


# --- by time


def _by_time(
    arrays: Arrays,
    source: Path,
    segments: tuple[Segment, ...],
    moments: SamplingTimes,
    fps: float,
    window: int,
    stride: int,
) -> _Found:
    shape, is_half = _common_shape(arrays, source, [segment.video_id for segment in segments], (2,))
    video = lru_cache(maxsize=2)(arrays.read)  # the rows of a video follow one another

    def read(row: int) -> tuple[np.ndarray, np.ndarray]:
        segment, times = segments[row], _observed(moments, segments[row], row)
        if segment.video_id not in arrays.names:
            raise _Fault("missing_video", f"no features of {segment.video_id} in {source.name}")
        steps = video(segment.video_id)
        # behind its last step a video has less than a stride
        seen = (len(steps) * stride + window) / fps if len(steps) else 0.0
        if times.max() > seen:
            raise _Fault(
                "short_video", f"{times.max():.2f} s is beyond the {len(steps)} steps of {segment.video_id}"
            )
        if moments.sampling["task"] == "anticipation":
            picks = np.floor((times * fps - window) / stride + NEAR)
            if picks.min() < 0 and window / fps > segment.start - moments.sampling["tau_a"] + NEAR:
                raise _Fault(
                    "empty_window",
                    f"starts at {segment.start:.2f} s: no step of {window} frames has ended in time",
                )
        else:
            # of two at the same distance the earlier
            picks = np.ceil((times * fps - window / 2) / stride - 0.5)
        picks = np.clip(picks, 0, len(steps) - 1).astype(np.int64)
        return steps[picks], (picks * stride + window / 2) / fps

    unused = len(arrays.names - {segment.video_id for segment in segments})
    return _Found((moments.times.shape[1], shape[1]), is_half, read, unused)


def _rulstm(
    source: Path,
    segments: tuple[Segment, ...],
    moments: SamplingTimes,
    fps: float,
    stack: contextlib.ExitStack,
) -> _Found:
    lmdb = need_lmdb()
    with readable(source, lmdb.Error):
        env = stack.enter_context(
            lmdb.open(str(source), subdir=source.is_dir(), readonly=True, create=False, lock=False)
        )
        cursor = stack.enter_context(stack.enter_context(env.begin()).cursor())
        width = len(cursor.value()) // 4 if cursor.first() else 0
    if not width or len(cursor.value()) % 4:
        raise DataError(
            f"{source}: holds no float32 vectors; expected keys such as {RULSTM_KEY.format('P01_01', 1)}"
        )

    def on_display(video_id: str, seconds: float) -> int:
        """Put the cursor on the frame on display, or on the nearest earlier one within a second; returns its
        number.
        """
        wanted = math.floor(seconds * fps + NEAR) + 1
        key, prefix = RULSTM_KEY.format(video_id, wanted).encode(), f"{video_id}_frame_".encode()
        is_there = cursor.set_range(key) and cursor.key() == key
        if is_there or (cursor.prev() if cursor.key() else cursor.last()):
            number = cursor.key().removeprefix(prefix).removesuffix(b".jpg")
            if cursor.key().startswith(prefix) and number.isdigit() and int(number) >= wanted - fps:
                return int(number)
        if not (cursor.set_range(prefix) and cursor.key().startswith(prefix)):
            raise _Fault("missing_video", f"no frame of {video_id} in {source.name}")
        raise _Fault(
            "short_video", f"no frame of {video_id} in the second up to {seconds:.2f} s in {source.name}"
        )

    def read(row: int) -> tuple[np.ndarray, np.ndarray]:
        numbers, vectors = [], []
        for seconds in _observed(moments, segments[row], row).tolist():
            numbers.append(on_display(segments[row].video_id, seconds))
            value = cursor.value()
            if len(value) != width * 4:
                raise DataError(
                    f"{source}: {cursor.key().decode()} has {len(value):,} bytes, others have {width * 4:,}"
                )
            vectors.append(np.frombuffer(value, "<f4"))
        return np.stack(vectors), (np.array(numbers) - 1) / fps

    return _Found((moments.times.shape[1], width), False, read)


def need_lmdb() -> Any:
    try:
        import lmdb
    except ImportError:
        raise UsageError(f"LMDB needs the package lmdb: {to_install('lmdb')}") from None
    return lmdb


def _observed(moments: SamplingTimes, segment: Segment, row: int) -> np.ndarray:
    """(T,) seconds; a fault where there is nothing to observe."""
    if np.isnan(moments.times[row]).any():
        raise _Fault("empty_window", f"starts at {segment.start:.2f} s: nothing to observe before it in time")
    return moments.times[row]
