"""How fast do random training batches come out of a feature store, beside other ways to keep the same rows?

    python benchmarks/loading.py [--rows 20000] [--repeats 30] [--out benchmarks/results/loading.json]

128 random rows a batch, float16, everything in the page cache, one process, one thread. Our reader memory-maps the shard
files of the Zarr archive; numpy's memmap of one contiguous array is the limit; h5py, safetensors and zarr-python's own
indexing read the same values. Every way's first batch is checked against the rows themselves. Ways take turns, repeat by
repeat, so that noise from elsewhere on the machine meets all of them; medians are reported. The last line is JSON:
`gather_vs_memmap` and `gather_vs_zarr` are speed ratios for 16 x 768 (above 1: ours is faster).
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import h5py
import numpy as np
import safetensors
import torch
import zarr
from rich.console import Console
from rich.table import Table
from safetensors.numpy import save_file

from mambavl.cache import FeatureStore, open_store, schema
from mambavl.cache.schema import Classes, Level, Segment
from mambavl.cache.store import RowGroup, StoreWriter

BATCH = 128
DENSE = {"16x768": (16, 768), "5x1024": (5, 1024)}
TEXT_WIDTH, TEXT_LONGEST = 768, 40
SHOWN = ("milliseconds", "samples_per_second", "gigabytes_per_second")
ZARR_REPEATS = 3  # it takes most of the time

Fetch = Callable[[np.ndarray], torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--out", type=Path, help="also write the figures there, as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, shape in DENSE.items():
            figures[name] = dense(Path(folder) / name, arguments.rows, shape, arguments.repeats)
        figures["text 2x<=40x768"] = ragged(Path(folder) / "text", arguments.rows, arguments.repeats)
    title = f"random batches of {BATCH} from {arguments.rows:,} rows"
    table = Table("rows", "reader", "ms a batch", "samples/s", "GB/s", title=title)
    for name, ways in figures.items():
        for way, measured in ways.items():
            table.add_row(name, way, *(f"{measured[key]:,.2f}" for key in SHOWN))
    Console(width=110).print(table)
    ours = figures["16x768"]["mambavl"]["milliseconds"]
    last = {
        "gather_vs_memmap": round(figures["16x768"]["numpy memmap"]["milliseconds"] / ours, 3),
        "gather_vs_zarr": round(figures["16x768"]["zarr-python"]["milliseconds"] / ours, 1),
    }
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps({"conditions": conditions(arguments), "figures": figures, **last}, indent=1) + "\n")
    print(json.dumps(last))


def conditions(arguments: argparse.Namespace) -> dict[str, object]:
    return {
        "rows": arguments.rows,
        "repeats": arguments.repeats,
        "cores": os.cpu_count(),
        "threads": 1,
        "page_cache": "warm",
        "versions": {module.__name__: module.__version__ for module in (np, torch, zarr, h5py, safetensors)},
    }


def dense(folder: Path, rows: int, shape: tuple[int, int], repeats: int) -> dict[str, dict[str, float]]:
    """One level of `shape` a row, through every reader."""
    folder.mkdir()
    values = np.random.default_rng(0).standard_normal((rows, *shape), np.float32).astype(np.float16)
    store = write_dense(folder / "ours.zarr", values)
    np.save(folder / "plain.npy", values)
    save_file({"x": values}, folder / "x.safetensors")
    with h5py.File(folder / "x.h5", "w") as file:
        file.create_dataset("x", data=values)
    memmap = np.load(folder / "plain.npy", mmap_mode="r")
    archive = zarr.open_group(store.path, mode="r")["frame"]
    with h5py.File(folder / "x.h5") as file, safetensors.safe_open(folder / "x.safetensors", "np") as tensors:
        dataset, part = file["x"], tensors.get_slice("x")
        loader = Rows(store)
        ways: dict[str, Fetch] = {
            "numpy memmap": lambda rows: torch.from_numpy(memmap[rows]),
            "mambavl": lambda rows: store.batch(rows, "frame")[0],
            "mambavl, DataLoader": lambda rows: next(iter(torch.utils.data.DataLoader(loader, batch_sampler=[rows.tolist()]))),
            "h5py": lambda rows: h5py_rows(dataset, rows),
            "safetensors": lambda rows: torch.from_numpy(np.concatenate([part[int(row) : int(row) + 1] for row in rows])),
            "zarr-python": lambda rows: torch.from_numpy(archive.oindex[np.sort(rows)][np.argsort(np.argsort(rows)), 0]),
        }
        return measure(ways, rows, values[0].nbytes, repeats, lambda rows: torch.from_numpy(values[rows]))


def h5py_rows(dataset: h5py.Dataset, rows: np.ndarray) -> torch.Tensor:
    """h5py wants increasing indices."""
    return torch.from_numpy(dataset[np.sort(rows)][np.argsort(np.argsort(rows))])


class Rows(torch.utils.data.Dataset):
    """Our reader behind a DataLoader that fetches whole batches."""

    def __init__(self, store: FeatureStore) -> None:
        self.store = store

    def __len__(self) -> int:
        return len(self.store)

    def __getitems__(self, rows: list[int]) -> list[torch.Tensor]:
        return list(self.store.batch(np.array(rows), "frame")[0])


def ragged(folder: Path, rows: int, repeats: int) -> dict[str, dict[str, float]]:
    """Two questions a row of 3 to 40 tokens, padded to the batch's longest."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    lengths = {q: rng.integers(3, TEXT_LONGEST + 1, rows) for q in ("verb_question", "noun_question")}
    values = {q: rng.standard_normal((n.sum(), TEXT_WIDTH), np.float32).astype(np.float16) for q, n in lengths.items()}
    store = write_ragged(folder / "ours.zarr", values, lengths)
    starts = {q: np.cumsum(n) - n for q, n in lengths.items()}
    for question, tokens in values.items():
        np.save(folder / f"{question}.npy", tokens)
    memmaps = {q: np.load(folder / f"{q}.npy", mmap_mode="r") for q in values}

    def by_offsets(rows: np.ndarray, source: dict[str, np.ndarray]) -> torch.Tensor:
        out = np.zeros((2, len(rows), TEXT_LONGEST, TEXT_WIDTH), np.float16)
        for q, question in enumerate(source):
            for i, row in enumerate(rows):
                first, length = starts[question][row], lengths[question][row]
                out[q, i, :length] = source[question][first : first + length]
        return torch.from_numpy(out)

    def ours(rows: np.ndarray) -> torch.Tensor:
        found = [store.batch(rows, f"{question}/last_hidden")[0] for question in values]
        return torch.stack([torch.nn.functional.pad(t, (0, 0, 0, TEXT_LONGEST - t.shape[1])) for t in found])

    ways = {"numpy memmap": lambda rows: by_offsets(rows, memmaps), "mambavl": ours}
    mean_bytes = sum(tokens.nbytes for tokens in values.values()) / rows
    return measure(ways, rows, mean_bytes, repeats, lambda rows: by_offsets(rows, values))


