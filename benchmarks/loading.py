"""How fast does a feature store hand out random training batches, compared with other ways to keep the same
rows; what does its safety cost; and do the workers of a DataLoader over it go on for a thousand epochs?

    python benchmarks/loading.py [--rows 20000] [--epoch-rows 67217] [--repeats 10] [--quick] [--out FILE]

Batches: 128 random rows, float16, everything in the page cache and touched once before, one process, one
thread (Lance has threads of its own). Our reader gathers from the memory-mapped shard files of the Zarr
archive, with and without its native part; numpy's memmap of one contiguous array is the limit. zarr-python's
own indexing, h5py, safetensors, LMDB, Hugging Face's datasets, Parquet and Lance read the same values, each
as formats.py says; each also stands behind a torch DataLoader that fetches whole batches (no workers).
Every way's first batch is checked against the rows themselves. Ways take turns of ten batches, --repeats
times, so that noise from elsewhere on the machine meets all of them; three times where a turn takes over a
second. Milliseconds are those of a batch: the median of the turns, the fastest and the slowest. RAM is the
private memory (RssAnon) that opening and reading added; mapped files are the system's cache, not counted.

Epochs: all rows of EK100's training split once, by a memmap and by a store in random order, and by
WebDataset, which has no random access, in its own shuffled sequence. The first batch is checked, and that
each row came once; then five more are timed in turns, two where one takes over five seconds.

Then: opening a store of 90,000 rows; `verify --deep` against sha256 alone; writing a store against writing
and syncing the same bytes as plain files. Last, workers.py for fork, forkserver and spawn.

What is not installed (pip install datasets lmdb pyarrow pylance webdataset) is left out, and the end of the
tables says so. The last line is JSON; ratios above 1 mean that ours is faster. Reads memory as Linux keeps
it. Needs about 6 GB of disk in the temporary folder, as much memory for the page cache, and ten minutes.
"""

import argparse
import gc
import hashlib
import itertools
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is fetched

import numpy as np
import torch
import zarr
from formats import WAYS, epoch_of_tars, in_order, missing, write_tars
from harness import Harness, clock, options, spread, status_bytes, turns
from rich.console import Console
from rich.table import Table
from workers import STARTS, endure

from mambavl.cache import FeatureStore, gather, open_store, shards, sources
from mambavl.cache.classes import Classes, Target
from mambavl.cache.rows import OK, Segment
from mambavl.cache.shards import Level
from mambavl.cache.spec import Spec
from mambavl.cache.verify import verify
from mambavl.cache.writer import RowGroup, StoreWriter

BATCH = 128
DENSE = {"16x768": (16, 768), "5x1024": (5, 1024)}
TEXT_WIDTH, TEXT_LONGEST = 768, 40
QUESTIONS = ("verb_question", "noun_question")
TURN = 10  # batches that a way reads before the next way's turn
SLOW, OF_SLOW = 1.0, 3  # a way whose turn takes more seconds has so many
EPOCHS, SLOW_EPOCH = 5, 5.0
LARGE_STORE = 90_000
WORKERS_ROWS, WORKERS_SHAPE = 512, (4, 64)
# epochs by the same workers, and by workers that are started for each
ENDURED = {"fork": (1000, 200), "forkserver": (1000, 200), "spawn": (1000, 10)}
QUICK_ENDURED = {"fork": (10, 2), "forkserver": (10, 2), "spawn": (10, 0)}
PACKAGES = ("numpy", "torch", "zarr", "h5py", "safetensors")
OTHERS = ("lmdb", "datasets", "pyarrow", "pylance", "webdataset")

Fetch = Callable[[np.ndarray], list[torch.Tensor]]
Batch = tuple[Any, torch.Tensor]  # numbers or names of its rows, (B, *shape)
Figures = dict[str, Any]


