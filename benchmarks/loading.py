"""How fast does a feature store hand out random training batches, compared with other ways to keep the same
rows; and what does its safety cost?

    python benchmarks/loading.py [--rows 20000] [--epoch-rows 67217] [--repeats 100] [--out FILE]

Batches: 128 random rows, float16, everything in the page cache and touched once before, one process, one
thread. Our reader gathers from the memory-mapped shard files of the Zarr archive, with and without its native
part; numpy's memmap of one contiguous array is the limit; h5py, safetensors and zarr-python's own indexing
read the same values; each also stands behind a torch DataLoader that fetches whole batches (no workers).
Every way's first batch is checked against the rows themselves. Ways take turns, ten batches each, so that
noise from elsewhere on the machine meets all of them; medians are reported. RAM is the private memory
(RssAnon) that opening and reading added; mapped files are the system's cache and not counted.

Then: one epoch of EK100's size in random order against a memmap; opening a store of 90,000 rows; `verify
--deep` against sha256 alone; writing a store against writing and syncing the same bytes as plain files.

The last line is JSON; ratios above 1 mean that ours is faster. Needs about 5 GB of disk in the temporary
folder.
"""

import argparse
import gc
import hashlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from mambavl.cache.rows import OK

os.environ.setdefault("OMP_NUM_THREADS", "1")

import h5py
import numpy as np
import safetensors
import torch
import zarr
from rich.console import Console
from rich.table import Table
from safetensors.numpy import save_file

from mambavl.cache import FeatureStore, gather, open_store, reader, shards
from mambavl.cache.classes import Classes, Target
from mambavl.cache.rows import Segment
from mambavl.cache.shards import Level
from mambavl.cache.spec import Spec
from mambavl.cache.verify import verify
from mambavl.cache.writer import RowGroup, StoreWriter

BATCH = 128
DENSE = {"16x768": (16, 768), "5x1024": (5, 1024)}
TEXT_WIDTH, TEXT_LONGEST = 768, 40
QUESTIONS = ("verb_question", "noun_question")
TURN = 10  # batches that a way reads before the next way's turn
ZARR_REPEATS = 3  # it takes most of the time
LARGE_STORE = 90_000

Fetch = Callable[[np.ndarray], list[torch.Tensor]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--epoch-rows", type=int, default=67_217, help="EK100's training rows")
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--out", type=Path, help="also write the figures there, as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for shape_name, shape in DENSE.items():
            figures[shape_name] = dense(folder / shape_name, arguments.rows, shape, arguments.repeats)
        figures["text 2 x <=40x768"] = ragged(folder / "text", arguments.rows, arguments.repeats)
        safety = {
            **epoch(folder / "epoch", arguments.epoch_rows),
            **opening(folder / "large"),
            **verifying(folder / "16x768" / "ours.zarr"),
            **writing(folder / "writing", arguments.rows),
        }
    print_tables(figures, safety, arguments.rows)
    medians = {way: measured["milliseconds"] for way, measured in figures["16x768"].items()}
    last = {
        "gather_vs_memmap": round(medians["numpy memmap"] / medians["mambavl"], 3),
        "gather_vs_zarr": round(medians["zarr-python"] / medians["mambavl"], 1),
        "gather_python_vs_memmap": round(medians["numpy memmap"] / medians["mambavl, pure Python"], 3),
        **{
            key: safety[key]
            for key in ("epoch_vs_memmap", "open_90k_seconds", "verify_mb_per_second", "write_vs_plain")
        },
    }
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        record = {"conditions": conditions(arguments), "batches": figures, "safety": safety, **last}
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(last))


def print_tables(figures: dict[str, dict], safety: dict[str, float], rows: int) -> None:
    table = Table("rows", "reader", "ms a batch", "samples/s", "GB/s", "by DataLoader, ms", "RAM, MB")
    table.title = f"random batches of {BATCH} from {rows:,} rows, float16"
    for name, ways in figures.items():
        for way, measured in ways.items():
            shown = (
                "milliseconds",
                "samples_per_second",
                "gigabytes_per_second",
                "dataloader_milliseconds",
                "ram_megabytes",
            )
            table.add_row(name, way, *(f"{measured[key]:,.2f}" for key in shown))
        table.add_section()
    console = Console(width=120)
    console.print(table)
    other = Table("the rest", "")
    for key, value in safety.items():
        other.add_row(key.replace("_", " "), f"{value:,}")
    console.print(other)


def conditions(arguments: argparse.Namespace) -> dict[str, object]:
    return {
        "rows": arguments.rows,
        "epoch_rows": arguments.epoch_rows,
        "repeats": arguments.repeats,
        "cores": os.cpu_count(),
        "threads": 1,
        "page_cache": "warm",
        "native_gather": gather.status(),
        "versions": {module.__name__: module.__version__ for module in (np, torch, zarr, h5py, safetensors)},
    }


