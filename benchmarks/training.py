"""What is an epoch from the feature cache worth beside the frozen encoder in the loop?

    python benchmarks/training.py [--rows 12] [--batch 4] [--repeats 2] [--threads 2]
                                  [--encoder timm:vit_base_patch16_224] [--video 456x256] [--quick]
                                  [--out FILE]

The same head trains on the same rows, in the same batches and order, in three ways that take turns, an epoch
each. Only the video differs in where it comes from:

    cache     from a store that `extract_video` wrote before, as float16; what that took is reported
    loop      each batch is decoded, resized and run through the frozen encoder when it is due, as in most
              released code. The project's reader decodes, on a thread for each core; the video stays open
    frames    the encoder in the loop on frames that lie in memory, decoded and resized: the most that such a
              loop can hope for, at 2.4 MB a row

Losses of the first epoch are compared: those of loop and frames with those of cache, within LOSSES of them;
so are the features of a batch, within FEATURES of the largest, since the store rounds them. Shares are of
three stages: reading (for loop: decoding and resizing), encoding, and the head, which is forward, loss,
backward, clipping and AdamW.

The encoder has its true width, 16 frames a row as in the paper, and random weights, which take as long as
others. Videos are drawn as benchmarks/job.py draws them, with rows as long and as dense as EK100's. Both
questions of a row come from memory in all three ways. An encoder takes seconds a row on a CPU, so the batches
are small; as they make the head dear, a step of HEAD_BATCH rows is measured besides, of which no two are
equal, as the head computes equal rows once.

From these follow, as arithmetic: after how many epochs the cache has paid off, the least E with
extraction + E x cache < E x loop, the building of the encoder left out everywhere; and what 30
epochs of EK100's 67,217 rows would take here, with the head at HEAD_BATCH rows a step.

The last line is JSON: epochs until the cache has paid off, and times of an epoch over that from the cache.
About five minutes on two quiet cores.
"""

import argparse
import math
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import job
import numpy as np
import torch
import torch.nn.functional as F
from harness import Harness, clock, options, spread, turns
from rich.console import Console
from rich.table import Table
from step import make_batch
from torch import Tensor

from mambavl.extract import video_job
from mambavl.extract.clip_encoder import ClipEncoder
from mambavl.extract.clips import Clip, ClipReader, ClipReading
from mambavl.extract.options import VideoExtraction
from mambavl.extract.watch import At
from mambavl.fuse.data import DataConfig, FeatureData, epoch_batches
from mambavl.fuse.fusion import FusionConfig, SSMFusion
from mambavl.fuse.head import Streams, StreamShape
from mambavl.fuse.optimizer import TrainConfig, build_optimizer
from mambavl.fuse.sources import StreamSource

WAYS, STAGES = ("cache", "loop", "frames"), ("reading", "encoding", "head")
FEATURES, LOSSES = 1e-3, 1e-3
HEAD_BATCH = 128  # the paper's
EK100_ROWS, EK100_EPOCHS = 67_217, 30
ROWS_A_SECOND = 0.31  # of video, as `job.spans_of` has them
QUICK = {"rows": 6, "batch": 2, "repeats": 1, "encoder": "timm:test_vit"}


def main() -> None:
    arguments = parse()
    if arguments.quick:
        vars(arguments).update(QUICK)
    torch.set_num_threads(arguments.threads)
    run = Harness(
        arguments, "torch", "timm", "av",
        weights="random", frames=job.FRAMES, tolerances={"features": FEATURES, "losses": LOSSES},
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), arguments)
    show(found)
    ways = found["ways"]
    ratios = {f"{way}_over_cache": ways[way]["over_cache"] for way in WAYS[1:]}
    run.end(found, {f"epochs_until_paid_{way}": found["paid_after"][way] for way in WAYS[1:]} | ratios)


