"""Writes the golden runs: stores, finished runs of every head and an interrupted one, as this version of
mambavl leaves them. Run once for a new form of any of their files; never again.

    PYTHONPATH=tests python tests/data/make_golden_runs.py FOLDER

A later version of mambavl must score the finished ones the same, and finish the interrupted one.
"""

import contextlib
import os
import shutil
import sys
from pathlib import Path

from helpers.tiny import make_dense_store, make_text_store
from mambavl.cache import writer
from mambavl.configs import validate
from mambavl.configs.errors import Interrupted
from mambavl.fuse.recipe import Recipe
from mambavl.fuse.train import train

ROWS = 24
SMALL = {"d_model": 8, "video_mlp_layers": 1, "text_mlp_layers": 1}
MAMBAVL = {"head": {**SMALL, "dropout": 0.0}, "fusion": {"d_state": 2, "expand": 1}}
RECIPES = {
    "mambavl": MAMBAVL,
    "paper": {"head": {"d_model": 8}, "fusion": {"preset": "paper", "d_state": 2}},
    "mlp": {"head": {"name": "mlp", **SMALL, "dropout": 0.2}},
    "transformer": {
        "head": {"name": "transformer", **SMALL},
        "transformer": {"depth": 1, "num_heads": 2, "max_positions": 12},
    },
    "interrupted": MAMBAVL,
}


def recipe_of(name: str) -> Recipe:
    streams = {"video": {"store": "stores/video.zarr", "level": "frame"}}
    for question in ("verb_question", "noun_question"):
        streams[question] = {"store": "stores/text.zarr", "level": f"{question}/last_hidden"}
    settings = {"epochs": 2, "batch_size": 4, "lr": 1e-2, "warmup_epochs": 1}
    if "fusion" in RECIPES[name]:
        settings["lr_ssm"] = 1e-2
    data = {"title": name, "streams": streams, "train": settings, "data": {"allow_missing": 1}}
    return validate({**data, **RECIPES[name]}, Recipe, name)


def main(folder: Path) -> None:
    writer.socket.gethostname = lambda: "golden"  # part of the journals' names
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "stores").mkdir(parents=True)
    os.chdir(folder)
    # a row of validation without video, and one whose window is empty
    make_dense_store(
        Path("stores/video.zarr"), ROWS, group_rows=16, width=3, steps=2, views=2, failed={7: 3, 20: 2}
    )
    make_text_store(Path("stores/text.zarr"), ROWS, group_rows=16, width=3)
    for name in RECIPES:
        updates = iter(range(99))
        stops = 4 if name == "interrupted" else 98  # in the second of two epochs of three updates
        with contextlib.suppress(Interrupted):
            train(recipe_of(name), Path("runs") / name, should_stop=lambda: next(updates) >= stops)  # noqa: B023
    for file in Path().rglob("*"):
        if file.is_file():
            file.chmod(0o644)
        if file.name.startswith("lock"):
            file.unlink()
        elif file.suffix == ".json":  # streams.json and result.json name stores by absolute paths
            file.write_text(file.read_text().replace(f"{folder}/", ""))


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