def main() -> None:
    arguments = parse()
    torch.set_num_threads(1)
    harness = Harness(arguments, *PACKAGES, *OTHERS, page_cache="warm", native_gather=gather.status())
    notes: list[str] = []
    batches: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for shape_name, shape in DENSE.items():
            batches[shape_name] = dense(folder / shape_name, shape, arguments, notes)
        batches["text 2 x <=40x768"] = ragged(folder / "text", arguments)
        epochs = epoch(folder / "epoch", arguments.epoch_rows, notes)
        safety = {
            **of_epochs(epochs),
            **opening(folder / "large", arguments.large_store),
            **verifying(folder / "16x768" / "ours.zarr"),
            **writing(folder / "writing", arguments.rows),
        }
        endured = enduring(folder / "workers", arguments.quick)
    print_tables(batches, epochs, safety, endured, arguments.rows, notes)
    medians = {way: one and one["milliseconds"] for way, one in batches["16x768"].items()}
    against = lambda way: medians[way] and round(medians[way] / medians["mambavl"], 3)
    last = {
        "gather_vs_memmap": against("numpy memmap"),
        "gather_vs_zarr": against("zarr-python"),
        "gather_python_vs_memmap": round(medians["numpy memmap"] / medians["mambavl, pure Python"], 3),
        "gather_vs_best_other": min(found for way in WAYS if (found := against(way))),
        **{key: safety[key] for key in ("epoch_vs_memmap", "epoch_vs_webdataset", "open_90k_seconds")},
        **{key: safety[key] for key in ("verify_mb_per_second", "write_vs_plain")},
        "worker_epochs": sum(one["epochs"] for ways in endured.values() for one in ways.values()),
    }
    figures = {"batches": batches, "epochs": epochs, "safety": safety, "workers": endured, "notes": notes}
    harness.end({**figures, **last}, last)


def parse() -> argparse.Namespace:
    parser = options(__doc__, repeats=10)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--epoch-rows", type=int, default=67_217, help="EK100's training rows")
    parser.set_defaults(turn=TURN, large_store=LARGE_STORE)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rows = arguments.epoch_rows = arguments.large_store = BATCH + 2
        arguments.repeats, arguments.turn = 2, 1
    return arguments


def print_tables(
    batches: Figures, epochs: Figures, safety: Figures, endured: Figures, rows: int, notes: list[str]
) -> None:
    table = Table(
        "rows", "reader", "ms a batch", "fastest", "slowest", "GB/s", "by DataLoader, ms", "RAM, MB"
    )
    table.title = f"random batches of {BATCH} from {rows:,} rows, float16"
    shown = ("milliseconds", "fastest", "slowest", "gigabytes_per_second", "dataloader_milliseconds")
    for name, ways in batches.items():
        for way, one in ways.items():
            keys = (*shown, "ram_megabytes")
            table.add_row(name, way, *(f"{one[key]:,.2f}" if one else "-" for key in keys))
        table.add_section()
    console = Console(width=130)
    console.print(table)
    table = Table("an epoch by", "s", "fastest", "slowest", "rows/s")
    for way, one in epochs.items():
        times = [f"{one[key] / 1e3:,.2f}" for key in shown[:3]] if one else ["-"] * 3
        table.add_row(way, *times, f"{one['rows_per_second']:,}" if one else "-")
    console.print(table)
    table = Table("workers by", "", "epochs", "wrong rows", "s", "descriptors", "MB")
    for start, kinds in endured.items():
        for kind, one in kinds.items():
            grown = [f"{one[key][0]:,} -> {one[key][1]:,}" for key in ("descriptors", "megabytes")]
            table.add_row(start, kind, f"{one['epochs']:,}", f"{one['wrong']}", f"{one['seconds']:,}", *grown)
    console.print(table)
    other = Table("the rest", "")
    for key, value in safety.items():
        other.add_row(key.replace("_", " "), "-" if value is None else f"{value:,}")
    console.print(other)
    for note in dict.fromkeys(notes):
        console.print(f"- {note}", highlight=False)


# --- random batches