def parse() -> argparse.Namespace:
    parser = options(__doc__, repeats=2)
    parser.add_argument("--rows", type=int, default=12)
    parser.add_argument("--batch", type=int, default=4, help="rows of a step")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="all cores by default")
    parser.add_argument("--encoder", default="timm:vit_base_patch16_224", help="one that reads no boxes")
    parser.add_argument("--video", choices=job.SIZES, default="456x256", help="size of its pictures")
    return parser.parse_args()


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    drawn = ((256, 144), 60) if arguments.quick else (job.SIZES[arguments.video], job.DRAWN)
    videos = job.draw(folder, arguments.video, *drawn, round(arguments.rows / ROWS_A_SECOND))
    segments = job.segments_of(job.spans_of(str(videos))[: arguments.rows])
    options = VideoExtraction(
        encoder=arguments.encoder, weights="random", levels=("frame",), batch_rows=arguments.batch
    )
    store = folder / "video.zarr"
    encoder = video_job.build_encoder(options)
    extract = partial(video_job.extract_video, job.annotations_of(segments), videos, store, options)
    with mock.patch.object(video_job, "build_encoder", return_value=encoder):  # not built anew
        extraction, result = clock(extract)
    if not result.finalized or result.failures:
        raise SystemExit(f"{videos}: not every row could be read: {result.failures[:3]}")

    source = StreamSource(store=store, level="frame")
    data = FeatureData({"video": source}, DataConfig(eval_split="train"))
    path = next(videos.rglob("*.MP4"))
    reading = ClipReading(
        {job.VIDEO: path}, options, (video_job.shown_to(encoder, options),), {job.VIDEO: None}, store
    )
    coder = ClipEncoder(
        encoder, options, tuple(data.streams["video"].stores[0].levels.values()), has_boxes=False
    )
    with Videos(reading, arguments.threads) as files:
        loops = {way: Training(way, data, files, coder, arguments.batch) for way in WAYS}
        refuse_other_features(loops)
        losses: dict[str, list[float]] = {}
        seconds = turns(
            {way: loop.epoch for way, loop in loops.items()},
            arguments.repeats,
            check=partial(refuse_other_losses, losses),
        )
    ways = {way: figures(loops[way], its, len(segments)) for way, its in seconds.items()}
    for one in ways.values():
        one["over_cache"] = round(one["milliseconds"] / ways["cache"]["milliseconds"], 1)
    found = {
        "rows": len(segments),
        "extraction": {"seconds": round(extraction, 3), "seconds_a_row": extraction / len(segments)},
        "ways": ways,
        "large_batch": large_batch(data, arguments),
        "first_losses": {way: [round(one, 5) for one in its] for way, its in losses.items()},
    }
    return found | arithmetic(found)


def figures(loop: "Training", seconds: list[float], rows: int) -> dict[str, Any]:
    stages = {name: statistics.median(its[2:]) for name, its in loop.seconds.items()}  # without a warm-up
    return spread(seconds) | {
        "seconds_a_row": round(statistics.median(seconds) / rows, 5),
        "stages_a_row": {name: round(spent / rows, 5) for name, spent in stages.items()},
        "percent": {name: round(100 * spent / sum(stages.values()), 1) for name, spent in stages.items()},
    }


def large_batch(data: FeatureData, arguments: argparse.Namespace) -> dict[str, Any]:
    """HEAD_BATCH rows: read from the cache, where each comes several times, and a step on as many that are
    drawn, since of equal rows the head computes one.
    """
    loop = Training("cache", data, None, None, HEAD_BATCH)
    rows = np.resize(data.train, QUICK["batch"] if arguments.quick else HEAD_BATCH)
    streams = drawn_batch(len(rows), loop.video(rows)[0].shape[2])

    def step() -> None:
        loop.new_epoch()
        loop.video(rows)
        with loop.timed("head"):
            loop.step(np.arange(len(rows)), streams)

    seconds = turns({"step": step}, 1 + 2 * arguments.repeats)["step"]
    return figures(loop, seconds, len(rows)) | {"rows": len(rows)}


def drawn_batch(rows: int, width: int) -> Streams:
    """Rows of which no two have the same video; texts are the same as often as EK100's."""
    streams = make_batch(rows, "oracle")
    video = torch.randn(rows, job.FRAMES, width, generator=torch.Generator().manual_seed(1))
    return streams | {"video": (video, torch.full((rows,), job.FRAMES))}


def arithmetic(found: dict[str, Any]) -> dict[str, Any]:
    """What follows from seconds a row."""
    ways, once = found["ways"], found["extraction"]["seconds_a_row"]
    cached = ways["cache"]["seconds_a_row"]
    saved = {way: ways[way]["seconds_a_row"] - cached for way in WAYS[1:]}
    large = found["large_batch"]["stages_a_row"]
    hours = lambda seconds: round(EK100_ROWS * seconds / 3600, 2)
    stages = {way: ways[way]["stages_a_row"] for way in WAYS[1:]}
    encoded = {way: one["reading"] + one["encoding"] for way, one in stages.items()}
    from_cache = large["reading"] + large["head"]
    return {
        # the least whole E with once + E cached < E (cached + saved)
        "paid_after": {way: math.floor(once / one) + 1 if one > 0 else None for way, one in saved.items()},
        "ek100_hours": {
            "rows": EK100_ROWS,
            "epochs": EK100_EPOCHS,
            "extraction": hours(once),
            "cache": hours(EK100_EPOCHS * from_cache),
            **{way: hours(EK100_EPOCHS * (one + large["head"])) for way, one in encoded.items()},
        },
    }


# --- training


class Videos:
    """Clips of rows, read by threads that each have a reader of their own."""

    def __init__(self, reading: ClipReading, threads: int) -> None:
        self.reading, self.readers, self.own = reading, list[ClipReader](), threading.local()
        self.pool = ThreadPoolExecutor(threads, initializer=self._open)

    def __enter__(self) -> "Videos":
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown()
        for reader in self.readers:
            reader.close()

    def _open(self) -> None:
        self.own.reader = self.reading.open(At())
        self.readers.append(self.own.reader)

    def clips(self, segments: list[Any]) -> list[Clip]:
        found = list(self.pool.map(lambda segment: self.own.reader.read([segment])[0][0], segments))
        if failed := [clip.reason for clip in found if clip.status != "ok"]:
            raise SystemExit(failed[0])
        return found


