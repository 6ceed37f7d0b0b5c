"""Do the worker processes of a DataLoader over a store go on for a thousand epochs, without a hang, without a
wrong row, and without anything that grows?

    python benchmarks/workers.py START FOLDER [--epochs 1000] [--anew 200] [--patience 120] [--out FILE]

loading.py runs this for each START: fork, forkserver (which has torch loaded before it forks) and spawn.
FOLDER holds ours.zarr and the same rows as plain.npy. Two workers read whole batches in an order that is
drawn for each epoch; this process compares every row with plain.npy, and sees that each came once. First, the
same two workers for --epochs; then two that are started anew for each of --anew epochs.

Open file descriptors and memory are those of all processes of the run together, the server of forkserver
included, after the first tenth of the epochs and after the last. Memory is what only they hold, and of pages
that several share each its part (Pss_Anon and Pss_Shmem), as Linux keeps it.

An epoch that takes longer than --patience seconds is a hang: where Python stands is printed, and the run
ends. The last line is JSON.
"""

import contextlib
import faulthandler
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Harness, options
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mambavl.cache import FeatureStore, open_store

STARTS = ("fork", "forkserver", "spawn")
WORKERS, BATCH, PATIENCE = 2, 64, 120


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("start", choices=STARTS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=1000, help="by the same workers")
    parser.add_argument("--anew", type=int, default=200, help="by workers that are started for each")
    parser.add_argument("--patience", type=int, default=PATIENCE, help="seconds that an epoch may take")
    arguments = parser.parse_args()
    harness = Harness(arguments, "torch")
    faulthandler.register(signal.SIGALRM, all_threads=True, chain=True)  # then ends, as SIGALRM does
    torch.set_num_threads(1)
    multiprocessing.set_forkserver_preload(["torch", "mambavl.cache"])
    rows, truth = Rows(arguments.folder / "ours.zarr"), np.load(arguments.folder / "plain.npy")
    found = {
        kind: run(rows, torch.from_numpy(truth), arguments.start, epochs, kind == "same", arguments.patience)
        for kind, epochs in (("same", arguments.epochs), ("anew", arguments.anew))
    }
    harness.end(found, found)


class Rows(Dataset):
    """Rows of a store, a whole batch at once, with their numbers."""

    def __init__(self, path: Path) -> None:
        self.store: FeatureStore = open_store(path)

    def __len__(self) -> int:
        return len(self.store)

    def __getitems__(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        return torch.tensor(rows), self.store.batch(rows, "frame")[0]


def as_it_is(batch: Any) -> Any:
    return batch


def run(rows: Rows, truth: Tensor, start: str, epochs: int, same: bool, patience: int) -> dict[str, Any]:
    """So many epochs: seconds, rows that came wrong, twice or not at all, and what was held."""
    loader = DataLoader(
        rows,
        BATCH,
        shuffle=True,
        num_workers=WORKERS,
        multiprocessing_context=start,
        persistent_workers=same,
        collate_fn=as_it_is,
    )
    done, wrong, before, since = 0, 0, held(), time.perf_counter()
    for _ in range(epochs):
        signal.alarm(patience)
        wrong += epoch_of(loader, truth)
        done += 1
        if done == max(1, epochs // 10):
            before = held()
    signal.alarm(0)
    seconds, after = time.perf_counter() - since, held()
    grown = {key: [before[key], after[key]] for key in after}
    return {"epochs": done, "wrong": wrong, "seconds": round(seconds, 2), **grown}


def epoch_of(loader: DataLoader, truth: Tensor) -> int:
    """Rows of an epoch that were wrong, or did not come just once."""
    wrong, came = 0, torch.zeros(len(truth), dtype=torch.int64)
    for rows, tokens in loader:
        wrong += int((tokens != truth[rows]).flatten(1).any(1).sum())
        came += torch.bincount(rows, minlength=len(truth))
    return wrong + int((came != 1).sum())


def held() -> dict[str, float]:
    """Open file descriptors and megabytes of all processes of this session."""
    descriptors, kilobytes = 0, 0
    for process in Path("/proc").glob("[0-9]*"):
        # another's, or one that ends just now
        with contextlib.suppress(ProcessLookupError, PermissionError, FileNotFoundError):
            if os.getsid(int(process.name)) == os.getsid(0):
                descriptors += len(os.listdir(process / "fd"))
                for line in (process / "smaps_rollup").read_text().splitlines():
                    if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                        kilobytes += int(line.split()[1])
    return {"descriptors": descriptors, "megabytes": round(1024 * kilobytes / 1e6, 1)}


# --- from outside


def endure(folder: Path, start: str, epochs: int, anew: int, patience: int = PATIENCE) -> dict[str, Any]:
    """What this program finds, in a session of its own. Raises SystemExit for a hang and for wrong rows."""
    options = ["--epochs", epochs, "--anew", anew, "--patience", patience]
    found = watched(
        [sys.executable, __file__, start, folder, *options], f"workers started by {start}", patience
    )
    for kind, one in found.items():
        if one["wrong"]:
            raise SystemExit(f"workers started by {start}, {kind}: {one['wrong']:,} rows were wrong or lost")
    return found


def watched(command: list[object], what: str, patience: int) -> Any:
    """The last line of a program that ends itself by SIGALRM after so many seconds without an epoch. No
    process of it outlives this call: a worker that hangs does not see that the others are gone.
    """
    with subprocess.Popen(
        [str(word) for word in command], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        said = process.stdout.read() if process.stdout else ""
    if process.returncode == -signal.SIGALRM:
        raise SystemExit(f"{what}: hung, an epoch did not end in {patience} s; where Python stood is above")
    if process.returncode:
        raise SystemExit(f"{what}: ended with {process.returncode}; the reason is above")
    return json.loads(said.splitlines()[-1])


if __name__ == "__main__":
    main()