def dense(
    folder: Path, shape: tuple[int, int], sizes: argparse.Namespace, notes: list[str]
) -> dict[str, Figures | None]:
    """One level of `shape` a row, through every reader; what others wrote is deleted again."""
    folder.mkdir()
    values, others = random_rows(sizes.rows, shape), folder / "others"
    write_dense(folder / "ours.zarr", values)
    others.mkdir()
    np.save(others / "plain.npy", values)

    def from_memmap() -> Fetch:
        memmap = np.load(others / "plain.npy", mmap_mode="r")
        return lambda rows: [torch.from_numpy(memmap[rows])]

    def from_ours(**options: str) -> Callable[[], Fetch]:
        def make() -> Fetch:
            store = open_store(folder / "ours.zarr", **options)
            return lambda rows: [store.batch(rows, "frame")[0]]

        return make

    def from_zarr() -> Fetch:
        archive = zarr.open_group(folder / "ours.zarr", mode="r")["frame"]
        return lambda rows: [torch.from_numpy(archive.oindex[np.sort(rows)][in_order(rows), 0])]

    def from_other(way: str) -> Callable[[], Fetch]:
        def make() -> Fetch:
            read = WAYS[way].open(others / way, shape)
            return lambda rows: [read(rows)]

        return make

    ways: dict[str, Callable[[], Fetch]] = {
        "numpy memmap": from_memmap,
        "mambavl": from_ours(),
        "mambavl, pure Python": without_native(from_ours()),
        'mambavl, verify="read"': from_ours(verify="read"),
        'mambavl, resident="ram"': from_ours(resident="ram"),
        "zarr-python": from_zarr,
    }
    absent: dict[str, None] = {}
    for way, other in WAYS.items():
        if wanting := other.missing():
            notes.append(f"{way} is left out: {wanting}")
            absent[way] = None
        else:
            other.write(others / way, values)
            ways[way] = from_other(way)
    found = measure(ways, values[0].nbytes, sizes, lambda rows: [torch.from_numpy(values[rows])])
    shutil.rmtree(others)
    return found | absent


def without_native(make: Callable[[], Fetch]) -> Callable[[], Fetch]:
    """The same reader with its Python loops, as where no compiler was at hand."""

    def make_plain() -> Fetch:
        fetch = make()

        def plain(rows: np.ndarray) -> list[torch.Tensor]:
            natives = sources.gather_rows, sources.gather_tokens
            sources.gather_rows = lambda *a: natives[0](*a, native=False)
            sources.gather_tokens = lambda *a: natives[1](*a, native=False)
            try:
                return fetch(rows)
            finally:
                sources.gather_rows, sources.gather_tokens = natives

        return plain

    return make_plain


