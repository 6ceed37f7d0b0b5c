"""The same rows kept by other programs, for loading.py.

A `Way` writes rows (rows, *shape) float16 to a path of its own, and opens them for reading in any order. Each
is the way that its documentation has for random batches, in the setting that we found to be the fastest:

    h5py           a data set without chunks; it wants increasing indices
    safetensors    a slice a row
    LMDB           a value a row under its number, read within one transaction for a batch
    datasets       Hugging Face's, Arrow files saved with save_to_disk and mapped by load_from_disk. As torch:
                   a column Array2D with_format("torch"), a whole batch by a list of rows. As bytes: a
                   binary column with_format("arrow"), put together here
    Parquet        pyarrow; uncompressed, a row a binary value of fixed length. A random row costs the row
                   group that it lies in, so each row is a group: groups of eight took 7 times as long, and
                   lists of numbers in place of bytes 3 times
    Lance          a binary column of fixed length, read by `take`. It reads with threads of its own, and must
                   not be forked
    WebDataset     tar files, which are read in sequence: no row can be asked for. An epoch has its shards in
                   random order and its rows through a buffer that is shuffled (`epoch_of_tars`)

Memory of Arrow's that nobody may write to is handed on as it is, without a copy. What is not installed is
left out: `missing` says what installs it.
"""

import importlib.util
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import safetensors
import torch
from safetensors.numpy import save_file
from torch import Tensor

SHUFFLED = 1_000  # rows in WebDataset's buffer, as its documentation has it
ROWS_A_TAR = 1_000

Read = Callable[[np.ndarray], Tensor]  # rows (B,) -> (B, *shape) float16


@dataclass(frozen=True)
class Way:
    """`packages`: what is imported, and the name by which pip installs it."""

    packages: dict[str, str]
    write: Callable[[Path, np.ndarray], None]
    open: Callable[[Path, tuple[int, ...]], Read]

    def missing(self) -> str:
        return missing(self.packages)


def missing(packages: dict[str, str]) -> str:
    """`pip install ...` for those that cannot be imported; empty where all can."""
    absent = [pip for name, pip in packages.items() if importlib.util.find_spec(name) is None]
    return f"pip install {' '.join(absent)}" if absent else ""


def in_order(rows: np.ndarray) -> np.ndarray:
    """Of a program that wants increasing indices: what puts its rows back into the order asked for."""
    return np.argsort(np.argsort(rows))


# --- in any order


def write_h5py(path: Path, values: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=values)


def open_h5py(path: Path, shape: tuple[int, ...]) -> Read:
    dataset = h5py.File(path)["x"]
    return lambda rows: torch.from_numpy(dataset[np.sort(rows)][in_order(rows)])


def write_safetensors(path: Path, values: np.ndarray) -> None:
    save_file({"x": values}, path)


def open_safetensors(path: Path, shape: tuple[int, ...]) -> Read:
    part = safetensors.safe_open(path, "np").get_slice("x")
    return lambda rows: torch.from_numpy(np.concatenate([part[row : row + 1] for row in rows.tolist()]))


def write_lmdb(path: Path, values: np.ndarray) -> None:
    import lmdb

    with lmdb.open(str(path), map_size=2 * values.nbytes + 2**24) as found, found.begin(write=True) as batch:
        for row, value in enumerate(values):
            batch.put(row.to_bytes(8, "big"), value.tobytes(), append=True)


def open_lmdb(path: Path, shape: tuple[int, ...]) -> Read:
    import lmdb

    found = lmdb.open(str(path), readonly=True, lock=False, readahead=False)

    def read(rows: np.ndarray) -> Tensor:
        out = np.empty((len(rows), math.prod(shape)), np.float16)
        with found.begin(buffers=True) as batch:
            for place, row in enumerate(rows.tolist()):
                out[place] = np.frombuffer(batch.get(row.to_bytes(8, "big")), np.float16)
        return torch.from_numpy(out.reshape(-1, *shape))

    return read


def write_datasets(path: Path, values: np.ndarray) -> None:
    import datasets

    _save(path, values, datasets.Array2D(values.shape[1:], "float16"))


def write_datasets_bytes(path: Path, values: np.ndarray) -> None:
    import datasets

    _save(path, [value.tobytes() for value in values], datasets.Value("binary"))


def _save(path: Path, column: Any, feature: Any) -> None:
    import datasets

    datasets.disable_progress_bars()
    features = datasets.Features({"x": feature})
    datasets.Dataset.from_dict({"x": column}, features=features).save_to_disk(path)


