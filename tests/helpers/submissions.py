"""EK100's challenge files, good ones to spoil; and runs of EK100's classes that can be submitted."""

import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from helpers.tiny import make_dense_store, make_segments
from mambavl.cache.classes import verb_noun_classes
from mambavl.configs import validate
from mambavl.fuse.evaluate import evaluate_run
from mambavl.fuse.recipe import Recipe
from mambavl.fuse.train import train

IDS = ("P01_11_0", "P01_11_1", "P22_107_38")
LEVELS = {"sls_pt": 2, "sls_tl": 3, "sls_td": 3}
CLASSES = verb_noun_classes(
    {number: f"v{number}" for number in range(97)}, {number: f"n{number}" for number in range(300)}
)
SAMPLING = {"task": "recognition", "rule": "segment_uniform", "frames": 4, "views": 1}


def submission(*, actions: bool = False, challenge: str = "action_recognition") -> dict[str, Any]:
    """A good one, of the rows IDS."""
    rng = np.random.default_rng(0)
    results: dict[str, Any] = {}
    for name in IDS:
        row = {
            part: {str(number): float(score) for number, score in enumerate(rng.normal(size=count))}
            for part, count in (("verb", 97), ("noun", 300))
        }
        if actions:
            pairs = rng.permutation(97 * 300)[:100]
            row["action"] = {f"{pair // 300},{pair % 300}": -float(place) for place, pair in enumerate(pairs)}
        results[name] = row
    return {"version": "0.2", "challenge": challenge, **LEVELS, "results": results}


def zipped(text: str | bytes, *names: str) -> bytes:
    """A zip whose members all hold the text. names: default test.json alone."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for name in names or ("test.json",):
            file.writestr(name, text)
    return packed.getvalue()


def written(path: Path, found: dict[str, Any] | str | bytes) -> Path:
    """A submission as a file: a dict as JSON, in a zip where the path says so; text and bytes as they are."""
    if isinstance(found, dict):
        found = json.dumps(found)
        found = zipped(found) if path.suffix == ".zip" else found
    path.write_bytes(found.encode() if isinstance(found, str) else found)
    return path


def make_submittable(folder: Path) -> Path:
    """`video.zarr` of 160 rows a split; runs `product` and `pairs` (that ranks pairs itself), scored on
    validation and on test.
    """
    rng = np.random.default_rng(1)
    rows = tuple(
        replace(row, labels={"verb": int(rng.integers(97)), "noun": int(rng.integers(300))})
        for row in make_segments(480, ("train", "validation", "test"))
    )
    features = rng.normal(size=(480, 1, 4, 6)).astype(np.float32)
    made = {
        "encoder": {"name": "fake", "state": "random", "sha256": "0" * 64, "width": 6},
        "sampling": SAMPLING,
    }
    make_dense_store(
        folder / "video.zarr", 480, recipe=made, segments=rows, classes=CLASSES, features=features
    )
    for name, targets in (("product", {}), ("pairs", {"action": {"ranked_by": "pairs"}})):
        raw = {
            "title": name,
            "streams": {"video": {"store": str(folder / "video.zarr")}},
            "head": {"name": "mlp", "d_model": 8},
            "targets": targets,
            "train": {"epochs": 1, "batch_size": 32, "lr": 0.1, "warmup_epochs": 0},
        }
        train(validate(raw, Recipe, "made.toml"), folder / name)
        evaluate_run(folder / name, split="test")
    return folder