def ragged(folder: Path, sizes: argparse.Namespace) -> dict[str, Figures]:
    """Two questions a row of 3 to 40 tokens, each padded to the batch's longest, as a head wants them."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    lengths = {q: rng.integers(3, TEXT_LONGEST + 1, sizes.rows) for q in QUESTIONS}
    values = {q: random_rows(int(n.sum()), (TEXT_WIDTH,)) for q, n in lengths.items()}
    write_ragged(folder / "ours.zarr", values, lengths)
    starts = {q: np.cumsum(n) - n for q, n in lengths.items()}
    for question, tokens in values.items():
        np.save(folder / f"{question}.npy", tokens)

    def padded(rows: np.ndarray, source: dict[str, np.ndarray]) -> list[torch.Tensor]:
        batches = []
        for question in QUESTIONS:
            out = np.zeros((len(rows), int(lengths[question][rows].max()), TEXT_WIDTH), np.float16)
            for i, row in enumerate(rows):
                first, length = starts[question][row], lengths[question][row]
                out[i, :length] = source[question][first : first + length]
            batches.append(torch.from_numpy(out))
        return batches

    def from_memmap() -> Fetch:
        memmaps = {q: np.load(folder / f"{q}.npy", mmap_mode="r") for q in QUESTIONS}
        return lambda rows: padded(rows, memmaps)

    def from_ours() -> Fetch:
        store = open_store(folder / "ours.zarr")
        return lambda rows: [store.batch(rows, f"{question}/last_hidden")[0] for question in QUESTIONS]

    ways = {
        "numpy memmap": from_memmap,
        "mambavl": from_ours,
        "mambavl, pure Python": without_native(from_ours),
    }
    row_bytes = sum(tokens.nbytes for tokens in values.values()) / sizes.rows
    found = measure(ways, row_bytes, sizes, lambda rows: padded(rows, values))
    shutil.rmtree(folder)
    return found


class Batches(torch.utils.data.Dataset):
    """A way to read rows, behind a DataLoader that asks for a whole batch at once."""

    def __init__(self, fetch: Fetch) -> None:
        self.fetch = fetch

    def __getitems__(self, rows: list[int]) -> list[torch.Tensor]:
        return self.fetch(np.array(rows))


def by_loader(fetch: Fetch, batches: Iterator[np.ndarray]) -> Iterator[list[torch.Tensor]]:
    sampler = (batch.tolist() for batch in batches)
    return iter(
        torch.utils.data.DataLoader(Batches(fetch), batch_sampler=sampler, collate_fn=lambda found: found)
    )


def measure(
    ways: dict[str, Callable[[], Fetch]], row_bytes: float, sizes: argparse.Namespace, truth: Fetch
) -> dict[str, Figures]:
    """A batch of every way, in turns."""
    rng = np.random.default_rng(1)
    rows, turn = sizes.rows, sizes.turn
    batches = [rng.choice(rows, BATCH, replace=False) for _ in range(sizes.repeats * turn)]
    ram: dict[str, int] = {}
    jobs: dict[tuple[str, str], Callable[[], None]] = {}
    for number, (way, make) in enumerate(ways.items()):
        gc.collect()
        before = status_bytes("RssAnon")
        fetch = make()
        found = fetch(batches[0])
        ram[way] = max(0, status_bytes("RssAnon") - before)  # what others left may be given back meanwhile
        if not all(same_values(*both) for both in zip(found, truth(batches[0]), strict=True)):
            raise SystemExit(f"{way} returned other values")
        if way != "zarr-python":
            for first in range(0, rows, BATCH):  # touch every page once
                fetch(np.arange(first, min(first + BATCH, rows)))
        # no two turns meet the same rows one after the other
        endless, also = (from_the((2 * number + one) * turn, batches) for one in (0, 1))
        jobs[way, "milliseconds"] = partial(take, turn, map(fetch, endless))
        jobs[way, "dataloader_milliseconds"] = partial(take, turn, by_loader(fetch, also))
    often = lambda seconds, repeats: min(OF_SLOW, repeats) if seconds > SLOW else repeats
    times = turns(jobs, sizes.repeats, often=often)
    figures = {}
    for way in ways:
        direct, loader = (
            spread([seconds / turn for seconds in times[way, key]])
            for key in ("milliseconds", "dataloader_milliseconds")
        )
        seconds = statistics.median(times[way, "milliseconds"]) / turn
        figures[way] = {
            **direct,
            "samples_per_second": round(BATCH / seconds, 1),
            "gigabytes_per_second": round(BATCH * row_bytes / seconds / 1e9, 3),
            "dataloader_milliseconds": loader["milliseconds"],
            "ram_megabytes": round(ram[way] / 1e6, 1),
        }
    return figures


def from_the(number: int, batches: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Batches without end, beginning with this one."""
    first = number % len(batches)
    return itertools.cycle(batches[first:] + batches[:first])


def take(count: int, batches: Iterator[list[torch.Tensor]]) -> None:
    """One after the other, none of them kept."""
    for _ in range(count):
        next(batches)


def same_values(found: torch.Tensor, true: torch.Tensor) -> bool:
    return torch.equal(found.reshape(-1), true.reshape(-1))


# --- epochs


def epoch(folder: Path, rows: int, notes: list[str]) -> dict[str, Figures | None]:
    """Every row of EK100's training split once: in random order by a memmap and by ours, and by WebDataset in
    the order of its shuffled shards and buffer. In turns; beside the first, which maps the pages.
    """
    folder.mkdir()
    values = random_rows(rows, DENSE["16x768"])
    write_dense(folder / "ours.zarr", values)
    np.save(folder / "plain.npy", values)
    if wanting := missing({"webdataset": "webdataset"}):
        notes.append(f"WebDataset is left out: {wanting}")
    else:
        write_tars(folder / "tars", values)
    del values
    os.sync()  # or what was just written is still on its way to the disk
    memmap = np.load(folder / "plain.npy", mmap_mode="r")
    store = open_store(folder / "ours.zarr")
    order = np.random.default_rng(2).permutation(rows)

    def in_random_order(fetch: Callable[[np.ndarray], torch.Tensor]) -> Iterator[Batch]:
        for first in range(0, rows, BATCH):
            batch = order[first : first + BATCH]
            yield batch, fetch(batch)

    ways: dict[str, Callable[[], Iterator[Batch]]] = {
        "numpy memmap": partial(in_random_order, lambda batch: torch.from_numpy(memmap[batch])),
        "mambavl": partial(in_random_order, lambda batch: store.batch(batch, "frame")[0]),
    }
    if not wanting:
        ways["WebDataset"] = epoch_of_tars(folder / "tars", DENSE["16x768"], BATCH)
    firsts = {}
    for way, batches in ways.items():
        firsts[way], found = clock(partial(passed, batches))
        check_epoch(way, found, memmap)
    jobs = {way: partial(passed, batches) for way, batches in ways.items()}
    times = turns(jobs, EPOCHS, often=lambda seconds, all_: min(2, all_) if seconds > SLOW_EPOCH else all_)
    figures: dict[str, Figures | None] = {
        way: {
            **spread(seconds),
            "first": round(1e3 * firsts[way], 3),
            "rows_per_second": round(rows / statistics.median(seconds)),
        }
        for way, seconds in times.items()
    }
    shutil.rmtree(folder)
    return figures | ({"WebDataset": None} if wanting else {})


