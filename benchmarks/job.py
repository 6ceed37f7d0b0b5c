"""What does the extraction job add to its slowest stage, what does a decode for several encoders save, and
how much memory does it take?

    python benchmarks/job.py [--part overlap ...] [--against CHECKOUT] [--videos FOLDER] [--quick]
                             [--out FILE]

Every run is a process of its own and goes through `extract_video`: opening, reading, encoding, the store.

    overlap    the decoder and the encoder sleep for a fixed time a row, which costs no CPU, so another
               program's load changes little; 8 rows a batch. overhead: the time of the job over the time that
               its slowest stage slept, a thread; 1 would be perfect. Nothing can be encoded before the first
               8 rows are read: 8/191 of a stage of 191 rows, but 32/191 with 4 threads that are 4 times as
               slow, so these read four times the rows
    rate       rows a second of real video with an encoder that costs next to nothing, so that the decoder
               decides. Beside CHECKOUT, where given, in turns: the ratio is the median of those of each turn.
               Where other programs run, that is chance; at best: rows a second that the CPU time allows on
               free cores, which is that of the busiest thread, or of all over the cores if that is more
    encoders   CPU seconds of the threads that decode and resize: for three encoders that see 224, 224 and
               336 pixels, one by one and on one decode
    frames     CPU milliseconds of a wanted frame, RGB, not resized, one thread: our reader; the usual loop
               of PyAV, which goes to the keyframe before a row and decodes to the row's end; decord and
               torchcodec, batches of 32 wanted frames in order of time. A number is drawn into each
               picture: wrong counts the frames that show another than the wanted one
    memory     peak of the process above what it held before, while it reads a short and a long video, and
               10 views x 3 crops of a row under two bounds of bytes. A batch of which a view is encoded, in
               float32 and more than once, comes on top of the bound

The videos are drawn here: patches that move, noise, H.264, GOP 250, 3 B-frames, 59.94 frames a second, about
12 Mb/s at 1920 x 1080 and 0.4 at 456 x 256; 20 s, repeated without encoding them again. Rows are drawn as
EK100's are: 0.31 a second, median 1.6 s, mean 3.2 s, 16 frames each. --videos keeps them for the next time.

The last line is JSON: {"overhead_over_slowest_stage", "rate_vs_before", "one_decode_vs_three",
"peak_long_vs_short"}; a part that did not run is null. Takes about 15 minutes on two cores.
"""

import argparse
import importlib.util
import json
import os
import resource
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import av
import numpy as np
import torch
from harness import Harness, commit, options, own_process
from rich.console import Console
from rich.table import Table
from torch import Tensor

from mambavl.cache.classes import verb_noun_classes
from mambavl.cache.rows import Segment
from mambavl.extract import clips
from mambavl.extract.annotations import Annotations
from mambavl.extract.encoders import Pixels
from mambavl.extract.options import VideoExtraction
from mambavl.extract.timeline import Timeline
from mambavl.extract.video_job import extract_video

PARTS = ("overlap", "rate", "encoders", "frames", "memory")
FRAMES = 16  # of a row
FPS = Fraction(60000, 1001)
DRAWN = 1200  # frames of a video, which then begins again
BITS, BIT = 16, 8  # of the number in a picture; pixels of a bit at 456 x 256
SIZES = {"1080p": (1920, 1080), "456x256": (456, 256)}
CLASSES = verb_noun_classes(
    verbs={0: "cut"}, nouns={0: "onion"}, num_verbs=1, num_nouns=1, tail_verbs=(), tail_nouns=(),
    unseen_participants=(),
)  # fmt: skip
VIDEO = "P01_101"


def main() -> None:
    parser = options(__doc__, repeats=3)
    parser.add_argument(
        "--part", action="append", choices=PARTS, help="only this one; may be repeated", default=[]
    )
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="another checkout of this project")
    parser.add_argument("--videos", type=Path, help="where the videos are drawn, and found the next time")
    parser.add_argument("--child", help=argparse.SUPPRESS)  # one run, in a fresh process
    arguments = parser.parse_args()
    sys.modules["job"] = sys.modules["__main__"]  # encoders are named `job:...`
    if arguments.child:
        call = json.loads(arguments.child)
        print(json.dumps(CHILDREN[call.pop("run")](**call)))
        return
    before = commit(arguments.against) if arguments.against else None
    if arguments.against and before is None:
        raise SystemExit(f"--against {arguments.against}: is no git checkout; clone the project there")
    harness = Harness(arguments, "torch", "av", "decord", "torchcodec", against=before)
    console = Console(width=140)
    if arguments.quick:
        arguments.repeats = 1
        console.print("--quick: next to no work, the figures mean nothing")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(console, arguments, Path(arguments.videos or folder))
        figures = {part: getattr(bench, part)() for part in arguments.part or PARTS}
    harness.end(figures, last_line(figures))