# --- random batches


def dense(folder: Path, rows: int, shape: tuple[int, int], repeats: int) -> dict[str, dict[str, float]]:
    """One level of `shape` a row, through every reader."""
    folder.mkdir()
    values = random_rows(rows, shape)
    write_dense(folder / "ours.zarr", values)
    np.save(folder / "plain.npy", values)
    save_file({"x": values}, folder / "x.safetensors")
    with h5py.File(folder / "x.h5", "w") as file:
        file.create_dataset("x", data=values)
    with h5py.File(folder / "x.h5") as file, safetensors.safe_open(folder / "x.safetensors", "np") as tensors:
        dataset, part = file["x"], tensors.get_slice("x")

        def from_memmap() -> Fetch:
            memmap = np.load(folder / "plain.npy", mmap_mode="r")
            return lambda rows: [torch.from_numpy(memmap[rows])]

        def from_ours(**options: str) -> Callable[[], Fetch]:
            def make() -> Fetch:
                store = open_store(folder / "ours.zarr", **options)
                return lambda rows: [store.batch(rows, "frame")[0]]

            return make

        def from_zarr() -> Fetch:
            archive = zarr.open_group(folder / "ours.zarr", mode="r")["frame"]
            return lambda rows: [torch.from_numpy(archive.oindex[np.sort(rows)][in_order(rows), 0])]

        ways = {
            "numpy memmap": from_memmap,
            "mambavl": from_ours(),
            "mambavl, pure Python": without_native(from_ours()),
            'mambavl, verify="read"': from_ours(verify="read"),
            'mambavl, resident="ram"': from_ours(resident="ram"),
            "h5py": lambda: lambda rows: [torch.from_numpy(dataset[np.sort(rows)][in_order(rows)])],
            "safetensors": lambda: (
                lambda rows: [torch.from_numpy(np.concatenate([part[int(r) : int(r) + 1] for r in rows]))]
            ),
            "zarr-python": from_zarr,
        }
        return measure(ways, rows, values[0].nbytes, repeats, lambda rows: [torch.from_numpy(values[rows])])


def in_order(rows: np.ndarray) -> np.ndarray:
    """h5py and zarr want increasing indices; this puts what they return back into the order asked for."""
    return np.argsort(np.argsort(rows))


def without_native(make: Callable[[], Fetch]) -> Callable[[], Fetch]:
    """The same reader with its Python loops, as where no compiler was at hand."""

    def make_plain() -> Fetch:
        fetch = make()

        def plain(rows: np.ndarray) -> list[torch.Tensor]:
            natives = reader.gather_rows, reader.gather_tokens
            reader.gather_rows = lambda *a: natives[0](*a, native=False)
            reader.gather_tokens = lambda *a: natives[1](*a, native=False)
            try:
                return fetch(rows)
            finally:
                reader.gather_rows, reader.gather_tokens = natives

        return plain

    return make_plain