def passed(batches: Callable[[], Iterator[Batch]]) -> tuple[list[Any], torch.Tensor]:
    """Names of all rows of an epoch, in its order, and its first batch."""
    names, first = [], torch.empty(0)
    for number, (rows, tokens) in enumerate(batches()):
        names.append(rows)
        if not number:
            first = tokens
    return names, first


def check_epoch(way: str, found: tuple[list[Any], torch.Tensor], truth: np.ndarray) -> None:
    rows = np.concatenate([np.asarray(names).astype(np.int64) for names in found[0]])
    if sorted(rows.tolist()) != list(range(len(truth))):
        raise SystemExit(f"an epoch of {way} had other rows than each once")
    if not same_values(found[1], torch.from_numpy(truth[rows[: len(found[0][0])]])):
        raise SystemExit(f"{way} returned other values")


def of_epochs(epochs: dict[str, Figures | None]) -> dict[str, float | None]:
    ours, limit, tars = (epochs[way] for way in ("mambavl", "numpy memmap", "WebDataset"))
    against = lambda other, key: other and round(other[key] / ours[key], 3)
    return {
        "epoch_seconds": round(ours["milliseconds"] / 1e3, 3),
        "epoch_vs_memmap": against(limit, "milliseconds"),
        "first_epoch_vs_memmap": against(limit, "first"),
        "epoch_vs_webdataset": against(tars, "milliseconds"),
    }


# --- what safety costs


def opening(folder: Path, rows: int) -> dict[str, float]:
    """A finished store of 90,000 rows: the second opening and later ones, medians of five; then the list of
    its segments.
    """
    write_dense(folder, np.zeros((rows, 1, 64), np.float16))
    open_store(folder)
    times, listed = [], []
    for _ in range(5):
        seconds, store = clock(partial(open_store, folder))
        times.append(seconds)
        listed.append(seconds + clock(lambda store=store: len(store.segments))[0])
    return {
        "open_90k_seconds": round(statistics.median(times), 3),
        "open_90k_with_segments_seconds": round(statistics.median(listed), 3),
    }


def verifying(path: Path) -> dict[str, float]:
    """Every byte of a store checked, one thread, against sha256 alone over the same files; in turns, medians
    of three.
    """
    files = [file for file in sorted(path.rglob("c.*")) if file.is_file()]
    size = sum(file.stat().st_size for file in files)

    def check(way: str, found: object) -> None:
        if way == "verify" and found:
            raise SystemExit(f"{path} is not sound: {found}")

    jobs: dict[str, Callable[[], object]] = {
        "verify": lambda: verify(path, deep=True),
        "sha256": lambda: [hashlib.sha256(file.read_bytes()).digest() for file in files],
    }
    times = turns(jobs, 3, check=check)
    speeds = {name: size / 1e6 / statistics.median(seconds) for name, seconds in times.items()}
    return {
        "verify_mb_per_second": round(speeds["verify"]),
        "sha256_mb_per_second": round(speeds["sha256"]),
        "verify_vs_sha256": round(speeds["verify"] / speeds["sha256"], 3),
    }


def writing(folder: Path, rows: int) -> dict[str, float]:
    """A store written and finished, against the same shard bytes written to plain files, each with fsync;
    medians of three.
    """
    folder.mkdir()
    values = random_rows(rows, DENSE["16x768"])
    times: dict[str, list[float]] = {"ours": [], "plain": []}
    for _ in range(3):
        for way, write in (("ours", write_dense), ("plain", write_plain)):
            times[way].append(clock(partial(write, folder / way, values))[0])
            shutil.rmtree(folder / way)
    ours, plain = (statistics.median(times[way]) for way in ("ours", "plain"))
    return {
        "write_mb_per_second": round(values.nbytes / 1e6 / ours),
        "write_vs_plain": round(plain / ours, 3),
    }