def last_line(figures: dict[str, Any]) -> dict[str, float | None]:
    worst = [row["overhead"] for row in figures.get("overlap", {}).values()]
    rates = [row["ratio"] for row in figures.get("rate", {}).values() if "ratio" in row]
    return {
        "overhead_over_slowest_stage": max(worst, default=None),
        "rate_vs_before": min(rates, default=None),
        "one_decode_vs_three": figures.get("encoders", {}).get("saved"),
        "peak_long_vs_short": figures.get("memory", {}).get("long_vs_short"),
    }


class Bench:
    """The parts, each of which prints a table and gives its figures."""

    def __init__(self, console: Console, arguments: argparse.Namespace, folder: Path) -> None:
        self.console, self.against, self.folder = console, arguments.against, folder
        self.quick, self.repeats = arguments.quick, arguments.repeats

    def run(self, run: str, *, before: bool = False, **call: Any) -> dict[str, Any]:
        """What a run in a fresh process says. before: by the other checkout. --quick: in this process."""
        if self.quick and not before:
            return CHILDREN[run](**call)
        environment = {"PYTHONPATH": str(self.against)} if before else {}
        return own_process("--child", json.dumps({"run": run, **call}), **environment)

    def videos(self, size: str, seconds: float) -> str:
        """The folder of a video, which is drawn where it is not there."""
        if self.quick:
            return str(draw(self.folder, size, (256, 144), 60, 2.0))
        return str(draw(self.folder, size, SIZES[size], DRAWN, seconds))

    # --- parts

    def overlap(self) -> dict[str, Any]:
        rows, second = (17, 0.002) if self.quick else (191, 0.05)
        slow = {"slower": 4, "threads": 4, "rows": 4 * rows}
        cases: dict[str, dict[str, Any]] = {
            "patch level: 8 rows a group": {"group": 8},
            "grid level: 32 rows a group": {"group": 32},
            "frame level: 512 rows a group": {"group": 512},
            "patch level, decoding 4x slower, 4 threads": {"group": 8} | slow,
        }
        table = Table("stages that sleep", "rows", "slowest stage, s", "job, s", "job / stage", "before")
        found: dict[str, Any] = {}
        for name, case in cases.items():
            call = {"rows": rows, "second": second, "slower": 1, "threads": 1, "batch": 8} | case
            here = found[name] = self.run("sleeping", **call)
            if self.against and call["threads"] == 1:
                here["before"] = self.run("sleeping", before=True, **call)["overhead"]
            table.add_row(
                name,
                str(here["rows"]),
                f"{here['slowest']:.2f}",
                f"{here['wall']:.2f}",
                f"{here['overhead']:.3f}",
                f"{here['before']:.3f}" if "before" in here else "",
            )
        self.console.print(table)
        return found

    def rate(self) -> dict[str, Any]:
        columns = ("rows/s", "before", "ratio of each turn", "CPU s", "before", "rows/s at best", "before")
        table = Table("real video", "rows", *columns)
        found: dict[str, Any] = {}
        for size, seconds in (("1080p", 160), ("456x256", 600)):
            video = self.videos(size, seconds)
            turns: list[dict[str, dict[str, Any]]] = []
            for _ in range(self.repeats):
                turn = {"here": self.run("real", videos=video)}
                if self.against:
                    turn["before"] = self.run("real", videos=video, before=True)
                turns.append(turn)
            row = found[size] = {"rows": turns[0]["here"]["rows"]}
            for who in turns[0]:
                for key in ("rows_per_s", "cpu", "at_best"):
                    row[f"{who}_{key}"] = round(statistics.median(turn[who][key] for turn in turns), 2)
                for key, of in (("slowest", min), ("fastest", max)):
                    row[f"{who}_{key}"] = round(of(turn[who]["rows_per_s"] for turn in turns), 2)
            if self.against:
                ratios = [turn["here"]["rows_per_s"] / turn["before"]["rows_per_s"] for turn in turns]
                row |= {"ratios": [round(r, 3) for r in ratios], "ratio": round(statistics.median(ratios), 3)}
            table.add_row(
                size,
                str(row["rows"]),
                f"{row['here_rows_per_s']:.2f}",
                f"{row['before_rows_per_s']:.2f}" if self.against else "",
                " ".join(f"{ratio:.2f}" for ratio in row.get("ratios", [])),
                f"{row['here_cpu']:.1f}",
                f"{row['before_cpu']:.1f}" if self.against else "",
                f"{row['here_at_best']:.2f}",
                f"{row['before_at_best']:.2f}" if self.against else "",
            )
        self.console.print(table)
        return found

    def encoders(self) -> dict[str, Any]:
        video, rows = self.videos("1080p", 160), 2 if self.quick else 8
        sides = (224, 224, 336)
        alone = [self.run("together", videos=video, rows=rows, sides=[side])["cpu"] for side in sides]
        together = self.run("together", videos=video, rows=rows, sides=sides)["cpu"]
        found = {"three_runs": round(sum(alone), 2), "one_decode": round(together, 2)}
        found["saved"] = round(sum(alone) / together, 2)
        if self.against:
            before = [self.run("real", videos=video, rows=rows, side=side, before=True) for side in sides]
            found["three_runs_before"] = round(sum(run["reading_cpu"] for run in before), 2)
        table = Table(*found, title=f"three encoders, 1080p, {rows} rows: CPU s of decode and resize")
        table.add_row(*(f"{value:.2f}" for value in found.values()))
        self.console.print(table)
        return found

    def frames(self) -> dict[str, Any]:
        table = Table("RGB, one thread", "1080p, ms a frame", "wrong", "456x256, ms a frame", "wrong")
        found: dict[str, Any] = {}
        videos = {"1080p": self.videos("1080p", 160), "456x256": self.videos("456x256", 600)}
        for name in PICTURES_OF:
            if name in ("decord", "torchcodec") and importlib.util.find_spec(name) is None:
                found[name] = None
                table.add_row(name, "is not installed")
                continue
            found[name] = {
                size: self.run(
                    "reading",
                    videos=video,
                    reader=name,
                    rows=10 if size == "1080p" else None,
                    drawn=60 if self.quick else DRAWN,
                )
                for size, video in videos.items()
            }
            cells = [(f"{one['milliseconds']:.2f}", str(one["wrong"])) for one in found[name].values()]
            table.add_row(name, *(text for pair in cells for text in pair))
        self.console.print(table)
        return found

    def memory(self) -> dict[str, Any]:
        short, long = (self.videos("456x256", seconds) for seconds in (60, 600))
        found: dict[str, Any] = {
            "short": self.run("peak", videos=short),
            "long": self.run("peak", videos=long),
        }
        found["long_vs_short"] = round(found["long"]["peak"] / max(found["short"]["peak"], 1.0), 3)
        for bound in (400, 1200):
            found[f"10 views x 3 crops, read_ahead_mb = {bound}"] = self.run(
                "peak", videos=short, rows=2 if self.quick else 12, views=10, crops=3, bound=bound
            )
        table = Table("memory", "rows", "MB of pictures a row", "peak above start, MB")
        for name, row in found.items():
            if isinstance(row, dict):
                table.add_row(name, str(row["rows"]), f"{row['row']:.1f}", f"{row['peak']:,.0f}")
        self.console.print(table)
        return found


