"""How long a video extraction would take: each stage measured alone on some of the videos, then multiplied.

read    opening a video, decode, resize: seconds of one thread
encode  seconds that the encoders take, one after another
time    the slower of both, since they overlap; where the encoder runs on the processor, they share it
"""

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from mambavl.extract import job
from mambavl.extract.clip_encoder import ClipEncoder
from mambavl.extract.clips import Clip, ClipReader, ClipReading, unit_rows
from mambavl.extract.options import VideoExtraction
from mambavl.extract.plan import Plan
from mambavl.extract.timeline import VideoError
from mambavl.extract.video_files import content_key
from mambavl.extract.watch import At

TRIED = 3  # videos


@dataclass(frozen=True)
class Rates:
    """Seconds that each stage took in a trial, alone."""

    opening: float  # a video, by one thread
    decode: float  # a row, by one thread
    resize: float  # likewise
    encode: tuple[float, ...]  # a row, by encoder
    rows: int = 0  # that were read
    videos: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Estimate:
    """How long it would take on this machine, as it is now."""

    seconds: float
    slowest: str  # `opening`, `decode`, `resize`, `encode`, or `the processor`, which two stages share
    readers: int  # threads that read, of each process
    processes: int
    cores: int
    readers_wanted: int  # of each process: with so many, reading is as fast as the encoder


def trial(
    plan: Plan, seconds: float, clock: Callable[[], float] = time.perf_counter
) -> tuple[Rates | None, dict[str, str]]:
    """Measure each stage alone, on up to three of the videos to be read, for about so many seconds; None
    where none of them can be read. And what is wrong with videos that cannot.
    """
    faults: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:  # where the scans of files go, in place of the stores' own
        reading = ClipReading(
            plan.paths,
            plan.stores[0].options,
            tuple(store.shown for store in plan.stores),
            {video: content_key(_path(plan, video)) for video in _tried(plan)},
            Path(folder) / "store",
        )
        reader = reading.open(At())
        try:
            read = _read(plan, reader, seconds / 2, clock, faults)
        finally:
            reader.close()
    if not read.clips:
        return None, faults
    encode: list[float] = []
    for number, store in enumerate(plan.stores):
        has_boxes = store.shown.boxes is not None
        coder = ClipEncoder(store.encoder, store.options, store.layout.levels, has_boxes=has_boxes)
        clips = [clips[number] for clips in read.clips]
        share = seconds / 2 / len(plan.stores)
        encode.append(_encode(coder, clips, store.options.batch_rows, share, clock))
    rates = Rates(
        opening=read.opening / len(read.videos),
        decode=reader.seconds["decode"] / read.rows,
        resize=reader.seconds.get("resize", 0.0) / read.rows,
        encode=tuple(encode),
        rows=read.rows,
        videos=read.videos,
    )
    return rates, faults


def _read(
    plan: Plan, reader: ClipReader, seconds: float, clock: Callable[[], float], faults: dict[str, str]
) -> "_Read":
    """Rows of the videos that are tried, at least a unit of each."""
    read, videos = _Read(), _tried(plan)
    size = unit_rows(plan.stores[0].options.sampling)
    enough = max(store.options.batch_rows for store in plan.stores)
    for video in videos:
        rows = [plan.segments[row] for row in plan.to_read if plan.segments[row].video_id == video]
        since = clock()
        try:
            reader.videos.reader(video)
        except VideoError as error:
            faults[video] = f"{error.status}: {error}"
            continue
        began = clock()
        read.opening += began - since
        read.videos.append(video)
        for first in range(0, len(rows), size):
            unit = rows[first : first + size]
            by_encoder = reader.read(unit)
            read.rows += len(unit)
            for clips in zip(*by_encoder, strict=True):
                if clips[0].status == "ok" and len(read.clips) < enough:
                    read.clips.append(clips)
            if clock() - began >= seconds / len(videos):
                break
    return read


@dataclass
class _Read:
    opening: float = 0.0  # seconds, of all videos
    rows: int = 0
    videos: list[str] = field(default_factory=list)
    clips: list[tuple[Clip, ...]] = field(default_factory=list)  # some rows', by encoder


def estimate(
    plan: Plan, rates: Rates, *, readers: int, cores: int, processes: int = 1, encoder_threads: int = 0
) -> Estimate:
    """readers: threads that read, of each process. encoder_threads: of the processor, that an encoder takes
    while it computes; 0 on a GPU.
    """
    rows = len(plan.to_read)
    by_stage = {
        "opening": rates.opening * len(plan.videos_to_read),
        "decode": rates.decode * rows,
        "resize": rates.resize * rows,
    }
    reading = sum(by_stage.values())
    encode = sum(store.rows * each for store, each in zip(plan.stores, rates.encode, strict=True))
    times = {
        max(by_stage, key=lambda stage: by_stage[stage]): reading / min(readers * processes, cores),
        "encode": encode / processes,
    }
    if encoder_threads:
        times["the processor"] = (reading + encode * min(encoder_threads, cores)) / cores
    slowest = max(times, key=lambda stage: times[stage])
    wanted = max(1, math.ceil(reading / encode)) if encode else cores
    return Estimate(times[slowest], slowest, readers, processes, cores, wanted)


def here(options: VideoExtraction, gpus: int | None = None) -> dict[str, int]:
    """What `estimate` is to know of this machine. gpus: a process for each of so many."""
    on_processor = gpus is None and job.device_of(options.device).type == "cpu"
    processes = gpus or 1
    return {
        "readers": options.readers or max(1, job.cores() // processes),
        "cores": job.cores(),
        "processes": processes,
        "encoder_threads": torch.get_num_threads() if on_processor else 0,
    }


def _tried(plan: Plan) -> list[str]:
    """Up to three videos, spread over the rows to be read."""
    count = len(plan.to_read)
    places = [count * (2 * part + 1) // (2 * TRIED) for part in range(TRIED)] if count else []
    return list(dict.fromkeys(plan.segments[plan.to_read[place]].video_id for place in places))


def _path(plan: Plan, video: str) -> Path:
    path = plan.paths[video]
    assert path is not None  # it is to be read
    return path


def _encode(
    coder: ClipEncoder, clips: Sequence[Clip], batch_rows: int, seconds: float, clock: Callable[[], float]
) -> float:
    """Seconds a row takes in batches; the first one, which warms up, counts only if there is no other."""
    began = clock()
    times: list[float] = []
    while not times or clock() - began < seconds:
        batch = [
            replace(clips[row % len(clips)]) for row in range(batch_rows)
        ]  # an encoder empties its clips
        since = clock()
        coder.start(batch)()
        times.append(clock() - since)
    timed = times[1:] or times
    return sum(timed) / len(timed) / batch_rows
