"""Features that others made -> a feature store: found by the row's name, or by time in those of its video.

    hdf5, safetensors   one array a row, named after its narration_id: (D,) is level `clip`, (T, D) `frame`,
                        (T, g, g, D) `grid`; or, where it is said which frames a step saw, one a video, as npy
    npy                 VIDEO_ID.npy or .npz, (steps, D): step i saw the frames [i stride, i stride + window)
                        at `fps` a second, or when files of video_features beside it say; (D, steps) where
                        that is how long the video lasts; VIDEO_ID.MP4.npy, VIDEO_ID_KEY.npy and folders of
                        participants, too
    torch               VIDEO_ID.pt or .pth, a tensor, as npy
    lmdb                RULSTM's: VIDEO_ID_frame_0000000001.jpg -> one float32 vector; frame n shows second
                        (n - 1) / fps

An array (1, T, D) is taken for one (T, D). float16 stays float16, all else becomes float32. A row that cannot
be served gets a status and a reason, never the features of another moment.
"""

import contextlib
import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mambavl.cache import canonical, shards
from mambavl.cache.classes import Classes
from mambavl.cache.fill import FillResult, MayFail, fill
from mambavl.cache.interchange.arrays import (
    HDF5_SUFFIXES,
    NPY_SUFFIXES,
    TORCH_SUFFIXES,
    feature_files,
    hdf5_arrays,
    npy_arrays,
    safetensors_arrays,
)
from mambavl.cache.interchange.clock import Clock
from mambavl.cache.interchange.lookup import (
    Fault,
    Found,
    SamplingTimes,
    by_name,
    by_time,
)
from mambavl.cache.interchange.rulstm import RULSTM_FPS, rulstm
from mambavl.cache.interchange.torch_files import torch_arrays
from mambavl.cache.rows import EMPTY_WINDOW, OK, STATUS_CODE, Segment
from mambavl.cache.shards import Level
from mambavl.cache.spec import EncoderIdentity, FeatureRecipe, ImportRecipe, Inputs, Spec
from mambavl.cache.writer import RowGroup, StoreWriter
from mambavl.configs.errors import DataError, Interrupted, UsageError
from mambavl.configs.progress import Progress, ShouldStop, never, unseen