# --- what a run does, in a process of its own


def sleeping(rows: int, second: float, slower: float, threads: int, group: int, batch: int) -> dict[str, Any]:
    """The job over stages that sleep `second` a row; decoding `slower` times as long, on `threads`."""
    settings = {"encoder": "job:sleeping_encoder", "rows_per_group": group, "batch_rows": batch}
    settings |= {"readers": threads} if "readers" in VideoExtraction.model_fields else {}
    segments = segments_of([(2.0 * row, 2.0 * row + 1.5) for row in range(rows)])
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(clips, "open_video") as opening:
        opening.side_effect = lambda *_, **__: SleepingReader(2.0 * rows + 4)
        file = Path(folder) / "P01" / "videos" / f"{VIDEO}.MP4"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"pictures")
        NAPS.begin(decode=0.0, encode=0.0)
        extract(folder, segments[:9], settings)  # imports what it needs
        NAPS.begin(decode=second * slower, encode=second)
        wall = extract(folder, segments, settings)["wall"]
    slowest = max(NAPS.slept["decode"] / threads, NAPS.slept["encode"])
    return {
        "rows": rows,
        "slowest": round(slowest, 3),
        "wall": round(wall, 3),
        "overhead": round(wall / slowest, 3),
    }


def real(videos: str, rows: int | None = None, side: int = 224) -> dict[str, Any]:
    """The job over real video, one encoder; also of a checkout of before."""
    spans = spans_of(videos)[:rows]
    settings = {"encoder": "job:glance", "image_size": side}
    return {"rows": len(spans)} | extract(videos, segments_of(spans), settings)