def ragged(folder: Path, rows: int, repeats: int) -> dict[str, dict[str, float]]:
    """Two questions a row of 3 to 40 tokens, each padded to the batch's longest, as a head wants them."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    lengths = {q: rng.integers(3, TEXT_LONGEST + 1, rows) for q in QUESTIONS}
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
    row_bytes = sum(tokens.nbytes for tokens in values.values()) / rows
    return measure(ways, rows, row_bytes, repeats, lambda rows: padded(rows, values))


class Batches(torch.utils.data.Dataset):
    """A way to read rows, behind a DataLoader that asks for a whole batch at once."""

    def __init__(self, fetch: Fetch) -> None:
        self.fetch = fetch

    def __getitems__(self, rows: list[int]) -> list[torch.Tensor]:
        return self.fetch(np.array(rows))


def by_loader(fetch: Fetch, batches: list[np.ndarray]) -> list[float]:
    """Seconds that a DataLoader takes for each batch."""
    sampler = [batch.tolist() for batch in batches]
    loader = iter(
        torch.utils.data.DataLoader(Batches(fetch), batch_sampler=sampler, collate_fn=lambda found: found)
    )
    times = []
    for _ in sampler:
        since = time.perf_counter()
        next(loader)
        times.append(time.perf_counter() - since)
    return times


def measure(
    ways: dict[str, Callable[[], Fetch]], rows: int, row_bytes: float, repeats: int, truth: Fetch
) -> dict[str, dict[str, float]]:
    """Median time of a batch, every way in turn on the same rows."""
    rng = np.random.default_rng(1)
    batches = [rng.choice(rows, BATCH, replace=False) for _ in range(repeats)]
    fetches, ram, times, loader_times = {}, {}, {}, {}
    for way, make in ways.items():
        gc.collect()
        before = private_bytes()
        fetches[way] = make()
        found = fetches[way](batches[0])
        ram[way] = private_bytes() - before
        if not all(
            torch.equal(a.reshape(-1), b.reshape(-1)) for a, b in zip(found, truth(batches[0]), strict=True)
        ):
            raise SystemExit(f"{way} returned other values")
        if way != "zarr-python":
            for first in range(0, rows, BATCH):  # touch every page once
                fetches[way](np.arange(first, min(first + BATCH, rows)))
        times[way] = []
    for turn in range(0, repeats, TURN):
        for number, (way, fetch) in enumerate(fetches.items()):
            if way == "zarr-python" and turn:
                continue
            for i in range(turn, min(turn + (ZARR_REPEATS if way == "zarr-python" else TURN), repeats)):
                # no two ways meet the same rows one after the other
                batch = batches[(i + number * TURN) % repeats]
                since = time.perf_counter()
                fetch(batch)
                times[way].append(time.perf_counter() - since)
    for way, fetch in fetches.items():
        loader_times[way] = by_loader(fetch, batches[: ZARR_REPEATS if way == "zarr-python" else repeats])
    medians = {way: statistics.median(values) for way, values in times.items()}
    return {
        way: {
            "milliseconds": round(seconds * 1e3, 3),
            "samples_per_second": round(BATCH / seconds, 1),
            "gigabytes_per_second": round(BATCH * row_bytes / seconds / 1e9, 3),
            "dataloader_milliseconds": round(statistics.median(loader_times[way]) * 1e3, 3),
            "ram_megabytes": round(ram[way] / 1e6, 1),
        }
        for way, seconds in medians.items()
    }


def private_bytes() -> int:
    """Memory of this process other than mapped files."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon"))) * 1024


# --- an epoch, and what safety costs


def epoch(folder: Path, rows: int) -> dict[str, float]:
    """Every row of EK100's training split once, in random order, and a memmap's the same; in turns, medians
    of five.
    """
    folder.mkdir()
    values = random_rows(rows, DENSE["16x768"])
    write_dense(folder / "ours.zarr", values)
    np.save(folder / "plain.npy", values)
    del values
    os.sync()  # or what was just written is still on its way to the disk
    memmap = np.load(folder / "plain.npy", mmap_mode="r")
    store = open_store(folder / "ours.zarr")
    order = np.random.default_rng(2).permutation(rows)
    batches = [order[first : first + BATCH] for first in range(0, rows, BATCH)]
    ways: dict[str, Fetch] = {
        "memmap": lambda batch: [torch.from_numpy(memmap[batch])],
        "ours": lambda batch: [store.batch(batch, "frame")[0]],
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(6):  # the first round maps the pages
        for way, fetch in ways.items():
            since = time.perf_counter()
            for batch in batches:
                fetch(batch)
            times[way].append(time.perf_counter() - since)
    ours, theirs = (statistics.median(times[way][1:]) for way in ("ours", "memmap"))
    return {
        "epoch_seconds": round(ours, 3),
        "epoch_vs_memmap": round(theirs / ours, 3),
        "first_epoch_vs_memmap": round(times["memmap"][0] / times["ours"][0], 3),
    }


def opening(folder: Path) -> dict[str, float]:
    """A finished store of 90,000 rows: the second opening and later ones, medians of five; then the list of
    its segments.
    """
    write_dense(folder, np.zeros((LARGE_STORE, 1, 64), np.float16))
    open_store(folder)
    times, listed = [], []
    for _ in range(5):
        since = time.perf_counter()
        store = open_store(folder)
        times.append(time.perf_counter() - since)
        len(store.segments)
        listed.append(time.perf_counter() - since)
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
    times: dict[str, list[float]] = {"verify": [], "sha256": []}
    for _ in range(3):
        since = time.perf_counter()
        if verify(path, deep=True):
            raise SystemExit(f"{path} is not sound")
        times["verify"].append(time.perf_counter() - since)
        since = time.perf_counter()
        for file in files:
            hashlib.sha256(file.read_bytes()).digest()
        times["sha256"].append(time.perf_counter() - since)
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
    for repeat in range(3):
        since = time.perf_counter()
        write_dense(folder / f"{repeat}.zarr", values)
        times["ours"].append(time.perf_counter() - since)
        since = time.perf_counter()
        write_plain(folder / f"{repeat}.plain", values)
        times["plain"].append(time.perf_counter() - since)
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