def write_plain(folder: Path, values: np.ndarray) -> None:
    folder.mkdir()
    step = shards.rows_per_group(values[0].nbytes)
    for first in range(0, len(values), step):
        with open(folder / str(first), "wb") as file:
            file.write(values[first : first + step].data)
            file.flush()
            os.fsync(file.fileno())


# --- workers


def enduring(folder: Path, quick: bool) -> dict[str, Figures]:
    """What workers.py finds for each start; one after the other, where the figures mean something."""
    folder.mkdir()
    values = random_rows(WORKERS_ROWS, WORKERS_SHAPE)
    write_dense(folder / "ours.zarr", values)
    np.save(folder / "plain.npy", values)
    epochs = QUICK_ENDURED if quick else ENDURED
    with ThreadPoolExecutor(len(STARTS) if quick else 1) as pool:
        found = pool.map(lambda start: endure(folder, start, *epochs[start]), STARTS)
        return dict(zip(STARTS, found, strict=True))


# --- stores


def random_rows(rows: int, shape: tuple[int, ...]) -> np.ndarray:
    """(rows, *shape) float16, normal; a few thousand rows are drawn and repeated shifted, since only their
    bytes matter.
    """
    drawn = np.random.default_rng(0).standard_normal((min(rows, 4096), *shape), np.float32).astype(np.float16)
    return np.resize(drawn, (rows, *shape)) + (np.arange(rows) // len(drawn)).astype(np.float16).reshape(
        -1, *[1] * len(shape)
    )


def segments(rows: int) -> tuple[Segment, ...]:
    return tuple(Segment(f"V_{i:06d}", "P01", "V", "", float(i), i + 1.0, 1, 2, "train") for i in range(rows))


CLASSES = Classes({"thing": Target({0: "a thing"}, 1)})


def write_dense(path: Path, values: np.ndarray) -> FeatureStore:
    level = Level("frame", "dense", (1, *values.shape[1:]), "float16", steps=values.shape[1])
    group_rows = shards.rows_per_group(level.chunk_bytes)
    writer = StoreWriter(
        path,
        Spec(kind="video", levels=(level,), rows_per_group=group_rows),
        segments(len(values)),
        CLASSES,
        {},
    )
    for group in writer.pending():
        index = writer.layout.rows_of(group)
        part = values[index.start : index.stop, None]
        writer.commit(group, row_group({"frame": part}, {"length": np.full(len(index), values.shape[1])}))
    writer.finalize()
    return open_store(path)


def write_ragged(path: Path, values: dict[str, np.ndarray], lengths: dict[str, np.ndarray]) -> FeatureStore:
    group_rows, rows = 512, len(next(iter(lengths.values())))
    levels = []
    for question, counts in lengths.items():
        largest = max(int(counts[i : i + group_rows].sum()) for i in range(0, rows, group_rows))
        capacity = -(-largest // shards.TOKEN_CHUNK) * shards.TOKEN_CHUNK
        levels.append(Level(f"{question}/last_hidden", "ragged", (TEXT_WIDTH,), "float16", capacity=capacity))
    spec = Spec(kind="text", levels=tuple(levels), rows_per_group=group_rows)
    writer = StoreWriter(path, spec, segments(rows), CLASSES, {})
    for group in writer.pending():
        index = writer.layout.rows_of(group)
        found, counts = {}, {}
        for question, all_counts in lengths.items():
            first, last = (int(all_counts[:stop].sum()) for stop in (index.start, index.stop))
            found[f"{question}/last_hidden"] = values[question][first:last]
            counts[f"{question}/length"] = all_counts[index.start : index.stop]
        writer.commit(group, row_group(found, counts))
    writer.finalize()
    return open_store(path)


def row_group(levels: dict[str, np.ndarray], lengths: dict[str, np.ndarray]) -> RowGroup:
    count = len(next(iter(lengths.values())))
    return RowGroup(levels, lengths, np.full(count, OK, np.uint8), np.zeros(count, np.uint8))


if __name__ == "__main__":
    main()