def together(videos: str, rows: int, sides: list[int]) -> dict[str, Any]:
    """CPU seconds of decoding and resizing, for encoders on one decode."""
    from mambavl.extract.video_job import extract_videos

    annotations = annotations_of(segments_of(spans_of(videos)[:rows]))
    with reading_time() as reading, tempfile.TemporaryDirectory() as folder:
        jobs = [
            (Path(folder) / f"{number}.zarr", VideoExtraction(encoder="job:glance", image_size=side))
            for number, side in enumerate(sides)
        ]
        for result in extract_videos(annotations, Path(videos), jobs):
            assert result.finalized
            assert not result.failures
    return {"cpu": sum(reading.values())}


def peak(
    videos: str, rows: int | None = None, views: int = 1, crops: int = 1, bound: int | None = None
) -> dict[str, Any]:
    """MB above those that were held before, after everything is imported and has run once."""
    spans = spans_of(videos)
    settings: dict[str, Any] = {"encoder": "job:glance", "levels": ["clip"], "crops": crops}
    if views > 1:
        settings |= {"sampling": {"rule": "mf_dense", "views": views}, "batch_rows": 2}
    extract(videos, segments_of(spans[:1]), {"encoder": "job:glance", "levels": ["clip"]})
    settings |= {"read_ahead_mb": bound} if bound else {}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    extract(videos, segments_of(spans[:rows]), settings)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pictures = views * crops * FRAMES * 224**2 * 3
    return {"rows": len(spans[:rows]), "row": pictures / 1e6, "peak": round((after - before) * 1024 / 1e6, 1)}


def extract(videos: str, segments: tuple[Segment, ...], settings: dict[str, Any]) -> dict[str, Any]:
    """Wall and CPU seconds of a job, and rows a second; every row must be sound."""
    options = VideoExtraction.model_validate(settings)
    with reading_time() as reading, tempfile.TemporaryDirectory() as folder:
        since, before, main_before = time.perf_counter(), time.process_time(), time.thread_time()
        result = extract_video(annotations_of(segments), Path(videos), Path(folder) / "s.zarr", options)
        wall, cpu = time.perf_counter() - since, time.process_time() - before
        busiest = max(time.thread_time() - main_before, *reading.values())
    if not result.finalized or result.failures:
        raise SystemExit(f"{videos}: not every row could be read: {result.failures[:3]}")
    at_best = max(cpu / len(os.sched_getaffinity(0)), busiest)
    return {
        "wall": wall,
        "cpu": cpu,
        "reading_cpu": sum(reading.values()),
        "rows_per_s": len(segments) / wall,
        "at_best": len(segments) / at_best,
    }


@contextmanager
def reading_time() -> Iterator[dict[int, float]]:
    """CPU seconds of `ClipReader.read`, by thread."""
    read, seconds = clips.ClipReader.read, dict[int, float]()

    def timed(reader: Any, rows: Any) -> Any:
        since = time.thread_time()
        try:
            return read(reader, rows)
        finally:
            thread = threading.get_ident()
            seconds[thread] = seconds.get(thread, 0.0) + time.thread_time() - since

    with mock.patch.object(clips.ClipReader, "read", timed):
        yield seconds


# --- readers, one thread each: a file and the wanted frames of each row -> (frame, picture)

Pictures = Iterator[tuple[int, np.ndarray]]


def reading(videos: str, reader: str, rows: int | None, drawn: int) -> dict[str, Any]:
    """CPU milliseconds of a wanted frame, and how many frames were others."""
    torch.set_num_threads(1)
    wanted = [
        np.unique((np.linspace(start, stop, FRAMES) * float(FPS)).astype(int))
        for start, stop in spans_of(videos)[:rows]
    ]
    path = next(Path(videos).rglob("*.MP4"))
    seen, wrong, since = set[int](), 0, time.process_time()
    spent = 0.0
    for index, picture in PICTURES_OF[reader](path, wanted):
        spent += time.process_time() - since
        wrong += read_number(picture) != index % drawn
        seen.add(index)
        since = time.process_time()
    spent += time.process_time() - since
    count = len(np.unique(np.concatenate(wanted)))
    return {
        "frames": count,
        "milliseconds": round(spent * 1000 / count, 3),
        "wrong": wrong + count - len(seen),
    }