def measure(ways: dict[str, Fetch], rows: int, row_bytes: float, repeats: int, truth: Fetch) -> dict[str, dict[str, float]]:
    """Median time of a batch, every way in turn on the same rows."""
    rng = np.random.default_rng(1)
    times: dict[str, list[float]] = {way: [] for way in ways}
    for repeat in range(repeats + 1):  # the first round warms up and is checked, not timed
        batch = rng.choice(rows, BATCH, replace=False)
        for way, fetch in ways.items():
            if way == "zarr-python" and repeat > ZARR_REPEATS:
                continue
            since = time.perf_counter()
            found = fetch(batch)
            times[way].append(time.perf_counter() - since)
            if repeat == 0 and not torch.equal(found.reshape(-1), truth(batch).reshape(-1)):
                raise SystemExit(f"{way} returned other values")
    medians = {way: statistics.median(values[1:]) for way, values in times.items()}
    return {
        way: {
            "milliseconds": round(seconds * 1e3, 3),
            "samples_per_second": round(BATCH / seconds, 1),
            "gigabytes_per_second": round(BATCH * row_bytes / seconds / 1e9, 3),
        }
        for way, seconds in medians.items()
    }


def segments(rows: int) -> tuple[Segment, ...]:
    return tuple(Segment(f"V_{i:06d}", "P01", "V", "", float(i), i + 1.0, 1, 2, "train") for i in range(rows))


CLASSES = Classes({0: "verb"}, {0: "noun"}, 1, 1, (), (), ())


def write_dense(path: Path, values: np.ndarray) -> FeatureStore:
    level = Level("frame", "dense", (1, *values.shape[1:]), "float16", steps=values.shape[1])
    spec = {"kind": "video", "recipe": {}, "inputs": {}, "levels": [level.to_dict()], "frame_pts": []}
    writer = StoreWriter(
        path, {**spec, "rows_per_group": schema.rows_per_group(level.chunk_bytes)}, segments(len(values)), CLASSES, {}
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
        capacity = -(-largest // schema.TOKEN_CHUNK) * schema.TOKEN_CHUNK
        levels.append(Level(f"{question}/last_hidden", "ragged", (TEXT_WIDTH,), "float16", capacity=capacity))
    spec = {"kind": "text", "recipe": {}, "inputs": {}, "levels": [level.to_dict() for level in levels], "frame_pts": []}
    writer = StoreWriter(path, {**spec, "rows_per_group": group_rows}, segments(rows), CLASSES, {})
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
    return RowGroup(levels, lengths, np.full(count, schema.OK, np.uint8), np.zeros(count, np.uint8))


if __name__ == "__main__":
    main()