Format = Literal["hdf5", "npy", "torch", "lmdb", "safetensors"]
CLOCK = {"fps", "window", "stride"}
OPTIONS = {
    "hdf5": {"dataset", "channels_first", *CLOCK},
    "npy": {"dataset", "channels_first", *CLOCK},
    "torch": {"dataset", "channels_first", *CLOCK},
    "lmdb": {"fps"},
    "safetensors": {"channels_first", *CLOCK},
}
FEATURES = {"hdf5": HDF5_SUFFIXES, "npy": NPY_SUFFIXES, "torch": TORCH_SUFFIXES}
BESIDE = {"hdf5": (), "npy": (".csv", ".json"), "torch": ()}  # what an export has besides
EXPECTED = {
    "hdf5": "an HDF5 file, or a folder of NARRATION_ID.h5",
    "npy": "a folder of VIDEO_ID.npy",
    "torch": "a folder of VIDEO_ID.pt",
    "lmdb": "a folder with data.mdb",
    "safetensors": "a .safetensors file",
}
BLOCK = 16 * 2**20
MEND_SOURCE = "allow more and run the same command again, or mend the source and import it with another --out"


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
    channels_first: bool | None = None,
    content_sha256: str | None = None,
    max_failed: int | None = None,
    progress: Progress = unseen,
    should_stop: ShouldStop = never,
) -> FillResult:
    """Write (or resume) a store of the features in `source`, a row for every segment.

    dtype: absent, float16 if all of the source is, else float32. dataset: which array of an HDF5 or npz file,
    which tensor of a dict. fps, window, stride: all three, or none; then hdf5 and safetensors are read by
    name, and npy needs files beside that say so. lmdb takes fps, 30 if absent. channels_first: whether arrays
    by time are (D, steps); absent, told by how long the videos last. content_sha256: of `source_sha256`,
    where it is known. max_failed: rows that may have no features, empty windows apart; None:
    any number.

    By time, recognition: the step whose centre is nearest. Anticipation: the last step that has *ended* at
    that time; where none has, the first, if it ends by start - tau_a, else the row is an empty window.
    `frame_pts` keeps the centre of what was taken. lmdb: the frame on display, or the nearest earlier one
    within a second, never a later one.

    Raises DataError for a source that is not what it should be, and as soon as more rows have no features
    than may: what is done stays done, and the store is not finished. UsageError for options that do not fit,
    Interrupted when `should_stop()` turns true between two row groups.
    """
    source, options = Path(source), check_options(format, dataset, fps, window, stride, channels_first)
    is_timed = is_by_time(format, options)
    if is_timed:
        moments.by_row(len(segments))  # before a long read
    content_sha256 = content_sha256 or source_sha256(source, format)
    with contextlib.ExitStack() as stack:
        found = _open(source, format, segments, moments, options, stack)
        level = found.level(dtype)
        named = {"task": moments.sampling["task"], "rule": "unknown", "frames": found.steps}
        spec = Spec(
            kind="video",
            recipe=FeatureRecipe(
                source="import",
                encoder=EncoderIdentity(name=encoder, state="unknown", sha256="unknown", width=level.width),
                sampling=moments.sampling if is_timed else named,
                imported=ImportRecipe(format=format, more=_said(options, found)),
            ),
            # not the recipe: a train half and a validation half come in files of their own
            inputs=Inputs(sha256=content_sha256),
            levels=(level,),
            frame_pts=(1, found.steps) if is_timed else (),
            rows_per_group=shards.rows_per_group(level.chunk_bytes),
        )
        writer = StoreWriter(
            out, spec, segments, classes, {"made_by": "mambavl cache import", "source": str(source)}
        )
        flags = np.zeros(len(segments), np.uint8) if moments.flags is None else moments.flags

        def make(rows: range) -> RowGroup:
            return _row_group(found, level, rows, flags)

        done = fill(
            writer,
            make,
            may_fail=MayFail(max_failed, (OK, EMPTY_WINDOW), MEND_SOURCE),
            progress=progress,
            should_stop=should_stop,
        )
    done.unused, done.is_turned = found.unused, found.is_turned
    return done


def _said(options: Mapping[str, Any], found: Found) -> dict[str, Any]:
    """The options for the spec: of the axes only that they were turned, for older specs say nothing."""
    turned = {"channels_first": True} if found.is_turned else {}
    return {name: value for name, value in options.items() if name != "channels_first"} | turned


def check_source(
    source: Path,
    format: Format,
    segments: tuple[Segment, ...],
    moments: SamplingTimes,
    options: Mapping[str, Any],
) -> None:
    """Raises DataError and UsageError as `import_features` would, without reading a feature. options: of
    `check_options`.
    """
    with contextlib.ExitStack() as stack:
        _open(Path(source), format, segments, moments, options, stack)


def _open(
    source: Path,
    format: Format,
    segments: tuple[Segment, ...],
    moments: SamplingTimes,
    options: Mapping[str, Any],
    stack: contextlib.ExitStack,
) -> Found:
    """What a source has for the rows; it stays open as long as `stack`."""
    if format == "lmdb":
        return rulstm(source, segments, moments, options["fps"], stack)
    videos = {segment.video_id for segment in segments}
    if format == "safetensors":
        arrays = safetensors_arrays(source, stack)
    elif format == "hdf5":
        arrays = hdf5_arrays(source, options["dataset"], stack)
    else:
        arrays = (npy_arrays if format == "npy" else torch_arrays)(source, options["dataset"], videos)
    if not is_by_time(format, options):
        return by_name(arrays, source, segments)
    clock = Clock(options["fps"], options["window"], options["stride"]) if options["fps"] else None
    return by_time(arrays, source, segments, moments, clock, options["channels_first"])


def is_by_time(format: Format, options: Mapping[str, Any]) -> bool:
    """Whether a source is read by time, and so needs to know when each row is looked at. options: of
    `check_options`.
    """
    return format in ("npy", "torch", "lmdb") or options["fps"] is not None