def open_datasets(path: Path, shape: tuple[int, ...]) -> Read:
    import datasets

    found = datasets.load_from_disk(path).with_format("torch", dtype=torch.float16)
    return lambda rows: found[rows.tolist()]["x"]


def open_datasets_bytes(path: Path, shape: tuple[int, ...]) -> Read:
    import datasets

    found = datasets.load_from_disk(path).with_format("arrow")

    def read(rows: np.ndarray) -> Tensor:
        parts = [np.frombuffer(one.as_buffer(), np.float16) for one in found[rows.tolist()]["x"]]
        return torch.from_numpy(np.concatenate(parts).reshape(-1, *shape))

    return read


def write_parquet(path: Path, values: np.ndarray) -> None:
    from pyarrow import parquet

    parquet.write_table(
        _table(values),
        path,
        row_group_size=1,
        compression="none",
        use_dictionary=False,
        write_statistics=False,
    )


def open_parquet(path: Path, shape: tuple[int, ...]) -> Read:
    from pyarrow import parquet

    found = parquet.ParquetFile(path, memory_map=True)
    return lambda rows: _of_arrow(found.read_row_groups(rows.tolist(), use_threads=False)["x"], shape)


def write_lance(path: Path, values: np.ndarray) -> None:
    import lance

    lance.write_dataset(_table(values), path)


def open_lance(path: Path, shape: tuple[int, ...]) -> Read:
    import lance

    found = lance.dataset(path)
    return lambda rows: _of_arrow(found.take(rows, columns=["x"])["x"], shape)


def _table(values: np.ndarray) -> Any:
    import pyarrow

    kind = pyarrow.binary(values[0].nbytes)
    rows = pyarrow.FixedSizeBinaryArray.from_buffers(kind, len(values), [None, pyarrow.py_buffer(values)])
    return pyarrow.table({"x": rows})


def _of_arrow(column: Any, shape: tuple[int, ...]) -> Tensor:
    """Rows of fixed length as a tensor, without a copy where they lie in one piece."""
    whole, size = column.combine_chunks(), math.prod(shape)
    numbers = np.frombuffer(whole.buffers()[1], np.float16)[whole.offset * size :][: len(whole) * size]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(numbers.reshape(-1, *shape))


WAYS = {
    "h5py": Way({"h5py": "h5py"}, write_h5py, open_h5py),
    "safetensors": Way({"safetensors": "safetensors"}, write_safetensors, open_safetensors),
    "LMDB": Way({"lmdb": "lmdb"}, write_lmdb, open_lmdb),
    "datasets, torch": Way({"datasets": "datasets"}, write_datasets, open_datasets),
    "datasets, bytes": Way({"datasets": "datasets"}, write_datasets_bytes, open_datasets_bytes),
    "Parquet": Way({"pyarrow": "pyarrow"}, write_parquet, open_parquet),
    "Lance": Way({"lance": "pylance", "pyarrow": "pyarrow"}, write_lance, open_lance),
}


# --- in sequence


def write_tars(path: Path, values: np.ndarray) -> None:
    import webdataset

    path.mkdir()
    with webdataset.ShardWriter(str(path / "%05d.tar"), maxcount=ROWS_A_TAR, verbose=0) as tars:
        for row, value in enumerate(values):
            tars.write({"__key__": f"{row:08d}", "bin": value.tobytes()})


def epoch_of_tars(
    path: Path, shape: tuple[int, ...], batch: int
) -> Callable[[], Iterator[tuple[list[str], Tensor]]]:
    """An epoch, each in another order: of each batch the rows' names and (batch, *shape) float16."""
    import webdataset

    tars = sorted(map(str, path.glob("*.tar")))
    # without detshuffle the shards would have the same order in every epoch
    found = (
        webdataset.WebDataset(tars, shardshuffle=len(tars), detshuffle=True, empty_check=False)
        .shuffle(SHUFFLED)
        .to_tuple("__key__", "bin")
        .batched(batch, collation_fn=None)
    )

    def epoch() -> Iterator[tuple[list[str], Tensor]]:
        for rows in found:
            names = [name for name, _ in rows]
            numbers = np.frombuffer(bytearray().join(value for _, value in rows), np.float16)
            yield names, torch.from_numpy(numbers.reshape(-1, *shape))

    return epoch