def ours(path: Path, wanted: list[np.ndarray]) -> Pictures:
    from mambavl.extract.video import open_video

    for index, picture in open_video(path).frames(np.concatenate(wanted)):
        assert isinstance(picture, np.ndarray)
        yield index, picture


def usual_loop(path: Path, wanted: list[np.ndarray]) -> Pictures:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        assert stream.time_base
        for row in wanted:
            frames = set(row.tolist())
            container.seek(int(row[0] / FPS / stream.time_base), stream=stream)
            for frame in container.decode(stream):
                assert frame.time is not None
                index = round(frame.time * FPS)
                if index in frames:
                    yield index, frame.to_ndarray(format="rgb24")
                if index >= row[-1]:
                    break


def decord(path: Path, wanted: list[np.ndarray]) -> Pictures:
    from decord import VideoReader, cpu

    video = VideoReader(str(path), ctx=cpu(0), num_threads=1)
    for batch in batches_of(wanted):
        yield from zip(batch, video.get_batch(batch).asnumpy(), strict=True)


def torchcodec(path: Path, wanted: list[np.ndarray]) -> Pictures:
    from torchcodec.decoders import VideoDecoder

    video = VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=1)
    for batch in batches_of(wanted):
        yield from zip(batch, video.get_frames_at(batch).data.numpy(), strict=True)


def batches_of(wanted: list[np.ndarray]) -> Iterator[list[int]]:
    frames = np.unique(np.concatenate(wanted)).tolist()
    for first in range(0, len(frames), 32):
        yield frames[first : first + 32]


# --- stages that sleep, and an encoder that costs next to nothing


class Naps:
    """How long stages sleep a row, and how long they did."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.begin(0.0, 0.0)

    def begin(self, decode: float, encode: float) -> None:
        self.seconds = {"decode": decode, "encode": encode}
        self.slept = {"decode": 0.0, "encode": 0.0}
        self.is_reading = False  # an encoder is tried when it is built, which is no stage

    def take(self, stage: str, rows: float) -> None:
        with self.lock:
            self.is_reading |= stage == "decode"
        if self.is_reading:
            since = time.perf_counter()
            time.sleep(rows * self.seconds[stage])
            with self.lock:
                self.slept[stage] += time.perf_counter() - since


NAPS = Naps()


class SleepingReader:
    """Black pictures, 30 a second."""

    def __init__(self, seconds: float) -> None:
        pts = np.arange(int(30 * seconds)) / 30
        self.timeline = Timeline(pts, seconds, np.full(len(pts), np.inf))

    def frames(self, indices: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        wanted = np.unique(indices)
        NAPS.take("decode", len(wanted) / FRAMES)
        black = np.zeros((16, 16, 3), np.uint8)
        for index in wanted.tolist():
            yield index, black

    def close(self) -> None:
        pass


class Glance:
    """The mean colour of a few places of each frame."""

    sha256 = "0" * 64
    frames = FRAMES
    state = "random"

    def __init__(self, image_size: int) -> None:
        self.pixels = Pixels(image_size, (0.5,) * 3, (0.5,) * 3)

    def token_grid(self, video_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        return video_shape[0], 1, 1

    def tokens(self, video: Tensor) -> Tensor:
        return video[..., ::56, ::56].mean((3, 4)).transpose(1, 2)  # (B, T, 3)

    def pool(self, tokens: Tensor) -> Tensor:
        return tokens.mean(1)


class Sleeper(Glance):
    def tokens(self, video: Tensor) -> Tensor:
        NAPS.take("encode", len(video))
        return super().tokens(video)


def glance(image_size: int = 224) -> Glance:
    return Glance(image_size)


def sleeping_encoder() -> Sleeper:
    return Sleeper(16)


# --- rows


def spans_of(videos: str) -> list[tuple[float, float]]:
    """Starts and ends of rows over a drawn video, in order; as long, as dense and overlapping as EK100's."""
    seconds = float(Path(videos).name.split("-")[-1])
    dice = np.random.default_rng(14)
    count = max(round(0.31 * seconds), 2)
    lengths = np.clip(1.61 * np.exp(1.167 * dice.standard_normal(count)), 0.25, seconds / 4)
    starts = dice.uniform(0, seconds - lengths - 0.1)
    return sorted(zip(starts.tolist(), (starts + lengths).tolist(), strict=True))


