"""`python kill_loop.py DATASET FOLDER KILLS SEED`: extractions killed at random moments, each store finished
by another process.

All children are forks of this process, which has imported everything and has no threads: a trial costs a
fraction of a second. The last line is JSON: how many writers were killed, in how many stores, and what went
wrong.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

from helpers.dataset import barcode_record
from helpers.jobs import run, tree
from mambavl.extract.encoders import registry

registry.ENCODERS["barcode"] = barcode_record()


def extraction(data: Path, out: Path) -> int:
    """A child that extracts; its pid."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            run(data, out, rows_per_group=1)
            code = 0
        finally:
            os._exit(code)
    return child


def main(data: Path, folder: Path, kills: int, seed: int) -> dict:
    since = time.monotonic()
    os.waitpid(extraction(data, folder / "whole.zarr"), 0)
    seconds, expected = time.monotonic() - since, tree(folder / "whole.zarr")
    moments, killed, stores, wrong = random.Random(seed), 0, 0, []
    while killed < kills and stores < 10 * kills:
        out = folder / f"{stores}.zarr"
        stores += 1
        for _ in range(moments.randint(1, 3)):
            child = extraction(data, out)
            time.sleep(moments.uniform(0, seconds))
            os.kill(child, signal.SIGKILL)
            killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        code = os.waitstatus_to_exitcode(os.waitpid(extraction(data, out), 0)[1])
        if code or tree(out) != expected:
            wrong.append(
                f"{out.name}: ended with {code}, {'same' if not code and tree(out) == expected else 'other'} bytes"
            )
        shutil.rmtree(out)
    return {"killed": killed, "stores": stores, "wrong": wrong}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))))