class Training:
    """A head that trains in one of WAYS."""

    def __init__(
        self, way: str, data: FeatureData, files: Videos | None, coder: ClipEncoder | None, batch: int
    ) -> None:
        self.way, self.data, self.files, self.coder, self.batch = way, data, files, coder, batch
        self.done = 0  # epochs
        self.seconds = {stage: [0.0] for stage in STAGES}  # before the first epoch, and of each
        self.questions = {
            name: stream for name, stream in make_batch(len(data), "oracle").items() if name != "video"
        }
        self.frames = files.clips(list(data.segments)) if way == "frames" and files else []
        width = next(iter(data.shapes.values())).width
        shapes = {"video": StreamShape(width=width)} | {
            name: StreamShape(width=tokens.shape[2]) for name, (tokens, _) in self.questions.items()
        }
        torch.manual_seed(0)
        self.head = SSMFusion(FusionConfig(d_model=width, streams=shapes)).train()
        self.optimizer = build_optimizer(self.head, TrainConfig())
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"]

    def epoch(self) -> list[float]:
        """The loss of each step."""
        batches = epoch_batches(self.data.train, self.batch, 0, self.done)
        self.done += 1
        return self.steps(batches)

    def new_epoch(self) -> None:
        for spent in self.seconds.values():
            spent.append(0.0)

    def steps(self, batches: Iterator[np.ndarray] | list[np.ndarray]) -> list[float]:
        self.new_epoch()
        losses = []
        for rows in batches:
            streams = {"video": self.video(rows)}
            for name, (tokens, lengths) in self.questions.items():
                streams[name] = tokens[rows], lengths[rows]
            with self.timed("head"):
                losses.append(self.step(rows, streams))
        return losses

    def video(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """(tokens (B, T, D), lengths (B,)) of some rows."""
        if self.way == "cache":
            with self.timed("reading"):
                return self.data.batch(rows)["video"]
        assert self.files
        assert self.coder
        with self.timed("reading"):
            if self.way == "frames":
                clips = [replace(self.frames[row]) for row in rows]  # whoever encodes a clip empties it
            else:
                clips = self.files.clips([self.data.segments[row] for row in rows])
        with self.timed("encoding"):
            tokens = torch.from_numpy(self.coder.start(clips)()["frame"][:, 0])
        return tokens, torch.full((len(rows),), tokens.shape[1])

    def step(self, rows: np.ndarray, streams: Streams) -> float:
        keys = torch.from_numpy(rows)
        logits = self.head(streams, keys)
        classes = self.head.config.targets
        own = [F.cross_entropy(one, keys % classes[target]) for target, one in logits.items()]
        loss = torch.stack(own).sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.head.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach())

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        since = time.perf_counter()
        yield
        self.seconds[stage][-1] += time.perf_counter() - since


# --- the same training


def refuse_other_features(loops: dict[str, Training]) -> None:
    rows = loops["cache"].data.train[: loops["cache"].batch]
    kept, found = (loops[way].video(rows)[0] for way in ("cache", "loop"))
    apart = float((found - kept).abs().max() / kept.abs().max())
    if not apart <= FEATURES:
        raise SystemExit(f"loop: features differ from those of the store by {apart:.2g} of the largest")


def refuse_other_losses(losses: dict[str, list[float]], way: str, found: list[float]) -> None:
    losses[way] = found
    expected = losses["cache"]
    if not all(abs(a / b - 1) <= LOSSES for a, b in zip(found, expected, strict=True)):
        raise SystemExit(f"{way}: losses {found} differ from those of the cache, {expected}")


# --- what is shown


def show(found: dict[str, Any]) -> None:
    console = Console(width=120)
    table = Table("video from", "a row, ms", "fastest", "slowest", *(f"{stage}, %" for stage in STAGES))
    table.add_column("over the cache")
    for way, one in found["ways"].items():
        per_row = (one[key] / found["rows"] for key in ("milliseconds", "fastest", "slowest"))
        shares = (f"{one['percent'][stage]:.1f}" for stage in STAGES)
        table.add_row(way, *(f"{value:,.1f}" for value in per_row), *shares, f"{one['over_cache']:.1f}")
    console.print(table)
    large, once = found["large_batch"], found["extraction"]
    console.print(
        f"extraction, once: {1e3 * once['seconds_a_row']:,.1f} ms a row; a step of {large['rows']} rows from "
        f"the cache: {1e3 * large['seconds_a_row']:.1f} ms a row"
    )
    for way, epochs in found["paid_after"].items():
        console.print(f"cheaper than {way} from epoch {epochs} on")
    ek100 = found["ek100_hours"]
    console.print(
        f"arithmetic, {ek100['epochs']} epochs of {ek100['rows']:,} rows in hours: "
        f"cache {ek100['cache']} and {ek100['extraction']} once, loop {ek100['loop']}, "
        f"frames {ek100['frames']}"
    )


if __name__ == "__main__":
    main()