def source_sha256(
    source: Path,
    format: Format,
    progress: Progress = unseen,
    should_stop: ShouldStop = never,
) -> str:
    """Of one file its sha256, as sha256sum prints it; of a folder a digest of its files' names and contents.
    progress counts bytes. Raises DataError where `source` is not what the format expects, Interrupted when
    `should_stop()` turns true.
    """
    files = _files(Path(source), format)
    total, done, entries = sum(file.stat().st_size for file in files), 0, []
    for file in files:
        content = hashlib.sha256()
        with open(file, "rb") as opened:
            while block := opened.read(BLOCK):
                if should_stop():
                    raise Interrupted(f"{source}: stopped while reading it; the same command starts over")
                content.update(block)
                done += len(block)
                progress(done, total)
        name = file.relative_to(source).as_posix() if file != source else file.name
        entries.append([name, content.hexdigest()])
    return entries[0][1] if len(entries) == 1 else canonical.digest(entries)


def _files(source: Path, format: Format) -> list[Path]:
    """What a source consists of."""
    if not source.exists():
        raise DataError(f"{source}: no such file or folder")
    if source.is_dir() and format in FEATURES:
        beside = (path for path in source.iterdir() if path.suffix in BESIDE[format] and path.is_file())
        return sorted([*feature_files(source, FEATURES[format]), *beside])
    file = source / "data.mdb" if source.is_dir() and format == "lmdb" else source
    if format in ("npy", "torch") or not file.is_file():
        raise DataError(f"{source}: --format {format} expects {EXPECTED[format]}")
    return [file]


def check_options(
    format: Format,
    dataset: str | None = None,
    fps: float | None = None,
    window: int | None = None,
    stride: int | None = None,
    channels_first: bool | None = None,
) -> dict[str, Any]:
    """How a source is read, for the spec. Raises UsageError where an option is missing or of no use."""
    if format == "lmdb" and fps is None:
        fps = RULSTM_FPS
    options: dict[str, Any] = {
        "dataset": dataset,
        "fps": fps,
        "window": window,
        "stride": stride,
        "channels_first": channels_first,
    }
    given = {name for name, value in options.items() if value is not None}
    if beyond := sorted(given - OPTIONS[format]):
        raise UsageError(f"--format {format} has no use for {beyond[0]}; leave it out")
    missing = sorted(OPTIONS[format] & CLOCK - given)
    if missing and given & CLOCK:
        wanted = " ".join(f"--set {name}=N" for name in missing)
        raise UsageError(
            f"--format {format} needs {wanted}: "
            "step i saw the frames [i stride, i stride + window) at fps a second"
        )
    if channels_first is not None and not is_by_time(format, options):
        raise UsageError(
            "channels_first is of a video's steps: say which frames they saw, too: --set fps=N "
            "--set stride=N --set window=N"
        )
    for name in sorted(given & CLOCK):
        if not (math.isfinite(options[name]) and options[name] > 0):
            raise UsageError(f"{name} = {options[name]:g}: expected a number above 0")
    return options


def _row_group(found: Found, level: Level, rows: range, flags: np.ndarray) -> RowGroup:
    values = np.full((len(rows), *level.shape), np.nan, level.dtype)
    frame_pts = np.full((len(rows), 1, found.steps), np.nan)
    status, lengths = np.full(len(rows), OK, np.uint8), np.zeros(len(rows), np.int64)
    reasons: dict[int, str] = {}
    for i, row in enumerate(rows):
        try:
            array, seconds = found.read(row)
            with np.errstate(over="ignore"):  # a value past the range becomes infinite and is refused here
                array = array.astype(level.dtype)
            if not np.isfinite(array).all():
                raise Fault("nonfinite_features", f"holds NaN, infinity or what {level.dtype} cannot hold")
        except Fault as fault:
            status[i], reasons[i] = STATUS_CODE[fault.status], str(fault)
            continue
        lengths[i] = len(array) if level.steps else 1
        values[i, 0, : len(array)] = array
        frame_pts[i] = seconds
    return RowGroup(
        {level.name: values}, {"length": lengths}, status, flags[rows.start : rows.stop], frame_pts, reasons
    )
