"""Finished runs whose scores are made up, so that it is known who is right where."""

import json
import shutil
from pathlib import Path

import numpy as np

from mambavl.fuse.run import read_scores
from mambavl.fuse.summary import Summary, write_summary


def write_run(run: Path, like: Path, right: np.ndarray, *, seed: int, lr: float = 1e-2) -> Path:
    """A copy of a run in which `right` (N,) says of which rows the labels are the best of all targets; else
    they are the last. seed, lr: as its recipe and its result have them.
    """
    shutil.copytree(like, run)
    for name in ("recipe.toml", "result.json"):
        raw = (run / name).read_text()
        if name.endswith("json"):
            result = json.loads(raw)
            result["seed"] = seed
            result["recipe"]["train"] |= {"seed": seed, "lr": lr}
            raw = json.dumps(result)
        else:
            raw = raw.replace("\nseed = 0\n", f"\nseed = {seed}\n").replace("\nlr = 0.01\n", f"\nlr = {lr}\n")
        (run / name).write_text(raw)
    write_right(run, right, seed)
    return run


def write_right(run: Path, right: np.ndarray, seed: int = 0) -> None:
    """Its scores: noise, and the labels at the top or at the bottom."""
    arrays = read_scores(run, "validation")
    pairs = {tuple(pair): column for column, pair in enumerate(arrays["pairs"].tolist())}
    both = zip(arrays["verb_label"].tolist(), arrays["noun_label"].tolist(), strict=True)
    columns = {name: arrays[f"{name}_label"] for name in ("verb", "noun")}
    columns["action"] = np.array([pairs.get(pair, -1) for pair in both])
    noise = np.random.default_rng(seed)
    for name, column in columns.items():
        scores = noise.uniform(-5, -4, arrays[name].shape).astype(np.float32)
        rows = np.flatnonzero(column >= 0)
        scores[rows, column[rows]] = np.where(right[rows], -1, -9)
        arrays[name] = scores
    np.savez(run / "scores" / "validation.npz", **arrays)


def make_sweep(folder: Path, like: Path, share: dict[float, float], seeds: int = 6) -> Path:
    """A sweep's folder: for each lr the share of rows that its runs have right, each a run a seed. Which rows
    they are is drawn anew for each run.
    """
    rows = len(read_scores(like, "validation")["narration_id"])
    for lr, part in share.items():
        for seed in range(seeds):
            right = np.random.default_rng([seed, int(1e6 * lr)]).random(rows) < part
            write_run(folder / f"lr={lr},seed={seed}", like, right, seed=seed, lr=lr)
    write_summary(folder, Summary(points=[], chosen=[], selection=None))
    return folder