def segments_of(spans: list[tuple[float, float]]) -> tuple[Segment, ...]:
    segments = []
    for number, (start, stop) in enumerate(spans):
        name = f"{VIDEO}_{number:04d}"
        segments.append(
            Segment(
                name, "P01", VIDEO, "", start, stop, 1, 2, "train", "cut onion", "cut", "onion",
                ("onion",), (0,), labels={"verb": 0, "noun": 0},
            )
        )  # fmt: skip
    return tuple(sorted(segments, key=lambda segment: (segment.start, segment.narration_id)))


def annotations_of(segments: tuple[Segment, ...]) -> Annotations:
    return Annotations(Path(), segments, CLASSES, {}, {}, {"rows": "0" * 64})


# --- videos


def draw(folder: Path, name: str, size: tuple[int, int], drawn: int, seconds: float) -> Path:
    """A folder of videos with one of `seconds`, as `extract video` wants it; what is there is kept. size:
    width and height; drawn: its frames, which are repeated.
    """
    videos = folder / f"{name}-{seconds:g}"
    whole = videos / "P01" / "videos" / f"{VIDEO}.MP4"
    if not whole.exists():
        part = folder / f"{name}.mp4"
        whole.parent.mkdir(parents=True, exist_ok=True)
        if not part.exists():
            render(part, *size, drawn)
        repeat(part, whole, seconds)
    return videos


def render(path: Path, width: int, height: int, count: int) -> None:
    """A picture of patches that is panned, with noise, and the number of the frame in its centre."""
    dice = np.random.default_rng(0)
    cells = dice.integers(0, 255, (height // 8 + 64, width // 8 + 64, 3), np.uint8)
    patches = cells.repeat(8, 0).repeat(8, 1)
    level = 6 if height > 500 else 2
    noise = dice.integers(0, level, (height + 64, width + 64, 3), np.uint8)
    rate = {"bit_rate": 12_000_000} if height > 500 else {"bit_rate": 400_000}
    options = {"preset": "superfast", "g": "250", "bf": "3", "threads": "2"}
    temporary = path.with_suffix(".part.mp4")
    with av.open(str(temporary), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate = rate["bit_rate"]
        for number in range(count):
            pan = round(200 + 190 * np.sin(number / 60)), round(200 + 190 * np.cos(number / 97))
            down, right = dice.integers(0, 64, 2)
            picture = patches[pan[0] : pan[0] + height, pan[1] : pan[1] + width] // 2
            picture = picture + noise[down : down + height, right : right + width]
            write_number(picture, number)
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        container.mux(stream.encode(None))
    temporary.replace(path)


def boxes(picture: np.ndarray) -> Iterator[np.ndarray]:
    """The places of the bits in a picture (H, W, 3), views of it."""
    side = BIT * picture.shape[0] // 256
    top, left = picture.shape[0] // 2, (picture.shape[1] - BITS * side) // 2
    for bit in range(BITS):
        yield picture[top : top + side, left + bit * side : left + (bit + 1) * side]


def write_number(picture: np.ndarray, number: int) -> None:
    for bit, box in enumerate(boxes(picture)):
        box[:] = 255 if number >> bit & 1 else 0


def read_number(picture: np.ndarray) -> int:
    return sum(1 << bit for bit, box in enumerate(boxes(picture)) if np.median(box) > 128)


def repeat(part: Path, whole: Path, seconds: float) -> None:
    """The same packets again and again."""
    temporary = whole.with_suffix(".part.mp4")
    with av.open(str(part)) as source, av.open(str(temporary), "w") as target:
        pictures = source.streams.video[0]
        stream = target.add_stream_from_template(pictures)
        length = pictures.duration
        assert length
        times = max(round(seconds / float(length * pictures.time_base)), 1)
        for turn in range(times):
            source.seek(0)
            for packet in source.demux(pictures):
                if packet.dts is not None:
                    packet.pts += turn * length
                    packet.dts += turn * length
                    packet.stream = stream
                    target.mux(packet)
    temporary.replace(whole)


PICTURES_OF: dict[str, Callable[[Path, list[np.ndarray]], Pictures]] = {
    "mambavl": ours,
    "PyAV, the usual loop": usual_loop,
    "decord": decord,
    "torchcodec": torchcodec,
}
CHILDREN: dict[str, Callable[..., dict[str, Any]]] = {
    "sleeping": sleeping,
    "real": real,
    "together": together,
    "reading": reading,
    "peak": peak,
}


if __name__ == "__main__":
    main()
